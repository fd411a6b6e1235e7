"""The nested search: it finds what is better, sees no outer clip, goes on where it stopped."""

import functools

import numpy as np
import pytest

from ecmf_utils import models
from ecmf_utils.features import take_clips
from ecmf_utils.files import EcmfError
from ecmf_utils.models import registry, search
from ecmf_utils.training import cross_validation
from tests.made_up import DIMS, group_numbers, make_branches, one_hot

SPACE = {"strength": (1e-6, 1.0, "log")}


def searched(n_trials=6, space=SPACE, **settings):
    make = functools.partial(models.make_model, "logreg", DIMS, 4)
    return search.Searched(lambda **own: make(**({"strength": 1e-6} | own)), space, n_trials, **settings)


@pytest.fixture(scope="module")
def data():
    return make_branches(200)


def fit(model, data, rows=slice(None)):
    features, truth, _, groups = data
    rows = np.arange(len(truth))[rows]
    return model.fit(take_clips(features, rows), one_hot(truth[rows]), np.ones(len(rows)), groups[rows], seed=3)


def test_it_finds_better_settings_than_bad_defaults(data):
    model = fit(searched(12), data)
    assert model.trials_[0]["settings"] == {}  # the defaults come first
    assert model.best_["strength"] > 1e-5 and search.cost([model.trials_])["inner_gain"] > 0.1
    assert len(model.trials_) == 12 and search.cost([model.trials_] * 2)["trials"] == 24


def test_no_outer_clip_is_ever_given_to_a_trial(data):
    """Recorded: every clip that a trial learned from or was scored on."""
    features, truth, _, groups = data
    folds, seen = group_numbers(groups), []

    class Watched:
        def __init__(self, **settings):
            self.recipe, self.history_ = {"model": "watched"}, []

        def fit(self, features, *_, seed):
            seen.append(set(features.clip_ids))
            return self

        def predict(self, features):
            seen.append(set(features.clip_ids))
            return np.full((len(features.clip_ids), 4), 0.25), None

    make = functools.partial(search.Searched, Watched, {"x": (0.0, 1.0)}, 3)
    cross_validation.cross_validate(make, features, one_hot(truth), np.ones(len(truth)), folds, groups)
    each = 3 * 2 + 1 + 1  # trials that learn and are scored, the fit that is kept, the prediction of the outer fold
    assert len(seen) == 3 * each
    for fold in range(3):
        outer = {features.clip_ids[i] for i in np.flatnonzero(folds == fold)}
        *trials, predicted = seen[fold * each : (fold + 1) * each]
        assert predicted == outer and not any(outer & clips for clips in trials)
        for learned, scored in zip(trials[:6:2], trials[1:6:2], strict=True):
            inner = [features.clip_ids.index(i) for i in scored]
            rest = [features.clip_ids.index(i) for i in learned]
            assert not learned & scored and not set(groups[inner]) & set(groups[rest])


def test_a_search_that_was_interrupted_ends_as_an_undisturbed_one(data, tmp_path):
    whole = fit(searched(9), data)
    for n_trials in (4, 9):
        part = searched(n_trials)
        part.journal = tmp_path / "trials.log"
        fit(part, data)
    assert [t["settings"] for t in part.trials_] == [t["settings"] for t in whole.trials_]
    assert np.array_equal(part.predict(data[0])[0], whole.predict(data[0])[0])


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-40], lambda raw: raw + b"\0" * 64, lambda raw: raw.replace(b'"op_code":6', b'"op_code"6', 1)],
    ids=["cut", "zeros", "a broken line"],
)
def test_a_damaged_journal_costs_some_trials_and_changes_nothing(data, tmp_path, damage):
    whole, part = fit(searched(5), data), searched(5)
    part.journal = tmp_path / "trials.log"
    fit(part, data)
    broken = damage(part.journal.read_bytes())
    assert broken != part.journal.read_bytes()
    part.journal.write_bytes(broken)
    fit(part, data)
    assert [t["settings"] for t in part.trials_] == [t["settings"] for t in whole.trials_]
    assert np.array_equal(part.predict(data[0])[0], whole.predict(data[0])[0])


def test_a_trial_that_diverges_is_the_worst_one_and_the_search_goes_on(data):
    make = functools.partial(models.make_model, "attention", DIMS, 4, epochs=3)
    model = fit(search.Searched(make, {"lr": [1e-3, 1e30]}, 6), data)
    assert model.best_.get("lr", 1e-3) == 1e-3
    assert {t["score"] for t in model.trials_ if t["settings"].get("lr") == 1e30} == {0.0}


def test_it_is_an_estimator_like_the_others(data, tmp_path):
    features, truth, _, groups = data
    labels = (one_hot(truth), np.ones(len(truth)), group_numbers(groups), groups)
    first = cross_validation.cross_validate(lambda: searched(3), features, *labels, keep=tmp_path)
    again = cross_validation.cross_validate(lambda: searched(3), features, *labels, keep=tmp_path)
    assert again.reused == 3 and np.array_equal(first.oof, again.oof)
    assert [m.best_ for m in again.estimators] == [m.best_ for m in first.estimators]
    assert cross_validation.cross_validate(lambda: searched(4), features, *labels, keep=tmp_path).reused == 0


def test_what_cannot_be_searched_is_one_line(data):
    features, truth, *_ = data
    with pytest.raises(EcmfError, match="no setting 'depth'"):
        searched(space={"depth": [1, 2]})
    with pytest.raises(EcmfError, match="n_trials=0: expected at least 1"):
        searched(0)
    with pytest.raises(EcmfError, match="one group, or too few"):
        searched().fit(features, one_hot(truth), np.ones(200), np.zeros(200), seed=0)


def test_every_outer_fold_has_a_search_of_its_own(data, tmp_path):
    """One that is shared would choose for a fold what its own held-out clips liked best."""
    features, truth, _, groups = data
    folds = group_numbers(groups)
    labels = (one_hot(truth), np.ones(len(truth)), folds, groups)
    run = cross_validation.cross_validate(lambda: searched(4), features, *labels, seeds=[3, 4], keep=tmp_path)
    assert len(list(tmp_path.glob("search-*.log"))) == 3  # the seeds of a fold share it
    for fold in range(3):
        alone = fit(searched(4), data, np.flatnonzero(folds != fold))
        for model in (run.estimators[fold], run.estimators[3 + fold]):
            assert [t["score"] for t in model.trials_] == [t["score"] for t in alone.trials_]


def test_what_a_search_chose_is_loaded_like_any_model(data, tmp_path):
    model = fit(searched(3), data)
    model.save(tmp_path)
    assert np.array_equal(registry.load_model(tmp_path).predict(data[0])[0], model.predict(data[0])[0])


@pytest.mark.parametrize("killed_in", [11, 14])
def test_a_search_killed_inside_a_trial_ends_like_an_undisturbed_one(tmp_path, killed_in):
    """A trial that was never told its score must not count where the sampler learns from earlier ones."""

    def score(settings, calls=None):
        if calls is not None:
            calls.append(1)
            if len(calls) == killed_in:
                raise KeyboardInterrupt
        return -abs(np.log10(settings.get("strength", 1e-6)) + 3.3)

    def run(name, calls=None):
        model = searched(18)
        model.journal = tmp_path / name
        model._search(functools.partial(score, calls=calls))
        return [t["settings"] for t in model.trials_]

    with pytest.raises(KeyboardInterrupt):
        run("killed.log", [])
    assert run("killed.log") == run("whole.log")
