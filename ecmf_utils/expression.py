"""What a face shows: brows, eyes, mouth and folds, painted on a copy of the head at rest."""

from __future__ import annotations

import cv2
import numpy as np

from .avatar import CENTRE_X, CENTRE_Y, HEIGHT, WIDTH, Head, X, Y, ramp
from .people import Identity

# Full-strength deviation from rest, after the action units that the basic emotions share:
# brow raise, furrow, inner brow raise, upper lid (1 = rest), squint, lip corners, mouth open and wide, gaze.
REST = dict(
    brow=0.0, furrow=0.0, inner=0.0, lid=1.0, squint=0.0, corner=0.0, open=0.0, wide=0.0,
    gaze_x=0.0, gaze_y=0.0, blink=0.0, press=0.0, cheek=0.0,
)  # fmt: skip
EXPRESSIONS = dict(
    neutral=dict(),
    angry=dict(brow=-0.45, furrow=1.1, lid=0.95, squint=0.5, corner=-0.3, press=0.9),
    happy=dict(brow=0.12, lid=0.88, squint=0.7, corner=0.95, open=0.2, wide=0.3, cheek=1.0),
    sad=dict(brow=-0.05, inner=0.85, lid=0.68, corner=-0.8, gaze_y=0.7),
    worried=dict(brow=0.3, furrow=0.3, inner=1.0, lid=1.15, corner=-0.4, wide=0.3, open=0.14),
    surprise=dict(brow=1.0, lid=1.42, open=0.58, wide=-0.3),
)
SUBPIXEL = 4  # fractional bits of polygon corners
DARK_LINE = (34, 24, 22)


class Patch:
    """A small window of the canvas, so that each frame repaints only what moves."""

    def __init__(self, image: np.ndarray, x0: float, x1: float, y0: float, y1: float):
        self.rows = slice(int(CENTRE_Y + y0), int(CENTRE_Y + y1))
        self.columns = slice(int(CENTRE_X + x0), int(CENTRE_X + x1))
        self.view = image[self.rows, self.columns]
        self.x, self.y = X[self.rows, self.columns], Y[self.rows, self.columns]

    def of(self, field: np.ndarray) -> np.ndarray:
        """The same window of another (H, W) field."""
        return field[self.rows, self.columns]

    def polygon(self, points: np.ndarray, soft: float = 0.7) -> np.ndarray:
        """Coverage of a closed curve given in canvas units, with edges blurred by `soft`."""
        mask = np.zeros(self.x.shape, np.uint8)
        corners = (np.asarray(points, np.float32) - (self.x[0, 0], self.y[0, 0])) * (1 << SUBPIXEL)
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255, cv2.LINE_AA, shift=SUBPIXEL)
        mask = mask.astype(np.float32) / 255
        return cv2.GaussianBlur(mask, (0, 0), soft) if soft else mask

    def band(self, upper: np.ndarray, lower: np.ndarray, soft: float = 0.7) -> np.ndarray:
        """Coverage between two curves that run in the same direction."""
        return self.polygon(np.concatenate([upper, lower[::-1]]), soft)

    def paint(self, mask: np.ndarray, colour: np.ndarray | tuple[float, ...]) -> None:
        self.view += (np.asarray(colour, np.float32) - self.view) * mask[..., None]

    def darken(self, mask: np.ndarray, strength: float = 1.0) -> None:
        self.view *= (1 - strength * mask)[..., None]


def blend(emotion: str, intensity: float) -> dict[str, float]:
    """The expression of an emotion at an intensity (0 rest … 1 full)."""
    target = EXPRESSIONS[emotion]
    return {k: rest + (target.get(k, rest) - rest) * intensity for k, rest in REST.items()}


