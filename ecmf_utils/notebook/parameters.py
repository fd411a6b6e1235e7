"""Notebook files, read without running them: which there are, and their typed parameters cell."""

from __future__ import annotations

import ast
import io
import json
import math
import operator
import os
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ecmf_utils.files import SHIPPED, EcmfError, show, unknown


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # remark`."""

    name: str
    kind: str  # the annotation as written, or the default's type
    default: Any
    remark: str = ""


def notebooks_dir() -> Path:
    """Folder of the numbered notebooks (`ECMF_NOTEBOOKS` moves it)."""
    return Path(os.environ.get("ECMF_NOTEBOOKS", SHIPPED / "notebooks"))


def notebook_names() -> list[str]:
    """Names of all numbered notebooks, in order."""
    return sorted(path.stem for path in notebooks_dir().glob("[0-9][0-9]_*.ipynb"))


def notebook_name(name: str | Path) -> str:
    """The full name for `22`, `22_extract_scene` or a path to it.

    Raises
    ------
    EcmfError
        No such notebook, or a number that several carry.
    """
    wanted = Path(name).stem if str(name).endswith(".ipynb") else str(name)
    known = notebook_names()
    found = [n for n in known if n == wanted] or [n for n in known if n.split("_")[0] == wanted]
    if len(found) == 1:
        return found[0]
    raise unknown("notebook", wanted, known)


def notebook_path(name: str | Path) -> Path:
    """Where the notebook of that name lies."""
    return notebooks_dir() / f"{notebook_name(name)}.ipynb"


def code_cells(name: str | Path) -> list[dict[str, Any]]:
    """The code cells of a notebook: dicts with `source` (str) and `tags` (list)."""
    path = notebook_path(name)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            {"source": "".join(c["source"]), "tags": c.get("metadata", {}).get("tags", [])}
            for c in cells
            if c["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise EcmfError(f"{show(path)}: not a notebook that can be read ({error})") from error


def declared(name: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, in order; read without running anything.

    Raises
    ------
    EcmfError
        No cell is tagged `parameters`, or a line of it is not `name: type = literal`.
    """
    path = notebook_path(name)
    cells = [cell["source"] for cell in code_cells(name) if "parameters" in cell["tags"]]
    if not cells:
        raise EcmfError(f"{show(path)}: no code cell has the tag 'parameters'")
    try:
        statements = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise EcmfError(f"{show(path)}: parameters cell, line {error.lineno}: {error.msg}") from error
    remarks = _remarks(cells[0])
    found = [_parameter(statement, remarks, show(path)) for statement in statements]
    return {p.name: p for p in found}


def _parameter(statement: ast.stmt, remarks: Mapping[int, str], where: str) -> Parameter:
    target = getattr(statement, "target", None) or (getattr(statement, "targets", None) or [None])[0]
    value = getattr(statement, "value", None)
    try:
        if not isinstance(target, ast.Name) or isinstance(statement, ast.AugAssign):
            raise ValueError
        default = ast.literal_eval(value)
    except (ValueError, TypeError):
        raise EcmfError(
            f"{where}: parameters cell, line {statement.lineno}: expected `name: type = literal`, "
            f"found `{ast.unparse(statement)}`"
        ) from None
    annotation = getattr(statement, "annotation", None)
    quoted = isinstance(annotation, ast.Constant)  # Literal needs quotes: the cell imports nothing
    written = str(annotation.value) if quoted else ast.unparse(annotation) if annotation else ""
    kind = written or type(default).__name__
    parameter = Parameter(target.id, kind, default, remarks.get(statement.end_lineno, ""))
    coerce(default, parameter, where)
    return parameter


def _remarks(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def coerce(value: Any, parameter: Parameter, where: str = "") -> Any:
    """A value of the declared type, from Python, YAML or the command line.

    Raises
    ------
    EcmfError
        The value does not fit: the line names the parameter, its type and the value.
    """
    try:
        return _fit(value, ast.parse(parameter.kind, mode="eval").body, parameter.default)
    except (ValueError, OverflowError, RecursionError):
        head = f"{where}: " if where else ""
        how = ' (as JSON: {"name": value})' if parameter.kind.startswith("dict") else ""
        raise EcmfError(f"{head}parameter {parameter.name} is {parameter.kind}{how}, which {value!r} is not") from None


def _fit(value: Any, kind: ast.expr, default: Any = None) -> Any:
    if isinstance(kind, ast.BinOp):
        return _first_fit(value, [kind.left, kind.right], default)
    if isinstance(kind, ast.Compare):
        return _in_range(value, kind)
    if isinstance(kind, ast.Constant) and kind.value is None:
        kind = ast.Name("None")
    name = ast.unparse(kind.value if isinstance(kind, ast.Subscript) else kind).split(".")[-1]
    inner = _inner(kind)
    if name == "Optional":
        return _first_fit(value, [ast.Name("None"), *inner], default)
    if name == "Union":
        return _first_fit(value, inner, default)
    if name == "Literal":
        return _choice(value, [ast.literal_eval(choice) for choice in inner])
    if name in ("list", "List"):
        return _list(value, inner, default)
    if name not in SCALARS:
        raise ValueError
    return SCALARS[name](value)


def _in_range(value: Any, kind: ast.Compare) -> Any:
    """A number within bounds: `int >= 1`, `0 <= float < 1`."""
    parts = [kind.left, *kind.comparators]
    found = _fit(value, next(part for part in parts if isinstance(part, ast.Name)))
    numbers = [found if isinstance(part, ast.Name) else ast.literal_eval(part) for part in parts]
    within = [WITHIN[type(op)](*pair) for op, pair in zip(kind.ops, pairwise(numbers), strict=True)]
    if not all(within):
        raise ValueError
    return found


def _inner(kind: ast.expr) -> list[ast.expr]:
    if not isinstance(kind, ast.Subscript):
        return []
    return kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]


def _first_fit(value: Any, kinds: Sequence[ast.expr], default: Any) -> Any:
    for kind in sorted(kinds, key=lambda k: ast.unparse(k) != "None"):
        try:
            return _fit(value, kind, default)
        except ValueError:
            continue
    raise ValueError


def _choice(value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    for choice in choices:
        if isinstance(value, str) and value == str(choice):
            return choice
    raise ValueError


def _list(value: Any, inner: Sequence[ast.expr], default: Any) -> list[Any]:
    if isinstance(value, str):
        value = _items(value.strip())
    if not isinstance(value, list | tuple):
        raise ValueError
    kinds = {type(item).__name__ for item in default} if isinstance(default, list | tuple) else set()
    if not inner and len(kinds) == 1:  # a bare `list`: what its default holds says of what
        inner = [ast.Name(kinds.pop())]
    return [_fit(item, inner[0]) if inner else item for item in value]


def _items(text: str) -> Any:
    """A list as JSON, or names between commas, in brackets or not."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            if not text.endswith("]") or set(text) & set("\"'{}"):
                raise
            text = text[1:-1]
    return [item.strip() for item in text.split(",") if text]


def _none(value: Any) -> None:
    if value is None or value in ("None", "null"):
        return None
    raise ValueError


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError


def _int(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _dict(value: Any) -> dict[str, Any]:
    value = json.loads(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError
    return value


WITHIN = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
SCALARS = {
    "str": _str, "int": _int, "float": _float, "bool": _bool, "dict": _dict, "Dict": _dict,
    "None": _none, "NoneType": _none, "Any": lambda value: value,
}  # fmt: skip
