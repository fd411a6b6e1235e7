"""Build the corpus of a profile: from its source, or a generator, to a checked manifest with folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecmf_utils.corpus.readers.own import MANIFEST_COLUMNS, read_manifest
from ecmf_utils.files import ROOT, EcmfError, data_dir, given_path, import_function, unknown, write_json, write_parquet
from ecmf_utils.notebook import profiles

from . import label_map, leakage, manifest, probing
from .findings import Findings

TABLES = ("folder", "features")  # kinds whose manifest can be a CSV of the user
# The function that reads or makes each kind of corpus, by its dotted name: what is not used is not imported, and the
# reader of another package (`kind: "my_lab.corpus:read"`) is called in the same way.
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
AT_LEAST = {"n_folds": 2, "n_probe": 0, "n_workers": 0, "seed": 0}
LIMIT = 2**32  # seeds of NumPy have 32 bits


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
    settings : mapping
        The parameters of `00_start_here`.
    import_features : callable
        `features.import_features`, for the branches that `settings["features"]` names.

    Returns
    -------
    Corpus
        Its `findings` say what is wrong with single rows and files.

    Raises
    ------
    EcmfError
        The source as a whole cannot be used.
    """
    _check_settings(profile, settings)
    findings = Findings()
    rows, truth = _read_rows(profile, settings, findings)
    rows, fates = label_map.apply(rows, settings["labels"], settings["label_map"], findings, f"profile {profile}")
    if not len(rows):
        raise EcmfError(f"profile {profile}: no clip is left, the label_map drops every label that was found")
    clips = _probe(profile, rows, settings)
    fingerprints = probing.read_fingerprints(profile)
    n_merged = 0
    if settings["merge_leaks"]:
        clips, n_merged = leakage.merge_groups(clips, settings["merge_leaks"], fingerprints)
    for branch, name in settings["features"].items():  # before the manifest is replaced: the import may fail
        imported = import_features(profile, branch, _find_source(profile, settings) / name, clips=clips)
        findings.extend(imported.attrs["findings"])
    clips = manifest.save_clips(profile, clips, settings["labels"], truth)
    folds, untrained = _make_folds(clips, settings)
    shared = leakage.find_leaks(clips, folds, fingerprints)
    n_dropped = int(fates.loc[fates["how"] == "dropped", "clips"].sum())
    facts = {"kind": settings["kind"], "untrained": untrained, "merged_groups": n_merged}
    facts |= {"dropped": n_dropped, "probed": int(clips["content_hash"].notna().sum())}
    corpus = Corpus(clips, folds, truth, fates, shared, findings, facts)
    _write(profile, corpus, settings)
    return corpus


def _check_settings(profile: str, settings: Mapping[str, Any]) -> None:
    """Refuse what cannot work before anything long begins."""
    for name, least in AT_LEAST.items():
        value = settings[name]
        if not least <= value < LIMIT:
            expected = f"of at least {least}" if value < least else f"below {LIMIT}"
            raise EcmfError(f"{name}={value}: expected a whole number {expected}")
    labels = settings["labels"]
    if not labels or len(set(labels)) < len(labels) or not all(isinstance(x, str) and x for x in labels):
        raise EcmfError(f"labels={labels}: expected at least one label, none empty, none twice")
    label_map.check_label_map(labels, settings["label_map"], f"profile {profile}")
    for kind in settings["merge_leaks"]:
        if kind not in leakage.MERGEABLE:
            raise unknown("kind of leak", kind, leakage.MERGEABLE, "merge_leaks")
    for key in settings["columns"]:
        if key not in MANIFEST_COLUMNS:
            raise unknown("name in columns", key, MANIFEST_COLUMNS)
    for name, example in EXAMPLES.items():
        for key, value in settings[name].items():
            if not isinstance(value, str) or not value:
                raise EcmfError(f"{name}: {key}: expected a name, found {value!r}; such as {example}")


def _read_rows(
    profile: str, settings: Mapping[str, Any], findings: Findings
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The rows of the manifest before any file is opened, and the truth of a generated corpus."""
    kind = settings["kind"]
    if kind == profiles.GENERATED:
        generate = import_function(GENERATOR)
        sizes = {name: settings[name] for name in ("n_train", "n_test", "n_unlabelled")}
        return generate(data_dir(profile), seed=settings["seed"], n_workers=settings["n_workers"], **sizes)
    source = _find_source(profile, settings)
    if kind in TABLES and settings["manifest"]:
        options = {name: settings[name] for name in ("columns", "encoding", "follow_links")}
        path = _find_manifest(source, settings["manifest"])
        return read_manifest(path, source, found=findings, media=kind != "features", **options), None
    if kind == "features":
        raise EcmfError(f"profile {profile}: kind features needs a CSV with clip_id and label: --set manifest=FILE")
    if kind not in READERS and ":" not in kind:
        raise unknown("kind", kind, [profiles.GENERATED, "features", *READERS], f"profile {profile}")
    read = import_function(READERS.get(kind, kind), f"profile {profile}: kind ")
    return read(source, findings, encoding=settings["encoding"], follow_links=settings["follow_links"]), None


def _find_source(profile: str, settings: Mapping[str, Any]) -> Path:
    """The folder of the corpus."""
    if not settings["source"]:
        if settings["manifest"] and settings["kind"] == "folder":
            return _find_manifest(Path.cwd(), settings["manifest"]).parent
        raise EcmfError(f"profile {profile}: say where the corpus is: --set source=DIR")
    source = given_path(settings["source"])
    source = source if source.is_absolute() else ROOT / source
    if not source.is_dir():
        raise EcmfError(f"{settings['source']}: no such folder; say where the corpus is: --set source=DIR")
    return source.resolve()


def _find_manifest(source: Path, name: str) -> Path:
    """The path of a manifest, which the user gives relative to the source or in full."""
    path = given_path(name)
    return source / path if not path.is_absolute() and (source / path).exists() else path


def _probe(profile: str, rows: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    if settings["kind"] != "features":
        options = {name: settings[name] for name in ("n_workers", "n_probe", "seed")}
        return probing.probe_all(rows, profile=profile, **options)
    failed = rows.get("status", pd.Series(None, index=rows.index)) == "failed"
    return rows.assign(status=failed.map({True: "failed", False: "ok"}))


def _make_folds(clips: pd.DataFrame, settings: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """The folds and ""; or no folds and the reason why nothing can be learned."""
    if settings["kind"] == profiles.GENERATED:
        return manifest.deal_folds(clips, settings["n_folds"]), ""
    try:
        return manifest.make_folds(clips, settings["n_folds"], settings["seed"]), ""
    except EcmfError as error:  # the notebooks that need no folds can still run
        return pd.DataFrame({"clip_id": pd.Series(dtype="str"), "fold": pd.Series(dtype="int64")}), str(error)


def _write(profile: str, corpus: Corpus, settings: Mapping[str, Any]) -> None:
    folder = data_dir(profile)
    write_parquet(corpus.folds, folder / "folds.parquet", {name: settings[name] for name in ("n_folds", "seed")})
    write_parquet(corpus.label_map, folder / "label_map.parquet")
    write_parquet(corpus.shared, folder / "leakage.parquet")
    write_parquet(corpus.findings.frame(), folder / "findings.parquet")
    write_json(folder / "corpus.json", corpus.facts)
    if settings["kind"] != profiles.GENERATED and profile in profiles.list_profiles():
        profiles.remember(profile, settings)
