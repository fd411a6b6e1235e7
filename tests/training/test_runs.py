"""Runs: which labels reach which fold, what the truth can reach, what a score row says."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from ecmf_utils import corpus, evaluation, features, models, training
from ecmf_utils.corpus import manifest
from ecmf_utils.evaluation import comparison, differences, official
from ecmf_utils.files import EcmfError, data_dir, write_parquet
from ecmf_utils.models import classifier, linear, linear_fusion, registry
from ecmf_utils.training import runs
from tests.conftest import build

LABELS = ["neutral", "angry", "happy"]
BRANCHES = ["face", "audio"]


@pytest.fixture
def profile(home, monkeypatch):
    """A corpus of 60 training, 18 test and 6 unlabelled clips whose vectors show the label."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(84):
        split = "train" if i < 60 else "test" if i < 78 else "unlabelled"
        label = LABELS[i % 3]
        rows.append(
            {
                "clip_id": f"c{i}",
                "split": split,
                "label": None if split == "unlabelled" else label,
                "group": f"{split[:2]}{i % 6}",
                "speaker": f"{split[:2]}{i % 6}",
                "status": "ok",
                "shown": label,
            }
        )
    clips = pd.DataFrame(rows)
    vectors = {b: np.eye(3)[clips["shown"].map(LABELS.index)] + rng.normal(0, 0.5, (84, 3)) for b in BRANCHES}

    def load(_, branches, clip_ids=None, steps=0):
        from ecmf_utils.features import Features

        at = [int(one[1:]) for one in clip_ids]
        return Features(
            list(clip_ids),
            {b: vectors[b][at].astype(np.float32) for b in branches},
            {b: np.ones(len(at), bool) for b in branches},
            {b: 3 for b in branches},
        )

    monkeypatch.setattr(features, "load", load)
    manifest.save_clips("p", clips.drop(columns="shown"), LABELS)
    folds = manifest.make_folds(clips, 3)
    write_parquet(folds, data_dir("p") / "folds.parquet")
    return clips.set_index("clip_id")


def refine(clips, change):
    """Refined rows as notebook 40 writes them, with one change: {(clip_id, for_fold): label}."""
    folds = corpus.read_folds("p").set_index("clip_id")["fold"]
    rows = [
        {
            "clip_id": c,
            "for_fold": k,
            "refined": change.get((c, k), clips.loc[c, "label"]),
            "weight": 1.0,
            "action": "kept",
        }
        for k in (-1, 0, 1, 2)
        for c in folds.index
        if folds[c] != k
    ]
    rows += [{"clip_id": "c78", "for_fold": k, "refined": "happy", "weight": 0.5, "action": "added"} for k in (0, 1, 2)]
    write_parquet(pd.DataFrame(rows), data_dir("p") / "labels" / "refined.parquet")
    return folds


