"""Detections joined into faces that persist, so that a false alarm does not count as a person."""

from __future__ import annotations

from typing import Any

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
