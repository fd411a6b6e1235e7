"""Training of one torch network on one set of clips."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import deterministic

from ecmf_utils.files import EcmfError, show
from ecmf_utils.metrics import weighted_f1
from ecmf_utils.parallel import choose_device

from .checkpoints import read_model, write_model
from .first_stage import FirstStage
from .linear import Scaler, blas, group_folds

STEPS = 12  # of an epoch, where no batch size is asked for
PREDICT_BATCH = 8192  # clips; bounds the memory of a prediction, changes nothing else


class TorchClassifier:
    """A network over branches as an estimator: `fit`, `predict`, `save`, `load`.

    Parameters
    ----------
    network : callable
        Makes the untrained module; its `forward(x, present)` returns a dict with `logits` (N, C) and, if
        it has them, `weights` (N, B) and, while training, a `penalty` that joins the loss. Optional on
        the module: `rates`, name prefix to factor of the learning rate. It is called with the dims that it gets.
    dims : dict
        Branch to number of dimensions, in order.
    components : int
        Most principal axes a branch of `first_stage.FirstStage`, whose numbers and logits the network then gets
        (the logits as a third argument); 0: the network gets the standardised branches themselves.
    lr, weight_decay, epochs, warmup
        AdamW, with `warmup` (share of all steps) and cosine decay.
    batch_size : int
        0: a twelfth of the rows, but 32 to 512, so that an epoch of few clips still has steps to learn in.
    patience : int
        Epochs without a lower inner loss before training stops; the best epoch is kept.
    inner_fraction : float
        Share of the groups given to `fit` that stops the training, at most one half, rounded to one of k parts; 0
        trains all epochs. The network learns nothing from them before `refit`; scaling, axes and heads are of all rows.
    refit : bool
        Train again on all rows, for the number of epochs that early stopping found.
    label_smoothing : float
        Uniform share mixed into the targets.
    class_balance, standardise : bool
        Weigh clips by the inverse frequency of their class; scale every dimension by the mean and
        standard deviation of the training rows.
    device : str
        cpu, cuda or auto. Bit-identical repeats are promised on the CPU only.

    Attributes
    ----------
    history_ : list of dict
        epoch, loss, rate, and with inner rows inner_loss, inner_f1.
    train_rows_, inner_rows_ : int arrays
        Positions, among the rows given to `fit`, that were learned from and that stopped it.
    """

    def __init__(
        self,
        network: Callable[[dict[str, int]], nn.Module],
        dims: dict[str, int],
        *,
        components: int = 0,
        lr: float = 5e-3,
        weight_decay: float = 1.0,
        epochs: int = 20,
        batch_size: int = 0,
        warmup: float = 0.1,
        patience: int = 10,
        inner_fraction: float = 0.2,
        refit: bool = True,
        label_smoothing: float = 0.0,
        class_balance: bool = False,
        standardise: bool = True,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        check_settings(
            at_least_0={"components": components, "weight_decay": weight_decay, "batch_size": batch_size},
            at_least_1={"epochs": epochs, "patience": patience, "threads": threads},
            below_1={"label_smoothing": label_smoothing, "warmup": warmup},
            above_0={"lr": lr},
            at_most_half={"inner_fraction": inner_fraction},
        )
        self.network, self.dims, self.components = network, dict(dims), components
        self.lr, self.weight_decay, self.epochs, self.batch_size = (
            lr,
            weight_decay,
            epochs,
            batch_size,
        )
        self.warmup, self.patience, self.inner_fraction = warmup, patience, inner_fraction
        self.refit, self.label_smoothing = refit, label_smoothing
        self.class_balance, self.standardise = class_balance, standardise
        self.device, self.threads = choose_device(device), threads
        self.history_: list[dict[str, float]] = []
        self.recipe: dict[str, Any] = {}

    @property
    def n_parameters(self) -> int:
        """Numbers that the fitted model has learned from labels."""
        own = sum(parameter.numel() for parameter in self.module_.parameters())
        return own + (self.stage_.n_parameters if self._uses_heads() else 0)

    def fit(self, features, targets, weights, groups, seed: int = 0) -> TorchClassifier:
        """Learn from clips.

        Parameters
        ----------
        features : Features
            `x` branch to (N, D), `present` branch to (N,) bool.
        targets : float array, shape (N, C)
            Label distribution of every clip; one-hot for plain labels.
        weights : float array, shape (N,)
            0 leaves a clip out.
        groups : array, shape (N,)
            Speaker or source; early stopping sets whole groups aside.
        """
        targets, weights = check_rows(features, targets, weights)
        self.train_rows_, self.inner_rows_ = inner_split(targets, weights, groups, self.inner_fraction, seed)
        if self.class_balance:
            weights = balanced(weights, targets)
        with reproducible(seed, self.threads):
            data = self._prepare(features, targets, weights, groups, seed)
            self.history_ = self._train(*data, seed, self.train_rows_, self.inner_rows_, self.epochs)
        if self.refit and len(self.inner_rows_):
            best = min(self.history_, key=lambda row: row["inner_loss"])
            every = np.union1d(self.train_rows_, self.inner_rows_)
            with reproducible(seed, self.threads):
                self._train(*data, seed, every, every[:0], best["epoch"] + 1)
        return self

    def predict(self, features) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (N, C), and branch weights (N, B) where the network has them."""
        with reproducible(0, self.threads), torch.inference_mode():
            x, present, said = self._inputs(features)
            self.module_.eval()
            parts = [
                self.module_(_rows(x, rows), present[rows], *_some(said, rows))
                for rows in torch.arange(len(present), device=self.device).split(PREDICT_BATCH)
            ]
        proba = torch.cat([part["logits"].double().softmax(-1) for part in parts]).cpu().numpy()
        if "weights" not in parts[0]:
            return proba, None
        return proba, torch.cat([part["weights"] for part in parts]).cpu().numpy()

    def predict_heads(self, features) -> np.ndarray | None:
        """What each branch's head alone says, probabilities (N, B, C), NaN where absent; None without heads."""
        if not self._uses_heads():
            return None
        with reproducible(0, self.threads):
            _, present, said = self._inputs(features)
        proba = said.double().softmax(-1)
        return proba.masked_fill(~present[..., None], np.nan).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write model.safetensors and model.json into a folder."""
        state = {f"net/{k}": v.cpu().numpy() for k, v in self.module_.state_dict().items()}
        info = {
            "history": self.history_,
            "train_rows": self.train_rows_.tolist(),
            "inner_rows": self.inner_rows_.tolist(),
        }
        first = self.stage_.arrays() if self.stage_ else {}
        write_model(folder, state | first | self.scaler_.arrays(), self.recipe, info)

    def load(self, folder: Path) -> TorchClassifier:
        """Restore what `save` wrote; the configuration has to be the same."""
        arrays, info = read_model(folder, self.recipe)
        state = {k[4:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("net/")}
        self.scaler_ = Scaler.restore(arrays, list(self.dims))
        self.stage_ = FirstStage(list(self.dims)).restore(arrays) if self.components else None
        with reproducible(0, self.threads):  # the caller's random state is not ours
            self.module_ = self._network()
        try:
            self.module_.load_state_dict(state)
        except RuntimeError as error:
            raise EcmfError(f"{show(folder)}: the weights do not fit the settings beside them; train again") from error
        self.history_ = info["history"]
        self.train_rows_ = np.array(info["train_rows"], int)
        self.inner_rows_ = np.array(info["inner_rows"], int)
        return self

    def _prepare(self, features, targets, weights, groups, seed: int) -> tuple:
        """Scale all rows and solve the first stage: its logits of the rows learned from are honest."""
        rows = np.union1d(self.train_rows_, self.inner_rows_)
        for branch, dim in self.dims.items():
            if branch in features.x and features.x[branch].shape[-1] != dim:
                raise EcmfError(f"branch {branch}: {features.x[branch].shape[-1]} dimensions, expected {dim}")
        self.scaler_ = Scaler().fit(features, rows, list(self.dims), self.standardise)
        self.stage_ = FirstStage(list(self.dims), self.components) if self.components else None
        groups, honest = np.asarray(groups, dtype=object).astype(str)[rows], None
        if self.stage_:
            honest = self.stage_.fit(features, self.scaler_, rows, targets[rows], weights[rows], groups, seed)
        x, present, said = self._inputs(features)
        if said is not None:
            said[self._tensor(rows)] = self._tensor(honest)
        return x, present, said, self._tensor(targets), self._tensor(weights)

    def _train(
        self, x, present, said, targets, weights, seed: int, train, inner, epochs: int
    ) -> list[dict[str, float]]:
        """Train a new module on `train`; keep the epoch that is best on `inner` (else the last)."""
        self.module_ = self._network()
        groups = parameter_groups(self.module_, self.lr, self.weight_decay)
        optimiser = torch.optim.AdamW(groups, fused=True)
        n_batches = math.ceil(len(train) / (self.batch_size or min(max(len(train) // STEPS, 32), 512)))
        order = torch.Generator().manual_seed(seed)
        best, kept, history = (math.inf, 0), None, []
        for epoch in range(epochs):
            losses = []
            self.module_.train()
            for i, picked in enumerate(torch.randperm(len(train), generator=order).tensor_split(n_batches)):
                set_rate(optimiser, schedule((epoch + i / n_batches) / self.epochs, self.warmup))
                rows = self._tensor(train[picked.numpy()])
                losses.append(self._step(optimiser, x, present, said, targets, weights, rows))
            history.append({"epoch": epoch, "loss": self._finite(torch.stack(losses).mean())})
            history[-1] |= self._inner_scores(x, present, said, targets, weights, self._tensor(inner))
            value = history[-1].get("inner_loss", -epoch)
            if value < best[0]:
                best = (value, epoch)
                kept = {k: v.clone() for k, v in self.module_.state_dict().items()}
            if epoch - best[1] >= self.patience:
                break
        self.module_.load_state_dict(kept)
        return history

    def _uses_heads(self) -> bool:
        return self.stage_ is not None and getattr(self.module_, "auxiliary", True)

    def _network(self) -> nn.Module:
        return self.network(self.stage_.dims if self.stage_ else self.dims).to(self.device)

    def _step(self, optimiser, x, present, said, targets, weights, rows: Tensor) -> Tensor:
        out = self.module_(_rows(x, rows), present[rows], *_some(said, rows))
        smooth = self.label_smoothing
        aim = (1 - smooth) * targets[rows] + smooth / targets.shape[1]
        loss = cross_entropy(out["logits"], aim, weights[rows]) + out.get("penalty", 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    def _inner_scores(self, x, present, said, targets, weights, rows: Tensor) -> dict[str, float]:
        if not len(rows):
            return {}
        self.module_.eval()
        with torch.inference_mode():
            logits = self.module_(_rows(x, rows), present[rows], *_some(said, rows))["logits"]
            loss = self._finite(cross_entropy(logits, targets[rows], weights[rows]))
        f1 = weighted_f1(targets[rows].argmax(1).cpu(), logits.softmax(-1).cpu())
        return {"inner_loss": loss, "inner_f1": f1}

    def _finite(self, loss: Tensor) -> float:
        if not torch.isfinite(loss):
            raise Diverged(f"training diverged, the loss is {float(loss)}: lower the learning rate (lr={self.lr:g})")
        return float(loss)

    def _inputs(self, features) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """What the network gets of each branch, which branches are there, and what their heads say."""
        present = np.stack([np.asarray(features.present[b], bool) for b in self.dims], axis=1)
        if self.stage_ is None:
            x, said = self.scaler_.apply(features), None
        else:
            x, said = self.stage_.apply(features, self.scaler_)
        tensors = {branch: self._tensor(values) for branch, values in x.items()}
        return tensors, self._tensor(present), None if said is None else self._tensor(said)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def _rows(x: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {branch: values[rows] for branch, values in x.items()}


def _some(said: Tensor | None, rows: Tensor) -> tuple[Tensor, ...]:
    """Rows of a third argument, where there is one."""
    return () if said is None else (said[rows],)


# ---- loss, learning rate, device and determinism of a training run


class Diverged(EcmfError):
    """The loss of a training is no longer a number."""


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of logits (..., C) against distributions (..., C)."""
    losses = -(targets * F.log_softmax(logits, -1)).sum(-1)
    return (losses * weights).sum() / weights.sum().clamp_min(1e-9)


