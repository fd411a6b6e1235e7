"""What a run is told: profiles (YAML) and `--set k=v`, resolved against the parameters cells."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
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

from .parameters import Parameter, coerce, declared, notebook_name, notebook_names, notebooks_dir

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
BRANCHES = ("scene", "face", "audio", "text", "context")
KEYS = {
    "description": str, "extends": str, "labels": list, "label_map": dict, "branches": list,
    "features": dict, "labelled": bool, "members": list, "all": dict, "notebooks": dict,
}  # fmt: skip
OWN = ("description", "labels", "label_map", "branches", "features", "labelled")
HANDED_ON = ("labels", "label_map", "branches", "features")  # to every notebook that declares them
PATHS = ("source", "manifest")
ABOUT_CORPUS = {
    "source": "str", "manifest": "str", "columns": "dict", "labelled": "bool",
    "labels": "list[str]", "label_map": "dict", "branches": "list[str]",
}  # fmt: skip
PARAMETERS = (*PATHS, "columns")  # those of ABOUT_CORPUS that are no keys of a profile
GENERATED = "demo"  # the kind of a corpus that is made here, so that what it holds is known before
START = "00_start_here"  # the notebook that reads the corpus
NAMED_BY_SOURCE = "folder"  # outputs are named by the source: folder-<its name>


class Setting(NamedTuple):
    """One `--set`: for one notebook, or for every one that declares the name."""

    notebook: str | None
    name: str
    value: str


def profiles_dir() -> Path:
    """Folder of the profiles (`ECMF_PROFILES` moves it)."""
    return Path(os.environ.get("ECMF_PROFILES", notebooks_dir() / "profiles"))


def profile_names() -> list[str]:
    """Names of the profiles that ship."""
    return sorted(path.stem for path in profiles_dir().glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """A profile with everything it extends.

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
        Unknown profile, key, notebook or parameter, or a value of the wrong kind.
    """
    profile = _merged(name, ())
    where = f"profile {name}"
    profile["notebooks"] = {_notebook(nb, where): settings for nb, settings in profile["notebooks"].items()}
    _check_names(profile, where)
    return {"name": name, **profile}


def _merged(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise EcmfError(f"profile {name} extends itself: {' -> '.join((*seen, name))}")
    own = _read(name)
    base: dict[str, Any] = {
        "description": "",
        "labels": list(LABELS),
        "label_map": {},
        "branches": list(BRANCHES),
        "features": {},
        "labelled": True,
        "all": {},
        "notebooks": {},
    }
    if parent := own.get("extends"):
        base = _merged(parent, (*seen, name))
    notebooks = {nb: dict(settings) for nb, settings in base["notebooks"].items()}
    for nb, settings in (own.get("notebooks") or {}).items():
        nb = _notebook(nb, f"profile {name}")
        notebooks[nb] = {**notebooks.get(nb, {}), **(settings or {})}
    return {
        **base,
        **{key: own[key] for key in OWN if own.get(key) is not None},
        "members": own.get("members") or [],  # never inherited: a study's part is not a study
        "all": {**base["all"], **(own.get("all") or {})},
        "notebooks": notebooks,
    }


def _read(name: str) -> dict[str, Any]:
    path = profiles_dir() / f"{name}.yaml"
    written = data_dir(name) / "profile.json"
    if name == slug(name) and not path.exists() and written.exists():
        return _checked(read_json(written), show(written))
    if name != slug(name) or not path.exists():
        raise unknown("profile", name, profile_names())
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise EcmfError(f"{show(path)}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    return _checked({} if content is None else content, show(path))


def _checked(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise EcmfError(f"{where}: expected `key: value` lines, found {type(content).__name__}")
    for key, value in content.items():
        if key not in KEYS:
            raise unknown("key", str(key), KEYS, where)
        if value is not None and not isinstance(value, KEYS[key]):
            raise EcmfError(f"{where}: {key} is to be a {KEYS[key].__name__}, found {value!r}")
        if KEYS[key] is list and not all(isinstance(item, str) for item in value or []):
            raise EcmfError(f"{where}: {key} is to be a list of names, found {value!r}")
        if KEYS[key] is list and len(set(value or [])) != len(value or []):
            raise EcmfError(f"{where}: {key} names something twice: {value!r}")
    for nb, settings in (content.get("notebooks") or {}).items():
        if not isinstance(settings, dict | None):
            raise EcmfError(f"{where}: notebooks: {nb}: expected `name: value` lines, found {settings!r}")
    return content


def _notebook(name: Any, where: str) -> str:
    try:
        return notebook_name(str(name))
    except EcmfError as error:
        raise EcmfError(f"{where}: {error}") from None


def _check_names(profile: dict[str, Any], where: str) -> None:
    for branch in profile["features"]:
        if branch not in profile["branches"]:
            raise unknown("branch", str(branch), profile["branches"], f"{where}: features")
        own_name(str(branch), f"{where}: features: ")
    for nb, settings in profile["notebooks"].items():
        known = declared(nb)
        for name in settings:
            if name not in known:
                raise unknown("parameter", str(name), known, f"{where}: {nb}")
    everywhere = _declared_anywhere(notebook_names()) if profile["all"] else []
    for name in profile["all"]:
        if name not in everywhere:
            raise unknown("parameter", str(name), everywhere, f"{where}: all")


def _declared_anywhere(notebooks: Iterable[str]) -> list[str]:
    return sorted({name for nb in notebooks for name in declared(nb)})


def parse_sets(sets: Sequence[str]) -> list[Setting]:
    """`k=v` and `NOTEBOOK.k=v` taken apart; the value stays text."""
    settings = []
    for text in sets:
        key, equals, value = text.partition("=")
        nb, dot, name = key.rpartition(".")
        if not equals or not name or (dot and not nb):
            raise EcmfError(f"--set {text}: expected NAME=VALUE or NOTEBOOK.NAME=VALUE")
        if name == "profile":
            raise EcmfError(f"--set {text}: the profile is chosen by name, not set")
        settings.append(Setting(notebook_name(nb) if dot else None, name, value))
    return settings


def sets_for(nb: str, sets: Sequence[str]) -> list[str]:
    """The settings among `sets` that reach one notebook."""
    known = declared(nb)
    return [
        text
        for text, s in zip(sets, parse_sets(sets), strict=True)
        if s.notebook == nb or (s.notebook is None and s.name in known)
    ]


def check_sets(sets: Sequence[str], notebooks: Sequence[str]) -> None:
    """Refuse a setting that would reach none of the notebooks."""
    for text, s in zip(sets, parse_sets(sets), strict=True):
        if s.notebook and s.notebook not in notebooks:
            raise EcmfError(f"--set {text}: {s.notebook} is not run by this profile")
        known = list(declared(s.notebook)) if s.notebook else _declared_anywhere(notebooks)
        if s.name not in known:
            raise unknown("parameter", s.name, known, s.notebook or f"--set {text}")


def resolve(notebook: str, profile: str, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Every parameter of a notebook: its defaults, then the profile's, then `--set`.

    Returns
    -------
    dict
        name -> value of the declared type, in the order of the parameters cell.

    Raises
    ------
    EcmfError
        A name that the notebook does not declare, or a value that does not fit its type.
    """
    nb = notebook_name(notebook)
    known = declared(nb)
    chosen = load_profile(profile)
    values: dict[str, Any] = {"profile": profile}
    values.update({key: chosen[key] for key in HANDED_ON})
    values.update(chosen["all"])
    values = {name: value for name, value in values.items() if name in known}
    values.update(chosen["notebooks"].get(nb, {}))
    for s in parse_sets(sets):
        if s.notebook not in (None, nb):
            continue
        if s.name not in known:
            raise unknown("parameter", s.name, known, nb)
        values[s.name] = s.value
    return {name: coerce(values.get(name, p.default), p, nb) for name, p in known.items()}


