"""The corpus as a whole: what `00_start_here` and `ecmf corpus` write, whatever the source."""

import json
import shutil

import pandas as pd
import pytest

from ecmf_utils import corpus, features
from ecmf_utils.files import EcmfError, data_dir, read_json, read_parquet
from ecmf_workflow import cli, corpus_summary
from tests.conftest import build

LABELS = ["neutral", "happy", "sad"]


@pytest.fixture
def source(tmp_path, clip):
    """Twelve clips of four people, each with a label of a foreign set."""
    folder = tmp_path / "source"
    folder.mkdir()
    rows = ["file,person,emotion,said"]
    for i in range(12):
        (folder / f"c{i}.mp4").write_bytes(clip.read_bytes() + bytes(i))
        rows.append(f"c{i},p{i % 4},{['calm', 'happy', 'sad'][i // 4]},these are words number {i}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


COLUMNS = {"clip_id": "file", "group": "person", "label": "emotion", "text": "said"}


def made_from(place, **more):
    how = {"manifest": "labels.csv", "columns": COLUMNS, "labels": LABELS, "label_map": {"calm": "neutral"}}
    return build("p", **how | {"source": place} | more)


def test_labels_texts_and_groups_come_from_columns_of_any_name(source, home):
    made = made_from(source)
    assert made.clips["label"].value_counts().to_dict() == {"neutral": 4, "happy": 4, "sad": 4}
    assert made.clips["group"].nunique() == 4 and made.clips["text"].str.startswith("these are").all()
    assert (made.clips["status"] == "ok").all() and made.facts["untrained"] == ""


def test_everything_that_was_found_out_is_written(source, home):
    made = made_from(source, label_map={"calm": None})
    folder = data_dir("p")
    assert read_json(folder / "corpus.json") == made.facts
    assert made.facts["dropped"] == 4 and len(corpus.read_clips("p")) == 8
    fates = read_parquet(folder / "label_map.parquet").set_index("found")["how"]
    assert fates.to_dict() == {"calm": "dropped", "happy": "same", "sad": "same"}
    assert set(corpus.read_folds("p")["clip_id"]) == set(made.clips["clip_id"])
    for name in ("leakage", "findings", "fingerprints"):
        assert (folder / f"{name}.parquet").exists()


def test_copies_in_two_groups_are_told_and_merged_on_request(source, home):
    shutil.copy(source / "c0.mp4", source / "c5.mp4")  # of p0 and of p1
    told = made_from(source).shared
    assert set(told["kind"]) >= {"content"} or made_from(source, n_folds=4).shared["kind"].eq("content").any()
    merged = made_from(source, merge_leaks=["content"])
    group = merged.clips.set_index("clip_id")["group"]
    assert group["c0"] == group["c5"] and merged.facts["merged_groups"] == 1
    assert not merged.shared["kind"].eq("content").any()


def test_folds_that_cannot_be_made_leave_the_corpus_and_say_why(source, home):
    made = made_from(source, n_folds=5)
    assert len(made.clips) == 12 and len(made.folds) == 0
    assert "4 groups among the training clips, but n_folds=5" in made.facts["untrained"]
    assert "Nothing will be trained: 4 groups" in corpus_summary.summary(made)


def test_published_features_need_no_clips(tmp_path, home):
    rows = pd.DataFrame({"name": [f"a{i}" for i in range(8)], "x": range(8), "y": range(8)})
    rows.to_csv(tmp_path / "text.csv", index=False)
    (tmp_path / "labels.csv").write_text(
        "clip_id,label,split,group\n" + "".join(f"a{i},{LABELS[i % 2]},train,g{i // 2}\n" for i in range(8))
    )
    how = {"source": tmp_path, "manifest": "labels.csv", "labels": LABELS, "features": {"text": "text.csv"}}
    made = build("p", kind="features", **how)
    assert (made.clips["status"] == "ok").all() and made.clips["problem"].isna().all() and len(made.folds) == 8
    assert features.load("p", ["text"]).x["text"].tolist() == [[i, i] for i in range(8)]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"source": "", "manifest": ""}, "profile p: say where the corpus is: --set source=DIR"),
        ({"source": "/no/such"}, "/no/such: no such folder"),
        ({"kind": "features", "manifest": "", "source": "/tmp"}, "kind features needs a CSV"),
        ({"label_map": {"calm": "neutrall"}}, "unknown label 'neutrall'; did you mean neutral?"),
        ({"label_map": {"calm": None, "happy": None, "sad": None}}, "no clip is left, the label_map drops every label"),
        ({"columns": {"label": "emotoin"}}, "emotoin"),
        ({"merge_leaks": ["words"]}, "unknown kind of leak 'words'"),
        ({"n_folds": 0}, "n_folds=0: expected a whole number of at least 2"),
        ({"seed": -1}, "seed=-1: expected a whole number of at least 0"),
        ({"n_probe": -1}, "n_probe=-1: expected a whole number of at least 0"),
        ({"columns": {"label": 3}}, "columns: label: expected a name, found 3"),
        ({"columns": {"lable": "emotion"}}, "unknown name in columns 'lable'; did you mean label?"),
        ({"features": {"text": 3}}, "features: text: expected a name, found 3"),
        ({"labels": ["happy", "happy"]}, "labels=.*none twice"),
    ],
)
def test_source_that_cannot_be_used_is_refused_in_one_line(settings, line, source, home):
    with pytest.raises(EcmfError, match=line) as caught:
        made_from(source, **settings)
    assert "\n" not in str(caught.value)


