"""The first page of a profile: what ran with what, the scores, the problems; and `results.json`."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .markup import data_uri
from .pages import (
    TEMPLATES,
    css,
    duration,
    footer,
    readable,
    run_facts,
    synthetic,
)
from .paths import reports_dir, write_json, write_text
from .results import collect, problems, run_records, stale_inputs

THUMBNAIL = (440, 250)  # pixels, twice the shown size
NAMED_CLIPS = 400  # of one problem; the rest is counted
# the first that exists is shown open: test clips and known truth say most
TABLES = (("test", "truth"), ("test", "observed"), ("oof", "truth"), ("oof", "observed"))
LABELS = ("given", "refined", "truth")  # that a model was trained on
SPLIT_WORDS = {"test": "Test clips", "oof": "Training clips, out-of-fold"}
TRUTH_WORDS = {"truth": "the known truth", "observed": "the labels as given"}


def build_index(profile: str, order: Sequence[str] = ()) -> Path:
    """Write `index.html` and `results.json` of a profile from what its runs left behind.

    Parameters
    ----------
    profile : str
        Nothing is executed; notebooks that have not run are left out or named as such.
    order : sequence of str
        Names of the planned notebooks; those without a run are listed as "not run".

    Returns
    -------
    Path
        The index page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    results, records = collect(profile), run_records(profile)
    for record in records:
        record["stale"] = stale_inputs(record, profile)
    tables = _score_tables(results["scores"])
    context = {
        "results": results,
        "css": css(),
        "synthetic": synthetic(profile),
        "facts": _facts(records, results),
        "troubles": _troubles(records),
        "cards": _cards(results, records),
        "tables": tables,
        "forest": _forest(tables[0]["scores"]) if tables else "",
        "pages": _pages(profile, records, order),
        "problems": _problem_rows(profile),
        "versions": _versions(records),
        "footer": footer(),
    }
    loader = FileSystemLoader(str(TEMPLATES))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("index.html.j2").render(context)
    write_json(reports_dir(profile) / "results.json", results)
    return write_text(reports_dir(profile) / "index.html", text)


def _facts(records: list[dict[str, Any]], results: dict[str, Any]) -> list[tuple[str, str]]:
    latest = max(records, key=lambda record: str(record.get("started", "")), default={})
    known = dict(run_facts(latest))
    facts = [("profile", results["profile"])]
    facts += [("last run", known["started"])] if "started" in known else []
    facts += [("computing time", duration(results["seconds"]))] if records else []
    return facts + [(name, known[name]) for name in ("device", "commit") if name in known]


