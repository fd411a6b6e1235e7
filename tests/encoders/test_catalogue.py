"""The list of encoders agrees with the README, the profiles and its page, and needs no network."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ecmf_utils import encoders
from ecmf_utils.encoders import catalogue, loading
from ecmf_utils.files import EcmfError
from ecmf_utils.notebook import parameters, profiles, steps
from ecmf_workflow import cli

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = re.compile(r"classical|minilm|hf:[\w.-]+/[\w.-]+(@[\w./-]+)?|timm:[\w.-]+(/[\w.-]+)?")
MADE_BY = {step.branch: notebook for notebook, step in steps.STEPS.items() if step.branch}
HUBERT = "hf:facebook/hubert-base-ls960"
LLM = "hf:Qwen/Qwen2.5-7B-Instruct"
TIMM = "timm:vit_large_patch16_dinov3.lvd1689m"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def rows():
    return catalogue.list_encoders()


def put(cache, repository, *files, revision="main", commit="c0ffee"):
    """A model in a made-up cache of the hub."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    for name, content in files:
        place = folder / "snapshots" / commit / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)


def here(name, cache):
    found = catalogue.list_encoders(cache_dir=cache).set_index("name")["here"]
    return found[name]


def choices(profile):
    """Branch -> encoder, layers and pooling of a profile, where it extracts anything."""
    content = profiles.load_profile(profile)
    wanted = [b for b in content["branches"] if b in MADE_BY and b not in content["features"]]
    values = {branch: profiles.resolve(MADE_BY[branch], profile) for branch in wanted if not content["members"]}
    return {b: (v["encoder"].partition("@")[0], v["layers"], v["pooling"]) for b, v in values.items()}


# ---- what is chosen: README, profiles and list say the same


def test_the_readme_names_what_mer2025_chooses():
    row = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "scarce data" in line)
    demo, _, mer2025 = row.partition("mer2025:")
    for text, profile in ((demo, "demo"), (mer2025, "mer2025")):
        named = {name for name in re.findall(r"`([^`]+)`", text) if NAME.fullmatch(name)}
        assert named == {encoder for encoder, _, _ in choices(profile).values()}
    branches = {"frames": "scene", "faces": "face", "voice": "audio", "text and context": "text"}
    for word, branch in branches.items():
        assert f"{word} `{choices('mer2025')[branch][0]}`" in mer2025


@pytest.mark.parametrize("profile", ["mer2025", "demo", "tiny"])
def test_the_list_says_who_chooses_what(profile):
    for branch, (encoder, layers, pooling) in choices(profile).items():
        shown = catalogue.list_encoders(branch)
        chosen = shown[[profile in told.split(", ") for told in shown["chosen_by"]]]
        assert list(chosen["name"]) == [encoder]
        assert (chosen.iloc[0]["use_layers"], chosen.iloc[0]["use_pooling"]) == (layers, pooling)


def test_every_encoder_of_a_profile_is_in_the_list(rows):
    known = {
        (name, branch)
        for name, served in zip(rows["name"], rows["branch"], strict=True)
        for branch in served.split(", ")
    }
    used = {(choice[0], branch) for name in profiles.list_profiles() for branch, choice in choices(name).items()}
    assert len(used) > 8 and used <= known


def test_a_profile_that_changes_its_choice_changes_the_list(tmp_path, monkeypatch):
    for path in profiles.profiles_dir().glob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("hf:TencentGameMate/chinese-hubert-large", f"{HUBERT}@v1")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("ECMF_PROFILES", str(tmp_path))
    by = catalogue.list_encoders("audio").set_index("name")["chosen_by"]
    assert by[HUBERT] == "mer2025" and by["hf:TencentGameMate/chinese-hubert-large"] == ""


def test_a_choice_for_one_of_several_branches_says_which(rows):
    told = rows.set_index("name")["chosen_by"]
    assert told["hf:openai/clip-vit-large-patch14"] == "mer2025 (scene)"
    assert told["hf:hfl/chinese-roberta-wwm-ext-large"] == "mer2025"


# ---- the facts


def test_names_are_what_the_parameter_takes(rows):
    generic = [name for name in rows["name"] if "<" in name]
    assert generic == ["hf:<id or folder>[@revision]", "timm:<name or hf-hub id>"] == list(rows["name"][-2:])
    for name in rows["name"][:-2]:
        assert NAME.fullmatch(name), name
    frames = rows[rows["name"].str.startswith("timm:")]["branch"]
    assert set(", ".join(frames).split(", ")) <= {"scene", "face"}


def test_no_row_stands_twice(rows):
    assert not rows.duplicated(["name", "branch"]).any()


@pytest.mark.parametrize("branch", profiles.BRANCHES)
def test_what_comes_with_the_package_has_the_dimension_that_is_listed(branch):
    shown = catalogue.list_encoders(branch)
    own = shown[shown["name"].isin(["classical", "minilm"])]
    assert len(own) == 1 and list(own["here"]) == ["yes"]
    assert encoders.load(own.iloc[0]["name"], branch).dim == own.iloc[0]["dim"]


def test_every_model_of_the_hub_has_its_facts(rows):
    hub = rows[rows["name"].str.match(r"(hf|timm):[^<]")]
    needed = ["dim", "input", "layers", "use_layers", "use_pooling", "parameters", "size", "licence", "weights", "what"]
    assert len(hub) > 15 and hub[needed].notna().all(axis=None)
    assert hub[hub["branch"] == "audio"][["batching", "languages"]].notna().all(axis=None)
    assert hub[hub["branch"].str.contains("text")]["languages"].notna().all()


