"""Folders of `.npy` files, as the official toolkit of the MER challenges writes its features."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.features.store import TYPES
from ecmf_utils.files import EcmfError, digest, show

from .checks import Fault, Found, Published, checked, float_of, majority, match

LEVEL_OF = {"utt": "utterance", "fra": "frame"}  # the end of a folder's name
MAGIC = b"\x93NUMPY"
NPY_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
BROKEN = 0  # a link that leads nowhere or in a circle, or something that may not be looked at
LONGEST_HEADER = 10_000  # bytes; numpy's own limit against headers made to hurt


class Peek(NamedTuple):
    """What the header of a file says: type and shape of its numbers, and the files that hold them."""

    dtype: str
    shape: tuple[int, ...]
    files: tuple[Path, ...]
    framed: bool = False  # a folder with one file a frame


def folder_of_npy(folder: Path, clip_ids: set[str], found: Findings) -> Published:
    """A folder of `<name>.npy`, or of folders `<name>` with one `.npy` a frame, as published features.

    Only headers are read here; what is wrong with one clip is told when it is read.

    Raises
    ------
    EcmfError
        No name in it is a clip, none of the files can be used, or it holds several sets.
    """
    folder = Path(os.path.abspath(folder))
    entries = _scan(folder, found)
    known = match(entries, clip_ids, folder, found)
    stamps, peeks = {}, {}
    for name in known:
        stamps[name], peeks[name] = _peek(folder, entries[name])
    good = [peek for peek in peeks.values() if isinstance(peek, Peek)]
    first = next((peek for peek in peeks.values() if isinstance(peek, Fault)), None)
    dtype, dim = majority(((peek.dtype, peek.shape[-1]) for peek in good), folder, first)
    level = _level(folder.name, good)
    found.add("layout", folder, f"{level} level, {dim} numbers {dtype}; features of {len(known):,} clips")
    read = partial(_read, folder=folder, peeks=peeks, level=level, dtype=dtype, dim=dim)
    return Published(folder.name, folder.name, level, dtype, dim, stamps, read)


def set_name(name: str) -> str:
    """The name of a folder of features without its ending -UTT or -FRA."""
    return re.sub(r"[-_](UTT|FRA)$", "", name, flags=re.IGNORECASE)


def _scan(folder: Path, found: Findings) -> dict[str, Path]:
    """Name of a clip to its file or folder, in the order of the names."""
    entries: dict[str, Path] = {}
    folders: set[str] = set()
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise EcmfError(
            f"{show(folder)}: cannot be listed ({error.strerror}); give a folder that you may read"
        ) from error
    for path in there:
        kind = _kind(path)
        name = path.name if kind == stat.S_IFDIR else path.stem
        if path.name.startswith("."):
            continue
        if kind != stat.S_IFDIR and path.suffix.lower() != ".npy":
            found.add("ignored_file", folder, f"{path.name} is not an .npy file; it was not opened")
        elif kind not in (stat.S_IFDIR, stat.S_IFREG, BROKEN):
            found.add("ignored_file", folder, f"{path.name} is a pipe or a device, not a file; it was not opened")
        elif name in entries:
            found.add("duplicate_id", folder, f"{path.name}: {entries[name].name} has the same name and counts")
        else:
            entries[name] = path
            folders |= {name} if kind == stat.S_IFDIR else set()
    sets = [name for name in entries if name in folders and set_name(name) != name]
    if sets:
        several = "several sets" if len(sets) > 1 else "a set"
        raise EcmfError(f"{show(folder)}: holds {several} of features; give {folder.name}/{sets[0]}")
    return entries


def _kind(path: Path) -> int:
    """File, folder or something else; a link counts as what it leads to."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return BROKEN


def _level(name: str, peeks: list[Peek]) -> str:
    """What most clips have; where no shape decides (all of them (1, D)), the end of the folder's name."""
    frames = sum(peek.framed or not _is_one(peek.shape) for peek in peeks)
    single = sum(len(peek.shape) == 1 for peek in peeks)
    if frames == single:
        return LEVEL_OF.get(name[len(set_name(name)) + 1 :].lower(), "utterance")
    return "frame" if frames > single else "utterance"


