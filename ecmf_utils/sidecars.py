"""Transcripts in text files beside their clips."""

from __future__ import annotations

import os
from pathlib import Path

from .findings import Findings, escaped
from .listing import ALLOW, leads_out, nowhere


def sidecar_text(video: Path) -> str | None:
    """The transcript in `<name>.txt` beside a clip, None where there is none or it is not UTF-8."""
    return _sidecar(video.with_suffix(".txt"), "")[0] if video.with_suffix(".txt").is_file() else None


def sidecars(
    videos: list[str], encoding: str, found: Findings, root: Path, follow_links: bool
) -> list[tuple[str | None, str | None]]:
    """Transcript and problem of each clip; each folder is listed once."""
    names = {folder: set(os.listdir(folder)) for folder in {os.path.dirname(video) for video in videos}}
    made = []
    for video in videos:
        path = Path(os.path.splitext(video)[0] + ".txt")
        there = path.name in names[os.path.dirname(video)]
        if there and (fault := _sidecar_fault(path, root, follow_links)):
            found.add(*fault)
            there = False
        made.append(_sidecar(path, encoding) if there else (None, None))
    return made


def _sidecar_fault(path: Path, root: Path, follow_links: bool) -> tuple[str, str, str] | None:
    """The finding about a transcript that may not or cannot be read."""
    if path.is_symlink() and not path.exists():
        return "no_transcript", root.name, nowhere(str(path))
    if path.is_symlink() and not follow_links and (target := leads_out(path, root)):
        return "outside_source", root.name, f"{path.name} leads out of the source folder, to {target}; {ALLOW}"
    if not path.is_file() or not os.access(path, os.R_OK):
        return "no_transcript", root.name, f"{path.name} is no file that can be read; its clip has no transcript"
    return None


def _sidecar(path: Path, encoding: str) -> tuple[str | None, str | None]:
    try:
        text = path.read_text(encoding=encoding or "utf-8-sig")
        return escaped(text).removeprefix("\ufeff").strip() or None, None
    except UnicodeError:
        return None, "bad_encoding"
