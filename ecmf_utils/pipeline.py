"""The order of the notebooks: what each needs, and the files by which the next one knows it ran."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .cells import unknown
from .params import load_profile
from .paths import EcmfError, data_dir, reports_dir, show


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
    threads: int = 1


START = "00_start_here"
STEPS: dict[str, Step] = {
    START: Step(
        "Start here: make or read the corpus", (), ("clips.parquet", "folds.parquet"), threads=2
    ),
    "10_explore_corpus": Step("Explore the corpus", (START,), ("explore/summary.json",)),
    "20_detect_faces": Step("Detect faces", (START,), ("faces/faces.parquet",), threads=2),
    "21_extract_face": Step(
        "Extract face features", ("20_detect_faces",), ("features/face/selected.json",), "face"
    ),
    "22_extract_scene": Step(
        "Extract scene features", (START,), ("features/scene/selected.json",), "scene"
    ),
    "23_extract_audio": Step(
        "Extract audio features", (START,), ("features/audio/selected.json",), "audio"
    ),
    "24_extract_text": Step(
        "Extract text features", (START,), ("features/text/selected.json",), "text"
    ),
    "30_enrich_text": Step(
        "Enrich the text with a language model",
        (START,),
        ("enriched/answers.parquet", "features/context/selected.json"),
        "context",
    ),
    "40_refine_labels": Step(
        "Refine the labels", ("branches",), ("labels/refined.parquet",), labelled=True
    ),
    "50_train_fusion": Step(
        "Train the fusion",
        ("branches", "40_refine_labels"),
        ("predictions/ecmf.parquet",),
        labelled=True,
        threads=2,
    ),
    "51_compare_runs": Step(
        "Compare the runs", ("50_train_fusion",), ("runs/scores.json",), labelled=True, threads=2
    ),
    "60_analyse_errors": Step(
        "Analyse the errors", ("51_compare_runs",), ("errors/worst.parquet",), labelled=True
    ),
    "70_predict": Step(
        "Predict clips", ("50_train_fusion",), ("predict/prediction.json",), labelled=True
    ),
    "90_benchmark": Step("Benchmark", ("branches",), planned=False),
}
ONLY_LABELLED = ("folds.parquet",)  # not written for a corpus without labels


def order(profile: str) -> list[str]:
    """The notebooks that a profile runs, each after what it needs.

    Without labels nothing is trained or scored; a branch that the profile leaves out is not
    extracted, nor are faces looked for without the branch `face`.
    """
    chosen = load_profile(profile)
    skipped = set() if "face" in chosen["branches"] else {"20_detect_faces"}
    branch_notebooks(profile)
    return [
        nb
        for nb, step in STEPS.items()
        if step.planned
        and nb not in skipped
        and (chosen["labelled"] or not step.labelled)
        and (step.branch is None or step.branch in chosen["branches"])
    ]


def branch_notebooks(profile: str) -> dict[str, str]:
    """branch -> the notebook that extracts it, in the order of the profile's branches."""
    makers = {step.branch: nb for nb, step in STEPS.items() if step.branch}
    branches = load_profile(profile)["branches"]
    for branch in branches:
        if branch not in makers:
            raise unknown("branch", branch, makers, f"profile {profile}")
    return {branch: makers[branch] for branch in branches}


def needs(nb: str, profile: str) -> list[str]:
    """Every notebook that has to have run before, each after what it needs itself."""
    makers = list(branch_notebooks(profile).values())
    found: set[str] = set()
    waiting = [nb]
    while waiting:
        step = STEPS.get(waiting.pop(), Step(""))
        for name in step.needs:
            new = [n for n in (makers if name == "branches" else [name]) if n not in found]
            found.update(new)
            waiting.extend(new)
    return [name for name in STEPS if name in found]


def writes(nb: str, profile: str) -> list[Path]:
    """The files under `data/<profile>` that show the notebook has run."""
    labelled = load_profile(profile)["labelled"]
    names = STEPS[nb].writes if nb in STEPS else ()
    return [data_dir(profile) / name for name in names if labelled or name not in ONLY_LABELLED]


def reads(nb: str, profile: str) -> list[Path]:
    """What all earlier notebooks that it builds on have written."""
    return [path for name in needs(nb, profile) for path in writes(name, profile)]


def missing(nb: str, profile: str) -> list[str]:
    """The needed notebooks whose outputs are not all there, in the order to run them."""
    return [
        name
        for name in needs(nb, profile)
        if not all(path.exists() for path in writes(name, profile))
    ]


def require(nb: str, profile: str) -> None:
    """Raise an EcmfError that names the command to run when an earlier notebook has not run."""
    for name in missing(nb, profile):
        absent = next(path for path in writes(name, profile) if not path.exists())
        raise EcmfError(
            f"{nb} needs {show(absent)}: run `ecmf run {name} --profile {profile}` "
            f"or `ecmf reproduce {profile}` first"
        )


def html_path(nb: str, profile: str, key: str = "") -> Path:
    """The page of a notebook; `key` tells shards of one notebook apart."""
    return reports_dir(profile) / f"{nb}{key}.html"


def run_dir(nb: str, profile: str, key: str = "") -> Path:
    """The folder of a run's record and its executed copy."""
    return reports_dir(profile) / "runs" / f"{nb}{key}"