def schedule(done: float, warmup: float) -> float:
    """Share of the learning rate after `done` (0 to 1) of the steps: linear rise, cosine fall."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


@contextlib.contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Own random state, fixed threads, deterministic kernels; all as before afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False  # an eighth faster
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), blas(threads):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            deterministic.fill_uninitialized_memory = filled


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: matrices decay, and a module's `rates` scale the learning rate by name.

    Shrinking biases, norms and embeddings regularises nothing.
    """
    rates, groups = getattr(module, "rates", {}), {}
    for name, parameter in module.named_parameters():
        factor = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)
        decays = parameter.ndim > 1 and "embedding" not in name
        if parameter.requires_grad:
            groups.setdefault((lr * factor, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": params, "top": top, "weight_decay": decay} for (top, decay), params in groups.items()]


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Every group at this share of its highest learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = share * group["top"]


# ---- which rows a model learns from, how much each counts, and whether what it is given makes sense


WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def declared_settings(model: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the settings of a model; what it is made for is none."""
    found = inspect.signature(model).parameters.items()
    return {key: p.default for key, p in found if key not in ("network", "dims", "n_classes")}


def check_kinds(where: str, settings: dict[str, Any], declared: dict[str, Any]) -> None:
    """One line about the first setting that does not exist, or is not of the kind of its default."""
    for key, value in settings.items():
        if key not in declared:
            raise EcmfError(f"{where} has no setting {key!r}: expected {', '.join(sorted(declared)) or 'none'}")
        default = 1.0 if declared[key] is None else declared[key]  # None: a number that is chosen where none is given
        fits = isinstance(value, (int, float) if type(default) is float else type(default))
        fits &= isinstance(value, bool) == isinstance(default, bool)
        if value is not declared[key] and not (fits and (isinstance(value, str) or isfinite(value))):
            raise EcmfError(f"{where}: {key}={value!r}: expected {WORDS[type(default)]}")


def check_settings(where: str = "", **kinds: dict[str, float]) -> None:
    """One line about the first setting that is out of its range; `where` begins it."""
    ranges = {
        "at_least_0": ("at least 0", lambda v: v >= 0),
        "at_least_1": ("at least 1", lambda v: v >= 1),
        "below_1": ("at least 0 and below 1", lambda v: 0 <= v < 1),
        "above_0": ("above 0", lambda v: v > 0),
        "at_most_half": ("0 to 0.5", lambda v: 0 <= v <= 0.5),
    }
    for kind, values in kinds.items():
        words, allowed = ranges[kind]
        for name, value in values.items():
            if not allowed(value):
                raise EcmfError(f"{where}{name}={value}: expected {words}")


def inner_split(targets, weights, groups, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows of other groups that stop training; weight 0: in neither."""
    used = np.flatnonzero(weights > 0)
    if fraction <= 0:
        return used, used[:0]
    n_folds = max(2, round(1 / fraction))
    folds = group_folds(targets[used].argmax(1), np.asarray(groups)[used], n_folds, seed)
    inner = (folds == 0) & (folds.max() > 0)  # with one group there is nothing to set aside
    return used[~inner], used[inner]


def check_rows(features, targets, weights) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, C) and weights (N,) as float32, or one line about what is wrong with them."""
    targets, weights = np.asarray(targets, np.float32), np.asarray(weights, np.float32)
    n = len(features.clip_ids)
    if targets.ndim != 2 or len(targets) != n or weights.shape != (n,):
        raise EcmfError(f"{n} clips, but targets of shape {targets.shape} and weights of shape {weights.shape}")
    if not (weights > 0).any():
        raise EcmfError("no clip to train on: every weight is 0 or no clip has a label")
    used = targets[weights > 0]
    if not np.isfinite(used).all() or not np.allclose(used.sum(1), 1, atol=1e-3):
        raise EcmfError("targets must be distributions: finite, and 1 in sum for every clip of weight > 0")
    return np.nan_to_num(targets), np.where(weights > 0, weights, 0).astype(np.float32)


def balanced(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights times the inverse share of each clip's class; the sum stays."""
    share = weights @ targets
    inverse = np.where(share > 0, 1 / np.maximum(share, 1e-9), 0)
    scaled = weights * (targets @ inverse)
    return (scaled * weights.sum() / scaled.sum()).astype(np.float32)
