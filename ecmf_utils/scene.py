"""The scene around a face: room, shoulders, light, camera; and the film of one clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from . import avatar, expression, props
from .people import Identity

WIDTH, HEIGHT, FPS = 320, 240, 12
MARGIN = 40  # pixels of room beyond each edge of the picture, for the camera to move in
HEAD_SCALE = 0.60  # picture pixels per canvas unit in the neutral framing
KNEE = 185  # brightness above which highlights are compressed
TINY_SCALE = 0.105  # a head of about 25 pixels: below what a face detector finds


@dataclass(frozen=True)
class Look:
    """How light and camera show an emotion outside the face (at full intensity)."""

    brightness: float = 1.0  # factor on all colours
    warmth: float = 0.0  # > 0 reddish, < 0 bluish
    saturation: float = 1.0
    contrast: float = 1.0
    vignette: float = 0.15  # darkening of the corners
    framing: float = 1.0  # size of the person in the picture
    drop: float = 0.0  # pixels the person sits below the middle
    roll: float = 0.0  # degrees the camera is tilted (either side)
    shake: float = 0.0  # pixels of hand-held unrest
    push: float = 0.0  # share by which the camera moves in during the clip


LOOKS = dict(
    neutral=Look(),
    angry=Look(0.84, 0.30, 1.12, 1.20, 0.42, 1.12, 0, 0, 2.2, 0.05),
    happy=Look(1.20, 0.22, 1.28, 0.96, 0.00, 1.00, -4, 0, 0.4, 0.00),
    sad=Look(0.72, -0.30, 0.60, 0.86, 0.36, 0.84, 12, 0, 0.0, -0.05),
    worried=Look(0.84, -0.14, 0.72, 1.04, 0.28, 0.92, 6, 5, 0.9, 0.02),
    surprise=Look(1.14, -0.06, 1.08, 1.16, 0.05, 0.96, -6, 0, 0.5, 0.24),
)
WALLS = np.array(
    [(178, 168, 152), (148, 160, 164), (164, 150, 142), (140, 152, 138), (170, 164, 176), (188, 178, 158),
     (126, 138, 152), (158, 142, 128)], np.float32)  # fmt: skip


def blend_look(emotion: str, intensity: float, rng: np.random.Generator) -> dict[str, float]:
    """The look of one clip: towards its emotion by `intensity`, with the chance of real rooms added."""
    spread = dict(
        brightness=0.09,
        warmth=0.09,
        saturation=0.10,
        contrast=0.05,
        vignette=0.05,
        framing=0.05,
        drop=4.0,
        roll=0.7,
        shake=0.35,
        push=0.02,
    )
    rest, target, look = Look(), LOOKS[emotion], {}
    for name, width in spread.items():
        start = getattr(rest, name)
        look[name] = start + (getattr(target, name) - start) * intensity + float(rng.normal(0, width))
    look["roll"] *= float(rng.choice([-1, 1]))
    look["vignette"], look["shake"] = max(0.0, look["vignette"]), abs(look["shake"])
    return look


def film(who: Identity, plan: dict[str, Any], loudness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Render the pictures of one clip.

    Parameters
    ----------
    who : Identity
    plan : dict
        `shown_face`, `face_intensity`, `shown_scene`, `scene_intensity`, `hard_face`.
    loudness : ndarray, (F,)
        Loudness of the voice at each picture, 0..1; it moves the mouth.

    Returns
    -------
    ndarray, uint8, (F, 240, 320, 3), RGB
    """
    look = blend_look(plan["shown_scene"], plan["scene_intensity"], rng)
    light = (float(rng.uniform(0.25, 0.7) * rng.choice([-1, 1])), float(rng.uniform(-0.65, -0.3)), 0.9)
    stage = _build_stage(who, plan["hard_face"], look, light, rng)
    poses = _poses(plan, loudness, rng)
    cameras = _camera(look, len(loudness), plan["hard_face"], rng)
    finish = _finish(look, rng)
    return np.stack(
        [finish(_picture(stage, pose, camera), f) for f, (pose, camera) in enumerate(zip(poses, cameras, strict=True))]
    )


def _build_stage(
    who: Identity, hard: str | None, look: dict[str, float], light: tuple[float, float, float], rng: np.random.Generator
) -> dict[str, Any]:
    """Everything that does not move by itself during the clip."""
    ambient = 0.44 + 0.10 * (look["brightness"] - 1)
    stage: dict[str, Any] = dict(who=who, room=make_room(rng, light), hard=hard, x=WIDTH / 2 + float(rng.normal(0, 20)))
    if hard == "absent":
        return stage
    stage["head"] = avatar.make_head(who, light, ambient)
    stage["body"] = props.make_body(who, light, ambient).premultiplied()
    stage["depth"] = _depth(who)
    back = stage["head"].back
    stage["back"] = None if back is None else back.premultiplied()
    if hard == "hidden":
        stage["cover"] = props.make_cover(who, rng).premultiplied()
    if hard == "turned":
        stage["away"] = props.make_turned(who, stage["head"], rng).premultiplied()
    return stage


