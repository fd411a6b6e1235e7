"""Look through a corpus: with filters and a player in JupyterLab, as a table of pictures everywhere else."""

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
from ecmf_utils.media.playback import prepare_playback
from ecmf_utils.media.problems import PROBLEMS
from ecmf_utils.media.reading import MediaError
from ecmf_utils.notebook import Note

from .manifest import SPLITS

LISTED = 200  # clips on one page of the list
MENU = 60  # with more groups than this, the user types a name instead of choosing it
WHILE_TYPING = 20_000  # with more clips than this, the search waits for Enter
THUMBNAIL = 112  # pixels, longer side
STYLE = """
.ecmf-player {padding: 0 12px; max-width: 660px}
.ecmf-player video {max-width: 100%; max-height: 420px}
.ecmf-player :is(th, td) {text-align: left; vertical-align: top; padding: 2px 12px 2px 0}
.ecmf-player th {white-space: nowrap; font-weight: 600}
"""
ANY_PROBLEM, NO_PROBLEM, NO_LABEL = "any problem", "no problem", "no label"
# name beside the player -> column of the manifest
FACTS = {
    "clip": "clip_id", "label": "label", "transcript": "text", "translation": "text_en", "language": "language",
    "split": "split", "group": "group", "speaker": "speaker",
}  # fmt: skip


def browse_clips(
    clips: pd.DataFrame, labels: Sequence[str], media_in_reports: str, n_static: int = 5
) -> ClipBrowser | ClipTable | Note:
    """Filters, a list and a player in JupyterLab (see `is_live`), otherwise a table of `n_static` clips.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    labels : sequence of str
        In the order of the menu.
    media_in_reports : "none", "blurred" or "full"
        What the table shows. The player always shows everything to the person in front of it, but none of it can
        be saved: pictures, sound and words go to the web browser as messages, and are never part of an output or of
        the state of the widgets. The list shows the first words of each clip with `full` only.
    n_static : int
        Clips in the table.
    """
    if not len(clips):
        return Note("There are no clips.")
    table = ClipTable(clips, media_in_reports, n_static)
    return ClipBrowser(clips, labels, media_in_reports, table) if is_live() else table


def is_live() -> bool:
    """Whether a person may be looking: a notebook that is open in JupyterLab, where the widgets are installed.

    False in batch runs, in tests, and wherever a notebook is executed without being shown.
    """
    if {"PYTEST_VERSION", "ECMF_BATCH"} & os.environ.keys() or os.environ.get("TQDM_DISABLE") == "1":
        return False
    # the Jupyter server sets this for the kernels of its notebooks; a program that only executes a notebook does not
    served = "ipykernel" in sys.modules and "JPY_SESSION_NAME" in os.environ
    return served and importlib.util.find_spec("anywidget") is not None


# ---- the table


