"""Look through a corpus: in JupyterLab with filters and a player, anywhere else as a table of pictures."""

from __future__ import annotations

import html
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, data_uri
from ecmf_utils.media import read_frames, show_frame, show_text
from ecmf_utils.media.playback import playback
from ecmf_utils.media.reading import MediaError
from ecmf_utils.notebook import Note

from .manifest import PROBLEMS, SPLITS

LISTED = 200  # clips on one page of the list
MENU = 60  # with more groups than this, a name is typed instead of chosen
WHILE_TYPING = 20_000  # with more clips than this, the search waits for Enter
THUMBNAIL = 112  # pixels, longer side
STYLE = """
.ecmf-player {padding: 0 12px; max-width: 660px}
.ecmf-player video {max-width: 100%; max-height: 420px}
.ecmf-player :is(th, td) {text-align: left; vertical-align: top; padding: 2px 12px 2px 0}
.ecmf-player th {white-space: nowrap; font-weight: 600}
"""
ANY_PROBLEM, NO_PROBLEM, NO_LABEL = "any problem", "no problem", "no label"


def is_live() -> bool:
    """Whether somebody looks on: a notebook opened in JupyterLab, with the widgets installed.

    False in batch runs, tests and anything that executes a notebook without showing it.
    """
    if {"PYTEST_VERSION", "ECMF_BATCH"} & os.environ.keys() or os.environ.get("TQDM_DISABLE") == "1":
        return False
    # set by the Jupyter server for the kernels of its notebooks, by no program that only executes one
    served = "ipykernel" in sys.modules and "JPY_SESSION_NAME" in os.environ
    return served and importlib.util.find_spec("anywidget") is not None


def browse_clips(
    clips: pd.DataFrame, labels: Sequence[str], media_in_reports: str, n_static: int = 5
) -> ClipBrowser | ClipTable | Note:
    """Filters, a list and a player in JupyterLab (see `is_live`), otherwise a table of a few clips.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    labels : sequence of str
        In the order of the menu.
    media_in_reports : "none", "blurred" or "full"
        What the table shows. The player shows everything to whoever sits before it, but nothing of it can
        be saved: pictures, sound and words go to the browser as messages and are never part of an output
        or of the widgets' state. Only with `full` does the list name the first words of each clip.
    n_static : int
        Clips of the table.

    Returns
    -------
    ClipBrowser, ClipTable or Note
        Something to show; a note where there are no clips.
    """
    table = ClipTable(clips, media_in_reports, n_static)
    if not len(clips):
        return Note("There are no clips.")
    return ClipBrowser(clips, labels, media_in_reports, table) if is_live() else table


def matching(
    clips: pd.DataFrame, split: str = "", label: str = "", problem: str = "", group: str = "", text: str = ""
) -> pd.DataFrame:
    """The clips that fit all that is given; `text` is looked for in names and transcripts, in either case.

    `label` may be "no label"; `problem` a code, "any problem" or "no problem"; a `group` that does not
    exist is looked for as a part of a name.
    """
    keep = pd.Series(True, index=clips.index)
    if split:
        keep &= clips["split"] == split
    if label:
        keep &= clips["label"].isna() if label == NO_LABEL else clips["label"] == label
    if problem in (ANY_PROBLEM, NO_PROBLEM):
        keep &= clips["problem"].notna() == (problem == ANY_PROBLEM)
    elif problem:
        keep &= (";" + clips["problem"] + ";").str.contains(f";{problem};", regex=False, na=False)
    if group:
        same = clips["group"] == group
        keep &= same if same.any() else _within(clips["group"], group)
    if text:
        keep &= _within(clips["clip_id"], text) | _within(clips["text"], text)
    return clips[keep]


def _within(values: pd.Series, part: str) -> pd.Series:
    return values.str.contains(part, case=False, regex=False, na=False)


# ---- the table


