"""Where clips come from: a folder as it is, or a CSV manifest; what is wrong stays, marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from .corpus import SPLITS
from .paths import ROOT, EcmfError

EXTENSIONS = (
    ".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".wav", ".flac", ".mp3",
)  # fmt: skip
MANIFEST_COLUMNS = ("clip_id", "video")


def scan_folder(source: str | Path) -> pd.DataFrame:
    """One manifest row for each media file below a folder; labels are not needed.

    A transcript is taken from `<name>.txt` beside the clip (UTF-8). The first folder level is the group.

    Parameters
    ----------
    source : path
        Any directory of clips.

    Raises
    ------
    EcmfError
        The folder does not exist, or no media file is in it.
    """
    source = Path(source).expanduser()
    source = source if source.is_absolute() else (ROOT / source)
    if not source.is_dir():
        raise EcmfError(f"{source}: not a folder; give an existing folder of clips with --set source=DIR")
    source = source.resolve()
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not files:
        raise EcmfError(f"{source}: no media file in it; expected one of {' '.join(EXTENSIONS)}")
    stems = pd.Series([_clip_id(p.relative_to(source).with_suffix("")) for p in files])
    twice = stems.duplicated(keep=False)
    rows = [
        _folder_row(path, source, stem, both) for path, stem, both in zip(files, stems, twice, strict=True)
    ]
    return pd.DataFrame(rows)


def _clip_id(relative: Path) -> str:
    return "__".join(relative.parts).replace("\\", "_")


def _folder_row(path: Path, source: Path, stem: str, twice: bool) -> dict[str, Any]:
    relative = path.relative_to(source)
    clip_id = _clip_id(relative) if twice else stem
    text, problem = _sidecar(path.with_suffix(".txt"))
    group = relative.parts[0] if len(relative.parts) > 1 else clip_id
    return {
        "clip_id": clip_id,
        "video": str(path),
        "text": text,
        "split": "unlabelled",
        "group": group,
        "speaker": group,
        "problem": problem,
    }


def sidecar_text(video: Path) -> str | None:
    """The transcript in `<name>.txt` beside a clip, None where there is none or it is not UTF-8."""
    return _sidecar(video.with_suffix(".txt"))[0]


def _sidecar(path: Path) -> tuple[str | None, str | None]:
    if not path.exists():
        return None, None
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None, None
    except UnicodeDecodeError:
        return None, "bad_encoding"


def read_manifest(path: str | Path, labels: list[str], source: str | Path = "") -> pd.DataFrame:
    """A user's CSV manifest; a bad row is kept, marked with its problem, and the others go on.

    Parameters
    ----------
    path : path
        CSV with `clip_id`, `video` and, as far as known, `text`, `label`, `split`, `group`, `speaker`.
    labels : list of str
        The profile's label set.
    source : path
        Folder that relative media paths start from; the manifest's own folder when empty.

    Raises
    ------
    EcmfError
        The file is missing, not UTF-8, empty, or lacks a required column.
    """
    path = Path(path).expanduser()
    base = Path(source).expanduser() if str(source) else path.parent
    rows = _read_csv(path)
    missing = [name for name in MANIFEST_COLUMNS if name not in rows]
    if missing:
        raise EcmfError(
            f"{path}: column {', '.join(missing)} missing; expected at least "
            f"{', '.join(MANIFEST_COLUMNS)}, found {', '.join(rows.columns)}"
        )
    seen: set[str] = set()
    made = [
        _manifest_row(dict(row), number, labels, base, seen)
        for number, row in enumerate(rows.to_dict("records"), start=2)
    ]
    return pd.DataFrame(made)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except FileNotFoundError as error:
        raise EcmfError(f"{path}: no such manifest; give an existing CSV file") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise EcmfError(
            f"{path}: line {line} is not UTF-8; save the manifest as UTF-8 and run again"
        ) from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise EcmfError(f"{path}: not a CSV table ({str(error).strip()})") from error


def _manifest_row(
    row: dict[str, Any], number: int, labels: list[str], base: Path, seen: set[str]
) -> dict[str, Any]:
    row = {key: (value.strip() or None) for key, value in row.items()}
    problems = _row_problems(row, labels, seen)
    wanted = row["clip_id"] or f"row-{number}"
    if problems and problems[0] in ("bad_id", "duplicate_id"):
        row["clip_id"] = f"{wanted.replace('/', '_').replace(chr(92), '_')} (row {number})"
        row["status"] = "failed"
    seen.add(row["clip_id"] or wanted)
    if "unknown_label" in problems:
        row["label"] = None
    default = "train" if row.get("label") else "unlabelled"
    row["split"] = row.get("split") if row.get("split") in SPLITS else default
    if row["split"] == "train" and not row.get("label"):
        row["split"] = "unlabelled"  # nothing to learn from, but still predicted
    row["group"] = row.get("group") or row.get("speaker") or row["clip_id"]
    row["speaker"] = row.get("speaker") or row["group"]
    for column in ("video", "audio"):
        row[column] = str((base / row[column]).resolve()) if row.get(column) else None
    row["problem"] = ";".join(problems) or None
    row["detail"] = f"manifest row {number}" if problems else None
    return row


def _row_problems(row: dict[str, Any], labels: list[str], seen: set[str]) -> list[str]:
    clip_id, label = row["clip_id"], row.get("label")
    problems = []
    if not clip_id or "/" in clip_id or "\\" in clip_id:
        problems.append("bad_id")
    elif clip_id in seen:
        problems.append("duplicate_id")
    if label and label not in labels:
        problems.append("unknown_label")
    if row.get("split") and row["split"] not in SPLITS:
        problems.append("unknown_split")
    return problems
