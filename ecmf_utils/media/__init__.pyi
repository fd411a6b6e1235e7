from .faces import (
    detect_faces as detect_faces,
    make_face_recipe as make_face_recipe,
    read_crops as read_crops,
    read_face_recipe as read_face_recipe,
    read_faces as read_faces,
    summarise_faces as summarise_faces,
)
from .policy import (
    show_evenly as show_evenly,
    show_frame as show_frame,
    show_middle as show_middle,
    show_sound as show_sound,
    show_text as show_text,
    show_video as show_video,
)
from .problems import PROBLEMS as PROBLEMS
from .reading import (
    frame_times as frame_times,
    read_audio as read_audio,
    read_frames as read_frames,
)
from .sound import SAMPLE_RATE as SAMPLE_RATE
