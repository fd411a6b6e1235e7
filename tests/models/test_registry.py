"""Every model by name: better than chance, saved and restored, clear about mistakes."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from ecmf_utils import features, models
from ecmf_utils.files import EcmfError, read_json, write_json
from ecmf_utils.metrics import score
from ecmf_utils.models import linear, linear_fusion, networks, registry
from ecmf_utils.models.linear import Scaler, group_folds, out_of_fold, softmax_regression
from tests.made_up import DIMS, make_branches, one_hot

NETWORKS = ["attention", "concat", "lmf", "tfn", "misa", "mmim", "experts", "ef_lstm", "mfn", "graph_mfn", "mult"]
QUICK = {"ecmf": {"epochs": 12}} | {name: {"epochs": 12, "lr": 3e-3} for name in NETWORKS}
NAMES = ["majority", "logreg", "late", "stacked", *NETWORKS, "ecmf"]


@pytest.fixture(scope="module")
def split():
    data, truth, _, groups = make_branches(300, n_groups=15)
    held_out = group_folds(truth, groups, 3, 0) == 0
    return data, truth, groups, np.flatnonzero(~held_out), np.flatnonzero(held_out)


@pytest.fixture(scope="module")
def fitted(split):
    data, truth, groups, train, _ = split
    train_data = features.take_clips(data, train)

    def fit(name):
        model = models.make_model(name, DIMS, 4, **QUICK.get(name, {}))
        return model.fit(train_data, one_hot(truth[train]), np.ones(len(train)), groups[train])

    return {name: fit(name) for name in NAMES}


def weighted_f1(model, split):
    data, truth, _, _, test = split
    return score(truth[test], model.predict(features.take_clips(data, test))[0])["weighted_f1"]


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_probabilities(fitted, split, name):
    proba, weights = fitted[name].predict(split[0])
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-9)
    assert proba.shape == (300, 4) and (weights is None or weights.shape == (300, 3))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "majority"])
def test_models_learn(fitted, split, name):
    assert weighted_f1(fitted[name], split) > (0.4 if name in NETWORKS else 0.55)  # chance is .25


def test_stacking_does_not_believe_a_branch_that_knows_its_training_rows_by_heart(split, monkeypatch):
    """Wolpert 1992: the top learns from what the branch models say of rows that they have not seen."""
    data, truth, groups, train, test = split
    noise = np.random.default_rng(0).normal(size=(300, 250)).astype(np.float32)
    x, present = data.x | {"noise": noise}, data.present | {"noise": np.ones(300, bool)}
    more = features.Features(data.clip_ids, x, present, DIMS | {"noise": 250})

    def score_stacked():
        model = models.make_model("stacked", more.dims, 4, strength=0.1)
        model.fit(features.take_clips(more, train), one_hot(truth[train]), np.ones(len(train)), groups[train])
        return score(truth[test], model.predict(features.take_clips(more, test))[0])["weighted_f1"]

    def by_heart(x, targets, weights, groups, k, seed, strength):
        return softmax_regression(x, targets, weights, strength).logits(x), strength

    honest = score_stacked()
    monkeypatch.setattr(linear_fusion, "out_of_fold", by_heart)
    assert honest > score_stacked() + 0.15


def test_majority_predicts_the_shares_of_the_training_labels(split):
    data = split[0]
    targets = one_hot(np.arange(300) % 3)
    model = models.make_model("majority", DIMS, 4).fit(data, targets, np.ones(300), split[2])
    np.testing.assert_allclose(model.predict(data)[0][0], [1 / 3, 1 / 3, 1 / 3, 0])


def test_late_is_at_least_as_good_as_its_best_branch(split, fitted):
    data, truth, groups, train, test = split
    alone = []
    for branch in DIMS:
        x, present = {branch: data.x[branch]}, {branch: data.present[branch]}
        only = features.Features(data.clip_ids, x, present, {branch: DIMS[branch]})
        model = models.make_model("late", only.dims, 4)
        model.fit(features.take_clips(only, train), one_hot(truth[train]), np.ones(len(train)), groups[train])
        alone.append(weighted_f1(model, (only, truth, groups, train, test)))
    assert weighted_f1(fitted["late"], split) > max(alone)


@pytest.mark.parametrize("name", ["late", "experts", "ecmf"])
def test_weights_are_shares_of_the_present_branches(fitted, split, name):
    data = split[0]
    _, weights = fitted[name].predict(data)
    present = np.stack(list(data.present.values()), axis=1)
    assert (weights[~present] == 0).all()
    np.testing.assert_allclose(weights.sum(1), present.any(1), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_without_any_branch_gets_a_prediction(fitted, split, name):
    row = features.take_clips(split[0], [0])
    absent = {branch: np.array([False]) for branch in DIMS}
    proba, _ = fitted[name].predict(features.Features(row.clip_ids, row.x, absent, row.dims))
    assert np.isfinite(proba).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_predicts_the_same_to_the_bit(fitted, split, name, tmp_path):
    fitted[name].save(tmp_path)
    restored = registry.load_model(tmp_path)
    assert np.array_equal(restored.predict(split[0])[0], fitted[name].predict(split[0])[0])
    assert not list(tmp_path.glob("*.pkl")) and (tmp_path / "model.safetensors").exists()


def test_a_checkpoint_of_another_configuration_is_refused(fitted, tmp_path):
    fitted["ecmf"].save(tmp_path)
    other = models.make_model("ecmf", DIMS, 4, width=16)
    with pytest.raises(EcmfError, match="another configuration.*settings"):
        other.load(tmp_path)


def test_a_broken_checkpoint_is_one_clear_line(fitted, tmp_path):
    fitted["late"].save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(EcmfError, match="broken"):
        registry.load_model(tmp_path)


@pytest.mark.parametrize("name", ["logreg", "late", "ecmf"])
def test_clips_of_weight_zero_do_not_count(split, name):
    data, truth, groups, train, _ = split
    targets, weights = one_hot(truth), np.zeros(300)
    weights[train] = 1
    out = weights == 0
    wrong = np.where(out[:, None], one_hot((truth + 1) % 4), targets)
    wild = {b: np.where(out[:, None], v + 9, v).astype(np.float32) for b, v in data.x.items()}
    moved = features.Features(data.clip_ids, wild, data.present, data.dims)
    one, two = (
        models.make_model(name, DIMS, 4, **QUICK.get(name, {}))
        .fit(clips, aim, weights, groups)
        .predict(features.take_clips(data, train))[0]
        for clips, aim in ((data, targets), (moved, wrong))
    )
    assert np.array_equal(one, two)


def test_soft_targets_equal_rows_repeated_by_weight():
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(40, 6)), rng.dirichlet(np.ones(3), 40)
    soft = softmax_regression(x, targets, np.ones(40), 0.5)
    reference = LogisticRegression(C=0.5, tol=1e-8, max_iter=5000).fit(
        np.repeat(x, 3, axis=0), np.tile([0, 1, 2], 40), sample_weight=targets.ravel()
    )
    np.testing.assert_allclose(soft.predict(x), reference.predict_proba(x), atol=2e-3)


def test_more_dimensions_than_rows_give_the_optimum_of_scikit_learn():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 200)), rng.integers(0, 3, 50)
    ours = softmax_regression(x, one_hot(y, 3), np.ones(50), 0.01)
    reference = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000).fit(x, y)
    new = rng.normal(size=(20, 200))
    np.testing.assert_allclose(ours.predict(new), reference.predict_proba(new), atol=2e-3)


def test_a_class_without_clips_gets_little_probability():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 5)), rng.integers(0, 2, 60)
    proba = softmax_regression(x, one_hot(y, 3), np.ones(60), 1.0).predict(x)
    assert proba.shape == (60, 3) and proba[:, 2].max() < 0.05


def test_out_of_fold_logits_do_not_know_the_labels_of_their_group():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(120, 300)), rng.integers(0, 4, 120)
    logits, _ = out_of_fold(x, one_hot(y), np.ones(120), np.arange(120) % 10)
    assert (logits.argmax(1) == y).mean() < 0.42


def test_the_official_attention_network_has_the_published_layers():
    module = networks.OfficialAttention({"a": 10, "b": 20}, 6, hidden=8)
    shapes = [tuple(p.shape) for p in module.parameters() if p.ndim == 2]
    encoders = [(8, 10), (8, 8), (8, 8), (8, 20), (8, 8), (8, 8)]
    assert shapes == [*encoders, (8, 16), (8, 8), (8, 8), (2, 8), (6, 8)]
    assert module.classify.weight.shape == (6, 8)
    assert sum(isinstance(m, torch.nn.Softmax) for m in module.modules()) == 0


def test_scaler_ignores_absent_rows_and_constant_columns():
    x = np.array([[1.0, 5], [3, 5], [0, 0]], np.float32)
    data = features.Features(["a", "b", "c"], {"face": x}, {"face": np.array([1, 1, 0], bool)}, {"face": 2})
    scaled = Scaler().fit(data, np.arange(3), ["face"]).apply(data)["face"]
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [0, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 3), (40, 5, 3)])
def test_scaling_in_place_is_the_formula_to_the_bit_and_leaves_the_features_alone(dtype, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    x[1] = 500  # an outlier
    there = np.arange(40) % 4 > 0
    data = features.Features([str(i) for i in range(40)], {"face": x}, {"face": there}, {"face": 3})
    before = x.copy()
    scaler = Scaler().fit(data, np.arange(40), ["face"])
    known = x[there].reshape(-1, 3)
    mean, scale = known.mean(0, dtype=np.float64).astype(np.float32), known.std(0, dtype=np.float64).astype(np.float32)
    most = linear.MOST_DEVIATIONS
    wanted = np.clip((x - mean) / scale, -most, most) * there.reshape(-1, *[1] * (x.ndim - 1))
    scaled = scaler.apply(data)["face"]
    assert np.array_equal(scaled, wanted.astype(np.float32)) and scaled.dtype == np.float32
    assert np.array_equal(x, before) and (np.abs(wanted) == most).any()


def test_the_logarithm_of_a_softmax_is_that_of_scipy_to_the_bit():
    logits = 30 * np.random.default_rng(0).normal(size=(200, 6))
    assert np.array_equal(linear._log_softmax(logits), log_softmax(logits, axis=1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: models.bind_model("lstm", DIMS, 4), "unknown model 'lstm'.*attention, concat, ecmf, .*tfn"),
        (lambda: models.bind_model("ecmf", DIMS, 4, depth=2), "no setting 'depth'.*dropout"),
        (lambda: models.bind_model("majority", DIMS, 4, epochs=2), "no setting 'epochs'.*none"),
        (lambda: models.bind_model("ecmf", {}, 4), "no branch"),
    ],
)
def test_unknown_names_are_told_before_any_training(call, said):
    with pytest.raises(EcmfError, match=said):
        call()


def test_cuda_that_is_not_there_is_told():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    with pytest.raises(EcmfError, match="finds no CUDA GPU; set device=cpu or auto"):
        models.make_model("ecmf", DIMS, 4, device="cuda")


@pytest.mark.parametrize("name", ["logreg", "late", "ecmf"])
def test_features_that_are_not_finite_name_the_branch(split, name):
    data, truth, groups, *_ = split
    bad = {**data.x, "audio": data.x["audio"].copy()}
    bad["audio"][np.flatnonzero(data.present["audio"])[0], 0] = np.nan
    broken = features.Features(data.clip_ids, bad, data.present, data.dims)
    with pytest.raises(EcmfError, match="branch audio: 1 clips have NaN"):
        models.make_model(name, DIMS, 4).fit(broken, one_hot(truth), np.ones(300), groups)


def test_features_of_another_size_are_told(fitted, split):
    data = split[0]
    wider = {**data.x, "face": np.zeros((300, 61), np.float32)}
    with pytest.raises(EcmfError, match="branch face: 61 dimensions.*trained on 60"):
        fitted["late"].predict(features.Features(data.clip_ids, wider, data.present, {**DIMS, "face": 61}))


def test_parameters_are_counted(fitted):
    assert fitted["late"].n_parameters == (150 + 3) * 4
    stage = fitted["ecmf"].stage_
    heads = sum((k + 1) * 4 for k in stage.dims.values())
    own = sum(parameter.numel() for parameter in fitted["ecmf"].module_.parameters())
    assert stage.n_parameters == heads and fitted["ecmf"].n_parameters == heads + own


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs=0: expected at least 1"),
        ({"lr": -1.0}, "lr=-1.0: expected above 0"),
        ({"batch_size": -3}, "batch_size=-3: expected at least 0"),
        ({"inner_fraction": 0.6}, "inner_fraction=0.6: expected 0 to 0.5"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: expected at least 0 and below 1"),
        ({"components": -1}, "components=-1: expected at least 0"),
        ({"dropout": 1.5}, "model ecmf: dropout=1.5: expected at least 0 and below 1"),
        ({"device": "tpu"}, "device 'tpu': expected auto, cpu, cuda or cuda:1"),
        ({"attend": False}, "model ecmf has no setting 'attend'"),
        ({"attention": "no"}, "model ecmf: attention='no': expected True or False"),
        ({"residual": 1}, "residual=1: expected True or False"),
        ({"lr": "fast"}, "lr='fast': expected a number"),
        ({"lr": float("nan")}, "lr=nan: expected a number"),
        ({"dropout": None}, "dropout=None: expected a number"),
        ({"patience": 1.5}, "patience=1.5: expected a whole number"),
        ({"layers": -1}, "layers=-1: expected at least 1"),
        ({"device": False}, "device=False: expected a text"),
    ],
)
def test_a_setting_out_of_range_is_one_clear_line(wrong, said):
    with pytest.raises(EcmfError, match=said):
        models.make_model("ecmf", DIMS, 4, **wrong)


def test_unscaled_features_reach_the_network_as_they_are():
    data, truth, _, groups = make_branches(60)
    data.x["face"] *= 100
    scaler = Scaler().fit(data, np.arange(60), list(DIMS), scale=False)
    assert np.array_equal(scaler.apply(data)["face"], data.x["face"])
    again = Scaler.from_arrays(scaler.to_arrays(), list(DIMS))
    assert np.array_equal(again.apply(data)["face"], data.x["face"])
    assert np.abs(Scaler().fit(data, np.arange(60), list(DIMS)).apply(data)["face"]).max() <= 5


def test_branches_of_tiny_numbers_are_scaled_like_any_other():
    data, *_ = make_branches(60)
    wanted = Scaler().fit(data, np.arange(60), list(DIMS)).apply(data)["face"]
    data.x["face"] *= np.float32(1e-8)
    np.testing.assert_allclose(Scaler().fit(data, np.arange(60), list(DIMS)).apply(data)["face"], wanted, atol=1e-4)


def test_features_of_other_dimensions_than_announced_are_one_clear_line():
    data, truth, _, groups = make_branches(60)
    model = models.make_model("attention", DIMS | {"face": 61}, 4)
    with pytest.raises(EcmfError, match="branch face: 60 dimensions, expected 61"):
        model.fit(data, one_hot(truth), np.ones(60), groups)


def test_the_first_clip_with_nan_is_named():
    data, truth, _, groups = make_branches(60)
    there = np.flatnonzero(data.present["face"])
    data.x["face"][there[[4, 9]], 2] = np.nan
    for name in ("ecmf", "logreg"):
        with pytest.raises(EcmfError, match=f"branch face: 2 clips have NaN.*'{data.clip_ids[there[4]]}'"):
            models.make_model(name, DIMS, 4).fit(data, one_hot(truth), np.ones(60), groups)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("misa", {"hidden": 33}, "misa: hidden=33: expected an even number"),
        ("mult", {"width": 30}, "mult: width=30, heads=4: expected a width that the heads divide"),
        ("mfn", {"hidden": 0}, "hidden=0: expected at least 1"),
    ],
)
def test_sizes_that_make_no_network_are_one_clear_line(name, wrong, said):
    with pytest.raises(EcmfError, match=said):
        models.make_model(name, DIMS, 4, **wrong).network(DIMS)


def test_loading_leaves_the_callers_random_state_alone(tmp_path):
    data, truth, _, groups = make_branches(60)
    model = models.make_model("ecmf", DIMS, 4, epochs=2).fit(data, one_hot(truth), np.ones(60), groups)
    model.save(tmp_path)
    before = torch.random.get_rng_state()
    registry.load_model(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_search_on_some_rows_ends_where_groups_are_no_divisor_of_their_number(monkeypatch):
    monkeypatch.setattr(linear, "SEARCH_ROWS", 100)
    data, truth, _, _ = make_branches(300)
    rows = data.x["audio"], one_hot(truth), np.ones(300), np.arange(300) // 30
    logits, strength = out_of_fold(*rows)
    assert logits.shape == (300, 4) and strength in linear.STRENGTHS
    assert np.array_equal(logits, out_of_fold(*rows, strength=strength)[0])


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [("mmim", {"hidden": 1}, "hidden=1: expected at least 2"), ("mult", {"kernel": 2}, "kernel=2: expected an odd")],
)
def test_a_size_that_a_model_cannot_have_is_one_clear_line(name, wrong, said):
    with pytest.raises(EcmfError, match=said):
        models.make_model(name, DIMS, 4, **wrong).fit(*_few(), seed=0)


def _few():
    data, truth, _, groups = make_branches(40)
    return data, one_hot(truth), np.ones(40), groups


@pytest.mark.parametrize("change", [{"recipe": None}, {"recipe": {"model": "ecmf"}}])
def test_a_checkpoint_without_a_recipe_is_one_clear_line(fitted, tmp_path, change):
    fitted["ecmf"].save(tmp_path)
    write_json(tmp_path / "model.json", read_json(tmp_path / "model.json") | change)
    with pytest.raises(EcmfError, match=r"model.json: no recipe of a model; train it again"):
        registry.load_model(tmp_path)


def test_weights_that_do_not_fit_their_settings_are_one_clear_line(fitted, tmp_path):
    fitted["attention"].save(tmp_path)
    info = read_json(tmp_path / "model.json")
    info["recipe"]["settings"] = {"hidden": 64}
    write_json(tmp_path / "model.json", info)
    with pytest.raises(EcmfError, match="do not fit the settings beside them; train again$"):
        registry.load_model(tmp_path)


def test_a_model_of_a_machine_with_a_gpu_is_loaded_on_one_without(fitted, split, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fitted["ecmf"].save(tmp_path)
    info = read_json(tmp_path / "model.json")
    info["recipe"]["settings"] = info["recipe"]["settings"] | {"device": "cuda:3"}
    write_json(tmp_path / "model.json", info)
    assert np.array_equal(registry.load_model(tmp_path).predict(split[0])[0], fitted["ecmf"].predict(split[0])[0])


@pytest.mark.parametrize("settings", [{}, {"auxiliary": False}, {"components": 0}])
def test_heads_count_and_speak_only_where_they_are_used(settings):
    with_heads = not settings
    model = models.make_model("ecmf", DIMS, 4, epochs=1, refit=False, **settings).fit(*_few(), seed=0)
    own = list(model.module_.parameters())
    assert all(p.grad is not None for p in own)
    assert (model.n_parameters > sum(p.numel() for p in own)) == with_heads
    assert (model.predict_heads(_few()[0]) is not None) == with_heads
