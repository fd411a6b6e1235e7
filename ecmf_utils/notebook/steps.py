"""The order of the notebooks: what each needs, and the files by which the next one knows it ran."""

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

    `needs` are notebooks, or "branches" for the extraction notebooks of the profile's branches;
    `writes` are files under `data/<profile>`; `threads` is how many processors it can use.
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


def order(profile: str) -> list[str]:
    """The notebooks that a profile runs, each after what it needs.

    Without labels to learn from nothing is trained or scored; a branch that the profile leaves out
    or whose features were imported is not extracted, nor are faces looked for without `face`.
    """
    makers = branch_notebooks(profile)
    skipped = set() if "face" in makers else {"20_detect_faces"}
    learns, encodes = not why_untrained(profile), not imported(profile)
    return [
        nb
        for nb, step in STEPS.items()
        if step.planned
        and nb not in skipped
        and (learns or not step.labelled)
        and (encodes or not step.needs_media)
        and (step.branch is None or step.branch in makers)
    ]


def why_untrained(profile: str) -> str:
    """Why nothing can be learned from the corpus of a profile; empty where something can."""
    if not load_profile(profile)["labelled"]:
        return "the profile says labelled: false"
    facts = data_dir(profile) / "corpus.json"
    return read_json(facts)["untrained"] if facts.exists() else ""


def imported(profile: str) -> dict[str, str]:
    """branch -> who imported its published features: the start notebook, or "" for a person."""
    found = {branch: START for branch in load_profile(profile)["features"]}
    for path in (data_dir(profile) / "features").glob("*/selected.json"):
        if read_json(path).get("recipe", {}).get("imported"):
            found.setdefault(path.parent.name, "")
    return found


def branch_notebooks(profile: str) -> dict[str, str]:
    """branch -> the notebook that extracts it, in the order of the profile's branches.

    Branches whose features were imported have none; `audio@<encoder>` is a set of vectors of `audio`.
    """
    makers = {step.branch: nb for nb, step in STEPS.items() if step.branch}
    known = imported(profile)
    branches = list(dict.fromkeys(named(branch)[0] for branch in load_profile(profile)["branches"]))
    for branch in branches:
        if branch not in makers and branch not in known:
            raise unknown("branch", branch, makers, f"profile {profile}")
    return {branch: makers[branch] for branch in branches if branch not in known}


def needs(nb: str, profile: str) -> list[str]:
    """Every notebook that has to have run before, each after what it needs itself."""
    makers = [*branch_notebooks(profile).values(), START]
    found: set[str] = set()
    waiting = [nb]
    while waiting:
        step = STEPS.get(waiting.pop(), Step(""))
        for name in step.needs:
            new = [n for n in (makers if name == "branches" else [name]) if n not in found]
            found.update(new)
            waiting.extend(new)
    return [name for name in STEPS if name in found]


def writes(nb: str, profile: str, n_shards: int = 1) -> list[Path]:
    """The files under `data/<profile>` that show the notebook has run: of shards, the note of each."""
    if n_shards > 1:
        return [note_path(nb, profile, key) for key in shard_keys(n_shards)]
    names = list(STEPS[nb].writes) if nb in STEPS else []
    if nb == START:
        names += [_selected(branch) for branch in load_profile(profile)["features"]]
    return [data_dir(profile) / name for name in names]


def reads(nb: str, profile: str, n_shards: Mapping[str, int] | None = None) -> list[Path]:
    """What all earlier notebooks that it builds on have written, and features imported by hand.

    n_shards : of the notebooks that are run in several shards.
    """
    before = needs(nb, profile)
    by_hand = [branch for branch, maker in imported(profile).items() if not maker]
    used_all = any("branches" in STEPS[name].needs for name in [*before, nb] if name in STEPS)
    used = by_hand if used_all else []
    made = [path for name in before for path in writes(name, profile, (n_shards or {}).get(name, 1))]
    encoded = [named(branch) for branch in load_profile(profile)["branches"] if named(branch)[1] and used_all]
    stores = [data_dir(profile) / "features" / branch / encoder for branch, encoder in encoded]
    others = [path for store in stores for path in store.glob("*/selected.json")]
    return made + [data_dir(profile) / _selected(branch) for branch in used] + others


def _selected(branch: str) -> str:
    return f"features/{branch}/selected.json"


def missing(nb: str, profile: str) -> list[str]:
    """The needed notebooks whose outputs are not all there, in the order to run them."""
    return [name for name in needs(nb, profile) if not all(path.exists() for path in writes(name, profile))]


def trained_elsewhere(values: Mapping[str, Any]) -> str:
    """The profile whose clips a run learns or learned from, where that is not its own; else empty.

    Such a run is a detour: it has pages of its own and replaces nothing that the pipeline reads.
    """
    if values.get("train_profile"):
        return str(values["train_profile"])
    return str(values.get("run_name", "")).partition("-from-")[2]


def require(nb: str, profile: str, train_profile: str = "") -> None:
    """Raise an EcmfError that names the command to run when an earlier notebook has not run.

    With `train_profile` only the branches of `profile` are needed, the rest of that other profile.
    """
    if train_profile:
        load_profile(train_profile)
        require("50_train_fusion", train_profile)
    branches = [START, *branch_notebooks(profile).values()]
    for name in missing(nb, profile):
        if train_profile and name not in branches:
            continue
        absent = next(path for path in writes(name, profile) if not path.exists())
        raise EcmfError(
            f"{nb} needs {show(absent)}: run `ecmf run {name} --profile {profile}` or `ecmf reproduce {profile}` first"
        )


def run_key(values: Mapping[str, Any]) -> str:
    """What tells the runs of one notebook apart: its shard, or whose clips it was trained on."""
    if elsewhere := trained_elsewhere(values):
        return f"--from-{elsewhere}"
    return shard_key(values.get("shard", 0), values.get("n_shards") or 1)


def shard_key(shard: int | str, n_shards: int) -> str:
    """`--01-of-04`; empty for a notebook that is run in one piece."""
    return f"--{shard:0>2}-of-{n_shards:02d}" if n_shards > 1 else ""


def shard_keys(n_shards: int) -> list[str]:
    """The keys of all shards, or one that is empty."""
    return [shard_key(shard, n_shards) for shard in range(n_shards)]


def note_path(nb: str, profile: str, key: str) -> Path:
    """Where the runner notes which file a shard has written; its name is not known before."""
    return data_dir(profile) / ".made" / f"{nb}{key}.done.json"


def html_path(nb: str, profile: str, key: str = "") -> Path:
    """The page of a notebook; `key` tells shards of one notebook apart."""
    return reports_dir(profile) / f"{nb}{key}.html"


def run_dir(nb: str, profile: str, key: str = "") -> Path:
    """The folder of a run's record and its executed copy."""
    return reports_dir(profile) / "runs" / f"{nb}{key}"
