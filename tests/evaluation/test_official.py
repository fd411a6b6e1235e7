"""The official protocol as published: what it does, and what it reports."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ecmf_utils.evaluation import official
from ecmf_utils.features import Features, take_clips
from ecmf_utils.files import EcmfError
from ecmf_utils.metrics import score
from ecmf_utils.models.networks import OfficialAttention
from tests.made_up import make_branches

QUICK = {"epochs": 12, "batch_size": 8, "hidden": 16, "lr": 3e-3}


@pytest.fixture(scope="module")
def data():
    features, truth, *_ = make_branches(160, signal=0.8)
    return features, truth


@pytest.fixture(scope="module")
def run(data):
    return official.cross_validate(*data, data[0], 4, **QUICK)


def test_every_fold_is_scored_after_every_epoch_and_the_best_one_is_reported(run):
    assert [len(curve) for curve in run.curves] == [12] * 5
    assert run.reported == pytest.approx(np.mean([max(curve) for curve in run.curves]))
    assert run.optimism == pytest.approx(run.reported - run.settled) and run.optimism > 0


def test_test_clips_are_predicted_by_the_best_epoch_of_every_fold(data, run, monkeypatch):
    assert run.test.shape == (160, 4) and np.allclose(run.test.sum(1), 1, atol=1e-5)
    logits = iter([np.tile([k, 0.0, 1.0, 0.0], (160, 1)) for k in range(5)])
    other = np.tile([0.0, 9.0, 0.0, 0.0], (160, 1))
    monkeypatch.setattr(official, "_fold", lambda *_: ([0.1, 0.9, 0.3], [other, next(logits), other]))
    found = official.cross_validate(*data, data[0], 4, **QUICK)
    assert found.reported == 0.9 and len(found.curves) == 5
    np.testing.assert_allclose(found.test, softmax(np.tile([2.0, 0.0, 1.0, 0.0], (160, 1)), axis=1))  # of the mean


def test_the_reported_figure_flatters_where_there_is_nothing_to_learn():
    """Labels that are pure chance: the settled figure is chance, the reported one is above it."""
    rng = np.random.default_rng(0)
    x = {"face": rng.normal(size=(120, 10)).astype(np.float32)}
    features = Features([f"c{i}" for i in range(120)], x, {"face": np.ones(120, bool)}, {"face": 10})
    found = official.cross_validate(features, np.arange(120) % 4, features, 4, epochs=25, hidden=16, lr=3e-3)
    assert found.settled < 0.3 and found.optimism > 0.05


def test_folds_are_random_disjoint_and_cover_all_clips(data, monkeypatch):
    seen = []

    def watched(net, loaders, epochs, lr):
        seen.append((set(loaders[0].sampler.indices), list(loaders[1].sampler), loaders[0].batch_size))
        return [0.5], [np.zeros((160, 4))]

    monkeypatch.setattr(official, "_fold", watched)
    official.cross_validate(*data, data[0], 4)
    held = [i for _, rows, _ in seen for i in rows]
    assert sorted(held) == list(range(160)) and held != sorted(held)
    assert all(train == set(range(160)) - set(rows) for train, rows, _ in seen)
    assert {size for *_, size in seen} == {32}


def test_the_loader_gives_what_tensors_in_memory_give(data):
    """The arithmetic is the network's own: an epoch over batches cut by index ends in the same weights."""
    features, truth = data
    clips = official.Clips(features, truth)
    ends = []
    for by_loader in (True, False):
        torch.manual_seed(0)
        net = OfficialAttention(features.dims, 4, 8, dropout=0.0)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        if by_loader:
            batches = official.DataLoader(clips, 32, sampler=range(160))
        else:
            rows = torch.arange(160).split(32)
            batches = [{b: v[i] for b, v in clips.x.items()} | {"": clips.y[i]} for i in rows]
        official.learn(net, batches, optimiser)
        ends.append(net.classify.weight.detach().clone())
    assert torch.equal(*ends)


def test_the_cost_of_an_epoch_is_that_of_the_same_batches_with_and_without_the_loader(data, monkeypatch):
    features, truth = data
    seen, epoch = [], official._epoch

    def watched(net, loaders, optimiser):
        seen.append([sorted(int(y) for batch in loader for y in batch[""]) for loader in loaders])
        return epoch(net, loaders, optimiser)

    monkeypatch.setattr(official, "_epoch", watched)
    whole, bare = official.epoch_cost(features, truth, features, 4, repeats=3)
    assert len(seen) == 6 and all(one == seen[0] for one in seen) and [len(part) for part in seen[0]] == [128, 32, 160]
    assert 0 < bare and 0 < whole


def test_the_same_seed_gives_the_same_bits(data, run):
    again = official.cross_validate(*data, data[0], 4, **QUICK)
    assert np.array_equal(again.test, run.test) and again.curves == run.curves
    other = official.cross_validate(*data, data[0], 4, seed=1, folds=[0], **QUICK)
    assert len(other.curves) == 1 and other.curves[0] != run.curves[0]
    assert score(data[1], run.test)["weighted_f1"] > 0.5


@pytest.mark.parametrize("y", [np.full(160, -1), np.full(160, 4), np.zeros(3, int)])
def test_a_label_that_cannot_be_is_one_line(data, y):
    with pytest.raises(EcmfError, match="at least 5 clips with labels 0 to 3"):
        official.cross_validate(data[0], y, data[0], 4)


def test_a_corpus_without_test_clips_is_reported_on_all_the_same(data):
    features, truth = data
    found = official.cross_validate(features, truth, take_clips(features, np.zeros(0, int)), 4, folds=[0], **QUICK)
    assert found.test.shape == (0, 4) and 0 < found.reported <= 1
