"""Extraction: from the rows of the manifest to the rows of a feature file, in parts that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ecmf_utils import encoders, files, parallel
from ecmf_utils.encoders import loading, pretrained
from ecmf_utils.media.reading import MediaError
from ecmf_utils.progress import Meter, track

from .inputs import Timed
from .loading import LEVELS
from .store import Store, branch_folder, select_store

FEW_CLIPS = 32  # starting processes takes longer than this many clips
FULL_BATCHES = 20  # batches that clips which are encoded together may fill at most
MISSING = {"no_video_stream", "no_sound_stream", "silent_sound", "no_face", "empty_text", "bad_encoding", "no_answer"}


def encode_all(
    todo: list[dict[str, Any]],
    encoder: encoders.Encoder,
    read_input: Callable,
    how: dict[str, Any],
    part: int,
    n_workers: int,
    meter: Meter,
) -> Iterator[dict[str, Any]]:
    """Outcomes in order: all of it in workers for a light encoder, else reading and preparing."""
    if len(todo) < FEW_CLIPS or encoder.modality == "text":
        n_workers = 1
    if encoder.portable:
        job = partial(encode_row, encoder=encoder, read_input=read_input, how=how)
        yield from parallel.parallel_map(job, todo, n_workers, chunk=2)
        return
    job = partial(read_row, read_input=read_input, encoder=encoder.drop_model())
    setup = pretrained.mend_torchvision if encoder.prepare else None
    inputs = parallel.parallel_map(job, todo, n_workers, setup, ahead=part)
    most = FULL_BATCHES * encoder.batches.budget if encoder.batches else None
    for batch in _portions(inputs, part, most):
        yield from meter.timed(lambda batch=batch: list(encode_batch(batch, encoder, how)))


def _portions(inputs: Iterable[tuple[dict[str, Any], Any]], part: int, most: int | None) -> Iterator[list]:
    """As many clips as are encoded at a time: fewer of very long ones, whose rows are all in memory."""
    batch, size = [], 0
    for start, ready in inputs:
        batch.append((start, ready))
        size += sum(getattr(ready.given, "sizes", ())) if ready else 0
        if len(batch) == part or (most is not None and size >= most):
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_row(
    row: dict[str, Any], encoder: encoders.Encoder, read_input: Callable, how: dict[str, Any]
) -> dict[str, Any]:
    """What is stored of one clip: `status`, `problem`, and `vector` (D,) or `vectors` (T, D)."""
    return next(encode_batch([read_row(row, read_input, encoder)], encoder, how))


class Ready(NamedTuple):
    """A clip as the encoder takes it, and when its frames (F,) are or how long it sounds, in seconds."""

    given: Any
    times: np.ndarray | None = None
    seconds: float | None = None


def read_row(
    row: dict[str, Any], read_input: Callable, encoder: encoders.Encoder
) -> tuple[dict[str, Any], Ready | None]:
    """The start of a result and the encoder's input, None when there is nothing to encode."""
    start = {"clip_id": str(row["clip_id"]), "content_hash": str(row.get("content_hash")), "n_frames": 0}
    try:
        given = read_input(row)
    except MediaError as error:
        return start | _fate(error), None
    except files.EcmfError:  # nothing is wrong with the clip: an earlier step has not run
        raise
    except Exception as error:  # a decoder may raise anything; the clip's row tells what it was
        return start | _failed("unreadable", error), None
    try:
        ready = encoder.prepare_input(given)
    except MediaError as error:
        return start | _fate(error), None
    except Exception as error:  # a model's own preprocessing may too
        return start | _failed("encoder_failed", error), None
    return start | {"status": "ok"} | _told(given) | _told(ready), Ready(ready, *_when(given, encoder))


def _told(given: Any) -> dict[str, str]:
    """What was cut or left out of a clip that is encoded all the same."""
    return {name: getattr(given, name) for name in ("problem", "detail") if getattr(given, name, "")}


def _fate(error: MediaError) -> dict[str, Any]:
    status = "missing" if error.code in MISSING else "failed"
    return {"status": status, "problem": error.code, "detail": _line(error.detail)}


def _failed(code: str, error: Exception | str) -> dict[str, Any]:
    told = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return {"status": "failed", "problem": code, "detail": _line(told)}


def _line(text: str) -> str:
    """The first line of what an error says, as a file can hold it."""
    return next(iter(text.splitlines()), "").encode(errors="replace").decode()


def _when(given: Any, encoder: encoders.Encoder) -> tuple[np.ndarray | None, float | None]:
    if isinstance(given, Timed):
        return given.times, None
    return None, len(given) / encoder.sample_rate if encoder.modality == "sound" and encoder.sample_rate else None


