"""What is searched for each model: what its paper or the official toolkit varies, where two cores allow it.

The toolkit draws learning rates of 1e-3 and 1e-4 and, for MulT, MFN and Graph-MFN, widths of 64 to 256: on a few
hundred clips the low rate costs hundreds of epochs, and those widths hours. Here rates start at 5e-4, MulT has widths
up to 40 and at most 3 layers, the memory networks widths from 32 to 128. The linear models (logistic regression, late
and stacked fusion) choose their one setting themselves, in inner group folds and for each branch, from the seven
values of `linear.STRENGTHS`: a search on top, with one value for all branches, could only make them weaker.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from . import baselines
from .search import Searched, Space

_RATE: Space = {"lr": (5e-4, 5e-3, "log")}
_DROPOUT: Space = {"dropout": [0.2, 0.3, 0.4, 0.5]}
_FIELD: Space = _RATE | _DROPOUT | {"hidden": [64, 128, 256]}
_MEMORY: Space = _RATE | {"dropout": [0.0, 0.3, 0.5, 0.7], "hidden": [32, 64, 128]}
_SMALL: Space = {"dropout": [0.0, 0.1, 0.2, 0.3]}
SPACES: dict[str, Space] = {
    "ecmf": {
        "lr": (2e-3, 1e-2, "log"), "width": [16, 32, 64], "dropout": [0.1, 0.3, 0.5],
        "input_dropout": [0.0, 0.3, 0.6], "branch_dropout": [0.0, 0.1, 0.3], "weight_decay": [0.1, 1.0, 3.0],
    },
    **dict.fromkeys(("concat", "attention", "experts", "ef_lstm"), _FIELD),
    "misa": _FIELD | {"similarity": [0.0, 0.1, 1.0], "difference": [0.0, 0.1, 0.3], "reconstruction": [0.0, 0.1, 1.0]},
    "mmim": _FIELD | _SMALL | {"between": [0.0, 0.01, 0.1], "fused": [0.0, 0.1, 0.2]},
    "lmf": _RATE | _DROPOUT | {"size": [32, 64, 128, 256], "rank": [3, 4, 5, 6]},
    "tfn": _RATE | _DROPOUT | {"hidden": [64, 128]},
    **dict.fromkeys(("mfn", "graph_mfn"), _MEMORY),
    "mult": _RATE | _SMALL | {"width": [16, 32, 40], "layers": [2, 3]},
}  # fmt: skip


def searched(name: str, dims: dict[str, int], n_classes: int, n_trials: int, seed: int = 0, **settings: Any) -> Any:
    """An untrained model that searches its settings inside `fit`; one without any is returned as it is.

    Parameters
    ----------
    n_trials : int
        Settings that are tried, the defaults first.
    seed : int
        Of the search; fits of other seeds use what it found.
    **settings
        The defaults, which the first trial and all that is not searched keep.
    """
    make = partial(baselines.make_model, name, dims, n_classes, **settings)
    space = SPACES.get(name, {})
    trial = {"refit": False} if baselines.has_epochs(name) else {}  # half the cost, hardly another ranking
    return Searched(make, space, n_trials, seed=seed, trial=trial) if space else make()
