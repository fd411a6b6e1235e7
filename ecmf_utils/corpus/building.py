"""The corpus of a profile: from where it lies to a checked manifest with folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecmf_utils.corpus.readers.own import MANIFEST_COLUMNS, read_manifest
from ecmf_utils.files import ROOT, EcmfError, data_dir, given_path, import_function, unknown, write_json, write_parquet
from ecmf_utils.notebook import profiles

from . import leakage, manifest, probing
from .findings import Findings
from .label_map import apply, check

TABLES = ("folder", "features")  # kinds that read a CSV manifest of the user's
# Where each kind of corpus is read or made, by dotted name: what is not used is not imported, and another
# package's reader (`kind: "my_lab.corpus:read"`) is called in the same way.
GENERATOR = "ecmf_demo.corpus:generate"
READERS = {
    "folder": "ecmf_utils.corpus.readers.published_corpora:folder",
    "mer2023": "ecmf_utils.corpus.readers.mer:mer2023",
    "mer2024": "ecmf_utils.corpus.readers.mer:mer2024",
    "mer2025": "ecmf_utils.corpus.readers.mer:mer2025",
    "mer2026": "ecmf_utils.corpus.readers.mer:mer2026",
    "ravdess": "ecmf_utils.corpus.readers.published_corpora:ravdess",
    "cremad": "ecmf_utils.corpus.readers.published_corpora:cremad",
    "meld": "ecmf_utils.corpus.readers.published_corpora:meld",
}
EXAMPLES = {"columns": '{"label": "emotion"}', "features": '{"audio": "audio.parquet"}'}
MANY = 2**32


@dataclass(frozen=True)
class Corpus:
    """What `build` made and wrote.

    Attributes
    ----------
    clips, folds : DataFrame
        As in `clips.parquet` and `folds.parquet`; no folds where nothing can be learned.
    truth : DataFrame or None
        Known for a generated corpus only.
    label_map, shared : DataFrame
        What became of each label, and what is shared across splits or folds.
    findings : Findings
        What is wrong in the files.
    facts : dict
        `corpus.json`: kind, untrained (why nothing can be learned, "" otherwise), merged_groups,
        dropped, probed.
    """

    clips: pd.DataFrame
    folds: pd.DataFrame
    truth: pd.DataFrame | None
    label_map: pd.DataFrame
    shared: pd.DataFrame
    findings: Findings
    facts: dict[str, Any]


def build(profile: str, settings: Mapping[str, Any], import_features: Callable[..., pd.DataFrame]) -> Corpus:
    """Read or generate a corpus, check it, and write its manifest and folds.

    Parameters
    ----------
    profile : str
        Under which name to write.
    settings : mapping
        The parameters of `00_start_here`.
    import_features : callable
        `features.import_features`, for the branches that `settings["features"]` names.

    Returns
    -------
    Corpus
        What was made and written.

    Raises
    ------
    EcmfError
        The source as a whole cannot be used. What is wrong with single rows and files is in `findings`.
    """
    _check(profile, settings)
    found = Findings()
    rows, truth = _rows(profile, settings, found)
    rows, fates = apply(rows, settings["labels"], settings["label_map"], found, f"profile {profile}")
    if not len(rows):
        raise EcmfError(f"profile {profile}: no clip is left, the label_map drops every label that was found")
    clips = _probed(profile, rows, settings)
    prints = probing.read_fingerprints(profile)
    merged = 0
    if settings["merge_leaks"]:
        clips, merged = leakage.merge_groups(clips, settings["merge_leaks"], prints)
    for branch, name in settings["features"].items():  # before anything is replaced
        imported = import_features(profile, branch, _source(profile, settings) / name, clips=clips)
        found.extend(imported.attrs["findings"])
    clips = manifest.save_clips(profile, clips, settings["labels"], truth)
    folds, untrained = _folds(clips, settings)
    shared = leakage.find_leaks(clips, folds, prints)
    dropped = int(fates.loc[fates["how"] == "dropped", "clips"].sum())
    facts = {"kind": settings["kind"], "untrained": untrained, "merged_groups": merged}
    facts |= {"dropped": dropped, "probed": int(clips["content_hash"].notna().sum())}
    made = Corpus(clips, folds, truth, fates, shared, found, facts)
    _write(profile, made, settings)
    return made


def _check(profile: str, s: Mapping[str, Any]) -> None:
    """Refuse what cannot work before anything long begins."""
    at_least = {"n_folds": 2, "n_probe": 0, "n_workers": 0, "seed": 0}
    for name, least in at_least.items():
        if not least <= s[name] < MANY:
            wanted = f"of at least {least}" if s[name] < least else f"below {MANY}"
            raise EcmfError(f"{name}={s[name]}: expected a whole number {wanted}")
    labels = s["labels"]
    if not labels or len(set(labels)) < len(labels) or not all(isinstance(x, str) and x for x in labels):
        raise EcmfError(f"labels={labels}: expected at least one label, none empty, none twice")
    check(labels, s["label_map"], f"profile {profile}")
    for kind in s["merge_leaks"]:
        if kind not in leakage.MERGEABLE:
            raise unknown("kind of leak", kind, leakage.MERGEABLE, "merge_leaks")
    for key in s["columns"]:
        if key not in MANIFEST_COLUMNS:
            raise unknown("name in columns", key, MANIFEST_COLUMNS)
    for name in ("columns", "features"):
        for key, value in s[name].items():
            if not isinstance(value, str) or not value:
                raise EcmfError(f"{name}: {key}: expected a name, found {value!r}; such as {EXAMPLES[name]}")


def _write(profile: str, made: Corpus, settings: Mapping[str, Any]) -> None:
    folder = data_dir(profile)
    fold_facts = {"n_folds": settings["n_folds"], "seed": settings["seed"]}
    write_parquet(made.folds, folder / "folds.parquet", fold_facts)
    write_parquet(made.label_map, folder / "label_map.parquet")
    write_parquet(made.shared, folder / "leakage.parquet")
    write_parquet(made.findings.frame(), folder / "findings.parquet")
    write_json(folder / "corpus.json", made.facts)
    if settings["kind"] != profiles.GENERATED and profile in profiles.profile_names():
        profiles.remember(profile, settings)


def _rows(profile: str, s: Mapping[str, Any], found: Findings) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    if s["kind"] == profiles.GENERATED:
        sizes = {name: s[name] for name in ("n_train", "n_test", "n_unlabelled")}
        return import_function(GENERATOR)(data_dir(profile), seed=s["seed"], n_workers=s["n_workers"], **sizes)
    source = _source(profile, s)
    if s["kind"] in TABLES and s["manifest"]:
        how = {name: s[name] for name in ("columns", "encoding", "follow_links")}
        how |= {"found": found, "media": s["kind"] != "features"}
        return read_manifest(_manifest(source, s["manifest"]), source, **how), None
    if s["kind"] == "features":
        raise EcmfError(f"profile {profile}: kind features needs a CSV with clip_id and label: --set manifest=FILE")
    if s["kind"] not in READERS and ":" not in s["kind"]:
        raise unknown("kind", s["kind"], [profiles.GENERATED, "features", *READERS], f"profile {profile}")
    read = import_function(READERS.get(s["kind"], s["kind"]), f"profile {profile}: kind ")
    return read(source, found, encoding=s["encoding"], follow_links=s["follow_links"]), None


def _source(profile: str, s: Mapping[str, Any]) -> Path:
    """The folder that the corpus lies in."""
    if not s["source"]:
        if s["manifest"] and s["kind"] == "folder":
            return _manifest(Path.cwd(), s["manifest"]).parent
        raise EcmfError(f"profile {profile}: say where the corpus lies: --set source=DIR")
    source = given_path(s["source"])
    source = source if source.is_absolute() else ROOT / source
    if not source.is_dir():
        raise EcmfError(f"{s['source']}: no such folder; say where the corpus lies: --set source=DIR")
    return source.resolve()


def _manifest(source: Path, name: str) -> Path:
    """A manifest named by itself or relative to the source."""
    own = given_path(name)
    return source / own if not own.is_absolute() and (source / own).exists() else own


def _probed(profile: str, rows: pd.DataFrame, s: Mapping[str, Any]) -> pd.DataFrame:
    if s["kind"] != "features":
        how = {"n_workers": s["n_workers"], "n_probe": s["n_probe"], "seed": s["seed"]}
        return probing.probe_all(rows, profile=profile, **how)
    bad = rows.get("status", pd.Series(None, index=rows.index)) == "failed"
    return rows.assign(status=bad.map({True: "failed", False: "ok"}))


def _folds(clips: pd.DataFrame, s: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """The folds, or none and why nothing can be learned."""
    none = pd.DataFrame({"clip_id": pd.Series(dtype="str"), "fold": pd.Series(dtype="int64")})
    if s["kind"] == profiles.GENERATED:
        return manifest.balanced_group_folds(clips, s["n_folds"]), ""
    try:
        return manifest.make_folds(clips, s["n_folds"], s["seed"]), ""
    except EcmfError as error:  # all that needs no folds goes on
        return none, str(error)
