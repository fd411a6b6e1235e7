"""Crops of a face, by five points where their model is there, else by the box; how good they are."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

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
