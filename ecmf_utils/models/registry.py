"""Every model by its name: `make_model`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ecmf_utils.files import EcmfError, read_json, show

from . import networks, sequence_networks
from .checkpoints import INFO
from .classifier import TorchClassifier, check_kinds, check_ranges, read_defaults
from .ecmf import Ecmf
from .linear_fusion import LateFusion, LogisticRegression, Majority, StackedFusion

# rate, batch and epochs of the official toolkit, which has no schedule and picks the epoch on the held-out fold;
# with a patience of 8 instead of 20 TFN loses .05 and attention .015 on made-up vectors of five branches
FIELD: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-5, "batch_size": 32, "epochs": 100, "patience": 20}
# name: network, and the training settings that differ from the learner's defaults
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ecmf": (Ecmf, {"components": 256}),
    "concat": (networks.Concatenation, FIELD),
    "attention": (networks.OfficialAttention, FIELD),
    "lmf": (networks.LowRankFusion, FIELD),
    "tfn": (networks.TensorFusion, FIELD),
    "misa": (networks.Misa, FIELD),
    "mmim": (networks.InfoMax, FIELD),
    "experts": (networks.Experts, FIELD),
    "ef_lstm": (sequence_networks.EarlyLstm, FIELD),
    "mfn": (sequence_networks.MemoryFusion, FIELD),
    "graph_mfn": (sequence_networks.GraphMemoryFusion, FIELD),
    "mult": (sequence_networks.CrossModal, FIELD),
}
SEQUENTIAL = ("ef_lstm", "mfn", "graph_mfn", "mult")  # read frame-level sequences
LINEAR: dict[str, Callable[..., Any]] = {
    "majority": Majority, "logreg": LogisticRegression, "late": LateFusion, "stacked": StackedFusion,
}  # fmt: skip


def make_model(name: str, dims: dict[str, int], n_classes: int, **settings: Any) -> Any:
    """An untrained model by name.

    Parameters
    ----------
    name : str
        majority, logreg, late, stacked; concat, attention (the official toolkit's), lmf, tfn, misa, mmim,
        experts; for frame-level sequences ef_lstm, mfn, graph_mfn, mult; ecmf.
    dims : dict
        Branch to number of dimensions, in order.
    **settings
        Of the model, and of a network also those of its training (see `TorchClassifier`).

    Returns
    -------
    estimator
        `fit(features, targets (N, C), weights (N,), groups (N,), seed)`, `predict(features)` ->
        (probabilities (N, C), branch weights (N, B) or None), `save(folder)`, `load(folder)`.

    Raises
    ------
    EcmfError
        An unknown model or setting (the known ones are listed), or a value of another kind.
    """
    if name not in NETWORKS and name not in LINEAR:
        known = ", ".join(sorted({**NETWORKS, **LINEAR}))
        raise EcmfError(f"unknown model {name!r}: expected one of {known}")
    if not dims:
        raise EcmfError(f"model {name}: no branch to learn from; name at least one in `branches`")
    if name in LINEAR:
        check_kinds(f"model {name}", settings, read_defaults(LINEAR[name]))
        model = LINEAR[name](dims, n_classes, **settings)
    else:
        model = _network_model(name, dims, n_classes, settings)
    model.recipe = {
        "model": name,
        "branches": list(dims),
        "dims": dict(dims),
        "n_classes": n_classes,
        "settings": settings,
    }
    return model


def bind_model(name: str, dims: dict[str, int], n_classes: int, **settings: Any) -> Callable[[], Any]:
    """A function that makes untrained models of one kind; mistakes are told now, not in a fold.

    Parameters
    ----------
    name, dims, n_classes, **settings
        Those of `make_model`.

    Returns
    -------
    callable
        Without arguments, to an untrained estimator.

    Raises
    ------
    EcmfError
        An unknown model or setting, or a value of another kind.
    """
    make_model(name, dims, n_classes, **settings)
    return partial(make_model, name, dims, n_classes, **settings)


def load_model(folder: Path) -> Any:
    """The fitted model that `save` wrote into a folder."""
    if (Path(folder) / "model").exists():  # what a search chose lies inside it
        return load_model(Path(folder) / "model")
    recipe = read_json(Path(folder) / INFO, "50_train_fusion").get("recipe", {})
    try:
        dims = {branch: recipe["dims"][branch] for branch in recipe["branches"]}
        name, n_classes, settings = recipe["model"], recipe["n_classes"], dict(recipe["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise EcmfError(f"{show(Path(folder) / INFO)}: no recipe of a model; train it again") from error
    if str(settings.get("device", "")).startswith("cuda"):  # of the machine that it was trained on
        settings["device"] = "auto"
    model = make_model(name, dims, n_classes, **settings)
    model.recipe = recipe
    return model.load(folder)


def has_epochs(name: str) -> bool:
    """Whether a model is trained in epochs (and takes `epochs`)."""
    return name in NETWORKS


def is_random(name: str) -> bool:
    """Whether a model's predictions depend on the seed."""
    return name in NETWORKS or name == "stacked"  # its folds do


def _network_model(name: str, dims: dict[str, int], n_classes: int, settings: dict[str, Any]) -> Any:
    network, defaults = NETWORKS[name]
    own, training = read_defaults(network), read_defaults(TorchClassifier)
    check_kinds(f"model {name}", settings, own | training)
    parts = {key: value for key, value in settings.items() if key in own}
    sizes = {key: value for key, value in parts.items() if type(value) is int}
    shares = {key: value for key, value in parts.items() if key.endswith("dropout")}
    check_ranges(f"model {name}: ", at_least_1=sizes, below_1=shares)
    rest = defaults | {key: value for key, value in settings.items() if key not in own}
    if "auxiliary" in own and not rest.get("components", read_defaults(TorchClassifier)["components"]):
        parts["auxiliary"] = False  # heads are solved on principal axes: without them there are none
    return TorchClassifier(partial(network, n_classes=n_classes, **parts), dims, **rest)
