"""The one fingerprint of code: it changes when what a notebook computes may change, and only then.

A notebook is followed from its cells through the modules of ours that they come to import. A room's door
(`from ecmf_utils import media`) does not count as a whole: each name taken from it leads to the module that
defines the name, so that an edit in one module of a room does not rerun the users of another.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PARENT = Path(__file__).resolve().parent.parent  # the folder that holds the packages
PACKAGES = ("ecmf_utils", "ecmf_demo", "ecmf_bench", "ecmf_workflow")
# Modules and packages that decide how a notebook runs but not what comes out of it: editing them reruns nothing.
MACHINERY = (
    "ecmf_utils.code",
    "ecmf_utils.files",
    "ecmf_utils.notebook",
    "ecmf_utils.parallel",
    "ecmf_utils.progress",
    "ecmf_workflow",
)
ENTRY_POINT = re.compile(r"(\w+(?:\.\w+)+):\w+")  # a function found by name: "ecmf_demo.corpus:read"


def fingerprint(cells: Iterable[str]) -> str:
    """16 hex digits over code cells and every module of ours that they come to import.

    Comments, docstrings and formatting do not count. A file that lies beside a module and that the module
    names in a string does.

    Parameters
    ----------
    cells : iterable of str
        Source of each code cell, in order.
    """
    trees = [_parse(source) for source in cells]
    reached: set[str] = set()
    waiting = set(_references(trees, ""))
    while waiting:
        reached |= waiting
        waiting = {name for module in waiting for name in _read(module)[1]} - reached
    return _digest([_logic(tree) for tree in trees], {name: _read(name)[0] for name in sorted(reached)})


def digest_modules(*names: str) -> str:
    """16 hex digits over modules of ours and over all modules of packages of ours, given by dotted name.

    Raises
    ------
    ValueError
        A name is neither a module nor a package.
    """
    modules: set[str] = set()
    for name in names:
        inside = {name} if _is_module(name) else set(_modules_of(name)) if _is_package(name) else set()
        if not inside:
            raise ValueError(f"{name} is no module or package of {', '.join(PACKAGES)}")
        modules |= inside
    return _digest({name: _read(name)[0] for name in sorted(modules)})


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _parse(source: str) -> ast.Module | str:
    try:
        return ast.parse(source)
    except SyntaxError:  # a cell with a magic: it counts as text, and its imports are not seen
        return source


def _logic(tree: ast.Module | str) -> str:
    """Code without comments, docstrings and formatting; the same text under every version of Python."""
    if isinstance(tree, str):
        return tree
    tree = ast.parse(ast.unparse(tree))  # a copy: the caller's tree keeps its docstrings
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@functools.cache
def _read(name: str) -> tuple[str, frozenset[str]]:
    """The digest of a module with the files it names, and the modules of ours that it refers to."""
    path = _path(name).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = [text for text in sorted(strings) if re.fullmatch(r"[\w/-]+\.\w+", text) and not text.endswith(".py")]
    beside = [file for file in map(path.parent.joinpath, names) if file.is_file()]
    files = [hashlib.sha256(file.read_bytes()).hexdigest() for file in beside]
    return _digest(_logic(tree), files), frozenset(_references([tree], name))


def _references(trees: Iterable[ast.Module | str], module: str) -> Iterator[str]:
    """The modules of ours that code refers to, without machinery; `module` is its own dotted name, if it has one."""
    nodes = [node for tree in trees if not isinstance(tree, str) for node in ast.walk(tree)]
    rooms: dict[str, str] = {}  # the name that a room is bound to -> its dotted name
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            for alias in node.names:
                if _is_package(f"{base}.{alias.name}"):
                    rooms[alias.asname or alias.name] = f"{base}.{alias.name}"
                else:
                    names.append(f"{base}.{alias.name}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if entry := ENTRY_POINT.fullmatch(node.value):
                names.append(entry[1])
    taken = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    names += [f"{rooms[node.value.id]}.{node.attr}" for node in taken if node.value.id in rooms]
    bases = {id(node.value) for node in taken}
    handed_on = [node for node in nodes if isinstance(node, ast.Name) and id(node) not in bases]
    names += [rooms[node.id] for node in handed_on if node.id in rooms]
    for name in names:
        yield from (found for found in _definers(name) if not _is_machinery(found))


def _definers(name: str) -> list[str]:
    """The modules of ours that a dotted name stands for: itself, the one that defines it, or a whole room."""
    if _is_module(name):
        return [name]
    if _is_package(name):  # not told what is taken from it
        return sorted(set(_door(name).values())) if _has_door(name) else []
    base, _, attribute = name.rpartition(".")
    if _is_module(base):
        return [base]
    if _is_package(base) and _has_door(base):
        door = _door(base)
        return [door[attribute]] if attribute in door else sorted(set(door.values()))
    return []


def _has_door(package: str) -> bool:
    """Whether a package passes names on: every room does, and of the packages on top only `ecmf_bench`."""
    return "." in package or (_path(package) / "__init__.pyi").is_file()


@functools.cache
def _door(package: str) -> dict[str, str]:
    """Name -> the module that defines it, for every name that the room's `__init__` passes on."""
    stub = _path(package) / "__init__.pyi"
    source = (stub if stub.is_file() else stub.with_suffix(".py")).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    pairs = [(alias, _absolute(node, f"{package}.__init__")) for node in imports for alias in node.names]
    return {alias.asname or alias.name: base for alias, base in pairs if _is_module(base)}


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The dotted name that an import starts from; relative ones count from the module that has them."""
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level] if module else ["ecmf_utils"]
    return ".".join([*package, *filter(None, [node.module])])


def _path(name: str) -> Path:
    return PARENT.joinpath(*name.split("."))


def _is_ours(name: str) -> bool:
    return name.split(".")[0] in PACKAGES


def _is_module(name: str) -> bool:
    return _is_ours(name) and _path(name).with_suffix(".py").is_file()


def _is_package(name: str) -> bool:
    return _is_ours(name) and (_path(name) / "__init__.py").is_file()


def _is_machinery(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in MACHINERY)


def _modules_of(package: str) -> Iterator[str]:
    for path in sorted(_path(package).rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PARENT).with_suffix("").parts)
