from .comparison import (
    compare_single as compare_single,
    estimate_minutes as estimate_minutes,
    plan_runs as plan_runs,
    rank_runs as rank_runs,
    run_plan as run_plan,
    save_scores as save_scores,
    warn_of_leaks as warn_of_leaks,
)
from .differences import compare_runs as compare_runs
from .error_report import report_errors as report_errors, save_worst as save_worst
from .official_report import report_official as report_official
from .robustness import report_robustness as report_robustness
from .run_report import report_run as report_run
