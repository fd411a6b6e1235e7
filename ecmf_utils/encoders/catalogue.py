"""Encoders that are known: what each takes and gives, its licence, who chose it, whether it is here.

    python -m ecmf_utils.encoders.catalogue

writes the tables of docs/encoders.md again. Nothing here loads a model or asks the network.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
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
ANY = "<"  # in the name of a row that stands for every model of a library
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TABLES = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end of tables -->)", re.S)
SHORT = ["name", "dim", "input", "layers", "take", "size", "licence", "here"]  # on a terminal
FULL = [
    "name",
    "branch",
    "dim",
    "input",
    "layers",
    "take",
    "batching",
    "M",
    "size",
    "weights",
    "licence",
    "languages",
    "chosen by",
    "what",
]
PAGE = ("scene, face", "audio", "text, context")  # a table each
HOW = """
choose one   ecmf reproduce PROFILE --set 22.encoder=NAME --set 22.layers=sum-last-4
             21 is face, 22 scene, 23 audio, 24 text, 30 context; a profile does the same for good
a folder     hf download ID --local-dir DIR, then --set 22.encoder=hf:DIR (an absolute path)
layers       how many there are, for layers=layer-K, sum-last-N and mean-last-N; take: recommended layers and pooling
here         whether the weights are on this machine; all facts with --json, and in docs/encoders.md"""
ALONE = "only sounds of equal length share a batch, since padding changes the vectors of: {}"


def list_encoders(branch: str = "", cache_dir: Path | str | None = None) -> pd.DataFrame:
    """What there is, one row an encoder and the branches that it serves.

    Parameters
    ----------
    branch : str
        Only what serves this branch; `chosen_by` is then about this branch alone.
    cache_dir : path, optional
        The cache of the Hugging Face hub; its own place when left out.

    Returns
    -------
    DataFrame
        name (what the parameter `encoder` takes), branch, here (yes, no, or empty where no model is meant),
        chosen_by (profiles, without those that only extend one), dim (D of a row), input, layers, use_layers and
        use_pooling (recommended), batching (of sound), parameters (M, of the part that is used), size (MB to
        download), licence, languages, weights (safetensors, pickle), what. A fact that is not known is missing.

    Raises
    ------
    EcmfError
        The branch does not exist, or a profile cannot be read.
    """
    if branch and branch not in BRANCHES:
        raise unknown("branch", branch, BRANCHES)
    chosen, found = _chosen(), []
    for row in _rows():
        served = [b for b in row["branch"].split(", ") if branch in ("", b)]
        if served:
            own = {"chosen_by": _told(chosen, _model(row["name"]), served), "here": _here(row, cache_dir)}
            defaults = {} if ANY in row["name"] else {"use_layers": "last", "use_pooling": "mean"}
            found.append(defaults | row | own)
    return pd.DataFrame(found, columns=list(COLUMNS)).astype(COLUMNS)


def _rows() -> list[dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_name("encoders.yaml").read_text(encoding="utf-8"))


def _model(name: str) -> str:
    """A name without the revision that it may be pinned to."""
    return name.partition("@")[0]


def _chosen() -> dict[tuple[str, str], str]:
    """Profile and branch -> the model that it chooses; what a profile keeps of one that it extends is left out."""
    made_by = {step.branch: nb for nb, step in STEPS.items() if step.branch}
    parameters = {branch: read_parameters(nb) for branch, nb in made_by.items()}
    defaults = {branch: own["encoder"].default for branch, own in parameters.items() if "encoder" in own}

    def choices(name: str) -> dict[str, str]:
        profile = load_profile(name)
        wanted = [] if profile["members"] else [b for b in profile["branches"] if b not in profile["features"]]
        settings = {
            b: {"encoder": defaults[b]} | profile["all"] | profile["notebooks"].get(made_by[b], {})
            for b in wanted
            if b in defaults
        }
        return {b: _model(own["encoder"]) for b, own in settings.items()}

    found = {}
    for name in list_profiles():
        chosen = choices(name)  # refuses a file that cannot be read
        parent = (yaml.safe_load((profiles_dir() / f"{name}.yaml").read_text(encoding="utf-8")) or {}).get("extends")
        inherited = choices(parent) if parent else {}
        found |= {(name, b): encoder for b, encoder in chosen.items() if inherited.get(b) != encoder}
    return found


def _told(chosen: dict[tuple[str, str], str], model: str, served: list[str]) -> str:
    """The profiles that choose a model, each with the branches where those are not all."""
    by: dict[str, list[str]] = {}
    for (profile, branch), encoder in chosen.items():
        if encoder == model and branch in served:
            by.setdefault(profile, []).append(branch)
    return ", ".join(name if set(bs) == set(served) else f"{name} ({', '.join(bs)})" for name, bs in by.items())


# ---- what is on this machine


def _here(row: dict[str, Any], cache_dir: Path | str | None) -> str:
    scheme, _, source = row["name"].partition(":")
    if ANY in source:
        return ""
    if "package" in row:
        return "yes" if next(importlib.metadata.distributions(name=row["package"]), None) else "no"
    if not source:
        return "yes"
    repository, _, revision = (row.get("hub") or (f"timm/{source}" if scheme == "timm" else source)).partition("@")
    return "yes" if any(_complete(repository, revision or None, cache_dir)) else "no"


def _complete(repository: str, revision: str | None, cache_dir: Path | str | None) -> Iterator[bool]:
    """Whether each form of a model's weights is in the cache, all of its files."""
    cached = partial(pretrained.cached, repository, revision=revision, cache_dir=cache_dir)
    yield from (cached(file) is not None for file in WEIGHTS)
    for index in filter(None, map(cached, INDEXES)):
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        yield all(cached(part) for part in set(parts))


