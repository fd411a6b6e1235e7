"""The protocol and its promises: repeatable, resumable, honest about what was predicted."""

import json

import numpy as np
import pytest
import torch

from ecmf_utils import features, training
from ecmf_utils.files import EcmfError
from ecmf_utils.models import bind_model, classifier, linear, make_model
from ecmf_utils.models.classifier import balanced, inner_split, schedule
from ecmf_utils.models.first_stage import FirstStage
from ecmf_utils.training import cross_validation
from tests.made_up import DIMS, group_numbers, make_branches, one_hot

LABELS = ["neutral", "angry", "happy", "sad"]
make = bind_model("ecmf", DIMS, 4, epochs=6, refit=False)


@pytest.fixture(scope="module")
def problem():
    data, truth, _, groups = make_branches(150)
    return data, truth, groups, group_numbers(groups)


@pytest.fixture(scope="module")
def test_clips():
    return make_branches(30, seed=5)[0]


def run(problem, keep=None, seeds=(0, 1), maker=make, **kwargs):
    data, truth, groups, folds = problem
    return cross_validation.cross_validate(
        maker,
        data,
        one_hot(truth),
        np.ones(len(truth)),
        folds,
        groups,
        kwargs.pop("test", None),
        seeds=seeds,
        keep=keep,
        **kwargs,
    )


def test_every_clip_is_scored_once_per_seed(problem, test_clips):
    result = run(problem, test=test_clips)
    assert np.isfinite(result.oof).all() and result.oof.shape == (150, 4)
    assert result.test.shape == (30, 4) and result.test_weights.shape == (30, 3)
    assert len(result.per_seed) == 2 and len(result.estimators) == 6
    np.testing.assert_allclose(result.oof, np.mean(result.per_seed, axis=0))
    assert {(row["fold"], row["seed"]) for h in result.histories for row in h} == {
        (fold, seed) for fold in range(3) for seed in range(2)
    }


def test_test_prediction_is_the_mean_over_folds_and_seeds(problem, test_clips):
    result = run(problem, test=test_clips)
    each = [model.predict(test_clips)[0] for model in result.estimators]
    np.testing.assert_allclose(result.test, np.mean(each, axis=0))
    np.testing.assert_allclose(cross_validation.predict_mean(result.estimators, test_clips)[0], result.test)


@pytest.mark.parametrize("name", ["ecmf", "attention"])
def test_the_same_seed_gives_the_same_bits_twice(problem, name):
    maker = bind_model(name, DIMS, 4, epochs=4)
    torch.manual_seed(123)  # what the caller drew before must not matter
    first = run(problem, seeds=[3], maker=maker)
    torch.rand(10)
    second = run(problem, seeds=[3], maker=maker)
    assert np.array_equal(first.oof, second.oof)


def test_another_seed_gives_another_prediction(problem):
    result = run(problem)
    assert not np.array_equal(*result.per_seed)


def test_training_leaves_the_callers_random_state_alone(problem):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run(problem, seeds=[1])
    assert torch.equal(torch.rand(3), expected)


def test_a_run_that_was_killed_goes_on_and_ends_the_same(problem, tmp_path):
    undisturbed = run(problem)
    calls = []

    def dies_at_the_fourth():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return make()

    with pytest.raises(KeyboardInterrupt):
        run(problem, keep=tmp_path, maker=dies_at_the_fourth)
    resumed = run(problem, keep=tmp_path)
    assert resumed.reused == 3
    assert np.array_equal(resumed.oof, undisturbed.oof)


def test_a_finished_run_is_read_back(problem, tmp_path, test_clips):
    first = run(problem, keep=tmp_path, test=test_clips)
    again = run(problem, keep=tmp_path, test=test_clips)
    assert (first.reused, again.reused) == (0, 6)
    assert np.array_equal(first.test, again.test) and again.histories == first.histories
    models = training.load_run(tmp_path)
    assert np.array_equal(cross_validation.predict_mean(models, test_clips)[0], first.test)


