"""The one fingerprint of code: it changes when what a notebook computes may change, and only then.

A notebook is followed from its cells through every function, class and constant of ours that they come to use,
name by name: an edit of a function reruns the notebooks that use it, not those that use its neighbours in the same
module. A room's door (`from ecmf_utils import media`) leads to the module that defines the name.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
ENTRY_POINT = re.compile(r"(\w+(?:\.\w+)+):(\w+)")  # a function that is found by name: "ecmf_demo.corpus:generate"
FILE_NAME = re.compile(r"[\w/-]+\.\w+")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
WHOLE = ""  # in place of a name: everything in a module
Reference = tuple[str, str]  # the dotted name of a module, and a name at its top


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a module.

    Attributes
    ----------
    module : str
        The dotted name of the module.
    defines : frozenset of str
        The names that it binds; empty for a statement that only has an effect.
    digest : str
        Of its code, and of the files beside the module that it names.
    references : frozenset of Reference
        What of ours it uses, in its own module or in others, without machinery.
    """

    module: str
    defines: frozenset[str]
    digest: str
    references: frozenset[Reference]


def fingerprint(cells: Iterable[str]) -> str:
    """16 hex digits over code cells and everything of ours that they come to use.

    Comments, docstrings and formatting do not count, nor where a function is defined. A file that lies beside a
    module and that the used code names in a string does count.

    Parameters
    ----------
    cells : iterable of str
        Source of each code cell, in order.
    """
    cells = list(cells)
    logic = [_logic(_parse(source)) for source in cells]
    return _digest(logic, sorted(statement.digest for statement in find_used(cells)))


def find_used(cells: Iterable[str]) -> list[Statement]:
    """Every statement of ours that code cells use, directly or through other statements, each once."""
    trees = [tree for tree in map(_parse, cells) if not isinstance(tree, str)]
    code = ast.Module([node for tree in trees for node in tree.body], [])
    imported = _bindings(ast.walk(code), "").values()  # a cell that is no Python may use it: it counts anyway
    waiting = {reference for name in imported if not _is_module_or_package(name) for reference in _resolve(name)}
    waiting = {reference for reference in waiting if not _is_machinery(reference[0])} | set(_references(code))
    seen: set[Reference] = set()
    reached: dict[tuple[str, int], Statement] = {}
    while waiting:
        module, name = reference = waiting.pop()
        seen.add(reference)
        for number, statement in enumerate(_read(module)):
            if name == WHOLE or name in statement.defines or not statement.defines:
                reached[module, number] = statement
                waiting |= statement.references - seen
    return list(reached.values())


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
    return _digest({name: [statement.digest for statement in _read(name)] for name in sorted(modules)})


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _parse(source: str) -> ast.Module | str:
    """The tree of some code without its docstrings, or the text itself where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic: it counts as text, and what it uses is not seen
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | FUNCTIONS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _logic(tree: ast.AST | str) -> str:
    """Code without comments and formatting; the same text under every version of Python."""
    return tree if isinstance(tree, str) else ast.unparse(tree)


@functools.cache
def _tree(module: str) -> ast.Module:
    return _parse(_path(module).with_suffix(".py").read_text(encoding="utf-8"))


@functools.cache
def _read(module: str) -> tuple[Statement, ...]:
    """The statements at the top of a module, but for imports: what they bind is followed where it is used."""
    body, folder = _tree(module).body, _path(module).parent
    imports = [node for node in _statements(body) if isinstance(node, ast.Import | ast.ImportFrom)]
    own = frozenset(name for node in body for name in _bound(node))
    bindings = _bindings(imports, module)
    statements = []
    for node in body:
        if isinstance(node, ast.ImportFrom) or (isinstance(node, ast.Import) and not any(map(_is_ours, _names(node)))):
            continue
        strings = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        named = [folder / text for text in sorted(strings) if FILE_NAME.fullmatch(text)]
        files = [hashlib.sha256(file.read_bytes()).hexdigest() for file in named if file.is_file()]
        references = frozenset(_references(node, module, bindings, own))
        statements.append(Statement(module, frozenset(_bound(node)), _digest(_logic(node), files), references))
    return tuple(statements)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements with those inside them that run when the module is imported: not the bodies of functions."""
    for node in body:
        yield node
        if not isinstance(node, FUNCTIONS):
            inside = (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler))
            yield from _statements(inside)


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module binds, imports left out."""
    names = {n.name for n in _statements([node]) if isinstance(n, FUNCTIONS)}
    if isinstance(node, FUNCTIONS):
        return names
    return names | {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _bindings(nodes: Iterable[ast.AST], module: str) -> dict[str, str]:
    """Local name -> the dotted name that an import of ours has bound it to."""
    return {
        alias.asname or alias.name: f"{base}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and _is_ours(base := _absolute(node, module))
        for alias in node.names
    }


def _references(
    tree: ast.AST, module: str = "", bindings: dict[str, str] | None = None, own: frozenset[str] = frozenset()
) -> Iterator[Reference]:
    """What of ours a piece of code uses, without machinery.

    Parameters
    ----------
    module : str
        The dotted name of the module that has it; "" for cells.
    bindings : dict
        What the imports of the module have bound (see `_bindings`); imports inside the code are seen anyway.
    own : frozenset of str
        The names at the top of its module.
    """
    nodes = list(ast.walk(tree))
    bound = (bindings or {}) | _bindings(nodes, module)
    dotted = [name for node in nodes if isinstance(node, ast.Import) for name in _names(node)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    dotted += [f"{entry[1]}.{entry[2]}" for text in texts if (entry := ENTRY_POINT.fullmatch(text))]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    dotted += [f"{bound[node.value.id]}.{node.attr}" for node in attributes if node.value.id in bound]
    inner = {id(node.value) for node in attributes}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in bound:
            if id(node) not in inner or not _is_module_or_package(bound[node.id]):
                dotted.append(bound[node.id])
        elif isinstance(node, ast.Name) and node.id in own:
            yield module, node.id
    for name in dotted:
        yield from (reference for reference in _resolve(name) if not _is_machinery(reference[0]))


@functools.cache
def _resolve(name: str) -> list[Reference]:
    """What a dotted name stands for: a name in a module, a whole module, or everything behind a room's door."""
    if _is_module(name):
        return [(name, WHOLE)]
    if _is_package(name):  # the code does not say what it takes from it
        return sorted(_door(name).values()) if _has_door(name) else []
    base, _, attribute = name.rpartition(".")
    if _is_module(base):
        return [_definition(base, attribute)]
    if _is_package(base) and _has_door(base):
        door = _door(base)
        return [door[attribute]] if attribute in door else sorted(door.values())
    return _resolve(base) if base and _is_ours(base) else []  # an attribute of a function or class of ours


