"""The list of encoders: what each takes and gives, its licence, which profiles choose it, whether it is here.

    python -m ecmf_utils.encoders.catalogue

writes the tables of docs/encoders.md again. Nothing here loads a model or asks the network.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ecmf_utils.files import ROOT, EcmfError, show, unknown, write_text
from ecmf_utils.notebook.parameters import read_parameters
from ecmf_utils.notebook.profiles import BRANCHES, list_profiles, load_profile, profiles_dir
from ecmf_utils.notebook.steps import STEPS

from . import pretrained

COLUMNS = {
    "name": "str", "branch": "str", "here": "str", "chosen_by": "str", "dim": "Int64", "input": "str",
    "layers": "Int64", "use_layers": "str", "use_pooling": "str", "batching": "str", "parameters": "Float64",
    "size": "Float64", "licence": "str", "languages": "str", "weights": "str", "what": "str",
}  # fmt: skip
ANY = "<"  # stands in the name of a row that means every model of a library
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TABLES = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end of tables -->)", re.S)
SHORT_COLUMNS = ["name", "dim", "input", "layers", "take", "size", "licence", "here"]  # on a terminal
FULL_COLUMNS = [
    "name", "branch", "dim", "input", "layers", "take", "batching", "M", "size", "weights", "licence", "languages",
    "chosen by", "what",
]  # fmt: skip
SECTIONS = ("scene, face", "audio", "text, context")  # of the page, each with a table
HINTS = """
choose one   ecmf reproduce PROFILE --set 22.encoder=NAME --set 22.layers=sum-last-4
             21 is face, 22 scene, 23 audio, 24 text, 30 context; a profile does the same for good
a folder     hf download ID --local-dir DIR, then --set 22.encoder=hf:DIR (an absolute path)
layers       how many there are, for layers=layer-K, sum-last-N and mean-last-N; take: recommended layers and pooling
here         whether the weights are on this machine; all facts with --json, and in docs/encoders.md"""
EQUAL_LENGTHS = "only sounds of equal length share a batch, since padding changes the vectors of: {}"


def list_encoders(branch: str = "", cache_dir: Path | str | None = None) -> pd.DataFrame:
    """List the encoders, one row each.

    Parameters
    ----------
    branch : str
        List only encoders of this branch; `chosen_by` is then about this branch alone.
    cache_dir : path, optional
        The cache of the Hugging Face hub, if it is not in its usual place.

    Returns
    -------
    DataFrame
        name (what the parameter `encoder` takes), branch, here (yes, no, or empty where no model is meant),
        chosen_by (profiles, without those that only extend one), dim (D of a row), input, layers, use_layers and
        use_pooling (recommended), batching (of sound), parameters (M, of the part that is used), size (MB to
        download), licence, languages, weights (safetensors, pickle), what. Unknown facts are missing values.

    Raises
    ------
    EcmfError
        The branch does not exist, or a profile cannot be read.
    """
    if branch and branch not in BRANCHES:
        raise unknown("branch", branch, BRANCHES)
    choices, listed = _read_choices(), []
    for row in yaml.safe_load(Path(__file__).with_name("encoders.yaml").read_text(encoding="utf-8")):
        served = [b for b in row["branch"].split(", ") if branch in ("", b)]
        if served:
            defaults = {} if ANY in row["name"] else {"use_layers": "last", "use_pooling": "mean"}
            chosen_by = _name_profiles(choices, _drop_revision(row["name"]), served)
            listed.append(defaults | row | {"chosen_by": chosen_by, "here": _check_presence(row, cache_dir)})
    return pd.DataFrame(listed, columns=list(COLUMNS)).astype(COLUMNS)


def _drop_revision(name: str) -> str:
    return name.partition("@")[0]


def _read_choices() -> dict[tuple[str, str], str]:
    """Map profile and branch to the encoder that the profile chooses, without what it keeps of one that it extends."""
    notebook_of = {step.branch: nb for nb, step in STEPS.items() if step.branch}
    declared = {branch: read_parameters(nb) for branch, nb in notebook_of.items()}
    default_of = {branch: own["encoder"].default for branch, own in declared.items() if "encoder" in own}

    def read_profile(name: str) -> dict[str, str]:
        profile = load_profile(name)
        encoder_of = {}
        for branch in [] if profile["members"] else profile["branches"]:
            if branch in default_of and branch not in profile["features"]:
                settings = profile["all"] | profile["notebooks"].get(notebook_of[branch], {})
                encoder_of[branch] = _drop_revision(settings.get("encoder", default_of[branch]))
        return encoder_of

    choices = {}
    for name in list_profiles():
        encoder_of = read_profile(name)  # refuses a file that cannot be read
        parent = (yaml.safe_load((profiles_dir() / f"{name}.yaml").read_text(encoding="utf-8")) or {}).get("extends")
        inherited = read_profile(parent) if parent else {}
        choices |= {(name, b): encoder for b, encoder in encoder_of.items() if inherited.get(b) != encoder}
    return choices


def _name_profiles(choices: dict[tuple[str, str], str], encoder: str, served: list[str]) -> str:
    """Name the profiles that choose an encoder, with their branches where they choose it for some only."""
    branches_of: dict[str, list[str]] = {}
    for (profile, branch), chosen in choices.items():
        if chosen == encoder and branch in served:
            branches_of.setdefault(profile, []).append(branch)
    return ", ".join(
        profile if set(branches) == set(served) else f"{profile} ({', '.join(branches)})"
        for profile, branches in branches_of.items()
    )


# ---- what is on this machine


def _check_presence(row: dict[str, Any], cache_dir: Path | str | None) -> str:
    """Say whether an encoder is on this machine: yes, no, or nothing where the row means no single model."""
    scheme, _, source = row["name"].partition(":")
    if ANY in source:
        return ""
    if "package" in row:
        return "yes" if next(importlib.metadata.distributions(name=row["package"]), None) else "no"
    if not source:
        return "yes"
    repository, _, revision = (row.get("hub") or (f"timm/{source}" if scheme == "timm" else source)).partition("@")
    return "yes" if _has_weights(repository, revision or None, cache_dir) else "no"


def _has_weights(repository: str, revision: str | None, cache_dir: Path | str | None) -> bool:
    """Whether a model's weights are in the cache, in one file or in all files of an index."""
    find = partial(pretrained.find_cached_file, repository, revision=revision, cache_dir=cache_dir)
    if any(map(find, WEIGHTS)):
        return True
    for index in filter(None, map(find, INDEXES)):
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        if all(map(find, set(parts))):
            return True
    return False


