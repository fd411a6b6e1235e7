"""What a pre-trained model of each modality takes, and the rows that it gives back.

Preparing is apart from running: it needs no network and is done in worker processes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ecmf_utils.files import EcmfError
from ecmf_utils.media.reading import MediaError

from .inference import Batches, Network

SHORTEST_SOUND_S = 0.1  # below it the convolutions of a speech model have nothing to slide over
WHISPER_FRAMES_PER_S = 50  # the encoder's output, after its stride of two over 10 ms hops
WHISPER_S = 30.0  # what it hears at a time, padded
VIDEO = ("videomae",)  # models that take a clip, not a frame, with tokens in the order of time


class Prepared(NamedTuple):
    """One clip as its model takes it.

    Attributes
    ----------
    items : list
        What goes through the model at a time: frames, windows of sound, a text.
    sizes : list of int
        Of the items, in the unit of the batch budget.
    keep : list of (float, float)
        The share of the rows of each item that is kept: neighbours cover the rest.
    problem, detail : str
        A code and a sentence where something of the clip was left out or cut.
    """

    items: list[Any]
    sizes: list[int]
    keep: list[tuple[float, float]] | None = None
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Tower:
    """A model and its way through clips.

    Attributes
    ----------
    network : Network
    prepare : callable
        One input to `Prepared`; picklable, since worker processes do it.
    batches : Batches
        What runs items of several clips through the network together.
    settings : dict
        What the preparation decides of a vector; part of the recipe.
    n_frames : int, optional
        How many frames a video model takes at once.
    """

    network: Network
    prepare: Callable[[Any], Prepared]
    batches: Batches
    settings: dict[str, Any] = field(default_factory=dict)
    n_frames: int | None = None

    def run(self, clips: list[Prepared]) -> list[np.ndarray]:
        """Items of several clips through the model in common batches, handed back clip by clip."""
        flat = [(item, size) for clip in clips for item, size in zip(clip.items, clip.sizes, strict=True)]
        rows = self.batches([item for item, _ in flat], [size for _, size in flat])
        starts = np.cumsum([0, *(len(clip.items) for clip in clips)])
        return [_joined(clip, rows[a:b]) for clip, a, b in zip(clips, starts, starts[1:], strict=False)]


def _joined(clip: Prepared, rows: Sequence[np.ndarray]) -> np.ndarray:
    if clip.keep is None:
        return np.concatenate(rows)
    cut = [(round(a * len(one)), round(b * len(one))) for one, (a, b) in zip(rows, clip.keep, strict=True)]
    return np.concatenate([one[a:b] for one, (a, b) in zip(rows, cut, strict=True)])


# ---- frames


def prepare_frames(frames: np.ndarray, processor: Any) -> Prepared:
    """Frames uint8 (F, H, W, 3) to pixels, one item a frame."""
    pixels = _pixels(frames, processor)
    return Prepared(list(pixels), [1] * len(pixels))


def prepare_clip(frames: np.ndarray, processor: Any, n_frames: int) -> Prepared:
    """As many frames as a video model takes, evenly chosen (or repeated), as one item."""
    chosen = np.linspace(0, len(frames) - 1, n_frames).round().astype(int)
    pixels = _pixels(frames[chosen], processor)
    return Prepared([pixels.reshape(-1, *pixels.shape[-3:])], [n_frames])


def prepare_timm(frames: np.ndarray, transform: Callable) -> Prepared:
    """Frames as a timm model was trained on them."""
    from PIL import Image

    return Prepared([transform(Image.fromarray(frame)).numpy() for frame in frames], [1] * len(frames))


def _pixels(frames: np.ndarray, processor: Any) -> np.ndarray:
    made = processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
    return made["pixel_values"].numpy()


def frames_tower(net: Network, processor: Any, budget: int) -> Tower:
    """One row a frame: the class token where the model has one, else the mean of the patches."""
    import torch

    def forward(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        pixels = torch.from_numpy(np.stack(items))
        hidden = net(pixel_values=pixels)
        return _of_frames(hidden, net.model.config, pixels.shape).cpu().numpy()[:, None]

    return Tower(net, partial(prepare_frames, processor=processor), Batches(forward, budget))


def timm_tower(net: Network, transform: Callable, budget: int) -> Tower:
    """One row a frame, as timm pools it."""
    import torch

    def forward(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        return net(x=torch.from_numpy(np.stack(items))).cpu().numpy()[:, None]

    return Tower(net, partial(prepare_timm, transform=transform), Batches(forward, budget))


def _of_frames(hidden: Any, config: Any, shape: Sequence[int]) -> Any:
    if hidden.ndim == 2:  # projected
        return hidden
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    side = getattr(config, "patch_size", None)
    n_patches = (shape[-2] // side) * (shape[-1] // side) if side else None
    classed = n_patches is not None and hidden.shape[1] > n_patches
    return hidden[:, 0] if classed else hidden.mean(1)


def video_tower(net: Network, processor: Any, budget: int) -> Tower:
    """One row a time step of a video model: the mean of its patches."""
    import torch

    config = net.model.config
    count = config.num_frames

    def forward(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        pixels = torch.from_numpy(np.stack(items))
        hidden = net(pixel_values=pixels)
        side = config.patch_size
        patches = (pixels.shape[-2] // side) * (pixels.shape[-1] // side)
        hidden = hidden[:, hidden.shape[1] % patches :]  # without a class token
        return hidden.reshape(len(items), -1, patches, hidden.shape[-1]).mean(2).cpu().numpy()

    batches = Batches(forward, max(budget, count))
    prepare = partial(prepare_clip, processor=processor, n_frames=count)
    return Tower(net, prepare, batches, n_frames=count)


# ---- sound


def windows(n: int, size: int, overlap: int) -> tuple[list[tuple[int, int]], list[tuple[float, float]]]:
    """Windows of equal length over `n` samples, and which share of each is kept.

    The last one ends with the sound, so it may overlap more; each overlap is cut in its middle.
    """
    if n <= size:
        return [(0, n)], [(0.0, 1.0)]
    starts = [*range(0, n - size, size - overlap), n - size]
    spans = [(start, start + size) for start in starts]
    cuts = [0.0, *((one[1] + two[0]) / 2 for one, two in zip(spans, spans[1:], strict=False)), float(n)]
    return spans, [((a - s) / size, (b - s) / size) for s, a, b in zip(starts, cuts, cuts[1:], strict=False)]


def prepare_sound(sound: np.ndarray, processor: Any, window_s: float, overlap_s: float) -> Prepared:
    """Sound float32 (samples,) as the model's own preprocessing makes it, cut into windows where it is long."""
    rate = processor.sampling_rate
    sound = np.pad(sound, (0, max(0, int(SHORTEST_SOUND_S * rate) - len(sound))))
    values = processor(sound, sampling_rate=rate, return_tensors="np")["input_values"][0]
    spans, keep = windows(len(values), int(window_s * rate), int(overlap_s * rate))
    items = [np.ascontiguousarray(values[a:b], np.float32) for a, b in spans]
    return Prepared(items, [len(item) for item in items], keep, *_told(spans, window_s, overlap_s))


