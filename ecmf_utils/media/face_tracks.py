"""Detections joined into faces that persist, so that a false alarm does not count as a person."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PEAK_SCORE = 0.4  # a track needs one detection this sure ...
MIN_FRAMES = 2  # ... and this many sampled frames; what dlib invents is rarer and weaker
MAX_GAP_S = 2.0  # a face hidden for longer starts a new track
GAP_STEPS = 2.5  # where frames are sampled far apart, a face may be missed in one of them
MAX_STEP = 0.7  # face widths that a centre may move between two sampled frames, more in longer gaps


def join(found: list[list[dict[str, Any]]], times: np.ndarray) -> list[list[dict[str, Any]]]:
    """Join the boxes of sampled frames into faces, the main one first; drop what is unsure.

    Parameters
    ----------
    found : list of F lists
        Detections of each frame: `box` (x, y, w, h) and `score`.
    times : float (F,)
        Seconds.

    Returns
    -------
    list of tracks, each a list of detections with their `frame` number, largest sum of areas first.
    """
    tracks: list[list[dict[str, Any]]] = []
    gap_s = max(MAX_GAP_S, GAP_STEPS * float(np.median(np.diff(times)))) if len(times) > 1 else MAX_GAP_S
    for number, boxes in enumerate(found):
        for box in sorted(boxes, key=lambda one: -one["score"]):
            box["frame"] = number
            near = [track for track in tracks if _continues(track[-1], box, times, gap_s)]
            if near:
                min(near, key=lambda track: _distance(track[-1], box)).append(box)
            else:
                tracks.append([box])
    sure = [
        track
        for track in tracks
        if len(track) >= min(MIN_FRAMES, len(times)) and max(b["score"] for b in track) > PEAK_SCORE
    ]
    return sorted(sure, key=lambda track: -sum(b["box"][2] * b["box"][3] for b in track))


def count_people(tracks: list[list[dict[str, Any]]]) -> int:
    """Number of faces, where one that went away and came back to the same place counts once."""
    last_seen: list[dict[str, Any]] = []
    for track in sorted(tracks, key=lambda one: one[0]["frame"]):
        back = [one for one in last_seen if one["frame"] < track[0]["frame"] and _alike(one, track[0], MAX_STEP)]
        for one in sorted(back, key=lambda one: _distance(one, track[0]))[:1]:
            last_seen = [other for other in last_seen if other is not one]
        last_seen.append(track[-1])
    return len(last_seen)


def _continues(last: dict[str, Any], box: dict[str, Any], times: np.ndarray, gap_s: float) -> bool:
    gap = times[box["frame"]] - times[last["frame"]]
    later = box["frame"] > last["frame"] and gap <= gap_s
    return later and _alike(last, box, MAX_STEP * max(1.0, gap / MAX_GAP_S))


def _alike(a: dict[str, Any], b: dict[str, Any], step: float) -> bool:
    """Whether two boxes are of similar size and not farther apart than so many face widths."""
    return 0.5 < b["box"][2] / a["box"][2] < 2 and _distance(a, b) < step


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Distance of two box centres in face widths."""
    centre_a, centre_b = (one["box"][:2] + one["box"][2:] / 2 for one in (a, b))
    return float(np.hypot(*(centre_a - centre_b)) / max(a["box"][2], b["box"][2]))


# ---- crops of a face, by five points where their model is there, else by the box; how good they are


SHARP = 120.0  # variance of the Laplacian of a crop that counts as fully sharp
BOX = ["x", "y", "w", "h"]
LANDMARK_PACKAGE = "face_recognition_models"
LANDMARK_FILE = "shape_predictor_5_face_landmarks.dat"


def landmark_file() -> Path | None:
    """The 5-point model of the `landmarks` extra, or None when it is not installed."""
    try:
        files = importlib.metadata.files(LANDMARK_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(file.locate()) for file in files if file.name == LANDMARK_FILE]
    return found[0] if found and found[0].exists() else None


@lru_cache(maxsize=1)
def _landmarker() -> Any:
    import dlib

    return dlib.shape_predictor(str(landmark_file()))


def align(frame: np.ndarray, box: np.ndarray, how: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray]:
    """Cut one face out of a frame.

    Parameters
    ----------
    frame : uint8 (H, W, 3)
    box : float (4,)
        x, y, width, height in pixels of the frame.
    how : dict
        `alignment` (5-point or box), `size` in pixels and `margin` as a share of the face.

    Returns
    -------
    points : float (5, 2) or None
        Corners of the eyes and the base of the nose, where they were asked for.
    crop : uint8 (size, size, 3)
    """
    if how["alignment"] == "5-point":
        import dlib

        left, top, width, height = (int(round(side)) for side in box)
        shape = _landmarker()(frame, dlib.rectangle(left, top, left + width, top + height))
        points = np.array([(point.x, point.y) for point in shape.parts()], float)
        return points, dlib.get_face_chip(frame, shape, size=how["size"], padding=how["margin"])
    half = box[2:].max() * (0.5 + how["margin"])
    scale = how["size"] / (2 * half)
    centre = box[:2] + box[2:] / 2
    shift = np.array([[scale, 0, 0], [0, scale, 0]])
    shift[:, 2] = how["size"] / 2 - scale * centre
    crop = cv2.warpAffine(frame, shift, (how["size"], how["size"]), borderMode=cv2.BORDER_REPLICATE)
    return None, crop


def describe(
    frame: np.ndarray, found: dict[str, Any], how: dict[str, Any], to_original: float
) -> tuple[dict[str, Any], np.ndarray]:
    """What a table says of one face, and its crop.

    Parameters
    ----------
    frame : uint8 (H, W, 3)
    found : dict
        `frame` (its number), `box` (x, y, w, h) in pixels of the frame, `score`, `pose`.
    how : dict
        As for `align`.
    to_original : float
        Pixels of the original for one of the frame.

    Returns
    -------
    row : dict
        Box and landmarks in pixels of the original; `quality` (0 to 1) is the mean of four parts: size,
        sharpness, confidence, pose.
    crop : uint8 (size, size, 3)
    """
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
