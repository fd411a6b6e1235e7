"""From detections to faces: follow each face through a clip, count the people, cut out and rate the crops."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# A track is kept when one of its detections is above PEAK_SCORE and it has MIN_FRAMES sampled frames. The false
# alarms of dlib are rarer and weaker than that.
PEAK_SCORE = 0.4
MIN_FRAMES = 2
MAX_GAP_S = 2.0  # a face that is hidden for longer starts a new track
GAP_STEPS = 2.5  # where frames are sampled far apart, the longest gap is this many steps: one frame may be missed
MAX_STEP = 0.7  # face widths that a centre may move between two sampled frames; more in longer gaps
SHARP = 120.0  # variance of the Laplacian of a crop that counts as fully sharp
BOX = ["x", "y", "w", "h"]
LANDMARK_PACKAGE = "face_recognition_models"
LANDMARK_FILE = "shape_predictor_5_face_landmarks.dat"


# ---- tracks


def join_detections(detections: list[list[dict[str, Any]]], times: np.ndarray) -> list[list[dict[str, Any]]]:
    """Join the detections of sampled frames into tracks, one for each face, and drop the uncertain ones.

    Parameters
    ----------
    detections : list of F lists
        Detections of each frame: `box` (x, y, w, h) in pixels and `score`.
    times : float (F,)
        Seconds.

    Returns
    -------
    list of tracks
        Each is a list of detections with their `frame` number. The main face, with the largest sum of areas,
        comes first.
    """
    tracks: list[list[dict[str, Any]]] = []
    gap_s = max(MAX_GAP_S, GAP_STEPS * float(np.median(np.diff(times)))) if len(times) > 1 else MAX_GAP_S
    for number, in_frame in enumerate(detections):
        for detection in sorted(in_frame, key=lambda detection: -detection["score"]):
            detection["frame"] = number
            near = [track for track in tracks if _continues(track[-1], detection, times, gap_s)]
            if near:
                min(near, key=lambda track: _distance(track[-1], detection)).append(detection)
            else:
                tracks.append([detection])
    certain = [
        track
        for track in tracks
        if len(track) >= min(MIN_FRAMES, len(times)) and max(d["score"] for d in track) > PEAK_SCORE
    ]
    return sorted(certain, key=lambda track: -sum(d["box"][2] * d["box"][3] for d in track))


def count_people(tracks: list[list[dict[str, Any]]]) -> int:
    """The number of people; a face that went away and came back to the same place counts once."""
    last_seen: list[dict[str, Any]] = []
    for track in sorted(tracks, key=lambda track: track[0]["frame"]):
        first = track[0]
        gone = [last for last in last_seen if last["frame"] < first["frame"] and _is_alike(last, first, MAX_STEP)]
        if gone:
            same = min(gone, key=lambda last: _distance(last, first))
            last_seen = [last for last in last_seen if last is not same]
        last_seen.append(track[-1])
    return len(last_seen)


def _continues(last: dict[str, Any], detection: dict[str, Any], times: np.ndarray, gap_s: float) -> bool:
    """Whether a detection belongs to the track that ends with `last`."""
    gap = times[detection["frame"]] - times[last["frame"]]
    later = detection["frame"] > last["frame"] and gap <= gap_s
    return later and _is_alike(last, detection, MAX_STEP * max(1.0, gap / MAX_GAP_S))


def _is_alike(a: dict[str, Any], b: dict[str, Any], max_step: float) -> bool:
    """Whether two boxes have a similar size and are less than `max_step` face widths apart."""
    return 0.5 < b["box"][2] / a["box"][2] < 2 and _distance(a, b) < max_step


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Distance between the centres of two boxes in face widths."""
    centre_a, centre_b = (detection["box"][:2] + detection["box"][2:] / 2 for detection in (a, b))
    return float(np.hypot(*(centre_a - centre_b)) / max(a["box"][2], b["box"][2]))


# ---- crops


def find_landmark_file() -> Path | None:
    """The 5-point model of the `landmarks` extra, or None where it is not installed."""
    try:
        installed = importlib.metadata.files(LANDMARK_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(file.locate()) for file in installed if file.name == LANDMARK_FILE]
    return paths[0] if paths and paths[0].exists() else None


@lru_cache(maxsize=1)
def _load_landmarker() -> Any:
    import dlib

    return dlib.shape_predictor(str(find_landmark_file()))


def crop_face(frame: np.ndarray, box: np.ndarray, recipe: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray]:
    """Cut one face out of a frame.

    Parameters
    ----------
    frame : uint8 (H, W, 3)
    box : float (4,)
        x, y, width, height in pixels of the frame.
    recipe : dict
        `alignment` ("5-point" or "box"), `size` in pixels and `margin` as a share of the face.

    Returns
    -------
    points : float (5, 2) or None
        The corners of the eyes and the base of the nose in pixels of the frame; None where `alignment` is "box".
    crop : uint8 (size, size, 3)
    """
    if recipe["alignment"] == "5-point":
        import dlib

        left, top, width, height = (int(round(side)) for side in box)
        shape = _load_landmarker()(frame, dlib.rectangle(left, top, left + width, top + height))
        points = np.array([(point.x, point.y) for point in shape.parts()], float)
        return points, dlib.get_face_chip(frame, shape, size=recipe["size"], padding=recipe["margin"])
    half = box[2:].max() * (0.5 + recipe["margin"])
    scale = recipe["size"] / (2 * half)
    centre = box[:2] + box[2:] / 2
    shift = np.array([[scale, 0, 0], [0, scale, 0]])
    shift[:, 2] = recipe["size"] / 2 - scale * centre
    crop = cv2.warpAffine(frame, shift, (recipe["size"], recipe["size"]), borderMode=cv2.BORDER_REPLICATE)
    return None, crop


def describe_face(
    frame: np.ndarray, detection: dict[str, Any], recipe: dict[str, Any], to_original: float
) -> tuple[dict[str, Any], np.ndarray]:
    """The row of one face in the table of faces, and its crop.

    Parameters
    ----------
    frame : uint8 (H, W, 3)
    detection : dict
        `frame` (its number), `box` (x, y, w, h) in pixels of the frame, `score`, `pose`.
    recipe : dict
        As for `crop_face`.
    to_original : float
        Pixels of the original for one pixel of the frame.

    Returns
    -------
    row : dict
        Box and landmarks in pixels of the original; `quality` (0 to 1) is the mean of four parts: size,
        sharpness, confidence and pose.
    crop : uint8 (size, size, 3)
    """
    points, crop = crop_face(frame, detection["box"], recipe)
    sharpness = float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
    box = detection["box"] * to_original
    parts = [
        min(1.0, box[2] / recipe["size"]),  # size
        min(1.0, sharpness / SHARP),
        float(np.clip(detection["score"] / 2, 0, 1)),  # confidence
        1.0 if detection["pose"] == 0 else 0.7,  # 0 is dlib's detector of frontal faces, the others are for turned ones
    ]
    row = {"frame": detection["frame"], "score": float(detection["score"]), "pose": int(detection["pose"])}
    row |= dict(zip(BOX, map(float, box.round(1)), strict=True))
    row |= {"sharpness": round(sharpness, 1), "quality": round(float(np.mean(parts)), 3)}
    landmarks = None if points is None else (points * to_original).round(1).ravel().tolist()
    return row | {"landmarks": landmarks}, crop
