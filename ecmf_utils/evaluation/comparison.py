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
from ecmf_utils.notebook import Note, device as choose_device
from ecmf_utils.progress import watch
from ecmf_utils.scores import read_scores, save_scores as save_scores
from ecmf_utils.training import cross_validation, runs
from ecmf_utils.training.problem import Problem

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
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """The runs of a comparison: each model on all branches, single branches, ECMF without its parts, and searches.

    Parameters
    ----------
    models, refined : iterable of str
        Models on all branches and given labels, and those on refined labels.
    single : str
        Model of each branch alone, on given labels; empty: none.
    branches : sequence of str
        Of the profile, in order.
    ablations : bool
        Whether ECMF is trained without each of its parts and branches.
    added : sequence of str
        With `ablations`, branches that ECMF gets one by one on top of the others, as in the paper.
    searched : iterable of str
        Models whose settings are searched with `n_trials` trials in every outer fold. The linear ones, which choose
        their penalty in inner folds themselves, are run as they are.
    n_trials : int
        Trials of each search.
    more : mapping, optional
        Settings of every network but ECMF, which keeps those of notebook 50.
    ours : {"refined", "given"}
        Labels that notebook 50's ECMF was trained on, and the ablations and searches with it.
    device : str
        Of the networks of `more`: auto, cpu, cuda, cuda:1.

    Returns
    -------
    list of dict
        `key`, `model`, `base`, `branches`, `labels`, `settings`, `trials` of each run; no key twice.

    Raises
    ------
    EcmfError
        A model cannot be searched, or there are searches without a trial.
    """
    searched = list(searched)
    if searched and n_trials < 1:
        raise EcmfError(f"searched_models={', '.join(searched)} with n_trials={n_trials}: expected at least 1 trial")
    lacking = [model for model in searched if registry.has_epochs(model) and model not in search.SPACES]
    if lacking:
        raise EcmfError(f"searched_models: {', '.join(lacking)} has no entry in search.SPACES: nothing to search")
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
    elsewhere = {} if choose_device(device) == "cpu" else {"device": device}  # fits are told apart by their settings
    for row in rows:
        if registry.has_epochs(row["base"]) and row["base"] != OURS:
            row["settings"] = elsewhere | {**(more or {}), **row["settings"]}
    return list({row["key"]: row for row in rows}.values())