# ---- as text


def format_table(frame: pd.DataFrame) -> str:
    """Format a list for a terminal of 120 columns, by branch, with hints how to choose an encoder."""
    cells = _format_facts(frame).replace({"input": {" tokens": " tok", " px": "px"}}, regex=True)[SHORT_COLUMNS]
    cells["name"] = frame["chosen_by"].map(lambda names: "* " if names else "  ") + cells["name"]
    widths = [max(map(len, [column, *cells[column]])) for column in SHORT_COLUMNS]

    def join_cells(row: list[str]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()

    lines = [join_cells(["  name", *SHORT_COLUMNS[1:]])]
    for branch in frame["branch"].unique():
        lines += ["", branch, *map(join_cells, cells[frame["branch"] == branch].to_numpy().tolist())]
    chosen = frame[frame["chosen_by"] != ""].groupby("chosen_by", sort=False)["name"].unique()
    lines += ["", *(f"* {profiles}: {', '.join(names)}" for profiles, names in chosen.items())]
    unpadded = [name.rpartition("/")[2] for name in frame.loc[frame["batching"] == "equal lengths", "name"]]
    lines += ["", EQUAL_LENGTHS.format(", ".join(unpadded))] if unpadded else []
    return "\n".join([*lines, HINTS])


def format_markdown() -> str:
    """Format the tables of the page: everything except what is on this machine."""
    frame, sections = list_encoders(), []
    for title in SECTIONS:
        in_section = frame["branch"].map(lambda served, t=title: served.split(", ")[0] in t)
        cells = _format_facts(frame)[FULL_COLUMNS][in_section]
        telling = [(cells[column] != "").any() and (cells[column] != title).any() for column in FULL_COLUMNS]
        cells = cells.loc[:, telling]
        cells["name"] = "`" + cells["name"] + "`"
        rows = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
        sections.append("\n".join([f"### {title}", "", *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(sections)


def _format_facts(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn the facts into short text, in columns with short names."""
    text = frame.astype("object").where(frame.notna(), "").astype(str)
    text["M"] = ["" if pd.isna(n) else f"{n:.0f}" for n in frame["parameters"]]
    text["size"] = ["" if pd.isna(n) else f"{n / 1000:.1f} GB" if n >= 1000 else f"{n:.0f} MB" for n in frame["size"]]
    text["take"] = (text["use_layers"] + " " + text["use_pooling"]).str.strip()
    return text.rename(columns={"chosen_by": "chosen by"})


def write_page(page: Path | str = ROOT / "docs" / "encoders.md") -> None:
    """Write the tables of a page again, between its two marks."""
    text = Path(page).read_text(encoding="utf-8")
    if not TABLES.search(text):
        raise EcmfError(f"{show(page)}: the lines `<!-- tables -->` and `<!-- end of tables -->` are missing")
    write_text(page, TABLES.sub(lambda _: f"\n{format_markdown()}\n\n", text))


if __name__ == "__main__":
    write_page()