def _poses(plan: dict[str, Any], loudness: np.ndarray, rng: np.random.Generator) -> list[dict[str, float]]:
    """Expression and head movement at each picture: onset, blinks, gaze, nods, talking mouth."""
    frames = np.arange(len(loudness)) / FPS
    full = expression.blend(plan["shown_face"], plan["face_intensity"])
    jitter = dict(brow=0.08, furrow=0.06, inner=0.06, corner=0.09, squint=0.05)
    full.update({k: full[k] + float(rng.normal(0, s)) for k, s in jitter.items()})
    full.update({k: max(0.0, full[k]) for k in ("furrow", "inner", "squint")})
    onset, phase = rng.uniform(0.05, 0.35) * frames[-1], rng.uniform(0, 2 * np.pi, 8)
    blinks = rng.uniform(0, frames[-1], rng.integers(1, 3))
    rise = 0.35 + 0.65 * np.clip((frames - onset) / 0.4 + 0.5, 0, 1)
    poses = []
    for t, level, a in zip(frames, loudness, rise, strict=True):
        pose = {k: expression.REST[k] + (v - expression.REST[k]) * a for k, v in full.items()}
        talk = 0.46 * level * (0.65 + 0.35 * np.sin(25 * t + phase[0]))
        pose["open"] = float(np.clip(pose["open"] * (1 - 0.35 * level) + talk, 0, 0.8))
        pose["blink"] = float(np.exp(-(((t - blinks) / 0.08) ** 2)).max())
        pose["gaze_x"] = 0.35 * np.sin(1.3 * t + phase[1])
        pose["gaze_y"] += 0.2 * np.sin(1.7 * t + phase[2])
        pose["tilt"] = 2.2 * np.sin(1.5 * t + phase[3]) + 1.5 * level
        pose["yaw"] = 0.16 * np.sin(0.9 * t + phase[4])
        pose["nod"] = 0.10 * np.sin(1.6 * t + phase[5]) + 0.05 * level
        pose["sway"], pose["bob"] = 3 * np.sin(1.1 * t + phase[6]), 1.5 * np.sin(1.9 * t + phase[7])
        poses.append(pose)
    return poses


def _camera(look: dict[str, float], count: int, hard: str | None, rng: np.random.Generator) -> list[dict[str, float]]:
    """Zoom, shift and tilt of the camera at each picture."""
    t = np.linspace(0, 1, count)
    eased = avatar.ramp(0.25, 0.55, t) if look["push"] > 0.1 else t
    shake = (
        cv2.GaussianBlur(rng.normal(0, 1, (2, count + 8)).astype(np.float32), (0, 0), 0.7)[:, 4:-4]
        * 1.6
        * look["shake"]
    )
    scale = (TINY_SCALE if hard == "tiny" else HEAD_SCALE) * look["framing"]
    return [
        dict(
            zoom=1 + look["push"] * e,
            dx=float(dx),
            dy=float(dy),
            roll=look["roll"],
            scale=scale,
            drop=look["drop"],
        )
        for e, dx, dy in zip(eased, *shake, strict=True)
    ]


def _place(camera: dict[str, float], x: float, y: float, scale: float, degrees: float) -> np.ndarray:
    """(2, 3) matrix from units around a point of the stage to picture pixels."""
    zoom, roll = camera["zoom"], np.deg2rad(camera["roll"])
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]) * zoom
    at = turn @ np.array([x - WIDTH / 2, y - HEIGHT / 2]) + (
        WIDTH / 2 + camera["dx"],
        HEIGHT / 2 + camera["dy"],
    )
    angle = np.deg2rad(degrees)
    own = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    return np.hstack([turn @ own, at[:, None]])


