"""Label files of the official toolkit: npz archives with pickled dicts, read without running any code.

A pickle is a program. Python's own unpickler runs it here, but every function that the pickle may name is
replaced by a stub that only notes its arguments. The values are built from these notes after a check.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import sys
import zipfile
from functools import partial
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

# Limits against archives that are made to fill the memory. The largest published label file has a few million
# bytes, and a pickle takes about ten steps for each clip.
MAX_BYTES = 2**30  # of all unpacked members, and of all values of one pickle
MAX_STEPS = 5_000_000
MAX_DEPTH = 100  # levels of containers in containers
MAX_BITS = 512  # of a whole number; Python cannot show or convert much longer ones
DTYPE = re.compile(r"[<>|=]?[biufcSUVO]\d{0,7}")  # the codes that a pickle may give a dtype
PLAIN = (str, bytes, int, float, type(None))
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and numpy 2
BUILTINS = ("builtins", "__builtin__")  # Python 3 and the old protocols
ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((module, name) for module in NUMPY for name in ("_reconstruct", "scalar")),
    *((module, name) for module in BUILTINS for name in ("set", "frozenset", "complex", "bytes")),
}  # fmt: skip


class Refused(Exception):
    """A pickle asks for something that a label file does not need."""


def load_npz(path: Path | str) -> dict[str, Any]:
    """Read the arrays of an npz file; a 0-d object array gives the Python value in it.

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
        anything else; the error names it.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            size = sum(info.file_size for info in members)
            if size > MAX_BYTES:
                raise EcmfError(
                    f"{show(path)}: unpacks to {size / 2**30:,.1f} GiB; a label file has at most "
                    f"{MAX_BYTES / 2**30:g} GiB; get the file from its source again"
                )
            keys = [info.filename.removesuffix(".npy") for info in members]
            return {key: _read_member(archive, info, key, path) for key, info in zip(keys, members, strict=True)}
    except FileNotFoundError:
        raise EcmfError(f"{show(path)}: no such file; give the npz file of the official toolkit") from None
    except zipfile.BadZipFile as error:
        empty = path.stat().st_size == 0
        why = "the file is empty" if empty else f"it is cut short or of another kind: {error}"
        raise EcmfError(f"{show(path)}: not an npz archive ({why}); copy it again from its source") from None
    except OSError as error:
        reason = error.strerror or error
        raise EcmfError(f"{show(path)}: cannot be read ({reason}); give a file that you may read") from None


def tabulate_labels(npz: dict[str, Any], key: str, findings: Findings, file: Path | str) -> pd.DataFrame:
    """Make a table of one split of the official label file, and check every entry.

    Parameters
    ----------
    npz : dict
        From `load_npz`; `npz[key]` is `{name: {"emo": str or int, "val": float}}`, where a number is an
        index into the six emotions and a `val` of -10 stands for none.
    key : str
        The split, such as `train_corpus`.
    findings : Findings
        Gets every entry that is not of this form.
    file : path
        The file that the findings name.

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
    if key not in npz:
        raise EcmfError(f"{show(file)}: no key {key!r}; the file has {', '.join(npz) or 'none'}")
    entries = npz[key]
    if not isinstance(entries, dict):
        raise EcmfError(f"{show(file)}: {key} is {_describe(entries)}; expected a dict of name: {{'emo': ...}}")
    rows = [_check_entry(i, name, entry, key, findings, file) for i, (name, entry) in enumerate(entries.items(), 1)]
    table = pd.DataFrame(rows, columns=["row", "name", "label", "valence"], dtype=object)
    return table.set_index("row").astype({"valence": float})


def _check_entry(
    row: int, name: Any, entry: Any, key: str, findings: Findings, file: Path | str
) -> tuple[int, str | None, str | None, float]:
    """Give row, name, label and valence of one entry."""
    if not isinstance(name, str):
        findings.add("bad_label", file, f"{key}: the name of entry {row} is {_describe(name)}; expected text", row=row)
        name = None
    emo, val = (entry.get("emo"), entry.get("val")) if isinstance(entry, dict) else (None, None)
    is_text = isinstance(emo, str)
    is_index = isinstance(emo, int | np.integer) and not isinstance(emo, bool) and 0 <= emo < len(LABELS)
    label = LABELS[int(emo)] if is_index else str(emo).strip() if is_text and emo.strip() not in MISSING else None
    if not isinstance(entry, dict) or (emo is not None and label is None and not (is_text and emo in MISSING)):
        holds = f"has {_describe(emo)} as 'emo'" if isinstance(entry, dict) else f"is {_describe(entry)}"
        expected = f"{{'emo': a label, or a number from 0 to {len(LABELS) - 1}}}"
        text = f"{key}: entry {_describe(name)} {holds}; expected {expected}"
        findings.add("bad_label", file, text, row=row, clip_id=name)
    is_number = isinstance(val, int | float | np.integer | np.floating) and not isinstance(val, bool)
    return row, None if name is None else str(name), label, float(val) if is_number and val != -10 else math.nan


def _describe(value: Any) -> str:
    """Give a text or number as it is, and the kind of anything else: what is nested may be endless in print."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return repr(value)[:60] if isinstance(value, (*PLAIN, np.generic)) else f"a {type(value).__name__}"


