"""One look for every figure: palette, theme, and a Figure that shows itself once with alt text."""

from __future__ import annotations

import base64
import functools
import io
import textwrap
import warnings
from collections.abc import Iterable

import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

# Okabe & Ito (2008), told apart under every common colour-vision deficiency
EMOTIONS = {
    "neutral": "#6F7D8C",
    "angry": "#D55E00",
    "happy": "#E8A800",
    "sad": "#0072B2",
    "worried": "#B65C94",
    "surprise": "#009E73",
}
SYNONYMS = {
    "anger": "angry",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "fear": "worried",
    "fearful": "worried",
    "surprised": "surprise",
}
# Tol's muted scheme, so that a branch is never taken for an emotion
BRANCHES = {
    "scene": "#44AA99",
    "face": "#882255",
    "audio": "#C9A227",
    "text": "#332288",
    "context": "#5DADE2",
}
EXTRA = ("#56B4E9", "#117733", "#AA4499", "#999933", "#661100", "#6699CC", "#CC6677", "#222222")
NO_LABEL = "no label"
MISSING = "#D5D9DE"
INK = "#25303B"
ACCENT = "#3B6EA5"
WIDTH = 8.0  # inches; shown at 100 pixels per inch
SHARPNESS = 1.5  # rendered pixels per shown pixel
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "SimHei")


class Picture(Figure):
    """A Figure that pyplot does not know: it appears once, where a cell ends with it or shows it.

    `alt` describes it to a screen reader; `photo` stores JPEG, which suits faces better than PNG.
    """

    alt = "Figure"
    photo = False

    def __init__(self, **layout: object) -> None:
        set_theme()
        super().__init__(**layout)

    def __repr__(self) -> str:
        return f"<Figure: {self.alt}>"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        kind = "image/jpeg" if self.photo else "image/png"
        encoded = base64.b64encode(self.image_bytes()).decode()
        shown = {"alt": self.alt, "width": int(self.get_figwidth() * 100)}
        return {kind: encoded, "text/plain": repr(self)}, {kind: shown}

    def image_bytes(self) -> bytes:
        """The figure as PNG with a 256-colour palette, or as JPEG when it shows photographs."""
        raw, packed = io.BytesIO(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Glyph.*")  # a script no font here can draw
            self.savefig(raw, format="png", dpi=100 * SHARPNESS)
        image = Image.open(raw).convert("RGB")
        if self.photo:
            image.save(packed, "JPEG", quality=82, optimize=True)
        else:
            image.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        return packed.getvalue()


@functools.cache  # once a process: whoever changes the look afterwards keeps the change
def set_theme() -> None:
    """Apply the look to everything matplotlib and seaborn draw from here on; the first figure does."""
    installed = set(font_manager.get_font_names())
    rc = {
        "figure.dpi": 100,
        "font.family": [font for font in FONTS if font in installed] or ["sans-serif"],
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.edgecolor": "#9AA5B1",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.w_pad": 0.08,
        "grid.color": "#E6EAEE",
        "grid.linewidth": 0.8,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.title_fontsize": 9,
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    sns.set_theme(style="whitegrid", rc=rc)


def _assign(names: Iterable[str], fixed: dict[str, str]) -> dict[str, str]:
    names = list(names)
    colours: dict[str, str] = {}
    spare = [*EXTRA, *sns.color_palette("husl", 24).as_hex()]
    for name in sorted(names, key=lambda n: n not in fixed):
        own = fixed.get(name) or fixed.get(SYNONYMS.get(name, ""))
        colours[name] = own if own and own not in colours.values() else spare.pop(0)
    return {name: colours[name] for name in names}


def emotion_colours(labels: Iterable[str]) -> dict[str, str]:
    """Colour of each label: fixed for the six and their synonyms, a spare one for any other."""
    return _assign(labels, EMOTIONS)


def branch_colours(branches: Iterable[str]) -> dict[str, str]:
    """Colour of each branch: fixed for the five, a spare one for any other."""
    return _assign(branches, BRANCHES)


def picture(
    rows: int = 1,
    columns: int = 1,
    *,
    height: float = 3.2,
    width: float = WIDTH,
    alt: str,
    photo: bool = False,
    **layout: object,
) -> tuple[Picture, np.ndarray]:
    """An empty figure (sizes in inches) and its axes as a flat array (rows * columns,)."""
    figure = Picture(figsize=(width, height), layout="constrained")
    figure.alt, figure.photo = alt, photo
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, axes.ravel()


def plain(text: object, width: int = 60) -> str:
    """Text from data, shortened, with `$` kept from being read as a formula."""
    short = textwrap.shorten(str(text), width, placeholder="…")
    if short == "…":  # one long word
        short = str(text)[: width - 1] + "…"
    return short.replace("$", r"\$")


def dark(colour: str) -> bool:
    """Whether white text reads better than black on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 150
