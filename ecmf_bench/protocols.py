"""What a whole evaluation costs: the official toolkit's protocol against ours, on the same features in one run.

Every side runs in a process of its own, so that its CPU time and memory are its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import features, metrics, models, parallel
from ecmf_utils.corpus.findings import Findings
from ecmf_utils.corpus.readers.label_npz import load_npz, tabulate_labels
from ecmf_utils.evaluation import official
from ecmf_utils.features import Features
from ecmf_utils.files import EcmfError
from ecmf_utils.models.linear import group_folds
from ecmf_utils.models.search import searched
from ecmf_utils.training import cross_validation

from . import extraction

LABEL_FILE, SPLITS = "track1_label_6way.npz", ("train_corpus", "test1_corpus")
SHARES = (0.25, 0.21, 0.2, 0.16, 0.12, 0.06)  # of six classes; the fourth and fifth are alike
KNOWS = (0.85, 0.7, 0.65)  # share of the clips that a branch says anything about, branch by branch
GAINS = (1.0, 0.75, 0.6)  # how loudly it says it
LATENT, N_FOLDS = 12, 5
CONTENT = 0.35  # size of what the classes share of a dimension; its own noise has size 1


@dataclass(frozen=True)
class Source:
    """Where the features come from: a folder in the official layout, or made up.

    Attributes
    ----------
    published : str
        Folder with `features/<name>-UTT/<clip>.npy` and `track1_label_6way.npz`; empty: made up.
    n_train, n_test : int
        Clips of made-up features.
    dims : tuple of int
        Their dimensions, branch by branch.
    seed : int
    """

    published: str = ""
    n_train: int = 7369
    n_test: int = 2026
    dims: tuple[int, ...] = (1024, 768, 1024)
    seed: int = 0

    def read(self) -> tuple[Features, np.ndarray, Features, np.ndarray]:
        """Training features, labels, test features, test labels."""
        return _published(Path(self.published)) if self.published else _made_up(self)


def _made_up(source: Source) -> tuple[Features, np.ndarray, Features, np.ndarray]:
    """Six classes around points of a latent space, seen by every branch through a random linear map and noise."""
    rng = np.random.default_rng(source.seed)
    n = source.n_train + source.n_test
    y = rng.choice(len(SHARES), size=n, p=SHARES)
    points = rng.standard_normal((len(SHARES), LATENT))
    points[4] = 0.65 * points[3] + 0.35 * points[4]
    clips = points[y] + 0.9 * rng.standard_normal((n, LATENT))
    x = {}
    for i, dim in enumerate(source.dims):
        gain, knows = GAINS[i % len(GAINS)], rng.random(n) < KNOWS[i % len(KNOWS)]
        seen = clips + 0.8 * rng.standard_normal(clips.shape)
        seen[~knows] = 0.9 * rng.standard_normal((int((~knows).sum()), LATENT))
        mix = CONTENT * gain * rng.standard_normal((LATENT, dim)) / LATENT**0.5
        x[f"branch{i}"] = rng.standard_normal((n, dim), np.float32) + (seen @ mix).astype(np.float32)
    names = [f"sample_{i:08d}" for i in range(n)]
    whole = Features(names, x, {b: np.ones(n, bool) for b in x}, {b: v.shape[1] for b, v in x.items()})
    train = np.arange(n) < source.n_train
    return features.take_clips(whole, train), y[train], features.take_clips(whole, ~train), y[~train]


def _published(root: Path) -> tuple[Features, np.ndarray, Features, np.ndarray]:
    found, file = Findings(), root / LABEL_FILE
    arrays = load_npz(file)
    tables = [tabulate_labels(arrays, key, found, file).dropna(subset="label") for key in SPLITS]
    names = sorted(set(pd.concat(tables)["label"]))
    folders = sorted(path for path in (root / "features").glob("*-UTT") if path.is_dir())
    if not folders:
        raise EcmfError(f"{root / 'features'}: no folder *-UTT with one .npy a clip")
    with tempfile.TemporaryDirectory() as store:
        clips = pd.concat(tables).rename(columns={"name": "clip_id"})[["clip_id"]]
        for i, folder in enumerate(folders):
            features.import_features(store, f"branch{i}", folder, clips=clips)
        branches = [f"branch{i}" for i in range(len(folders))]
        parts = [features.load(store, branches, clip_ids=table["name"]) for table in tables]
    y = [table["label"].map(names.index).to_numpy(int) for table in tables]
    return parts[0], y[0], parts[1], y[1]


# ---- the sides


def _warm() -> None:
    """Import what training needs: a second or more, once a process, which no evaluation is to be billed for."""
    train, y, _, _ = _made_up(Source(n_train=48, n_test=1, dims=(4,)))
    model = models.make_model("ecmf", train.dims, len(SHARES), epochs=1)
    model.fit(train, np.eye(len(SHARES))[y], np.ones(len(y)), np.arange(len(y)))


def _n_classes(y: np.ndarray, test_y: np.ndarray) -> int:
    """A class may occur among the test clips only."""
    return int(max(y.max(), test_y.max())) + 1


def _official(source: Source, epochs: int, folds: Sequence[int] | None, seed: int) -> dict[str, Any]:
    train, y, test, test_y = source.read()
    run = official.cross_validate(train, y, test, _n_classes(y, test_y), seed=seed, epochs=epochs, folds=folds)
    f1 = metrics.weighted_f1(test_y, run.test)
    whole = run.cpu_s * (1 if folds is None else N_FOLDS / len(folds))
    return {"CPU s": whole, "test": f1, "reported": run.reported, "settled": run.settled, "optimism": run.optimism}


def _ours(source: Source, trials: int, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    train, y, test, test_y = source.read()
    groups = np.array(train.clip_ids)  # nothing is known about speakers: every clip is its own group
    start = time.process_time()
    n_classes = _n_classes(y, test_y)
    about = ("ecmf", train.dims, n_classes)
    make = models.bind_model(*about, **settings)
    if trials:
        make = partial(searched, *about, n_trials=trials, **settings)
    folds = group_folds(y, groups, N_FOLDS, seed)
    targets, ones = np.eye(n_classes)[y], np.ones(len(y))
    run = cross_validation.cross_validate(make, train, targets, ones, folds, groups, test, seeds=[seed])
    spent = time.process_time() - start
    found = [metrics.weighted_f1(*pair) for pair in ((test_y, run.test), (y, run.oof))]
    return {"CPU s": spent, "test": found[0], "reported": found[1], "settled": found[1], "optimism": 0.0}


def _with_peak(side: Callable[[int], dict[str, Any]], seed: int) -> dict[str, Any]:
    _warm()
    return side(seed) | {"peak (MiB)": extraction.peak_mib()}


def compare_protocols(
    source: Source, seeds: Sequence[int], epochs: int = 100, folds: Sequence[int] | None = None, **settings: Any
) -> pd.DataFrame:
    """Both protocols, seed by seed.

    Parameters
    ----------
    source : Source
        Where the features come from.
    seeds : sequence of int
        Of folds and networks.
    epochs : int
        Of the official side.
    folds : sequence of int, optional
        Folds of the official side that are run, from which its cost is extrapolated; None: all.
    **settings
        Of ECMF.

    Returns
    -------
    DataFrame
        protocol, seed, CPU s (of training and prediction, all folds), test (weighted F1), reported (what the
        protocol says about its held-out folds), settled (without picking epochs on them), optimism
        (reported less settled), peak (MiB) of the process.
    """
    sides = {"official": partial(_official, source, epochs, folds), "ours": partial(_ours, source, 0, settings)}
    rows = [{"protocol": name, "seed": seed} | _run(side, seed) for seed in seeds for name, side in sides.items()]
    return pd.DataFrame(rows)


def measure_epoch(source: Source, repeats: int = 5) -> dict[str, float]:
    """CPU seconds of one epoch of the official protocol and of its bare arithmetic, medians measured in turns.

    Parameters
    ----------
    source : Source
        Where the features come from.
    repeats : int
        Epochs of each.

    Returns
    -------
    dict
        `whole` and `bare`, in CPU seconds.
    """
    return parallel.alone(partial(_epoch_cost, source), repeats)


def _epoch_cost(source: Source, repeats: int) -> dict[str, float]:
    train, y, test, test_y = source.read()
    whole, bare = official.epoch_cost(train, y, test, _n_classes(y, test_y), repeats)
    return {"whole": whole, "bare": bare}


def measure_search(source: Source, n_trials: int, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """Cost and score of a nested search in every outer fold.

    Parameters
    ----------
    source : Source
        Where the features come from.
    n_trials : int
        Of the search in each fold.
    seed : int
        Of folds and networks.
    **settings
        Of ECMF, that the search leaves as they are.

    Returns
    -------
    dict
        CPU s, test and reported (weighted F1), peak (MiB).
    """
    return _run(partial(_ours, source, n_trials, settings), seed)


def measure_scaling(counts: Sequence[int], n_branches: int = 5, dim: int = 256, epochs: int = 3) -> pd.DataFrame:
    """Cost of training and prediction of so many made-up clips, one fit a process.

    Parameters
    ----------
    counts : sequence of int
        Clips of each fit.
    n_branches, dim : int
        Branches, and numbers of each vector.
    epochs : int
        Of each fit.

    Returns
    -------
    DataFrame
        clips, CPU s, peak (MiB), µs a clip, ratio (of the time a clip to that of the first row).
    """
    sides = [partial(_one_fit, Source(n_train=n, n_test=1000, dims=(dim,) * n_branches), epochs) for n in counts]
    table = pd.DataFrame([{"clips": n} | _run(side, 0) for n, side in zip(counts, sides, strict=True)])
    table["µs a clip"] = 1e6 * table["CPU s"] / table["clips"]
    return table.assign(ratio=table["µs a clip"] / table["µs a clip"].iloc[0])


def _one_fit(source: Source, epochs: int, seed: int) -> dict[str, Any]:
    train, y, _, _ = source.read()
    model = models.make_model("ecmf", train.dims, len(SHARES), epochs=epochs, patience=epochs)
    groups = np.array([f"group{i // 20}" for i in range(len(y))])
    start = time.process_time()
    model.fit(train, np.eye(len(SHARES), dtype=np.float32)[y], np.ones(len(y)), groups, seed=seed)
    model.predict(train)
    return {"CPU s": time.process_time() - start}


def measure_stacking(cases: Sequence[tuple[int, int]], axes: int = 64, repeats: int = 5) -> pd.DataFrame:
    """What training several fits at once would save: steps of K networks in turn, and stacked by `torch.func`.

    Parameters
    ----------
    cases : sequence of (K, batch)
        Fits of the same sizes, as those of several seeds are, and clips a step.
    axes : int
        Inputs of each of five branches.
    repeats : int
        Measurements of each; the median is taken.

    Returns
    -------
    DataFrame
        fits, batch, times faster (CPU seconds in turn over stacked, medians measured in turns).
    """
    rows = [parallel.alone(partial(_stacked, *case, axes), repeats) for case in cases]
    return pd.DataFrame([{"fits": k, "batch": n, "times faster": row} for (k, n), row in zip(cases, rows, strict=True)])


def _stacked(k: int, batch: int, axes: int, repeats: int) -> float:
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    from ecmf_utils.models.classifier import reproducible
    from ecmf_utils.models.ecmf import Ecmf

    dims, n_classes = {f"branch{i}": axes for i in range(5)}, len(SHARES)
    x = {branch: torch.randn(batch, dim) for branch, dim in dims.items()}
    about = torch.ones(batch, len(dims), dtype=torch.bool), torch.randn(batch, len(dims), n_classes)
    y, loss = torch.arange(batch) % n_classes, torch.nn.functional.cross_entropy
    with reproducible(0, 1):
        nets = [Ecmf(dims, n_classes).train() for _ in range(k)]
        single = [torch.optim.AdamW(net.parameters(), fused=True) for net in nets]
        stack = {name: value.detach().clone() for name, value in stack_module_state(nets)[0].items()}
        whole = torch.optim.AdamW(stack.values(), fused=True)

        def loss_of(one: dict[str, Any]) -> Any:
            return loss(functional_call(nets[0], one, (x, *about))["logits"], y)

        slopes = vmap(grad(loss_of), randomness="different")

        def in_turn() -> None:
            for net, optimiser in zip(nets, single, strict=True):
                optimiser.zero_grad()
                loss(net(x, *about)["logits"], y).backward()
                optimiser.step()

        def at_once() -> None:
            for name, slope in slopes(stack).items():
                stack[name].grad = slope
            whole.step()

        def several(step: Callable[[], None]) -> None:
            for _ in range(5):  # a single one is over before the clock has moved
                step()

        sides = partial(several, in_turn), partial(several, at_once)
        one, other = extraction.in_turns(*sides, repeats, time.process_time)
    return one / other


def _run(side: Callable[[int], dict[str, Any]], seed: int) -> dict[str, Any]:
    return parallel.alone(partial(_with_peak, side), seed)
