"""The values of a run: profiles (YAML) and `--set NAME=VALUE`, checked against the parameters cells."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ecmf_utils.files import (
    EcmfError,
    data_dir,
    digest,
    given_path,
    own_name,
    read_json,
    show,
    slug,
    unknown,
    write_json,
)

from .parameters import Parameter, coerce, find_notebook, list_notebooks, notebooks_dir, read_parameters

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
BRANCHES = ("scene", "face", "audio", "text", "context")
DEFAULTS: dict[str, Any] = {  # of a profile that sets nothing; a value in a profile has the type of its default
    "description": "", "labels": list(LABELS), "label_map": {}, "branches": list(BRANCHES), "features": {},
    "labelled": True, "members": [], "all": {}, "notebooks": {},
}  # fmt: skip
HANDED_ON = ("labels", "label_map", "branches", "features")  # to every notebook that declares them
PATHS = ("source", "manifest")
ABOUT_CORPUS = {  # what the profile `folder` takes from `--set` and remembers
    "source": "str", "manifest": "str", "columns": "dict", "labelled": "bool",
    "labels": "list[str]", "label_map": "dict", "branches": "list[str]",
}  # fmt: skip
GENERATED = "demo"  # the kind of a corpus that is generated here; what it holds is known before it is read
START = "00_start_here"  # the notebook that reads the corpus
NAMED_BY_SOURCE = "folder"  # this profile writes to folder-<name of its source>


class Setting(NamedTuple):
    """One `--set`: for one notebook, or for every notebook that declares the name (`notebook` is None)."""

    notebook: str | None
    name: str
    value: str


def profiles_dir() -> Path:
    """Folder of the profiles; the variable `ECMF_PROFILES` moves it."""
    return Path(os.environ.get("ECMF_PROFILES", notebooks_dir() / "profiles"))


def list_profiles() -> list[str]:
    """Names of the profiles that ship."""
    return sorted(path.stem for path in profiles_dir().glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """Load a profile with everything that it extends.

    Returns
    -------
    dict
        `name`, `description`, `labels` and `branches` (ordered lists), `label_map` (label of the
        corpus -> one of `labels`, or None: its clips are dropped and counted), `features` (branch ->
        published features in the source), `labelled` (whether the corpus has labels), `members`
        (profiles that a study runs), `all` (parameters of every notebook that declares them),
        `notebooks` (name -> parameters of one notebook).

    Raises
    ------
    EcmfError
        Unknown profile, key, notebook or parameter, or a value of the wrong type.
    """
    profile = _merge_profile(name, ())
    where = f"profile {name}"
    _refuse_unknown("branch", profile["features"], profile["branches"], f"{where}: features")
    for branch in profile["features"]:
        own_name(branch, f"{where}: features: ")
    for nb, values in profile["notebooks"].items():
        _refuse_unknown("parameter", values, read_parameters(nb), f"{where}: {nb}")
    if profile["all"]:
        _refuse_unknown("parameter", profile["all"], _list_parameters(list_notebooks()), f"{where}: all")
    return {"name": name, **profile}


def _merge_profile(name: str, extended_by: tuple[str, ...]) -> dict[str, Any]:
    """Put a profile over the one that it extends; `extended_by` are the profiles that led here."""
    if name in extended_by:
        raise EcmfError(f"profile {name} extends itself: {' -> '.join((*extended_by, name))}")
    own = _read_profile(name)
    parent = own.pop("extends", "")
    base = _merge_profile(parent, (*extended_by, name)) if parent else copy.deepcopy(DEFAULTS)
    notebooks = base["notebooks"]
    for key, values in own.get("notebooks", {}).items():
        nb = find_notebook(str(key), f"profile {name}")
        notebooks[nb] = {**notebooks.get(nb, {}), **(values or {})}
    everywhere = {**base["all"], **own.get("all", {})}
    # `members` are not inherited: a profile that extends a study is not a study.
    return {**base, "members": [], **own, "all": everywhere, "notebooks": notebooks}


def _read_profile(name: str) -> dict[str, Any]:
    """Read the keys that a profile itself sets: from its YAML file, or as `prepare` wrote them for a folder."""
    path = profiles_dir() / f"{name}.yaml"
    written = data_dir(name) / "profile.json"
    if name != slug(name) or not (path.exists() or written.exists()):  # a name such as ../x is not a profile
        raise unknown("profile", name, list_profiles())
    if not path.exists():
        return _check_keys(read_json(written), show(written))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise EcmfError(f"{show(path)}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    return _check_keys({} if content is None else content, show(path))


def _check_keys(content: Any, where: str) -> dict[str, Any]:
    """Check the keys of a profile and the types of their values; keys without a value are left out."""
    if not isinstance(content, dict):
        raise EcmfError(f"{where}: expected `key: value` lines, found {type(content).__name__}")
    defaults = {"extends": "", **DEFAULTS}
    _refuse_unknown("key", content, defaults, where)
    content = {key: value for key, value in content.items() if value is not None}
    for key, value in content.items():
        expected = type(defaults[key])
        if not isinstance(value, expected):
            raise EcmfError(f"{where}: {key} is to be a {expected.__name__}, found {value!r}")
        if expected is list and not all(isinstance(item, str) for item in value):
            raise EcmfError(f"{where}: {key} is to be a list of names, found {value!r}")
        if expected is list and len(set(value)) < len(value):
            raise EcmfError(f"{where}: {key} names something twice: {value!r}")
    for nb, values in content.get("notebooks", {}).items():
        if not isinstance(values, dict | None):
            raise EcmfError(f"{where}: notebooks: {nb}: expected `name: value` lines, found {values!r}")
    return content


def _refuse_unknown(what: str, names: Iterable[Any], allowed: Collection[str], where: str) -> None:
    for name in names:
        if name not in allowed:
            raise unknown(what, str(name), allowed, where)


def _list_parameters(notebooks: Iterable[str]) -> list[str]:
    return sorted({name for nb in notebooks for name in read_parameters(nb)})


def parse_sets(sets: Sequence[str]) -> list[Setting]:
    """Take `NAME=VALUE` and `NOTEBOOK.NAME=VALUE` apart; the values stay text.

    Raises
    ------
    EcmfError
        Text of another form, an unknown notebook, or a setting of `profile`.
    """
    settings = []
    for text in sets:
        key, equals, value = text.partition("=")
        nb, dot, name = key.rpartition(".")
        if not equals or not name or (dot and not nb):
            raise EcmfError(f"--set {text}: expected NAME=VALUE or NOTEBOOK.NAME=VALUE")
        if name == "profile":
            raise EcmfError(f"--set {text}: the profile is chosen by name, not set")
        settings.append(Setting(find_notebook(nb) if dot else None, name, value))
    return settings


def select_sets(nb: str, sets: Sequence[str]) -> list[str]:
    """Select the settings that reach one notebook."""
    declared = read_parameters(nb)
    return [
        text
        for text, setting in zip(sets, parse_sets(sets), strict=True)
        if setting.notebook == nb or (setting.notebook is None and setting.name in declared)
    ]


def check_sets(sets: Sequence[str], notebooks: Sequence[str]) -> None:
    """Refuse a setting that reaches none of the notebooks."""
    for text, (nb, name, _) in zip(sets, parse_sets(sets), strict=True):
        if nb and nb not in notebooks:
            raise EcmfError(f"--set {text}: {nb} is not run by this profile")
        declared = read_parameters(nb) if nb else _list_parameters(notebooks)
        _refuse_unknown("parameter", [name], declared, nb or f"--set {text}")


def resolve(notebook: str, profile: str, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Find the value of every parameter of a notebook: its default, the profile's value, or that of `--set`.

    Returns
    -------
    dict
        name -> value of the declared type, in the order of the parameters cell.

    Raises
    ------
    EcmfError
        A name that the notebook does not declare, or a value that does not fit its type.
    """
    nb = find_notebook(notebook)
    declared = read_parameters(nb)
    content = load_profile(profile)
    for_all = {"profile": profile, **{key: content[key] for key in HANDED_ON}, **content["all"]}
    values = {name: value for name, value in for_all.items() if name in declared}
    values |= content["notebooks"].get(nb, {})
    for setting in parse_sets(sets):
        if setting.notebook in (None, nb):
            _refuse_unknown("parameter", [setting.name], declared, nb)
            values[setting.name] = setting.value
    return {name: coerce(values.get(name, p.default), p, nb) for name, p in declared.items()}


