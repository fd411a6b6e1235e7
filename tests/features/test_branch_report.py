"""The report of a branch: what the notebooks that extract it show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import features, plots
from ecmf_utils.corpus import manifest
from ecmf_utils.encoders import Encoder
from ecmf_utils.files import EcmfError
from ecmf_utils.notebook import Note

LABELS = ["sad", "happy"]


def count_letters(texts):
    return [np.array([[len(text), text.count("a"), 1.0]], np.float32) for text in texts]


ENCODER = Encoder("letters", "text", "text", "last", "1", count_letters, dim=3)


@pytest.fixture
def clips(home):
    texts = ["a", "bb", "", "banana", "dd"]
    rows = [
        {"clip_id": f"c{i}", "text": text, "label": [*LABELS, None, *LABELS][i], "split": "train", "group": f"g{i}"}
        for i, text in enumerate(texts)
    ]
    table = pd.DataFrame(rows).assign(status="ok", problem=None)
    return manifest.save_clips("p", table, LABELS)


def extract(clips, encoder=ENCODER):
    return features.extract("p", "text", features.distinct_texts(clips), encoder, features.read_text)


def test_a_report_has_the_vectors_with_their_labels_and_says_what_is_missing(clips):
    extract(clips)
    report = features.report("p", "text")
    assert list(report.vectors.index) == ["c0", "c1", "c3", "c4"] and report.vectors.loc["c3"].tolist() == [6, 3, 1]
    assert report.clip_labels == ["sad", "happy", "sad", "happy"]
    assert report.problems.reset_index().to_numpy().tolist() == [["missing", "empty_text", "there is no transcript", 1]]
    assert report.numbers["value"].to_dict() == {
        "clips": "4", "columns": "3", "constant columns": "1", "largest |value|": "6.0",
    }  # fmt: skip
    assert report.summary["value"].to_dict() == {
        "branch": "text", "encoder": "letters", "dimension": "3", "ok": "4", "missing": "1", "failed": "0",
    }  # fmt: skip
    assert report.recipe.loc["pooling", "value"] == "mean" and len(report.recipe.loc["recipe hash", "value"]) == 16
    assert len(report.status) == 5
    assert plots.embedding(report.vectors, report.clip_labels, LABELS, "text").axes


def test_without_a_problem_or_enough_vectors_a_note_takes_the_place(clips):
    some = clips[clips["text"].str.len() > 1]
    extract(some.head(2))
    report = features.report("p", "text")
    assert isinstance(report.problems, Note) and report.problems == "Every clip has a vector."
    assert plots.embedding(report.vectors, report.clip_labels, LABELS) == "There are too few vectors to draw: 2."


def test_a_label_that_is_not_given_is_none(clips):
    table = clips.assign(text=["a", "bb", "cc", "banana", "dd"])
    extract(table)
    assert features.report("p", "text").clip_labels[2] is None


def test_a_branch_that_was_not_extracted_names_its_notebook(clips):
    with pytest.raises(EcmfError, match="run 24_extract_text"):
        features.report("p", "text")


def test_a_part_of_the_shards_is_enough_where_that_is_asked_for(clips):
    features.extract("p", "text", features.distinct_texts(clips), ENCODER, features.read_text, shard=0, n_shards=2)
    assert len(features.report("p", "text", partial=True).status) < 5
    with pytest.raises(EcmfError, match="shard=1"):
        features.report("p", "text")


def test_a_vector_is_described_in_the_type_that_models_get(clips):
    extract(clips, replace(ENCODER, run=lambda texts: [rows * 1e3 for rows in count_letters(texts)]))
    report = features.report("p", "text")
    assert report.vectors.dtypes.unique().tolist() == [np.float32]
    assert report.numbers.loc["largest |value|", "value"] == "6000.0"
