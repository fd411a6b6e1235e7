from .extraction import (
    make_clips as make_clips,
    make_models as make_models,
    measure_efficiency as measure_efficiency,
    measure_memory as measure_memory,
    time_calls as time_calls,
)
from .protocols import (
    Source as Source,
    compare_protocols as compare_protocols,
    measure_epoch as measure_epoch,
    measure_scaling as measure_scaling,
    measure_search as measure_search,
    measure_stacking as measure_stacking,
)