# ---- members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, path: Path) -> Any:
    try:
        return _read_array(archive.read(info))
    except Refused as error:
        problem = f"asks for {error}; this was refused and nothing was run; get the file from its source again"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        problem = f"cannot be unpacked ({error}); copy the file again from its source"
    except Exception as error:  # a damaged pickle or header raises whatever it likes
        problem = f"is damaged ({type(error).__name__}: {str(error)[:80]}); copy the file again from its source"
    raise EcmfError(f"{show(path)}: {key} {problem}")


def _read_array(data: bytes) -> Any:
    file = BytesIO(data)
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the npy format, expected 1.0 or 2.0")
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError(f"shape {shape} does not fit its {len(data) - file.tell():,} bytes")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)
    value = _unpickle(data[file.tell() :])
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise ValueError(f"the header announces an array of shape {shape}, the pickle holds {_describe(value)}")
    return value.item() if value.shape == () else value


# ---- pickles


def _unpickle(data: bytes) -> Any:
    """Give what a pickle holds, when it asks for nothing but data."""
    for n, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if n == MAX_STEPS:
            raise Refused(f"more than {MAX_STEPS:,} steps")
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument) > MAX_STEPS:  # would take that much memory
            raise Refused(f"a memo of {int(argument):,} places")
    return _Builder().build(_Unpickler(BytesIO(data), encoding="utf-8").load())


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, which gets a stub for an allowed name and imports nothing."""

    def find_class(self, module: str, name: str) -> _Stub:
        if (module, name) not in ALLOWED:
            raise Refused(f"{module}.{name}")
        return _Stub(name)

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("a persistent object")


class _Stub:
    """Stands for an allowed function, or for a call of it with its arguments and the state that was set.

    The real functions of numpy trust a pickle: a dtype with a false state makes them read foreign memory.
    """

    __slots__ = __match_args__ = ("name", "args", "state")

    def __init__(self, name: str, args: tuple | None = None) -> None:
        self.name, self.args, self.state = name, args, None

    def __call__(self, *args: Any) -> _Stub:
        return _Stub(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Builder:
    """Replaces stubs by the values that they stand for, as far as numpy and pickle write such stubs."""

    def __init__(self) -> None:
        self.built: dict[int, tuple[Any, Any]] = {}
        self.size = 0

    def build(self, value: Any, depth: int = 0) -> Any:
        """Give a value without stubs; what occurs many times is built once."""
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise Refused(f"a whole number of {value.bit_length():,} bits")
        if isinstance(value, PLAIN):
            return value
        if depth > MAX_DEPTH:  # a list that holds itself comes here too
            raise ValueError(f"values are nested more than {MAX_DEPTH} levels deep")
        if id(value) not in self.built:
            built = self._build(value, partial(self.build, depth=depth + 1))
            self.size += sys.getsizeof(built) + getattr(built, "nbytes", 0)
            if self.size > MAX_BYTES:
                raise Refused(f"more than {MAX_BYTES:,} bytes of memory")
            self.built[id(value)] = value, built  # holds the value too, so that no other gets its id
        return self.built[id(value)][1]

    def _build(self, value: Any, build: partial[Any]) -> Any:
        match value:
            case dict():
                return {build(key): build(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return type(value)(map(build, value))
            case _Stub("set", ([*items],)):
                return set(map(build, items))
            case _Stub("frozenset", ([*items],)):
                return frozenset(map(build, items))
            case _Stub("complex", (float(real), float(imag))):
                return complex(real, imag)
            case _Stub("bytes", ()):
                return b""
            case _Stub("encode", (str(text), "latin1")):
                return text.encode("latin1")
            case _Stub("dtype", (str(code), *_), None | (_, _, None, None, None, *_)) if DTYPE.fullmatch(code):
                order = value.state[1] if value.state else "|"
                return np.dtype(code).newbyteorder(order) if order in ("<", ">") else np.dtype(code)
            case _Stub("scalar", (dtype, data)):
                dtype, data = build(dtype), build(data)
                if not dtype.hasobject:
                    return np.frombuffer(data, dtype, count=1)[0] if dtype.itemsize else dtype.type()
            case _Stub("_reconstruct", (_Stub("ndarray", None), *_), (_, shape, dtype, fortran, data)):
                dtype, data, order = build(dtype), build(data), "F" if fortran else "C"
                if dtype.hasobject and isinstance(data, list):
                    return np.fromiter(data, object, len(data)).reshape(shape, order=order)
                return np.frombuffer(data, dtype).reshape(shape, order=order).copy()
        name = value.name if isinstance(value, _Stub) else f"a {type(value).__name__}"
        raise Refused(f"{name} in a way that numpy never does")
