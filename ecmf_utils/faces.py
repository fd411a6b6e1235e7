"""Faces of a clip: found, followed, aligned, and stored once for every face encoder."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from . import media, paths, workers
from .facecrops import align, landmark_file
from .facetracks import MIN_FRAMES, PEAK_SCORE, join
from .progress import track

VERSION = 1
LOWEST_SCORE = -0.1  # a detection below it is not kept, even inside a track
READ_SIDE = 960  # crops are cut from frames up to this longer side, so that small faces stay sharp
SHARP = 120.0  # variance of the Laplacian of a crop that counts as fully sharp
BOX = ["x", "y", "w", "h"]
SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("frame", pa.int32()), ("time_s", pa.float64())]
    + [(side, pa.float64()) for side in BOX]
    + [("landmarks", pa.list_(pa.float64())), ("track", pa.int32()), ("pose", pa.int32())]
    + [(name, pa.float64()) for name in ("score", "sharpness", "quality")]
    + [(name, pa.int32()) for name in ("people", "n_sampled")]
    + [(name, pa.string()) for name in ("status", "problem", "detail")]
)


def recipe(
    every_s: float = 0.35,
    max_frames: int = 48,
    max_side: int = 640,
    margin: float = 0.3,
    size: int = 112,
    upsample: int = 0,
    aligned: bool = True,
) -> dict[str, Any]:
    """Everything that decides what a crop looks like.

    Parameters
    ----------
    every_s, max_frames : float, int
        A frame every so many seconds, at most so many a clip (then farther apart).
    max_side : int
        Longer side in pixels of the frame that is searched; the detector sees faces from 80 pixels.
    margin : float
        Room around the face in a crop, as a share of its size.
    size : int
        Side of a crop in pixels.
    upsample : int
        Times the searched frame is doubled before detection, for faces under 80 pixels.
    aligned : bool
        Turn and scale crops by 5 points, where the `landmarks` extra is installed.
    """
    points = "5-point" if aligned and landmark_file() else "box"
    return {
        "detector": "dlib-hog", "alignment": points, "every_s": every_s, "max_frames": max_frames,
        "max_side": max_side, "margin": margin, "size": size, "upsample": upsample,
        "scores": [LOWEST_SCORE, PEAK_SCORE, MIN_FRAMES], "version": VERSION,
    }  # fmt: skip


def detect(path: Path | str, **settings: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Find the faces of one clip and cut out the main one.

    Parameters
    ----------
    path : Path
    **settings
        Those of `recipe`.

    Returns
    -------
    rows : list of dict
        One for each face and sampled frame, boxes and landmarks in pixels of the upright original,
        in the order of track and time. Track 0 is the main face, the one with the largest sum of
        areas. Without a face: one row with empty box and problem `no_face`.
    crops : uint8 (F, size, size, 3)
        RGB, one for each row of track 0.

    Raises
    ------
    media.MediaError
        The clip has no picture or cannot be read.
    """
    how = recipe(**settings)
    info = media.probe(path)
    if not info["has_video"]:
        raise media.MediaError("no_video_stream", path)
    count = int(np.clip(round(info["duration_s"] / how["every_s"]), 1, how["max_frames"]))
    wanted = media.frame_times(info["duration_s"], min(count, info["n_frames"]))
    frames, times = media.read_frames(path, wanted, max_side=READ_SIDE)
    people = join([_boxes(frame, how) for frame in frames], times)
    if not people:
        nobody = {"status": "missing", "problem": "no_face", "n_sampled": len(times), "people": 0}
        return [nobody], _no_crops(how)
    to_original = max(info["width"], info["height"]) / max(frames.shape[1:3])
    rows, crops = [], []
    for number, person in enumerate(people):
        for found in person:
            row, crop = _describe(frames[found["frame"]], found, how, to_original)
            rows.append(row | {"time_s": float(times[found["frame"]]), "track": number})
            crops += [crop] if number == 0 else []
    shared = {"people": len(people), "n_sampled": len(times), "status": "ok", "problem": None}
    return [row | shared for row in rows], np.stack(crops)


def detect_corpus(
    clips: pd.DataFrame, profile: str, n_workers: int = 0, **settings: Any
) -> pd.DataFrame:
    """Run `detect` over a corpus and write `faces/faces.parquet` and `faces/crops/<clip_id>.npz`.

    A clip is detected again only when its content or the recipe changed, so an interrupted run goes
    on where it stopped. A clip that fails gets a row with status `failed` and its problem.

    Returns
    -------
    DataFrame
        The table of `faces.parquet`.
    """
    how = recipe(**settings)
    job = partial(_detect_row, profile=profile, how=how, settings=settings)
    rows = clips.to_dict("records")
    done = workers.parallel_map(job, rows, n_workers, chunk=4)
    found = [row for result in track(done, len(rows), "clips") for row in result]
    header = {"recipe": how, "recipe_hash": paths.digest(how)}
    table = pa.Table.from_pylist(found, SCHEMA)
    paths.write_parquet(table, _folder(profile) / "faces.parquet", header)
    return read_faces(profile)


