"""A model over inputs of many lengths: layers, precision, and batches that fit into memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

LAYERS = re.compile(r"last|projected|(sum|mean)-last-([1-9]\d*)|layer-(\d+)")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "bf16-weights")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in what PyTorch raises


def check_layers(layers: str) -> None:
    """Refuse a choice of layers that does not exist."""
    if not LAYERS.fullmatch(layers):
        raise EcmfError(f"layers={layers!r} is unknown; expected last, sum-last-N, mean-last-N, layer-K or projected")


def choose_device(device: str) -> str:
    """Replace `auto` by the GPU where PyTorch sees one, else by the CPU; refuse what PyTorch cannot use."""
    import torch

    if torch.cuda.is_available():  # TF32 has fewer digits than float32
        torch.backends.cudnn.allow_tf32 = False
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise EcmfError(f"device={device}: PyTorch cannot use it ({reason}); say auto, cpu or cuda") from error
    return device


def choose_precision(precision: str, device: str) -> str:
    """Replace `auto` by float32 on a CPU and by bfloat16 (else float16) on a GPU."""
    if precision not in PRECISIONS:
        raise EcmfError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    import torch

    if not device.startswith("cuda"):
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@dataclass
class Network:
    """A model, the layers that are read from it, its device and its precision.

    Attributes
    ----------
    read_states : callable
        Takes the model, `layers` and the inputs by name; returns hidden states.
    layers : str
        last, sum-last-N, mean-last-N, layer-K (0 is the embedding layer) or projected.
    precision : str
        fp32; bf16 or fp16 (autocast over float32 weights); bf16-weights (half the memory).
    """

    model: Any
    read_states: Callable[..., Any]
    layers: str
    device: str
    precision: str = "fp32"

    def __call__(self, **inputs: Any) -> Any:
        """Compute hidden states in float32 on the model's device.

        What is not finite in half precision is computed once more in float32.
        """
        import torch

        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        weights = torch.bfloat16 if self.precision == "bf16-weights" else None
        inputs = {
            name: value.to(self.device, weights if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        autocast = torch.autocast(self.device.partition(":")[0], half) if half else nullcontext()
        with torch.inference_mode(), autocast:
            states = self.read_states(self.model, self.layers, **inputs).float()
        if half and not torch.isfinite(states).all():
            with torch.inference_mode():
                states = self.read_states(self.model, self.layers, **inputs).float()
        return states


def read_hidden_states(model: Any, layers: str, **inputs: Any) -> Any:
    """Run a transformers model: (B, T, D), (B, D, H, W) of a convolutional one, or projected (B, D)."""
    if layers == "projected":
        features = model.get_image_features(**inputs)
        return getattr(features, "pooler_output", features)
    output = model(**inputs, output_hidden_states=layers != "last", return_dict=True)
    return output.last_hidden_state if layers == "last" else combine_layers(output.hidden_states, layers)


def read_timm_states(model: Any, layers: str, x: Any) -> Any:
    """Run a timm model: (B, D).

    `last` is the model's own pooled vector; other layers are the class token of a block, or the mean of
    its patches where the model has no class token.
    """
    if layers == "last":
        return model(x)
    n_prefix = getattr(model, "num_prefix_tokens", 0)  # class and register tokens, in front of the patches
    try:
        extra = {"return_prefix_tokens": True} if n_prefix else {}
        blocks = model.forward_intermediates(x, intermediates_only=True, **extra)
    except (AttributeError, TypeError):
        raise EcmfError(f"layers={layers!r}: this timm model gives layers=last only") from None
    if n_prefix and getattr(model, "cls_token", None) is not None:
        rows = [prefix_tokens[:, 0] for _, prefix_tokens in blocks]
    else:
        rows = [(block[0] if n_prefix else block).mean((2, 3)) for block in blocks]
    if layers == "layer-0" or (layers.startswith(("sum", "mean")) and len({row.shape for row in rows}) > 1):
        raise EcmfError(f"layers={layers!r}: of this timm model, take one block: layer-1 to layer-{len(rows)}")
    return combine_layers([None, *rows], layers)


def combine_layers(states: Sequence[Any], layers: str) -> Any:
    """Take one of the hidden states, or the sum or mean of the last ones; the first is the embedding layer."""
    operation, n_last, number = LAYERS.fullmatch(layers).groups()
    if int(number or 0) >= len(states) or int(n_last or 1) > len(states):
        raise EcmfError(f"layers={layers!r}: the model has {len(states) - 1} layers only")
    if number is not None:
        return states[int(number)]
    total = sum(states[-int(n_last) :])
    return total / int(n_last) if operation == "mean" else total


@dataclass
class Batches:
    """Items of similar size go through a model together, as many as a budget allows.

    Attributes
    ----------
    forward : callable
        A list of items to the rows (T, D) of each.
    budget : int
        What the sizes of a batch may add up to, padding included. It is halved when memory runs out.
    equal : bool
        Only items of the same size share a batch, for models whose rows change with padding.
    halved : int
        How often memory ran out.
    """

    forward: Callable[[list[Any]], Sequence[np.ndarray]]
    budget: int
    equal: bool = False
    halved: int = 0

    def __call__(self, items: Sequence[Any], sizes: Sequence[int]) -> list[np.ndarray]:
        """Compute the rows of each item, in the order of the items."""
        rows_of: list[Any] = [None] * len(items)
        waiting = sorted(range(len(items)), key=lambda i: -sizes[i])  # largest first: memory runs out at once or never
        while waiting:
            count = self._count_fitting([sizes[i] for i in waiting])
            try:
                batch_rows = self.forward([items[i] for i in waiting[:count]])
            except RuntimeError as error:
                if count == 1 or not any(words in str(error).lower() for words in NO_MEMORY):
                    raise
                batch_rows = None
            if batch_rows is None:  # outside of `except`: the error's traceback holds the memory of the batch
                _free_memory()
                self.budget, self.halved = sizes[waiting[0]] * (count // 2), self.halved + 1
                continue
            for i, rows in zip(waiting[:count], batch_rows, strict=True):
                rows_of[i] = rows
            waiting = waiting[count:]
        return rows_of

    def _count_fitting(self, sizes: list[int]) -> int:
        """How many of the items, largest first, make the next batch."""
        most = max(1, self.budget // max(sizes[0], 1))
        return min(most, sizes.count(sizes[0])) if self.equal else min(most, len(sizes))


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