def _troubles(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for record in records:
        if record.get("status") != "ok":
            why = str(record.get("error") or "no reason was recorded").strip().splitlines()[0]
            lines.append(f"{record['name']} {record.get('status') or 'did not finish'}: {why}")
        elif record["stale"]:
            more = f" and {len(record['stale']) - 1} more" if len(record["stale"]) > 1 else ""
            lines.append(f"{record['name']} is stale: {record['stale'][0]}{more} since it ran")
    commits = {record["commit"] for record in records if record.get("commit")}
    if len(commits) > 1:
        lines.append(f"The runs come from {len(commits)} different commits.")
    return lines


def _cards(results: dict[str, Any], records: list[dict[str, Any]]) -> list[dict[str, str]]:
    clips, cards = results["clips"], []
    parts = [f"{clips[name]} {name}" for name in ("train", "test", "unlabelled") if clips[name]]
    cards.append({"value": clips["total"], "title": "clips", "note": ", ".join(parts)})
    cards.append({"value": clips["problems"], "title": "clips with a problem", "note": "all kept"})
    cards += _score_card(results["scores"])
    done = sum(record.get("status") == "ok" for record in records)
    note = f"{len(records) - done} failed" if done < len(records) else duration(results["seconds"])
    cards.append({"value": done, "title": "notebooks run", "note": note})
    return cards


# ---- scores


def _score_card(scores: list[dict[str, Any]]) -> list[dict[str, str]]:
    """ECMF as the paper trains it, on refined labels; never the better of two test scores."""
    tables = _score_tables(scores)
    ours = [row for row in tables[0]["scores"] if row["model"] == "ecmf"] if tables else []
    if not ours:
        return []
    chosen = max(ours, key=lambda row: (len(row["branches"]), LABELS.index(row["labels"]) == 1))
    where = f"{SPLIT_WORDS[chosen['split']].lower()}, {chosen['labels']} labels"
    note = f"{where}; 95 % interval {_interval(chosen)}"
    return [{"value": _number(chosen["weighted_f1"]), "title": "weighted F1 of ECMF", "note": note}]


def _score_tables(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tables = []
    for split, truth in TABLES:
        rows = [row for row in scores if (row["split"], row["scored_on"]) == (split, truth)]
        if not rows:
            continue
        rows.sort(key=lambda row: -(row["weighted_f1"] or 0))
        title = f"{SPLIT_WORDS[split]}, scored on {TRUTH_WORDS[truth]}"
        explained = "Ordered by weighted F1; overlapping intervals do not tell models apart."
        tables.append(
            {"title": title, "explained": explained, "scores": rows, "rows": _score_rows(rows)}
        )
    return tables


def _score_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best = max((row["weighted_f1"] or 0 for row in rows), default=0)
    shown = []
    for row in rows:
        figures = {key: _number(row[key]) for key in ("weighted_f1", "accuracy", "macro_f1")}
        extra = {"interval": _interval(row), "branches": ", ".join(row["branches"])}
        shown.append({**row, **figures, **extra, "best": row["weighted_f1"] == best})
    return shown


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(row: dict[str, Any]) -> str:
    low, high = row["ci95"] or (None, None)
    return f"{_number(low)} to {_number(high)}" if low is not None else "–"


def _forest(rows: list[dict[str, Any]]) -> str:
    from . import plots

    rows = sorted(rows, key=lambda row: LABELS.index(row["labels"]))  # one colour everywhere
    most = max(len(row["branches"]) for row in rows)
    frame = pd.DataFrame(
        {
            "model": [
                row["model"]
                if len(row["branches"]) == most
                else f"{row['model']}: {' + '.join(row['branches'])}"
                for row in rows
            ],
            "weighted_f1": [row["weighted_f1"] for row in rows],
            "low": [(row["ci95"] or [row["weighted_f1"]])[0] for row in rows],
            "high": [(row["ci95"] or [row["weighted_f1"]])[-1] for row in rows],
            "group": [f"trained on {row['labels']} labels" for row in rows],
        }
    ).dropna(subset="weighted_f1")
    plots.set_theme()
    return data_uri(plots.scores_forest(frame).image_bytes(), "image/png")


# ---- notebooks


def _pages(
    profile: str, records: list[dict[str, Any]], order: Sequence[str]
) -> list[dict[str, Any]]:
    pages = [_page(profile, record) for record in records]
    run = {record["name"].partition("--")[0] for record in records}
    for name in order:
        if name not in run:
            empty = {"page": None, "thumbnail": None, "parameters": {}, "facts": []}
            title = readable(name).partition(" ")[2] or name
            pages.append({"name": name, "title": title, "state": "not run", **empty})
    return sorted(pages, key=lambda page: page["name"])


def _page(profile: str, record: dict[str, Any]) -> dict[str, Any]:
    executed = reports_dir(profile) / "runs" / record["name"] / "executed.ipynb"
    title, thumbnail = _first_look(executed)
    state = record.get("status") or "died"
    facts = [duration(record["seconds"])] if record.get("seconds") is not None else []
    if record.get("peak_memory_mb"):
        facts.append(f"{record['peak_memory_mb']:.0f} MB")
    return {
        "name": record["name"],
        "title": title or readable(record["name"]),
        "page": record["page"],
        "thumbnail": thumbnail,
        "state": "stale" if state == "ok" and record["stale"] else state,
        "facts": facts,
        "parameters": record.get("parameters") or {},
    }


def _first_look(executed: Path) -> tuple[str | None, str | None]:
    """Title and first picture of an executed notebook, the picture small and inline."""
    try:
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return None, None  # the card appears without them
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    title = re.search(r"^#\s+(.+)$", prose, re.M)
    for cell in cells:
        shown = "remove-cell" not in cell.get("metadata", {}).get("tags", [])
        for output in cell.get("outputs", []) if shown else []:
            for mime in ("image/png", "image/jpeg"):
                if mime in output.get("data", {}):
                    return title and title[1], _thumbnail("".join(output["data"][mime]))
    return title and title[1], None


def _thumbnail(encoded: str) -> str | None:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(b64decode(encoded))).convert("RGB")
    except (OSError, ValueError):
        return None
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=80, optimize=True)
    return data_uri(packed.getvalue(), "image/jpeg")


# ---- problems and environment


def _problem_rows(profile: str) -> list[dict[str, Any]]:
    rows = []
    for code, found in problems(profile).groupby("code", sort=False):
        details = found.dropna(subset="detail").drop_duplicates("clip_id")
        told = dict(zip(details["clip_id"], details["detail"], strict=True))
        ids = list(dict.fromkeys(found["clip_id"]))
        named = [f"{one} ({told[one]})" if told.get(one) else str(one) for one in ids]
        more = f" and {len(ids) - NAMED_CLIPS} more" if len(ids) > NAMED_CLIPS else ""
        rows.append(
            {
                "code": code,
                "meaning": found["meaning"].iloc[0],
                "steps": ", ".join(dict.fromkeys(found["step"])),
                "n": len(ids),
                "clips": ", ".join(named[:NAMED_CLIPS]) + more,
            }
        )
    return sorted(rows, key=lambda row: (-row["n"], row["code"]))


def _versions(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    seen: dict[str, list[str]] = {}
    for record in records:
        for name, version in (record.get("versions") or {}).items():
            if str(version) not in seen.setdefault(name, []):
                seen[name].append(str(version))
    return [(name, ", ".join(versions)) for name, versions in sorted(seen.items())]
