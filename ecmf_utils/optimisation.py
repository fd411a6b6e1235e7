"""Loss, learning rate, device and determinism of a training run."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import deterministic

from .paths import EcmfError
from .threads import blas


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


def choose_device(name: str) -> str:
    """cpu or cuda; `auto` takes cuda where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise EcmfError(f"device {name!r}: expected auto, cpu, cuda or cuda:1")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EcmfError("device cuda was asked for, but torch finds no CUDA GPU; set device=cpu or auto")
    if ":" in name and int(name.partition(":")[2]) >= (known := torch.cuda.device_count()):
        raise EcmfError(f"device {name} was asked for, but torch finds {known} CUDA GPUs, cuda:0 to cuda:{known - 1}")
    return name


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
