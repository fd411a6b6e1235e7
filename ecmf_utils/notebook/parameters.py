"""Notebook files, read without running them: which there are, and their typed parameters cell."""

from __future__ import annotations

import ast
import functools
import io
import json
import os
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter

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
    """Check a value from Python, YAML or the command line, and bring it to the declared type.

    Parameters
    ----------
    value : object
        Text, as the command line gives it, is read as the declared type; anything else is only checked.
    parameter : Parameter
        Its `kind` is the declared type. A bare `list` takes its items' type from the default.
    where : str
        Begins the line of an error: a notebook, for example.

    Raises
    ------
    EcmfError
        The value does not fit, or there is no such type. The line names the parameter, its type and the value.
    """
    head = f"{where}: parameter {parameter.name}" if where else f"parameter {parameter.name}"
    default = parameter.default if isinstance(parameter.default, list | tuple) else ()
    item_types = {type(item).__name__ for item in default}
    try:
        adapter = _make_adapter(parameter.kind, item_types.pop() if len(item_types) == 1 else "Any")
    except (SyntaxError, ValueError, LookupError):
        raise EcmfError(f"{head}: {parameter.kind} is no type of a parameter: expected {GRAMMAR}") from None
    try:
        return adapter.validate_python(value)
    except (ValueError, RecursionError):
        how = ' (as JSON: {"name": value})' if parameter.kind.startswith("dict") else ""
        raise EcmfError(f"{head} is {parameter.kind}{how}, which {value!r} is not") from None


@functools.cache
def _make_adapter(kind: str, item_type: str) -> TypeAdapter[Any]:
    """The check for a type as an annotation spells it; `item_type` is that of the items of a bare `list`."""
    kind_type = _build_type(ast.parse(kind, mode="eval").body, item_type)
    return TypeAdapter(kind_type, config=ConfigDict(strict=True, allow_inf_nan=False))


def _build_type(node: ast.expr, item_type: str = "Any") -> Any:
    """The type that an annotation stands for. Nothing is evaluated: names outside the tables raise KeyError."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _build_union([left, right], item_type)
        case ast.Compare():
            return _build_range(node)
        case ast.Subscript(value=outer, slice=inside):
            name = ast.unparse(outer).removeprefix("typing.")
            inner = inside.elts if isinstance(inside, ast.Tuple) else [inside]
        case _:
            name, inner = ast.unparse(node).removeprefix("typing."), []
    if name == "Literal":
        choices = [ast.literal_eval(choice) for choice in inner]
        return Annotated[Any, BeforeValidator(functools.partial(_choose, choices))]
    if name in ("Union", "Optional"):
        return _build_union([*inner, ast.Name("None")] if name == "Optional" else inner, item_type)
    if name in ("list", "List"):
        return Annotated[list[_build_type(inner[0] if inner else ast.Name(item_type))], BeforeValidator(_read_list)]
    return SCALARS["dict" if name == "Dict" else name]


def _build_union(members: Sequence[ast.expr], item_type: str) -> Any:
    """The first member that fits counts. None comes first, so that `None` for `str | None` is not text."""
    none_first = sorted(members, key=lambda member: ast.unparse(member) != "None")
    types = [_build_type(member, item_type) for member in none_first]
    return Annotated[Union[tuple(types)], Field(union_mode="left_to_right")]  # noqa: UP007


def _build_range(node: ast.Compare) -> Any:
    """A number within bounds: `int >= 1`, `0 <= float < 1`."""
    bounds = {}
    for operator, (left, right) in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
        # `0 <= float` means `float >= 0`
        number, limit, names = (left, right, BOUNDS) if isinstance(left, ast.Name) else (right, left, MIRRORED)
        bounds[names[type(operator)]] = ast.literal_eval(limit)
    if not all(isinstance(limit, int | float) for limit in bounds.values()):
        raise ValueError
    return Annotated[NUMBERS[ast.unparse(number)], Field(**bounds)]


def _choose(choices: Sequence[Any], value: Any) -> Any:
    """The choice that a value is, or whose text it is. pydantic's own Literal takes True and 1.0 for 1."""
    same = [choice for choice in choices if type(choice) is type(value) and choice == value]
    same += [choice for choice in choices if str(choice) == value]
    if not same:
        raise ValueError
    return same[0]


def _read_list(value: Any) -> Any:
    """A list as JSON, or names between commas, in brackets or not."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            if not text.endswith("]") or set(text) & set("\"'{}"):
                raise
            text = text[1:-1]
    return [item.strip() for item in text.split(",") if text]


def _when_text(read: Callable[[str], Any]) -> BeforeValidator:
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


# Text that does not read as the type is refused: here, or by pydantic, which gets it unchanged.
NUMBERS = {
    "int": Annotated[int, _when_text(lambda text: int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else text)],
    "float": Annotated[float, _when_text(float)],
}
NONE = Annotated[None, _when_text(lambda text: None if text in ("None", "null") else text)]
SCALARS = {
    "str": str,
    **NUMBERS,
    "bool": Annotated[bool, _when_text(lambda text: {"true": True, "false": False}.get(text.lower(), text))],
    "dict": Annotated[dict, _when_text(json.loads)],
    "None": NONE,
    "NoneType": NONE,
    "Any": Any,
}
BOUNDS = {ast.Gt: "gt", ast.GtE: "ge", ast.Lt: "lt", ast.LtE: "le"}
MIRRORED = {ast.Gt: "lt", ast.GtE: "le", ast.Lt: "gt", ast.LtE: "ge"}
GRAMMAR = "str, int, float, bool, list, list[str], dict, int | None, Literal['a', 'b'], int >= 1 or 0 <= float < 1"
