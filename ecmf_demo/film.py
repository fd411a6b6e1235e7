"""The scene around a face: room, shoulders, light, camera; and the film of one clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .face import (
    BODY_HEIGHT,
    BODY_TOP,
    BODY_WIDTH,
    CENTRE_X,
    CENTRE_Y,
    HEAD_HEIGHT,
    HEAD_WIDTH,
    REST,
    Head,
    Layer,
    X,
    Y,
    blend,
    bump,
    head_size,
    make_head,
    paint,
    ramp,
)
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
        [finish(_compose(stage, pose, camera), f) for f, (pose, camera) in enumerate(zip(poses, cameras, strict=True))]
    )


def _build_stage(
    who: Identity, hard: str | None, look: dict[str, float], light: tuple[float, float, float], rng: np.random.Generator
) -> dict[str, Any]:
    """Everything that does not move by itself during the clip."""
    ambient = 0.44 + 0.10 * (look["brightness"] - 1)
    stage: dict[str, Any] = dict(who=who, room=make_room(rng, light), hard=hard, x=WIDTH / 2 + float(rng.normal(0, 20)))
    if hard == "absent":
        return stage
    stage["head"] = make_head(who, light, ambient)
    stage["body"] = make_body(who, light, ambient).premultiplied()
    stage["depth"] = _depth(who)
    back = stage["head"].back
    stage["back"] = None if back is None else back.premultiplied()
    if hard == "hidden":
        stage["cover"] = make_cover(who, rng).premultiplied()
    if hard == "turned":
        stage["away"] = make_turned(who, stage["head"], rng).premultiplied()
    return stage


def _poses(plan: dict[str, Any], loudness: np.ndarray, rng: np.random.Generator) -> list[dict[str, float]]:
    """Expression and head movement at each picture: onset, blinks, gaze, nods, talking mouth."""
    frames = np.arange(len(loudness)) / FPS
    full = blend(plan["shown_face"], plan["face_intensity"])
    jitter = dict(brow=0.08, furrow=0.06, inner=0.06, corner=0.09, squint=0.05)
    full.update({k: full[k] + float(rng.normal(0, s)) for k, s in jitter.items()})
    full.update({k: max(0.0, full[k]) for k in ("furrow", "inner", "squint")})
    onset, phase = rng.uniform(0.05, 0.35) * frames[-1], rng.uniform(0, 2 * np.pi, 8)
    blinks = rng.uniform(0, frames[-1], rng.integers(1, 3))
    rise = 0.35 + 0.65 * np.clip((frames - onset) / 0.4 + 0.5, 0, 1)
    poses = []
    for t, level, a in zip(frames, loudness, rise, strict=True):
        pose = {k: REST[k] + (v - REST[k]) * a for k, v in full.items()}
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
    eased = ramp(0.25, 0.55, t) if look["push"] > 0.1 else t
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


def _compose(stage: dict[str, Any], pose: dict[str, float], camera: dict[str, float]) -> np.ndarray:
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
    centre = (CENTRE_X, CENTRE_Y)
    if stage["back"] is not None:
        picture = _over(picture, _warp(stage["back"], head_at, centre))
    body_at = _place(camera, x, y, scale, pose["tilt"] * 0.2)
    picture = _over(picture, _warp(stage["body"], body_at, (BODY_WIDTH / 2, -BODY_TOP)))
    if stage["hard"] == "turned":
        return _over(picture, _warp(stage["away"], head_at, centre))
    face = turn_head(paint(stage["head"], who, pose), stage["depth"], pose["yaw"], pose["nod"])
    picture = _over(picture, _warp(face, head_at, centre))
    if stage["hard"] == "hidden":
        picture = _over(picture, _warp(stage["cover"], head_at, centre))
    if stage["hard"] == "tiny":
        picture = paint_counter(picture, y + 400 * scale, camera)
    return picture


def _depth(who: Identity) -> np.ndarray:
    """How far each point of the canvas lies towards the viewer: an egg with a nose, in pixels."""
    a, b = head_size(who)
    egg = 1 - (X / (a + 14)) ** 2 - (Y / (b + 10)) ** 2
    nose = bump(0, who.nose_length - 6, 18, 22)
    return (a * (np.sqrt(np.clip(egg, 0, 1)) + 0.14 * nose)).astype(np.float32)


def turn_head(face: np.ndarray, depth: np.ndarray, yaw: float, nod: float) -> np.ndarray:
    """Shift each point of the head by its depth: what lies further forward moves further."""
    map_x = X + np.float32(CENTRE_X) - np.float32(yaw) * depth
    map_y = Y + np.float32(CENTRE_Y) - np.float32(nod) * depth
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
        FURNITURE[rng.integers(len(FURNITURE))](room, rng)
    room = cv2.GaussianBlur(room, (0, 0), float(rng.uniform(3.0, 5.5)))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    lamp_x = width * (0.5 + 0.5 * light[0])
    glow = np.exp(-(((x - lamp_x) / 190) ** 2) - ((y - 40) / 170) ** 2)
    return room * (0.80 + 0.34 * glow)[..., None]


# ---- things of the demo's pictures: clothes, furniture, and what hides a face


BX = np.arange(BODY_WIDTH, dtype=np.float32)[None, :] - BODY_WIDTH / 2
BY = np.arange(BODY_HEIGHT, dtype=np.float32)[:, None] + BODY_TOP


def make_body(who: Identity, light: tuple[float, float, float], ambient: float) -> Layer:
    """Neck and shoulders in clothes, on the body canvas."""
    rng = np.random.default_rng(who.texture_seed + 1)
    layer = Layer.empty(BODY_HEIGHT, BODY_WIDTH)
    neck = (46 if who.presents == "f" else 54) * who.face_width
    layer.over(_neck_colour(who, light, ambient, neck), _neck_mask(neck))
    layer.over(_cloth_colour(who, light, ambient, rng), _torso_mask(who) * (1 - _neck_hole(who, neck)))
    if who.neckline == "shirt":
        _collar(layer, who, neck, ambient)
    return layer


def _neck_mask(neck: float) -> np.ndarray:
    half = neck + 34 * ramp(130, 200, BY) + 90 * ramp(175, 235, BY)
    return ramp(-1, 1, half - np.abs(BX)) * ramp(46, 50, BY)


def _neck_colour(who: Identity, light: tuple[float, float, float], ambient: float, neck: float) -> np.ndarray:
    round_off = np.clip(0.95 - 0.42 * np.clip(np.abs(BX - 14 * np.sign(light[0])) / neck, 0, 1.2) ** 2, 0.2, 1)
    under_chin = 1 - 0.52 * (1 - ramp(104, 165, BY + 0.0016 * BX**2))
    tendons = 1 - 0.07 * np.exp(-(((np.abs(BX) - 0.16 * (215 - BY)) / 5) ** 2)) * ramp(130, 160, BY)
    return who.skin * ((ambient + (1 - ambient) * round_off) * under_chin * tendons)[..., None]


def _torso_mask(who: Identity) -> np.ndarray:
    shoulder = (196 if who.presents == "f" else 222) * who.face_width
    rise = np.clip((BY - 158) / 100, 0, 1)
    return ramp(-1.2, 1.2, shoulder * np.sqrt(1 - (1 - rise) ** 2.4) - np.abs(BX)) * ramp(158, 161, BY)


def _neck_hole(who: Identity, neck: float) -> np.ndarray:
    if who.neckline == "crew":
        return ramp(1.03, 0.97, np.sqrt((BX / (neck + 14)) ** 2 + ((BY - 164) / 26) ** 2))
    depth = 252 if who.neckline == "vee" else 226
    return ramp(-1, 1, (neck + 18) * (1 - (BY - 160) / (depth - 160)) - np.abs(BX)) * ramp(depth, depth - 4, BY)


def _cloth_colour(
    who: Identity, light: tuple[float, float, float], ambient: float, rng: np.random.Generator
) -> np.ndarray:
    folds = cv2.GaussianBlur(
        rng.standard_normal((BODY_HEIGHT, BODY_WIDTH)).astype(np.float32), (0, 0), sigmaX=7, sigmaY=26
    )
    shade = 0.92 - 0.30 * (np.abs(BX - 40 * np.sign(light[0])) / 220) ** 2 + 0.035 * folds / folds.std()
    shade = shade * (1 - 0.30 * np.exp(-(((np.abs(BX) - 148 + 0.06 * (BY - 250)) / 6) ** 2)) * ramp(235, 265, BY))
    shade = shade * (1 - 0.25 * (1 - ramp(160, 205, BY)) * (np.abs(BX) < 110))
    if who.neckline != "shirt":
        ring = np.abs(_neck_hole(who, 54) - 0.5) < 0.49
        shade = shade * (1 - 0.12 * cv2.GaussianBlur(ring.astype(np.float32), (0, 0), 4))
    return who.cloth * np.clip(ambient + (1.05 - ambient) * shade, 0.2, 1.2)[..., None]


def _collar(layer: Layer, who: Identity, neck: float, ambient: float) -> None:
    colour = np.clip(who.cloth * 0.35 + 150, 0, 235) * (0.72 + 0.28 * ambient)
    for side in (-1, 1):
        corners = [
            (side * (neck + 22), 152),
            (side * (neck - 8), 168),
            (side * 4, 224),
            (side * 40, 244),
            (side * (neck + 34), 182),
        ]
        mask = np.zeros((BODY_HEIGHT, BODY_WIDTH), np.uint8)
        points = (np.float32(corners) + (BODY_WIDTH / 2, -BODY_TOP)) * 16
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        mask = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.8)
        layer.rgb *= (1 - 0.3 * cv2.GaussianBlur(mask, (0, 0), 6) * (1 - mask))[..., None]
        layer.over(np.broadcast_to(colour, layer.rgb.shape), mask)


def make_cover(who: Identity, rng: np.random.Generator) -> Layer:
    """What hides the face: two hands, or an open book."""
    layer = Layer.empty(HEAD_HEIGHT, HEAD_WIDTH)
    if rng.random() < 0.5:
        for side in (-1, 1):
            _hand(layer, who, side)
        return layer
    colour = np.float32([(118, 62, 58), (58, 84, 112), (78, 100, 74), (110, 96, 70)][rng.integers(4)])
    board = ramp(-1, 1, 104 - np.abs(X)) * ramp(-1, 1, 84 - np.abs(Y - 6 + 0.06 * np.abs(X)))
    shade = 0.95 - 0.16 * np.abs(X) / 104 - 0.30 * np.exp(-((X / 5) ** 2))
    layer.over(np.broadcast_to(colour, (HEAD_HEIGHT, HEAD_WIDTH, 3)) * shade[..., None], board)
    frame = np.exp(-((np.maximum(np.abs(np.abs(X) - 54) - 34, np.abs(Y - 6) - 58) / 1.6) ** 2))
    layer.rgb = layer.rgb + (np.float32([206, 184, 128]) - layer.rgb) * (0.5 * frame * board)[..., None]
    for side in (-1, 1):
        for row in range(4):
            _finger(layer, who, (side * 112, 32 + 17 * row), (side * 82, 27 + 17 * row), 8)
    return layer


def _hand(layer: Layer, who: Identity, side: int) -> None:
    """A hand before one half of the face, fingers up."""
    palm = np.sqrt(((X - side * 44) / 40) ** 2 + ((Y - 62) / 46) ** 2)
    layer.rgb *= (1 - 0.35 * np.exp(-((np.clip(palm - 1, 0, 9) / 0.2) ** 2)))[..., None]
    shade = (0.86 - 0.22 * palm**2 - 0.05 * np.sign(side) * X / 100)[..., None]
    layer.over(who.skin * np.clip(shade, 0.4, 1), ramp(1.03, 0.97, palm))
    arm = ramp(-1, 1, 27 - np.abs(X - side * (44 + 0.25 * (Y - 90)))) * ramp(88, 96, Y)
    layer.over(who.skin * 0.72 * np.ones((HEAD_HEIGHT, HEAD_WIDTH, 1), np.float32), arm * (1 - ramp(1.03, 0.97, palm)))
    for k, (top, lean) in enumerate(((-38, -7), (-50, -4), (-46, 1), (-28, 8))):
        _finger(layer, who, (side * (17 + 18 * k), 46), (side * (17 + 18 * k + lean), top), 11.5)


def _finger(layer: Layer, who: Identity, start: tuple[float, float], end: tuple[float, float], radius: float) -> None:
    """A finger: a capsule shaded as a cylinder, with a soft shadow beside it."""
    p, axis = np.float32(start), np.float32(end) - np.float32(start)
    along = np.clip(((X - p[0]) * axis[0] + (Y - p[1]) * axis[1]) / float(axis @ axis), 0, 1)
    distance = np.hypot(X - p[0] - along * axis[0], Y - p[1] - along * axis[1]) / radius
    layer.rgb *= (1 - 0.18 * np.exp(-((np.clip(distance - 1, 0, 9) / 0.25) ** 2)))[..., None]
    tone = 0.92 - 0.22 * np.clip(distance, 0, 1.1) ** 2.5
    tone = tone * (1 - 0.05 * np.exp(-(((along - 0.55) / 0.05) ** 2)))
    layer.over(who.skin * tone[..., None], ramp(1.06, 0.94, distance))


def make_turned(who: Identity, head: Head, rng: np.random.Generator) -> Layer:
    """The head seen from behind: the person has turned away."""
    a, b = head_size(who)
    layer = Layer(head.front.rgb.copy(), head.front.alpha * (Y < 40))
    neck = (44 if who.presents == "f" else 52) * who.face_width
    half = np.maximum(a * 0.98 - 0.55 * np.clip(Y - 10, 0, 200), neck)
    nape = ramp(-1.5, 1.5, half - np.abs(X)) * (1 - ramp(96, 150, Y))
    skin = who.skin * (0.72 - 0.22 * (X / a) ** 2 - 0.10 * (1 - ramp(60, 110, Y)))[..., None]
    layer.over(skin, nape * (Y > -20))
    volume = {"curly": 18, "long": 12, "bob": 12, "crop": 2}.get(who.style, 6)
    end, taper = {"long": (172, 0.02), "bob": (84, 0.08), "curly": (78, 0.30)}.get(who.style, (64, 0.42))
    height = np.clip(-(Y + 8) / (b + volume - 6), 0, 1)
    half = (a + volume) * np.sqrt(1 - height**2.4) - taper * np.clip(Y - 6, 0, 200) - 4 * (height >= 1)
    wobble = 3 * np.sin(X / 7 + 1) + 2 * np.sin(X / 3.1)
    mask = ramp(-1.5, 1.5, half - np.abs(X)) * (1 - ramp(end - 8, end + 4, Y + 0.0025 * X * X + wobble))
    angle = np.arctan2(X - float(rng.choice([-14, 14])), Y + 92)
    strands = np.sin(61 * angle) + 0.6 * np.sin(143 * angle + 1) + 0.5 * np.sin(237 * angle + 2)
    tone = 0.92 + 0.05 * strands - 0.34 * (X / (a + volume)) ** 2 - 0.12 * ramp(-40, 80, Y)
    tone = tone + 0.22 * np.exp(-(((Y + 74 - 0.004 * X * X) / 26) ** 2))
    layer.over(who.hair * np.clip(tone, 0.3, 1.4)[..., None], mask)
    return layer


def paint_counter(picture: np.ndarray, top: float, camera: dict[str, Any]) -> np.ndarray:
    """A long table in the foreground that a far person stands behind."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    depth = y - top - camera["dy"] + np.tan(np.deg2rad(camera["roll"])) * (picture.shape[1] / 2 - x)
    wood = np.float32([128, 100, 76]) * (1.0 - 0.0022 * np.clip(depth, 0, 200) + 0.10 * (depth < 5))[..., None]
    cover = ramp(-0.7, 0.7, depth)[..., None]
    return picture * (1 - cover) + wood * cover


