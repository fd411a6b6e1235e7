"""Detect the faces of every clip, and store their boxes and crops once for all face encoders."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from ecmf_utils import parallel
from ecmf_utils.files import (
    EcmfError,
    data_dir,
    digest,
    file_name,
    in_shard,
    parquet_metadata,
    read_parquet,
    read_table,
    shard_name,
    show,
    write_atomic,
    write_parquet,
)
from ecmf_utils.progress import track

from . import reading
from .face_tracks import (
    BOX,
    MIN_FRAMES,
    PEAK_SCORE,
    count_people,
    describe_face,
    find_landmark_file,
    join_detections,
)

VERSION = 2
LOWEST_SCORE = -0.1  # a detection below this score is dropped, even inside a track
READ_SIDE = 960  # pixels; crops are cut from frames up to this longer side, so that small faces stay sharp
PART = 1000  # clips whose rows become a table at a time; as dicts they need ten times the memory
WHOLE, SHARDS = "faces.parquet", "*-of-*.parquet"  # the table, and its parts until all shards are there
SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("frame", pa.int32()), ("time_s", pa.float64())]
    + [(side, pa.float64()) for side in BOX]
    + [("landmarks", pa.list_(pa.float64())), ("track", pa.int32()), ("pose", pa.int32())]
    + [(name, pa.float64()) for name in ("score", "sharpness", "quality")]
    + [(name, pa.int32()) for name in ("people", "n_sampled")]
    + [(name, pa.string()) for name in ("status", "problem", "detail")]
)


def make_face_recipe(
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
        A frame is searched every so many seconds, and at most so many in a clip; then they are farther apart.
    max_side : int
        Longer side in pixels of the frame that is searched. The detector sees faces of 80 pixels and more.
    margin : float
        Room around the face in a crop, as a share of the size of the face.
    size : int
        Side of a crop in pixels.
    upsample : int
        How often the size of the searched frame is doubled, for faces under 80 pixels.
    aligned : bool
        Turn and scale crops by 5 points, where the `landmarks` extra is installed.
    """
    return {
        "detector": "dlib-hog",
        "alignment": "5-point" if aligned and find_landmark_file() else "box",
        "every_s": every_s,
        "max_frames": max_frames,
        "max_side": max_side,
        "margin": margin,
        "size": size,
        "upsample": upsample,
        "scores": [LOWEST_SCORE, PEAK_SCORE, MIN_FRAMES],
        "version": VERSION,
    }


# ---- one clip


