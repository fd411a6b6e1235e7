"""Notebook files, read without running them: which notebooks there are, and the typed parameters of each."""

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
    kind: str  # the type as the annotation spells it; without an annotation that of the default
    default: Any
    remark: str = ""


def notebooks_dir() -> Path:
    """Folder of the numbered notebooks; the variable `ECMF_NOTEBOOKS` moves it."""
    return Path(os.environ.get("ECMF_NOTEBOOKS", SHIPPED / "notebooks"))


def list_notebooks() -> list[str]:
    """Names of all numbered notebooks, in order."""
    return sorted(path.stem for path in notebooks_dir().glob("[0-9][0-9]_*.ipynb"))


def find_notebook(name: str | Path, where: str = "") -> str:
    """Find the full name of a notebook.

    Parameters
    ----------
    name : str or path
        `22`, `22_extract_scene`, or the path of the notebook.
    where : str
        Begins the line of an error: a profile, for example.

    Raises
    ------
    EcmfError
        There is no such notebook, or several have this number.
    """
    wanted = Path(name).stem if str(name).endswith(".ipynb") else str(name)
    notebooks = list_notebooks()
    matches = [nb for nb in notebooks if nb == wanted] or [nb for nb in notebooks if nb.split("_")[0] == wanted]
    if len(matches) != 1:
        raise unknown("notebook", wanted, notebooks, where)
    return matches[0]


def notebook_path(name: str | Path) -> Path:
    """Path of the notebook that `name` means."""
    return notebooks_dir() / f"{find_notebook(name)}.ipynb"


def read_code_cells(name: str | Path) -> list[dict[str, Any]]:
    """Read the code cells of a notebook: dicts with `source` (str) and `tags` (list).

    Raises
    ------
    EcmfError
        The file is not a notebook.
    """
    path = notebook_path(name)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            {"source": "".join(cell["source"]), "tags": cell.get("metadata", {}).get("tags", [])}
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise EcmfError(f"{show(path)}: not a notebook that can be read ({error})") from error


