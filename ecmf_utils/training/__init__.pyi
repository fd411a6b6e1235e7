from .cross_validation import load_run as load_run, predict_heads as predict_heads, predict_without as predict_without
from .prediction import (
    choose_input as choose_input,
    encode_clip as encode_clip,
    predict_clip as predict_clip,
    save_prediction as save_prediction,
)
from .problem import load_problem as load_problem
from .runs import (
    cluster_clips as cluster_clips,
    cross_validate as cross_validate,
    load_finished as load_finished,
    read_predictions as read_predictions,
    save_run as save_run,
    score_rows as score_rows,
)