# ---- as text


def table(frame: pd.DataFrame) -> str:
    """A list for a terminal of 120 columns, by branch, and how to choose one."""
    shown = _shown(frame).replace({"input": {" tokens": " tok", " px": "px"}}, regex=True)[SHORT]
    shown["name"] = frame["chosen_by"].map(lambda names: "* " if names else "  ") + shown["name"]
    widths = [max(map(len, [column, *shown[column]])) for column in SHORT]

    def line(cells: list[str]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [line(["  name", *SHORT[1:]])]
    for branch in frame["branch"].unique():
        lines += ["", branch, *map(line, shown[frame["branch"] == branch].to_numpy().tolist())]
    chosen = frame[frame["chosen_by"] != ""].groupby("chosen_by", sort=False)["name"].unique()
    lines += ["", *(f"* {who}: {', '.join(names)}" for who, names in chosen.items())]
    alone = [name.rpartition("/")[2] for name in frame.loc[frame["batching"] == "equal lengths", "name"]]
    lines += ["", ALONE.format(", ".join(alone))] if alone else []
    return "\n".join([*lines, HOW])


def markdown() -> str:
    """The tables of the page: everything except what is on this machine."""
    frame, blocks = list_encoders(), []
    for title in PAGE:
        shown = _shown(frame)[FULL][frame["branch"].map(lambda served, t=title: served.split(", ")[0] in t)]
        shown = shown.loc[:, [(shown[column] != "").any() and (shown[column] != title).any() for column in FULL]]
        shown["name"] = "`" + shown["name"] + "`"
        lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
        blocks.append("\n".join([f"### {title}", "", *(f"| {' | '.join(cells)} |" for cells in lines)]))
    return "\n\n".join(blocks)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The facts as short text, columns under short names."""
    text = frame.astype("object").where(frame.notna(), "").astype(str)
    text["M"] = ["" if pd.isna(n) else f"{n:.0f}" for n in frame["parameters"]]
    text["size"] = ["" if pd.isna(n) else f"{n / 1000:.1f} GB" if n >= 1000 else f"{n:.0f} MB" for n in frame["size"]]
    text["take"] = (text["use_layers"] + " " + text["use_pooling"]).str.strip()
    return text.rename(columns={"chosen_by": "chosen by"})


def main(page: Path | str = ROOT / "docs" / "encoders.md") -> None:
    """Write the tables of a page again."""
    text = Path(page).read_text(encoding="utf-8")
    if not TABLES.search(text):
        raise EcmfError(f"{show(page)}: the lines `<!-- tables -->` and `<!-- end of tables -->` are missing")
    write_text(page, TABLES.sub(lambda _: f"\n{markdown()}\n\n", text))


if __name__ == "__main__":
    main()
