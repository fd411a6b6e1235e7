"""Label sets: what a foreign label becomes, and that nothing is lost without being counted."""

import pandas as pd
import pytest

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.corpus.label_map import apply, check_label_map
from ecmf_utils.files import EcmfError

SIX = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
MAP = {"calm": "neutral", "fearful": "worried", "disgust": None}


@pytest.fixture
def rows():
    labels = ["calm", "calm", "happy", "disgust", "hapy", None]
    return pd.DataFrame(
        {"clip_id": [f"c{i}" for i in range(6)], "label": labels, "split": ["train"] * 5 + ["unlabelled"]}
    ).assign(problem=None, row=range(2, 8), file="labels.csv")


def test_mapped_labels_are_translated_and_the_original_is_kept(rows):
    made, _ = apply(rows, SIX, MAP, Findings(), "p")
    assert made.loc[made["clip_id"] == "c0", ["label", "label_found"]].iloc[0].tolist() == ["neutral", "calm"]
    assert made.loc[made["clip_id"] == "c2", "label"].item() == "happy"


def test_label_without_counterpart_is_dropped_and_counted(rows):
    made, fates = apply(rows, SIX, MAP, Findings(), "p")
    assert "c3" not in set(made["clip_id"])
    assert len(made) == 5
    assert fates.set_index("found").loc["disgust", ["how", "clips"]].tolist() == ["dropped", 1]


def test_slip_of_the_pen_stays_as_unlabelled_and_is_told_with_its_row(rows):
    found = Findings()
    made, fates = apply(rows, SIX, MAP, found, "p")
    slip = made.set_index("clip_id").loc["c4"]
    assert (slip["label"], slip["split"], slip["problem"]) == (None, "unlabelled", "unknown_label")
    assert fates.set_index("found").loc["hapy", "how"] == "unknown"
    told = found.frame().iloc[0]
    assert (told["file"], told["row"], told["clip_id"]) == ("labels.csv", 6, "c4")
    assert "'hapy'" in told["text"]


def test_every_label_that_is_found_is_in_the_table(rows):
    _, fates = apply(rows, SIX, MAP, Findings(), "p")
    assert fates["clips"].sum() == rows["label"].notna().sum()
    assert dict(zip(fates["found"], fates["how"], strict=True)) == {
        "calm": "mapped",
        "happy": "same",
        "disgust": "dropped",
        "hapy": "unknown",
    }


@pytest.mark.parametrize(
    ("label_map", "line"),
    [
        ({"calm": "neutrall"}, "unknown label 'neutrall'; did you mean neutral?"),
        ({"calm": 3}, "label_map: calm: expected a label or null, found 3"),
    ],
)
def test_mapping_onto_nothing_is_refused(label_map, line):
    with pytest.raises(EcmfError, match=line):
        check_label_map(SIX, label_map, "p")


def test_own_label_set_of_eight_needs_no_mapping(rows):
    eight = [*SIX, "calm", "disgust"]
    made, fates = apply(rows[rows["label"] != "hapy"], eight, {}, Findings(), "p")
    assert set(fates["how"]) == {"same"}
    assert len(made) == 5