def _has_door(package: str) -> bool:
    """Whether a package passes names on: every room does, and of the packages on top only `ecmf_bench`."""
    return "." in package or (_path(package) / "__init__.pyi").is_file()


@functools.cache
def _definition(module: str, name: str) -> Reference:
    """Where a name of a module is defined: there, or where the module has imported it from; else the whole module."""
    for node in _statements(_tree(module).body):
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            base = _absolute(node, module)
            if _is_module(base):
                return _definition(base, original)
            if _is_module(f"{base}.{original}"):
                return f"{base}.{original}", WHOLE
            if _is_package(base):
                return _door(base).get(original, (module, WHOLE))
    return module, name if any(name in _bound(node) for node in _tree(module).body) else WHOLE


@functools.cache
def _door(package: str) -> dict[str, Reference]:
    """Name -> where it is defined, for every name that the room's `__init__` passes on."""
    stub = _path(package) / "__init__.pyi"
    source = (stub if stub.is_file() else stub.with_suffix(".py")).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    pairs = [(alias, _absolute(node, f"{package}.__init__")) for node in imports for alias in node.names]
    return {alias.asname or alias.name: _definition(base, alias.name) for alias, base in pairs if _is_module(base)}


def _names(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names]


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


@functools.cache
def _is_module(name: str) -> bool:
    return _is_ours(name) and _path(name).with_suffix(".py").is_file()


@functools.cache
def _is_package(name: str) -> bool:
    return _is_ours(name) and (_path(name) / "__init__.py").is_file()


def _is_module_or_package(name: str) -> bool:
    return _is_module(name) or _is_package(name)


def _is_machinery(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in MACHINERY)


def _modules_of(package: str) -> Iterator[str]:
    for path in sorted(_path(package).rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PARENT).with_suffix("").parts)
