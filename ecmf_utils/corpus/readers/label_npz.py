"""Label files of the official toolkit: npz archives with pickled dicts, read without running any code.

A pickle is a program. Here it may build containers, text, numbers and numpy arrays, and these are made from
checked parts after it has ended; whatever else it asks for is refused and named.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.files import EcmfError, show
from ecmf_utils.notebook.profiles import LABELS

from .tables import MISSING

MAX_BYTES = 2**30  # uncompressed; the largest published label file has a few million
KIND = re.compile(r"[<>|=]?([biufcSUVO])(\d{0,7})")  # what a dtype may be called in a pickle
ADMITTED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "complex", "bytes")),
}  # fmt: skip


class Refused(Exception):
    """A pickle asks for something that a label file does not need."""


def load_npz(path: Path | str) -> dict[str, Any]:
    """The arrays of an npz file; a 0-d object array gives the Python value in it.

    Parameters
    ----------
    path : path
        As `numpy.savez` or `savez_compressed` wrote it, with or without object arrays.

    Returns
    -------
    dict
        Key -> ndarray, or what a 0-d object array holds: nested dict, list, tuple, set, str, bytes,
        numbers, None, ndarray.

    Raises
    ------
    EcmfError
        The file is missing, empty, no zip archive, cut short or too large, or a pickle in it asks for
        anything else, which is named.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_size(members, path)
            return {_key(info): _member(archive, info, path) for info in members}
    except FileNotFoundError:
        raise EcmfError(f"{show(path)}: no such file; give the npz of the official toolkit") from None
    except zipfile.BadZipFile as error:
        empty = path.stat().st_size == 0
        why = "the file is empty" if empty else f"cut short or another kind of file: {error}"
        raise EcmfError(f"{show(path)}: not an npz archive ({why}); copy it again from its source") from None
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be read ({error.strerror or error})") from None


def label_corpus(npz: dict[str, Any], key: str, found: Findings, file: Path | str) -> pd.DataFrame:
    """One split of the official label file, checked entry by entry.

    Parameters
    ----------
    npz : dict
        From `load_npz`; `npz[key]` is `{name: {"emo": str or int, "val": float}}`, where a number is an
        index into the six emotions and a `val` of -10 stands for none.

    Returns
    -------
    DataFrame
        name, label (None where the entry is not of this form), valence; the index `row` counts the entries
        from 1.

    Raises
    ------
    EcmfError
        There is no such key, or it does not hold a dict.
    """
    where = f"{show(file)}"
    if key not in npz:
        raise EcmfError(f"{where}: no key {key!r}; found {', '.join(npz) or 'none'}")
    entries = npz[key]
    if not isinstance(entries, dict):
        raise EcmfError(f"{where}: {key} holds {_kind(entries)}, expected a dict of name: {{'emo': …}}")
    rows = [_entry(i, name, entry, key, found, file) for i, (name, entry) in enumerate(entries.items(), 1)]
    table = pd.DataFrame(rows, columns=["row", "name", "label", "valence"], dtype=object)
    return table.set_index("row").astype({"valence": float})


def _entry(
    row: int, name: Any, entry: Any, key: str, found: Findings, file: Path | str
) -> tuple[int, str | None, str | None, float]:
    if not isinstance(name, str):
        found.add("bad_label", file, f"{key}: the name of entry {row} is {_kind(name)}, expected text", row=row)
        name = None
    emo, val = (entry.get("emo"), entry.get("val")) if isinstance(entry, dict) else (entry, None)
    label = _label(emo) if isinstance(entry, dict) else None
    unsaid = emo is None or (isinstance(emo, str) and emo in MISSING)
    if label is None and not (isinstance(entry, dict) and unsaid):
        text = f"{key}: entry {name!r} is {str(entry)[:60]!r}, expected {{'emo': a label or 0 to {len(LABELS) - 1}}}"
        found.add("bad_label", file, text, row=row, clip_id=name)
    number = isinstance(val, int | float | np.number) and not isinstance(val, bool)
    return row, None if name is None else str(name), label, float(val) if number and val != -10 else math.nan


def _label(emo: Any) -> str | None:
    if isinstance(emo, str):
        return None if emo.strip() in MISSING else str(emo).strip()
    whole = isinstance(emo, int | np.integer) and not isinstance(emo, bool)
    return LABELS[int(emo)] if whole and 0 <= emo < len(LABELS) else None