def read_parameters(name: str | Path) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares, in order, without running anything.

    Raises
    ------
    EcmfError
        No cell has the tag `parameters`, or a line of it is not `name: type = literal`.
    """
    path = show(notebook_path(name))
    sources = [cell["source"] for cell in read_code_cells(name) if "parameters" in cell["tags"]]
    if not sources:
        raise EcmfError(f"{path}: no code cell has the tag 'parameters'")
    try:
        statements = ast.parse(sources[0]).body
    except SyntaxError as error:
        raise EcmfError(f"{path}: parameters cell, line {error.lineno}: {error.msg}") from error
    tokens = tokenize.generate_tokens(io.StringIO(sources[0]).readline)
    remarks = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    parameters = [_read_statement(statement, remarks, path) for statement in statements]
    return {parameter.name: parameter for parameter in parameters}


def _read_statement(statement: ast.stmt, remarks: Mapping[int, str], path: str) -> Parameter:
    """Read one statement of a parameters cell; `remarks` are the comments by line number."""
    try:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Constant(value=str(kind)), value=literal):
                default = ast.literal_eval(literal)  # Literal and ranges stand in quotes: the cell imports nothing
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=literal):
                default, kind = ast.literal_eval(literal), ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=literal):
                default = ast.literal_eval(literal)
                kind = type(default).__name__
            case _:
                raise ValueError
    except (ValueError, TypeError):
        raise EcmfError(
            f"{path}: parameters cell, line {statement.lineno}: expected `name: type = literal`, "
            f"found `{ast.unparse(statement)}`"
        ) from None
    parameter = Parameter(name, kind, default, remarks.get(statement.end_lineno, ""))
    coerce(default, parameter, path)
    return parameter


def coerce(value: Any, parameter: Parameter, where: str = "") -> Any:
    """Check a value from Python, YAML or the command line, and bring it to the declared type.

    Parameters
    ----------
    value : object
        Text is read as the declared type, since the command line gives only text.
    parameter : Parameter
        Its `kind` is the declared type. A bare `list` takes the type of its items from the default.
    where : str
        Begins the line of an error: a notebook, for example.

    Raises
    ------
    EcmfError
        The value does not fit, or a parameter cannot have this type. The line names the parameter and its type.
    """
    head = f"{where}: parameter {parameter.name}" if where else f"parameter {parameter.name}"
    default = parameter.default if isinstance(parameter.default, list | tuple) else []
    item_types = {type(item).__name__ for item in default}
    try:
        adapter = _make_adapter(parameter.kind, item_types.pop() if len(item_types) == 1 else "Any")
    except (SyntaxError, ValueError, LookupError):
        raise EcmfError(f"{head} cannot have the type {parameter.kind}: expected {EXAMPLES}") from None
    try:
        return adapter.validate_python(value)
    except (ValueError, RecursionError):
        how = ' (as JSON: {"name": value})' if parameter.kind.startswith("dict") else ""
        raise EcmfError(f"{head} is {parameter.kind}{how}, which {value!r} is not") from None


@functools.cache
def _make_adapter(kind: str, item_type: str) -> TypeAdapter[Any]:
    tree = ast.parse(kind, mode="eval").body
    return TypeAdapter(_build_type(tree, item_type), config=ConfigDict(strict=True, allow_inf_nan=False))


def _build_type(node: ast.expr, item_type: str = "Any") -> Any:
    """Build the Python type that an annotation spells. Nothing is evaluated: only names in TYPES are allowed.

    `item_type` names the type of the items of a bare `list`.
    """
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _build_union([left, right], item_type)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=member):
            return _build_union([member, ast.Constant(None)], item_type)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            choices = ast.literal_eval(inside)
            choices = choices if isinstance(choices, tuple) else (choices,)
            return Annotated[Any, BeforeValidator(functools.partial(_choose, choices))]
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return Annotated[list[_build_type(item)], BeforeValidator(_read_list)]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            return Annotated[dict[_build_type(key), _build_type(item)], _when_text(json.loads)]
        case ast.Compare():
            return _build_range(node)
        case ast.Name(id="list") if item_type in TYPES:
            return Annotated[list[TYPES[item_type]], BeforeValidator(_read_list)]
    return TYPES[ast.unparse(node)]


def _build_union(members: list[ast.expr], item_type: str) -> Any:
    """Build a type of which the first member that fits counts. None comes first: else it is text for `str | None`."""
    members = sorted(members, key=lambda member: ast.unparse(member) != "None")
    types = tuple(_build_type(member, item_type) for member in members)
    return Annotated[Union[types], Field(union_mode="left_to_right")]  # noqa: UP007, since `types` is a tuple


def _build_range(node: ast.Compare) -> Any:
    """Build a number within bounds, such as `int >= 1` or `0 <= float < 1`."""
    bounds = {}
    for operator, (left, right) in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
        # `0 <= float` means `float >= 0`
        number, limit, names = (left, right, BOUNDS) if isinstance(left, ast.Name) else (right, left, MIRRORED)
        bounds[names[type(operator)]] = ast.literal_eval(limit)
    if not all(isinstance(limit, int | float) for limit in bounds.values()):
        raise ValueError
    return Annotated[NUMBERS[ast.unparse(number)], Field(**bounds)]


def _choose(choices: Sequence[Any], value: Any) -> Any:
    """Return the choice that equals the value or its text. pydantic's Literal is not used: it takes True for 1."""
    equal = [choice for choice in choices if type(choice) is type(value) and choice == value]
    equal += [choice for choice in choices if str(choice) == value]
    if not equal:
        raise ValueError
    return equal[0]


def _read_list(value: Any) -> Any:
    """Read text as a list: JSON, or names between commas with or without brackets."""
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


# A reader returns text that it cannot read unchanged, and pydantic refuses it.
NUMBERS = {
    "int": Annotated[int, _when_text(lambda text: int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else text)],
    "float": Annotated[float, _when_text(float)],
}
TYPES = {
    **NUMBERS,
    "str": str,
    "bool": Annotated[bool, _when_text(lambda text: {"true": True, "false": False}.get(text.lower(), text))],
    "list": Annotated[list, BeforeValidator(_read_list)],
    "dict": Annotated[dict, _when_text(json.loads)],
    "None": Annotated[None, _when_text(lambda text: None if text in ("None", "null") else text)],
    "Any": Any,
}
BOUNDS = {ast.Gt: "gt", ast.GtE: "ge", ast.Lt: "lt", ast.LtE: "le"}
MIRRORED = {ast.Gt: "lt", ast.GtE: "le", ast.Lt: "gt", ast.LtE: "ge"}
EXAMPLES = "str, int, float, bool, list, list[str], dict, int | None, Literal['a', 'b'], int >= 1 or 0 <= float < 1"
