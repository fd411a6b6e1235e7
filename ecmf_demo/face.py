"""A shaded avatar: its head at rest.

Everything is painted on a canvas in its own units: the centre of the face is (0, 0), x to the
right, y downwards, the chin at about y = 122. `expression.py` adds brows, eyes and mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .people import Identity

HEAD_HEIGHT, HEAD_WIDTH = 420, 340  # canvas of the head, in canvas units (pixels)
CENTRE_X, CENTRE_Y = 170, 210
BODY_HEIGHT, BODY_WIDTH = 420, 560
BODY_TOP = 40  # canvas y of the first row of the body layer
Y, X = np.mgrid[:HEAD_HEIGHT, :HEAD_WIDTH].astype(np.float32) - np.float32([[[CENTRE_Y]], [[CENTRE_X]]])

FRINGE = {  # the hair line over the forehead, canvas y as a function of canvas x
    "short": lambda x: -82 + 0.0022 * x * x,
    "side": lambda x: -84 + 0.13 * x + 0.0006 * x * x,
    "crop": lambda x: -88 + 0.0026 * x * x,
    "curly": lambda x: -84 + 0.0022 * x * x,
    "receding": lambda x: -104 + 10 * np.cos(x / 17) + 0.0042 * x * x,
    "long": lambda x: -100 + 0.30 * np.abs(x - 12) + 0.0034 * x * x,
    "bob": lambda x: -66 + 0.0012 * x * x,
    "bun": lambda x: -92 + 0.0052 * x * x,
}


@dataclass
class Layer:
    """Colour (H, W, 3) in 0..255 and coverage (H, W) in 0..1, not premultiplied."""

    rgb: np.ndarray
    alpha: np.ndarray

    @classmethod
    def empty(cls, height: int, width: int) -> Layer:
        return cls(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))

    def over(self, colour: np.ndarray, mask: np.ndarray) -> None:
        """Lay `colour` over this layer; un-premultiplied, so that soft edges never darken."""
        total = mask + self.alpha * (1 - mask)
        share = np.where(total > 1e-4, mask / np.maximum(total, 1e-4), 0)[..., None]
        self.rgb = (self.rgb * (1 - share) + colour * share).astype(np.float32)
        self.alpha = total.astype(np.float32)

    def premultiplied(self) -> np.ndarray:
        """(H, W, 4): colour times coverage, and coverage; what may be resampled safely."""
        return np.dstack([self.rgb * self.alpha[..., None], self.alpha])


@dataclass
class Head:
    """A head at rest: `front` is painted on by the expression, `back` is the hair behind the neck."""

    front: Layer
    back: Layer | None
    shade: np.ndarray  # (H, W) light that reaches the skin


def bump(x: float, y: float, sx: float, sy: float) -> np.ndarray:
    """A Gaussian hill on the head canvas."""
    return np.exp(-(((X - x) / sx) ** 2) - ((Y - y) / sy) ** 2)


def ramp(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """Smooth step: 0 at `low`, 1 at `high` (which may be the smaller one)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _grain(
    rng: np.random.Generator, sy: float, sx: float, shape: tuple[int, int] = (HEAD_HEIGHT, HEAD_WIDTH)
) -> np.ndarray:
    blurred = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigmaX=sx, sigmaY=sy)
    return blurred / (blurred.std() + 1e-6)


def head_size(who: Identity) -> tuple[float, float]:
    """Half width and half height of the skull."""
    return 90 * who.face_width, 122 * who.face_height


def _outline(who: Identity) -> tuple[np.ndarray, np.ndarray]:
    """Half width of the face at each row, and the distance to its outline (positive inside)."""
    a, b = head_size(who)
    t = np.linspace(-CENTRE_Y, HEAD_HEIGHT - 1 - CENTRE_Y, HEAD_HEIGHT) / b
    bulge = 1 - np.abs(np.clip(t, -1, 1)) ** np.where(t > 0, 2.7, 2.5)
    width = a * np.sqrt(np.clip(bulge, 1e-4, 1)) * (1 - who.jaw * np.clip(t, 0, 1) ** 1.4)
    slope = np.gradient(width)
    distance = (width[:, None] - np.abs(X)) / np.sqrt(1 + slope[:, None] ** 2)
    return width.astype(np.float32)[:, None], np.minimum(distance, b + 0.5 - np.abs(Y)).astype(np.float32)


