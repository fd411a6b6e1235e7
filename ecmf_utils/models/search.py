"""Nested search of settings: an estimator that chooses them inside `fit`, on the clips it is given and on no others.

Since it is an estimator like the models themselves, cross-validation hands it the training clips of an
outer fold only: what it tries is scored on inner group folds of these, and the outer fold is seen once.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_utils import files
from ecmf_utils.features import take_clips
from ecmf_utils.files import EcmfError
from ecmf_utils.metrics import weighted_f1

from . import registry
from .checkpoints import INFO
from .classifier import DivergenceError, check_rows
from .linear import group_folds

STARTUP = 10  # random trials before the sampler has something to go by

# setting -> list of choices, or (low, high) or (low, high, "log") of a number
Space = Mapping[str, Any]


class Searched:
    """A model whose settings are searched with Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Parameters
    ----------
    make : callable
        Settings by name to an untrained estimator.
    space : mapping
        Setting to a list of choices, or to (low, high) or (low, high, "log").
    n_trials : int
        Settings that are tried; the first are the model's own defaults, so that the search never does worse inside.
    n_folds : int
        Inner group folds that every trial is scored on; with `one_fold` only the first of them.
    seed : int
        Of the search. That of `fit` is the seed of the model that is trained in the end, so that fits of
        several seeds that share a journal search once.
    trial : mapping, optional
        Settings of the trials only, such as one that makes them cheaper.

    Attributes
    ----------
    journal : Path, optional
        A file that every finished trial is written to; a search that was interrupted goes on from it,
        and ends as an undisturbed one.
    trials_ : list of dict
        settings, score (weighted F1 on the inner folds), seconds.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        space: Space,
        n_trials: int = 50,
        n_folds: int = 4,
        one_fold: bool = True,
        seed: int = 0,
        trial: Mapping[str, Any] | None = None,
    ) -> None:
        if n_trials < 1:
            raise EcmfError(f"n_trials={n_trials}: expected at least 1")
        make(**{name: choices[0] for name, choices in space.items()})  # a wrong name is told now
        self.make, self.space, self.n_trials = make, dict(space), n_trials
        self.n_folds, self.one_fold, self.seed = n_folds, one_fold, seed
        self.trial = dict(trial or {})
        self.journal: Path | None = None
        self.trials_: list[dict[str, Any]] = []
        self.recipe = make().recipe | {"search": [self.space, n_trials, n_folds, one_fold, seed, self.trial]}

    @property
    def history_(self) -> list[dict[str, Any]]:
        """The epochs of the model that was chosen."""
        return self.model_.history_

    @property
    def n_parameters(self) -> int:
        """Of the model that was chosen."""
        return self.model_.n_parameters

    def fit(self, features, targets, weights, groups, seed: int = 0) -> Searched:
        """Search on inner folds of these clips, then fit the best settings on all of them."""
        targets, weights = check_rows(features, targets, weights)
        groups = np.asarray(groups, dtype=object).astype(str)
        rows = np.flatnonzero(weights > 0)
        folds = group_folds(targets[rows].argmax(1), groups[rows], self.n_folds, self.seed)
        if folds.max() == 0:
            raise EcmfError("nothing can be searched: the training clips are one group, or too few")
        self.inner_folds_ = [rows[folds == k] for k in range(1 if self.one_fold else folds.max() + 1)]

        def score(settings: dict[str, Any]) -> float:
            found = []
            for held in self.inner_folds_:
                rest = np.setdiff1d(rows, held)
                model = self.make(**settings, **self.trial)
                try:
                    model.fit(take_clips(features, rest), targets[rest], weights[rest], groups[rest], seed=self.seed)
                except DivergenceError:  # these settings are no good, others may be
                    return 0.0
                proba = model.predict(take_clips(features, held))[0]
                found.append(weighted_f1(targets[held].argmax(1), proba, weights[held]))
            return float(np.mean(found))

        self.best_ = self._search(score)
        self.model_ = self.make(**self.best_).fit(features, targets, weights, groups, seed=seed)
        return self

    def predict(self, features) -> tuple[np.ndarray, np.ndarray | None]:
        """Of the model that was chosen."""
        return self.model_.predict(features)

    def save(self, folder: Path) -> None:
        """Write the model that was chosen, and what was tried."""
        self.model_.save(Path(folder) / "model")
        about = {"recipe": self.recipe, "best": self.best_, "trials": self.trials_}
        files.write_json(Path(folder) / INFO, about)

    def load(self, folder: Path) -> Searched:
        """Restore what `save` wrote; the search has to be the same."""
        about = files.read_json(Path(folder) / INFO, "the search again")
        if files.digest(about["recipe"]) != files.digest(self.recipe):
            raise EcmfError(f"{files.show(folder)}: written by another search; run it again")
        self.best_, self.trials_ = about["best"], about["trials"]
        self.model_ = self.make(**self.best_).load(Path(folder) / "model")
        return self

    def _search(self, score: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=self._storage(optuna), study_name="search", direction="maximize", load_if_exists=True
        )
        done = [trial for trial in study.trials if trial.state.is_finished()]
        for number in range(len(done), self.n_trials):
            # what a trial draws depends on the ones before it and on its number, not on who ran those
            drawn_from = {"n_startup_trials": STARTUP, "seed": self.seed * 100_003 + number}
            study.sampler = optuna.samplers.TPESampler(**drawn_from, constant_liar=False)  # a killed trial is no trial
            trial = study.ask()
            settings = {} if number == 0 else {name: _drawn(trial, name, s) for name, s in self.space.items()}
            start = time.perf_counter()
            value = score(settings)
            trial.set_user_attr("settings", settings)
            trial.set_user_attr("seconds", time.perf_counter() - start)
            study.tell(trial, value)
        finished = [trial for trial in study.trials if trial.state.is_finished()]
        self.trials_ = [
            {"settings": t.user_attrs["settings"], "score": t.value, "seconds": round(t.user_attrs["seconds"], 3)}
            for t in finished
        ]
        return max(self.trials_, key=lambda one: one["score"])["settings"]

    def _storage(self, optuna: Any) -> Any:
        if self.journal is None:
            return optuna.storages.InMemoryStorage()
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        _mend(self.journal)
        backend = optuna.storages.journal.JournalFileBackend(str(self.journal))
        return optuna.storages.JournalStorage(backend)