class ClipTable:
    """A few clips with a picture each, as HTML that obeys `media_in_reports`."""

    def __init__(self, clips: pd.DataFrame, policy: str, n: int) -> None:
        odd = clips[clips["problem"].notna()].drop_duplicates("problem").head(n // 2)
        rest = clips[~clips.index.isin(odd.index)]
        rest = rest.iloc[np.linspace(0, len(rest) - 1, min(n - len(odd), len(rest))).astype(int)]
        self.clips, self.policy, self.total = pd.concat([odd, rest]), policy, len(clips)

    def __repr__(self) -> str:
        return f"{len(self.clips)} of {self.total:,} clips"

    def _repr_html_(self) -> str:
        rows = [_row(clip, self.policy) for clip in self.clips.to_dict("records")]
        names = ("picture", "clip", "label", "split", "group", "seconds", "transcript", "problems")
        used = [column for column in range(len(names)) if any(row[column] for row in rows)]
        head = "".join(f"<th>{names[column]}</th>" for column in used)
        body = "".join(f"<tr>{''.join(f'<td>{row[column]}</td>' for column in used)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{self!r}</p>"


def _row(clip: Mapping[str, Any], policy: str) -> list[str]:
    cells = [_known(clip[name]) for name in ("clip_id", "label", "split", "group")]
    seconds = "" if pd.isna(clip["duration_s"]) else f"{clip['duration_s']:.1f}"
    words = show_text(clip["text"], policy)
    problems = _known(clip["problem"]).replace(";", ", ")
    return [_picture(clip, policy), *(html.escape(cell) for cell in (*cells, seconds, words, problems))]


def _picture(clip: Mapping[str, Any], policy: str) -> str:
    if pd.isna(clip["width"]) or pd.isna(clip["video"]):
        return "–"
    if policy == "none":
        return "(withheld)"
    from PIL import Image

    try:
        frame = read_frames(clip["video"], [(clip["duration_s"] or 0) / 2], max_side=THUMBNAIL)[0][0]
    except MediaError as error:
        return html.escape(error.code)
    out = BytesIO()
    Image.fromarray(show_frame(frame, policy)).save(out, "JPEG", quality=75)
    name = html.escape(clip["clip_id"], quote=True)
    return f'<img src="{data_uri(out.getvalue(), "image/jpeg")}" alt="{name}" width="112">'


def _known(value: Any) -> str:
    return str(value) if isinstance(value, str) else ""


# ---- the widgets


class ClipBrowser:
    """Filters, a list of what fits and a player; `box` is the widget, `found` the clips that fit."""

    def __init__(self, clips: pd.DataFrame, labels: Sequence[str], policy: str, table: ClipTable) -> None:
        import ipywidgets as widgets

        self.clips, self.policy, self.table, self.page = clips, policy, table, 0
        self.filters = _filters(clips, labels)
        self.list = widgets.Select(options=[], rows=16, layout={"width": "430px"})
        self.count = widgets.Label()
        self.back, self.on = (
            widgets.Button(description=text, layout={"width": "90px"}) for text in ("previous", "next")
        )
        self.player = _player()
        left = widgets.VBox([*self.filters.values(), self.count, self.list, widgets.HBox([self.back, self.on])])
        self.box = widgets.HBox([left, self.player])
        for menu in self.filters.values():
            menu.observe(lambda _: self._turn(-self.page), "value")
        self.back.on_click(lambda _: self._turn(-1))
        self.on.on_click(lambda _: self._turn(1))
        self.list.observe(lambda change: self._show(change["new"]), "value")
        self._turn(0)

    def __repr__(self) -> str:
        return repr(
            self.table
        )  # so that a notebook saved from JupyterLab differs from an executed one by the widget alone

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        # the widget's own text would spell out all it holds; what a page can show is the table
        view = self.box._repr_mimebundle_()
        return view | {"text/plain": repr(self), "text/html": self.table._repr_html_()}

    def _turn(self, step: int) -> None:
        """List another page of the clips that fit the filters."""
        self.found = matching(self.clips, **{name: menu.value for name, menu in self.filters.items()})
        self.page = max(0, self.page + step)
        first = self.page * LISTED
        rows = self.found.iloc[first : first + LISTED]
        self.list.value = None
        self.list.options = [
            ("Choose a clip", None),
            *((self._line(row), row["clip_id"]) for row in rows.to_dict("records")),
        ]
        where = "" if len(rows) == len(self.found) else f", {first + 1:,} to {first + len(rows):,} are listed"
        self.count.value = f"{len(self.found):,} of {len(self.clips):,} clips fit{where}"
        self.back.disabled, self.on.disabled = first == 0, first + LISTED >= len(self.found)

    def _line(self, clip: Mapping[str, Any]) -> str:
        seconds = "" if pd.isna(clip["duration_s"]) else f"{clip['duration_s']:.1f} s"
        words = _known(clip["text"])[:60] if self.policy == "full" else ""
        return " · ".join(filter(None, [f"{_mark(clip)} {clip['clip_id']}", _known(clip["label"]), seconds, words]))

    def _show(self, clip_id: str | None) -> None:
        if clip_id is None:
            return
        clip = self.clips[self.clips["clip_id"] == clip_id].iloc[0]
        facts = _facts(clip)
        self.player.send({"facts": [["", "reading …"], *facts]})
        try:
            shown = playback(clip)
        except EcmfError as error:
            self.player.send({"facts": [["cannot be played", str(error)], *facts]})
            return
        facts += [["remark", shown.remark]] if shown.remark else []
        self.player.send({"kind": shown.kind, "mime": shown.mime, "facts": facts}, [shown.content])


def _filters(clips: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    import ipywidgets as widgets

    splits = [name for name in SPLITS if (clips["split"] == name).any()]
    codes = sorted(clips["problem"].dropna().str.split(";").explode().unique())
    groups = sorted(clips["group"].unique())
    menus = {
        "split": splits,
        "label": [*labels, NO_LABEL],
        "problem": [ANY_PROBLEM, NO_PROBLEM, *codes],
        "group": groups if len(groups) <= MENU else None,
        "text": None,
    }
    live = len(clips) <= WHILE_TYPING
    return {
        name: widgets.Text(
            description=name,
            placeholder="a part of a name" + " or transcript" * (name == "text"),
            continuous_update=live,
        )
        if choices is None
        else widgets.Dropdown(description=name, options=[("all", ""), *((choice, choice) for choice in choices)])
        for name, choices in menus.items()
    }


def _player() -> Any:
    import anywidget

    class Player(anywidget.AnyWidget):
        """Shows what it is sent by `send`; it has no traits, so there is nothing in its state."""

        _esm = Path(__file__).with_name("player.js").read_text(encoding="utf-8")
        _css = STYLE

    return Player()


def _mark(clip: Mapping[str, Any]) -> str:
    """Whether there is something to play: ▶ picture, ♪ sound alone, ✕ nothing."""
    if clip["status"] == "failed" or not (_known(clip["video"]) or _known(clip["audio"])):
        return "✕"
    return "♪" if not _known(clip["video"]) or pd.notna(clip["duration_s"]) and pd.isna(clip["width"]) else "▶"


def _facts(clip: pd.Series) -> list[list[str]]:
    known = {name: _known(clip[column]) for name, column in FACTS.items()}
    if pd.notna(clip["duration_s"]):
        known["seconds"] = f"{clip['duration_s']:.1f}"
    problems = _known(clip["problem"]).split(";")
    known["problems"] = "; ".join(PROBLEMS.get(code, code) for code in problems)
    return [[name, value] for name, value in known.items() if value]


FACTS = {
    "clip": "clip_id", "label": "label", "transcript": "text", "translation": "text_en", "language": "language",
    "split": "split", "group": "group", "speaker": "speaker",
}  # fmt: skip
