"""A model over inputs of many lengths: layers, precision, and batches that fit into memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

LAYERS = re.compile(r"last|projected|(sum|mean)-last-([1-9]\d*)|layer-(\d+)")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "bf16-weights")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def check_layers(layers: str) -> None:
    """Refuse a choice of layers that nobody defined."""
    if not LAYERS.fullmatch(layers):
        raise EcmfError(f"layers={layers!r} is unknown; expected last, sum-last-N, mean-last-N, layer-K or projected")


def choose_device(device: str) -> str:
    """`auto` is the GPU where PyTorch sees one."""
    import torch

    if torch.cuda.is_available():  # TF32 is no float32
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
    """`auto` is float32 on a CPU and bfloat16 (else float16) on a GPU."""
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
    """A model and how it is run.

    Attributes
    ----------
    states : callable
        Model, choice of layers and inputs by name to hidden states.
    layers : str
        last, sum-last-N, mean-last-N, layer-K (0 is the embedding layer) or projected.
    precision : str
        fp32; bf16 or fp16 (autocast over float32 weights); bf16-weights (half the memory).
    """

    model: Any
    states: Callable[..., Any]
    layers: str
    device: str
    precision: str = "fp32"

    def __call__(self, **inputs: Any) -> Any:
        """Hidden states in float32 on the model's device.

        What is not finite in half precision is computed once more in float32.
        """
        import torch

        inputs = {name: self._placed(value) for name, value in inputs.items()}
        with torch.inference_mode(), self._autocast():
            found = self.states(self.model, self.layers, **inputs).float()
        if self.precision in ("bf16", "fp16") and not torch.isfinite(found).all():
            with torch.inference_mode():
                found = self.states(self.model, self.layers, **inputs).float()
        return found

    def _placed(self, value: Any) -> Any:
        import torch

        half = self.precision == "bf16-weights" and value.is_floating_point()
        return value.to(self.device, torch.bfloat16 if half else None)

    def _autocast(self) -> AbstractContextManager:
        import torch

        if self.precision not in ("bf16", "fp16"):
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.partition(":")[0], dtype)


def hidden_states(model: Any, layers: str, **inputs: Any) -> Any:
    """Of a transformers model: (B, T, D), (B, D, H, W) of a convolutional one, or projected (B, D)."""
    if layers == "projected":
        found = model.get_image_features(**inputs)
        return getattr(found, "pooler_output", found)
    output = model(**inputs, output_hidden_states=layers != "last", return_dict=True)
    return output.last_hidden_state if layers == "last" else combine(output.hidden_states, layers)


def timm_states(model: Any, layers: str, x: Any) -> Any:
    """Of a timm model (B, D): its own pooled vector, else the class token or mean of the patches of blocks."""
    if layers == "last":
        return model(x)
    prefix = getattr(model, "num_prefix_tokens", 0)
    try:
        extra = {"return_prefix_tokens": True} if prefix else {}
        blocks = model.forward_intermediates(x, intermediates_only=True, **extra)
    except (AttributeError, TypeError):
        raise EcmfError(f"layers={layers!r}: this timm model gives layers=last only") from None
    if prefix and getattr(model, "cls_token", None) is not None:
        rows = [tokens[:, 0] for _, tokens in blocks]
    else:
        rows = [(block[0] if prefix else block).mean((2, 3)) for block in blocks]
    if layers == "layer-0" or (layers.startswith(("sum", "mean")) and len({row.shape for row in rows}) > 1):
        raise EcmfError(f"layers={layers!r}: of this timm model, take one block: layer-1 to layer-{len(rows)}")
    return combine([None, *rows], layers)


def combine(states: Sequence[Any], layers: str) -> Any:
    """One of the hidden states, or the sum or mean of the last ones; the first is the embedding layer."""
    how, last, one = LAYERS.fullmatch(layers).groups()
    if int(one or 0) >= len(states) or int(last or 1) > len(states):
        raise EcmfError(f"layers={layers!r}: the model has {len(states) - 1} layers only")
    if one is not None:
        return states[int(one)]
    total = sum(states[-int(last) :])
    return total / int(last) if how == "mean" else total


@dataclass
class Batches:
    """Items of similar size through a model together, as many as a budget allows.

    Attributes
    ----------
    forward : callable
        A list of items to the rows (T, D) of each.
    budget : int
        What the items of a batch may add up to, padding included; halved when memory runs out.
    equal : bool
        Only items of the same size together, for models that padding changes.
    halved : int
        How often memory ran out.
    """

    forward: Callable[[list[Any]], Sequence[np.ndarray]]
    budget: int
    equal: bool = False
    halved: int = 0

    def __call__(self, items: Sequence[Any], sizes: Sequence[int]) -> list[np.ndarray]:
        """Rows of each item, in the order that they came."""
        found: list[Any] = [None] * len(items)
        order = sorted(range(len(items)), key=lambda i: -sizes[i])  # memory runs out at once or never
        while order:
            count = self._fitting([sizes[i] for i in order])
            rows = self._tried([items[i] for i in order[:count]])
            if rows is None:
                _free_memory()
                self.budget, self.halved = sizes[order[0]] * (count // 2), self.halved + 1
                continue
            for i, one in zip(order[:count], rows, strict=True):
                found[i] = one
            order = order[count:]
        return found

    def _tried(self, items: list[Any]) -> Sequence[np.ndarray] | None:
        """Rows of a batch; None when memory ran out and there is something to halve."""
        try:
            return self.forward(items)
        except RuntimeError as error:
            if len(items) == 1 or not _no_memory(error):
                raise
            return None

    def _fitting(self, sizes: list[int]) -> int:
        most = max(1, self.budget // max(sizes[0], 1))
        return min(most, sizes.count(sizes[0])) if self.equal else min(most, len(sizes))


def _no_memory(error: Exception) -> bool:
    return any(words in str(error).lower() for words in NO_MEMORY)


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