def _kind(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


# ---- members


def _key(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _check_size(members: list[zipfile.ZipInfo], path: Path) -> None:
    size = sum(info.file_size for info in members)
    if size > MAX_BYTES:
        raise EcmfError(
            f"{show(path)}: unpacks to {size / 2**30:,.1f} GiB, which no label file does; at most "
            f"{MAX_BYTES / 2**30:g} GiB are read"
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    where = f"{show(path)}: {_key(info)}"
    try:
        return _array(archive.read(info))
    except Refused as error:
        raise EcmfError(
            f"{where} asks for {error}, refused: a label file needs no code; nothing of it was run"
        ) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise EcmfError(f"{where} cannot be unpacked ({error}); copy the file again from its source") from None
    except Exception as error:  # a damaged pickle or header raises whatever it likes
        raise EcmfError(f"{where} is damaged ({type(error).__name__}: {str(error)[:80]}); copy it again") from None


def _array(data: bytes) -> Any:
    file = BytesIO(data)
    version = npy.read_magic(file)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the npy format, expected 1.0 or 2.0")
    shape, _, dtype = header(file)
    if not dtype.hasobject:
        if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError(f"shape {shape} does not fit its {len(data) - file.tell():,} bytes")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)
    value = _unpickled(data[file.tell() :])
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise ValueError(f"the header says an array of shape {shape}, the pickle holds {_kind(value)}")
    return value.item() if value.shape == () else value


# ---- pickles


def _unpickled(data: bytes) -> Any:
    """What a pickle holds, when it asks for nothing but data."""
    for opcode, number, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(number) > len(data):
            raise Refused(f"a memo of {int(number):,} places")  # would take that much memory
    return _finished(_Reader(BytesIO(data), encoding="utf-8").load(), {})


class _Reader(pickle.Unpickler):
    """Unpickler that hands out recipes in place of numpy's functions, and nothing else."""

    def find_class(self, module: str, name: str) -> _Recipe:
        if (module, name) not in ADMITTED:
            raise Refused(f"{module}.{name}")
        return _Recipe(name)

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("a persistent object")


class _Recipe:
    """Stands for one admitted name; calling it notes the arguments, or makes plain data from them."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> Any:
        if self.name in ("_reconstruct", "dtype", "scalar"):
            return _Part(self.name, args)
        if self.name in ("set", "frozenset") and len(args) == 1 and isinstance(args[0], list | tuple):
            return {"set": set, "frozenset": frozenset}[self.name](args[0])
        if self.name == "complex" and all(isinstance(arg, float) for arg in args):
            return complex(*args)
        if self.name == "bytes" and not args:
            return b""
        if self.name == "encode" and isinstance(args[0], str) and args[1:] == ("latin1",):
            return args[0].encode("latin1")
        raise Refused(f"{self.name} with arguments of its own")


class _Part:
    """A numpy object to be: what was called, and the state that was set."""

    __slots__ = ("name", "args", "state")

    def __init__(self, name: str, args: tuple) -> None:
        self.name, self.args, self.state = name, args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _finished(value: Any, done: dict[int, Any]) -> Any:
    """A value with every part made into what it stands for; what occurs twice is made once."""
    if id(value) in done:
        return done[id(value)][1]
    made = value
    if isinstance(value, _Recipe):
        raise Refused(f"numpy.{value.name} as a value")
    if isinstance(value, _Part):
        made = {"dtype": _dtype, "scalar": _scalar, "_reconstruct": _ndarray}[value.name](value, done)
    elif isinstance(value, dict):
        made = {_finished(k, done): _finished(v, done) for k, v in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        made = type(value)(_finished(item, done) for item in value)
    done[id(value)] = value, made  # holds the value too, so that its id stays its own
    return made


def _dtype(part: _Part, done: dict[int, Any]) -> np.dtype:
    """A plain dtype; its state may say the byte order and nothing else that matters."""
    name = part.args[0] if part.args else None
    if not isinstance(name, str) or not KIND.fullmatch(name):
        raise Refused(f"the dtype {str(name)[:40]!r}")
    order = part.state[1] if isinstance(part.state, tuple) and len(part.state) > 4 else "|"
    if isinstance(part.state, tuple) and any(part.state[2:5]):
        raise Refused("a structured dtype in a pickle")
    return np.dtype(name).newbyteorder(order) if order in ("<", ">") else np.dtype(name)


def _scalar(part: _Part, done: dict[int, Any]) -> Any:
    dtype, data = _finished(part.args[0], done), part.args[1]
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise Refused("a scalar of another kind")
    if not dtype.itemsize:
        return dtype.type()
    return np.frombuffer(data, dtype, count=1)[0]


def _ndarray(part: _Part, done: dict[int, Any]) -> np.ndarray:
    kind = part.args[0] if part.args else None
    if not isinstance(kind, _Recipe) or kind.name != "ndarray" or not isinstance(part.state, tuple):
        raise Refused("an array of another kind")
    _, shape, dtype, fortran, data = part.state
    dtype, order = _finished(dtype, done), "F" if fortran else "C"
    if not dtype.hasobject:
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy()
    if not isinstance(data, list) or math.prod(shape) != len(data):
        raise ValueError(f"an array of shape {shape} with {len(data):,} objects")
    flat = np.empty(len(data), object)
    for i, item in enumerate(data):
        flat[i] = _finished(item, done)
    return flat.reshape(shape, order=order)
