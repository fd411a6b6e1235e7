"""Where things lie, and how they are written so that a killed run never leaves half a file."""

from __future__ import annotations

import base64
import difflib
import hashlib
import importlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

INSTALLED = Path(__file__).resolve().parent.parent  # holds the packages: a checkout, or site-packages
IS_CHECKOUT = (INSTALLED / "notebooks" / "00_start_here.ipynb").is_file()
# Outputs go under this folder: the checkout, or for an installed package the folder it is called from.
ROOT = Path(os.environ.get("ECMF_ROOT") or (INSTALLED if IS_CHECKOUT else Path.cwd()))
SHIPPED = ROOT if IS_CHECKOUT else INSTALLED / "ecmf_workflow"  # holds the folders notebooks and workflow
SCHEMA_VERSION = 1
DAMAGED = (pa.ArrowException, OSError, ValueError)  # what reading a damaged table raises
PLAIN = 100  # letters of a name that every file system takes


class EcmfError(Exception):
    """A mistake the user can mend, told in one line: which file, what was expected, what to do."""


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> EcmfError:
    """The error for a name that does not exist: what was meant, and what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {close[0]}?" if close else ""
    head = f"{where}: " if where else ""
    return EcmfError(f"{head}unknown {what} '{name}'{guess} (known: {', '.join(known) or 'none'})")


def import_function(name: str, where: str = "") -> Callable[..., Any]:
    """The function of a dotted name such as `my_lab.corpus:read`; `where` begins the line of an error.

    Raises
    ------
    EcmfError
        There is no such module or function, or the module cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"cannot be imported ({error}); expected package.module:function"
        raise EcmfError(f"{where}{name}: {reason}") from error


def data_dir(profile: str) -> Path:
    """Folder of everything generated or linked in for a profile."""
    return Path(os.environ.get("ECMF_DATA", ROOT / "data")) / profile


def reports_dir(profile: str) -> Path:
    """Folder of the HTML pages and run records of a profile."""
    return Path(os.environ.get("ECMF_REPORTS", ROOT / "reports")) / profile


def show(path: Path | str) -> str:
    """A path as a reader wants it: relative to the project where it lies inside."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def slug(name: str) -> str:
    """A name that is safe as a folder on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def named(branch: str) -> tuple[str, str]:
    """`audio@hubert-last-mean` -> (`audio`, `hubert-last-mean`); without an encoder the latter is empty."""
    name, _, encoder = branch.partition("@")
    return name, encoder


def own_name(branch: str, where: str = "") -> None:
    """Refuse a branch that names an encoder (`audio@<encoder>`) for published features; `where` begins the line."""
    if "@" in branch:
        raise EcmfError(f"{where}{branch}: published features need a name of their own, without @")