def test_changed_labels_settings_or_features_are_trained_again(problem, tmp_path):
    data, truth, groups, folds = problem
    run(problem, keep=tmp_path, seeds=[0])
    other = bind_model("ecmf", DIMS, 4, epochs=5, refit=False)
    assert run(problem, keep=tmp_path, seeds=[0], maker=other).reused == 0
    run(problem, keep=tmp_path, seeds=[0])
    moved = truth.copy()
    moved[0] = (truth[0] + 1) % 4  # in fold 0: its own fit does not see it, the others do
    assert run((data, moved, groups, folds), keep=tmp_path, seeds=[0]).reused == 1
    run(problem, keep=tmp_path, seeds=[0])
    shifted = {**data.x, "face": data.x["face"] + np.float32(1e-3)}
    changed = features.Features(data.clip_ids, shifted, data.present, data.dims)
    assert run((changed, truth, groups, folds), keep=tmp_path, seeds=[0]).reused == 0


def test_a_half_written_fit_is_made_again(problem, tmp_path):
    first = run(problem, keep=tmp_path, seeds=[0])
    (tmp_path / "seed0-fold1" / "fit.json").write_text('{"dig')
    (tmp_path / "seed0-fold2" / "fit.json").unlink()
    again = run(problem, keep=tmp_path, seeds=[0])
    assert again.reused == 1 and np.array_equal(first.oof, again.oof)


@pytest.mark.parametrize(
    "damage",
    [
        lambda fit, other: (fit / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()),
        lambda fit, other: (fit / "model.safetensors").write_bytes((fit / "model.safetensors").read_bytes()[:2000]),
        lambda fit, other: (fit / "model.safetensors").unlink(),
        lambda fit, other: (fit / "model.json").unlink(),
        lambda fit, other: (fit / "model.json").write_text("{}"),
        lambda fit, other: (fit / "fit.json").write_text("[]"),
    ],
    ids=["of another fold", "cut", "gone", "no configuration", "empty configuration", "no record"],
)
def test_a_damaged_fit_is_never_believed_and_made_again(problem, tmp_path, damage):
    first = run(problem, keep=tmp_path, seeds=[0])
    damage(tmp_path / "seed0-fold1", tmp_path / "seed0-fold2")
    again = run(problem, keep=tmp_path, seeds=[0])
    assert again.reused == 2 and np.array_equal(first.oof, again.oof)
    assert run(problem, keep=tmp_path, seeds=[0]).reused == 3


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_training_that_diverges_says_so_and_leaves_nothing(problem, tmp_path):
    wild = bind_model("attention", DIMS, 4, epochs=3, lr=1e30)
    with pytest.raises(EcmfError, match=r"training diverged, the loss is \w+: lower the learning rate \(lr=1e\+30\)"):
        run(problem, keep=tmp_path, seeds=[0], maker=wild)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_checkpoints_are_safetensors_and_json_only(problem, tmp_path):
    run(problem, keep=tmp_path, seeds=[0])
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {
        ".safetensors",
        ".json",
    }
    info = json.loads((tmp_path / "seed0-fold0" / "model.json").read_text())
    assert info["recipe"]["model"] == "ecmf" and info["inner_rows"]


def test_extra_clips_are_learned_from_and_never_scored(problem):
    data, truth, groups, folds = problem
    folds, groups = folds.copy(), groups.copy()
    folds[:20], groups[:20] = linear.EXTRA, "elsewhere"
    result = run((data, truth, groups, folds), seeds=[0])
    assert np.isnan(result.oof[:20]).all() and np.isfinite(result.oof[20:]).all()
    assert set(range(20)) <= set(linear.training_rows(folds, groups, 1))


def test_extra_clips_of_a_held_out_group_are_left_out(problem):
    _, _, groups, folds = problem
    folds = folds.copy()
    folds[:20] = linear.EXTRA
    rows = linear.training_rows(folds, groups, 1)
    assert not set(groups[rows]) & set(groups[folds == 1])


def test_targets_may_differ_by_held_out_fold(problem):
    data, truth, groups, folds = problem
    asked = []

    def targets(fold):
        asked.append(fold)
        return one_hot(truth)

    maker = bind_model("majority", DIMS, 4)
    cross_validation.cross_validate(maker, data, targets, np.ones(150), folds, groups)
    assert set(asked) == {0, 1, 2}


def test_a_group_in_two_folds_is_refused(problem):
    data, truth, groups, folds = problem
    folds = folds.copy()
    folds[0] = (folds[0] + 1) % 3
    with pytest.raises(EcmfError, match="group 'speaker00' lies in more than one fold"):
        run((data, truth, groups, folds))


def test_one_fold_is_refused(problem):
    data, truth, groups, _ = problem
    with pytest.raises(EcmfError, match="1 folds.*at least 2"):
        run((data, truth, groups, np.zeros(150, int)))


