"""Nobody is fooled: each test fails when something of the held-out clips reaches the training."""

import numpy as np
import pytest

from ecmf_utils import features, models
from ecmf_utils.metrics import bootstrap_ci, score
from ecmf_utils.models.classifier import TorchClassifier
from ecmf_utils.models.linear import Scaler, group_folds
from ecmf_utils.refinement import labels
from ecmf_utils.training import cross_validation
from tests.made_up import DIMS, group_numbers, make_branches, one_hot

NAMES = ["neutral", "angry", "happy", "sad"]
SETTINGS = {"ecmf": {"epochs": 12}, "attention": {"epochs": 12, "hidden": 32}, "experts": {"epochs": 12, "hidden": 32}}
MODELS = ["logreg", "late", "stacked", "attention", "experts", "ecmf"]


@pytest.fixture(scope="module")
def problem():
    data, truth, _, groups = make_branches(180, seed=7)
    return data, truth, groups, group_numbers(groups)


def cross_validated(name, problem):
    data, y, groups, folds = problem
    make = models.bind_model(name, data.dims, 4, **SETTINGS.get(name, {}))
    return cross_validation.cross_validate(make, data, one_hot(y), np.ones(len(y)), folds, groups)


def weighted_f1(y, proba):
    return score(y, proba)["weighted_f1"]


def spy_on_fits(monkeypatch, owner):
    """Record the clips that every fit is given, and the model."""
    seen, fit = [], owner.fit

    def spying(self, data, *rest, **kwargs):
        seen.append((list(data.clip_ids), self))
        return fit(self, data, *rest, **kwargs)

    monkeypatch.setattr(owner, "fit", spying)
    return seen


def test_no_fit_is_given_a_clip_or_group_of_the_held_out_fold(monkeypatch, problem):
    data, _, groups, folds = problem
    seen = spy_on_fits(monkeypatch, TorchClassifier)
    cross_validated("ecmf", problem)
    place = {clip_id: i for i, clip_id in enumerate(data.clip_ids)}
    assert len(seen) == 3
    for fold, (ids, _) in enumerate(seen):
        rows = [place[clip_id] for clip_id in ids]
        assert set(folds[rows]) == {0, 1, 2} - {fold}
        assert not set(groups[rows]) & set(groups[folds == fold])


def test_early_stopping_rows_are_inside_the_training_folds_and_of_other_groups(monkeypatch, problem):
    data, _, groups, folds = problem
    seen = spy_on_fits(monkeypatch, TorchClassifier)
    cross_validated("ecmf", problem)
    place = {clip_id: i for i, clip_id in enumerate(data.clip_ids)}
    for fold, (ids, model) in enumerate(seen):
        rows = np.array([place[clip_id] for clip_id in ids])
        train, inner = rows[model.train_rows_], rows[model.inner_rows_]
        assert len(inner) and (folds[inner] != fold).all()
        assert not set(groups[train]) & set(groups[inner])
        assert set(train) | set(inner) == set(rows)


def test_only_training_rows_set_the_scale(monkeypatch, problem):
    data, truth, groups, folds = problem
    out = folds == 0
    wild = {branch: np.where(out[:, None], values + 1e4, values) for branch, values in data.x.items()}
    shifted = features.Features(data.clip_ids, wild, data.present, data.dims)
    rows = np.flatnonzero(~out)
    for branch in DIMS:
        one, two = (Scaler().fit(d, rows, [branch]).mean[branch] for d in (data, shifted))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("name", MODELS)
def test_a_feature_that_knows_only_held_out_labels_does_not_help(name):
    """A column that holds the label on the clips of one fold and noise elsewhere."""
    data, truth, _, groups = make_branches(180, seed=8, signal=0.0)
    folds = group_numbers(groups)
    rng = np.random.default_rng(0)
    told = 3.0 * one_hot(truth) + rng.normal(size=(180, 4))
    noise = rng.normal(size=(180, 4)) + 3.0 * one_hot(rng.permutation(truth))
    found = []
    for fold in range(3):
        x = np.where((folds == fold)[:, None], told, noise).astype(np.float32)
        leaky = features.Features(data.clip_ids, {"leak": x}, {"leak": np.ones(180, bool)}, {"leak": 4})
        proba = cross_validated(name, (leaky, truth, groups, folds)).oof
        found.append(weighted_f1(truth[folds == fold], proba[folds == fold]))
    assert np.mean(found) < 0.40, f"{found}: chance is .25"


