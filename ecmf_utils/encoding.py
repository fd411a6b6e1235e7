"""One clip from its row in the manifest to its row in a feature file, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import encoders, paths
from .media import MediaError
from .readers import Timed

MISSING = {"no_video_stream", "no_sound_stream", "silent_sound", "no_face", "empty_text",
           "no_answer"}  # fmt: skip


def encode_row(
    row: dict[str, Any], encoder: encoders.Encoder, read_input: Callable, how: dict[str, Any]
) -> dict[str, Any]:
    """What is stored of one clip: `status`, `problem`, and `vector` (D,) or `vectors` (T, D)."""
    return next(encode_batch([read_row(row, read_input)], encoder, how))


def read_row(row: dict[str, Any], read_input: Callable) -> tuple[dict[str, Any], Any]:
    """The start of a result and the encoder's input, None when there is nothing to encode."""
    start = {"clip_id": str(row["clip_id"]), "content_hash": str(row.get("content_hash")),
             "n_frames": 0}  # fmt: skip
    try:
        return start | {"status": "ok"}, read_input(row)
    except MediaError as error:
        status = "missing" if error.code in MISSING else "failed"
        return start | {"status": status, "problem": error.code, "detail": error.detail}, None
    except paths.EcmfError:  # nothing is wrong with the clip: an earlier step has not run
        raise
    except Exception as error:  # a decoder may raise anything; the clip's row tells what it was
        detail = f"{type(error).__name__}: {error}"
        return start | {"status": "failed", "problem": "unreadable", "detail": detail}, None


def encode_batch(
    batch: list[tuple[dict[str, Any], Any]], encoder: encoders.Encoder, how: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Results of several clips, in their order; what was not read is passed on."""
    encoded = iter(_encode_safely([given for _, given in batch if given is not None], encoder))
    for start, given in batch:
        yield start if given is None else start | _finish(next(encoded), given, encoder, how)


def _encode_safely(inputs: list[Any], encoder: encoders.Encoder) -> list[Any]:
    """Rows of each input; where a batch fails each alone, so that one clip spoils no other."""
    try:
        return list(encoder.encode(inputs)) if inputs else []
    except Exception as error:  # an encoder may raise anything; the clip's row tells what it was
        if len(inputs) == 1:
            return [f"{type(error).__name__}: {error}"]
        return [outcome for one in inputs for outcome in _encode_safely([one], encoder)]


def _finish(
    frames: Any, given: Any, encoder: encoders.Encoder, how: dict[str, Any]
) -> dict[str, Any]:
    if isinstance(frames, str):
        return {"status": "failed", "problem": "encoder_failed", "detail": frames}
    if not len(frames) or not np.isfinite(frames).all():
        detail = "no rows" if not len(frames) else "NaN or infinite"
        code = "not_finite" if len(frames) else "encoder_failed"
        return {"status": "failed", "problem": code, "detail": f"{encoder.name}: {detail}"}
    if how["level"] == "frame":
        timed = isinstance(given, Timed) and len(given.times) == len(frames)
        times = [float(t) for t in given.times] if timed else None
        return {"vectors": list(np.asarray(frames, np.float32)), "times": times,
                "n_frames": len(frames)}  # fmt: skip
    vector = encoders.pool(frames, how["pooling"])
    if encoder.normalise:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return {"vector": vector, "n_frames": len(frames)}
