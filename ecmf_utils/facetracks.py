"""Detections joined into faces that persist, so that a false alarm does not count as a person."""

from __future__ import annotations

from typing import Any

import numpy as np

PEAK_SCORE = 0.4  # a track needs one detection this sure ...
MIN_FRAMES = 2  # ... and this many sampled frames; what dlib invents is rarer and weaker
MAX_GAP_S = 2.0  # a face hidden for longer starts a new track
MAX_STEP = 0.7  # face widths that a centre may move between two sampled frames


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
    for number, boxes in enumerate(found):
        for box in sorted(boxes, key=lambda one: -one["score"]):
            box["frame"] = number
            near = [track for track in tracks if _continues(track[-1], box, times)]
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


def _continues(last: dict[str, Any], box: dict[str, Any], times: np.ndarray) -> bool:
    gap = times[box["frame"]] - times[last["frame"]]
    alike = 0.5 < box["box"][2] / last["box"][2] < 2
    later = box["frame"] > last["frame"] and gap <= MAX_GAP_S
    return later and alike and _distance(last, box) < MAX_STEP


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Distance of two box centres in face widths."""
    centre_a, centre_b = (one["box"][:2] + one["box"][2:] / 2 for one in (a, b))
    return float(np.hypot(*(centre_a - centre_b)) / max(a["box"][2], b["box"][2]))
