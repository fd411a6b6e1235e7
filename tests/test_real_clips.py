"""Sixteen real recordings from the command line to the pages: every clip accounted for in every branch."""

import pytest
from bs4 import BeautifulSoup

from ecmf_bench import untrained
from ecmf_utils import corpus, features, media
from ecmf_utils.files import reports_dir
from ecmf_utils.notebook import steps
from ecmf_workflow import cli

PROFILE = "folder-clips"  # named after the folder
BRANCHES = {"face": "21", "scene": "22", "audio": "23", "text": "24"}
MODELS = {"face": "timm", "scene": "clip", "audio": "hubert-large", "text": "bert"}
WITHOUT = {  # what no encoder can change
    "face": {"no_face": 2}, "scene": {}, "audio": {"no_sound_stream": 1, "silent_sound": 1}, "text": {"empty_text": 16},
}  # fmt: skip


def reproduce(source, encoders):
    sets = [f"source={source}", *(f"{BRANCHES[branch]}.encoder={name}" for branch, name in encoders.items())]
    return cli.main(["reproduce", "folder", *(word for one in sets for word in ("--set", one))])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", params=["models", "offline"])
def encoders(request, realdata, home):
    """The names of the encoders with which everything was run the last time."""
    names = {"face": "classical", "scene": "classical", "audio": "classical", "text": "minilm"}
    if request.param == "models":
        names = {branch: untrained.save(family, home / family) for branch, family in MODELS.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA", "REPORTS"):
            patch.setenv(f"ECMF_{name}", str(home / name.lower()))
        assert reproduce(realdata / "clips", names) == 0
        yield names


def tables(branch):
    """The tables of a page, as rows of the texts of their cells."""
    notebook = next(nb for nb in steps.plan_notebooks(PROFILE) if nb.startswith(BRANCHES[branch]))
    page = BeautifulSoup((reports_dir(PROFILE) / f"{notebook}.html").read_text(encoding="utf-8"), "html.parser")
    return [
        [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
        for table in page.find_all("table")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("branch", list(BRANCHES))
def test_every_clip_is_accounted_for(encoders, branch):
    status = features.read_status(PROFILE, [branch])
    assert sorted(status["clip_id"]) == sorted(corpus.read_clips(PROFILE)["clip_id"]) and len(status) == 16
    assert status["problem"].value_counts().to_dict() == WITHOUT[branch]
    assert (status["status"] == "ok").sum() == 16 - sum(WITHOUT[branch].values())
    chosen = features.read_selected(PROFILE, branch)
    assert chosen["recipe"]["name"] == encoders[branch] and (chosen["n_failed"], chosen["n_shards"]) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("branch", list(BRANCHES))
def test_the_page_says_how_long_it_took_and_how_many_clips_have_which_problem(encoders, branch):
    found = tables(branch)
    (speed,) = [dict(row for row in table if len(row) == 2) for table in found if ["clips", "16"] in table]
    assert float(speed["seconds"]) >= 0 and float(speed["clips/s"]) > 0
    assert ("in the model" in speed) == (encoders[branch] != "classical")
    told = {row[-3]: (row[-2], row[-1]) for table in found for row in table if row[-3:-2] and row[-3] in media.PROBLEMS}
    assert told == {code: (media.PROBLEMS[code], str(count)) for code, count in WITHOUT[branch].items()}


@pytest.mark.slow
def test_the_index_counts_the_same_problems(encoders):
    page = BeautifulSoup((reports_dir(PROFILE) / "index.html").read_text(encoding="utf-8"), "html.parser")
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in page.table.find_all("tr")]
    found = {(row[0].rpartition(" ")[2], row[2]) for row in rows if row}  # with those of the other notebooks
    assert found >= {(code, str(n)) for problems in WITHOUT.values() for code, n in problems.items()}