def test_prediction_without_branches_equals_their_absence(problem, test_clips):
    models = run(problem, seeds=[0]).estimators
    absent = {**test_clips.present, "face": np.zeros(30, bool)}
    gone = features.Features(test_clips.clip_ids, test_clips.x, absent, test_clips.dims)
    expected = cross_validation.predict_mean(models, gone)[0]
    assert np.array_equal(training.predict_without(models, test_clips, ["face"]), expected)
    for left in DIMS:
        others = [branch for branch in DIMS if branch != left]
        assert np.isfinite(training.predict_without(models, test_clips, others)).all()


@pytest.mark.parametrize(
    ("targets", "weights", "said"),
    [
        (np.eye(4)[[0] * 150], np.zeros(150), "no clip to train on"),
        (np.ones((150, 4)), np.ones(150), "must be distributions"),
        (np.eye(4), np.ones(150), "150 clips, but targets of shape"),
    ],
)
def test_mistakes_in_targets_are_one_clear_line(problem, targets, weights, said):
    with pytest.raises(EcmfError, match=said):
        make().fit(problem[0], targets, weights, problem[2])


def test_inner_rows_are_whole_groups_and_weightless_rows_are_in_neither(problem):
    _, truth, groups, _ = problem
    weights = np.ones(150)
    weights[:30] = 0
    train, inner = inner_split(one_hot(truth), weights, groups, 0.2, 0)
    assert not set(groups[train]) & set(groups[inner])
    assert sorted([*train, *inner]) == list(range(30, 150)) and 0.1 < len(inner) / 120 < 0.35


def test_early_stopping_keeps_the_best_epoch(problem):
    data, truth, groups, _ = problem
    model = make_model("concat", DIMS, 4, epochs=60, patience=3, lr=2e-2, refit=False)
    model.fit(data, one_hot(truth), np.ones(150), groups)
    losses = [row["inner_loss"] for row in model.history_]
    assert len(losses) == int(np.argmin(losses)) + 4 < 60
    inner = features.take_clips(data, model.inner_rows_)
    proba = model.predict(inner)[0][np.arange(len(model.inner_rows_)), truth[model.inner_rows_]]
    assert -np.log(proba).mean() == pytest.approx(min(losses), rel=1e-4)


def test_class_balance_gives_every_class_the_same_weight():
    targets = one_hot(np.array([0, 0, 0, 1]), 2)
    weights = balanced(np.ones(4, np.float32), targets)
    np.testing.assert_allclose(weights @ targets, [2, 2])


def test_learning_rate_rises_then_falls_to_zero():
    rates = [schedule(done, 0.1) for done in np.linspace(0, 1, 101)]
    assert int(np.argmax(rates)) == 10 and rates[0] < 0.05 and rates[-1] == pytest.approx(0)


def test_the_fusion_learns_from_what_heads_say_of_clips_they_have_not_seen(problem):
    data, truth, groups, _ = problem
    model, rows = make_model("ecmf", DIMS, 4), np.arange(len(truth))
    model.train_rows_, model.inner_rows_ = rows, rows[:0]
    targets, ones = one_hot(truth).astype(np.float32), np.ones(len(truth), np.float32)
    said = model._prepare(data, targets, ones, groups, 3)[0].head_logits.numpy()
    honest = FirstStage(list(DIMS), 256).fit(data, model.scaler_, rows, targets, ones, groups, 3)
    sure = model.stage_.apply(data, model.scaler_)[1]
    assert np.array_equal(said, honest) and np.abs(sure - honest).max() > 0.1


class OnlyPenalty(torch.nn.Module):
    """Says nothing of the classes; what it learns comes from its penalty."""

    def __init__(self, dims):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, present):
        return {"logits": torch.zeros(len(present), 4) + 0 * self.place, "penalty": (self.place - 3).square().sum()}


def test_a_networks_own_penalty_joins_the_loss(problem):
    data, truth, groups, _ = problem
    model = classifier.TorchClassifier(OnlyPenalty, DIMS, lr=0.3, epochs=40, inner_fraction=0.0, weight_decay=0.0)
    model.fit(data, one_hot(truth), np.ones(len(truth)), groups)
    assert model.module_.place.item() == pytest.approx(3, abs=0.1)


