from .comparison import (
    choose_split as choose_split,
    describe_run as describe_run,
    estimate_minutes as estimate_minutes,
    plan_runs as plan_runs,
    plan_single_branches as plan_single_branches,
    run_plan as run_plan,
    warn_of_leaks as warn_of_leaks,
)
from .differences import compare_paired as compare_paired, pair_runs as pair_runs
from .official import run_official as run_official
from .robustness import score_noise as score_noise, score_subsets as score_subsets