def read_faces(profile: str) -> pd.DataFrame:
    """The table of `faces.parquet`."""
    return paths.read_parquet(_folder(profile) / "faces.parquet", "20_detect_faces")


def per_clip(found: pd.DataFrame) -> pd.DataFrame:
    """One row a clip, index `clip_id`, from the table of `faces.parquet`.

    Returns
    -------
    DataFrame
        `state` (face / none / failed), `problem`, `frames` with the main face, their `share` of the
        sampled ones, `people`, and the mean `quality` and width `w` (px) of the main face.
    """
    main = found[(found["status"] == "ok") & (found["track"] == 0)]
    means = main.groupby("clip_id").agg(
        frames=("frame", "count"), quality=("quality", "mean"), w=("w", "mean")
    )
    first = found.drop_duplicates("clip_id").set_index("clip_id")
    state = first["status"].map({"ok": "face", "missing": "none", "failed": "failed"})
    table = first[["problem", "people", "n_sampled"]].assign(state=state).join(means)
    share = table["frames"].fillna(0) / table["n_sampled"].astype(float)
    return table.assign(frames=table["frames"].fillna(0).astype(int), share=share)


def read_recipe(profile: str) -> dict[str, Any]:
    """The recipe of the stored crops and its hash, for the recipe of what is computed from them."""
    read_faces(profile)
    return paths.parquet_metadata(_folder(profile) / "faces.parquet")


def read_crops(profile: str, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Crops uint8 (F, size, size, 3) of the main face, and their times (F,) in seconds."""
    path = _folder(profile) / "crops" / f"{clip_id}.npz"
    if not path.exists():
        raise paths.EcmfError(f"{paths.show(path)} is missing: run 20_detect_faces first")
    with np.load(path) as stored:
        return stored["crops"], stored["times"]


def _folder(profile: str) -> Path:
    return paths.data_dir(profile) / "faces"


def _detect_row(
    row: dict[str, Any], profile: str, how: dict[str, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of one clip, from its stored file when content and recipe are the same."""
    path = _folder(profile) / "crops" / f"{row['clip_id']}.npz"
    key = paths.digest(row.get("content_hash"), how)
    stored = _stored(path, key)
    if stored is not None:
        return stored
    try:
        if not isinstance(row.get("video"), str):
            raise media.MediaError("no_video_stream", row["clip_id"])
        rows, crops = detect(row["video"], **settings)
    except media.MediaError as error:
        status = "missing" if error.code == "no_video_stream" else "failed"
        rows = [{"status": status, "problem": error.code, "detail": error.detail}]
        crops = _no_crops(how)
    except Exception as error:  # a decoder may raise anything; the clip's row tells what it was
        detail = f"{type(error).__name__}: {error}"
        rows = [{"status": "failed", "problem": "unreadable", "detail": detail}]
        crops = _no_crops(how)
    rows = [{"clip_id": row["clip_id"], **found} for found in rows]
    times = np.array([found["time_s"] for found in rows if found.get("track") == 0])
    content = {"crops": crops, "times": times, "rows": json.dumps(rows), "key": key}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **content)

    paths.write_atomic(path, write)
    return rows


def _stored(path: Path, key: str) -> list[dict[str, Any]] | None:
    try:
        with np.load(path) as stored:
            return json.loads(str(stored["rows"])) if str(stored["key"]) == key else None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        BadZipFile,
    ):  # absent, or not written by this version
        return None


def _no_crops(how: dict[str, Any]) -> np.ndarray:
    return np.zeros((0, how["size"], how["size"], 3), np.uint8)


@lru_cache(maxsize=1)
def _detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


def _boxes(frame: np.ndarray, how: dict[str, Any]) -> list[dict[str, Any]]:
    """Faces of one frame: box (x, y, w, h) in its own pixels, score, pose of the sub-detector."""
    scale = min(1.0, how["max_side"] / max(frame.shape[:2]))
    small = frame
    if scale < 1:
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes, scores, poses = _detector().run(small, how["upsample"], LOWEST_SCORE)
    return [
        {"box": np.array([b.left(), b.top(), b.width(), b.height()]) / scale, "score": s, "pose": p}
        for b, s, p in zip(boxes, scores, poses, strict=True)
    ]


def _describe(
    frame: np.ndarray, found: dict[str, Any], how: dict[str, Any], to_original: float
) -> tuple[dict[str, Any], np.ndarray]:
    points, crop = align(frame, found["box"], how)
    sharpness = float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
    box = found["box"] * to_original
    parts = [
        min(1.0, box[2] / how["size"]),  # size
        min(1.0, sharpness / SHARP),
        float(np.clip(found["score"] / 2, 0, 1)),  # confidence
        1.0 if found["pose"] == 0 else 0.7,  # 0 is the frontal sub-detector, others are turned
    ]
    row = {"frame": found["frame"], "score": float(found["score"]), "pose": int(found["pose"])}
    row |= dict(zip(BOX, map(float, box.round(1)), strict=True))
    row |= {"sharpness": round(sharpness, 1), "quality": round(float(np.mean(parts)), 3)}
    landmarks = None if points is None else (points * to_original).round(1).ravel().tolist()
    return row | {"landmarks": landmarks}, crop