def paint(head: Head, who: Identity, pose: dict[str, float]) -> np.ndarray:
    """A frame of the face.

    Parameters
    ----------
    head : Head
        The head at rest; it is not changed.
    pose : dict
        Values for some of the keys of `REST`.

    Returns
    -------
    ndarray, float32, (H, W, 4)
        Premultiplied colour 0..255 and coverage 0..1.
    """
    pose = {**REST, **pose}
    image = head.front.rgb.copy()
    for side in (-1, 1):
        _eye(image, head.shade, who, pose, side)
        _brow(image, who, pose, side)
    _mouth(image, head.shade, who, pose)
    _drop_jaw(image, who, pose["open"])
    if who.glasses:
        _glasses(image, who)
    image = np.clip(image, 0, 255)
    return np.dstack([image * head.front.alpha[..., None], head.front.alpha])


def _lids(who: Identity, pose: dict[str, float], side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Upper and lower lid curves and how far the eye is open."""
    t = np.linspace(-1, 1, 25)
    opened = max(0.04, pose["lid"] * (1 - pose["blink"])) * who.eye_open
    low = max(0.1, 1 - 0.55 * pose["squint"])
    slant = (1.3 * pose["inner"] - 1.1 * pose["furrow"] - 1.0) * side * t
    x = side * who.eye_distance + t * who.eye_width
    upper = who.eye_y + 2 - 8.4 * opened * (1 - np.abs(t) ** 2.2) + slant
    lower = who.eye_y + 2 + 5.2 * low * min(1, opened + 0.25) * (1 - np.abs(t) ** 2.2) + slant
    return np.stack([x, upper], 1), np.stack([x, lower], 1), opened


def _eye(image: np.ndarray, shade: np.ndarray, who: Identity, pose: dict[str, float], side: int) -> None:
    centre = side * who.eye_distance
    patch = Patch(image, centre - 34, centre + 34, who.eye_y - 26, who.eye_y + 24)
    upper, lower, opened = _lids(who, pose, side)
    opening = patch.band(upper, lower, 0.6)
    socket = cv2.GaussianBlur(patch.band(upper - (0, 5), lower + (0, 2), 0), (0, 0), 3)
    patch.darken(socket, 0.14)
    light = np.clip(patch.of(shade) * 0.6 + 0.42, 0.45, 1.0)[..., None]
    patch.paint(opening, np.float32([228, 224, 220]) * light)
    _iris(patch, opening, who, pose, centre)
    ball_shadow = np.exp(-(((patch.y - np.interp(patch.x[0], upper[:, 0], upper[:, 1])) / 3) ** 2))
    patch.darken(opening * ball_shadow, 0.5)
    lash = 1.3 + (0.9 if who.presents == "f" else 0.3) * (side * np.linspace(-1, 1, 25) + 1) / 2
    patch.paint(patch.band(upper - np.stack([0 * lash, lash], 1), upper + (0, 0.8), 0.5) * 0.9, DARK_LINE)
    crease = upper[3:-3] - (0, 4.6 + 1.2 * (1 - opened))
    patch.darken(patch.band(crease - (0, 1.4), crease, 0.8), 0.34)
    patch.darken(patch.band(lower + (0, 0.4), lower + (0, 1.3), 0.6), 0.28)
    if pose["squint"] > 0.1:
        fold = lower[3:-3] + (0, 4)
        patch.darken(patch.band(fold, fold + (0, 1.6), 1.0), 0.30 * pose["squint"])


def _iris(patch: Patch, opening: np.ndarray, who: Identity, pose: dict[str, float], centre: float) -> None:
    x, y, radius = centre + 5 * pose["gaze_x"], who.eye_y - 0.5 + 3 * pose["gaze_y"], 8.5
    r = np.hypot(patch.x - x, patch.y - y)
    rim = 0.6 + 0.7 * ramp(2, radius, r) * (1 - ramp(radius - 2.4, radius, r))
    lower_glow = 1 + 0.35 * ramp(-6, 6, patch.y - y)
    patch.paint(ramp(radius + 0.8, radius - 0.8, r) * opening, who.iris * (rim * lower_glow)[..., None])
    patch.paint(ramp(4.2, 3.0, r) * opening, (12, 10, 10))
    spark = np.hypot(patch.x - x + 2.8, patch.y - y + 3.2)
    patch.paint(ramp(2.3, 1.2, spark) * opening * 0.9, (250, 250, 250))


def _brow(image: np.ndarray, who: Identity, pose: dict[str, float], side: int) -> None:
    u = np.linspace(0, 1, 22)
    patch = Patch(image, *sorted((side * 3, side * 82)), -80, -16)
    inner = side * (who.eye_distance - 23 - 5 * pose["furrow"])
    x = inner + (side * (who.eye_distance + 25) - inner) * u
    y = who.brow_y - 6 * np.sin(np.pi * (0.15 + 0.75 * u)) + 6 * u - 10 * pose["brow"]
    y += (9 * pose["furrow"] - 9.5 * pose["inner"]) * (1 - u) ** 1.4 + 3.5 * pose["inner"] * u
    thick = who.brow_width * (1 - 0.6 * u**1.5) * (0.72 + 0.28 * np.minimum(1, u * 5))
    hairs = 0.84 + 0.16 * np.sin(patch.x * 1.9 + patch.y * 1.1 * side)
    mask = patch.band(np.stack([x, y - thick / 2], 1), np.stack([x, y + thick / 2], 1), 1.1)
    patch.paint(mask * hairs * 0.9, np.minimum(who.hair * 0.72, 120))
    if pose["brow"] > 0.3:
        arch = np.exp(-(((patch.y + 70 - patch.x**2 / 800 + 6 * pose["brow"]) / 1.6) ** 2))
        patch.darken(arch * ramp(70, 40, np.abs(patch.x)), 0.15 * pose["brow"])
    if pose["furrow"] > 0.1:
        frown = Patch(image, -16, 16, -62, -14)
        line = np.exp(-(((frown.x - side * 5.2) / 1.6) ** 2) - ((frown.y + 38) / 11) ** 2)
        frown.darken(line, 0.32 * pose["furrow"])


def _lips(who: Identity, pose: dict[str, float]) -> dict[str, np.ndarray]:
    """Curves of the mouth, from corner to corner: outer and inner edge of both lips."""
    t, corner, opened = np.linspace(-1, 1, 25), pose["corner"], max(0.0, pose["open"])
    stretch = 0.20 * max(corner, 0) - 0.06 * max(-corner, 0) + 0.25 * pose["wide"]
    half = who.mouth_width * (1 + stretch - 0.12 * opened * (pose["wide"] <= 0))
    centre = who.mouth_y + 1.5 * corner
    middle = (who.mouth_y - 7 * corner) * np.abs(t) ** 1.6 + centre * (1 - np.abs(t) ** 1.6)
    cup, full = 1 - np.abs(t) ** 2, who.lip * (1 - 0.45 * pose["press"])
    inner_top, inner_low = middle - 5.5 * opened * cup, middle + 19 * opened * cup
    bow = 1.9 * np.exp(-((t / 0.16) ** 2)) * (1 - np.abs(t))
    curves = dict(
        outer_top=inner_top - 7.2 * full * (1 - np.abs(t) ** 1.7) + bow,
        inner_top=inner_top,
        inner_low=inner_low,
        outer_low=inner_low + 9.2 * full * (1 - np.abs(t) ** 2.1),
    )
    return {name: np.stack([t * half, y], 1) for name, y in curves.items()}


def _mouth(image: np.ndarray, shade: np.ndarray, who: Identity, pose: dict[str, float]) -> None:
    patch = Patch(image, -64, 64, who.mouth_y - 44, who.mouth_y + 52)
    lips = _lips(who, pose)
    half, corner_y = lips["inner_top"][-1]
    _smile_lines(patch, who, pose, half, corner_y)
    if pose["open"] > 0.03:
        _teeth_and_tongue(patch, lips, pose["open"])
    light = (0.38 + 0.62 * np.clip(patch.of(shade), 0.45, 1.1))[..., None]
    natural = who.skin * np.float32([0.86, 0.62, 0.60])
    colour = natural * (1 - 0.4 * who.lip_red) + np.float32([168, 62, 72]) * 0.4 * who.lip_red
    for upper, lower, tone in (("outer_top", "inner_top", 0.82), ("inner_low", "outer_low", 1.03)):
        patch.paint(0.84 * patch.band(lips[upper], lips[lower], 0.9), colour * tone * light)
    y = float(lips["inner_low"][12, 1])
    patch.view += (18 * np.exp(-((patch.x / (half * 0.33)) ** 2) - ((patch.y - y - 3.6) / 2.0) ** 2))[..., None] * light
    if pose["open"] <= 0.12:
        patch.darken(patch.band(lips["inner_top"] - (0, 0.7), lips["inner_low"] + (0, 0.7), 0.6), 0.55)
    chin = lips["outer_low"][12, 1] + 5
    patch.darken(np.exp(-((patch.x / (half * 0.5)) ** 2) - ((patch.y - chin) / 3.5) ** 2), 0.18)


def _smile_lines(patch: Patch, who: Identity, pose: dict[str, float], half: float, corner_y: float) -> None:
    depth = max(0, pose["corner"]) * 0.8 + 0.3 * max(0, -pose["corner"]) + 0.25 * pose["cheek"] + 0.35 * who.age
    q = np.linspace(0, 1, 12)
    for side in (-1, 1):
        x = side * (20 + (half - 9) * q**0.9 * 0.95)
        y = who.nose_length + 2 + (corner_y - who.nose_length + 4) * q
        fold = patch.band(np.stack([x, y], 1), np.stack([x + side * 3.5, y], 1), 2.6)
        patch.darken(fold, 0.22 * depth)
        dimple = np.exp(-(((patch.x - side * (half + 3)) / 4) ** 2) - ((patch.y - corner_y) / 4.5) ** 2)
        patch.darken(dimple, 0.10 + 0.14 * abs(pose["corner"]))


def _teeth_and_tongue(patch: Patch, lips: dict[str, np.ndarray], opened: float) -> None:
    top, low = lips["inner_top"], lips["inner_low"]
    hole = patch.band(top, low)
    patch.paint(hole, (62, 24, 26))
    edge = np.stack([top[:, 0], top[:, 1] + np.minimum(7, 0.55 * (low[:, 1] - top[:, 1]))], 1)
    patch.paint(patch.band(top * (0.86, 1), edge * (0.86, 1)) * hole, (222, 216, 208))
    depth = np.exp(-((patch.x / (top[-1, 0] * 0.5)) ** 2) - ((patch.y - low[12, 1]) / (4 + 4 * opened)) ** 2)
    patch.paint(hole * depth * 0.75, (160, 76, 78))


def _drop_jaw(image: np.ndarray, who: Identity, opened: float) -> None:
    """Stretch the lower face when the mouth opens."""
    if opened <= 0.05:
        return
    first = int(CENTRE_Y + who.mouth_y + 5)
    rows, columns = np.mgrid[first:HEIGHT, 0:WIDTH].astype(np.float32)
    rows -= 6 * opened * ramp(who.mouth_y + 10, who.mouth_y + 50, Y[first:])
    image[first:] = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _glasses(image: np.ndarray, who: Identity) -> None:
    scale, bits = 1 << SUBPIXEL, SUBPIXEL
    lens = int((who.eye_width + 8) * scale), int(17 * scale)
    y, frame = CENTRE_Y + who.eye_y + 2, (44, 40, 44)
    for side in (-1, 1):
        x = CENTRE_X + side * (who.eye_distance + 1)
        cv2.ellipse(image, (int(x * scale), int(y * scale)), lens, 0, 0, 360, frame, 2, cv2.LINE_AA, bits)
        hinge = int(CENTRE_X + side * (who.eye_distance + who.eye_width + 9))
        cv2.line(image, (hinge, int(y - 3)), (int(CENTRE_X + side * 88), int(y - 8)), frame, 2, cv2.LINE_AA)
    gap = int(who.eye_distance - who.eye_width - 7)
    cv2.line(image, (CENTRE_X - gap, int(y - 3)), (CENTRE_X + gap, int(y - 3)), frame, 2, cv2.LINE_AA)
