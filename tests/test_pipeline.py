import pytest

from ecmf_utils import pipeline
from ecmf_utils.paths import EcmfError, data_dir

from .small_notebooks import make_pipeline


@pytest.fixture(autouse=True)
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    (folder / "profiles" / "all.yaml").write_text("{}\n")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


def write(*names, profile="all"):
    for name in names:
        path = data_dir(profile) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_order_holds_every_planned_notebook_after_its_needs():
    order = pipeline.order("all")
    assert order == [nb for nb in pipeline.STEPS if nb != "90_benchmark"]
    for nb in order:
        assert all(order.index(need) < order.index(nb) for need in pipeline.needs(nb, "all"))


def test_without_labels_nothing_is_trained():
    assert pipeline.order("words") == ["00_start_here", "10_explore_corpus", "24_extract_text"]


def test_branch_left_out_is_not_extracted(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [audio, context]\n")
    order = pipeline.order("p")
    assert "20_detect_faces" not in order
    assert [nb for nb in order if nb[0] in "23"] == ["23_extract_audio", "30_enrich_text"]
    assert pipeline.needs("40_refine_labels", "p")[1:] == ["23_extract_audio", "30_enrich_text"]


def test_unknown_branch_is_named(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [sound]\n")
    with pytest.raises(EcmfError, match="unknown branch 'sound'"):
        pipeline.order("p")


def test_folds_are_expected_only_with_labels():
    assert [path.name for path in pipeline.writes("00_start_here", "words")] == ["clips.parquet"]
    assert len(pipeline.writes("00_start_here", "all")) == 2


def test_missing_names_what_has_not_run_in_order():
    write("clips.parquet", "folds.parquet", "features/scene/selected.json")
    assert pipeline.missing("22_extract_scene", "all") == []
    assert pipeline.missing("21_extract_face", "all") == ["20_detect_faces"]
    assert "22_extract_scene" not in pipeline.missing("40_refine_labels", "all")
    with pytest.raises(EcmfError, match="run `ecmf run 20_detect_faces --profile all`"):
        pipeline.require("21_extract_face", "all")
