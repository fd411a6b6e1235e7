"""What a pre-trained model of each modality takes, and the rows that it gives back.

Preparing an input needs no network, so it is a function of its own: worker processes prepare the next
clips while the network runs.
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

SHORTEST_SOUND_S = 0.1  # the convolutions of a speech model need at least as much
WHISPER_ROWS_PER_S = 50  # of the encoder's output: its stride is two hops of 10 ms
WHISPER_S = 30.0  # Whisper takes so many seconds at a time; what is shorter is padded
VIDEO_MODELS = ("videomae",)  # they take a clip, not a frame, and give tokens in the order of time


class Prepared(NamedTuple):
    """One clip as its model takes it.

    Attributes
    ----------
    items : list
        What goes through the model at a time: frames, windows of sound, or one text.
    sizes : list of int
        Size of each item in the unit of the batch budget: frames, samples or tokens.
    keep : list of (float, float), optional
        From where to where the rows of each item are kept, as shares of their number: neighbouring
        windows cover the rest. None keeps all of them.
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
    """A model, how an input is prepared for it, and how clips go through it.

    Attributes
    ----------
    network : Network
    prepare : callable
        One input to `Prepared`. Worker processes call it, so it can be pickled.
    batches : Batches
        What runs the items of several clips through the network together.
    settings : dict
        What the preparation decides of a vector. It becomes part of the recipe.
    n_frames : int, optional
        How many frames a video model takes at once.
    """

    network: Network
    prepare: Callable[[Any], Prepared]
    batches: Batches
    settings: dict[str, Any] = field(default_factory=dict)
    n_frames: int | None = None

    def run(self, clips: list[Prepared]) -> list[np.ndarray]:
        """Compute the rows float32 (T, D) of each clip; items of several clips share batches."""
        items = [item for clip in clips for item in clip.items]
        sizes = [size for clip in clips for size in clip.sizes]
        rows = self.batches(items, sizes)
        ends = np.cumsum([len(clip.items) for clip in clips])
        return [_join_rows(clip, rows[end - len(clip.items) : end]) for clip, end in zip(clips, ends, strict=True)]


def _join_rows(clip: Prepared, rows_of_items: Sequence[np.ndarray]) -> np.ndarray:
    """Put the rows of a clip's items behind each other, without those that a neighbour covers."""
    if clip.keep is None:
        return np.concatenate(rows_of_items)
    kept = [
        rows[round(first * len(rows)) : round(last * len(rows))]
        for rows, (first, last) in zip(rows_of_items, clip.keep, strict=True)
    ]
    return np.concatenate(kept)


# ---- frames


def prepare_frames(frames: np.ndarray, processor: Any) -> Prepared:
    """Turn frames uint8 (F, H, W, 3) into pixels, one item a frame."""
    pixels = _process_frames(frames, processor)
    return Prepared(list(pixels), [1] * len(pixels))


def prepare_clip(frames: np.ndarray, processor: Any, n_frames: int) -> Prepared:
    """Turn as many frames as a video model takes, evenly chosen (or repeated), into one item."""
    chosen = np.linspace(0, len(frames) - 1, n_frames).round().astype(int)
    pixels = _process_frames(frames[chosen], processor)
    return Prepared([pixels.reshape(-1, *pixels.shape[-3:])], [n_frames])


def prepare_timm(frames: np.ndarray, transform: Callable) -> Prepared:
    """Turn frames uint8 (F, H, W, 3) into pixels as a timm model was trained on them, one item a frame."""
    from PIL import Image

    return Prepared([transform(Image.fromarray(frame)).numpy() for frame in frames], [1] * len(frames))


def _process_frames(frames: np.ndarray, processor: Any) -> np.ndarray:
    """Resize and scale frames as the model's own processor does: float32 (F, 3, H, W)."""
    inputs = processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
    return inputs["pixel_values"].numpy()


