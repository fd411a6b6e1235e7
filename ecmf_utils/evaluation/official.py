"""The protocol of the official MER2025 toolkit as published, to compare with: what it costs and how far it flatters.

Random folds that know no groups, a fixed number of epochs in batches from a `DataLoader`, the held-out
fold and the test clips predicted after every epoch; each fold's epoch that is best on its held-out
fold counts, and that maximum is what it reports (MERTools, github.com/zeroQiaoba/MERTools).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from ecmf_utils.code import digest_modules
from ecmf_utils.features import Features
from ecmf_utils.files import EcmfError, data_dir
from ecmf_utils.metrics import weighted_f1
from ecmf_utils.models.checkpoints import libraries, read_model, write_model
from ecmf_utils.models.classifier import reproducible
from ecmf_utils.models.networks import OfficialAttention
from ecmf_utils.progress import track
from ecmf_utils.training import cross_validation
from ecmf_utils.training.problem import Problem

FOLDS, BATCH, HIDDEN, DROPOUT, LR = 5, 32, 128, 0.5, 1e-4  # the last three: known draws of the toolkit
SETTLED = 20  # epochs at the end whose median tells what a fold is worth without picking one
Batch = dict[str, torch.Tensor]


@dataclass
class OfficialRun:
    """What the protocol gives.

    Attributes
    ----------
    test : float array (M, C)
        Test probabilities: the softmax of the mean over folds of the logits at each fold's best epoch.
    reported : float
        Weighted F1 of the held-out folds at their best epochs, mean over folds: what the protocol reports.
    settled : float
        The same for the median of the last `SETTLED` epochs: without picking an epoch by its score.
    curves : list of list of float
        Weighted F1 on the held-out fold, fold by fold and epoch by epoch.
    cpu_s : float
        CPU seconds of this process.
    """

    test: np.ndarray
    reported: float
    settled: float
    curves: list[list[float]] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def optimism(self) -> float:
        """How much of the reported score is due to picking epochs on the clips that it is reported on."""
        return self.reported - self.settled


class Clips(Dataset):
    """One clip at a time, as the toolkit's data set hands them out."""

    def __init__(self, features: Features, y: np.ndarray) -> None:
        self.x = {branch: torch.from_numpy(values) for branch, values in features.x.items()}
        self.y = torch.from_numpy(np.array(y))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Batch:
        return {branch: values[i] for branch, values in self.x.items()} | {"": self.y[i]}


def cross_validate(
    data: Features,
    y: np.ndarray,
    test: Features,
    n_classes: int,
    *,
    seed: int = 0,
    n_folds: int = FOLDS,
    epochs: int = 100,
    batch_size: int = BATCH,
    hidden: int = HIDDEN,
    dropout: float = DROPOUT,
    lr: float = LR,
    threads: int = 1,
    folds: Iterable[int] | None = None,
) -> OfficialRun:
    """Run the protocol.

    Parameters
    ----------
    data, y : Features, int array (N,)
        All training clips and their labels, 0 to C - 1.
    test : Features
        Clips to predict; their labels are nobody's business here.
    seed : int
        Of the folds and the networks; the toolkit itself sets none.
    hidden, dropout, lr
        Of the toolkit's `attention`; it draws them at random, these are the ones that we know to have been drawn.
    folds : iterable of int, optional
        Only these, to extrapolate the cost from.

    Raises
    ------
    EcmfError
        A clip without a label, or fewer clips than folds.
    """
    y = np.asarray(y)
    if len(y) < n_folds or len(y) != len(data) or (y < 0).any() or y.max() >= n_classes:
        raise EcmfError(f"official protocol: expected at least {n_folds} clips with labels 0 to {n_classes - 1}")
    held = _folds(len(y), n_folds, seed)
    clips, to_predict = Clips(data, y), Clips(test, np.zeros(len(test), int))
    start, curves, predicted = time.process_time(), [], []
    with reproducible(seed, threads):
        chosen = list(range(n_folds) if folds is None else folds)
        for k in track(chosen, len(chosen), "official folds"):
            net = OfficialAttention(data.dims, n_classes, hidden, dropout)
            curve, logits = _fold(net, _loaders(clips, to_predict, held, k, batch_size), epochs, lr)
            curves.append(curve)
            predicted.append(logits[int(np.argmax(curve))])
    reported = float(np.mean([max(curve) for curve in curves]))
    settled = float(np.mean([np.median(curve[-SETTLED:]) for curve in curves]))
    proba = softmax(np.mean(predicted, axis=0), axis=1)  # the toolkit averages what comes before the softmax
    return OfficialRun(proba, reported, settled, curves, time.process_time() - start)