def test_given_labels_are_one_hot_and_equal_for_every_fold(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    assert all((problem.targets[k].argmax(1) == problem.given).all() for k in problem.targets)


def test_a_refined_label_reaches_only_the_folds_it_was_made_for(profile):
    folds = refine(profile, {})
    clip = folds.index[folds == 0][0]
    refine(profile, {(clip, 1): "happy" if profile.loc[clip, "label"] != "happy" else "angry"})
    problem = training.load_problem("p", BRANCHES, LABELS, "refined")
    row = problem.data.clip_ids.index(clip)
    assert problem.targets[1][row].argmax() != problem.given[row]
    assert problem.targets[2][row].argmax() == problem.given[row]


def test_pseudo_labelled_clips_join_the_training_and_are_never_scored(profile):
    refine(profile, {})
    problem = training.load_problem("p", BRANCHES, LABELS, "refined")
    extra = problem.data.clip_ids.index("c78")
    assert problem.fold[extra] == linear.EXTRA and problem.weights[0][extra] == 0.5
    assert len(problem.given) == 60 and extra >= 60


def test_pseudo_labelled_clips_of_tested_speakers_are_not_learned_from(profile):
    refine(profile, {})
    clips = corpus.read_clips("p")
    clips.loc[clips["clip_id"] == "c78", "group"] = clips.loc[clips["clip_id"] == "c60", "group"].item()
    manifest.save_clips("p", clips, LABELS)
    assert "c78" not in training.load_problem("p", BRANCHES, LABELS, "refined").data.clip_ids


def test_scores_are_those_of_the_held_out_clips(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    result = training.cross_validate("p", "late", problem, models.bind_model("late", problem.data.dims, 3), [0])
    rows = {row["split"]: row for row in training.score_rows("p", problem, result, "late")}
    assert rows["test"]["n"] == 18 and rows["oof"]["n"] == 60
    assert rows["test"]["weighted_f1"] > 0.7 and rows["oof"]["scored_on"] == "observed"
    low, high = rows["oof"]["ci95"]
    assert low <= rows["oof"]["weighted_f1"] <= high


def test_single_seeds_are_scored_beside_their_mean_probability(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    make = models.bind_model("ecmf", problem.data.dims, 3, epochs=2, width=8)
    result = training.cross_validate("p", "ecmf", problem, make, [0, 1, 2])
    rows = {row["split"]: row for row in training.score_rows("p", problem, result, "ecmf")}
    known = problem.test_y >= 0
    tested = [proba[known] for proba in result.test_per_seed]
    for split, y, each in (("oof", problem.given, result.per_seed), ("test", problem.test_y[known], tested)):
        single = [f1_score(y, proba.argmax(1), average="weighted") for proba in each]
        assert len(single) == rows[split]["seeds"] == 3
        assert rows[split]["seed_mean"] == pytest.approx(np.mean(single), abs=1e-4)
        assert rows[split]["seed_sd"] == pytest.approx(np.std(single, ddof=1), abs=1e-4)
    once = training.cross_validate("p", "once", problem, make, [0])
    assert all("seed_sd" not in row for row in training.score_rows("p", problem, once, "ecmf"))


def test_the_truth_changes_scores_and_never_predictions(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    make = models.bind_model("logreg", problem.data.dims, 3)
    without = training.cross_validate("p", "a", problem, make, [0])
    truth = pd.DataFrame({"clip_id": profile.index, "truth": "angry"})
    write_parquet(truth, data_dir("p") / "truth.parquet")
    again = training.load_problem("p", BRANCHES, LABELS, "given")
    with_truth = training.cross_validate("p", "b", again, make, [0])
    assert np.array_equal(without.test, with_truth.test) and np.array_equal(without.oof, with_truth.oof)
    rows = training.score_rows("p", again, with_truth, "logreg")
    assert [row["scored_on"] for row in rows] == ["observed", "truth", "truth"]


def test_a_second_comparison_trains_nothing(profile, monkeypatch):
    planned = evaluation.plan_runs(["late"], [], "logreg", BRANCHES, False)
    first = evaluation.run_plan("p", planned, LABELS, [0], 5)
    fits = []
    monkeypatch.setattr(linear_fusion.LateFusion, "fit", lambda *_, **__: fits.append(1))
    monkeypatch.setattr(linear_fusion.LogisticRegression, "fit", lambda *_, **__: fits.append(1))
    assert evaluation.run_plan("p", planned, LABELS, [0], 5) == first and not fits


def test_several_processes_give_the_same_runs_to_the_bit(home):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"clip_id": [f"c{i}" for i in range(48)], "split": ["train"] * 36 + ["test"] * 12})
    rows["label"] = [LABELS[i % 3] for i in range(48)]
    rows["group"] = rows["speaker"] = [f"{split}{i % 6}" for i, split in enumerate(rows["split"])]
    rows.to_csv(home / "labels.csv", index=False)
    for branch in BRANCHES:
        vectors = np.eye(3)[[i % 3 for i in range(48)]] + rng.normal(0, 0.7, (48, 3))
        table = pd.DataFrame(vectors).add_prefix("v").assign(clip_id=rows["clip_id"])
        table.to_csv(home / f"{branch}.csv", index=False)
    files = {branch: f"{branch}.csv" for branch in BRANCHES}
    build("p", kind="features", source=home, manifest="labels.csv", labels=LABELS, features=files, n_folds=3)
    planned = evaluation.plan_runs(["late", "attention"], [], "logreg", BRANCHES, False)
    tables = []
    for n_workers in (2, 1):
        done = evaluation.run_plan("p", planned, LABELS, [0], 3, n_workers=n_workers)
        assert list(done) == [one["key"] for one in planned]
        tables.append([training.read_predictions("p", key) for key in done])
        shutil.rmtree(data_dir("p") / "runs")
    assert all(one.equals(other) for one, other in zip(*tables, strict=True))


def test_the_plan_names_single_branches_refined_labels_and_ablations_once_each():
    keys = [one["key"] for one in evaluation.plan_runs(["ecmf", "late"], ["late"], "logreg", BRANCHES, True)]
    assert len(keys) == len(set(keys)) == 2 + 1 + 2 + 5 + 2


def test_the_plan_trains_ecmf_otherwise_on_the_labels_of_notebook_50():
    rows = evaluation.plan_runs(["ecmf", "late"], [], "", ["face"], True, [], ["lmf"], 2, None, "given")
    assert [row["model"] for row in rows if row["base"] != "ecmf"] == ["late", "lmf-searched"]  # ecmf: notebook 50's
    assert all(row["labels"] == "given" and row["branches"] == ["face"] for row in rows) and len(rows) == 2 + 5


def test_what_was_searched_is_compared_with_what_was_searched():
    planned = evaluation.plan_runs(["ecmf", "late"], ["late"], "logreg", BRANCHES, True, [], ["lmf", "ecmf"], 2)
    ours = {"model": "ecmf", "labels": "refined", "branches": BRANCHES}
    done = {one["key"]: [one] for one in planned} | {"ecmf": [ours]}
    found = differences.pair_runs(done)
    assert {name: ours for name, (ours, _) in found.items()} == {
        "other models, given labels": "ecmf-face+audio-given",
        "other models, refined labels": "ecmf",
        "itself otherwise": "ecmf",
        "other models, settings searched": "ecmf-searched-face+audio-refined",
    }
    assert found["other models, settings searched"][1] == ["lmf-searched-face+audio-refined"]
    singles = ["logreg-face-given", "logreg-audio-given"]
    assert found["other models, given labels"][1] == ["late-face+audio-given", *singles]
    assert found["other models, refined labels"][1] == ["late-face+audio-refined"]
    assert len(found["itself otherwise"][1]) == 1 + 5 + 2  # given labels, switches, branches
    names = {comparison.describe_run(one, BRANCHES) for one in planned}
    assert {"late · all · refined", "logreg · face · given", "ecmf-no-attention · all · refined"} <= names
    assert list(differences.pair_runs({"ecmf": done["ecmf"]})) == []


def test_many_encoders_do_not_make_a_name_that_no_disk_takes():
    branches = [f"audio@{'x' * 40}{i}" for i in range(6)]
    keys = [one["key"] for one in evaluation.plan_runs(["late", "attention"], [], "", branches, True, (), ["ecmf"], 2)]
    assert len(set(keys)) == len(keys) and max(map(len, keys)) < 160
    with pytest.raises(EcmfError, match="searched_models: gated has no entry in search.SPACES: nothing to search"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(registry.NETWORKS, "gated", registry.NETWORKS["concat"])
            evaluation.plan_runs([], [], "", branches, False, (), ["gated"], 2)


def test_other_labels_than_any_ecmf_learned_are_told_in_the_name_of_the_family():
    (late,) = evaluation.plan_runs(["late"], [], "", BRANCHES, False)
    done = {late["key"]: [late], "ecmf": [{"model": "ecmf", "labels": "refined", "branches": BRANCHES}]}
    assert differences.pair_runs(done) == {"other models, given labels (ECMF: refined)": ("ecmf", [late["key"]])}


def test_what_has_no_settings_to_search_is_run_as_it_is_and_once():
    rows = evaluation.plan_runs([], ["late"], "", BRANCHES, False, (), ["ecmf", "logreg", "late", "stacked"], 4)
    assert [(row["model"], row["labels"], row["trials"]) for row in rows] == [
        ("late", "refined", 0),
        ("ecmf-searched", "refined", 4),
        ("logreg", "refined", 0),
        ("stacked", "refined", 0),
    ]


def test_the_plan_adds_branches_in_the_order_asked_for_and_searches_at_the_end():
    branches = ["scene", "face", "audio", "text", "context"]
    rows = evaluation.plan_runs([], [], "", branches, True, ["face", "scene", "context"], ["ecmf", "lmf"], 4)
    grown = [row["branches"] for row in rows if row["model"] == "ecmf"][5:]
    assert grown == [["audio", "text"], ["face", "audio", "text"]]  # with scene: all but context, there already
    assert ["scene", "face", "audio", "text"] in [row["branches"] for row in rows]
    assert [(row["model"], row["base"], row["trials"]) for row in rows[-2:]] == [
        ("ecmf-searched", "ecmf", 4),
        ("lmf-searched", "lmf", 4),
    ]
    assert len({row["key"] for row in rows}) == len(rows)


def test_a_searched_run_searches_once_a_fold_for_all_seeds_and_is_read_back(profile, monkeypatch):
    planned = evaluation.plan_runs([], [], "", BRANCHES, False, (), ["attention"], 2)
    planned[0]["labels"] = "given"
    fits, fit = [], classifier.TorchClassifier.fit
    monkeypatch.setattr(classifier.TorchClassifier, "fit", lambda self, *a, **k: fits.append(1) or fit(self, *a, **k))
    first = evaluation.run_plan("p", planned, LABELS, [0, 1], 2)
    n_folds = len(set(corpus.read_folds("p")["fold"]))
    assert len(fits) == n_folds * (2 + 2)  # two trials and a fit a seed
    assert evaluation.run_plan("p", planned, LABELS, [0, 1], 2) == first and len(fits) == n_folds * 4
    row = first[planned[0]["key"]][0]
    assert row["model"] == "attention-searched" and row["search"]["trials"] == 2 * n_folds
    assert 0 < row["search"]["seconds"] < row["seconds"] and row["search"]["inner_gain"] >= 0


def test_the_estimate_counts_every_fit(profile):
    planned = evaluation.plan_runs(["late", "attention"], ["late"], "", BRANCHES, False, (), ["attention"], 3)
    for one in planned:
        one["labels"] = "given"
    table = evaluation.estimate_minutes("p", planned, LABELS, [0, 1], 2)
    n_folds = len(set(corpus.read_folds("p")["fold"]))
    assert dict(table["fits"]) == {"late": 2 * n_folds, "attention": n_folds * (2 + 2 + 3)}
    assert (table["minutes"] >= 0).all() and (table["seconds a fit"] > 0).all()


def test_how_far_a_comparison_is_in_the_minutes_of_its_estimate(profile):
    planned = evaluation.plan_runs(["late"], [], "", BRANCHES, False, (), ["attention"], 3)
    late, searched = planned[0], planned[1] | {"labels": "given"}
    table = evaluation.estimate_minutes("p", [late, searched], LABELS, [0, 1], 2)
    table["seconds a fit"] = [60.0, 120.0]
    n_folds, began = table.attrs["folds"], time.time()

    def minutes(*ended, began=began):
        return comparison.minutes("p", [late, searched], [0, 1], table, began, ended)

    total = n_folds * (1 + 2 * (2 + 3))
    assert n_folds == len(set(corpus.read_folds("p")["fold"])) and minutes() == (0, total)
    evaluation.run_plan("p", [late], LABELS, [0, 1], 2)
    assert minutes() == minutes(late["key"]) == (n_folds, total)
    evaluation.run_plan("p", [searched], LABELS, [0, 1], 2)
    assert minutes() == minutes(late["key"], searched["key"]) == (total, total)
    for note in (data_dir("p") / "runs" / searched["key"]).glob("*/fit.json"):
        if note.parent.name not in ("seed0-fold0", "seed1-fold0"):
            note.unlink()
    assert minutes() == (n_folds + 2 * (1 + 3) + 2 * (1 + 3), total)  # so far it might be two folds of the first seed
    again = data_dir("p") / "runs" / late["key"] / "seed0-fold0" / "fit.json"
    again.unlink()
    again.symlink_to("gone")  # listed, and removed before it is looked at
    assert minutes()[0] == n_folds - 1 + 2 * (1 + 3) + 2 * (1 + 3)
    again.unlink()
    later = time.time() + 1
    assert minutes(late["key"], began=later) == (0, total - n_folds)  # what was there before is no work


def test_the_first_network_is_not_billed_for_what_it_imports(profile, monkeypatch):
    planned, met = evaluation.plan_runs(["majority", "late", "attention", "concat"], [], "", BRANCHES, False), []

    def timed(profile, one, *rest):
        network = registry.has_epochs(one["base"])
        met.append(network)
        return 100.0 if met.count(network) == 1 else 1.0, 2

    monkeypatch.setattr(comparison, "_timed", timed)
    assert (evaluation.estimate_minutes("p", planned, LABELS, [0])["seconds a fit"] == 1).all()
    assert len(met) == 4 + 2  # once more for each kind only


def test_the_estimate_times_a_few_epochs_and_counts_as_many_as_are_usual(profile, monkeypatch):
    planned, asked = evaluation.plan_runs(["attention"], [], "", BRANCHES, False), []
    fit = classifier.TorchClassifier.fit

    def watched(self, *args, **kwargs):
        start = time.perf_counter()
        fit(self, *args, **kwargs)
        asked.append((self.epochs, self.refit, time.perf_counter() - start))

    monkeypatch.setattr(classifier.TorchClassifier, "fit", watched)
    row = evaluation.estimate_minutes("p", planned, LABELS, [0]).loc["attention"]
    epochs, refit, seconds = asked[-1]
    assert (epochs, refit) == (comparison.FEW, False)
    assert row["seconds a fit"] == pytest.approx(seconds * comparison.TYPICAL / comparison.FEW, rel=0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: setattr(p, "given", np.ones_like(p.given)), "every training label is 'angry'"),
        (lambda p: p.data.x["face"].fill(2.0), "branch face: all 3 dimensions are the same"),
    ],
)
def test_what_nothing_can_be_learned_from_is_one_clear_line(profile, change, said):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    change(problem)
    with pytest.raises(EcmfError, match=said):
        problem.remarks()


def test_odd_classes_and_columns_are_told(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    assert problem.remarks() == []
    problem.given = np.where(problem.given == 2, 0, problem.given)
    problem.given[0] = 2
    problem.data.x["face"][:, 0] = 4.0
    problem.data.x["audio"][:, 1] = problem.data.x["audio"][:, 0]
    lines = problem.remarks()
    assert lines[0].startswith("happy: 1 training clips, fewer than the")
    assert lines[1:] == ["face: 1 of 3 dimensions never change", "audio: 1 of 3 dimensions repeat another one"]


def test_a_branch_named_twice_is_refused(profile):
    with pytest.raises(EcmfError, match="face is named twice"):
        training.load_problem("p", ["face", "audio", "face"], LABELS, "given")


def test_a_label_named_twice_is_refused(profile):
    with pytest.raises(EcmfError, match="labels: angry is named twice"):
        training.load_problem("p", BRANCHES, ["angry", *LABELS], "given")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"clip_id": "c70", "fold": 0}, "folds.parquet: 'c70' is a test clip, expected training clips; run `ecmf"),
        ({"clip_id": "c999", "fold": 0}, "'c999' is no clip of the corpus"),
        ({"clip_id": "c3", "fold": 0}, "clip 'c3' stands there twice"),
    ],
)
def test_folds_that_do_not_fit_the_corpus_are_refused(profile, row, said):
    folds = pd.concat([corpus.read_folds("p"), pd.DataFrame([row])])
    write_parquet(folds, data_dir("p") / "folds.parquet")
    with pytest.raises(EcmfError, match=said):
        training.load_problem("p", BRANCHES, LABELS, "given")