def _relief(who: Identity) -> np.ndarray:
    """Height of nose, sockets, cheeks, lips and chin above the egg of the skull."""
    eye, gap, nose, wide, mouth = who.eye_y, who.eye_distance, who.nose_length, who.nose_width, who.mouth_y
    bridge = ramp(eye - 16, eye + nose * 1.35, Y) * (1 - ramp(nose + 1, nose + 10, Y))
    z = 14 * np.exp(-((X / (10 * wide)) ** 2)) * bridge + 8 * bump(0, nose - 3, 13 * wide, 11)
    z += 5 * (bump(-13 * wide, nose + 1, 8, 8) + bump(13 * wide, nose + 1, 8, 8))
    z -= 8 * (bump(-gap, eye, 25, 15) + bump(gap, eye, 25, 15))
    z += 4 * (bump(-gap, eye - 24, 30, 10) + bump(gap, eye - 24, 30, 10))
    z += 6 * (bump(-50, 26, 28, 24) + bump(50, 26, 28, 24)) + 5 * bump(0, 102, 26, 15)
    z += 4 * bump(0, mouth, 32, 16) - 3 * bump(0, mouth + 19, 22, 7) - 2 * bump(0, mouth - 15, 4, 8)
    return cv2.GaussianBlur(z.astype(np.float32), (0, 0), 1.8)


def _normals(who: Identity) -> np.ndarray:
    """(H, W, 3) directions of the surface: an egg tilted by the relief; defined beyond its edge too."""
    a, b = head_size(who)
    nx, ny = X / (a * 1.02), Y / (b * 1.08) * 0.8
    radius = np.sqrt(nx**2 + ny**2)
    # Past the outline the egg has no surface; keeping the last direction avoids a bright rim there.
    squeeze = np.minimum(1, 0.94 / np.maximum(radius, 1e-6))
    nx, ny = nx * squeeze, ny * squeeze
    nz = np.sqrt(1 - nx**2 - ny**2)
    gy, gx = np.gradient(_relief(who))
    normal = np.dstack([nx - gx * 0.8, ny - gy * 0.8, nz])
    return normal / np.linalg.norm(normal, axis=2, keepdims=True)


def _shading(who: Identity, light: tuple[float, float, float], ambient: float, inside: np.ndarray) -> np.ndarray:
    """(H, W) light on the skin: wrapped diffuse plus ambient, darkened in creases and at the edge."""
    normal, direction = _normals(who), np.array(light, np.float32)
    diffuse = np.clip((normal @ (direction / np.linalg.norm(direction)) + 0.35) / 1.35, 0, 1)
    eye, gap, nose, wide, mouth = who.eye_y, who.eye_distance, who.nose_length, who.nose_width, who.mouth_y
    crease = 0.30 * (bump(-gap, eye - 3, 22, 10) + bump(gap, eye - 3, 22, 10))
    crease += 0.26 * bump(0, nose + 10, 17 * wide, 4.5) + 0.16 * bump(0, mouth + 17, 18, 5)
    crease += 0.18 * (bump(-10 * wide, eye + 2, 6, 14) + bump(10 * wide, eye + 2, 6, 14))
    crease += 0.55 * (bump(-7.5 * wide, nose + 7, 4.4, 2.4) + bump(7.5 * wide, nose + 7, 4.4, 2.4))
    crease += 0.30 * (1 - ramp(0, 22, inside)) + 0.12 * (1 - ramp(-5, 45, inside)) * ramp(20, 90, Y)
    return ((ambient + (1.0 - ambient) * diffuse) * (1 - np.clip(crease, 0, 0.8))).astype(np.float32)


