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

MODALITIES = {"scene": "frames", "face": "frames", "audio": "sound", "text": "text", "context": "text"}
POOLINGS = ("mean", "mean+std", "max")
COMMIT = re.compile(r"[0-9a-f]{40}")
BUDGETS = {"frames": 32, "sound": 60, "text": 4096}  # of a batch: frames, seconds, tokens
MOST_DEVIATION = 0.05  # of a vector in half precision from float32, as a share of its length


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
        How many frames, seconds of sound or tokens are encoded at a time; 0 means 32, 60 or 4096.
        It is halved when memory runs out.
    modality : str, optional
        frames, sound or text; needed only for a branch that is not one of the five standard ones.
    trust_remote_code : bool
        Whether code that comes with a transformers model may run.
    window_s, overlap_s : float
        Sound that is longer than `window_s` seconds is encoded in windows, which overlap by `overlap_s`.
    max_tokens : int
        Longer texts are cut; the model's own limit holds if it is lower.

    Raises
    ------
    EcmfError
        The name or the layers do not exist, the name does not fit the branch, the weights cannot be had,
        or half precision changes a vector by more than `loading.MOST_DEVIATION` of its length.
    """
    check_layers(layers)
    if batch_size < 0:
        raise EcmfError(f"batch_size={batch_size}: expected at least 1, or 0 for the default")
    modality = modality or MODALITIES.get(branch)
    if modality is None:
        raise EcmfError(f"branch {branch!r} is not standard: say modality=frames, sound or text")
    device = choose_device(device)
    request = Request(
        name=name,
        branch=branch,
        modality=modality,
        layers=layers,
        device=device,
        precision=choose_precision(precision, device),
        budget=batch_size or BUDGETS[modality],
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
    elif scheme == "timm" and source and modality == "frames":
        encoder = load_timm(request, *_split_revision(source, revision))
    else:
        raise EcmfError(
            f"encoder {name!r} does not exist for branch {branch!r}; known: classical (scene, "
            "face, audio), minilm (text), hf:<hub id or folder>, timm:<name or folder> (images)"
        )
    return _try_encoder(encoder, may_change_precision=precision == "auto")


def load_from_recipe(recipe: dict[str, Any], branch: str, device: str = "auto") -> Encoder:
    """Load the encoder that a stored recipe describes, in the same revision.

    Raises
    ------
    EcmfError
        Only another revision is here.
    """
    names = ("precision", "trust_remote_code", "window_s", "overlap_s", "max_tokens")
    settings = {name: recipe[name] for name in names if name in recipe}
    name = recipe["name"]
    if COMMIT.fullmatch(recipe["revision"]):
        name, settings["revision"] = _split_revision(name, None)[0], recipe["revision"]
    encoder = load(name, branch, layers=recipe["layers"], device=device, **settings)
    if encoder.revision != recipe["revision"]:
        raise EcmfError(
            f"{recipe['name']}: the corpus was encoded with revision {recipe['revision']}, here is {encoder.revision}; "
            "bring that one back, or encode the corpus again"
        )
    return encoder


def pool(rows: np.ndarray, pooling: str = "mean", normalise: bool = False) -> np.ndarray:
    """Join frame-level rows to one vector.

    Parameters
    ----------
    rows : (T, D)
    pooling : str
        mean, max, or mean+std (the mean of each column, then its standard deviation).
    normalise : bool
        Scale the vector to length one.

    Returns
    -------
    float32 (D,), or (2 D,) for mean+std
    """
    rows = np.asarray(rows, np.float32)
    if normalise:
        vector = pool(rows, pooling)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)
    if pooling == "mean":
        return rows.mean(0)
    if pooling == "mean+std":
        return np.concatenate([rows.mean(0), rows.std(0)])
    if pooling == "max":
        return rows.max(0)
    raise EcmfError(f"pooling {pooling!r} is unknown; expected one of {', '.join(POOLINGS)}")


def compute_pooled_dim(dim: int, pooling: str) -> int:
    """Length of the vector that `pool` makes of rows with `dim` columns."""
    return len(pool(np.zeros((1, dim)), pooling))


def _split_revision(source: str, revision: str | None) -> tuple[str, str | None]:
    """Split `ID@REVISION`; a folder may have an @ in its name."""
    if Path(source.partition(":")[2] or source).is_dir() or "@" not in source:
        return source, revision
    source, _, revision = source.rpartition("@")
    return source, revision


def _try_encoder(encoder: Encoder, may_change_precision: bool) -> Encoder:
    """Encode a made-up input, so that a model of the wrong kind fails here and not on every clip.

    Parameters
    ----------
    encoder : Encoder
    may_change_precision : bool
        Whether float32 may be used instead, where half precision is too far off.

    Returns
    -------
    Encoder
        The same encoder with its `dim`, and in half precision with its `deviation` from float32.

    Raises
    ------
    EcmfError
        The model cannot encode such an input, it gives another vector every time, or half precision
        changes a vector by more than `MOST_DEVIATION` of its length.
    """
    rate = encoder.sample_rate or 16000
    rng = np.random.default_rng(0)
    made_up = {
        "frames": rng.integers(0, 256, (1, 112, 112, 3)).astype(np.uint8),
        "sound": (np.sin(np.arange(rate) / 10) + rng.normal(0, 0.1, rate)).astype(np.float32),
        "text": "What a day!",
    }[encoder.modality]
    try:
        prepared = encoder.prepare_input(made_up)
        rows, repeated = encoder.run([prepared])[0], encoder.run([prepared])[0]
        if not np.allclose(rows, repeated, rtol=1e-2, atol=1e-2 * np.abs(rows).max()):
            problem = "the same input gives another vector every time; such a model cannot be used"
            raise EcmfError(f"{encoder.name}: {problem}")
        encoder = replace(encoder, dim=int(rows.shape[1]))
        if encoder.network and encoder.network.precision in ("bf16", "fp16"):
            return _check_half_precision(encoder, prepared, rows, may_change_precision)
        return encoder
    except EcmfError:
        raise
    except Exception as error:  # whatever a foreign model raises, the user needs one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise EcmfError(f"encoder {encoder.name!r} cannot encode {encoder.modality}: {reason}") from error


def _check_half_precision(encoder: Encoder, prepared: Any, rows: np.ndarray, may_change_precision: bool) -> Encoder:
    """Compare the rows of one input with those in float32; what is too far off is refused or computed in float32."""
    network = encoder.network
    half, network.precision = network.precision, "fp32"
    exact = encoder.run([prepared])[0].mean(0)
    deviation = float(np.linalg.norm(rows.mean(0) - exact) / max(float(np.linalg.norm(exact)), 1e-12))
    if deviation <= MOST_DEVIATION:
        network.precision = half
        return replace(encoder, deviation=deviation)
    if may_change_precision:  # the network stays in float32
        return replace(encoder, deviation=deviation, settings=encoder.settings | {"precision": "fp32"})
    problem = f"{half} changes a vector by {deviation:.0%} of its length; say precision=fp32 or bf16"
    raise EcmfError(f"{encoder.name}: {problem}")
