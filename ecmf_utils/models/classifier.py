"""Training of one PyTorch network on one set of clips."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
from .linear import Scaler, group_folds, limit_blas_threads

STEPS_PER_EPOCH = 12  # where no batch size is asked for
SMALLEST_BATCH, LARGEST_BATCH = 32, 512  # where no batch size is asked for
PREDICT_BATCH = 8192  # clips; bounds the memory of a prediction and changes nothing else


class TorchClassifier:
    """A network over branches as an estimator: `fit`, `predict`, `save`, `load`.

    Parameters
    ----------
    network : callable
        Makes the untrained module from `dims`, branch to input size. The module's `forward(x, present)` returns a
        dict with `logits` (N, C), and, if it has them, `weights` (N, B) and, in training, a `penalty` that is added
        to the loss. A module may have `rates`: the beginning of a parameter's name to a factor of the learning rate.
    dims : dict
        Branch to number of dimensions, in order.
    components : int
        Most principal axes of a branch. The network then reads what `first_stage.FirstStage` gives: the components
        in place of the branch, and the logits of the branch heads as a third argument. 0: the network reads the
        standardised branches.
    lr, weight_decay : float
        Of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).
    epochs : int
        Most epochs.
    batch_size : int
        Clips; 0: a twelfth of the rows, but 32 to 512, so that an epoch of few clips still has steps to learn in.
    warmup : float
        Share of all steps in which the learning rate rises; afterwards it falls along a cosine.
    patience : int
        Epochs without a lower inner loss before training stops; the best epoch is kept.
    inner_fraction : float
        Share of the groups given to `fit` that is set aside to stop the training: at most one half, rounded to one of
        k parts; 0 trains all epochs. The network does not learn from these rows before `refit`; the scale, the
        axes and the heads do.
    refit : bool
        Train again on all rows, for the number of epochs that early stopping found.
    label_smoothing : float
        Share of each target that is spread evenly over the classes.
    class_balance : bool
        Weigh clips by the inverse frequency of their class.
    standardise : bool
        Scale every dimension by the mean and standard deviation of the training rows.
    device : str
        cpu, cuda, cuda:1 or auto. Only the CPU repeats a fit to the bit.
    threads : int
        Threads of PyTorch and of linear algebra; with another number, bits may differ.

    Attributes
    ----------
    history_ : list of dict
        epoch (from 0), loss, and where rows are set aside inner_loss and inner_f1.
    train_rows_, inner_rows_ : int arrays
        Positions, among the rows given to `fit`, that the network learned from and that stopped it.

    Raises
    ------
    EcmfError
        A setting is out of its range, or the device cannot be used.
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
        check_ranges(
            at_least_0={"components": components, "weight_decay": weight_decay, "batch_size": batch_size},
            at_least_1={"epochs": epochs, "patience": patience, "threads": threads},
            below_1={"label_smoothing": label_smoothing, "warmup": warmup},
            above_0={"lr": lr},
            at_most_half={"inner_fraction": inner_fraction},
        )
        self.network, self.dims, self.components = network, dict(dims), components
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.epochs, self.batch_size, self.patience = epochs, batch_size, patience
        self.inner_fraction, self.refit, self.label_smoothing = inner_fraction, refit, label_smoothing
        self.class_balance, self.standardise = class_balance, standardise
        self.device, self.threads = choose_device(device), threads
        self.history_: list[dict[str, float]] = []
        self.recipe: dict[str, Any] = {}

    @property
    def n_parameters(self) -> int:
        """How many numbers the fitted model has learned from labels."""
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
            How much each clip counts; 0 leaves a clip out.
        groups : array, shape (N,)
            Speaker or source of each clip; early stopping sets whole groups aside.
        seed : int
            Of the folds, the first weights, dropout and the order of the clips.

        Raises
        ------
        EcmfError
            Targets, weights or features make no sense, or the training diverges.
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
            all_rows = np.union1d(self.train_rows_, self.inner_rows_)
            with reproducible(seed, self.threads):
                self._train(*data, seed, all_rows, all_rows[:0], best["epoch"] + 1)
        return self

    def predict(self, features) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (N, C), and branch weights (N, B), or None where the network has none."""
        with reproducible(0, self.threads), torch.inference_mode():
            inputs = self._read_inputs(features)
            self.module_.eval()
            batches = torch.arange(len(inputs.present), device=self.device).split(PREDICT_BATCH)
            outputs = [self.module_(*inputs.take(rows)) for rows in batches]
        proba = torch.cat([output["logits"].double().softmax(-1) for output in outputs]).cpu().numpy()
        if "weights" not in outputs[0]:
            return proba, None
        return proba, torch.cat([output["weights"] for output in outputs]).cpu().numpy()

    def predict_heads(self, features) -> np.ndarray | None:
        """Probabilities (N, B, C) of each branch's head alone, NaN where the branch is absent; None without heads."""
        if not self._uses_heads():
            return None
        with reproducible(0, self.threads):
            inputs = self._read_inputs(features)
        proba = inputs.head_logits.double().softmax(-1)
        return proba.masked_fill(~inputs.present[..., None], np.nan).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write model.safetensors and model.json into a folder."""
        arrays = {f"net/{name}": value.cpu().numpy() for name, value in self.module_.state_dict().items()}
        if self.stage_:
            arrays |= self.stage_.to_arrays()
        arrays |= self.scaler_.to_arrays()
        info = {
            "history": self.history_,
            "train_rows": self.train_rows_.tolist(),
            "inner_rows": self.inner_rows_.tolist(),
        }
        write_model(folder, arrays, self.recipe, info)

    def load(self, folder: Path) -> TorchClassifier:
        """Restore what `save` wrote.

        Raises
        ------
        EcmfError
            The files are missing or broken, or were written by a model of other settings.
        """
        arrays, info = read_model(folder, self.recipe)
        self.scaler_ = Scaler.from_arrays(arrays, list(self.dims))
        self.stage_ = FirstStage.from_arrays(arrays, list(self.dims)) if self.components else None
        with reproducible(0, self.threads):  # making a network draws random numbers; the caller's stay as they are
            self.module_ = self._make_network()
        state = {name[4:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("net/")}
        try:
            self.module_.load_state_dict(state)
        except RuntimeError as error:
            raise EcmfError(f"{show(folder)}: the weights do not fit the settings beside them; train again") from error
        self.history_ = info["history"]
        self.train_rows_ = np.array(info["train_rows"], int)
        self.inner_rows_ = np.array(info["inner_rows"], int)
        return self

    def _uses_heads(self) -> bool:
        return self.stage_ is not None and getattr(self.module_, "auxiliary", True)

    def _make_network(self) -> nn.Module:
        return self.network(self.stage_.dims if self.stage_ else self.dims).to(self.device)

    def _prepare(self, features, targets, weights, groups, seed: int) -> tuple[Inputs, Tensor, Tensor]:
        """Scale all rows and solve the first stage: inputs of the network, targets and weights as tensors.

        The head logits of the rows that the model learns from are out-of-fold.
        """
        rows = np.union1d(self.train_rows_, self.inner_rows_)
        for branch, dim in self.dims.items():
            if branch in features.x and features.x[branch].shape[-1] != dim:
                raise EcmfError(f"branch {branch}: {features.x[branch].shape[-1]} dimensions, expected {dim}")
        self.scaler_ = Scaler().fit(features, rows, list(self.dims), self.standardise)
        self.stage_ = FirstStage(list(self.dims), self.components) if self.components else None
        if self.stage_:
            row_groups = np.asarray(groups, dtype=object).astype(str)[rows]
            data = (features, self.scaler_, rows, targets[rows], weights[rows], row_groups)
            oof_logits = self.stage_.fit(*data, seed)
        inputs = self._read_inputs(features)
        if self.stage_:
            inputs.head_logits[self._to_tensor(rows)] = self._to_tensor(oof_logits)
        return inputs, self._to_tensor(targets), self._to_tensor(weights)

    def _read_inputs(self, features) -> Inputs:
        """What the network reads of each clip."""
        present = np.stack([np.asarray(features.present[branch], bool) for branch in self.dims], axis=1)
        if self.stage_ is None:
            x, head_logits = self.scaler_.apply(features), None
        else:
            x, head_logits = self.stage_.apply(features, self.scaler_)
            head_logits = self._to_tensor(head_logits)
        x = {branch: self._to_tensor(values) for branch, values in x.items()}
        return Inputs(x, self._to_tensor(present), head_logits)

    def _to_tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _train(
        self,
        inputs: Inputs,
        targets: Tensor,
        weights: Tensor,
        seed: int,
        train: np.ndarray,
        inner: np.ndarray,
        epochs: int,
    ) -> list[dict[str, float]]:
        """Train a new network on the rows `train`; keep the epoch that is best on the rows `inner`, else the last."""
        self.module_ = self._make_network()
        optimiser = torch.optim.AdamW(group_parameters(self.module_, self.lr, self.weight_decay), fused=True)
        batch_size = self.batch_size or min(max(len(train) // STEPS_PER_EPOCH, SMALLEST_BATCH), LARGEST_BATCH)
        n_batches = math.ceil(len(train) / batch_size)
        order = torch.Generator().manual_seed(seed)
        best_loss, best_epoch, best_state, history = math.inf, 0, None, []
        for epoch in range(epochs):
            losses = []
            self.module_.train()
            for i, picked in enumerate(torch.randperm(len(train), generator=order).tensor_split(n_batches)):
                # of all epochs, not of the epochs of this call: a refit follows the same schedule and ends early
                set_rate(optimiser, schedule((epoch + i / n_batches) / self.epochs, self.warmup))
                rows = self._to_tensor(train[picked.numpy()])
                losses.append(self._take_step(optimiser, inputs, targets, weights, rows))
            row = {"epoch": epoch, "loss": self._check_finite(torch.stack(losses).mean())}
            row |= self._score_inner(inputs, targets, weights, self._to_tensor(inner))
            history.append(row)
            loss = row.get("inner_loss", -epoch)  # without inner rows every epoch counts as better than the one before
            if loss < best_loss:
                best_loss, best_epoch = loss, epoch
                best_state = {name: value.clone() for name, value in self.module_.state_dict().items()}
            if epoch - best_epoch >= self.patience:
                break
        self.module_.load_state_dict(best_state)
        return history

    def _take_step(self, optimiser, inputs: Inputs, targets: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """One step of gradient descent on a batch of rows: its loss."""
        output = self.module_(*inputs.take(rows))
        smooth = self.label_smoothing
        smoothed = (1 - smooth) * targets[rows] + smooth / targets.shape[1]
        loss = cross_entropy(output["logits"], smoothed, weights[rows]) + output.get("penalty", 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    def _score_inner(self, inputs: Inputs, targets: Tensor, weights: Tensor, rows: Tensor) -> dict[str, float]:
        """Loss and weighted F1 of the rows that stop the training; nothing where there are none."""
        if not len(rows):
            return {}
        self.module_.eval()
        with torch.inference_mode():
            logits = self.module_(*inputs.take(rows))["logits"]
            loss = self._check_finite(cross_entropy(logits, targets[rows], weights[rows]))
        f1 = weighted_f1(targets[rows].argmax(1).cpu(), logits.softmax(-1).cpu())
        return {"inner_loss": loss, "inner_f1": f1}

    def _check_finite(self, loss: Tensor) -> float:
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"training diverged, the loss is {float(loss)}: lower the learning rate (lr={self.lr:g})"
            )
        return float(loss)


class Inputs(NamedTuple):
    """What a network reads of N clips.

    Attributes
    ----------
    x : dict of float tensor (N, K)
        By branch.
    present : bool tensor (N, B)
        Which branches a clip has.
    head_logits : float tensor (N, B, C) or None
        Logits of the branch heads, where there is a first stage.
    """

    x: dict[str, Tensor]
    present: Tensor
    head_logits: Tensor | None

    def take(self, rows: Tensor) -> tuple[Any, ...]:
        """The arguments of the network's `forward` for some clips; head logits only where there are any."""
        x = {branch: values[rows] for branch, values in self.x.items()}
        return (x, self.present[rows]) if self.head_logits is None else (x, self.present[rows], self.head_logits[rows])