def _is_one(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or shape[0] == 1


def save(path: Path, values: np.ndarray) -> None:
    """Write an array as the toolkit does."""
    with open(path, "wb") as file:  # np.save would add an ending to a temporary name
        np.save(file, values)


def holds(path: Path, values: np.ndarray) -> bool:
    """Whether a file is byte by byte what `save` would write."""
    file = BytesIO()
    np.save(file, values)
    return path.is_file() and path.stat().st_size == file.tell() and path.read_bytes() == file.getvalue()


# ---- headers


def _peek(folder: Path, path: Path) -> tuple[str, Peek | Fault]:
    """What changes with the file or folder of a clip, and what its header says."""
    label, framed = f"{folder.name}/{path.name}", _kind(path) == stat.S_IFDIR
    try:
        files = sorted(path.glob("*.npy"), key=_natural) if framed else [path]
        if any(_leaves(one, folder) for one in (path, *files)):
            return "link", Fault("outside_source", f"{label}: a link that leads out of the folder; copy the file")
        if not files:
            return "empty", Fault("no_features", f"{label}: a folder without .npy files")
        stats = [file.stat() for file in files]
        if odd := [file for file, facts in zip(files, stats, strict=True) if not stat.S_ISREG(facts.st_mode)]:
            return "unreadable", Fault("unreadable", f"{label}: {odd[0].name} is not a file; it was not opened")
        head = _header(files[0], stats[0].st_size, f"{label}/{files[0].name}" if framed else label)
    except (OSError, RuntimeError) as error:  # pathlib raises the latter for a link in a circle
        why = error.strerror if isinstance(error, OSError) else "a link that leads in a circle"
        return "unreadable", Fault("unreadable", f"{label}: {why or error}")
    if framed and isinstance(head, Peek):
        head = Peek(head.dtype, (len(files), head.shape[-1]), tuple(files), True)
    return digest([(facts.st_size, facts.st_mtime_ns) for facts in stats]), head


def _leaves(path: Path, folder: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts 2.npy before 10.npy."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.stem)]


def _header(path: Path, size: int, label: str) -> Peek | Fault:
    """Type and shape of an `.npy` file; nothing that could run code is ever loaded."""
    with open(path, "rb", buffering=0) as file:
        start = file.read(128)
        if not start:
            return Fault("empty_file", f"{label}: the file has no bytes")
        if not start.startswith(MAGIC) or len(start) < 12:
            return Fault("not_npy", f"{label}: not an .npy file (it begins with {start[:8]!r})")
        begin = 10 if start[6] == 1 else 12  # behind the length of the header
        length = begin + int.from_bytes(start[8:begin], "little")
        start += file.read(max(length - 128, 0)) if length < LONGEST_HEADER else b""
    try:
        dtype, shape = _parsed(start[:length])
    except Exception:  # the parser of foreign bytes may raise anything
        return Fault("not_npy", f"{label}: the header of the .npy file is damaged")
    return _judged(dtype, shape, size - length, label) or Peek(float_of(dtype), shape, (path,))


@lru_cache(maxsize=4096)
def _parsed(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """Vectors of one length have the same header byte by byte."""
    file = BytesIO(header)
    shape, _, dtype = NPY_READERS[np.lib.format.read_magic(file)[0]](file)
    return dtype, shape


def _judged(dtype: np.dtype, shape: tuple[int, ...], size: int, label: str) -> Fault | None:
    """What is wrong with an array of this type and shape in `size` bytes."""
    if dtype.hasobject:
        return Fault("pickled", f"{label}: holds pickled Python objects, which may run code; refused")
    if float_of(dtype) not in TYPES:
        return Fault("wrong_dtype", f"{label}: {dtype.name}; expected float16, float32, float64 or whole numbers")
    if len(shape) not in (1, 2) or 0 in shape:
        return Fault("wrong_dim", f"{label}: shape {shape}; expected (D,) or (T, D)")
    announced = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < announced:
        return Fault("truncated", f"{label}: {size:,} bytes of numbers, its header announces {announced:,}")
    return None


# ---- numbers


def _read(
    names: list[str], folder: Path, peeks: dict[str, Peek | Fault], level: str, dtype: str, dim: int
) -> Iterator[tuple[str, Found]]:
    for name in names:
        peek = peeks[name]
        if isinstance(peek, Fault):
            yield name, peek
        elif level == "utterance" and (peek.framed or not _is_one(peek.shape)):
            label = f"{folder.name}/{name}{'' if peek.framed else '.npy'}"
            yield name, Fault("wrong_dim", f"{label}: {peek.shape[0]} vectors, most of the clips have one")
        else:
            yield name, _load(peek, folder, dtype, dim)


def _load(peek: Peek, folder: Path, dtype: str, dim: int) -> Found:
    """The vectors (T, D) of a clip, from one file or from one a frame."""
    rows: list[np.ndarray] = []
    for path in peek.files:
        label = f"{folder.name}/{path.relative_to(folder).as_posix()}"
        try:
            found = _bad_frame(path, label) if peek.framed else None
            found = found or checked(np.load(path, allow_pickle=False), label, dtype, dim)
        except Exception as error:  # a foreign file may raise anything; the clip's row tells what it was
            found = Fault("unreadable", f"{label}: {error}")
        if isinstance(found, Fault):
            return found
        rows.append(found)
    return np.concatenate(rows) if len(rows) > 1 else rows[0]


def _bad_frame(path: Path, label: str) -> Fault | None:
    head = _header(path, path.stat().st_size, label)
    if isinstance(head, Fault) or _is_one(head.shape):
        return head if isinstance(head, Fault) else None
    return Fault("wrong_dim", f"{label}: shape {head.shape}; expected one frame, (D,)")
