"""Refinement mends more labels than it breaks, says why, and never looks at held-out clips."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils.files import EcmfError
from ecmf_utils.refinement import label_audit, labels
from ecmf_utils.refinement.votes import confident_learning, fuse
from tests.made_up import group_numbers, make_branches

NAMES = ["neutral", "angry", "happy", "sad"]


def problem(seed=0, n=240, n_unlabelled=40, noise=0.15, **kwargs):
    """Training clips with noisy labels, then unlabelled clips of the same speakers."""
    data, truth, given, groups = make_branches(n + n_unlabelled, noise=noise, seed=seed, **kwargs)
    folds = group_numbers(groups, 4)
    given[n:], folds[n:] = -1, -2
    return data, truth, given, folds, groups


def language_model(truth, seed=0):
    rng = np.random.default_rng(seed)
    shown = np.where(rng.random(len(truth)) < 0.35, rng.integers(0, 4, len(truth)), truth)
    answers = np.full((len(truth), 4), 0.1)
    answers[np.arange(len(truth)), shown] = 0.7
    answers[::13] = np.nan
    return answers


@pytest.fixture(scope="module")
def case():
    data, truth, given, folds, groups = problem()
    llm = language_model(truth)
    return data, truth, given, folds, groups, llm


@pytest.fixture(scope="module")
def refined(case):
    data, _, given, folds, groups, llm = case
    return labels.refine_clips(data, given, folds, groups, llm, NAMES)


def with_truth(refined, case):
    data, truth = case[:2]
    lookup = dict(zip(data.clip_ids, np.array(NAMES, object)[truth], strict=True))
    return refined.assign(truth=refined["clip_id"].map(lookup))


def test_refined_labels_agree_with_the_truth_more_than_given_ones():
    gains = []
    for seed in range(3):
        data, truth, given, folds, groups = problem(seed)
        table = labels.refine_clips(data, given, folds, groups, language_model(truth, seed), NAMES)
        lookup = dict(zip(data.clip_ids, np.array(NAMES, object)[truth], strict=True))
        rows = table[table["action"] != "added"]
        true = rows["clip_id"].map(lookup)
        gains.append((rows["refined"] == true).mean() - (rows["given"] == true).mean())
    assert np.mean(gains) > 0.02 and min(gains) > 0


def test_clean_labels_are_hardly_touched():
    data, truth, given, folds, groups = problem(noise=0)
    table = labels.refine_clips(data, given, folds, groups, language_model(truth), NAMES)
    assert (table["action"] == "changed").mean() < 0.02


def test_pseudo_labels_are_mostly_right_and_count_less(refined, case):
    added = with_truth(refined, case).query("action == 'added'")
    assert len(added) > 5 and (added["refined"] == added["truth"]).mean() > 0.85
    assert (added["weight"] <= 0.5).all() and (added["confidence"] >= 0.9).all()
    assert added["given"].isna().all()


def test_actions_and_weights_belong_together(refined):
    weight = refined.set_index("action")["weight"]
    assert set(refined["action"]) <= {"kept", "changed", "weighted", "added"}
    assert (weight["kept"] == 1).all() and weight["weighted"].between(0.5, 1).all()
    changed = refined[refined["action"] == "changed"]
    assert (changed["confidence"] >= 0.8).all() and (changed["given"] != changed["refined"]).all()


def test_labels_below_drop_below_are_dropped(case):
    data, _, given, folds, groups, llm = case
    table = labels.refine_clips(data, given, folds, groups, llm, NAMES, change_at=1.1, drop_below=0.4)
    dropped = table[table["action"] == "dropped"]
    assert len(dropped) and dropped["refined"].isna().all() and (dropped["weight"] == 0).all()
    assert not (table["action"] == "changed").any() and (dropped["confidence"] < 0.4).all()


def test_nothing_is_added_above_one(case):
    data, _, given, folds, groups, llm = case
    table = labels.refine_clips(data, given, folds, groups, llm, NAMES, pseudo_at=1.1)
    assert not (table["action"] == "added").any()


def test_why_names_the_sources_that_agree(refined):
    row = refined[refined["action"] == "changed"].iloc[0]
    votes = {
        name: row[[f"s_{name}_{label}" for label in NAMES]].astype(float).to_numpy()
        for name in ("face", "audio", "text", "llm")
    }
    said = [name for name, p in votes.items() if NAMES[np.argmax(p)] == row["refined"]]
    assert f"{len(said)} of" in row["why"] and f"say {row['refined']}" in row["why"]
    assert all(name in row["why"] for name in said)
    assert f"confident learning doubts the given label {row['given']}" in row["why"]


def test_every_label_has_a_reason_and_distributions_are_whole(refined):
    assert refined["why"].str.len().min() > 10
    np.testing.assert_allclose(refined[[f"p_{label}" for label in NAMES]].sum(axis=1), 1)
    assert not refined.duplicated(["clip_id", "for_fold"]).any()


def test_an_absent_branch_is_silent(refined, case):
    data = case[0]
    absent = np.array(data.clip_ids, object)[~data.present["face"]]
    assert refined.loc[refined["clip_id"].isin(absent), "s_face_happy"].isna().all()


def test_every_fold_gets_the_other_clips(refined, case):
    data, _, _, folds, _, _ = case
    for fold in range(4):
        ids = set(refined.loc[refined["for_fold"] == fold, "clip_id"])
        assert not ids & set(np.array(data.clip_ids, object)[folds == fold])
        assert ids >= set(np.array(data.clip_ids, object)[(folds >= 0) & (folds != fold)])


def test_refinement_without_a_language_model(case):
    data, _, given, folds, groups, _ = case
    table = labels.refine_clips(data, given, folds, groups, None, NAMES)
    assert "s_llm_happy" not in table and len(table)


def test_the_same_input_gives_the_same_table(refined, case):
    data, _, given, folds, groups, llm = case
    pd.testing.assert_frame_equal(refined, labels.refine_clips(data, given, folds, groups, llm, NAMES))


def test_two_classes_and_one_branch_work():
    data, _, given, folds, groups = problem(n_classes=2, dims={"text": 30})
    table = labels.refine_clips(data, given, folds, groups, None, NAMES[:2])
    assert set(table["refined"].dropna()) <= set(NAMES[:2])


def test_fewer_groups_than_inner_folds_work():
    data, _, given, folds, groups = problem(n=60, n_unlabelled=0, n_groups=4)
    assert len(labels.refine_clips(data, given, folds, groups, None, NAMES, n_inner=5))


def test_a_useless_source_is_found_unreliable(case):
    data, truth, given, folds, groups, _ = case
    found = labels.sources(data, given, groups, None, 4)
    rng = np.random.default_rng(0)
    noise = np.eye(4)[rng.integers(0, 4, len(given))]
    good = np.eye(4)[np.where(rng.random(len(given)) < 0.8, truth, rng.integers(0, 4, len(given)))]
    _, _, trust = fuse({**found, "noise": noise, "good": good})
    assert trust["noise"] < 0.25 and trust["good"] > 0.6


def test_expected_share_of_right_given_labels_is_near(case):
    data, truth, given, folds, groups, llm = case
    trust = fuse(labels.sources(data, given, groups, llm, 4))[2]["given"]
    assert trust == pytest.approx((given == truth)[given >= 0].mean(), abs=0.07)


def test_confident_learning_doubts_what_other_classes_are_sure_of():
    given = np.array([0, 0, 0, 1, 1, 1])
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.2, 0.8]])
    assert confident_learning(proba, given).tolist() == [False, False, True] + [False] * 3


def test_a_label_that_ends_another_is_no_source_of_its_own(refined):
    names = dict(zip(NAMES, ["glad", "very_glad", *NAMES[2:]], strict=True))
    kinds = ("s_given", "s_face", "s_llm")
    columns = {f"{kind}_{old}": f"{kind}_{new}" for kind in kinds for old, new in names.items()}
    kept = [column for column in refined if not column.startswith(("s_audio", "s_text"))]
    table = label_audit.measure_reliability(refined[kept].rename(columns=columns), list(names.values()))
    assert list(table.index) == ["given", "face", "llm"]


def test_reliability_has_a_row_per_source(refined):
    table = label_audit.measure_reliability(refined, NAMES)
    assert list(table.index) == ["given", "face", "audio", "text", "llm"]
    assert table.loc["given", "agrees with given"] == 1
    assert table.loc["llm", "clips"] < table.loc["given", "clips"] == 240


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c | {"given": c["given"][:-1]}, "clips need as many labels"),
        (
            lambda c: c | {"given": np.full(280, -1)},
            "every clip with a fold needs one of the labels",
        ),
        (lambda c: c | {"given": np.full(280, 7)}, "labels 0 to 3"),
        (lambda c: c | {"llm": np.ones((280, 6))}, "6 columns for 4 labels"),
    ],
)
def test_mistakes_are_one_clear_line(case, change, said):
    data, _, given, folds, groups, llm = case
    c = change({"given": given, "llm": llm})
    with pytest.raises(EcmfError, match=said):
        labels.refine_clips(data, c["given"], folds, groups, c["llm"], NAMES)


def test_one_speaker_only_leaves_the_branches_silent():
    data, _, given, _, _ = problem(n=40, n_unlabelled=0)
    alone = np.array(["one"] * 40, dtype=object)
    found = labels.sources(data, given, alone, None, 4)
    assert np.isnan(found["face"]).all()