def _warp(layer: np.ndarray, place: np.ndarray, origin: tuple[float, float]) -> np.ndarray:
    """Resample a premultiplied layer, whose unit origin lies at `origin`, into the picture."""
    matrix = place.copy()
    matrix[:, 2] -= matrix[:, :2] @ origin
    size = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    if size < 0.4:  # a far person: smooth first, or thin lines would flicker
        layer = cv2.GaussianBlur(layer, (0, 0), 0.4 / size)
    return cv2.warpAffine(layer, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def _over(picture: np.ndarray, layer: np.ndarray) -> np.ndarray:
    return picture * (1 - layer[..., 3:]) + layer[..., :3]


def _picture(stage: dict[str, Any], pose: dict[str, float], camera: dict[str, float]) -> np.ndarray:
    """(240, 320, 3) float32: room, then hair behind, body, head, and what stands before them."""
    matrix = _place(camera, WIDTH / 2, HEIGHT / 2, 1.0, 0)
    matrix[:, 2] -= matrix[:, :2] @ (WIDTH / 2 + MARGIN, HEIGHT / 2 + MARGIN)
    picture = cv2.warpAffine(stage["room"], matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    if stage["hard"] == "absent":
        return picture
    scale, who = camera["scale"], stage["who"]
    x = stage["x"] + pose["sway"] * scale * 1.5
    y = HEIGHT * (0.47 if stage["hard"] != "tiny" else 0.50) + camera["drop"] + pose["bob"] * scale * 1.5
    head_at = _place(camera, x, y, scale, pose["tilt"])
    centre = (avatar.CENTRE_X, avatar.CENTRE_Y)
    if stage["back"] is not None:
        picture = _over(picture, _warp(stage["back"], head_at, centre))
    body_at = _place(camera, x, y, scale, pose["tilt"] * 0.2)
    picture = _over(picture, _warp(stage["body"], body_at, (avatar.BODY_WIDTH / 2, -avatar.BODY_TOP)))
    if stage["hard"] == "turned":
        return _over(picture, _warp(stage["away"], head_at, centre))
    face = turn_head(expression.paint(stage["head"], who, pose), stage["depth"], pose["yaw"], pose["nod"])
    picture = _over(picture, _warp(face, head_at, centre))
    if stage["hard"] == "hidden":
        picture = _over(picture, _warp(stage["cover"], head_at, centre))
    if stage["hard"] == "tiny":
        picture = props.paint_counter(picture, y + 400 * scale, camera)
    return picture


def _depth(who: Identity) -> np.ndarray:
    """How far each point of the canvas lies towards the viewer: an egg with a nose, in pixels."""
    a, b = avatar.head_size(who)
    egg = 1 - (avatar.X / (a + 14)) ** 2 - (avatar.Y / (b + 10)) ** 2
    nose = avatar.bump(0, who.nose_length - 6, 18, 22)
    return (a * (np.sqrt(np.clip(egg, 0, 1)) + 0.14 * nose)).astype(np.float32)


def turn_head(face: np.ndarray, depth: np.ndarray, yaw: float, nod: float) -> np.ndarray:
    """Shift each point of the head by its depth: what lies further forward moves further."""
    map_x = avatar.X + np.float32(avatar.CENTRE_X) - np.float32(yaw) * depth
    map_y = avatar.Y + np.float32(avatar.CENTRE_Y) - np.float32(nod) * depth
    return cv2.remap(face, map_x, map_y, cv2.INTER_LINEAR)


def _finish(look: dict[str, float], rng: np.random.Generator):
    """A function (picture, index) -> uint8 picture: light, colour, vignette and sensor grain."""
    grey = np.float32([[0.3, 0.59, 0.11]] * 3)
    tint = np.float32([1 + 0.45 * look["warmth"], 1.0, 1 - 0.5 * look["warmth"]]) * look["brightness"]
    colour = tint[:, None] * (grey + look["saturation"] * (np.eye(3, dtype=np.float32) - grey))
    shift = 118 * look["brightness"] * (1 - look["contrast"])
    matrix = np.hstack([colour * look["contrast"], np.full((3, 1), shift)]).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    corner = (1 - look["vignette"] * (x**2 + y**2) / 1.6).astype(np.float32)[..., None]
    grain = rng.normal(0, 2.2, (3, HEIGHT, WIDTH, 1)).astype(np.float32)

    def finish(picture: np.ndarray, index: int) -> np.ndarray:
        lit = cv2.transform(picture, matrix) * corner + grain[index % 3]
        bright = np.maximum(lit - KNEE, 0)
        lit -= bright * bright / (bright + 255 - KNEE)  # film-like: highlights near white keep their form
        return np.clip(lit, 0, 255).astype(np.uint8)

    return finish


def make_room(rng: np.random.Generator, light: tuple[float, float, float]) -> np.ndarray:
    """A softly blurred room, (240 + 2 MARGIN, 320 + 2 MARGIN, 3) float32."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.72, 1.02)
    fade = np.linspace(1.08, 0.82, height, dtype=np.float32)[:, None, None]
    room = np.ascontiguousarray(np.broadcast_to(wall * fade, (height, width, 3)).astype(np.float32))
    for _ in range(int(rng.integers(2, 4))):
        props.FURNITURE[rng.integers(len(props.FURNITURE))](room, rng)
    room = cv2.GaussianBlur(room, (0, 0), float(rng.uniform(3.0, 5.5)))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    lamp_x = width * (0.5 + 0.5 * light[0])
    glow = np.exp(-(((x - lamp_x) / 190) ** 2) - ((y - 40) / 170) ** 2)
    return room * (0.80 + 0.34 * glow)[..., None]
