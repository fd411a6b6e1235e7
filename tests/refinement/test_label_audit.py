"""The audit of a refinement: what was changed, and whether that was right where the truth is known."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import refinement
from ecmf_utils.corpus import manifest
from ecmf_utils.files import EcmfError, data_dir, parquet_metadata, write_parquet
from ecmf_utils.notebook import Note

LABELS = ["sad", "happy"]
#        clip, given, refined, action, confidence
ROWS = [
    ("a", "sad", "sad", "kept", 0.9),
    ("b", "sad", "happy", "changed", 0.8),
    ("c", "happy", "sad", "changed", 0.95),
    ("d", "happy", "happy", "weighted", 0.5),
    ("e", "sad", None, "dropped", 0.1),
    ("f", None, "sad", "added", 0.97),
]
TRUTH = {"a": "sad", "b": "happy", "c": "happy", "d": "sad", "e": "sad", "f": "sad"}


def refined_table():
    columns = ["clip_id", "given", "refined", "action", "confidence"]
    whole = pd.DataFrame(ROWS, columns=columns).assign(for_fold=-1, weight=1.0, why="")
    without_fold_0 = whole.assign(for_fold=0)[whole["clip_id"] != "a"]
    without_fold_0.loc[without_fold_0["clip_id"] == "b", "refined"] = "sad"
    table = pd.concat([whole, without_fold_0], ignore_index=True)
    for name in ("given", "face"):
        table[[f"s_{name}_{label}" for label in LABELS]] = np.array([0.2, 0.8])
    return table


@pytest.fixture
def corpus_on_disk(home):
    clips = pd.DataFrame({"clip_id": list(TRUTH), "label": [row[1] for row in ROWS]})
    clips = clips.assign(split="train", group="g", status="ok", problem=None, text=None)
    manifest.save_clips("p", clips, LABELS)


def know_the_truth():
    truth = pd.DataFrame({"clip_id": list(TRUTH), "truth": list(TRUTH.values())})
    write_parquet(truth, data_dir("p") / "truth.parquet")


def test_an_audit_counts_what_was_done(corpus_on_disk):
    audit = refinement.audit("p", refined_table(), LABELS)
    assert audit.summary["value"].to_dict() == {"clips": 5, "changed": 2, "dropped": 1, "weighted": 1, "added": 1}
    assert list(audit.changed.index) == ["c", "b"] and list(audit.labelled.index) == list("abcde")
    assert audit.actions.loc["kept"].to_dict() == {"fold 0 held out": 0, "none held out": 1}
    assert audit.stability["clips"].to_dict() == {1: 4, 2: 1}
    assert list(audit.reliability.index) == ["given", "face"] and audit.reliability.loc["face", "clips"] == 5


def test_a_known_truth_tells_right_from_wrong(corpus_on_disk):
    know_the_truth()
    audit = refinement.audit("p", refined_table(), LABELS)
    assert audit.correctness.to_dict("index") == {
        "given": {"right": 3, "clips": 5, "share": 0.6},
        "refined": {"right": 2, "clips": 5, "share": 0.4},
        "added": {"right": 1, "clips": 1, "share": 1.0},
    }
    assert audit.moves["changed clips"].to_dict() == {"wrong to right": 1, "right to wrong": 1}
    assert audit.sign_test == "Sign test: 1 changes for the better, 1 for the worse, p = 1.00"


def test_no_change_has_no_sign(corpus_on_disk):
    know_the_truth()
    kept = refined_table().query("action != 'changed'")
    audit = refinement.audit("p", kept, LABELS)
    assert isinstance(audit.moves, Note) and audit.sign_test == "No change was for better or worse."


def test_a_real_corpus_has_notes_in_place_of_the_truth(corpus_on_disk):
    audit = refinement.audit("p", refined_table(), LABELS)
    notes = {audit.correctness, audit.moves, audit.sign_test}
    assert notes == {"The truth of a real corpus is not known."} and isinstance(audit.moves, Note)


def test_labels_are_saved_with_their_settings_and_read_back(home):
    table = refined_table()
    path = refinement.save("p", table, LABELS, change_at=0.8, seed=3)
    assert path == data_dir("p") / "labels" / "refined.parquet"
    header = parquet_metadata(path)
    assert header["labels"] == LABELS and (header["change_at"], header["seed"]) == (0.8, 3)
    pd.testing.assert_frame_equal(refinement.read("p"), table, check_dtype=False)


def test_labels_that_are_not_there_name_the_notebook(home):
    with pytest.raises(EcmfError, match="refined.parquet is missing: run `ecmf run 40 --profile p` first"):
        refinement.read("p")
