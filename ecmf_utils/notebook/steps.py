"""The steps of the pipeline: which notebooks each notebook needs, and which files show that it has run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_utils.files import EcmfError, data_dir, named, read_json, reports_dir, show, unknown

from .profiles import START, load_profile


@dataclass(frozen=True)
class Step:
    """One notebook of the pipeline.

    `needs` are notebooks, or "branches" for the notebooks that extract the profile's branches;
    `writes` are files under `data/<profile>`; `threads` is the number of processors that it can use.
    """

    title: str
    needs: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    branch: str | None = None
    labelled: bool = False  # whether it makes sense only for a corpus with labels
    planned: bool = True  # whether `ecmf reproduce` runs it
    needs_media: bool = False  # whether it makes sense only where clips can be encoded
    threads: int = 1


STEPS: dict[str, Step] = {
    START: Step(
        "Start here: make or read the corpus",
        (),
        ("clips.parquet", "folds.parquet", "corpus.json"),
        threads=2,
    ),
    "10_explore_corpus": Step("Explore the corpus", (START,), ("explore/summary.json",)),
    "20_detect_faces": Step("Detect faces", (START,), ("faces/faces.parquet",), threads=2),
    "21_extract_face": Step("Extract face features", ("20_detect_faces",), ("features/face/selected.json",), "face"),
    "22_extract_scene": Step("Extract scene features", (START,), ("features/scene/selected.json",), "scene"),
    "23_extract_audio": Step("Extract audio features", (START,), ("features/audio/selected.json",), "audio"),
    "24_extract_text": Step("Extract text features", (START,), ("features/text/selected.json",), "text"),
    "30_enrich_text": Step(
        "Enrich the text with a language model",
        (START,),
        ("enriched/answers.parquet", "features/context/selected.json"),
        "context",
    ),
    "40_refine_labels": Step("Refine the labels", ("branches",), ("labels/refined.parquet",), labelled=True),
    "50_train_fusion": Step(
        "Train the fusion",
        ("branches", "40_refine_labels"),
        ("predictions/ecmf.parquet",),
        labelled=True,
        threads=2,
    ),
    "51_compare_runs": Step("Compare the runs", ("50_train_fusion",), ("runs/scores.json",), labelled=True, threads=2),
    "52_test_robustness": Step("Test the robustness", ("51_compare_runs",), labelled=True),
    "53_official_protocol": Step("Run the official protocol", ("51_compare_runs",), labelled=True),
    "60_analyse_errors": Step("Analyse the errors", ("51_compare_runs",), ("errors/worst.parquet",), labelled=True),
    "70_predict": Step(
        "Predict clips",
        ("50_train_fusion",),
        ("predict/prediction.json",),
        labelled=True,
        needs_media=True,
    ),
    "90_benchmark": Step("Benchmark", ("branches",), planned=False),
}


def plan_notebooks(profile: str) -> list[str]:
    """List the notebooks that a profile runs, each after what it needs.

    Without labels to learn from, the notebooks that train or score are left out. A branch is not extracted
    if the profile leaves it out or its features were imported. Faces are detected only for the branch `face`.
    """
    extractors = find_extractors(profile)
    skipped = set() if "face" in extractors else {"20_detect_faces"}
    can_train, can_encode = not explain_untrained(profile), not find_imported(profile)
    return [
        nb
        for nb, step in STEPS.items()
        if step.planned
        and nb not in skipped
        and (can_train or not step.labelled)
        and (can_encode or not step.needs_media)
        and (step.branch is None or step.branch in extractors)
    ]


def explain_untrained(profile: str) -> str:
    """Say why nothing can be learned from the corpus of a profile; empty where something can."""
    if not load_profile(profile)["labelled"]:
        return "the profile says labelled: false"
    facts = data_dir(profile) / "corpus.json"
    return read_json(facts)["untrained"] if facts.exists() else ""


def find_imported(profile: str) -> dict[str, str]:
    """Find the branches whose published features were imported.

    Returns
    -------
    dict
        branch -> the notebook that imported its features, or "" where a person did with `ecmf import-features`.
    """
    importers = {branch: START for branch in load_profile(profile)["features"]}
    for path in (data_dir(profile) / "features").glob("*/selected.json"):
        if read_json(path).get("recipe", {}).get("imported"):
            importers.setdefault(path.parent.name, "")
    return importers


def find_extractors(profile: str) -> dict[str, str]:
    """Find the notebook that extracts each branch.

    Returns
    -------
    dict
        branch -> notebook, in the order of the profile's branches. A branch whose features were imported
        is left out. `audio@<encoder>` names other vectors of `audio`, from the same notebook.

    Raises
    ------
    EcmfError
        No notebook extracts a branch of the profile.
    """
    extractors = {step.branch: nb for nb, step in STEPS.items() if step.branch}
    imported = find_imported(profile)
    branches = list(dict.fromkeys(named(branch)[0] for branch in load_profile(profile)["branches"]))
    for branch in branches:
        if branch not in extractors and branch not in imported:
            raise unknown("branch", branch, extractors, f"profile {profile}")
    return {branch: extractors[branch] for branch in branches if branch not in imported}


def list_needs(nb: str, profile: str) -> list[str]:
    """List every notebook that has to run before this one, each after what it needs itself."""
    corpus_and_branches = [START, *find_extractors(profile).values()]
    needed: set[str] = set()
    waiting = [nb]
    while waiting:
        step = STEPS.get(waiting.pop(), Step(""))
        for need in step.needs:
            new = set(corpus_and_branches if need == "branches" else [need]) - needed
            needed |= new
            waiting += new
    return [name for name in STEPS if name in needed]


def list_outputs(nb: str, profile: str, n_shards: int = 1) -> list[Path]:
    """List the files that show that a notebook has run; for several shards, the note of each shard."""
    if n_shards > 1:
        return [note_path(nb, profile, key) for key in make_shard_keys(n_shards)]
    names = list(STEPS[nb].writes) if nb in STEPS else []
    if nb == START:
        names += [f"features/{branch}/selected.json" for branch in load_profile(profile)["features"]]
    return [data_dir(profile) / name for name in names]


def list_inputs(nb: str, profile: str, n_shards: Mapping[str, int] | None = None) -> list[Path]:
    """List the files that a notebook depends on.

    Parameters
    ----------
    nb, profile : str
    n_shards : dict, optional
        notebook -> number of shards, for the notebooks that run in several.

    Returns
    -------
    list of Path
        What all notebooks before it have written. If it or one of them uses all branches, also the features
        that a person imported and those of other encoders (`audio@<encoder>`).
    """
    before = list_needs(nb, profile)
    paths = [path for name in before for path in list_outputs(name, profile, (n_shards or {}).get(name, 1))]
    if any("branches" in STEPS[name].needs for name in [*before, nb] if name in STEPS):
        features = data_dir(profile) / "features"
        by_hand = [branch for branch, importer in find_imported(profile).items() if not importer]
        paths += [features / branch / "selected.json" for branch in by_hand]
        for branch, encoder in map(named, load_profile(profile)["branches"]):
            if encoder:
                paths += (features / branch / encoder).glob("*/selected.json")
    return paths


def find_missing(nb: str, profile: str) -> list[str]:
    """Find the needed notebooks whose outputs are not all there, in the order to run them."""
    needed = list_needs(nb, profile)
    return [name for name in needed if not all(path.exists() for path in list_outputs(name, profile))]


def find_training_profile(values: Mapping[str, Any]) -> str:
    """Find the other profile on whose clips a run trains or was trained; empty if there is none.

    Such a run is a detour: it has pages of its own and replaces nothing that the pipeline reads.

    Parameters
    ----------
    values : dict
        The parameters of the run.
    """
    if values.get("train_profile"):
        return str(values["train_profile"])
    return str(values.get("run_name", "")).partition("-from-")[2]


def require(nb: str, profile: str, train_profile: str = "") -> None:
    """Check that all notebooks that `nb` needs have run.

    With `train_profile`, only the branches of `profile` are needed, and the training of `train_profile`.

    Raises
    ------
    EcmfError
        One has not run. The line names the file that is missing and the command that makes it.
    """
    if train_profile:
        load_profile(train_profile)
        require("50_train_fusion", train_profile)
    corpus_and_branches = [START, *find_extractors(profile).values()]
    for name in find_missing(nb, profile):
        if train_profile and name not in corpus_and_branches:
            continue
        absent = next(path for path in list_outputs(name, profile) if not path.exists())
        raise EcmfError(
            f"{nb} needs {show(absent)}: run `ecmf run {name} --profile {profile}` or `ecmf reproduce {profile}` first"
        )


def make_run_key(values: Mapping[str, Any]) -> str:
    """Make the ending that tells the runs of one notebook apart: its shard, or the profile it was trained on."""
    if train_profile := find_training_profile(values):
        return f"--from-{train_profile}"
    return make_shard_key(values.get("shard", 0), values.get("n_shards") or 1)


def make_shard_key(shard: int | str, n_shards: int) -> str:
    """Make the ending of a shard, `--01-of-04`; empty for a notebook that runs in one piece."""
    return f"--{shard:0>2}-of-{n_shards:02d}" if n_shards > 1 else ""


def make_shard_keys(n_shards: int) -> list[str]:
    """Make the endings of all shards; for one shard this is one empty text."""
    return [make_shard_key(shard, n_shards) for shard in range(n_shards)]


def note_path(nb: str, profile: str, key: str) -> Path:
    """Path of the note in which the runner says which file a shard has written."""
    return data_dir(profile) / ".made" / f"{nb}{key}.done.json"


def html_path(nb: str, profile: str, key: str = "") -> Path:
    """Path of the page of a run; `key` is its ending (`make_run_key`)."""
    return reports_dir(profile) / f"{nb}{key}.html"


def run_dir(nb: str, profile: str, key: str = "") -> Path:
    """Folder of a run's record and executed copy; `key` is its ending (`make_run_key`)."""
    return reports_dir(profile) / "runs" / f"{nb}{key}"
