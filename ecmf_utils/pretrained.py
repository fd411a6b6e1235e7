"""Pre-trained encoders of transformers and timm, by hub name or local folder.

Everything heavy is imported inside the functions: light commands import this module too.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .paths import EcmfError, digest, file_hash

MAX_TOKENS = 512
SHORTEST_SOUND_S = 0.1  # below it the convolutions of a speech model have nothing to slide over
READERS = {"frames": "AutoImageProcessor", "sound": "AutoFeatureExtractor", "text": "AutoTokenizer"}
LAYERS = re.compile(r"last|(sum|mean)-last-([1-9]\d*)|layer-(\d+)")
WHISPER_FRAMES_PER_S = 50  # the encoder's output, after its stride of two over 10 ms hops
_schemas: list[Any] = []  # torch forgets a library whose object is collected


def mend_torchvision() -> bool:
    """Let torchvision import beside a torch build that its own operators do not fit.

    A torchvision from PyPI next to a CPU-only torch cannot load its compiled operators, and then
    fails at import, with timm and the image processors of transformers behind it. Nothing here uses
    those operators; it is enough to declare them. A torchvision that fits is left alone.

    Returns
    -------
    bool
        Whether anything had to be mended.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or "torchvision" in sys.modules or _schemas:
        return bool(_schemas)
    compiled = importlib.machinery.PathFinder.find_spec("_C", spec.submodule_search_locations)
    try:
        if compiled is None or compiled.origin is None:
            raise OSError("no compiled operators in this installation")
        torch.ops.load_library(compiled.origin)
    except (OSError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(library)
    return bool(_schemas)


def check_layers(layers: str) -> None:
    """Refuse a choice of layers that nobody defined."""
    if not LAYERS.fullmatch(layers):
        raise EcmfError(
            f"layers={layers!r} is unknown; expected last, sum-last-N, mean-last-N or layer-K"
        )


def load_transformers(
    source: str, modality: str, layers: str, revision: str | None, device: str, batch_size: int,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:  # fmt: skip
    """A transformers model as fields of an `Encoder`.

    Parameters
    ----------
    source : str
        A hub id or a local folder with safetensors weights; code of the repository is never run.
    modality : str
        frames, sound or text.
    """
    mend_torchvision()  # image processors, and much that imports them, need it
    import torch
    import transformers

    options = {"revision": revision, "trust_remote_code": False}
    options = {name: value for name, value in options.items() if value is not None}
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        prepare = getattr(transformers, READERS[modality]).from_pretrained(source, **options)
        model = transformers.AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, **options
        )
    except Exception as error:  # hub, disk, format: transformers raises a dozen kinds
        raise EcmfError(_cannot_load(f"hf:{source}", error)) from error
    finally:
        transformers.utils.logging.set_verbosity(before)
    model = _tower(model, modality).to(device).eval()
    build = {"frames": _vision, "sound": _sound, "text": _text}[modality]
    return {
        "run": build(model, prepare, layers, device, batch_size, max_tokens),
        "revision": _revision(source, getattr(model.config, "_commit_hash", None) or revision),
        "sample_rate": getattr(prepare, "sampling_rate", None) if modality == "sound" else None,
        "recipe": {"library": "transformers", "max_tokens": max_tokens, "dtype": "float32"},
    }


def load_timm(source: str, layers: str, device: str, batch_size: int) -> dict[str, Any]:
    """A timm model without its head, as fields of an `Encoder`; one pooled vector a frame."""
    if layers != "last":
        raise EcmfError(f"timm:{source}: timm encoders give layers=last only, not {layers!r}")
    mend_torchvision()
    import timm
    import torch
    from PIL import Image

    local = Path(source).is_dir()
    if local and not (Path(source) / "model.safetensors").exists():
        raise EcmfError(f"timm:{source}: no model.safetensors in the folder; it is needed")
    try:
        name = f"local-dir:{source}" if local else source
        model = timm.create_model(name, pretrained=True, num_classes=0).to(device).eval()
    except Exception as error:  # hub, disk, unknown name: timm raises as many kinds
        raise EcmfError(_cannot_load(f"timm:{source}", error)) from error
    settings = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**settings, is_training=False)

    def forward(frames: list[np.ndarray]) -> np.ndarray:
        pixels = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
        with torch.inference_mode():
            return model(pixels.to(device)).float().cpu().numpy()

    return {
        "run": _by_frame(forward, batch_size),
        "revision": _revision(source, None),
        "sample_rate": None,
        "recipe": {"library": "timm", "input": list(settings["input_size"]), "dtype": "float32"},
    }


def _cannot_load(name: str, error: Exception) -> str:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{name}: the encoder cannot be loaded ({reason.strip()[:200]}); give the folder of a "
        "local copy with safetensors weights, or `hf auth login` where the model is gated"
    )


