"""Scores agree with scikit-learn; intervals resample the right unit."""

import numpy as np
import pytest
from sklearn import metrics as reference

from ecmf_utils import metrics
from ecmf_utils.files import EcmfError

LABELS = ["neutral", "angry", "happy", "sad"]


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    proba = rng.dirichlet(np.ones(4), 200)
    proba[:100, :] = 0.6 * np.eye(4)[y[:100]] + 0.4 * proba[:100]
    return y, proba


def test_scores_agree_with_scikit_learn(answers):
    y, proba = answers
    found, predicted = metrics.score(y, proba), proba.argmax(1)
    assert found["weighted_f1"] == pytest.approx(reference.f1_score(y, predicted, average="weighted"))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(y, predicted, average="macro"))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, predicted))


def test_weighted_f1_alone_is_that_of_the_scores(answers):
    y, proba = answers
    weights = np.linspace(0, 1, len(y))
    assert metrics.weighted_f1(y, proba) == metrics.score(y, proba)["weighted_f1"]
    assert metrics.weighted_f1(y, proba, weights) == metrics.score(y, proba, weights)["weighted_f1"]


def test_scores_agree_when_a_class_is_absent_from_labels_and_predictions():
    y, proba = np.array([0, 0, 1, 1]), np.eye(4)[[0, 1, 1, 1]]
    expected = reference.f1_score(y, [0, 1, 1, 1], average="macro")
    assert metrics.score(y, proba)["macro_f1"] == pytest.approx(expected)


def test_ece_is_zero_when_confidence_equals_accuracy():
    proba = np.tile([0.75, 0.25], (4, 1))
    assert metrics.score(np.array([0, 0, 0, 1]), proba)["ece"] == pytest.approx(0)


def test_ece_of_sure_and_wrong_is_one():
    assert metrics.score(np.array([1, 1]), np.eye(2)[[0, 0]])["ece"] == pytest.approx(1)


def test_per_class_has_precision_recall_and_f1(answers):
    y, proba = answers
    table = metrics.score_classes(y, proba, LABELS)
    p, r, f, n = reference.precision_recall_fscore_support(y, proba.argmax(1))
    assert list(table["label"]) == LABELS
    np.testing.assert_allclose(table[["precision", "recall", "f1", "n"]].to_numpy().T, [p, r, f, n])


def test_confusion_rows_are_labels():
    counts = metrics.count_confusions(np.array([0, 0, 2]), np.eye(3)[[0, 1, 2]])
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_calibration_curve_counts_every_clip(answers):
    curve = metrics.bin_calibration(*answers, bins=8)
    assert curve["n"].sum() == 200
    assert curve["confidence"].is_monotonic_increasing


def test_interval_holds_the_score_and_is_repeatable(answers):
    y, proba = answers
    low, high = metrics.bootstrap_ci(y, proba).ci
    assert low < metrics.score(y, proba)["weighted_f1"] < high
    assert metrics.bootstrap_ci(y, proba).ci == [low, high]


def test_interval_resamples_groups_when_there_are_enough(answers):
    assert metrics.bootstrap_ci(*answers, np.arange(200) % 10).unit == "groups"
    assert metrics.bootstrap_ci(*answers, np.arange(200) % 3).unit == "clips"
    assert metrics.paired_difference(*answers, answers[1], np.arange(200) % 3).unit == "clips"


def test_interval_is_wider_when_clips_of_a_group_are_right_together():
    groups = np.repeat(np.arange(20), 20)
    y = np.zeros(400, int)
    proba = np.eye(2)[(groups % 3 == 0).astype(int)]
    by_group = metrics.bootstrap_ci(y, proba, groups, metric="accuracy").ci
    by_clip = metrics.bootstrap_ci(y, proba, None, metric="accuracy").ci
    assert np.ptp(by_group) > 2 * np.ptp(by_clip)


def test_coverage_of_the_interval_is_near_95_percent():
    rng, inside = np.random.default_rng(1), 0
    for seed in range(100):
        right = rng.random(300) < 0.7
        low, high = metrics.bootstrap_ci(
            np.zeros(300, int),
            np.eye(2)[1 - right.astype(int)],
            metric="accuracy",
            n=300,
            seed=seed,
        ).ci
        inside += low <= 0.7 <= high
    assert 88 <= inside <= 100


def test_paired_difference_sees_what_separate_intervals_do_not(answers):
    y, proba = answers
    better = proba.copy()
    mended = np.flatnonzero(proba.argmax(1) != y)[:12]
    better[mended] = np.eye(4)[y[mended]]
    found = metrics.paired_difference(y, proba, better)
    assert found.mean > 0 and found.ci[0] > 0 and found.p < 0.05
    assert metrics.bootstrap_ci(y, proba).ci[1] > metrics.bootstrap_ci(y, better).ci[0]


