"""An encoder, and the request that it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

from .inference import Batches, Network

VERSION = 1  # raise it when a change here moves vectors of every encoder: stored rows are then computed again
LIGHT_SIDE, MODEL_SIDE = 320, 640  # px, longer side of the frames that light encoders and models get


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, with every default filled in.

    Attributes
    ----------
    name, branch : str
    modality : str
        frames, sound or text.
    layers : str
        last, sum-last-N, mean-last-N, layer-K or projected.
    device : str
        A device that PyTorch can use, no longer `auto`.
    precision : str
        fp32, bf16, fp16 or bf16-weights, no longer `auto`.
    budget : int
        Frames, seconds of sound or tokens of a batch.
    trust_remote_code : bool
        Whether code that comes with a transformers model may run.
    window_s, overlap_s : float
        Length and overlap, in seconds, of the windows that long sound is cut into.
    max_tokens : int
        How many tokens of a text are read at most.
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
        last, sum-last-N, mean-last-N, layer-K or projected.
    revision : str
        Version of the weights or of the code.
    run : callable
        A list of prepared inputs to the rows float32 (T, D) of each.
    dim : int
        D, before pooling; `load` measures it.
    settings : dict
        What else decides a vector. It becomes part of the recipe.
    prepare : callable, optional
        One input to what `run` takes. Worker processes call it, so it can be pickled.
    sample_rate : int, optional
        Sampling rate in Hz of the sound that the encoder takes.
    n_frames : int, optional
        How many frames a video model takes at once.
    normalise : bool
        Scale the pooled vector to length one.
    portable : bool
        The encoder is light and can be pickled: all of it may run in worker processes.
    batches : Batches, optional
        The batches behind `run`. When memory runs out, their budget shrinks and `halved` counts it.
    network : Network, optional
        The model behind `run`.
    deviation : float, optional
        Distance of a vector in half precision from float32, as a share of the vector's length.
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
        """Everything that decides a vector. It is stored with the vectors and decides whether they can be reused."""
        identity = {"name": self.name, "revision": self.revision, "layers": self.layers, "version": VERSION}
        return identity | self._all_settings | {"dim": self.dim}

    @property
    def _all_settings(self) -> dict[str, Any]:
        return self.settings | ({"normalise": True} if self.normalise else {})

    @property
    def frame_side(self) -> int:
        """Longer side in pixels at which frames are read: no smaller than what a model resizes them to."""
        return LIGHT_SIDE if self.portable else MODEL_SIDE

    def describe(self) -> dict[str, Any]:
        """Say what a reader wants to know: name, revision, columns a frame, layers, settings."""
        identity = {"name": self.name, "revision": self.revision, "columns a frame": self.dim, "layers": self.layers}
        checked = {} if self.deviation is None else {"deviation from fp32": f"{self.deviation:.1e}"}
        return identity | self._all_settings | checked

    def prepare_input(self, value: Any) -> Any:
        """Turn one input of `encode` into what `run` takes."""
        value = getattr(value, "frames", value)
        return self.prepare(value) if self.prepare else value

    def encode(self, inputs: list[Any]) -> list[np.ndarray]:
        """Compute the frame-level rows float32 (T, D) of each input.

        Parameters
        ----------
        inputs : list
            uint8 (F, H, W, 3) frames, or frames with their times, for scene and face; float32
            (samples,) at `sample_rate` Hz for audio; str for text and context.
        """
        return self.run([self.prepare_input(value) for value in inputs])

    def drop_model(self) -> Encoder:
        """Copy only what worker processes need to prepare inputs."""
        return replace(self, run=_refuse_to_run, batches=None, network=None)


def _refuse_to_run(_: list[Any]) -> list[np.ndarray]:
    raise EcmfError("this copy of the encoder can only prepare inputs")