def detect_in_clip(path: Path | str, **settings: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Find the faces of one clip and cut out the main one.

    Parameters
    ----------
    path : Path
    **settings
        Those of `make_face_recipe`.

    Returns
    -------
    rows : list of dict
        One for each face and sampled frame, in the order of track and time; boxes and landmarks are in pixels
        of the upright original. Track 0 is the main face, the one with the largest sum of areas. A clip
        without a face has one row with an empty box and the problem `no_face`. Where `max_frames` was too
        low, the problem is `frames_thinned` and `detail` says by how much.
    crops : uint8 (F, size, size, 3)
        RGB, one for each row of track 0.

    Raises
    ------
    MediaError
        The clip has no picture or cannot be read.
    """
    recipe = make_face_recipe(**settings)
    info = reading.probe(path)
    if not info["has_video"]:
        raise reading.MediaError("no_video_stream", path)
    frames, times, thinned = _sample_frames(path, info, recipe)
    tracks = join_detections([_detect_in_frame(frame, recipe) for frame in frames], times)
    shared = {"people": count_people(tracks), "n_sampled": len(times), "detail": thinned}
    if not tracks:
        return [{"status": "missing", "problem": "no_face"} | shared], _empty_crops(recipe)
    shared |= {"status": "ok", "problem": "frames_thinned" if thinned else None}
    to_original = max(info["width"], info["height"]) / max(frames.shape[1:3])
    rows, crops = [], []
    for number, face in enumerate(tracks):
        for detection in face:
            row, crop = describe_face(frames[detection["frame"]], detection, recipe, to_original)
            rows.append(row | {"time_s": float(times[detection["frame"]]), "track": number} | shared)
            crops += [crop] if number == 0 else []
    return rows, np.stack(crops)


def _sample_frames(
    path: Path | str, info: dict[str, Any], recipe: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Distinct frames of a clip, their times, and a line where they are farther apart than requested."""
    wanted = max(1, min(round(info["duration_s"] / recipe["every_s"]), info["n_frames"]))
    count = min(wanted, recipe["max_frames"])
    step = info["duration_s"] / count
    thinned = f"{count} of {wanted:,} frames, one every {step:.1f} s" if wanted > count else None
    frames, times = reading.read_frames(path, reading.frame_times(info["duration_s"], count), READ_SIDE)
    new = np.append(True, np.diff(times) > 0)  # a picture that stays on screen is searched once
    return (frames, times, thinned) if new.all() else (frames[new], times[new], thinned)


def _detect_in_frame(frame: np.ndarray, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Faces of one frame: `box` (x, y, w, h) in its pixels, `score`, `pose` (which of dlib's detectors)."""
    scale = min(1.0, recipe["max_side"] / max(frame.shape[:2]))
    small = frame
    if scale < 1:
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes, scores, poses = _load_detector().run(small, recipe["upsample"], LOWEST_SCORE)
    return [
        {"box": np.array([b.left(), b.top(), b.width(), b.height()]) / scale, "score": score, "pose": pose}
        for b, score, pose in zip(boxes, scores, poses, strict=True)
    ]


@lru_cache(maxsize=1)
def _load_detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


def _empty_crops(recipe: dict[str, Any]) -> np.ndarray:
    return np.zeros((0, recipe["size"], recipe["size"], 3), np.uint8)


# ---- a corpus


def detect_faces(
    clips: pd.DataFrame, profile: str, n_workers: int = 0, shard: int = 0, n_shards: int = 1, **settings: Any
) -> pd.DataFrame:
    """Find the faces of a corpus, and write `faces/faces.parquet` and `faces/crops/<clip>.npz`.

    A clip is searched again only when its content or the recipe has changed, so an interrupted run continues
    where it stopped. A clip that fails gets a row with status `failed` and its problem.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    profile : str
    n_workers : int
        Processes; 0 takes as many as there are processors.
    shard, n_shards : int
        Search only this part of the clips, and write a table for it; the last part to end joins them.
    **settings
        Those of `make_face_recipe`.

    Returns
    -------
    DataFrame
        The table of `faces.parquet`, or the part of this shard.
    """
    recipe = make_face_recipe(**settings)
    job = partial(_detect_or_load, profile=profile, recipe=recipe, settings=settings)
    rows = in_shard(clips, shard, n_shards)
    results = track(parallel.parallel_map(job, rows, n_workers, chunk=4), len(rows), "clips")
    tables = [SCHEMA.empty_table()]
    while part := list(islice(results, PART)):
        tables.append(pa.Table.from_pylist([row for result in part for row in result], SCHEMA))
    header = {"recipe": recipe, "recipe_hash": digest(recipe)}

    folder = _folder(profile)
    path = folder / (shard_name(shard, n_shards) if n_shards > 1 else WHOLE)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # shards may end at the same time
        write_parquet(pa.concat_tables(tables), path, header)
        _join_shards(folder, header, clips["clip_id"], n_shards)
    return read_parquet(path)


def _detect_or_load(
    clip: dict[str, Any], profile: str, recipe: dict[str, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of one clip, from its stored file where content and recipe are the same."""
    path = _crops_path(profile, clip["clip_id"])
    key = digest(clip.get("content_hash"), recipe)
    stored = _read_stored_rows(path, key)
    if stored is not None:
        return stored
    try:
        if not isinstance(clip.get("video"), str):
            raise reading.MediaError("no_video_stream", clip["clip_id"])
        rows, crops = detect_in_clip(clip["video"], **settings)
    except reading.MediaError as error:
        status = "missing" if error.code == "no_video_stream" else "failed"
        rows = [{"status": status, "problem": error.code, "detail": error.detail}]
        crops = _empty_crops(recipe)
    except Exception as error:  # a decoder may raise anything; the row of the clip says what it was
        detail = f"{type(error).__name__}: {error}"
        rows = [{"status": "failed", "problem": "unreadable", "detail": detail}]
        crops = _empty_crops(recipe)
    rows = [{"clip_id": clip["clip_id"], **row} for row in rows]
    times = np.array([row["time_s"] for row in rows if row.get("track") == 0])
    content = {"crops": crops, "times": times, "rows": json.dumps(rows), "key": key}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **content)

    write_atomic(path, write)
    return rows


def _read_stored_rows(path: Path, key: str) -> list[dict[str, Any]] | None:
    try:
        with np.load(path) as stored:
            return json.loads(str(stored["rows"])) if str(stored["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # absent, damaged, or written by another version
        return None


def _join_shards(folder: Path, header: dict[str, Any], clip_ids: pd.Series, n_shards: int) -> None:
    """Join the shards when all are there, and remove tables that do not belong to this recipe or number of shards."""
    own = [folder / shard_name(shard, n_shards) for shard in range(n_shards)] if n_shards > 1 else []
    whole = folder / WHOLE
    if all(path.exists() and _has_recipe(path, header) for path in own):
        if own:
            write_parquet(_concatenate(own, clip_ids), whole, header)
        for path in set(folder.glob(SHARDS)) - set(own):
            path.unlink()
    elif whole.exists() and not _has_recipe(whole, header):  # its crops are being replaced
        whole.unlink()


def _has_recipe(path: Path, header: dict[str, Any]) -> bool:
    return parquet_metadata(path).get("recipe_hash") == header["recipe_hash"]


def _concatenate(paths: list[Path], clip_ids: pd.Series) -> pa.Table:
    """The rows of all shards in the order of the clips, without those of clips that no longer exist."""
    table = pa.concat_tables([read_table(path) for path in paths])
    place = pc.index_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string()))
    table = table.append_column("place", place).filter(pc.is_valid(place))
    order = pc.sort_indices(table, [("place", "ascending")])  # keeps the order of a clip's rows
    return table.take(order).drop_columns("place")


# ---- what was stored


def read_faces(profile: str) -> pd.DataFrame:
    """The table of `faces.parquet`.

    Parameters
    ----------
    profile : str
        Whose faces to read.

    Returns
    -------
    DataFrame
        One row for each face and sampled frame, and one for each clip without a face.

    Raises
    ------
    EcmfError
        Notebook 20 has not run, or a shard is missing.
    """
    folder = _folder(profile)
    made_by = "20_detect_faces"
    shards = sorted(folder.glob(SHARDS))
    if shards and not (folder / WHOLE).exists():
        n_shards = int(shards[-1].stem[-3:])
        missing = (k for k in range(n_shards) if not (folder / shard_name(k, n_shards)).exists())
        made_by += f" --set n_shards={n_shards} --set shard={next(missing, 0)}"
    return read_parquet(folder / WHOLE, made_by)


def read_face_recipe(profile: str) -> dict[str, Any]:
    """The recipe of the stored crops, for the recipe of what is computed from them.

    Parameters
    ----------
    profile : str
        Whose crops they are.

    Returns
    -------
    dict
        `recipe`, and its hash `recipe_hash`.

    Raises
    ------
    EcmfError
        Notebook 20 has not run, or a shard is missing.
    """
    read_faces(profile)  # raises where the table is missing
    return parquet_metadata(_folder(profile) / WHOLE)


def read_crops(profile: str, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Crops of the main face of a clip.

    Parameters
    ----------
    profile : str
        Whose crops to read.
    clip_id : str
        Name of the clip.

    Returns
    -------
    crops : uint8 (F, size, size, 3)
        RGB; F is 0 where there is no face.
    times : float array (F,)
        Seconds from the start of the clip.

    Raises
    ------
    EcmfError
        Notebook 20 has not run.
    """
    path = _crops_path(profile, clip_id)
    if not path.exists():
        raise EcmfError(f"{show(path)} is missing: run 20_detect_faces first")
    with np.load(path) as stored:
        return stored["crops"], stored["times"]


def summarise_faces(faces: pd.DataFrame) -> pd.DataFrame:
    """One row a clip, from the table of `faces.parquet`.

    Parameters
    ----------
    faces : DataFrame
        Of `detect_faces` or `read_faces`.

    Returns
    -------
    DataFrame
        Index `clip_id`; `state` (face / none / failed), `problem`, `frames` with the main face, their `share` of the
        sampled ones, `people`, and the mean `quality` and width `w` (px) of the main face.
    """
    main = faces[(faces["status"] == "ok") & (faces["track"] == 0)]
    means = main.groupby("clip_id").agg(frames=("frame", "count"), quality=("quality", "mean"), w=("w", "mean"))
    first = faces.drop_duplicates("clip_id").set_index("clip_id")
    state = first["status"].map({"ok": "face", "missing": "none", "failed": "failed"})
    table = first[["problem", "people", "n_sampled"]].assign(state=state).join(means)
    share = table["frames"].fillna(0) / table["n_sampled"].astype(float)
    return table.assign(frames=table["frames"].fillna(0).astype(int), share=share)


def _folder(profile: str) -> Path:
    return data_dir(profile) / "faces"


def _crops_path(profile: str, clip_id: str) -> Path:
    return _folder(profile) / "crops" / f"{file_name(clip_id)}.npz"