def plan_single_branches(model: str, branches: Iterable[str], labels: str) -> list[dict[str, Any]]:
    """The runs of a model on each branch alone, as `plan_runs` has them; none without a model."""
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
    profile : str
        Whose clips to train on and to test.
    planned : list of dict
        Of `plan_runs`.
    labels : sequence of str
        Names of the C classes.
    seeds : sequence of int
        Of models that depend on chance; the others are fitted once.
    epochs : int
        Of every network; 0: each one's own.
    steps : int
        Spans of time that models of sequences get, see `features.load`.
    n_workers : int
        Processes, a run each; 0: as many as there are processors. The results are the same to the bit.
    estimate : DataFrame, optional
        Of `estimate_minutes`: progress is told in its minutes; without it none is.

    Returns
    -------
    dict
        Run key to its score rows, in the order of the plan.

    Raises
    ------
    EcmfError
        A branch or a label file is missing, or a model refuses its settings.
    """
    job = partial(_run, profile, labels=labels, seeds=list(seeds), epochs=epochs, steps=steps)
    queue = planned[::-1]  # searches stand last in a plan and take longest: they must not be what is waited for
    done: dict[str, list[dict[str, Any]]] = {}
    course = partial(minutes, profile, planned, seeds, estimate, time.time(), done)
    with watch(course, "compare", "min of one core") if estimate is not None else nullcontext():
        for key, rows in parallel.parallel_map(job, queue, n_workers, ahead=len(queue), ordered=False):
            done[key] = rows
    return {run["key"]: done[run["key"]] for run in planned}


def _run(
    profile: str, run: dict[str, Any], labels: Sequence[str], seeds: list[int], epochs: int, steps: int
) -> tuple[str, list[dict[str, Any]]]:
    problem, make = _prepared(profile, run, labels, seeds[0], epochs, steps)
    once = seeds if registry.is_random(run["base"]) else seeds[:1]
    result = training.cross_validate(profile, run["key"], problem, make, once)
    rows = training.score_rows(profile, problem, result, run["model"])
    training.save_run(profile, run["key"], problem, result, rows)
    return run["key"], rows


def estimate_minutes(
    profile: str,
    planned: list[dict[str, Any]],
    labels: Sequence[str],
    seeds: Sequence[int],
    epochs: int = 0,
    steps: int = 8,
) -> pd.DataFrame:
    """What a comparison will take if nothing of it is on disk: one fit of every model, times their number.

    Of networks that stop early only a few epochs are timed, and `TYPICAL` ones counted.

    Parameters
    ----------
    profile : str
        Whose clips to train on.
    planned : list of dict
        Of `plan_runs`.
    labels : sequence of str
        Names of the C classes.
    seeds : sequence of int
        Of models that depend on chance.
    epochs : int
        Of every network; 0: each one's own.
    steps : int
        Spans of time that models of sequences get.

    Returns
    -------
    DataFrame
        Index model; runs, fits, seconds a fit, minutes. In `attrs`: `folds`.
    """
    rows, n_folds, warm = {}, 0, set()
    for run in planned:
        if run["base"] not in rows:
            kind = registry.has_epochs(run["base"])
            for _ in range(1 if kind in warm else 2):  # the first network, or other model, also imports what it needs
                seconds, n_folds = _timed(profile, run, labels, seeds[0], epochs, steps)
            warm.add(kind)
            rows[run["base"]] = {"runs": 0, "fits": 0, "seconds a fit": seconds}
        n_seeds = len(seeds) if registry.is_random(run["base"]) else 1
        rows[run["base"]]["runs"] += 1
        rows[run["base"]]["fits"] += n_folds * (n_seeds + run["trials"])
    table = pd.DataFrame.from_dict(rows, orient="index").astype({"runs": int, "fits": int})
    table = table.assign(minutes=table["fits"] * table["seconds a fit"] / 60)
    table.attrs["folds"] = n_folds
    return table


def _timed(
    profile: str, run: dict[str, Any], labels: Sequence[str], seed: int, epochs: int, steps: int
) -> tuple[float, int]:
    """Seconds of a fit of one fold, and how many folds there are."""
    whole = (epochs or TYPICAL) if registry.has_epochs(run["base"]) and run["base"] != OURS else 0
    short = {"refit": False, "patience": FEW} if whole > FEW else {}
    planned = run | {"trials": 0, "settings": run["settings"] | short}
    problem, make = _prepared(profile, planned, labels, seed, FEW if short else epochs, steps)
    fold = int(problem.fold[problem.fold >= 0].min())
    train = linear.training_rows(problem.fold, problem.group, fold)
    data = (problem.targets[fold][train], problem.weights[fold][train], problem.group[train])
    start = time.perf_counter()
    make().fit(take_clips(problem.data, train), *data, seed=seed)
    return (time.perf_counter() - start) * (whole / FEW if short else 1), len(problem.targets)


def _prepared(
    profile: str, run: dict[str, Any], labels: Sequence[str], seed: int, epochs: int, steps: int
) -> tuple[Problem, Callable[[], Any]]:
    """What a run learns from, and what makes its untrained models."""
    steps = steps if run["base"] in registry.SEQUENTIAL else 0
    problem = training.load_problem(profile, run["branches"], labels, run["labels"], steps=steps)
    settings = run["settings"] | ({"epochs": epochs} if epochs and registry.has_epochs(run["base"]) else {})
    if run["base"] == OURS:  # without a part it differs from notebook 50's in nothing else
        settings = runs.settings(profile, OURS) | settings
    about = (run["base"], problem.data.dims, len(labels))
    if run["trials"]:
        make = partial(search.searched, *about, n_trials=run["trials"], seed=seed, **settings)
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


def rank_runs(done: Mapping[str, Sequence[Mapping[str, Any]]], branches: Sequence[str]) -> pd.DataFrame:
    """Score rows of all runs where they are compared: on test clips, or out-of-fold where none is labelled.

    Parameters
    ----------
    done : mapping
        Run key to its score rows, as `run_plan` returns them.
    branches : sequence of str
        All branches, to name the runs.

    Returns
    -------
    DataFrame
        A row for each run, the best weighted F1 first, with `key`, `run` (model, branches and labels in words), `low`
        and `high` (95 % interval) beside what a score row has. The index is the place in the order of `done`.
    """
    scores = pd.DataFrame([{"key": key} | dict(row) for key, rows in done.items() for row in rows])
    split = choose_split(scores)
    compared = scores[(scores["split"] == split) & ((split == "test") | (scores["scored_on"] == "observed"))]
    compared = compared.assign(
        run=[describe_run(row, branches) for row in compared.to_dict("records")],
        low=compared["ci95"].str[0],
        high=compared["ci95"].str[1],
    )
    return compared.drop_duplicates("run", keep="last").sort_values("weighted_f1", ascending=False)


def compare_single(
    profile: str,
    trained_on: str,
    subsets: pd.DataFrame,
    model: str,
    branches: Sequence[str],
    labels: Sequence[str],
    seeds: Sequence[int],
    epochs: int = 0,
    steps: int = 8,
) -> pd.DataFrame | Note:
    """What ECMF makes of one branch alone, beside a model that was trained on that branch only.

    A run that notebook 51 has made is read; any other is made now, and read the next time.

    Parameters
    ----------
    profile : str
        Whose clips to train on.
    trained_on : {"refined", "given"}
        Labels that ECMF was trained on, and the models are.
    subsets : DataFrame
        Of `report_robustness`: the scores of ECMF with every subset of the branches left.
    model : str
        The model of a single branch, such as `logreg`; empty: none.
    branches, labels : sequence of str
        Of the profile.
    seeds : sequence of int
        Of models that depend on chance.
    epochs : int
        Of networks; 0: the model's own.
    steps : int
        Spans of time that models of sequences get.

    Returns
    -------
    DataFrame or Note
        Index branch; weighted F1 on test clips of both, and the difference. A note where there is nothing to compare.
    """
    if subsets.empty or not model:
        return Note("There is nothing to compare: no labelled test clip, or no model of a single branch.")
    own = {}
    for row in read_scores(profile):
        if (row["model"], row["labels"], row["split"]) == (model, trained_on, "test") and len(row["branches"]) == 1:
            own[row["branches"][0]] = row["weighted_f1"]
    planned = plan_single_branches(model, [branch for branch in branches if branch not in own], trained_on)
    for rows in run_plan(profile, planned, labels, seeds, epochs, steps).values():
        own[rows[0]["branches"][0]] = rows[-1]["weighted_f1"]
    alone = subsets[subsets["kept"] == 1].set_index("branches")["weighted_f1"]
    table = pd.DataFrame({"only branch left": alone, f"{model} of its own": pd.Series(own, dtype=float)})
    return table.assign(difference=table.iloc[:, 0] - table.iloc[:, 1]).reindex(list(branches)).round(3)


def warn_of_leaks(rows: Sequence[dict[str, Any]]) -> str:
    """One line on whether the out-of-fold scores of a run can be believed, given its test scores.

    Parameters
    ----------
    rows : sequence of dict
        Score rows of one run: `split` and `weighted_f1`.

    Returns
    -------
    str
        A warning where out-of-fold is far above test, else that nothing is suspicious.
    """
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
    for run in planned:
        each, folds = estimate.loc[run["base"], "seconds a fit"] / 60, estimate.attrs["folds"]
        n_seeds = len(seeds) if registry.is_random(run["base"]) else 1
        made, whole = _since(folder / run["key"], began), folds * (n_seeds + run["trials"])
        if run["key"] in ended:
            part = whole = whole if made else 0
        else:  # the first seed's fits search, the others take what was found
            part = made + min(made, folds) * run["trials"]
        done, total = done + each * part, total + each * whole
    return done, total


def _since(run: Path, began: float) -> int:
    """Fits of a run that were made since; one that is being made again is not there for a moment."""
    made = 0
    for note in run.glob(f"*/{cross_validation.FIT}"):
        with suppress(FileNotFoundError):
            made += note.stat().st_mtime >= began
    return made
