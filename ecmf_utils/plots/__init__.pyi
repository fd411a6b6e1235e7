from .clips import (
    clip_timeline as clip_timeline,
    contact_sheet as contact_sheet,
    contact_sheets as contact_sheets,
    waveform_spectrogram as waveform_spectrogram,
)
from .corpus import (
    by_label as by_label,
    class_balance as class_balance,
    distributions as distributions,
    files as files,
    groups as groups,
    speech as speech,
)
from .features import availability as availability, embedding as embedding
from .scores import (
    branch_weights as branch_weights,
    calibration as calibration,
    class_f1 as class_f1,
    confusion as confusion,
    curves as curves,
    label_distributions as label_distributions,
    noise as noise,
    official_curves as official_curves,
    refine_flow as refine_flow,
    scores_forest as scores_forest,
    subsets as subsets,
)
