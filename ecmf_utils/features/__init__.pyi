from .branch_report import report as report
from .extraction import extract as extract
from .inputs import (
    distinct_texts as distinct_texts,
    read_audio as read_audio,
    read_face as read_face,
    read_scene as read_scene,
    read_text as read_text,
)
from .loading import (
    Features as Features,
    load as load,
    load_matrix as load_matrix,
    read_status as read_status,
    take_clips as take_clips,
)
from .published.exchange import import_features as import_features
from .store import read_selected as read_selected
