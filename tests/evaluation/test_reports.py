"""Reports of a run: its scores from several sides, its errors, its robustness, and the official protocol beside it."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import evaluation, features, models, plots, training
from ecmf_utils.corpus import manifest
from ecmf_utils.evaluation import official, official_report, robustness
from ecmf_utils.files import data_dir, read_parquet, write_parquet
from ecmf_utils.notebook import Note

LABELS = ["neutral", "angry", "happy"]
BRANCHES = ["face", "audio"]
N_TRAIN, N_TEST = 48, 18


@pytest.fixture
def profile(home, monkeypatch):
    """A corpus of six training and six test speakers whose vectors show the label; clip c50 has no face."""
    n = N_TRAIN + N_TEST
    split = np.array(["train"] * N_TRAIN + ["test"] * N_TEST)
    clips = pd.DataFrame(
        {"clip_id": [f"c{i}" for i in range(n)], "split": split, "label": [LABELS[i % 3] for i in range(n)]}
    )
    clips["group"] = clips["speaker"] = [f"{part}{i % 6}" for i, part in enumerate(split)]
    clips = clips.assign(status="ok", problem=None, text="hello", width=np.where(np.arange(n) % 2, 64.0, np.nan))
    manifest.save_clips("p", clips, LABELS)
    write_parquet(manifest.make_folds(clips, 3), data_dir("p") / "folds.parquet")
    rng = np.random.default_rng(0)
    vectors = {b: (np.eye(3)[np.arange(n) % 3] + rng.normal(0, 0.4, (n, 3))).astype(np.float32) for b in BRANCHES}

    def load(_, branches, clip_ids=None, steps=0, partial=False):
        rows = [int(clip_id[1:]) for clip_id in clip_ids]
        present = {b: np.array([not (b == "face" and row == 50) for row in rows]) for b in branches}
        x = {b: vectors[b][rows] * present[b][:, None] for b in branches}
        return features.Features(list(clip_ids), x, present, {b: 3 for b in branches})

    monkeypatch.setattr(features, "load", load)
    return clips


def train(seeds=(0, 1)):
    """A run of ECMF as notebook 50 leaves it, on given labels."""
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    make = models.bind_model("ecmf", problem.data.dims, 3, epochs=3, width=8)
    result = training.cross_validate("p", "ecmf", problem, make, list(seeds))
    rows = training.score_rows("p", problem, result, "ecmf")
    training.save_run("p", "ecmf", problem, result, rows)
    return problem, result, rows


def unlabel_test_clips(profile):
    manifest.save_clips("p", profile.assign(label=profile["label"].where(profile["split"] == "train")), LABELS)


def test_a_run_is_reported_on_its_labelled_test_clips(profile):
    problem, result, rows = train()
    report = evaluation.report_run(problem, result)
    on_test = next(row for row in rows if row["split"] == "test")
    assert report.classes["n"].sum() == N_TEST
    assert report.seeds.loc["weighted F1", "together"] == pytest.approx(on_test["weighted_f1"], abs=6e-4)
    assert report.seeds.loc["weighted F1", "seeds"] == 2
    assert list(report.heads.index) == ["face", "audio", "fusion"]
    assert report.heads["clips"].tolist() == [N_TEST - 1, N_TEST, N_TEST]
    assert list(report.without.index) == ["all branches", "without face", "without audio"]
    assert list(report.calibration.index) == ["out-of-fold", "test"]


def test_without_labelled_test_clips_a_run_is_reported_out_of_fold(profile):
    unlabel_test_clips(profile)
    problem, result, _ = train()
    report = evaluation.report_run(problem, result)
    assert report.classes["n"].sum() == N_TRAIN and list(report.heads.index) == ["fusion"]
    assert isinstance(report.without, Note) and list(report.calibration.index) == ["out-of-fold"]


def test_errors_are_those_of_the_role_that_is_asked_for(profile):
    train()
    report = evaluation.report_errors("p", "ecmf", LABELS, BRANCHES)
    assert report.role == "test" and report.confusion.sum() == len(report.clips) == N_TEST
    wrong = int(report.clips["wrong"].sum())
    assert wrong == report.confusion.sum() - np.trace(report.confusion) == report.pairs["clips"].sum()
    assert report.by_branch["clips"].to_dict() == {"face missing": 1, "complete": N_TEST - 1}
    assert len(report.by_speaker) == 6 and report.by_speaker["low"].is_monotonic_decreasing
    assert report.by_speaker["error rate"].between(report.by_speaker["low"], report.by_speaker["high"]).all()
    assert evaluation.report_errors("p", "ecmf", LABELS, BRANCHES, "oof").confusion.sum() == N_TRAIN


def test_errors_are_out_of_fold_where_no_test_clip_has_a_label(profile):
    unlabel_test_clips(profile)
    train()
    report = evaluation.report_errors("p", "ecmf", LABELS, BRANCHES, "test")
    assert report.role == "oof" and report.confusion.sum() == N_TRAIN


def test_the_worst_clips_are_wrong_and_sure_and_are_written(profile):
    train()
    report = evaluation.report_errors("p", "ecmf", LABELS, BRANCHES, "oof")
    worst = report.worst(2)
    assert len(worst) == min(2, int(report.clips["wrong"].sum())) and worst["wrong"].all()
    path = evaluation.save_worst("p", worst)
    table = read_parquet(path)
    assert path == data_dir("p") / "errors" / "worst.parquet"
    assert list(table) == ["clip_id", "label", "predicted", "confidence"] and list(table["clip_id"]) == list(
        worst.index
    )


def test_robustness_tells_what_is_lost(profile):
    problem, _, rows = train()
    report = evaluation.report_robustness("p", problem, seed=0)
    assert list(report.subset_losses.index) == ["face+audio", "face", "audio"]
    on_test = next(row for row in rows if row["split"] == "test")
    assert report.subset_losses.loc["face+audio", "weighted_f1"] == pytest.approx(on_test["weighted_f1"], abs=6e-4)
    assert report.by_number["count"].to_dict() == {2: 1, 1: 2}
    assert len(report.noise_losses) == len(BRANCHES) * len(robustness.NOISE)
    assert plots.subsets(report.subsets).axes and plots.noise(report.noise, report.subsets).axes


def test_robustness_without_labelled_test_clips_is_notes(profile):
    unlabel_test_clips(profile)
    problem, _, _ = train()
    report = evaluation.report_robustness("p", problem)
    shown = [report.subset_losses, report.noise_losses, report.by_number, plots.subsets(report.subsets)]
    shown.append(plots.noise(report.noise, report.subsets))
    assert all(isinstance(part, Note) and part == "There are no labelled test clips." for part in shown)
    compared = evaluation.compare_single("p", "given", report.subsets, "logreg", BRANCHES, LABELS, [0])
    assert isinstance(compared, Note)


def test_a_branch_alone_is_compared_with_what_51_has_fitted_or_with_a_new_fit(profile):
    problem, _, rows = train()
    planned = evaluation.plan_runs([], [], "logreg", ["face"], False, ours="given")
    done = evaluation.run_plan("p", planned, LABELS, [0])
    (face,) = [row for row in done["logreg-face-given"] if row["split"] == "test"]
    face["weighted_f1"] = 0.123  # so that it is seen that the row is read
    evaluation.save_scores("p", [*rows, *done["logreg-face-given"]])
    subsets = evaluation.report_robustness("p", problem).subsets
    table = evaluation.compare_single("p", "given", subsets, "logreg", BRANCHES, LABELS, [0])
    assert list(table.index) == BRANCHES and table.loc["face", "logreg of its own"] == 0.123
    assert (data_dir("p") / "runs" / "logreg-audio-given" / "scores.json").exists()
    np.testing.assert_allclose(table["difference"], table.iloc[:, 0] - table.iloc[:, 1], atol=2e-3)


def test_runs_are_ranked_on_test_clips_and_compared_in_parts(profile):
    _, _, rows = train()
    planned = evaluation.plan_runs(["late", "ecmf"], [], "logreg", BRANCHES, False, ours="given")
    done = evaluation.run_plan("p", planned, LABELS, [0]) | {"ecmf": rows}
    ranked = evaluation.rank_runs(done, BRANCHES)
    assert set(ranked["split"]) == {"test"} and ranked["weighted_f1"].is_monotonic_decreasing
    assert set(ranked["run"]) == {
        "late · all · given",
        "logreg · face · given",
        "logreg · audio · given",
        "ecmf · all · given",
    }
    assert list(ranked.sort_index()["key"]) == list(done) and (ranked["low"] <= ranked["high"]).all()
    table, drawn = evaluation.compare_runs("p", done, BRANCHES, LABELS)
    assert set(table.index.get_level_values("run")) == set(ranked["run"]) - {"ecmf · all · given"}
    assert drawn == "The bootstrap drew groups." and "drawn" not in table
    alone = evaluation.compare_runs("p", {"ecmf": rows}, BRANCHES, LABELS)
    assert isinstance(alone.table, Note) and isinstance(alone.drawn, Note)


def test_networks_get_another_device_in_their_settings_only_where_it_is_not_the_cpu():
    planned = evaluation.plan_runs(["attention", "late"], [], "", BRANCHES, False, more={"epochs": 2}, device="cuda:1")
    assert [run["settings"] for run in planned] == [{"device": "cuda:1", "epochs": 2}, {}]
    assert evaluation.plan_runs(["attention"], [], "", BRANCHES, False, device="cpu")[0]["settings"] == {}


def test_the_official_protocol_is_not_run_by_default_and_says_how(profile, monkeypatch):
    monkeypatch.setattr(official, "cross_validate", lambda *_, **__: pytest.fail("it was run"))
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    report = evaluation.report_official("p", problem, 0, 0)
    assert isinstance(report.scores, Note) and "`ecmf run 53 --set official_epochs=100`" in report.scores
    assert isinstance(report.folds, Note) and isinstance(plots.official_curves(report.curves), Note)
    assert report.groups.loc["here: folds of whole groups", "group also trained on"] == 0
    assert report.groups.loc["official: random folds", "share"] == 1


def test_the_official_protocol_is_reported_beside_the_same_model_trained_here(profile):
    problem = training.load_problem("p", BRANCHES, LABELS, "given")
    planned = evaluation.plan_runs(["attention"], [], "", BRANCHES, False)
    done = evaluation.run_plan("p", planned, LABELS, [0], epochs=2)
    evaluation.save_scores("p", [row for rows in done.values() for row in rows])
    report = evaluation.report_official("p", problem, 0, 3)
    assert list(report.scores.index) == ["reported", "settled", "optimism", "test", "attention, trained as here"]
    assert report.scores.loc["test", "scored on"] == "test, observed"
    assert len(report.curves) == 15 and list(report.folds.columns) == ["best epoch", "reported", "settled", "optimism"]
    assert report.folds["best epoch"].between(1, 3).all()
    assert report.scores.loc["reported", "weighted F1"] == pytest.approx(report.folds["reported"].mean(), abs=1e-3)
    assert plots.official_curves(report.curves).axes


def test_few_clips_have_no_official_folds():
    class Problem:
        given = np.zeros(4, int)

    assert isinstance(official_report._count_shared_groups(Problem(), 0), Note)