def test_paired_difference_of_a_model_with_itself_is_nothing(answers):
    y, proba = answers
    assert metrics.paired_difference(y, proba, proba) == (0.0, [0.0, 0.0], 1.0, "clips")


def test_paired_difference_changes_sign_with_the_order(answers):
    y, proba = answers
    other = np.random.default_rng(3).dirichlet(np.ones(4), 200)
    forth, back = (metrics.paired_difference(y, *pair) for pair in ((proba, other), (other, proba)))
    assert forth.mean == pytest.approx(-back.mean) and forth.mean < 0


@pytest.mark.parametrize(
    ("y", "proba", "said"),
    [
        ([0, 1], [[1, 0]], "cannot score"),
        ([0, 4], np.eye(2), "labels must be 0 to 1"),
        ([0, -1], np.eye(2), "labels must be"),
        ([0, 1], [[np.nan, 0], [0, 1]], "not finite"),
    ],
)
def test_mistakes_are_one_clear_line(y, proba, said):
    with pytest.raises(EcmfError, match=said):
        metrics.score(np.array(y), np.array(proba))


def test_unknown_metric_lists_the_known_ones(answers):
    with pytest.raises(EcmfError, match="weighted_f1, accuracy, macro_f1"):
        metrics.bootstrap_ci(*answers, metric="f2")


def test_mcnemar_counts_only_clips_that_one_gets_right():
    y = np.zeros(40, int)
    sure = lambda right: np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]])  # noqa: E731
    both = np.arange(40) >= 10
    a, b = both.copy(), both.copy()
    a[:8], b[8:10] = True, True  # 8 against 2
    assert metrics.mcnemar(y, sure(a), sure(b)) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert metrics.mcnemar(y, sure(a), sure(a)) == 1.0


def test_holm_raises_p_values_in_order_and_never_above_one():
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(metrics.holm([0.6, 0.7]), [1.0, 1.0])


def test_of_twenty_comparisons_of_equals_hardly_any_study_finds_one():
    """Without the correction, most studies of twenty would."""
    p = np.random.default_rng(0).random((400, 20))
    assert (p.min(1) < 0.05).mean() > 0.5
    assert np.mean([metrics.holm(row).min() < 0.05 for row in p]) < 0.09


@pytest.mark.parametrize("n_speakers", [4, 8])
def test_with_few_speakers_intervals_still_cover_and_equal_models_seldom_differ(n_speakers):
    """Percentiles of eight speakers cover 88 %, and call equal models different twice as often as they should."""
    inside, found, reps, groups = 0, 0, 150, np.repeat(np.arange(n_speakers), 30)
    for seed in range(reps):
        rng = np.random.default_rng(seed)
        skill = 0.7 + 0.2 * rng.uniform(-1, 1, n_speakers)  # speakers differ, models do not
        pair = [np.eye(2)[(rng.random(len(groups)) > skill[groups]).astype(int)] for _ in range(2)]
        y = np.zeros(len(groups), int)
        low, high = metrics.bootstrap_ci(y, pair[0], groups, n=300, metric="accuracy").ci
        inside += low <= 0.7 <= high
        found += metrics.paired_difference(y, *pair, groups, n=300, metric="accuracy").p < 0.05
    assert inside / reps >= 0.9 and found / reps <= 0.09


def test_clips_count_by_their_weights():
    y, proba = np.array([0, 1, 1]), np.eye(2)[[0, 1, 0]]
    assert metrics.score(y, proba, [1, 1, 0])["weighted_f1"] == 1
    twice = metrics.score(np.repeat(y, [1, 2, 1]), np.repeat(proba, [1, 2, 1], axis=0))
    assert metrics.score(y, proba, [1, 2, 1])["weighted_f1"] == pytest.approx(twice["weighted_f1"])


def test_drawing_clips_needs_no_table_a_clip(monkeypatch):
    """Clips of one label on which the models say the same are alike: 100,000 of them are a few rows."""
    rng = np.random.default_rng(0)
    y, probas = rng.integers(0, 3, 5000), [rng.dirichlet(np.ones(3), 5000) for _ in range(2)]
    tables, counts, unit = metrics._tables(y, probas, None)
    assert unit == "clips" and counts.sum() == 5000 and len(counts) <= 27
    for table, proba in zip(tables, probas, strict=True):
        assert np.array_equal(np.tensordot(counts, table, axes=1), metrics.count_confusions(y, proba))
    each = metrics.bootstrap_ci(y[:300], probas[0][:300], np.arange(300)).ci  # every clip a group: the same draws
    alike = metrics.bootstrap_ci(y[:300], probas[0][:300]).ci
    np.testing.assert_allclose(each, alike, atol=0.006)