@pytest.mark.parametrize("name", MODELS)
def test_shuffled_labels_give_chance(name):
    """On clips of their own, chance lies in the interval; out-of-fold it is not above chance.

    Out-of-fold scores of shuffled labels lie below chance: what is rare in a fold is frequent in the others.
    """
    found = []
    for seed in range(3):
        data, truth, _, groups = make_branches(300, seed=seed)
        y, train = np.random.default_rng(seed).permutation(truth), np.arange(300) < 150
        known, new = features.take_clips(data, train), features.take_clips(data, ~train)
        make = models.bind_model(name, data.dims, 4, **SETTINGS.get(name, {}))
        rows = (one_hot(y[train]), np.ones(150), group_numbers(groups[train]), groups[train])
        run = cross_validation.cross_validate(make, known, *rows, new)
        names = np.array([f"{seed} {group}" for group in groups])
        found.append((y[train], run.oof, names[train], y[~train], run.test, names[~train]))
    y, oof, names, test_y, test, test_names = (np.concatenate(part) for part in zip(*found, strict=True))
    # accuracy: F1 would punish a constant answer
    low, high = bootstrap_ci(test_y, test, test_names, metric="accuracy").ci
    assert low <= 0.25 <= high and high - low < 0.15, f"{low:.3f} to {high:.3f}: chance is .25"
    assert bootstrap_ci(y, oof, names, metric="accuracy").ci[0] <= 0.25


def test_held_out_labels_change_no_held_out_prediction(problem):
    data, truth, groups, folds = problem
    moved = np.where(folds == 1, (truth + 1) % 4, truth)
    for name in ("late", "ecmf"):
        one = cross_validated(name, problem).oof
        two = cross_validated(name, (data, moved, groups, folds)).oof
        assert np.array_equal(one[folds == 1], two[folds == 1])
        assert not np.array_equal(one[folds != 1], two[folds != 1])


def test_held_out_features_change_no_other_clips_prediction(problem):
    """Neither scaling nor anything else looks at what a held-out clip is like."""
    data, truth, groups, folds = problem
    first = np.flatnonzero(folds == 1)[0]
    x = {branch: values.copy() for branch, values in data.x.items()}
    for values in x.values():
        values[first] += 50
    changed = features.Features(data.clip_ids, x, data.present, data.dims)
    others = (folds == 1) & (np.arange(len(folds)) != first)
    one = cross_validated("ecmf", problem).oof
    two = cross_validated("ecmf", (changed, truth, groups, folds)).oof
    assert np.allclose(one[others], two[others], atol=1e-6)


def test_refined_rows_for_a_fold_do_not_know_its_labels():
    data, truth, given, groups = make_branches(160, noise=0.15)
    folds = group_numbers(groups, 4)
    folds[140:], given[140:] = -2, -1
    moved = np.where(folds == 2, (given + 1) % 4, given)
    one, two = (labels.refine_clips(data, y, folds, groups, None, NAMES) for y in (given, moved))
    same = [table[table["for_fold"] == 2].reset_index(drop=True) for table in (one, two)]
    assert same[0].equals(same[1]) and len(same[0]) > 90
    other = [table[table["for_fold"] == 1].reset_index(drop=True) for table in (one, two)]
    assert not other[0].equals(other[1])


def test_refined_rows_for_a_fold_do_not_know_its_features():
    data, _, given, groups = make_branches(160, noise=0.15)
    folds = group_numbers(groups, 4)
    x = {b: np.where((folds == 2)[:, None], v * 7 + 3, v).astype(np.float32) for b, v in data.x.items()}
    changed = features.Features(data.clip_ids, x, data.present, data.dims)
    one, two = (labels.refine_clips(d, given, folds, groups, None, NAMES) for d in (data, changed))
    pairs = [table[table["for_fold"] == 2].reset_index(drop=True) for table in (one, two)]
    assert pairs[0].equals(pairs[1])


def test_a_source_never_saw_the_label_it_judges(problem):
    """Pure noise cannot agree with the given labels more often than chance."""
    data, truth, _, groups = make_branches(180, seed=9, signal=0.0)
    found = labels.sources(data, truth, groups, None, 4)
    for branch in DIMS:
        there = np.isfinite(found[branch][:, 0])
        assert (found[branch][there].argmax(1) == truth[there]).mean() < 0.42


def test_unlabelled_clips_of_held_out_speakers_are_not_labelled_for_that_fold():
    data, _, given, groups = make_branches(160)
    folds = group_numbers(groups, 4)
    speakers = set(groups[folds == 2])
    folds[120:], given[120:] = -2, -1
    table = labels.refine_clips(data, given, folds, groups, None, NAMES, pseudo_at=0.3)
    place = dict(zip(data.clip_ids, groups, strict=True))
    added = table[(table["action"] == "added") & (table["for_fold"] == 2)]
    assert len(added) and not set(added["clip_id"].map(place)) & speakers


def test_inner_folds_never_cross_groups(problem):
    _, truth, groups, _ = problem
    for seed in range(5):
        folds = group_folds(truth, groups, 4, seed)
        assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
        assert len(set(folds)) == 4