def digest(*parts: Any) -> str:
    """16 hex digits that identify the given JSON-able values."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_shard(shard: int, n_shards: int, where: str = "") -> None:
    """Refuse a shard that there is not; `where` begins the line."""
    if not 0 <= shard < n_shards:
        raise EcmfError(f"{where}shard={shard}: expected 0 to n_shards - 1 = {n_shards - 1}")


def shard_of(clip_id: str, n_shards: int) -> int:
    """The shard of a clip: a hash of its name, so that it does not depend on the other clips."""
    return int(digest(str(clip_id)), 16) % n_shards


def in_shard(clips: pd.DataFrame, shard: int, n_shards: int) -> list[dict[str, Any]]:
    """The rows of the clips of one shard."""
    check_shard(shard, n_shards)
    return [row for row in clips.to_dict("records") if shard_of(row["clip_id"], n_shards) == shard]


def shard_name(shard: int, n_shards: int, ending: str = ".parquet") -> str:
    """File name of a shard."""
    return f"{shard:03d}-of-{n_shards:03d}{ending}"


def file_hash(path: Path | str) -> str:
    """16 hex digits that identify the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_atomic(path: Path | str, write: Callable[[Path], Any]) -> Path:
    """Write through a temporary neighbour, so that the path holds the old or the new file, whole.

    Parameters
    ----------
    path : Path
        The file to make or replace; its folder is made when missing.
    write : callable
        Gets the temporary path and writes it.

    Raises
    ------
    EcmfError
        The disk is full, read-only or not ours; what stood at `path` still stands there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise EcmfError(
            f"{show(path)}: cannot be written ({error.strerror or error}); "
            "free space or choose a writable folder, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # would hide what went wrong above
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_atomic(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON atomically, readable and with a final newline."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def given_path(text: Path | str) -> Path:
    """A path that a person has given, `~` expanded.

    Raises
    ------
    EcmfError
        There is no such user, or no file system takes such a name.
    """
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise EcmfError(f"{str(text)[:200]}: no usable path ({getattr(error, 'strerror', None) or error})") from None


def file_name(name: str) -> str:
    """A clip's name as the name of a file: another one for each, on file systems that know no case, too.

    It is the name itself where that is short and of small letters, digits, `_`, `-` and `.`.
    """
    if len(name) <= PLAIN and re.fullmatch(r"[a-z0-9_][a-z0-9._-]*", name):
        return name
    return f"{slug(name)[:PLAIN]}-{digest(name)}"


def data_uri(content: bytes, mime: str) -> str:
    """Bytes as an address that needs no file."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def read_json(path: Path | str, made_by: str = "") -> Any:
    """Read JSON; a missing or broken file is one clear line."""
    _require(Path(path), made_by)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be read ({error.strerror or error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EcmfError(f"{show(path)}: not valid JSON ({error}); delete it and run again") from error


def append_line(path: Path | str, entry: Mapping[str, Any], kept: str) -> None:
    """Add a line of JSON; one that a kill has cut stays behind on a line of its own.

    Raises
    ------
    EcmfError
        It cannot be written; `kept` says what is not lost.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            if end := file.seek(0, os.SEEK_END):
                file.seek(end - 1)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error}); {kept}"
        raise EcmfError(f"{show(path)}: {reason}: free space, then run the same command again") from error


def read_lines(path: Path | str) -> Iterator[dict[str, Any]]:
    """What `append_line` wrote; nothing where there is no file. A line that a kill has cut is left out."""
    path = Path(path)
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # cut, within a character too
            continue
        if isinstance(entry, dict):
            yield entry


def write_parquet(frame: pd.DataFrame | pa.Table, path: Path | str, metadata: dict[str, Any] | None = None) -> Path:
    """Write a table atomically, with the schema version and `metadata` in the file's own header."""
    table = frame
    if isinstance(frame, pd.DataFrame):
        table = pa.Table.from_pandas(frame, preserve_index=False)
    own = {"schema_version": SCHEMA_VERSION, **(metadata or {})}
    header = {**(table.schema.metadata or {}), b"ecmf": json.dumps(own, default=str).encode()}
    table = table.replace_schema_metadata(header)
    return write_atomic(path, lambda tmp: pq.write_table(table, tmp, write_page_checksum=True))


def read_parquet(path: Path | str, made_by: str = "", columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table, or those of the columns that it has; a missing or damaged file is one clear line."""
    with _parquet(path, made_by):
        kept = None if columns is None else [c for c in columns if c in pq.read_schema(path).names]
        return read_table(path, columns=kept).to_pandas()


def read_table(path: Path | str, **options: Any) -> pa.Table:
    """Read a table as it is stored, its checksums verified; a missing or damaged file is one clear line."""
    with _parquet(path):
        return pq.read_table(path, page_checksum_verification=True, **options)


def parquet_metadata(path: Path | str) -> dict[str, Any]:
    """The metadata that `write_parquet` put into the header."""
    with _parquet(path):
        return json.loads((pq.read_schema(path).metadata or {}).get(b"ecmf", b"{}"))


@contextmanager
def _parquet(path: Path | str, made_by: str = "") -> Iterator[None]:
    _require(Path(path), made_by)
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:  # the library's own have none
            raise EcmfError(f"{show(path)}: cannot be read ({error.strerror})") from error
        reason = f"not a Parquet file or a damaged one ({str(error).partition(chr(10))[0]})"
        raise EcmfError(f"{show(path)}: {reason}; delete it and run again") from error


def _require(path: Path, made_by: str) -> None:
    if not path.exists():
        hint = f": run {made_by} first" if made_by else ""
        raise EcmfError(f"{show(path)} is missing{hint}")
