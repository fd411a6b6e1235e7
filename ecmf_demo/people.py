"""The people of the generated corpora: skin, hair, age, proportions, clothes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SKIN = np.array(
    [(244, 215, 194), (234, 196, 168), (222, 176, 142), (203, 151, 113), (176, 122, 88),
     (146, 98, 70), (126, 85, 62), (104, 70, 54)], np.float32)  # fmt: skip
HAIR = np.array(
    [(30, 25, 24), (50, 36, 29), (82, 56, 40), (124, 88, 58), (186, 152, 104), (128, 70, 42)],
    np.float32)  # fmt: skip
GREY_HAIR = np.array([(122, 120, 120), (168, 166, 163)], np.float32)
IRIS = np.array([(62, 40, 26), (84, 56, 32), (82, 98, 66), (74, 104, 132)], np.float32)
CLOTH = np.array(
    [(58, 74, 104), (122, 60, 62), (70, 98, 84), (150, 128, 96), (92, 92, 100), (44, 50, 60),
     (168, 160, 150), (108, 84, 118), (176, 116, 84), (66, 110, 124)], np.float32)  # fmt: skip
STYLES = {"f": ("long", "bob", "bun", "curly", "side"), "m": ("short", "side", "crop", "curly", "receding")}


@dataclass(frozen=True)
class Identity:
    """The traits of one person that stay the same in all of its clips (lengths in canvas units)."""

    presents: str  # "f" or "m": which hair styles and voices are drawn from
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    style: str
    neckline: str
    age: float  # 0 young … 1 old
    beard: float  # 0 none … 1 full
    glasses: bool
    face_width: float
    face_height: float
    jaw: float
    eye_distance: float
    eye_y: float
    eye_width: float
    eye_open: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_y: float
    lip: float
    lip_red: float
    brow_width: float
    brow_y: float
    texture_seed: int


def make_identity(rng: np.random.Generator, index: int = 0) -> Identity:
    """Draw a person; `index` walks through skin tones so that any few speakers are varied."""
    presents = "fm"[(index + int(rng.random() < 0.15)) % 2]
    tone, age = (index * 3 + int(rng.integers(2))) % len(SKIN), float(rng.random())
    dark = tone >= 3
    hair = HAIR[rng.integers(2 if tone >= 5 else 3 if dark else len(HAIR))] * rng.uniform(0.9, 1.12)
    if age > 0.78:
        hair = GREY_HAIR[rng.integers(2)] * rng.uniform(0.9, 1.05)
    styles = [s for s in STYLES[presents] if s != "receding" or age > 0.45]
    return Identity(
        presents=presents,
        age=age,
        hair=hair.astype(np.float32),
        skin=(SKIN[tone] * rng.uniform(0.97, 1.03, 3)).astype(np.float32),
        iris=IRIS[rng.integers(2 if dark else 4)],
        cloth=CLOTH[rng.integers(len(CLOTH))],
        style=str(rng.choice(styles)),
        neckline=str(rng.choice(["crew", "shirt", "vee"])),
        beard=float(rng.uniform(0.35, 1)) if presents == "m" and rng.random() < 0.4 else 0.0,
        glasses=bool(rng.random() < 0.15 + 0.2 * age),
        face_width=rng.uniform(0.90, 1.03) + 0.02 * (presents == "m"),
        face_height=rng.uniform(0.97, 1.04),
        jaw=rng.uniform(0.08, 0.24) + 0.05 * (presents == "f"),
        eye_distance=rng.uniform(37, 42),
        eye_y=rng.uniform(-22, -17),
        eye_width=rng.uniform(18, 21.5),
        eye_open=rng.uniform(0.9, 1.08),
        nose_width=rng.uniform(0.85, 1.2),
        nose_length=rng.uniform(30, 37),
        mouth_width=rng.uniform(27, 33),
        mouth_y=rng.uniform(61, 67),
        lip=rng.uniform(0.8, 1.2),
        lip_red=rng.uniform(0.35, 0.9) if presents == "f" else rng.uniform(0, 0.3),
        brow_width=rng.uniform(4.2, 6.0) + 1.6 * (presents == "m"),
        brow_y=rng.uniform(-45, -42),
        texture_seed=int(rng.integers(1 << 31)),
    )