class DivergenceError(EcmfError):
    """The loss of a training is no longer a finite number."""


# ---- loss, learning rate and reproducibility


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of logits (..., C) against distributions (..., C)."""
    losses = -(targets * F.log_softmax(logits, -1)).sum(-1)
    return (losses * weights).sum() / weights.sum().clamp_min(1e-9)


def schedule(done: float, warmup: float) -> float:
    """Share of the learning rate after `done` (0 to 1) of the steps: a linear rise, then a cosine fall to 0.

    The cosine is that of Loshchilov and Hutter 2017 (arXiv 1608.03983), without restarts.
    """
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set every group to this share of its highest learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = share * group["top"]


def group_parameters(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimiser: matrices decay, and a module's `rates` scale the learning rate by name.

    Biases, norms and embeddings do not decay, since shrinking them regularises nothing.
    """
    rates, groups = getattr(module, "rates", {}), {}
    for name, parameter in module.named_parameters():
        factor = next((rate for prefix, rate in rates.items() if name.startswith(prefix)), 1.0)
        decays = parameter.ndim > 1 and "embedding" not in name
        if parameter.requires_grad:
            groups.setdefault((lr * factor, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": params, "top": top, "weight_decay": decay} for (top, decay), params in groups.items()]


@contextlib.contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seeded random numbers, a fixed number of threads, deterministic kernels; afterwards all is as it was before."""
    n_threads, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # PyTorch would fill fresh memory, so that code which reads it is found. Without that, training is an eighth faster.
    fill_before, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), limit_blas_threads(threads):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            torch.use_deterministic_algorithms(deterministic_before)
            deterministic.fill_uninitialized_memory = fill_before


# ---- which rows a model learns from, and how much each counts


def check_rows(features, targets, weights) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, C) and weights (N,) as float32.

    Raises
    ------
    EcmfError
        Their shapes do not fit the N clips, no clip has a weight, or a target that counts is no distribution.
    """
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


def inner_split(targets, weights, groups, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to learn from, and of rows of other groups that stop the training.

    Rows of weight 0 are in neither. A fraction of 0, or a single group, leaves the second empty.
    """
    used = np.flatnonzero(weights > 0)
    if fraction <= 0:
        return used, used[:0]
    n_folds = max(2, round(1 / fraction))
    folds = group_folds(targets[used].argmax(1), np.asarray(groups)[used], n_folds, seed)
    inner = (folds == 0) & (folds.max() > 0)  # all folds are 0 where nothing can be set aside
    return used[~inner], used[inner]


def balanced(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights (N,) times the inverse share of each clip's class; their sum stays the same."""
    share = weights @ targets
    inverse = np.where(share > 0, 1 / np.maximum(share, 1e-9), 0)
    scaled = weights * (targets @ inverse)
    return (scaled * weights.sum() / scaled.sum()).astype(np.float32)


# ---- settings


KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "at_least_0": ("at least 0", lambda value: value >= 0),
    "at_least_1": ("at least 1", lambda value: value >= 1),
    "below_1": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "above_0": ("above 0", lambda value: value > 0),
    "at_most_half": ("0 to 0.5", lambda value: 0 <= value <= 0.5),
}


def read_defaults(model: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the settings of a model, without network, dims and n_classes."""
    parameters = inspect.signature(model).parameters.items()
    return {name: p.default for name, p in parameters if name not in ("network", "dims", "n_classes")}


def check_kinds(where: str, settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise one line about the first setting that does not exist or is not of the kind of its default."""
    for name, value in settings.items():
        if name not in defaults:
            raise EcmfError(f"{where} has no setting {name!r}: expected {', '.join(sorted(defaults)) or 'none'}")
        if value is defaults[name]:
            continue
        kind = float if defaults[name] is None else type(defaults[name])  # None: the model chooses a number itself
        fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits or (kind is not str and not math.isfinite(value)):
            raise EcmfError(f"{where}: {name}={value!r}: expected {KINDS[kind]}")


def check_ranges(where: str = "", **settings_of: dict[str, float]) -> None:
    """Raise one line, beginning with `where`, about the first setting that is out of its range.

    Keywords are names of `RANGES`; each has the settings that have to be in this range.
    """
    for kind, settings in settings_of.items():
        words, is_allowed = RANGES[kind]
        for name, value in settings.items():
            if not is_allowed(value):
                raise EcmfError(f"{where}{name}={value}: expected {words}")
