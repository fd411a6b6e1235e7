import pytest

from ecmf_workflow import cli, results, runner
from tests.small_notebooks import make_pipeline


@pytest.fixture(autouse=True)
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    (folder / "profiles" / "broken.yaml").write_text("all: [1\n")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("run 01", "unknown notebook '01'"),
        ("run 22_extract_scen", "did you mean 22_extract_scene?"),
        ("run 22 --profile demp", "unknown profile 'demp'"),
        ("run 22 --profile ../x", "unknown profile '../x'"),
        ("run 22 --profile broken", "broken.yaml, line 2: not valid YAML"),
        ("run 22 --set sede=1", "22_extract_scene: unknown parameter 'sede'; did you mean seed?"),
        ("run 22 --set seed=1.5", "22_extract_scene: parameter seed is int, which '1.5' is not"),
        ("run 22 --set seed", "--set seed: expected NAME=VALUE"),
        ("run 24 --profile words", "run `ecmf run 00_start_here --profile words`"),
        ("reproduce demp", "unknown profile 'demp'"),
        ("reproduce words --set sede=1", "unknown parameter 'sede'; did you mean seed?"),
        ("reproduce words --set 22.seed=1", "22_extract_scene is not run by this profile"),
        ("reproduce folder", "say which clips: --set source=DIR"),
        ("reproduce folder --set source=/no/such", "--set source=/no/such: no such folder"),
        ("corpus demp", "unknown profile 'demp'"),
        ("corpus words --set sede=1", "unknown parameter 'sede'"),
        ("import-features words text", "text: expected BRANCH=PATH"),
        ("import-features words txet=/tmp", "unknown branch 'txet'; did you mean text?"),
        ("import-features words text=/no/such", "/no/such: no such folder or table of features"),
        ("import-features words text=/tmp", "run `ecmf run 00 --profile words` first"),
        ("export-features words txet --to /tmp", "unknown branch 'txet'; did you mean text?"),
        ("verify demp", "unknown profile 'demp'"),
        ("index demp", "unknown profile 'demp'"),
        ("encoders txet", "unknown branch 'txet'; did you mean text?"),
        ("encoders", "broken.yaml, line 2: not valid YAML"),
    ],
)
def test_bad_input_is_one_line(command, line, capsys):
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.startswith("ecmf: ")
    assert told.count("\n") == 1


def test_run_hands_over_profile_and_settings(monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "run", lambda *words: seen.append(words) or 1)
    assert cli.main(["run", "22", "--profile", "words", "--set", "a=b=c", "--set", "x=1"]) == 1
    assert seen == [("22", "words", ["a=b=c", "x=1"])]


def test_verify_fails_when_a_figure_moved(monkeypatch, capsys):
    monkeypatch.setattr(results, "verify", lambda profile: ["ecmf weighted_f1: .80 -> .70"])
    assert cli.main(["verify", "tiny"]) == 1
    assert ".80 -> .70" in capsys.readouterr().out
    monkeypatch.setattr(results, "verify", lambda profile: [])
    assert cli.main(["verify", "tiny"]) == 0


def test_verify_of_a_study_is_that_of_its_corpora(monkeypatch, capsys):
    monkeypatch.setattr(results, "verify", lambda profile: ["moved"] if profile == "more" else [])
    assert cli.main(["verify", "both"]) == 1
    assert capsys.readouterr().out.splitlines() == ["more: moved", "both: 1 figures moved"]


def test_list_shows_notebooks_and_profiles(notebooks, capsys):
    (notebooks / "profiles" / "broken.yaml").unlink()
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "22_extract_scene" in shown
    assert "tiny                 small" in shown