def prepare(profile: str, sets: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The name under which a profile writes, and the settings that remain.

    `folder` with `source=DIR` becomes `folder-<name of DIR>`; what was said about the corpus
    (`source`, `manifest`, `columns`, `labelled`, `labels`, `label_map`, `branches`) is remembered in
    its data folder, so that the short name alone works from then on. Every other profile is itself
    and remembers where its corpus lies.
    """
    sets = [_absolute(text) for text in sets]
    if profile != NAMED_BY_SOURCE:
        return profile, [*_remembered(profile, sets), *sets]
    said = {s.name: s.value for s in parse_sets(sets) if s.notebook is None}
    if not said.get("source"):
        raise EcmfError("profile folder: say which clips: --set source=DIR")
    source = Path(said["source"])
    if not source.is_dir():
        raise EcmfError(f"--set source={said['source']}: no such folder")
    name = f"{NAMED_BY_SOURCE}-{_short_name(source.resolve().name)}"
    content: dict[str, Any] = {"extends": NAMED_BY_SOURCE, "all": {}}
    for key in said.keys() & ABOUT_CORPUS.keys():
        value = coerce(said[key], Parameter(key, ABOUT_CORPUS[key], None), "--set")
        (content["all"] if key in PARAMETERS else content)[key] = value
    written = data_dir(name) / "profile.json"
    before = read_json(written) if written.exists() else {}
    other = Path(before.get("all", {}).get("source", source))
    if other.is_dir() and not other.samefile(source):
        raise EcmfError(f"{name} has the outputs of {other}: rename one of the two folders, or move data/{name} away")
    if before != content:
        write_json(written, content)
    return name, [text for text in sets if text.partition("=")[0] not in ABOUT_CORPUS]


def _short_name(folder: str) -> str:
    """A folder's name as part of a profile's; what no file system safely takes becomes a digest."""
    safe = slug(folder)
    return safe if folder.isascii() else f"{safe}-{digest(folder)[:6]}".removeprefix("unnamed-")


def _remembered(profile: str, sets: Sequence[str]) -> list[str]:
    """Where the corpus of a profile lay the last time, unless it is said anew."""
    written = data_dir(profile) / "source.json"
    known = read_json(written) if written.exists() else {}
    said = {s.name for s in parse_sets(sets) if s.notebook in (None, START) and s.name in PATHS}
    return [] if said else [f"{START}.{key}={value}" for key, value in known.items()]


def remember(profile: str, settings: Mapping[str, Any]) -> None:
    """Note where a corpus lies that could be read, if that is not what its profile says."""
    usual = resolve(START, profile)
    said = {key: settings[key] for key in PATHS if settings[key] != usual[key]}
    written = data_dir(profile) / "source.json"
    if said and (not written.exists() or read_json(written) != said):
        write_json(written, said)


def _absolute(text: str) -> str:
    """`source=DIR` as the caller's folder means it, since notebooks run somewhere else."""
    key, _, value = text.partition("=")
    if key.rpartition(".")[2] not in PATHS or not value:
        return text
    path = given_path(value)
    return f"{key}={os.path.abspath(path)}" if path.exists() else text
