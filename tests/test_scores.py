"""The file of all score rows: written by notebook 51, read by the pages."""

import pytest

from ecmf_utils import evaluation, scores
from ecmf_utils.files import EcmfError, data_dir, write_json

ROW = {key: 0 for key in scores.KEYS}


def test_rows_are_read_as_they_were_saved(home):
    rows = [ROW | {"model": "ecmf", "seed_sd": 0.1}, ROW | {"model": "late"}]
    assert evaluation.save_scores("p", rows) == data_dir("p") / "runs" / "scores.json"
    assert scores.read_scores("p") == rows


def test_a_profile_without_scores_has_no_rows(home):
    assert scores.read_scores("p") == []


def test_a_row_without_a_key_is_one_clear_line(home):
    write_json(data_dir("p") / "runs" / "scores.json", [ROW, {key: 0 for key in scores.KEYS if key != "ci95"}])
    with pytest.raises(EcmfError, match=r"scores\.json: row 1 lacks ci95; run 51 again"):
        scores.read_scores("p")
