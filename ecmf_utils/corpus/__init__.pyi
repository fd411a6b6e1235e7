from .browser import browse_clips as browse_clips
from .building import build as build
from .exploration import (
    choose_clip as choose_clip,
    choose_unit as choose_unit,
    count_languages as count_languages,
    count_missing as count_missing,
    count_repeated as count_repeated,
    count_words as count_words,
    describe_splits as describe_splits,
    draw_clips as draw_clips,
    list_findings as list_findings,
    list_label_changes as list_label_changes,
    list_problems as list_problems,
    list_shared as list_shared,
    measure_clips as measure_clips,
    measure_sample as measure_sample,
    save_summary as save_summary,
)
from .leakage import summarise_leaks as summarise_leaks
from .manifest import (
    count_problems as count_problems,
    read_clips as read_clips,
    read_folds as read_folds,
    read_truth as read_truth,
)