def make_frames_tower(network: Network, processor: Any, budget: int) -> Tower:
    """Make the tower of an image model.

    It gives one row a frame: the class token where the model has one, else the mean of the patches.
    """
    import torch

    def forward(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        pixels = torch.from_numpy(np.stack(items))
        hidden = network(pixel_values=pixels)
        return _pool_tokens(hidden, network.model.config, pixels.shape).cpu().numpy()[:, None]

    return Tower(network, partial(prepare_frames, processor=processor), Batches(forward, budget))


def make_timm_tower(network: Network, transform: Callable, budget: int) -> Tower:
    """Make the tower of a timm model. It gives one row a frame, as timm pools it."""
    import torch

    def forward(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        return network(x=torch.from_numpy(np.stack(items))).cpu().numpy()[:, None]

    return Tower(network, partial(prepare_timm, transform=transform), Batches(forward, budget))


def _pool_tokens(hidden: Any, config: Any, shape: Sequence[int]) -> Any:
    """Hidden states of frames to one row each, (B, D); `shape` is that of the pixels (B, 3, H, W)."""
    if hidden.ndim == 2:  # projected: one row already
        return hidden
    if hidden.ndim == 4:  # a convolutional model: (B, D, H, W)
        return hidden.mean((2, 3))
    side = getattr(config, "patch_size", None)
    n_patches = (shape[-2] // side) * (shape[-1] // side) if side else None
    has_class_token = n_patches is not None and hidden.shape[1] > n_patches
    return hidden[:, 0] if has_class_token else hidden.mean(1)


def make_video_tower(network: Network, processor: Any, budget: int) -> Tower:
    """Make the tower of a video model. It gives one row a time step: the mean of its patches."""
    import torch

    config = network.model.config
    n_frames = config.num_frames

    def forward(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        pixels = torch.from_numpy(np.stack(items))
        hidden = network(pixel_values=pixels)
        side = config.patch_size
        n_patches = (pixels.shape[-2] // side) * (pixels.shape[-1] // side)
        hidden = hidden[:, hidden.shape[1] % n_patches :]  # without a class token
        return hidden.reshape(len(items), -1, n_patches, hidden.shape[-1]).mean(2).cpu().numpy()

    prepare = partial(prepare_clip, processor=processor, n_frames=n_frames)
    return Tower(network, prepare, Batches(forward, max(budget, n_frames)), n_frames=n_frames)


# ---- sound


def cut_windows(n: int, size: int, overlap: int) -> tuple[list[tuple[int, int]], list[tuple[float, float]]]:
    """Cut `n` samples into windows of equal length, and divide each overlap in its middle.

    The last window ends with the sound, so it may overlap more than the others.

    Parameters
    ----------
    n, size, overlap : int
        Samples of the sound, of a window, and of the overlap of two windows.

    Returns
    -------
    spans : list of (int, int)
        First sample of each window, and the one behind its last.
    keep : list of (float, float)
        From where to where each window is kept, as shares of its length.
    """
    if n <= size:
        return [(0, n)], [(0.0, 1.0)]
    starts = [*range(0, n - size, size - overlap), n - size]
    spans = [(start, start + size) for start in starts]
    middles = [(left[1] + right[0]) / 2 for left, right in zip(spans, spans[1:], strict=False)]
    cuts = [0.0, *middles, float(n)]
    keep = [
        ((first - start) / size, (last - start) / size)
        for start, first, last in zip(starts, cuts, cuts[1:], strict=False)
    ]
    return spans, keep


def prepare_sound(sound: np.ndarray, processor: Any, window_s: float, overlap_s: float) -> Prepared:
    """Scale a sound float32 (samples,) as the model's own processor does, and cut a long one into windows."""
    rate = processor.sampling_rate
    sound = np.pad(sound, (0, max(0, int(SHORTEST_SOUND_S * rate) - len(sound))))
    values = processor(sound, sampling_rate=rate, return_tensors="np")["input_values"][0]
    spans, keep = cut_windows(len(values), int(window_s * rate), int(overlap_s * rate))
    items = [np.ascontiguousarray(values[start:end], np.float32) for start, end in spans]
    return Prepared(items, [len(item) for item in items], keep, *_describe_windows(spans, window_s, overlap_s))


def prepare_spectrogram(sound: np.ndarray, processor: Any, window_s: float, overlap_s: float) -> Prepared:
    """Turn a sound float32 (samples,) into log-mel spectrograms of fixed length, for Whisper.

    Whisper pads every window to 30 s. Rows of the padding are left out.
    """
    rate = processor.sampling_rate
    spans, keep = cut_windows(len(sound), int(window_s * rate), int(overlap_s * rate))
    items = [
        processor(sound[start:end], sampling_rate=rate, return_tensors="np")["input_features"][0]
        for start, end in spans
    ]
    heard = [(end - start) / rate / WHISPER_S for start, end in spans]  # share of the rows that is no padding
    n_rows = WHISPER_S * WHISPER_ROWS_PER_S
    keep = [
        (first * share, max(np.ceil(last * share * n_rows), 1) / n_rows)
        for (first, last), share in zip(keep, heard, strict=True)
    ]
    sizes = [int(WHISPER_S * rate)] * len(items)
    return Prepared(items, sizes, keep, *_describe_windows(spans, window_s, overlap_s))


def _describe_windows(spans: Sequence, window_s: float, overlap_s: float) -> tuple[str, str]:
    """Problem and detail of a sound that was cut; both are empty where it was not."""
    if len(spans) < 2:
        return "", ""
    return "sound_windows", f"{len(spans)} windows of {window_s:g} s that overlap by {overlap_s:g} s or more"


def make_sound_tower(network: Network, processor: Any, budget: int, window_s: float, overlap_s: float) -> Tower:
    """Make the tower of a speech model. Its rows are the model's time steps.

    A shorter sound in a batch is padded and the padding is masked. Models with group normalisation
    change with padding, so only sounds of equal length share a batch there.

    Parameters
    ----------
    budget : int
        Seconds of sound in a batch.
    window_s, overlap_s : float
        Length and overlap of the windows of a long sound, in seconds.
    """
    import torch

    config = network.model.config
    is_whisper = config.model_type == "whisper"
    window_s = min(window_s, WHISPER_S) if is_whisper else window_s
    if not 0 <= overlap_s < window_s:
        raise EcmfError(f"window_s={window_s:g}, overlap_s={overlap_s:g}: expected 0 <= overlap_s < window_s")
    can_be_padded = getattr(config, "feat_extract_norm", None) == "layer"

    def encode_spectrograms(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        return network(input_features=torch.from_numpy(np.stack(items))).cpu().numpy()

    def encode_waves(items: list[np.ndarray]) -> Sequence[np.ndarray]:
        lengths = [len(item) for item in items]
        values = torch.zeros(len(items), max(lengths))
        for row, item in zip(values, items, strict=True):
            row[: len(item)] = torch.from_numpy(item)
        if min(lengths) == max(lengths):
            return list(network(input_values=values).cpu().numpy())
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        hidden = network(input_values=values, attention_mask=mask).cpu().numpy()
        n_rows = [int(network.model._get_feat_extract_output_lengths(n)) for n in lengths]
        return [rows[:n] for rows, n in zip(hidden, n_rows, strict=True)]

    forward = encode_spectrograms if is_whisper else encode_waves
    batches = Batches(forward, budget * processor.sampling_rate, equal=not can_be_padded)
    prepare = prepare_spectrogram if is_whisper else prepare_sound
    settings = {"window_s": window_s, "overlap_s": overlap_s}
    return Tower(network, partial(prepare, processor=processor, **settings), batches, settings)


# ---- text


def prepare_text(text: str, tokenizer: Any, limit: int) -> Prepared:
    """Turn a text into one item, the list of its tokens; tokens beyond the limit are cut and mentioned."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    if not ids:
        raise MediaError("empty_text", "transcript", "no token of the encoder's vocabulary")
    if len(ids) <= limit:
        return Prepared([ids], [len(ids)])
    detail = f"{len(ids):,} tokens, {limit:,} were read"
    ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    return Prepared([ids], [len(ids)], problem="text_cut", detail=detail)


def make_text_tower(network: Network, tokenizer: Any, budget: int, max_tokens: int) -> Tower:
    """Make the tower of a text model. Its rows are the tokens, special tokens included, without padding."""
    import torch

    if max_tokens < 1:
        raise EcmfError(f"max_tokens={max_tokens}: expected at least 1")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = int(min(max_tokens, tokenizer.model_max_length, _count_positions(network.model)))

    def forward(items: list[list[int]]) -> Sequence[np.ndarray]:
        longest = max(map(len, items))  # padding is on the right: positions count from the left
        ids = torch.tensor([item + [tokenizer.pad_token_id or 0] * (longest - len(item)) for item in items])
        mask = torch.tensor([[1] * len(item) + [0] * (longest - len(item)) for item in items])
        hidden = network(input_ids=ids, attention_mask=mask).cpu().numpy()
        return [rows[: len(item)] for rows, item in zip(hidden, items, strict=True)]

    prepare = partial(prepare_text, tokenizer=tokenizer, limit=limit)
    return Tower(network, prepare, Batches(forward, budget), {"max_tokens": limit})


def _count_positions(model: Any) -> int:
    """How many tokens the position embeddings are made for; RoBERTa's begin behind the padding index."""
    positions = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return (positions or 10**9) - (0 if padding is None else padding + 1)
