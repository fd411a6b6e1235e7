from .labels import measure_reliability as measure_reliability, refine as refine