def test_the_best_number_of_epochs_is_trained_again_on_all_rows(problem, monkeypatch):
    data, truth, groups, _ = problem
    asked, train = [], classifier.TorchClassifier._train

    def watched(self, *args):
        asked.append((len(args[-3]), len(args[-2]), args[-1]))
        return train(self, *args)

    monkeypatch.setattr(classifier.TorchClassifier, "_train", watched)
    model = make_model("attention", DIMS, 4, epochs=12, patience=3)
    model.fit(data, one_hot(truth), np.ones(len(truth)), groups)
    best = int(np.argmin([row["inner_loss"] for row in model.history_]))
    first, again = asked
    assert first[0] + first[1] == 150 and first[1] > 0 and first[2] == 12
    assert again == (150, 0, best + 1)


@pytest.mark.parametrize("name", ["attention", "concat", "tfn", "lmf"])
def test_the_fields_networks_learn_at_their_defaults(name):
    data, truth, _, groups = make_branches(300, signal=1.5)
    train, held = np.arange(200), np.arange(200, 300)
    model = make_model(name, DIMS, 4)
    model.fit(features.take_clips(data, train), one_hot(truth[train]), np.ones(200), groups[train])
    assert (model.predict(features.take_clips(data, held))[0].argmax(1) == truth[held]).mean() > 0.7


def test_a_run_that_is_trained_again_is_no_run_until_it_is_whole(problem, tmp_path):
    """Half of its fits would be of other settings than the other half, and than its predictions."""
    run(problem, keep=tmp_path, seeds=[0])
    calls = []

    def dies_at_the_second():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make_model("ecmf", DIMS, 4, epochs=2, refit=False)

    with pytest.raises(KeyboardInterrupt):
        run(problem, keep=tmp_path, seeds=[0], maker=dies_at_the_second)
    with pytest.raises(EcmfError, match="run 50_train_fusion first"):
        training.load_run(tmp_path)
    assert run(problem, keep=tmp_path, seeds=[0]).reused == 2 and len(training.load_run(tmp_path)) == 3


def test_models_of_other_code_are_not_loaded(problem, tmp_path, monkeypatch):
    run(problem, keep=tmp_path, seeds=[0])
    monkeypatch.setattr(cross_validation, "code", lambda: "another")
    with pytest.raises(EcmfError, match="trained by other code than there is now; run 50_train_fusion again"):
        training.load_run(tmp_path)


def same_looking(n):
    """Clips that nothing tells apart: what a model says of them is one distribution."""
    x = {"face": np.zeros((n, 2), np.float32)}
    return features.Features([f"c{i}" for i in range(n)], x, {"face": np.ones(n, bool)}, {"face": 2})


SOFT = np.tile([[1.0, 0.0, 0.0], [0.0, 0.6, 0.4]], (60, 1))
PLAIN = np.repeat(np.eye(3), [60, 36, 24], axis=0)


@pytest.mark.parametrize(
    ("targets", "settings", "wanted"),
    [
        (SOFT, {}, [0.5, 0.3, 0.2]),
        (SOFT, {"label_smoothing": 0.3}, [0.45, 0.31, 0.24]),
        (PLAIN, {"class_balance": True}, [1 / 3] * 3),
    ],
)
def test_soft_targets_smoothing_and_balance_move_the_answer_to_where_they_should(targets, settings, wanted):
    model = make_model(
        "concat",
        {"face": 2},
        3,
        hidden=4,
        dropout=0.0,
        lr=0.02,
        epochs=120,
        weight_decay=0.0,
        inner_fraction=0.0,
        batch_size=120,
        **settings,
    )
    model.fit(same_looking(120), targets, np.ones(120), np.arange(120) % 12, seed=0)
    np.testing.assert_allclose(model.predict(same_looking(1))[0][0], wanted, atol=0.01)


def test_every_step_gets_the_rate_of_the_schedule(problem, monkeypatch):
    data, truth, groups, _ = problem
    given = []
    monkeypatch.setattr(classifier, "set_rate", lambda _, rate: given.append(rate))
    model = make_model("concat", DIMS, 4, epochs=5, batch_size=30, warmup=0.2, inner_fraction=0.0)
    model.fit(data, one_hot(truth), np.ones(150), groups, seed=0)
    assert given == [schedule((epoch + i / 5) / 5, 0.2) for epoch in range(5) for i in range(5)]
    assert given[0] < 0.01 and max(given) > 0.99 and given[-1] < 0.05