def _mend(journal: Path) -> None:
    """Cut a journal before its first broken line, which a kill or a full disk left: that trial is made again."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    whole = list(itertools.takewhile(_is_entry, lines))
    if len(whole) < len(lines):
        files.write_atomic(journal, lambda tmp: Path(tmp).write_bytes(b"".join(whole)))


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def cost(searches: Sequence[list[dict[str, Any]]]) -> dict[str, float]:
    """What searches have cost.

    Returns
    -------
    dict
        trials and seconds (of all of them), inner_gain (weighted F1 on inner folds that the chosen settings gained
        over the defaults, mean of the searches; it is the best of several, so outer folds gain less).
    """
    gains = [max(t["score"] for t in trials) - trials[0]["score"] for trials in searches]
    trials = [trial for one in searches for trial in one]
    seconds = sum(trial["seconds"] for trial in trials)
    return {"trials": len(trials), "seconds": round(seconds, 2), "inner_gain": round(float(np.mean(gains)), 4)}


def _drawn(trial: Any, name: str, choices: Any) -> Any:
    if isinstance(choices, list):
        return trial.suggest_categorical(name, choices)
    low, high, *log = choices
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=bool(log))
    return trial.suggest_float(name, low, high, log=bool(log))


# ---- what is searched for each model: what its paper or the official toolkit varies, where two cores allow it


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
    make = partial(registry.make_model, name, dims, n_classes, **settings)
    space = SPACES.get(name, {})
    trial = {"refit": False} if registry.has_epochs(name) else {}  # half the cost, hardly another ranking
    return Searched(make, space, n_trials, seed=seed, trial=trial) if space else make()