def encode_batch(
    batch: list[tuple[dict[str, Any], Ready | None]], encoder: encoders.Encoder, how: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Results of what `read_row` gave, in order; a clip that fails spoils no other."""
    encoded = iter(_encode_safely([ready.given for _, ready in batch if ready], encoder))
    for start, ready in batch:
        yield start if ready is None else start | _finish(next(encoded), ready, encoder, how)


def _encode_safely(inputs: list[Any], encoder: encoders.Encoder) -> list[Any]:
    """Rows of each input; where a batch fails each alone, so that one clip spoils no other."""
    try:
        return list(encoder.run(inputs)) if inputs else []
    except Exception as error:  # an encoder may raise anything; the clip's row tells what it was
        if len(inputs) == 1:
            return [f"{type(error).__name__}: {error}"]
        return [outcome for one in inputs for outcome in _encode_safely([one], encoder)]


def _finish(frames: Any, ready: Ready, encoder: encoders.Encoder, how: dict[str, Any]) -> dict[str, Any]:
    if isinstance(frames, str):
        return _failed("encoder_failed", frames)
    if not len(frames):
        return _failed("encoder_failed", f"{encoder.name}: no rows")
    if not np.isfinite(frames).all():
        return _failed("not_finite", f"{encoder.name}: NaN or infinite")
    if how["level"] == "frame":
        return {
            "vectors": list(np.asarray(frames, np.float32)),
            "times": _times(ready, len(frames)),
            "n_frames": len(frames),
        }
    vector = loading.pool(frames, how["pooling"], encoder.normalise)
    return {"vector": vector, "n_frames": len(frames)}


def _times(ready: Ready, n: int) -> list[float] | None:
    """When each row is, in seconds; a row of several frames is in their middle."""
    if ready.seconds is not None:
        return [float(t) for t in (np.arange(n) + 0.5) * ready.seconds / n]
    if ready.times is None or len(ready.times) % n:
        return None
    return [float(t) for t in np.reshape(ready.times, (n, -1)).mean(1)]


# ---- vectors of every clip and branch: extracted in parts that survive a kill, read as arrays


PART = 32  # clips that are encoded, and written, at a time


def make_recipe(
    encoder: encoders.Encoder, pooling: str, level: str, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Everything besides the clip that decides a vector; goes into the file's metadata."""
    if pooling not in loading.POOLINGS or level not in LEVELS:
        raise files.EcmfError(
            f"pooling={pooling!r}, level={level!r}: expected one of "
            f"{', '.join(loading.POOLINGS)} and one of {', '.join(LEVELS)}"
        )
    return {**encoder.recipe, "pooling": pooling, "level": level, "extra": extra or {}}


def extract(
    profile: str,
    branch: str,
    clips: pd.DataFrame,
    encoder: encoders.Encoder,
    read_input: Callable[[dict[str, Any]], Any],
    *,
    pooling: str = "mean",
    level: str = "utterance",
    shard: int = 0,
    n_shards: int = 1,
    part: int = PART,
    n_workers: int = 0,
    extra: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Encode a branch of a corpus and select the result for `load`.

    A row is computed again only when the clip's `content_hash` or the recipe changed, or when it
    failed before. Every `part` clips are written as they finish: a killed run loses no more.
    A clip that fails gets a row with its status and problem; the others go on.

    Parameters
    ----------
    profile : str
        Whose features they are.
    branch : str
        Such as `audio`.
    clips : DataFrame
        Rows of `clips.parquet`; `clip_id` and `content_hash` are needed, and what the reader reads.
    encoder : Encoder
        Of `encoders.load`.
    read_input : callable
        A row as dict to the encoder's input; raises `MediaError` with a problem code. A function of
        a module or a `functools.partial` of one, since worker processes call it.
    pooling : {"mean", "mean+std", "max"}
        How one vector is made of the frames of a clip.
    level : {"utterance", "frame"}
        Whether one vector is kept of a clip, or one of each frame.
    shard, n_shards : int
        This run's part of the clips, of so many.
    part : int
        Clips that are encoded, and written, at a time.
    n_workers : int
        Processes; 0: as many as there are processors.
    extra : dict, optional
        What the reader depends on besides the clip, such as `n_frames` or the recipe of the crops.

    Returns
    -------
    DataFrame
        One row: branch, encoder, level, pooling, dim, clips, ok, missing, failed. In `attrs`: how many
        were `computed` now, and a table of the `speed`.
    """
    how = make_recipe(encoder, pooling, level, extra)
    rows = files.in_shard(clips, shard, n_shards)
    store = Store(branch_folder(profile, branch), encoder.dim, how, shard, n_shards)
    done = store.find_reusable(rows, retry_failed=True)
    todo = [row for row in rows if row["clip_id"] not in done]
    meter = Meter()
    results = encode_all(todo, encoder, read_input, how, part, n_workers, meter)
    note = None if encoder.portable else lambda: f"{meter.share():.0%} in the model"
    results = track(results, len(todo), branch, note)
    while batch := list(islice(results, part)):
        store.write_part(batch)
    store.merge(rows)
    summary = select_store(profile, branch, store)
    summary.attrs |= {"computed": len(todo), "speed": _speed(len(todo), encoder, meter)}
    return summary


def _speed(n_clips: int, encoder: encoders.Encoder, meter: Meter) -> pd.DataFrame:
    """Clips that were computed now, seconds, clips a second, share of the time in the model."""
    facts: dict[str, Any] = {"clips": n_clips, "seconds": round(meter.elapsed_s(), 1)}
    if n_clips:
        facts["clips/s"] = round(n_clips / meter.elapsed_s(), 2)
    if n_clips and not encoder.portable:
        facts["in the model"] = f"{meter.share():.0%}"
    if encoder.batches:
        facts["batches halved"] = encoder.batches.halved
    return pd.Series(facts, dtype=object).astype(str).to_frame("value")