def prepare_spectrogram(sound: np.ndarray, processor: Any, window_s: float, overlap_s: float) -> Prepared:
    """Sound as log-mel spectrograms of fixed length, for Whisper; rows of the padding are left out."""
    rate = processor.sampling_rate
    spans, keep = windows(len(sound), int(window_s * rate), int(overlap_s * rate))
    items = [processor(sound[a:b], sampling_rate=rate, return_tensors="np")["input_features"][0] for a, b in spans]
    heard = [(b - a) / rate / WHISPER_S for a, b in spans]
    rows = WHISPER_S * WHISPER_FRAMES_PER_S
    keep = [(a * h, max(np.ceil(b * h * rows), 1) / rows) for (a, b), h in zip(keep, heard, strict=True)]
    sizes = [int(WHISPER_S * rate)] * len(items)
    return Prepared(items, sizes, keep, *_told(spans, window_s, overlap_s))


def _told(spans: Sequence, window_s: float, overlap_s: float) -> tuple[str, str]:
    if len(spans) < 2:
        return "", ""
    return "sound_windows", f"{len(spans)} windows of {window_s:g} s that overlap by {overlap_s:g} s or more"


def sound_tower(net: Network, processor: Any, budget: int, window_s: float, overlap_s: float) -> Tower:
    """Time steps of a speech model. Padding is masked; with group normalisation only equal lengths are batched."""
    import torch

    config = net.model.config
    whisper = config.model_type == "whisper"
    window_s = min(window_s, WHISPER_S) if whisper else window_s
    if not 0 <= overlap_s < window_s:
        raise EcmfError(f"window_s={window_s:g}, overlap_s={overlap_s:g}: expected 0 <= overlap_s < window_s")
    masked = getattr(config, "feat_extract_norm", None) == "layer"

    def spectrograms(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        return net(input_features=torch.from_numpy(np.stack(items))).cpu().numpy()

    def waves(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        lengths = [len(item) for item in items]
        values = torch.zeros(len(items), max(lengths))
        for row, item in zip(values, items, strict=True):
            row[: len(item)] = torch.from_numpy(item)
        if min(lengths) == max(lengths):
            return list(net(input_values=values).cpu().numpy())
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        hidden = net(input_values=values, attention_mask=mask).cpu().numpy()
        kept = [int(net.model._get_feat_extract_output_lengths(n)) for n in lengths]
        return [rows[:n] for rows, n in zip(hidden, kept, strict=True)]

    budget *= processor.sampling_rate
    batches = Batches(spectrograms if whisper else waves, budget, equal=not masked)
    prepare = partial(
        prepare_spectrogram if whisper else prepare_sound,
        processor=processor,
        window_s=window_s,
        overlap_s=overlap_s,
    )
    return Tower(net, prepare, batches, {"window_s": window_s, "overlap_s": overlap_s})


# ---- text


def prepare_text(text: str, tokenizer: Any, limit: int) -> Prepared:
    """The tokens of a text as one item; what is beyond the limit is left out and told."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    if not ids:
        raise MediaError("empty_text", "transcript", "no token of the encoder's vocabulary")
    if len(ids) <= limit:
        return Prepared([ids], [len(ids)])
    told = f"{len(ids):,} tokens, {limit:,} were read"
    ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    return Prepared([ids], [len(ids)], problem="text_cut", detail=told)


def text_tower(net: Network, tokenizer: Any, budget: int, max_tokens: int) -> Tower:
    """Rows of the tokens of each text, special tokens included, without padding."""
    import torch

    if max_tokens < 1:
        raise EcmfError(f"max_tokens={max_tokens}: expected at least 1")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = int(min(max_tokens, tokenizer.model_max_length, _positions(net.model)))

    def forward(items: list[list[int]]) -> Sequence[np.ndarray]:
        longest = max(map(len, items))  # padding is on the right: positions count from the left
        ids = torch.tensor([item + [tokenizer.pad_token_id or 0] * (longest - len(item)) for item in items])
        mask = torch.tensor([[1] * len(item) + [0] * (longest - len(item)) for item in items])
        hidden = net(input_ids=ids, attention_mask=mask).cpu().numpy()
        return [rows[: len(item)] for rows, item in zip(hidden, items, strict=True)]

    prepare = partial(prepare_text, tokenizer=tokenizer, limit=limit)
    return Tower(net, prepare, Batches(forward, budget), {"max_tokens": limit})


def _positions(model: Any) -> int:
    """How many tokens the position embeddings are made for; RoBERTa's begin behind the padding index."""
    positions = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return (positions or 10**9) - (0 if padding is None else padding + 1)
