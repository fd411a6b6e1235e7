"""What is searched for each model: the settings its paper or the official toolkit varies."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import baselines
from .search import Searched, Space

# slower than 5e-4 costs hundreds of epochs on a few hundred clips
_TRAINING: Space = {"lr": (5e-4, 5e-3, "log"), "dropout": [0.2, 0.35, 0.5, 0.65]}
_FIELD: Space = _TRAINING | {"hidden": [32, 64, 128, 256]}
_STRENGTH: Space = {"strength": (1e-4, 1.0, "log")}
SPACES: dict[str, Space] = {
    "ecmf": {
        "lr": (2e-3, 1e-2, "log"), "width": [16, 32, 64], "dropout": [0.1, 0.3, 0.5],
        "input_dropout": [0.0, 0.3, 0.6], "branch_dropout": [0.0, 0.1, 0.3], "weight_decay": [0.1, 1.0, 3.0],
    },
    **dict.fromkeys(("logreg", "late", "stacked"), _STRENGTH),
    **dict.fromkeys(("concat", "attention", "misa", "mmim", "experts", "ef_lstm"), _FIELD),
    "lmf": _TRAINING | {"size": [32, 64, 128], "rank": [2, 4, 8]},
    "tfn": _TRAINING | {"hidden": [64, 128, 256]},
    **dict.fromkeys(("mfn", "graph_mfn"), _TRAINING | {"hidden": [16, 32, 64]}),
    "mult": _TRAINING | {"width": [16, 32, 40]},
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
        Fixed for every trial.
    """
    make = partial(baselines.make_model, name, dims, n_classes, **settings)
    space = {key: choices for key, choices in SPACES.get(name, {}).items() if key not in settings}
    trial = {"refit": False} if baselines.has_epochs(name) else {}  # half the cost, hardly another ranking
    return Searched(make, space, n_trials, seed=seed, trial=trial) if space else make()
