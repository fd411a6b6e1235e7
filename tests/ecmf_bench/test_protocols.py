"""The official protocol beside ours: same clips, same labels, and features in the official layout."""

import time
from functools import partial

import numpy as np
import pytest

from ecmf_bench import protocols
from ecmf_utils import metrics, models
from ecmf_utils.evaluation import official as evaluation_official
from ecmf_utils.evaluation.official import OfficialRun
from ecmf_utils.features import take_clips
from ecmf_utils.files import EcmfError

SMALL = protocols.Source(n_train=300, n_test=100, dims=(64, 48, 32), seed=4)


def test_made_up_features_are_hard_but_not_hopeless_and_the_same_twice():
    source = protocols.Source(n_train=1500, n_test=500, dims=(256, 192, 256), seed=1)
    train, y, test, test_y = source.read()
    assert len(train) == len(y) == 1500 and len(test) == len(test_y) == 500 and set(y) == set(range(6))
    model = models.make_model("logreg", train.dims, 6)
    model.fit(train, np.eye(6)[y], np.ones(1500), np.array(train.clip_ids))
    assert 0.55 < metrics.score(test_y, model.predict(test)[0])["weighted_f1"] < 0.9
    again = source.read()
    assert np.array_equal(again[2].x["branch1"], test.x["branch1"]) and np.array_equal(again[3], test_y)


def test_both_sides_are_measured_on_their_own():
    table = protocols.compare_protocols(SMALL, [0], 2)
    assert list(table["protocol"]) == ["official", "ours"] and (table["CPU s"] > 0).all()
    assert table["test"].between(0.01, 1).all() and (table["peak (MiB)"] > 100).all()
    official, ours = table.iloc[0], table.iloc[1]
    assert official["optimism"] == pytest.approx(official["reported"] - official["settled"])
    assert ours["reported"] == ours["settled"]


def test_the_cost_of_few_folds_is_extrapolated_to_all(monkeypatch):
    found = OfficialRun(np.full((100, 6), 1 / 6), 0.5, 0.4, [], 7.0)
    monkeypatch.setattr(evaluation_official, "cross_validate", lambda *args, **how: found)
    assert protocols._official(SMALL, 2, [0, 3], 0)["CPU s"] == 7.0 * 5 / 2
    assert protocols._official(SMALL, 2, None, 0)["CPU s"] == 7.0


@pytest.mark.parametrize(
    "side",
    [
        partial(protocols._official, SMALL, 1, [0]),
        partial(protocols._ours, SMALL, 0, {"epochs": 1}),
        partial(protocols._one_fit, SMALL, 1),
    ],
)
def test_no_side_is_billed_for_what_it_imports(monkeypatch, side):
    protocols._warm()
    begun = []

    def slow():
        begun.append(time.process_time())
        while time.process_time() < begun[0] + 5:
            pass

    monkeypatch.setattr(protocols, "_warm", slow)
    assert 0 < protocols._with_peak(side, 0)["CPU s"] < 5 and begun


def test_a_search_is_measured_too():
    found = protocols.measure_search(SMALL, 2, epochs=3)
    assert found["CPU s"] > 0 and 0.05 < found["test"] < 1


def test_growth_is_measured_on_as_many_clips_as_are_asked_for():
    table = protocols.measure_scaling([200, 400], n_branches=2, dim=16, epochs=2)
    assert list(table["clips"]) == [200, 400] and table["ratio"][0] == 1 and (table["peak (MiB)"] > 100).all()
    assert table["µs a clip"][1] == pytest.approx(1e6 * table["CPU s"][1] / 400)


@pytest.mark.slow
def test_100000_clips_of_five_branches_stay_under_six_gib():
    table = protocols.measure_scaling([100_000], dim=768)
    assert table["peak (MiB)"][0] < 6 * 1024


def test_the_official_layout_is_read(tmp_path):
    train, y, test, test_y = SMALL.read()
    names = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
    for i, branch in enumerate(train.x):
        folder = tmp_path / "features" / f"set{i}-UTT"
        folder.mkdir(parents=True)
        for part in (train, test):
            for clip_id, row in zip(part.clip_ids, part.x[branch], strict=True):
                np.save(folder / f"{clip_id}.npy", row)
    parts = {"train_corpus": (train, y), "test1_corpus": (test, test_y)}
    arrays = {k: {i: {"emo": names[c]} for i, c in zip(p.clip_ids, t, strict=True)} for k, (p, t) in parts.items()}
    np.savez(tmp_path / protocols.LABEL_FILE, **arrays)
    read, labels, read_test, test_labels = protocols.Source(str(tmp_path)).read()
    np.testing.assert_array_equal(read.x["branch2"], train.x["branch2"])
    np.testing.assert_array_equal(read_test.x["branch0"], test.x["branch0"])
    assert [sorted(names)[c] for c in labels] == [names[c] for c in y] and len(test_labels) == 100
    assert take_clips(read, [0]).clip_ids == train.clip_ids[:1]


def test_a_folder_without_features_is_one_clear_line(tmp_path):
    np.savez(tmp_path / protocols.LABEL_FILE, train_corpus={"a": {"emo": "sad"}}, test1_corpus={"b": {"emo": "sad"}})
    with pytest.raises(EcmfError, match="no folder \\*-UTT"):
        protocols.Source(str(tmp_path)).read()


def test_stacked_steps_are_those_of_single_networks(monkeypatch):
    """Without dropout both ways have to end in the same weights, or their times say nothing."""
    import torch

    from ecmf_utils.models import ecmf

    kept = {}

    class Watched(ecmf.Ecmf):
        def __init__(self, dims, n_classes):
            super().__init__(dims, n_classes, dropout=0.0, input_dropout=0.0, branch_dropout=0.0)

    class Kept(torch.optim.AdamW):
        def __init__(self, params, **settings):
            params = list(params)
            kept[len(kept)] = params
            super().__init__(params, **settings)

    monkeypatch.setattr(ecmf, "Ecmf", Watched)
    monkeypatch.setattr(torch.optim, "AdamW", Kept)
    assert protocols._stacked(3, 16, 8, 1) > 0
    for at, stacked in enumerate(kept[3]):
        single = torch.stack([kept[i][at] for i in range(3)])
        if stacked.shape == (3, 1):  # the bias of the branch scores shifts them all: its slope is rounding noise
            continue
        torch.testing.assert_close(single, stacked, atol=2e-4, rtol=0)  # ten steps of .001
