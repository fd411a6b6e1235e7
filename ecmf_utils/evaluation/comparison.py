"""The comparison: which models are run on which branches and labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ecmf_utils import files, parallel, training
from ecmf_utils.features import take_clips
from ecmf_utils.files import EcmfError
from ecmf_utils.metrics import OURS, SEARCHED
from ecmf_utils.models import bind_model, linear, registry, search
from ecmf_utils.progress import watch
from ecmf_utils.training import cross_validation, runs
from ecmf_utils.training.problem import Problem

from . import official

FEW, TYPICAL = 4, 48  # epochs of the field's networks: timed for the estimate; what a fit comes to, its refit included
LONGEST = 120  # letters of all branches in the name of a file
TOO_GOOD = 0.15  # weighted F1 by which out-of-fold may exceed test before a reader is warned
ABLATIONS = {"attention": False, "residual": False, "auxiliary": False, "weighting": False, "branch_dropout": 0.0}


def plan_runs(
    models: Iterable[str],
    refined: Iterable[str],
    single: str,
    branches: Sequence[str],
    ablations: bool,
    added: Sequence[str] = (),
    searched: Iterable[str] = (),
    n_trials: int = 0,
    more: Mapping[str, Any] | None = None,
    ours: str = "refined",
) -> list[dict[str, Any]]:
    """The runs of a comparison: `key`, `model`, `base`, `branches`, `labels`, `settings`, `trials`.

    added : with `ablations`, branches that ECMF gets one by one on top of the others, as in the paper.
    searched : models whose settings are searched with `n_trials` trials in every outer fold. The linear ones, which
    choose their penalty in inner folds themselves, are run as they are.
    more : settings of every network but ECMF, which keeps those of notebook 50.
    ours : labels that notebook 50's ECMF was trained on, and the ablations and searches with it.
    """
    searched = list(searched)
    if searched and n_trials < 1:
        raise EcmfError(f"searched_models={', '.join(searched)} with n_trials={n_trials}: expected at least 1 trial")
    lacking = [model for model in searched if registry.has_epochs(model) and model not in search.SPACES]
    if lacking:
        raise EcmfError(f"searched_models: {', '.join(lacking)} has no entry in spaces.SPACES: nothing to search")
    whole = [(model, "given") for model in models] + [(model, "refined") for model in refined]
    rows = [_planned(model, branches, names) for model, names in whole if (model, names) != (OURS, ours)]
    rows += plan_single_branches(single, branches, "given")
    if ablations:
        rows += [_planned(OURS, branches, ours, {part: value}) for part, value in ABLATIONS.items()]
        rows += [_planned(OURS, [b for b in branches if b != out], ours) for out in branches if len(branches) > 1]
        grown = [b for b in branches if b not in added]
        for branch in [None, *added]:
            grown = [b for b in branches if b in grown or b == branch]
            if 0 < len(grown) < len(branches):
                rows.append(_planned(OURS, grown, ours))
    rows += [_planned(model, branches, ours, trials=n_trials if model in search.SPACES else 0) for model in searched]
    for row in rows:
        if registry.has_epochs(row["base"]) and row["base"] != OURS:
            row["settings"] = {**(more or {}), **row["settings"]}
    return list({row["key"]: row for row in rows}.values())


def plan_single_branches(model: str, branches: Iterable[str], labels: str) -> list[dict[str, Any]]:
    """The runs of a model on each branch alone, as `plan` has them; none without a model."""
    return [_planned(model, [branch], labels) for branch in branches] if model else []


def _planned(
    model: str, branches: Sequence[str], labels: str, settings: dict[str, Any] | None = None, trials: int = 0
) -> dict[str, Any]:
    name = model + "".join(f"-no-{part}" for part in settings or {}) + (SEARCHED if trials else "")
    used = "+".join(branches)
    used = used if len(used) <= LONGEST else f"{len(branches)}-branches-{files.digest(list(branches))}"
    return {
        "key": f"{name}-{used}-{labels}",
        "model": name,
        "base": model,
        "branches": list(branches),
        "labels": labels,
        "settings": settings or {},
        "trials": trials,
    }


def run_plan(
    profile: str,
    planned: list[dict[str, Any]],
    labels: Sequence[str],
    seeds: Sequence[int],
    epochs: int = 0,
    steps: int = 8,
    n_workers: int = 1,
    estimate: pd.DataFrame | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Run a comparison; what is unchanged since last time is read from disk.

    Parameters
    ----------
    epochs : int
        Of every network; 0: each one's own.
    steps : int
        Spans of time that models of sequences get, see `features.load`.
    n_workers : int
        Processes, a run each; 0: as many as there are processors. The results are the same to the bit.
    estimate : DataFrame, optional
        What `estimate` found: progress is told in its minutes; without it none is.

    Returns
    -------
    dict
        Run key to its score rows.
    """
    job = partial(_run, profile, labels=labels, seeds=list(seeds), epochs=epochs, steps=steps)
    queue = planned[::-1]  # searches stand last in a plan and take longest: they must not be what is waited for
    done: dict[str, list[dict[str, Any]]] = {}
    course = partial(minutes, profile, planned, seeds, estimate, time.time(), done)
    with watch(course, "compare", "min of one core") if estimate is not None else nullcontext():
        for key, rows in parallel.parallel_map(job, queue, n_workers, ahead=len(queue), ordered=False):
            done[key] = rows
    return {one["key"]: done[one["key"]] for one in planned}