def trained(branches=BRANCHES, labels="given"):
    """A run as notebook 50 leaves it."""
    problem = training.load_problem("p", branches, LABELS, labels)
    result = training.cross_validate("p", "ecmf", problem, models.bind_model("late", problem.data.dims, 3), [0])
    rows = training.score_rows("p", problem, result, "ecmf")
    training.save_run("p", "ecmf", problem, result, rows)
    return rows


def test_a_finished_run_comes_with_what_it_has_learned_from(profile):
    rows = trained()
    found, problem = training.load_finished("p", "ecmf", BRANCHES, LABELS)
    assert found == rows and problem.trained_on == "given"


def test_predictions_that_cannot_be_read_are_told_before_a_comparison_starts(profile):
    trained()
    path = data_dir("p") / "predictions" / "ecmf.parquet"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(EcmfError, match=r"ecmf.parquet: not a Parquet file or a damaged one .*delete it and run"):
        training.load_finished("p", "ecmf", BRANCHES, LABELS)
    path.unlink()
    with pytest.raises(EcmfError, match=r"predictions/ecmf.parquet is missing: run 50_train_fusion"):
        training.load_finished("p", "ecmf", BRANCHES, LABELS)


def test_a_run_on_other_branches_is_not_compared(profile):
    trained(["audio"])
    with pytest.raises(EcmfError, match="runs/ecmf: trained on the branches audio, expected face, audio: run `ecmf"):
        training.load_finished("p", "ecmf", BRANCHES, LABELS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_run_on_vectors_that_have_changed_since_is_not_compared(profile, monkeypatch, split):
    trained()
    load, moved = features.load, profile.index[profile["split"] == split][0]

    def other(_, branches, clip_ids=None, steps=0):
        found = load(_, branches, clip_ids=clip_ids)
        for at in [found.clip_ids.index(moved)] if moved in found.clip_ids else []:
            found.x["face"][at] += 1e-3
        return found

    monkeypatch.setattr(features, "load", other)
    with pytest.raises(EcmfError, match="made from other features, labels or folds than there are now"):
        training.load_finished("p", "ecmf", BRANCHES, LABELS)


def test_a_run_on_labels_that_were_refined_again_is_not_compared(profile):
    refine(profile, {})
    trained(labels="refined")
    training.load_finished("p", "ecmf", BRANCHES, LABELS)
    refine(profile, {("c0", 1): "happy", ("c0", 0): "happy", ("c0", 2): "happy"})
    with pytest.raises(EcmfError, match="run `ecmf run 50 --profile p` again"):
        training.load_finished("p", "ecmf", BRANCHES, LABELS)


def test_ecmf_without_a_part_differs_from_notebook_50_in_nothing_else(profile, monkeypatch):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    make = models.bind_model("ecmf", problem.data.dims, 3, epochs=3, width=16, device="cpu")
    training.cross_validate("p", "ecmf", problem, make, [0])
    refine(profile, {})
    planned = [one for one in evaluation.plan_runs([], [], "", BRANCHES, True) if one["model"] == "ecmf-no-attention"]
    evaluation.run_plan("p", planned, LABELS, [0])
    expected = {"epochs": 3, "width": 16, "device": "cpu", "attention": False}
    assert runs.settings("p", planned[0]["key"]) == expected and runs.settings("p", "no such run") == {}


def test_every_network_but_ecmf_takes_further_settings():
    planned = evaluation.plan_runs(["ecmf", "late", "attention"], [], "", BRANCHES, False, more={"inner_fraction": 0.0})
    assert [one["settings"] for one in planned] == [{}, {}, {"inner_fraction": 0.0}]


def test_models_to_search_without_a_trial_are_refused():
    with pytest.raises(EcmfError, match="searched_models=logreg with n_trials=0"):
        evaluation.plan_runs([], [], "", BRANCHES, False, searched=["logreg"], n_trials=0)


def test_a_pair_of_equal_runs_differs_by_nothing(profile):
    planned = evaluation.plan_runs(["late"], [], "", BRANCHES, False)
    evaluation.run_plan("p", planned, LABELS, [0], 5)
    key = planned[0]["key"]
    table = training.read_predictions("p", key)
    write_parquet(table, data_dir("p") / "predictions" / "twin.parquet")
    row = differences.compare_paired("p", key, ["twin"], LABELS).loc["twin"]
    assert row["difference"] == row["low"] == row["high"] == 0


def test_a_difference_that_is_the_same_in_every_draw_has_no_interval_and_no_p():
    y, groups = np.array([0, 1] * 4), np.repeat(list("abcd"), 2)
    right, half = np.eye(2)[y], np.eye(2)[np.zeros(8, int)]
    wrong = right.copy()
    wrong[:2] = wrong[1::-1]
    table = differences.differences(y, right, {"half": half, "wrong": wrong, "same": right}, groups)
    assert table.loc["half", "difference"] > 0.5
    assert table.loc["half", ["low", "high", "p", "p (Holm)"]].isna().all()  # of each group one clip of two is right
    assert table.loc["half", "p (McNemar, Holm)"] == 3 * 0.125
    assert table.loc["same", ["difference", "low", "high"]].eq(0).all() and table.loc["same", "p"] == 1
    found = table.loc["wrong"]
    assert found["low"] < found["difference"] < found["high"]
    assert found["p (Holm)"] == 2 * found["p"]  # of two that have a p


def test_single_branches_of_a_model_are_planned_by_their_labels():
    found = comparison.plan_single_branches("logreg", ["face", "text"], "refined")
    assert [one["key"] for one in found] == ["logreg-face-refined", "logreg-text-refined"]
    assert comparison.plan_single_branches("", ["face"], "given") == []


def test_a_label_outside_the_label_set_is_named(profile):
    with pytest.raises(EcmfError, match="which is not one of neutral, angry"):
        training.load_problem("p", BRANCHES, LABELS[:2], "given")


@pytest.fixture
def other(profile, monkeypatch):
    """A second corpus, `q`: the same vectors under labels of its own, all in the training split."""
    words = {"neutral": "calm", "angry": "angry", "happy": "disgust"}
    clips = profile.reset_index().assign(split="train", label=lambda t: t["shown"].map(words)).drop(columns="shown")
    clips["content_hash"] = [f"q{i}" for i in range(len(clips))]
    target = profile.reset_index().drop(columns="shown")
    manifest.save_clips("p", target.assign(content_hash=[f"p{i}" for i in range(len(target))]), LABELS)
    manifest.save_clips("q", clips, ["calm", "angry", "disgust"])
    write_parquet(manifest.make_folds(clips, 3), data_dir("q") / "folds.parquet")
    same = {"recipe_hash": "r", "slug": "encoder-a", "dim": 3}
    monkeypatch.setattr(features, "read_selected", lambda *_: same)
    return clips.set_index("clip_id")


def test_another_corpus_is_learned_from_and_every_clip_of_this_one_is_tested(other):
    to = {"calm": "neutral", "disgust": "happy"}
    problem = training.load_problem("p", BRANCHES, LABELS, "given", "q", to)
    assert set(problem.data.clip_ids) == set(other.index)
    assert len(problem.test.clip_ids) == 84 and (problem.test_y >= 0).sum() == 78
    result = training.cross_validate("p", "x", problem, models.bind_model("late", problem.data.dims, 3), [0])
    row = [r for r in training.score_rows("p", problem, result, "late") if r["split"] == "test"][0]
    assert row["weighted_f1"] > 0.7 and row["train_profile"] == "q" and row["n"] == 78
    training.save_run("p", "x", problem, result, [row])
    assert (training.read_predictions("p", "x").query("role == 'test'")["clip_id"]).size == 78


def test_labels_without_counterpart_are_left_out_and_told(other):
    problem = training.load_problem("p", BRANCHES, LABELS, "given", "q", {"calm": "neutral", "disgust": None})
    assert set(problem.given) == {0, 1}
    told = problem.label_table()
    assert told.loc["disgust"].tolist() == ["left out", 28] and told.loc["calm", "counts as"] == "neutral"


def test_label_of_the_other_corpus_that_nobody_mapped_is_named(other):
    with pytest.raises(EcmfError, match="'calm', which is not one of .*train_label_map"):
        training.load_problem("p", BRANCHES, LABELS, "given", "q")


def test_branches_encoded_differently_are_refused(other, monkeypatch):
    monkeypatch.setattr(features, "read_selected", lambda name, _: {"recipe_hash": name, "slug": name, "dim": 3})
    with pytest.raises(EcmfError, match="branch face: p has p of 3 numbers and q has q of 3"):
        training.load_problem("p", BRANCHES, LABELS, "given", "q", {"calm": "neutral", "disgust": None})


def test_clips_that_both_corpora_have_are_not_learned_from(other):
    to = {"calm": "neutral", "disgust": "happy"}
    clips = corpus.read_clips("p")
    same = clips["content_hash"].where(clips.index >= 10, [f"q{i}" for i in range(len(clips))])
    manifest.save_clips("p", clips.assign(content_hash=same), LABELS)
    problem = training.load_problem("p", BRANCHES, LABELS, "given", "q", to)
    assert problem.in_both == 10 and not set(problem.data.clip_ids) & {f"c{i}" for i in range(10)}
    assert "10 of its clips are in both" in problem.origin()
    manifest.save_clips("p", clips.assign(content_hash=None), LABELS)  # published features alone: the names tell
    with pytest.raises(EcmfError, match="no training clip of q is left: 84 are clips of p too"):
        training.load_problem("p", BRANCHES, LABELS, "given", "q", to)


def test_corpus_is_not_tested_on_itself_as_if_it_were_another(other):
    with pytest.raises(EcmfError, match="another profile than the one that is tested"):
        training.load_problem("p", BRANCHES, LABELS, "given", "p")


def test_scores_that_are_too_good_out_of_fold_are_doubted():
    rows = [{"split": "oof", "weighted_f1": 0.99}, {"split": "test", "weighted_f1": 0.76}]
    assert evaluation.warn_of_leaks(rows).startswith("Do not believe the out-of-fold scores: they are 0.23 above test")
    assert evaluation.warn_of_leaks([rows[0] | {"weighted_f1": 0.8}, rows[1]]).endswith("nothing suspicious.")


def test_predictions_are_written_and_read(home):
    proba, weights = np.eye(4)[[0, 3, 1]], np.full((3, 2), 0.5)
    runs.save_predictions(
        "p",
        "ecmf",
        [*LABELS, "sad"],
        ["face", "text"],
        ["a", "b", "c"],
        ["oof", "test", "unlabelled"],
        proba,
        weights,
        3,
    )
    table = training.read_predictions("p", "ecmf")
    assert list(table["predicted"]) == ["neutral", "sad", "angry"]
    assert {"clip_id", "role", "p_happy", "w_face", "w_text", "seeds"} <= set(table)
    assert table["p_sad"].tolist() == [0, 1, 0] and set(table["seeds"]) == {3}


def test_predictions_of_an_unknown_role_are_refused(home):
    with pytest.raises(EcmfError, match="role 'train'"):
        runs.save_predictions("p", "x", LABELS, [], ["a"], ["train"], np.eye(4)[:1], None, 1)


def test_missing_predictions_name_the_notebook(home):
    with pytest.raises(EcmfError, match="50_train_fusion"):
        training.read_predictions("p", "ecmf")


def test_intervals_draw_groups_and_speakers_only_where_groups_are_few(profile):
    clips = profile.assign(speaker=[f"s{i % 9}" for i in range(len(profile))])
    ids = list(clips.index[:60])
    drawn, unit = training.cluster_clips(clips, ids)
    assert (set(drawn), unit) == (set(clips["group"][:60]), "groups")
    few = clips.assign(group=np.where(np.arange(len(clips)) % 2, "a", "b"))
    drawn, unit = training.cluster_clips(few, ids)
    assert (set(drawn), unit) == ({f"s{i}" for i in range(9)}, "speakers")


def test_a_run_of_50_that_failed_before_its_end_is_not_compared_with(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    make = models.bind_model("late", problem.data.dims, 3)
    result = training.cross_validate("p", "ecmf", problem, make, [0])
    training.save_run("p", "ecmf", problem, result, training.score_rows("p", problem, result, "ecmf"))
    assert training.load_finished("p", "ecmf", BRANCHES, LABELS)[0]
    training.cross_validate("p", "ecmf", problem, make, [0])  # the same again, and then a cell fails
    with pytest.raises(EcmfError, match="runs/ecmf: not finished: run `ecmf run 50 --profile p` again"):
        training.load_finished("p", "ecmf", BRANCHES, LABELS)


def test_the_official_protocol_is_read_back_until_something_changes(profile, monkeypatch):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    first = official.run_official("p", problem, 0, 2)
    monkeypatch.setattr(official, "cross_validate", lambda *a, **k: pytest.fail("run again"))
    again = official.run_official("p", problem, 0, 2)
    assert np.array_equal(again.test, first.test) and again.curves == first.curves
    assert (again.reported, again.settled, again.optimism) == (first.reported, first.settled, first.optimism)
    with pytest.raises(pytest.fail.Exception, match="run again"):
        official.run_official("p", problem, 1, 2)