def _box(room: np.ndarray, x: float, y: float, w: float, h: float, colour: np.ndarray) -> None:
    cv2.rectangle(room, (int(x), int(y)), (int(x + w), int(y + h)), np.asarray(colour, float).tolist(), -1)


def _window(room: np.ndarray, rng: np.random.Generator) -> None:
    x, w, h = rng.integers(-20, 320), rng.integers(70, 120), rng.integers(110, 170)
    _box(room, x - 5, 15, w + 10, h + 10, (206, 200, 190))
    _box(room, x, 20, w, h, np.float32([196, 212, 222]) * rng.uniform(0.8, 1.1))
    _box(room, x + w / 2 - 2, 20, 5, h, (206, 200, 190))
    _box(room, x, 20 + h * 0.45, w, 5, (206, 200, 190))


def _shelf(room: np.ndarray, rng: np.random.Generator) -> None:
    x0, y0, w = rng.integers(-30, 280), rng.integers(20, 120), rng.integers(90, 160)
    _box(room, x0 - 6, y0 - 6, w + 12, 112, (96, 76, 58))
    for y in (y0, y0 + 54):
        _box(room, x0, y, w, 46, (72, 58, 48))
        x = x0
        while x < x0 + w - 6:
            thick, tall = rng.integers(5, 12), rng.integers(26, 44)
            _box(room, x, y + 46 - tall, thick, tall, rng.uniform(60, 170) * rng.uniform(0.7, 1.15, 3))
            x += thick + 1 + 14 * int(rng.random() < 0.12)