def test_command_builds_prints_and_remembers_where_the_corpus_lies(source, home, capsys):
    said = [f"source={source}", "manifest=labels.csv", f"columns={json.dumps(COLUMNS)}", "labels=calm,happy,sad"]
    sets = [f"--set={text}" for text in (*said, "labelled=true", "n_folds=2")]
    assert cli.main(["corpus", "folder", *sets]) == 0
    told = capsys.readouterr().out
    assert "12" in told and "Labels by split" in told and "Folds" in told and "clips.parquet" in told
    assert cli.main(["corpus", "folder-source", "--set", "n_folds=2"]) == 0
    assert "Labels by split" in capsys.readouterr().out


def test_terminal_names_the_clip_and_the_file_of_each_problem_and_stays_short(source, home):
    (source / "c3.mp4").write_text("<html>gone</html>")
    told = corpus_summary.summary(made_from(source))
    assert "not_media: clip c3: " in told and "c3.mp4" in told
    rows = ["file,person,emotion,said"] + [f"c{i % 12},p{i},label{i},words" for i in range(12)]
    (source / "labels.csv").write_text("\n".join(rows) + "\n")
    assert len(corpus_summary.summary(made_from(source)).splitlines()) < 90


def test_sample_of_the_media_is_said_to_be_one(source, home):
    told = corpus_summary.summary(made_from(source, n_probe=5))
    assert "A sample only: the media of 7 of 12 clips were not opened" in told


def test_source_that_was_refused_is_not_remembered(source, home, tmp_path, monkeypatch):
    made = build("tiny", source=source, manifest="labels.csv", columns=COLUMNS, labels=LABELS, label_map={"calm": None})
    assert len(made.clips) == 8 and read_json(data_dir("tiny") / "source.json")["source"] == str(source)
    with pytest.raises(EcmfError):
        build("tiny", source=tmp_path / "mistyped")
    assert read_json(data_dir("tiny") / "source.json")["source"] == str(source)


# ---- a reader of one's own


READER = """
import pandas as pd

def read(source, found, *, encoding="", follow_links=False):
    clips = sorted(source.glob("*.mp4"))
    same = {"text": "x", "label": "happy", "split": "train", "status": "ok"}
    return pd.DataFrame([{"clip_id": c.stem, "video": str(c), "group": c.stem, **same} for c in clips])
"""


def test_another_package_s_reader_is_called_by_its_dotted_name(source, home, tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "corpus.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    assert len(build("p", kind="my_lab.corpus:read", source=source, labels=LABELS).clips) == 12
    with pytest.raises(EcmfError, match="kind my_lab.corpus:write: cannot be imported .* expected package.module:func"):
        build("p", kind="my_lab.corpus:write", source=source)
    with pytest.raises(EcmfError, match="unknown kind 'ravdes'; did you mean ravdess?"):
        build("p", kind="ravdes", source=source)
