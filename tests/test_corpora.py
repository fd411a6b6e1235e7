"""Every corpus of the field, small and in its published layout, from `ecmf corpus` to a report."""

import shutil

import pytest

from ecmf_utils import corpus
from ecmf_utils.files import data_dir, read_json, reports_dir
from ecmf_utils.notebook import steps
from ecmf_workflow import cli, reproduction
from tests import miniatures
from tests.conftest import REALDATA

CHEAP = ["50.n_seeds=1", "51.n_seeds=1", "50.epochs=3", "51.epochs=3", "n_folds=2"]
OFFLINE = [
    "21.encoder=classical", "22.encoder=classical", "23.encoder=classical", "23.layers=last",
    "24.encoder=minilm", "24.layers=last", "30.model=replay", "30.encoder=minilm", "30.layers=last",
]  # fmt: skip
EVERY = [(name, make) for name, make in miniatures.MAKERS.items()]
EVERY += [(name, make) for name, make in miniatures.PROCESSED.items()]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return miniatures.demo_clips(tmp_path_factory.mktemp("stock"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), EVERY, ids=[f"{n}-{m.__name__[5:]}" for n, m in EVERY])
def test_miniature_goes_from_its_layout_to_a_report(name, make, stock, tmp_path, home, capsys):
    source = tmp_path / "source"
    make(source, stock)
    assert cli.main(["corpus", name, "--set", f"source={source}", "--set", "n_folds=2"]) == 0
    told = capsys.readouterr().out
    assert "Clips" in told and "Folds" in told and "Manifest: " in told
    clips = corpus.read_clips(name)
    assert (clips["status"] == "ok").all()
    sets = [f"source={source}", *CHEAP, *(OFFLINE if name.startswith("mer") else [])]
    assert reproduction.reproduce(name, sets, cores=2) == 0, capsys.readouterr()
    assert (reports_dir(name) / "index.html").exists()
    results = read_json(reports_dir(name) / "results.json")
    assert {row["name"] for row in results["notebooks"]} == set(steps.plan_notebooks(name))
    assert {"ecmf", "logreg", "late", "attention"} <= {row["model"] for row in results["scores"]}
    assert results["clips"]["total"] == len(clips)


@pytest.mark.slow
def test_four_real_clips_of_one_actor_give_a_report_without_training(tmp_path, home, capsys):
    if not (REALDATA / "clips" / "ravdess").is_dir():
        pytest.skip(f"no real recordings at {REALDATA}: set ECMF_REALDATA to their folder")
    source = tmp_path / "RAVDESS"
    shutil.copytree(REALDATA / "clips" / "ravdess", source)
    assert cli.main(["corpus", "ravdess", "--set", f"source={source}"]) == 0
    assert "Nothing will be trained: all labelled training clips are of one group" in capsys.readouterr().out
    assert list(corpus.read_clips("ravdess")["label"].sort_values()) == ["neutral"] * 2 + ["surprised"] * 2
    assert reproduction.reproduce("ravdess", cores=2) == 0
    page = (reports_dir("ravdess") / "index.html").read_text(encoding="utf-8")
    assert "Nothing was trained" in page and "of one group" in page
    faces = steps.list_outputs("20_detect_faces", "ravdess")[0]
    assert faces.exists() and not (data_dir("ravdess") / "predictions").exists()


@pytest.mark.slow
def test_published_features_alone_reach_the_error_analysis(home):
    if not (REALDATA / "mosi").is_dir():
        pytest.skip(f"no published features at {REALDATA}: set ECMF_REALDATA to their folder")
    source = REALDATA / "mosi"
    quick = ["50.n_seeds=1", "51.n_seeds=1", "50.epochs=20", "51.models=logreg"]
    sets = [f"source={source}", *quick]
    assert reproduction.reproduce("mosi", sets, cores=2) == 0
    scores = read_json(reports_dir("mosi") / "results.json")["scores"]
    tested = {(r["model"], "+".join(r["branches"]), r["labels"]): r for r in scores if r["split"] == "test"}
    every = tested["logreg", "visual+audio+text", "given"]
    assert every["n"] == 752 and every["weighted_f1"] == pytest.approx(0.751, abs=0.02)
    assert tested["logreg", "text", "given"]["weighted_f1"] == pytest.approx(0.753, abs=0.02)
    assert tested["ecmf", "visual+audio+text", "given"]["weighted_f1"] > 0.7
    assert (reports_dir("mosi") / "60_analyse_errors.html").exists()
