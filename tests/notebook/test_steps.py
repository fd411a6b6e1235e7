import pytest

from ecmf_utils import files
from ecmf_utils.files import EcmfError, data_dir
from ecmf_utils.notebook import steps
from tests.small_notebooks import make_pipeline


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
    order = steps.plan_notebooks("all")
    assert order == [nb for nb in steps.STEPS if nb != "90_benchmark"]
    for nb in order:
        assert all(order.index(need) < order.index(nb) for need in steps.list_needs(nb, "all"))


def test_without_labels_nothing_is_trained():
    assert steps.plan_notebooks("words") == ["00_start_here", "10_explore_corpus", "24_extract_text"]


def test_branch_left_out_is_not_extracted(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [audio, context]\n")
    order = steps.plan_notebooks("p")
    assert "20_detect_faces" not in order
    assert [nb for nb in order if nb[0] in "23"] == ["23_extract_audio", "30_enrich_text"]
    assert steps.list_needs("40_refine_labels", "p")[1:] == ["23_extract_audio", "30_enrich_text"]


def test_two_encoders_of_a_branch_are_extracted_by_one_notebook(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [audio, audio@hubert-last-mean]\n")
    assert steps.find_extractors("p") == {"audio": "23_extract_audio"}
    assert steps.plan_notebooks("p").count("23_extract_audio") == 1
    other = data_dir("p") / "features" / "audio" / "hubert-last-mean" / "utterance" / "selected.json"
    files.write_json(other, {})
    assert other in steps.list_inputs("50_train_fusion", "p")
    assert other not in steps.list_inputs("23_extract_audio", "p")
    (notebooks / "profiles" / "q.yaml").write_text("branches: [audio@x]\nfeatures: {audio@x: a.parquet}\n")
    with pytest.raises(EcmfError, match="features: audio@x: published features need a name of their own, without @"):
        steps.plan_notebooks("q")


def test_unknown_branch_is_named(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [sound]\n")
    with pytest.raises(EcmfError, match="unknown branch 'sound'"):
        steps.plan_notebooks("p")


def test_corpus_with_nothing_to_learn_from_is_not_trained_on():
    files.write_json(data_dir("all") / "corpus.json", {"untrained": "all clips are of 1 group"})
    assert steps.explain_untrained("all") == "all clips are of 1 group"
    assert [nb for nb in steps.plan_notebooks("all") if steps.STEPS[nb].labelled] == []
    files.write_json(data_dir("all") / "corpus.json", {"untrained": ""})
    assert "50_train_fusion" in steps.plan_notebooks("all")


def import_branch(branch, profile="all", imported=True):
    path = data_dir(profile) / "features" / branch / "selected.json"
    files.write_json(path, {"recipe": {"imported": imported}})
    return path


def test_branch_imported_by_hand_is_not_extracted_but_read(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [face, audio]\n")
    assert {"20_detect_faces", "21_extract_face"} <= set(steps.plan_notebooks("p"))
    path = import_branch("face", "p")
    order = steps.plan_notebooks("p")
    assert not {"20_detect_faces", "21_extract_face", "70_predict"} & set(order)
    assert "23_extract_audio" in order
    assert path in steps.list_inputs("50_train_fusion", "p")
    assert path not in steps.list_inputs("23_extract_audio", "p")


def test_branch_of_own_name_needs_published_features(notebooks):
    (notebooks / "profiles" / "p.yaml").write_text("branches: [visual]\nfeatures: {visual: v.parquet}\n")
    assert "40_refine_labels" in steps.plan_notebooks("p")
    made = data_dir("p") / "features" / "visual" / "selected.json"
    assert made in steps.list_outputs("00_start_here", "p")
    assert steps.list_needs("40_refine_labels", "p") == ["00_start_here"]


def test_extracted_branch_is_not_taken_for_an_imported_one():
    import_branch("face", imported=False)
    assert steps.find_imported("all") == {}
    import_branch("audio")
    assert steps.find_imported("all") == {"audio": ""}


def test_training_on_another_profile_needs_only_the_branches_of_this_one(notebooks):
    for name in ("p", "q"):
        (notebooks / "profiles" / f"{name}.yaml").write_text("branches: [text]\n")
    written = [*steps.STEPS["00_start_here"].writes, "features/text/selected.json"]
    write(*written, profile="p")
    write(*written, "labels/refined.parquet", profile="q")
    files.write_json(data_dir("p") / "corpus.json", {"untrained": ""})
    files.write_json(data_dir("q") / "corpus.json", {"untrained": ""})
    for name in ("p", "q"):
        import_branch("text", name, imported=False)
    steps.require("50_train_fusion", "p", train_profile="q")
    with pytest.raises(EcmfError, match="run 40_refine_labels --profile p"):
        steps.require("50_train_fusion", "p")
    with pytest.raises(EcmfError, match="run 40_refine_labels --profile p"):
        steps.require("50_train_fusion", "q", train_profile="p")


def test_missing_names_what_has_not_run_in_order():
    write("clips.parquet", "folds.parquet")
    files.write_json(data_dir("all") / "corpus.json", {"untrained": ""})
    import_branch("scene", imported=False)
    assert steps.find_missing("22_extract_scene", "all") == []
    assert steps.find_missing("21_extract_face", "all") == ["20_detect_faces"]
    assert "22_extract_scene" not in steps.find_missing("40_refine_labels", "all")
    with pytest.raises(EcmfError, match="run `ecmf run 20_detect_faces --profile all`"):
        steps.require("21_extract_face", "all")


@pytest.mark.parametrize(
    ("values", "profile"),
    [
        ({}, ""),
        ({"run_name": "ecmf"}, ""),
        ({"train_profile": "demo"}, "demo"),
        ({"run_name": "ecmf-from-demo"}, "demo"),
    ],
)
def test_run_that_learned_from_another_profile_is_known_by_its_parameters(values, profile):
    assert steps.find_training_profile(values) == profile