def _picture(room: np.ndarray, rng: np.random.Generator) -> None:
    x, y, w, h = rng.integers(0, 340), rng.integers(10, 110), rng.integers(40, 90), rng.integers(40, 80)
    _box(room, x - 4, y - 4, w + 8, h + 8, (64, 52, 44))
    _box(room, x, y, w, h, (214, 208, 198))
    _box(room, x + 8, y + 8, w - 16, h - 16, rng.uniform(90, 170, 3))
    _box(room, x + 8, y + h * 0.6, w - 16, h * 0.4 - 8, rng.uniform(70, 140, 3))


def _plant(room: np.ndarray, rng: np.random.Generator) -> None:
    x, y = int(rng.choice([rng.integers(10, 110), rng.integers(290, 390)])), int(rng.integers(180, 240))
    _box(room, x - 18, y + 10, 36, 70, (150, 104, 80))
    for _ in range(14):
        at, angle = (x + int(rng.normal(0, 16)), y - 14 + int(rng.normal(0, 26))), float(rng.uniform(0, 180))
        green = (np.float32([74, 112, 70]) * rng.uniform(0.7, 1.3)).tolist()
        cv2.ellipse(room, at, (24, 9), angle, 0, 360, green, -1, cv2.LINE_AA)


def _lamp(room: np.ndarray, rng: np.random.Generator) -> None:
    x, y = int(rng.choice([rng.integers(20, 120), rng.integers(280, 380)])), int(rng.integers(70, 130))
    _box(room, x - 2, y, 4, 260, (70, 64, 60))
    shade = np.int32([[x - 18, y - 34], [x + 18, y - 34], [x + 32, y + 10], [x - 32, y + 10]])
    cv2.fillConvexPoly(room, shade, (244, 226, 186), cv2.LINE_AA)


FURNITURE = (_window, _shelf, _picture, _plant, _lamp)