def _skin(who: Identity, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) colour of the skin before light: blush, grain, lines of age, beard."""
    red = 0.09 * (bump(-47, 30, 24, 20) + bump(47, 30, 24, 20)) + 0.06 * bump(0, who.nose_length, 14, 12)
    skin = who.skin * (1 + np.dstack([red * 0.5, -red * 0.7, -red * 0.6]))
    skin = skin * (1 + 0.014 * _grain(rng, 1, 1) + 0.02 * _grain(rng, 9, 9))[..., None]
    arch = X * X / 900
    lines = sum(np.exp(-(((Y + level - arch) / 1.7) ** 2)) for level in (66, 76)) * np.exp(-((X / 44) ** 4))
    bags = sum(np.exp(-(((X - s * who.eye_distance) / 17) ** 2) - ((Y - who.eye_y - 15) / 3) ** 2) for s in (-1, 1))
    skin = skin * (1 - np.clip(who.age - 0.45, 0, 1) * (0.16 * lines + 0.20 * bags))[..., None]
    if who.beard:
        area = ramp(18, 60, Y + 0.42 * np.abs(X)) * (1 - 0.92 * bump(0, who.mouth_y + 1, 31, 10))
        area *= np.clip(1 - 0.8 * bump(0, 36, 20, 14), 0, 1)
        cover = np.clip(area * (0.22 + 0.5 * who.beard) * (1 + 0.22 * _grain(rng, 2.2, 0.8)), 0, 0.9)[..., None]
        skin = skin * (1 - cover) + who.hair * 0.9 * cover
    return skin


def _hair_colour(who: Identity, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) strands that run from the parting outwards, with a soft band of light."""
    part_x, part_y = (26 if who.style == "side" else 6), -128
    angle = np.arctan2(X - part_x, Y - part_y + 26) + 0.022 * _grain(rng, 18, 18)
    strand_of = cv2.GaussianBlur(rng.standard_normal((1, 900)).astype(np.float32), (0, 0), 1.4).ravel()
    strands = np.interp(angle, np.linspace(-np.pi, np.pi, 900), strand_of / strand_of.std())
    if who.style in ("curly", "crop"):
        strands = _grain(rng, 2.6, 2.6) * (1.2 if who.style == "curly" else 0.5)
    band = np.exp(-(((Y + 98 - 0.006 * X * X) / 24) ** 2)) * 0.30
    tone = np.clip(0.80 + 0.11 * strands + band - 0.15 * ramp(-40, 60, Y), 0.3, 1.6)
    return (who.hair * tone[..., None]).astype(np.float32)


def _skull_cap(who: Identity, wobble: np.ndarray) -> np.ndarray:
    """Mask of the region that hair may cover: the skull, enlarged by the volume of the style."""
    a, b = head_size(who)
    side, top = {"curly": (24, 26), "crop": (3, 4), "receding": (4, -2), "long": (11, 10)}.get(who.style, (8, 10))
    radius = np.sqrt((X / (a + side)) ** 2 + ((Y + 12) / (b - 12 + top)) ** 2)
    edge = 0.016 if who.style == "curly" else 0.006
    return ramp(1.012, 0.985, radius + edge * wobble)


def _front_hair(who: Identity, inside: np.ndarray, wobble: np.ndarray) -> np.ndarray:
    """Mask of the hair over forehead and temples."""
    cap = _skull_cap(who, wobble)
    width = _outline(who)[0]
    fringe = ramp(4, -4, Y - (FRINGE[who.style](X) + 2.2 * wobble))
    low = {"long": 130, "bob": 66, "bun": -4, "crop": -22, "receding": -12}.get(who.style, -10)
    strip = {"long": 9, "bob": 10, "crop": 4, "receding": 4, "bun": 4}.get(who.style, 7)
    temple = ramp(-3, 3, np.abs(X) - width + strip + 1.2 * wobble) * (1 - ramp(low - 24, low, Y + 2 * wobble))
    if who.style in ("long", "bob"):
        a = head_size(who)[0]
        curtain = ramp(-2, 2, a + 10 + 1.5 * wobble - np.abs(X)) * ramp(-30, 0, Y)
        cap = np.maximum(cap, curtain * ramp(-40, -20, Y))
    return np.maximum(fringe, temple) * cap