def test_recommended_layers_exist(rows):
    for _, row in rows.dropna(subset="use_layers").iterrows():
        last = re.fullmatch(r"last|(?:sum|mean)-last-(\d+)", row["use_layers"])
        assert last and (last[1] is None or int(last[1]) <= row["layers"]), row["name"]
        assert row["use_pooling"] in loading.POOLINGS


def test_a_download_is_at_least_as_large_as_what_is_used_of_it(rows):
    sizes = rows.dropna(subset="size")
    assert (sizes["size"] / sizes["parameters"]).between(1.9, 12).all()  # MB a million: two bytes and more


# ---- what is on this machine


def test_nothing_is_here_in_an_empty_cache(tmp_path):
    found = catalogue.list_encoders(cache_dir=tmp_path)
    assert set(found[found["name"].str.match(r"(hf|timm):[^<]")]["here"]) == {"no"}
    assert list(found["here"][-2:]) == ["", ""]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_is_here_when_its_weights_are_cached(file, tmp_path):
    put(tmp_path, "facebook/hubert-base-ls960", ("config.json", "{}"))
    assert here(HUBERT, tmp_path) == "no"
    put(tmp_path, "facebook/hubert-base-ls960", (file, ""))
    assert here(HUBERT, tmp_path) == "yes"


def test_a_model_in_parts_is_here_when_all_parts_are(tmp_path):
    parts = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    index = ("model.safetensors.index.json", json.dumps({"weight_map": parts}))
    put(tmp_path, "Qwen/Qwen2.5-7B-Instruct", index, ("model-1.safetensors", ""))
    assert here(LLM, tmp_path) == "no"
    put(tmp_path, "Qwen/Qwen2.5-7B-Instruct", ("model-2.safetensors", ""))
    assert here(LLM, tmp_path) == "yes"


def test_another_revision_is_not_here(tmp_path):
    put(tmp_path, "facebook/hubert-base-ls960", ("model.safetensors", ""), revision="refs/pr/2")
    assert here(HUBERT, tmp_path) == "no"


def test_timm_models_are_found_under_the_repository_that_holds_them(tmp_path):
    put(tmp_path, "timm/vit_large_patch16_dinov3.lvd1689m", ("model.safetensors", ""))
    put(tmp_path, "timm/vit_base_patch16_clip_224.openai", ("pytorch_model.bin", ""))
    assert here(TIMM, tmp_path) == "yes"
    assert here("timm:vit_base_patch16_clip_quickgelu_224.openai", tmp_path) == "yes"


def test_the_cache_of_the_hub_is_looked_at(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert here(HUBERT, None) == "no"
    put(tmp_path, "facebook/hubert-base-ls960", ("model.safetensors", ""))
    assert here(HUBERT, None) == "yes"


def test_a_package_that_is_not_installed_is_not_here(monkeypatch):
    monkeypatch.setattr(catalogue.importlib.metadata, "distributions", lambda name: iter([]))
    assert here("minilm", None) == "no"


# ---- the command and the page


@pytest.mark.parametrize("branch", ["", *profiles.BRANCHES])
def test_the_table_fits_a_terminal(branch):
    lines = catalogue.format_table(catalogue.list_encoders(branch)).splitlines()
    assert max(map(len, lines)) <= 120
    assert any("--set" in line for line in lines) and any("hf:DIR" in line for line in lines)


def test_the_command_keeps_to_a_branch(capsys):
    assert cli.main(["encoders", "audio"]) == 0
    shown = capsys.readouterr().out
    assert HUBERT in shown and "hf:<id or folder>" in shown
    assert "clip" not in shown and "timm:" not in shown


def test_the_command_gives_all_facts_as_json(capsys, rows):
    assert cli.main(["encoders", "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in given] == list(rows["name"])
    assert given[0]["dim"] == 85 and given[0]["size"] is None


def test_an_unknown_branch_is_one_line(capsys):
    assert cli.main(["encoders", "txet"]) == 2
    assert capsys.readouterr().err == (
        "ecmf: unknown branch 'txet'; did you mean text? (known: scene, face, audio, text, context)\n"
    )


def test_the_list_is_light():
    """No deep learning library is imported for it."""
    code = (
        "import sys; from ecmf_workflow import cli; cli.main(['encoders']); print({'torch', 'timm'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_notebooks_without_the_parameter_are_left_out(home, monkeypatch):
    from tests.small_notebooks import make_pipeline

    monkeypatch.setenv("ECMF_NOTEBOOKS", str(make_pipeline(home / "notebooks")))
    assert "encoder" not in parameters.read_parameters("22")
    assert set(catalogue.list_encoders()["chosen_by"]) == {""}


def test_the_page_shows_the_list():
    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    shown = catalogue.TABLES.search(page)[0].strip()
    assert shown == catalogue.format_markdown(), "run: .venv/bin/python -m ecmf_utils.encoders.catalogue"


def test_every_row_is_on_the_page_once(rows):
    lines = [line for line in catalogue.format_markdown().splitlines() if line.startswith("| `")]
    assert sorted(line.split("`")[1] for line in lines) == sorted(rows["name"])
    assert not pd.Series(lines).str.contains("nan|<NA>").any()


def test_a_page_is_written_again_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\nstale lines\n<!-- end of tables -->\nafter\n")
    catalogue.write_page(page)
    once = page.read_text()
    catalogue.write_page(page)
    assert page.read_text() == once and "minilm" in once and "stale" not in once
    assert once.startswith("before\n") and once.endswith("after\n")


def test_a_page_without_marks_stays_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(EcmfError, match="page.md.*<!-- tables -->"):
        catalogue.write_page(page)
    assert page.read_text() == "nothing here\n"
