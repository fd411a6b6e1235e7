"""Temperature scaling: it finds the temperature that was used, and never learns on what it is scored on."""

import numpy as np
import pytest
from scipy.special import softmax

from ecmf_utils import metrics


def answers(n=4000, too_sure=3.0, seed=0):
    """Labels drawn from the probabilities of logits, and these probabilities made too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, 4))
    y = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    return y, softmax(logits * too_sure, axis=1)


@pytest.mark.parametrize("too_sure", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_used_is_found(too_sure):
    assert metrics.fit_temperature(*answers(too_sure=too_sure)) == pytest.approx(too_sure, rel=0.08)


def test_scaling_changes_no_prediction_and_keeps_distributions():
    _, proba = answers(200)
    after = metrics.scale_temperature(proba, 2.5)
    assert (after.argmax(1) == proba.argmax(1)).all()
    np.testing.assert_allclose(after.sum(1), 1)
    np.testing.assert_allclose(metrics.scale_temperature(proba, 1.0), proba, atol=1e-9)


def test_the_error_shrinks_out_of_fold_and_on_test():
    (y, proba), (test_y, test) = answers(2000), answers(1000, seed=1)
    table = metrics.tabulate_calibration(y, proba, np.arange(2000) % 4, test_y, test)
    assert list(table.index) == ["out-of-fold", "test"] and (table["temperature"] > 2).all()
    assert (table["ECE after"] < 0.5 * table["ECE before"]).all()


def test_a_folds_labels_do_not_set_its_own_temperature():
    """Fold 0 alone is answered at random; were its temperature learned on it, it would become humble."""
    y, proba = answers(2000, too_sure=1.0)
    fold = np.arange(2000) % 2
    y[fold == 0] = np.random.default_rng(5).integers(0, 4, 1000)
    found = metrics.tabulate_calibration(y, proba, fold)
    alone = metrics.fit_temperature(y[fold == 0], proba[fold == 0])
    assert alone > 5  # what fold 0 would choose for itself
    others = np.mean([metrics.fit_temperature(y[fold != k], proba[fold != k]) for k in (0, 1)])
    assert found.loc["out-of-fold", "temperature"] == pytest.approx(others)
    kept = metrics.scale_temperature(proba[fold == 0], metrics.fit_temperature(y[fold == 1], proba[fold == 1]))
    assert kept.max(1).mean() > 0.5  # fold 0 stays as sure as fold 1 makes it


def test_without_test_clips_there_is_no_test_row():
    y, proba = answers(100)
    assert list(metrics.tabulate_calibration(y, proba, np.arange(100) % 2, y[:0], proba[:0]).index) == ["out-of-fold"]
