"""Whether a notebook has to run again, and the reason that is given."""

import pytest

from ecmf_utils.files import write_json
from ecmf_utils.notebook import profiles, reruns, steps
from tests.small_notebooks import PARAMETERS, edit, make_notebook, make_pipeline

NB = "24_extract_text"
SPLIT = {"n_shards": 3}


@pytest.fixture
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    declared = PARAMETERS + "shard: int = 0\nn_shards: int = 1\nn_workers: int = 0\n"
    make_notebook(folder, NB, "1 + 1", parameters=declared)
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


def resolve(**changes):
    return profiles.resolve(NB, "words") | changes


def run(status="ok", **changes):
    """Note a start and write the record that the runner leaves."""
    values = resolve(**changes)
    reruns.note_start(NB, "words", values)
    record = {"parameters": values, "fingerprint": reruns.fingerprint(NB), "status": status}
    write_json(steps.run_dir(NB, "words", steps.make_run_key(values)) / "run.json", record)


def reason(**changes):
    return reruns.find_reason(NB, "words", resolve(**changes))


def test_a_run_that_was_never_started_has_to_run(notebooks):
    assert reason() == reruns.NEVER_RAN


def test_a_run_with_the_same_parameters_and_code_is_current(notebooks):
    run()
    assert reason() == ""


def test_a_run_by_hand_counts_without_a_record(notebooks):
    reruns.note_start(NB, "words", resolve())
    assert reason() == "" and reason(seed=9) == reruns.OTHER_PARAMETERS


def test_a_record_counts_when_the_note_is_gone(notebooks):
    run()
    reruns.start_note_path(NB, "words").unlink()
    assert reason() == "" and reason(seed=9) == reruns.OTHER_PARAMETERS


@pytest.mark.parametrize("status", ["running", "failed", "died", "interrupted"])
def test_a_run_that_did_not_end_well_has_to_run_again(notebooks, status):
    run(status)
    assert reason() == reruns.FAILED


def test_the_last_start_counts_by_hand_too(notebooks):
    run()
    reruns.note_start(NB, "words", resolve(seed=9))
    assert reason() == reruns.OTHER_PARAMETERS and reason(seed=9) == ""


def test_the_number_of_workers_does_not_count(notebooks):
    run(n_workers=1)
    assert reason(n_workers=8) == ""


def test_keys_that_are_numbers_are_the_same_after_they_were_written(notebooks):
    numbered = {"source": {2: "sad", 10: "happy", "x": None}}
    run(**numbered)
    assert reason(**numbered) == ""


def test_other_code_counts_and_other_prose_does_not(notebooks):
    run()
    edit(notebooks, NB, f"# {NB}", "# Words")
    assert reason() == ""
    edit(notebooks, NB, "1 + 1", "1 + 2")
    assert reason() == reruns.OTHER_CODE


def test_each_shard_has_an_answer_of_its_own(notebooks):
    run(shard=0, **SPLIT)
    run("failed", shard=1, **SPLIT)
    answers = [reason(shard=shard, **SPLIT) for shard in range(3)]
    assert answers == ["", reruns.FAILED, reruns.NEVER_RAN]


def test_a_run_in_one_piece_replaces_what_the_shards_wrote(notebooks):
    for shard in range(3):
        run(shard=shard, **SPLIT)
    assert reason(shard=0, **SPLIT) == "" and reason() == reruns.OTHER_PARAMETERS
    run()
    assert [reason(shard=shard, **SPLIT) for shard in range(3)] == [reruns.OTHER_PARAMETERS] * 3
