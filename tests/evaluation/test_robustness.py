"""Any subset of branches predicts, and the best one alone is nearly as good as a model of its own."""

import numpy as np
import pytest

from ecmf_utils import features, metrics, plots, training
from ecmf_utils.evaluation import robustness
from ecmf_utils.features import loading
from ecmf_utils.models import bind_model
from ecmf_utils.training import cross_validation
from tests.made_up import DIMS, group_numbers, make_branches, one_hot


@pytest.fixture(scope="module")
def trained():
    data, truth, _, groups = make_branches(700, seed=3, n_groups=20)
    train = np.arange(700) < 400
    part = features.take_clips(data, train)
    folds = group_numbers(groups[train])

    def run(branches):
        dims = {branch: DIMS[branch] for branch in branches}
        some = features.Features(part.clip_ids, {b: part.x[b] for b in dims}, {b: part.present[b] for b in dims}, dims)
        make = bind_model("ecmf", dims, 4)
        args = (one_hot(truth[train]), np.ones(400), folds, groups[train])
        return cross_validation.cross_validate(make, some, *args).estimators

    return run, features.take_clips(data, ~train), truth[~train]


def test_there_are_31_subsets_of_five_and_none_twice():
    found = robustness.list_subsets(list("abcde"))
    assert len(found) == len(set(found)) == 31 and found[0] == tuple("abcde") and () not in found


def test_every_subset_is_predicted_and_what_is_gone_is_not_read(trained):
    run, test, y = trained
    models = run(DIMS)
    table = robustness.score_subsets(models, test, y)
    assert list(table["kept"]) == [3, 2, 2, 2, 1, 1, 1]
    whole = metrics.score(y, cross_validation.predict_mean(models, test)[0])["weighted_f1"]
    assert table["weighted_f1"][0] == pytest.approx(whole)
    assert table["weighted_f1"].max() == table["weighted_f1"][0] and (table["weighted_f1"] > 0.35).all()
    np.testing.assert_allclose(table["loss"][1:], whole - table["weighted_f1"][1:], atol=1e-12)
    assert table.loc[0, "loss":].isna().all()
    assert (table["loss low"][1:] < table["loss"][1:]).all() and (table["loss"][1:] < table["loss high"][1:]).all()
    only_text, all_of_them = table.set_index("branches").loc["text"], cross_validation.predict_mean(models, test)[0]
    proba = training.predict_without(models, test, [branch for branch in DIMS if branch != "text"])
    alone = metrics.paired_difference(y, proba, all_of_them)
    assert (only_text["loss low"], only_text["loss high"]) == pytest.approx(alone.ci)
    assert alone.p <= only_text["p (Holm)"] <= min(1, 6 * alone.p)
    garbled = loading.replace(test, x={b: x if b == "text" else x + 1e3 for b, x in test.x.items()})
    same = robustness.score_subsets(models, garbled, y).set_index("branches")["weighted_f1"]
    assert same["text"] == table.set_index("branches")["weighted_f1"]["text"]
    assert plots.subsets(table).axes


def test_the_best_branch_alone_loses_little_against_its_own_model(trained):
    run, test, y = trained
    table = robustness.score_subsets(run(DIMS), test, y)
    alone = table[table["kept"] == 1].set_index("branches")["weighted_f1"]
    best = alone.idxmax()
    own = metrics.score(y, cross_validation.predict_mean(run([best]), test)[0])["weighted_f1"]
    assert alone[best] > own - 0.03


def test_noise_hurts_the_branch_it_is_on_by_and_by(trained):
    run, test, y = trained
    table = robustness.score_noise(run(DIMS), test, y, seed=1)
    assert set(table["noise"]) == {0.0, *robustness.NOISE} and set(table["branch"]) == set(DIMS)
    mean = table.groupby("noise")["weighted_f1"].mean()
    assert mean[0.0] > mean[2.0] + 0.03
    assert (table["loss"].isna() == (table["noise"] == 0)).all() and table["p (Holm)"].dropna().between(0, 1).all()
    assert plots.noise(table, robustness.score_subsets(run(DIMS), test, y)).axes


def test_noise_has_the_size_asked_for_touches_one_branch_and_no_absent_clip():
    data = make_branches(2000)[0]
    noisy = robustness.add_noise(data, "face", 1.5, seed=2)
    there = data.present["face"]
    added = (noisy.x["face"] - data.x["face"])[there].std(0) / data.x["face"][there].std(0)
    np.testing.assert_allclose(added, 1.5, rtol=0.1)
    assert not noisy.x["face"][~there].any() and noisy.x["text"] is data.x["text"]
    assert np.array_equal(noisy.x["face"], robustness.add_noise(data, "face", 1.5, seed=2).x["face"])
