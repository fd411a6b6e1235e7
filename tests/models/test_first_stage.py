"""The first stage: axes, heads and honest logits of every branch, against scikit-learn and against leaks."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ecmf_utils.features import Features
from ecmf_utils.models import first_stage
from ecmf_utils.models.first_stage import Choice, FirstStage, find_principal_axes
from ecmf_utils.models.linear import Scaler
from tests.made_up import DIMS, make_branches, one_hot


def fitted(data, truth, groups, rows=None, **settings):
    rows = np.arange(len(truth)) if rows is None else rows
    scaler = Scaler().fit(data, rows, list(data.x))
    stage = FirstStage(list(data.x), **settings)
    ones = np.ones(len(rows), np.float32)
    honest = stage.fit(data, scaler, rows, one_hot(truth[rows]).astype(np.float32), ones, groups[rows], 0)
    return stage, scaler, honest


@pytest.mark.parametrize(("n", "dim"), [(200, 12), (30, 50)])
def test_axes_have_unit_variance_do_not_correlate_and_come_by_variance(n, dim):
    x = (np.random.default_rng(0).normal(size=(n, dim)) * np.linspace(0.2, 3, dim)).astype(np.float32)
    axes, values = find_principal_axes(x, 8)
    z = x @ axes
    np.testing.assert_allclose(z.T @ z / n, np.eye(8), atol=2e-3)
    singular = np.linalg.svd(x, compute_uv=False)[:8] ** 2 / n
    np.testing.assert_allclose(values, singular, rtol=1e-3)


@pytest.mark.parametrize("ridge", [0.01, 3.0])
def test_the_ridge_on_all_axes_is_that_of_scikit_learn(ridge):
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(90, 7)).astype(np.float32), one_hot(rng.integers(0, 3, 90), 3)
    x -= x.mean(0)
    axes, values = find_principal_axes(x, 7)
    z = np.hstack([np.ones((90, 1), np.float32), x @ axes])
    equations = first_stage._make_normal_equations(z, targets, np.ones(90))
    table = first_stage._solve_ridge(*equations, values, Choice(7, ridge))
    reference = Ridge(alpha=ridge * 90).fit(x, targets)
    np.testing.assert_allclose(z @ table, reference.predict(x), atol=1e-4)


def test_heads_know_more_than_chance_and_honest_logits_less_than_they_seem():
    data, truth, _, groups = make_branches()
    stage, scaler, honest = fitted(data, truth, groups)
    seen = stage.apply(data, scaler)[1]
    for i, branch in enumerate(DIMS):
        there = data.present[branch]
        right = [(logits[there, i].argmax(1) == truth[there]).mean() for logits in (seen, honest)]
        assert right[0] > right[1] > 0.4


def test_labels_of_pure_chance_are_not_known_out_of_fold():
    data, truth, _, groups = make_branches(240, signal=0.0)
    honest = fitted(data, truth, groups)[2]
    assert (honest.argmax(2) == truth[:, None]).mean() < 0.32  # chance is .25


def test_the_honest_logits_of_a_group_do_not_depend_on_its_labels():
    """Save for the few numbers that all rows share: which axes, which penalty, the calibration."""
    data, truth, _, groups = make_branches(240, n_groups=6)
    first = fitted(data, truth, groups)[2]
    out = groups == "speaker00"
    changed = np.where(out, (truth + 1) % 4, truth)
    second = fitted(data, changed, groups)[2]
    follows = [(logits[out].argmax(2) == changed[out, None]).mean() for logits in (first, second)]
    assert follows[1] <= follows[0] + 0.05


def test_a_signal_on_few_axes_is_cut_out_of_many_dimensions():
    rng = np.random.default_rng(0)
    truth = np.arange(600) % 4
    low = (rng.normal(size=(4, 5)) * 1.5)[truth] + rng.normal(size=(600, 5))
    x = (low @ rng.normal(size=(5, 300)) * 0.5 + rng.normal(size=(600, 300))).astype(np.float32)
    there = np.ones(600, bool)
    data = Features([str(i) for i in range(600)], {"face": x}, {"face": there}, {"face": 300})
    stage, *_ = fitted(data, truth, np.arange(600).astype(str))
    assert stage.chosen_["face"].axes == 8 and stage.dims == {"face": 8}


def test_an_absent_branch_says_nothing():
    data, truth, _, groups = make_branches()
    stage, scaler, honest = fitted(data, truth, groups)
    x, said = stage.apply(data, scaler)
    for i, branch in enumerate(DIMS):
        absent = ~data.present[branch]
        assert absent.any() and not honest[absent, i].any()
        assert not said[absent, i].any() and not x[branch][absent].any()


def test_a_branch_that_is_never_there_says_nothing():
    data, truth, _, groups = make_branches(60)
    data.present["audio"][:] = False
    stage, scaler, honest = fitted(data, truth, groups)
    assert stage.dims["audio"] == 1 and not honest[:, 1].any() and np.isfinite(stage.apply(data, scaler)[1]).all()


def test_it_is_applied_in_pieces_that_change_nothing(monkeypatch):
    data, truth, _, groups = make_branches(120)
    stage, scaler, _ = fitted(data, truth, groups)
    whole = stage.apply(data, scaler)
    monkeypatch.setattr(first_stage, "CHUNK_ROWS", 7)
    parts = stage.apply(data, scaler)
    np.testing.assert_allclose(whole[1], parts[1], atol=1e-5)


def test_no_more_axes_than_asked_for():
    data, truth, _, groups = make_branches(120)
    assert max(fitted(data, truth, groups, components=10)[0].dims.values()) <= 10


FITS = """
import json
import numpy as np
from ecmf_utils.models.registry import make_model
from ecmf_utils.features.loading import Features
rng = np.random.default_rng(3)
truth = np.arange(18) % 3
dims = {"face": 300, "audio": 60, "text": 384}
x = {b: (rng.normal(size=(3, d))[truth] * 0.2 + rng.normal(size=(18, d))).astype(np.float32) for b, d in dims.items()}
data = Features([str(i) for i in range(18)], x, {b: np.ones(18, bool) for b in x}, dims)
model = make_model("ecmf", data.dims, 3, epochs=8)
given = np.where(rng.random(18) < 0.4, (truth + 1) % 3, truth)
model.fit(data, np.eye(3, dtype=np.float32)[given], np.ones(18, np.float32), np.arange(18) // 3, seed=0)
print(json.dumps(model.predict(data)[0].tolist()))
"""


def test_few_rows_give_the_same_predictions_with_other_matrix_kernels():
    """Every processor has its own; rounding must not decide where an axis points or how many are kept."""
    found = []
    for kernel in ("Haswell", "Sandybridge", "Nehalem"):  # older than any x86 machine that runs torch 2; else ignored
        done = subprocess.run(
            [sys.executable, "-c", FITS],
            env={**os.environ, "OPENBLAS_CORETYPE": kernel},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    np.testing.assert_allclose(found[1], found[0], atol=5e-6)
    np.testing.assert_allclose(found[2], found[0], atol=5e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_branch_of_noise_that_one_speaker_has_looks_like_noise(seed):
    """Nothing can be held out by speaker there; what its own labels taught a head must not come back as its opinion."""
    data, truth, _, groups = make_branches(240, seed=seed, n_groups=6)
    rng = np.random.default_rng(seed)
    own = np.flatnonzero(groups == "speaker02")
    noise = np.zeros((240, 60), np.float32)
    noise[own] = rng.normal(size=(len(own), 60))
    data = Features(data.clip_ids, {**data.x, "face": noise}, {**data.present, "face": groups == "speaker02"}, DIMS)
    honest = fitted(data, truth, groups)[2]
    assert (honest[own, 0].argmax(1) == truth[own]).mean() < 0.55  # chance is .25 of 40 rows
    assert np.array_equal(honest, fitted(data, truth, groups)[2])


def test_a_training_set_of_one_speaker_still_gives_honest_logits():
    data, truth, _, _ = make_branches(240, signal=0.0)
    honest = fitted(data, truth, np.zeros(240, int).astype(str))[2]
    assert (honest.argmax(2) == truth[:, None]).mean() < 0.35