def _run(
    profile: str, one: dict[str, Any], labels: Sequence[str], seeds: list[int], epochs: int, steps: int
) -> tuple[str, list[dict[str, Any]]]:
    problem, make = _prepared(profile, one, labels, seeds[0], epochs, steps)
    once = seeds if registry.is_random(one["base"]) else seeds[:1]
    result = training.cross_validate(profile, one["key"], problem, make, once)
    rows = training.score_rows(profile, problem, result, one["model"])
    training.save_run(profile, one["key"], problem, result, rows)
    return one["key"], rows


def estimate_minutes(
    profile: str,
    planned: list[dict[str, Any]],
    labels: Sequence[str],
    seeds: Sequence[int],
    epochs: int = 0,
    steps: int = 8,
    official_epochs: int = 0,
) -> pd.DataFrame:
    """What a comparison will take if nothing of it is on disk: one fit of every model, times their number.

    Of networks that stop early only a few epochs are timed, and `TYPICAL` ones counted; of the official protocol one.

    Returns
    -------
    DataFrame
        Index model; runs, fits, seconds a fit, minutes. In `attrs`: `folds`.
    """
    rows, n_folds, warm = {}, 0, set()
    for one in planned:
        if one["base"] not in rows:
            kind = registry.has_epochs(one["base"])
            for _ in range(1 if kind in warm else 2):  # the first network, or other model, also imports what it needs
                seconds, n_folds = _timed(profile, one, labels, seeds[0], epochs, steps)
            warm.add(kind)
            rows[one["base"]] = {"runs": 0, "fits": 0, "seconds a fit": seconds}
        n_seeds = len(seeds) if registry.is_random(one["base"]) else 1
        rows[one["base"]]["runs"] += 1
        rows[one["base"]]["fits"] += n_folds * (n_seeds + one["trials"])
    if official_epochs and planned:
        whole = max((one["branches"] for one in planned), key=len)
        problem = training.load_problem(profile, whole, labels, "given")
        start = time.perf_counter()
        official.cross_validate(problem.labelled(), problem.given, problem.test, len(labels), epochs=1, folds=[0])
        seconds = (time.perf_counter() - start) * official_epochs
        rows["official protocol"] = {"runs": 1, "fits": official.FOLDS, "seconds a fit": seconds}
    table = pd.DataFrame.from_dict(rows, orient="index").astype({"runs": int, "fits": int})
    table = table.assign(minutes=table["fits"] * table["seconds a fit"] / 60)
    table.attrs["folds"] = n_folds
    return table


def _timed(
    profile: str, one: dict[str, Any], labels: Sequence[str], seed: int, epochs: int, steps: int
) -> tuple[float, int]:
    """Seconds of a fit of one fold, and how many folds there are."""
    whole = (epochs or TYPICAL) if registry.has_epochs(one["base"]) and one["base"] != OURS else 0
    short = {"refit": False, "patience": FEW} if whole > FEW else {}
    planned = one | {"trials": 0, "settings": one["settings"] | short}
    problem, make = _prepared(profile, planned, labels, seed, FEW if short else epochs, steps)
    fold = int(problem.fold[problem.fold >= 0].min())
    train = linear.training_rows(problem.fold, problem.group, fold)
    data = (problem.targets[fold][train], problem.weights[fold][train], problem.group[train])
    start = time.perf_counter()
    make().fit(take_clips(problem.data, train), *data, seed=seed)
    return (time.perf_counter() - start) * (whole / FEW if short else 1), len(problem.targets)