def run_official(profile: str, problem: Problem, seed: int, epochs: int) -> OfficialRun:
    """The protocol of the official toolkit on the given labels; read from disk where nothing it sees has changed."""
    labelled, n = problem.labelled(), len(problem.given)
    folder = data_dir(profile) / "runs" / "official"
    kept = ("reported", "settled", "curves", "cpu_s")
    seen = cross_validation.seen_by(
        labelled, problem.given, np.ones(n), np.zeros(n, int), problem.group[:n], problem.test
    )
    made_by = [cross_validation.code(), digest_modules("ecmf_utils.evaluation.official"), *libraries()]
    recipe = {"seen": seen, "code": made_by, "n_classes": len(problem.labels), "seed": seed, "epochs": epochs}
    with contextlib.suppress(EcmfError):  # there is none, or of something else, or broken: it is made again
        arrays, info = read_model(folder, recipe)
        return OfficialRun(arrays["test"], **{key: info[key] for key in kept})
    about = {"seed": seed, "epochs": epochs}
    found = cross_validate(labelled, problem.given, problem.test, len(problem.labels), **about)
    write_model(folder, {"test": found.test}, recipe, {key: getattr(found, key) for key in kept})
    return found


def epoch_cost(data: Features, y: np.ndarray, test: Features, n_classes: int, repeats: int = 5) -> tuple[float, float]:
    """CPU seconds of one epoch of the first fold, and of its bare arithmetic on batches that lie ready in memory.

    Medians, measured in turns. An epoch learns from four folds, then predicts the fifth and the test clips.
    """
    held = _folds(len(y), FOLDS, 0)
    clips, to_predict = Clips(data, np.asarray(y)), Clips(test, np.zeros(len(test), int))
    spent: list[list[float]] = [[], []]
    with reproducible(0, 1):
        net = OfficialAttention(data.dims, n_classes, HIDDEN, DROPOUT)
        optimiser = _optimiser(net, LR)
        published = _loaders(clips, to_predict, held, 0, BATCH)
        ready = [list(loader) for loader in published]
        for _ in range(repeats):
            for loaders, seconds in zip((published, ready), spent, strict=True):
                start = time.process_time()
                _epoch(net, loaders, optimiser)
                seconds.append(time.process_time() - start)
    return float(np.median(spent[0])), float(np.median(spent[1]))


def _folds(n: int, n_folds: int, seed: int) -> list[np.ndarray]:
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return np.array_split(np.array(order), n_folds)


def _loaders(clips: Clips, to_predict: Clips, held: list[np.ndarray], k: int, batch_size: int) -> list[DataLoader]:
    """Of the other folds, of fold k, and of the test clips."""
    train = np.concatenate([rows for i, rows in enumerate(held) if i != k])
    return [
        DataLoader(clips, batch_size, sampler=SubsetRandomSampler(train.tolist())),
        DataLoader(clips, batch_size, sampler=held[k].tolist()),
        DataLoader(to_predict, batch_size),
    ]


def _optimiser(net: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr, weight_decay=1e-5)


def _fold(net: nn.Module, loaders: list[Iterable[Batch]], epochs: int, lr: float) -> tuple[list[float], list]:
    """Weighted F1 on the held-out fold and logits of the test clips after every epoch."""
    optimiser = _optimiser(net, lr)
    found = [_epoch(net, loaders, optimiser) for _ in range(epochs)]
    return [f1 for f1, _ in found], [logits for _, logits in found]


def _epoch(net: nn.Module, loaders: list[Iterable[Batch]], optimiser: torch.optim.Optimizer) -> tuple[float, Any]:
    learn(net, loaders[0], optimiser)
    y, logits = predict(net, loaders[1])
    return weighted_f1(y, softmax(logits, axis=1)), predict(net, loaders[2])[1]


def learn(net: nn.Module, batches: Iterable[Batch], optimiser: torch.optim.Optimizer) -> None:
    """One epoch."""
    net.train()
    for batch in batches:
        optimiser.zero_grad()
        nn.functional.cross_entropy(_logits(net, batch), batch[""]).backward()
        optimiser.step()


@torch.no_grad()
def predict(net: nn.Module, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and logits (N, C)."""
    net.eval()
    parts = [(batch[""], _logits(net, batch)) for batch in batches]
    if not parts:  # a corpus without test clips
        return np.empty(0, int), np.empty((0, net.classify.out_features))
    return torch.cat([y for y, _ in parts]).numpy(), torch.cat([p for _, p in parts]).numpy()


def _logits(net: nn.Module, batch: Batch) -> torch.Tensor:
    return net(batch, None)["logits"]