def _revision(source: str, revision: str | None) -> str:
    """The commit of a hub model; for a folder a hash of its configuration and weights."""
    folder = Path(source)
    if not folder.is_dir():
        return revision or "unknown"
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    return "local-" + digest([file_hash(file) for file in files])


def _tower(model: Any, modality: str) -> Any:
    """The part of a model that sees this modality."""
    name = {"frames": "vision_model", "text": "text_model", "sound": "encoder"}[modality]
    joint = {"frames": True, "text": True, "sound": model.config.model_type == "whisper"}[modality]
    return getattr(model, name) if joint and hasattr(model, name) else model


def _hidden(model: Any, layers: str, **inputs: Any) -> Any:
    """The chosen hidden states (batch, T, D), or (batch, D, H, W) of a convolutional model."""
    output = model(**inputs, output_hidden_states=layers != "last", return_dict=True)
    if layers == "last":
        return output.last_hidden_state
    states, (how, last, one) = output.hidden_states, LAYERS.fullmatch(layers).groups()
    if int(one or 0) >= len(states) or int(last or 1) > len(states):
        raise EcmfError(f"layers={layers!r}: the model has {len(states) - 1} layers only")
    if one is not None:
        return states[int(one)]
    total = sum(states[-int(last) :])
    return total / int(last) if how == "mean" else total


def _by_frame(
    forward: Callable[[list[np.ndarray]], np.ndarray], batch_size: int
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Encode the frames of several clips in common batches and hand them back clip by clip."""

    def encode(clips: list[np.ndarray]) -> list[np.ndarray]:
        flat = [frame for clip in clips for frame in clip]
        batches = [flat[i : i + batch_size] for i in range(0, len(flat), batch_size)]
        vectors = np.concatenate([forward(batch) for batch in batches])
        return np.split(vectors, np.cumsum([len(clip) for clip in clips])[:-1])

    return encode


def _vision(
    model: Any, prepare: Any, layers: str, device: str, batch_size: int, _: int
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """One vector a frame: the class token where the model has one, else the mean of the patches."""
    import torch

    def forward(frames: list[np.ndarray]) -> np.ndarray:
        layout = {"return_tensors": "pt", "input_data_format": "channels_last"}
        pixels = prepare(images=list(frames), **layout)["pixel_values"].to(device)
        with torch.inference_mode():
            hidden = _hidden(model, layers, pixel_values=pixels).float()
        if hidden.ndim == 4:
            return hidden.mean((2, 3)).cpu().numpy()
        side = getattr(model.config, "patch_size", None)
        n_patches = (pixels.shape[-2] // side) * (pixels.shape[-1] // side) if side else None
        classed = n_patches is not None and hidden.shape[1] > n_patches
        return (hidden[:, 0] if classed else hidden.mean(1)).cpu().numpy()

    return _by_frame(forward, batch_size)


def _sound(
    model: Any, prepare: Any, layers: str, device: str, _: int, __: int
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Rows of a speech model; each clip alone, since padding changes models with group norm."""
    import torch

    rate = prepare.sampling_rate
    whisper = model.config.model_type == "whisper"

    def one(sound: np.ndarray) -> np.ndarray:
        shortest = int(SHORTEST_SOUND_S * rate)
        sound = np.pad(sound, (0, max(0, shortest - len(sound))))
        inputs = prepare(sound, sampling_rate=rate, return_tensors="pt")
        key = "input_features" if "input_features" in inputs else "input_values"
        with torch.inference_mode():
            hidden = _hidden(model, layers, **{key: inputs[key].to(device)})[0].float()
        if whisper:  # it always hears 30 s; the rest is padding
            hidden = hidden[: int(np.ceil(len(sound) / rate * WHISPER_FRAMES_PER_S))]
        return hidden.cpu().numpy()

    return lambda clips: [one(sound) for sound in clips]


def _text(
    model: Any, prepare: Any, layers: str, device: str, batch_size: int, max_tokens: int
) -> Callable[[list[str]], list[np.ndarray]]:
    """Rows of the tokens of each text, without padding."""
    import torch

    if prepare.pad_token is None:
        prepare.pad_token = prepare.eos_token
    prepare.padding_side = "right"  # positions count from the left in every model
    positions = getattr(model.config, "max_position_embeddings", max_tokens)
    limit = int(min(max_tokens, prepare.model_max_length, positions))

    def batch(texts: list[str]) -> list[np.ndarray]:
        inputs = prepare(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            hidden = _hidden(model, layers, **inputs).float().cpu().numpy()
        masks = inputs["attention_mask"].bool().cpu().numpy()
        return [rows[mask] for rows, mask in zip(hidden, masks, strict=True)]

    def encode(texts: list[str]) -> list[np.ndarray]:
        starts = range(0, len(texts), batch_size)
        return [rows for i in starts for rows in batch(list(texts[i : i + batch_size]))]

    return encode
