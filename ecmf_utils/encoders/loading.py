"""Encoders by name: classical descriptors offline, any transformers or timm model otherwise."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

from . import classical
from .encoder import Encoder, Request
from .inference import check_layers, choose_device, choose_precision
from .pretrained import MAX_TOKENS, load_minilm, load_timm, load_transformers

MODALITY = {"scene": "frames", "face": "frames", "audio": "sound", "text": "text", "context": "text"}
POOLINGS = ("mean", "mean+std", "max")
COMMIT = re.compile(r"[0-9a-f]{40}")
BUDGETS = {"frames": 32, "sound": 60, "text": 4096}  # of a batch: frames, seconds, tokens


def load(
    name: str,
    branch: str,
    *,
    layers: str = "last",
    revision: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 0,
    modality: str | None = None,
    trust_remote_code: bool = False,
    window_s: float = 30.0,
    overlap_s: float = 2.0,
    max_tokens: int = MAX_TOKENS,
) -> Encoder:
    """Make an encoder for a branch.

    Parameters
    ----------
    name : str
        `classical` (scene, face, audio), `minilm` (text), `hf:<hub id or folder>[@revision]` or
        `timm:<name, hub id or folder>`.
    branch : str
    layers : str
        last, sum-last-N, mean-last-N, layer-K (0 is the embedding layer), or projected (the joint
        space of CLIP and SigLIP).
    revision : str, optional
        Commit or tag of a hub model, when it is not part of the name.
    device : str
        auto, cpu, cuda ...
    precision : str
        auto (bf16 on a GPU that has it, fp32 on a CPU), fp32, bf16, fp16 or bf16-weights. Half
        precision is compared with float32 once, on a made-up input.
    batch_size : int
        Frames, seconds of sound or tokens encoded at a time; 0: 32, 60 or 4096. Halved when memory
        runs out.
    modality : str, optional
        frames, sound or text; known for the five standard branches.
    trust_remote_code : bool
        Whether code that comes with a transformers model may run.
    window_s, overlap_s : float
        Longer sound is encoded in windows of so many seconds, which overlap.
    max_tokens : int
        Longer texts are cut; at most what the model takes.

    Raises
    ------
    EcmfError
        Unknown name or layers, weights that cannot be had, a name that does not fit the branch,
        half precision that changes vectors by more than `loading.MOST_DEVIATION`.
    """
    check_layers(layers)
    if batch_size < 0:
        raise EcmfError(f"batch_size={batch_size}: expected at least 1, or 0 for the default")
    kind = modality or MODALITY.get(branch)
    if kind is None:
        raise EcmfError(f"branch {branch!r} is not standard: say modality=frames, sound or text")
    device = choose_device(device)
    request = Request(
        name=name,
        branch=branch,
        modality=kind,
        layers=layers,
        device=device,
        precision=choose_precision(precision, device),
        budget=batch_size or BUDGETS[kind],
        trust_remote_code=trust_remote_code,
        window_s=window_s,
        overlap_s=overlap_s,
        max_tokens=max_tokens,
    )
    scheme, _, source = name.partition(":")
    if name == "classical":
        encoder = classical.load(request)
    elif name == "minilm":
        encoder = load_minilm(request)
    elif scheme == "hf" and source:
        encoder = load_transformers(request, *_split_revision(source, revision))
    elif scheme == "timm" and source and kind == "frames":
        encoder = load_timm(request, *_split_revision(source, revision))
    else:
        raise EcmfError(
            f"encoder {name!r} does not exist for branch {branch!r}; known: classical (scene, "
            "face, audio), minilm (text), hf:<hub id or folder>, timm:<name or folder> (images)"
        )
    return tried(encoder, precision)


def again(recipe: dict[str, Any], branch: str, device: str = "auto") -> Encoder:
    """The encoder that a stored recipe tells of, in the same revision.

    Raises
    ------
    EcmfError
        It is here in another revision only.
    """
    own = ("precision", "trust_remote_code", "window_s", "overlap_s", "max_tokens")
    how = {name: recipe[name] for name in own if name in recipe}
    name, commit = recipe["name"], COMMIT.fullmatch(recipe["revision"])
    if commit:
        name, how = _split_revision(name, None)[0], how | {"revision": recipe["revision"]}
    made = load(name, branch, layers=recipe["layers"], device=device, **how)
    if made.revision != recipe["revision"]:
        raise EcmfError(
            f"{recipe['name']}: the corpus was encoded with revision {recipe['revision']}, here is {made.revision}; "
            "bring that one back, or encode the corpus again"
        )
    return made


def pool(frames: np.ndarray, pooling: str = "mean", normalise: bool = False) -> np.ndarray:
    """Frame-level rows (T, D) to one vector: mean or max (D,), mean+std (2 D,); `normalise`: of length one."""
    frames = np.asarray(frames, np.float32)
    if normalise:
        vector = pool(frames, pooling)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)
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


def _split_revision(source: str, revision: str | None) -> tuple[str, str | None]:
    if Path(source.partition(":")[2] or source).is_dir() or "@" not in source:
        return source, revision
    source, _, own = source.rpartition("@")
    return source, own


# ---- a loaded model on a made-up input: its width, whether it repeats itself, how exact half precision is


MOST_DEVIATION = 0.05  # of a vector in half precision, as a share of its length


def tried(encoder: Encoder, precision: str) -> Encoder:
    """Encode a made-up input, so that a model of the wrong kind fails here and not on every clip.

    Parameters
    ----------
    encoder : Encoder
    precision : str
        What was asked for; where it is `auto` and half precision is too far off, float32 is used instead.

    Returns
    -------
    Encoder
        The same with its `dim`, and for half precision with its `deviation` from float32.

    Raises
    ------
    EcmfError
        The model cannot encode such an input, or not twice the same way, or half precision was asked
        for and changes a vector by more than `MOST_DEVIATION`.
    """
    rate = encoder.sample_rate or 16000
    noise = np.random.default_rng(0)
    given = {
        "frames": noise.integers(0, 256, (1, 112, 112, 3)).astype(np.uint8),
        "sound": (np.sin(np.arange(rate) / 10) + noise.normal(0, 0.1, rate)).astype(np.float32),
        "text": "What a day!",
    }[encoder.modality]
    try:
        ready = encoder.ready(given)
        rows, once_more = encoder.run([ready])[0], encoder.run([ready])[0]
        if not np.allclose(rows, once_more, rtol=1e-2, atol=1e-2 * np.abs(rows).max()):
            raise EcmfError(
                f"{encoder.name}: the same input gives another vector every time; such a model cannot be used"
            )
        return _compared(replace(encoder, dim=int(rows.shape[1])), ready, rows, precision)
    except EcmfError:
        raise
    except Exception as error:  # whatever a foreign model raises, the user needs one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise EcmfError(f"encoder {encoder.name!r} cannot encode {encoder.modality}: {reason}") from error


def _compared(encoder: Encoder, ready: Any, rows: np.ndarray, precision: str) -> Encoder:
    """How far half precision is from float32; too far is refused, or undone where nobody asked for it."""
    network = encoder.network
    if network is None or network.precision not in ("bf16", "fp16"):
        return encoder
    used, network.precision = network.precision, "fp32"
    exact = encoder.run([ready])[0].mean(0)
    deviation = float(np.linalg.norm(rows.mean(0) - exact) / max(float(np.linalg.norm(exact)), 1e-12))
    if deviation <= MOST_DEVIATION:
        network.precision = used
        return replace(encoder, deviation=deviation)
    if precision == "auto":
        return replace(encoder, deviation=deviation, settings=encoder.settings | {"precision": "fp32"})
    raise EcmfError(
        f"{encoder.name}: {used} changes a vector by {deviation:.0%} of its length; say precision=fp32 or bf16"
    )