def _prepared(
    profile: str, one: dict[str, Any], labels: Sequence[str], seed: int, epochs: int, steps: int
) -> tuple[Problem, Callable[[], Any]]:
    """What a run learns from, and what makes its untrained models."""
    steps = steps if one["base"] in registry.SEQUENTIAL else 0
    problem = training.load_problem(profile, one["branches"], labels, one["labels"], steps=steps)
    settings = one["settings"] | ({"epochs": epochs} if epochs and registry.has_epochs(one["base"]) else {})
    if one["base"] == OURS:  # without a part it differs from notebook 50's in nothing else
        settings = runs.settings(profile, OURS) | settings
    about = (one["base"], problem.data.dims, len(labels))
    if one["trials"]:
        make = partial(search.searched, *about, n_trials=one["trials"], seed=seed, **settings)
        make()  # mistakes are told now, not in a fold
        return problem, make
    return problem, bind_model(*about, **settings)


def choose_split(scores: pd.DataFrame) -> str:
    """Where runs are compared: on test clips, or out-of-fold where the corpus has no labelled ones."""
    return "test" if (scores["split"] == "test").any() else "oof"


def describe_run(row: Mapping[str, Any], branches: Sequence[str]) -> str:
    """A score row in words: model, branches, labels it learned from."""
    used = "all" if list(row["branches"]) == list(branches) else "+".join(row["branches"])
    return " · ".join([row["model"], used, row["labels"]])


def warn_of_leaks(rows: Sequence[dict[str, Any]]) -> str:
    """One line on whether the out-of-fold scores of a run can be believed, given its test scores."""
    seen = {split: [r["weighted_f1"] for r in rows if r["split"] == split] for split in ("oof", "test")}
    if not seen["test"]:
        return "There are no labelled test clips: out-of-fold is all there is."
    gap = min(seen["oof"], default=0.0) - min(seen["test"])
    if gap <= TOO_GOOD:
        return f"The out-of-fold scores are not {TOO_GOOD} above test: nothing suspicious."
    return (
        f"Do not believe the out-of-fold scores: they are {gap:.2f} above test. Published features were often "
        "trained on the training labels, or clips of different groups share something (see 10_explore_corpus)."
    )


# ---- how far a comparison is, told by the fits that its runs leave on disk


def minutes(
    profile: str,
    planned: Iterable[Mapping[str, Any]],
    seeds: Sequence[int],
    estimate: pd.DataFrame,
    began: float,
    ended: Collection[str],
) -> tuple[float, float]:
    """Minutes of one core of the fits made until now, and of all; what was read from disk counts for nothing.

    Parameters
    ----------
    planned : rows of `evaluation.plan_runs`
    estimate : DataFrame
        Of `evaluation.estimate_minutes` for these rows.
    began : float
        Seconds since the epoch; older fits were there before.
    ended : keys of the runs that are over
    """
    done = total = 0.0
    folder = files.data_dir(profile) / "runs"
    for one in planned:
        each, folds = estimate.loc[one["base"], "seconds a fit"] / 60, estimate.attrs["folds"]
        n_seeds = len(seeds) if registry.is_random(one["base"]) else 1
        made, whole = _since(folder / one["key"], began), folds * (n_seeds + one["trials"])
        if one["key"] in ended:
            part = whole = whole if made else 0
        else:  # the first seed's fits search, the others take what was found
            part = made + min(made, folds) * one["trials"]
        done, total = done + each * part, total + each * whole
    return done, total


def _since(run: Path, began: float) -> int:
    """Fits of a run that were made since; one that is being made again is not there for a moment."""
    made = 0
    for note in run.glob(f"*/{cross_validation.FIT}"):
        with suppress(FileNotFoundError):
            made += note.stat().st_mtime >= began
    return made