class ClipTable:
    """A few clips with a picture of each, as HTML that shows no more than `media_in_reports` allows."""

    def __init__(self, clips: pd.DataFrame, policy: str, n: int) -> None:
        # up to half of the clips have a problem, each another one; the others are evenly spaced in the manifest
        troubled = clips[clips["problem"].notna()].drop_duplicates("problem").head(n // 2)
        rest = clips[~clips.index.isin(troubled.index)]
        rest = rest.iloc[np.linspace(0, len(rest) - 1, min(n - len(troubled), len(rest))).astype(int)]
        self.clips, self.policy, self.total = pd.concat([troubled, rest]), policy, len(clips)

    def __repr__(self) -> str:
        return f"{len(self.clips)} of {self.total:,} clips"

    def _repr_html_(self) -> str:
        rows = [_make_cells(clip, self.policy) for clip in self.clips.to_dict("records")]
        names = ("picture", "clip", "label", "split", "group", "seconds", "transcript", "problems")
        used = [column for column in range(len(names)) if any(row[column] for row in rows)]
        head = "".join(f"<th>{names[column]}</th>" for column in used)
        body = "".join(f"<tr>{''.join(f'<td>{row[column]}</td>' for column in used)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{self!r}</p>"


def _make_cells(clip: Mapping[str, Any], policy: str) -> list[str]:
    cells = [_to_text(clip[name]) for name in ("clip_id", "label", "split", "group")]
    seconds = "" if pd.isna(clip["duration_s"]) else f"{clip['duration_s']:.1f}"
    words = show_text(clip["text"], policy)
    problems = _to_text(clip["problem"]).replace(";", ", ")
    return [_render_picture(clip, policy), *(html.escape(cell) for cell in (*cells, seconds, words, problems))]


def _render_picture(clip: Mapping[str, Any], policy: str) -> str:
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


def _to_text(value: Any) -> str:
    return str(value) if isinstance(value, str) else ""


# ---- the widgets


class ClipBrowser:
    """Filters, a list of the clips that match, and a player; `box` is the widget, `matching` the clips."""

    def __init__(self, clips: pd.DataFrame, labels: Sequence[str], policy: str, table: ClipTable) -> None:
        import ipywidgets as widgets

        self.clips, self.policy, self.table, self.page = clips, policy, table, 0
        self.filters = _make_filters(clips, labels)
        self.list = widgets.Select(options=[], rows=16, layout={"width": "430px"})
        self.count = widgets.Label()
        self.back = widgets.Button(description="previous", layout={"width": "90px"})
        self.on = widgets.Button(description="next", layout={"width": "90px"})
        self.player = _make_player()
        left = widgets.VBox([*self.filters.values(), self.count, self.list, widgets.HBox([self.back, self.on])])
        self.box = widgets.HBox([left, self.player])
        for menu in self.filters.values():
            menu.observe(lambda _: self._list_page(0), "value")
        self.back.on_click(lambda _: self._list_page(self.page - 1))
        self.on.on_click(lambda _: self._list_page(self.page + 1))
        self.list.observe(lambda change: self._show(change["new"]), "value")
        self._list_page(0)

    def __repr__(self) -> str:
        # the text of the table, so that a notebook saved in JupyterLab differs from an executed one only by the widget
        return repr(self.table)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        # the widget's own text would name all that is in it; a page shows the table instead
        view = self.box._repr_mimebundle_()
        return view | {"text/plain": repr(self), "text/html": self.table._repr_html_()}

    def _list_page(self, page: int) -> None:
        """List one page of the clips that match the filters."""
        self.matching = filter_clips(self.clips, **{name: menu.value for name, menu in self.filters.items()})
        self.page = max(0, page)
        first = self.page * LISTED
        rows = self.matching.iloc[first : first + LISTED]
        self.list.value = None
        self.list.options = [
            ("Choose a clip", None),
            *((self._describe(row), row["clip_id"]) for row in rows.to_dict("records")),
        ]
        where = "" if len(rows) == len(self.matching) else f", {first + 1:,} to {first + len(rows):,} are listed"
        self.count.value = f"{len(self.matching):,} of {len(self.clips):,} clips fit{where}"
        self.back.disabled, self.on.disabled = first == 0, first + LISTED >= len(self.matching)

    def _describe(self, clip: Mapping[str, Any]) -> str:
        seconds = "" if pd.isna(clip["duration_s"]) else f"{clip['duration_s']:.1f} s"
        words = _to_text(clip["text"])[:60] if self.policy == "full" else ""
        parts = [f"{_choose_mark(clip)} {clip['clip_id']}", _to_text(clip["label"]), seconds, words]
        return " · ".join(filter(None, parts))

    def _show(self, clip_id: str | None) -> None:
        if clip_id is None:
            return
        clip = self.clips[self.clips["clip_id"] == clip_id].iloc[0]
        facts = _list_facts(clip)
        self.player.send({"facts": [["", "reading …"], *facts]})
        try:
            playback = prepare_playback(clip)
        except EcmfError as error:
            self.player.send({"facts": [["cannot be played", str(error)], *facts]})
            return
        facts += [["remark", playback.remark]] if playback.remark else []
        self.player.send({"kind": playback.kind, "mime": playback.mime, "facts": facts}, [playback.content])


def filter_clips(
    clips: pd.DataFrame, split: str = "", label: str = "", problem: str = "", group: str = "", text: str = ""
) -> pd.DataFrame:
    """The clips that match all filters that are given.

    Parameters
    ----------
    label : str
        A label, or "no label".
    problem : str
        A problem code, "any problem" or "no problem".
    group : str
        The name of a group; a part of the name where there is no such group.
    text : str
        A part of the clip_id or of the transcript, in upper or lower case.
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
        keep &= same if same.any() else _contains(clips["group"], group)
    if text:
        keep &= _contains(clips["clip_id"], text) | _contains(clips["text"], text)
    return clips[keep]


def _contains(values: pd.Series, part: str) -> pd.Series:
    return values.str.contains(part, case=False, regex=False, na=False)


def _make_filters(clips: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
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


def _make_player() -> Any:
    import anywidget

    class Player(anywidget.AnyWidget):
        """Shows what `send` gives it; it has no traits, so that nothing of a clip is in its state."""

        _esm = Path(__file__).with_name("player.js").read_text(encoding="utf-8")
        _css = STYLE

    return Player()


def _choose_mark(clip: Mapping[str, Any]) -> str:
    """What can be played: ▶ a picture, ♪ only sound, ✕ nothing."""
    if clip["status"] == "failed" or not (_to_text(clip["video"]) or _to_text(clip["audio"])):
        return "✕"
    return "♪" if not _to_text(clip["video"]) or pd.notna(clip["duration_s"]) and pd.isna(clip["width"]) else "▶"


def _list_facts(clip: pd.Series) -> list[list[str]]:
    facts = {name: _to_text(clip[column]) for name, column in FACTS.items()}
    if pd.notna(clip["duration_s"]):
        facts["seconds"] = f"{clip['duration_s']:.1f}"
    codes = _to_text(clip["problem"]).split(";")
    facts["problems"] = "; ".join(PROBLEMS.get(code, code) for code in codes)
    return [[name, value] for name, value in facts.items() if value]