def _back_hair(who: Identity, colour: np.ndarray, wobble: np.ndarray) -> Layer | None:
    """Hair that hangs behind the neck, or a bun above the crown."""
    if who.style not in ("long", "bob", "bun"):
        return None
    layer, a = Layer.empty(HEAD_HEIGHT, HEAD_WIDTH), head_size(who)[0]
    if who.style == "bun":
        knot = np.sqrt((X / 36) ** 2 + ((Y + 134) / 30) ** 2)
        layer.over(colour * 0.9, ramp(1.03, 0.96, knot + 0.01 * wobble))
        return layer
    end = 172 if who.style == "long" else 78
    fall = ramp(-2, 2, a + 13 + 2 * wobble + 0.05 * Y - np.abs(X)) * ramp(-60, -30, Y)
    layer.over(colour * 0.72, fall * (1 - ramp(end - 7, end + 7, Y + 4 * wobble + 0.0016 * X * X)))
    return layer


def make_head(who: Identity, light: tuple[float, float, float], ambient: float) -> Head:
    """Paint a head at rest, without brows, eyes and mouth.

    Parameters
    ----------
    light : tuple of 3 floats
        Direction towards the lamp (x right, y down, z to the viewer).
    ambient : float
        Share of light that reaches every point, 0..1.
    """
    rng = np.random.default_rng(who.texture_seed)
    width, inside = _outline(who)
    shade, skin, wobble = _shading(who, light, ambient, inside), _skin(who, rng), _grain(rng, 7, 7)
    warm = np.clip(0.9 - shade, 0, 1)[..., None] * np.float32([0.08, -0.03, -0.07])
    face = skin * (shade[..., None] * (1 + warm))
    gloss = 16 * bump(-20 * np.sign(light[0]) * -1, -70, 40, 22) + 12 * bump(0, who.nose_length - 6, 6, 7)
    front = Layer.empty(HEAD_HEIGHT, HEAD_WIDTH)
    _paint_ears(front, who, shade, light)
    front.over(face + (gloss * shade)[..., None], ramp(-1, 1, inside))
    colour, hair = _hair_colour(who, rng), _front_hair(who, inside, wobble)
    contact = cv2.GaussianBlur(hair, (0, 0), 6) * (1 - hair)
    front.rgb = front.rgb * (1 - 0.35 * contact)[..., None]
    lit = np.clip(0.72 + 0.4 * cv2.GaussianBlur(shade, (0, 0), 12), 0.5, 1.15)[..., None]
    front.over(colour * lit, hair)
    return Head(front, _back_hair(who, colour * lit, wobble), np.clip(shade, 0.2, 1.3))


def _paint_ears(layer: Layer, who: Identity, shade: np.ndarray, light: tuple[float, float, float]) -> None:
    a = head_size(who)[0]
    for side in (-1, 1):
        ear = np.sqrt(((X - side * (a + 1)) / 12) ** 2 + ((Y - 4 + 0.2 * side * X - 0.2 * a) / 25) ** 2)
        lit = (0.66 + 0.22 * (side * light[0] > 0)) * (1 - 0.32 * np.exp(-(((ear - 0.42) / 0.2) ** 2)))
        layer.over(who.skin * np.float32([1.0, 0.9, 0.87]) * lit[..., None], ramp(1.06, 0.94, ear))


# ---- what a face shows: brows, eyes, mouth and folds, painted on a copy of the head at rest


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
    rows, columns = np.mgrid[first:HEAD_HEIGHT, 0:HEAD_WIDTH].astype(np.float32)
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