def prepare(profile: str, sets: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Return the name under which a profile writes, and the settings that remain.

    `folder` with `source=DIR` becomes `folder-<name of DIR>`. Its data folder keeps the settings about the
    corpus (`ABOUT_CORPUS`), so that the short name alone works from then on. Every other profile keeps its
    name; where its corpus lay the last time is added to the settings, unless they say it.

    Raises
    ------
    EcmfError
        A setting of another form; for `folder` also a source that is missing, or that has the name of another one.
    """
    sets = [_make_absolute(text) for text in sets]
    settings = parse_sets(sets)
    if profile == NAMED_BY_SOURCE:
        about_corpus = {s.name: s.value for s in settings if s.notebook is None and s.name in ABOUT_CORPUS}
        return _write_folder_profile(about_corpus), [
            text for text in sets if text.partition("=")[0] not in ABOUT_CORPUS
        ]
    remembered = data_dir(profile) / "source.json"
    if any(s.notebook in (None, START) and s.name in PATHS for s in settings) or not remembered.exists():
        return profile, sets
    return profile, [*(f"{START}.{key}={value}" for key, value in read_json(remembered).items()), *sets]


def _write_folder_profile(about_corpus: Mapping[str, str]) -> str:
    """Write the profile of a folder of clips into its data folder; return its name."""
    if not about_corpus.get("source"):
        raise EcmfError("profile folder: say which clips: --set source=DIR")
    source = Path(about_corpus["source"])
    if not source.is_dir():
        raise EcmfError(f"--set source={source}: no such folder")
    folder = source.resolve().name
    # Not every file system keeps letters outside ASCII: a digest takes their place.
    short = slug(folder) if folder.isascii() else f"{slug(folder)}-{digest(folder)[:6]}".removeprefix("unnamed-")
    name = f"{NAMED_BY_SOURCE}-{short}"
    content: dict[str, Any] = {"extends": NAMED_BY_SOURCE, "all": {}}
    for key, text in about_corpus.items():
        value = coerce(text, Parameter(key, ABOUT_CORPUS[key], None), "--set")
        (content if key in DEFAULTS else content["all"])[key] = value
    written = data_dir(name) / "profile.json"
    before = read_json(written) if written.exists() else {}
    other = Path(before.get("all", {}).get("source", source))
    if other.is_dir() and not other.samefile(source):
        raise EcmfError(f"{name} has the outputs of {other}: rename one of the two folders, or move data/{name} away")
    if before != content:
        write_json(written, content)
    return name


def remember(profile: str, settings: Mapping[str, Any]) -> None:
    """Write down where a corpus lies that was read, where its profile says something else."""
    usual = resolve(START, profile)
    paths = {key: settings[key] for key in PATHS if settings[key] != usual[key]}
    remembered = data_dir(profile) / "source.json"
    if paths and (not remembered.exists() or read_json(remembered) != paths):
        write_json(remembered, paths)


def _make_absolute(text: str) -> str:
    """Make the path in `source=DIR` absolute: it counts from the caller's folder, and notebooks run in another."""
    key, _, value = text.partition("=")
    if key.rpartition(".")[2] not in PATHS or not value:
        return text
    path = given_path(value)
    return f"{key}={os.path.abspath(path)}" if path.exists() else text
