"""An encoder, and the request that it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

from .inference import Batches, Network

VERSION = (
    1  # raise it when a change in this room changes the vectors of every encoder: stored rows are then computed again
)
SIDES = (320, 640)  # longer side in pixels of the frames that light encoders and models get


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, with every default filled in.

    Attributes
    ----------
    name, branch : str
    modality : str
        frames, sound or text.
    layers : str
    device : str
        A device that PyTorch can use, no longer `auto`.
    precision : str
        fp32, bf16, fp16 or bf16-weights, no longer `auto`.
    budget : int
        Frames, seconds of sound or tokens of a batch.
    trust_remote_code : bool
        Whether code that comes with a transformers model may run.
    window_s, overlap_s : float
        Windows that long sound is cut into, in seconds.
    max_tokens : int
        Tokens of a text that are read at most.
    """

    name: str
    branch: str
    modality: str
    layers: str
    device: str
    precision: str
    budget: int
    trust_remote_code: bool
    window_s: float
    overlap_s: float
    max_tokens: int


@dataclass(frozen=True)
class Encoder:
    """Something that turns inputs into frame-level rows.

    Attributes
    ----------
    name, branch : str
    modality : str
        frames, sound or text.
    layers : str
    revision : str
        Version of the weights or of the code.
    run : callable
        Prepared inputs to the rows float32 (T, D) of each.
    dim : int
        D, before pooling; `load` measures it.
    settings : dict
        What else decides a vector; part of the recipe.
    prepare : callable, optional
        One input to what `run` takes; picklable, since worker processes do it.
    sample_rate : int, optional
        Of the sound that it takes, in Hz.
    n_frames : int, optional
        How many frames a video model takes at once.
    normalise : bool
        Scale the pooled vector to length one.
    portable : bool
        Light and picklable: all of it may run in worker processes.
    batches : Batches, optional
        Its budget shrinks, and `halved` counts, when memory runs out.
    network : Network, optional
        The model behind `run`.
    deviation : float, optional
        Of a vector in half precision from float32, as a share of its length.
    """

    name: str
    branch: str
    modality: str
    layers: str
    revision: str
    run: Callable[[list[Any]], list[np.ndarray]]
    dim: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], Any] | None = None
    sample_rate: int | None = None
    n_frames: int | None = None
    normalise: bool = False
    portable: bool = False
    batches: Batches | None = None
    network: Network | None = None
    deviation: float | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides a vector, for the file's metadata and for reuse."""
        named = {"name": self.name, "revision": self.revision, "layers": self.layers, "version": VERSION}
        return named | self._settings() | {"dim": self.dim}

    def facts(self) -> dict[str, Any]:
        """What a reader wants to know of it: name, revision, columns a frame, settings."""
        named = {"name": self.name, "revision": self.revision, "columns a frame": self.dim, "layers": self.layers}
        checked = {} if self.deviation is None else {"deviation from fp32": f"{self.deviation:.1e}"}
        return named | self._settings() | checked

    def _settings(self) -> dict[str, Any]:
        return self.settings | ({"normalise": True} if self.normalise else {})

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
        return replace(self, run=_not_here, batches=None, network=None)


def _not_here(_: list[Any]) -> list[np.ndarray]:
    raise EcmfError("this copy of the encoder can only prepare inputs")
