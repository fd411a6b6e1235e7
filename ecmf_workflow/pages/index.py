"""The first page of a profile: what ran with what, the scores, the problems; and `results.json`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecmf_utils.files import data_dir, read_json, reports_dir, write_json, write_text
from ecmf_workflow.results import collect, is_labelled, problems, run_records, stale_inputs

from . import scoreboard, study
from .page import TEMPLATES, css, duration, first_look, footer, readable, relink, run_facts, synthetic

NAMED_CLIPS = 400  # of one problem; the rest is counted
SHARD = re.compile(r"--(\d+)-of-(\d+)$")


def build_index(profile: str, order: Sequence[str] = (), members: Sequence[str] = ()) -> Path:
    """Write `index.html` and `results.json` of a profile from what its runs left behind.

    Parameters
    ----------
    profile : str
        Nothing is executed; notebooks that have not run are left out or named as such.
    order : sequence of str
        Names of the planned notebooks; those without a run are listed as "not run".
    members : sequence of str
        Profiles of a study; default: what the profile's file lists. The page is then about them.

    Returns
    -------
    Path
        The index page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    members = members or _members(profile)
    context = _study(profile, members) if members else _single(profile, order)
    results = context["results"]
    tables = scoreboard.score_tables(results["scores"], bool(members))
    context |= {
        "css": css(),
        "tables": tables,
        "forest": scoreboard.forest(tables[0]["scores"]) if tables else "",
        "glossary": scoreboard.glossary(results["scores"]),
        "differences": scoreboard.difference_rows(results.get("differences", [])),
        "footer": footer(),
    }
    loader = FileSystemLoader(str(TEMPLATES))
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = environment.get_template("index.html.j2").render(context)
    relink(reports_dir(profile))
    write_json(reports_dir(profile) / "results.json", results)
    return write_text(reports_dir(profile) / "index.html", text)


def _members(profile: str) -> Sequence[str]:
    from ecmf_utils.notebook.profiles import list_profiles, load_profile

    # `folder-<source>` has no file of its own
    return load_profile(profile)["members"] if profile in list_profiles() else ()


def _single(profile: str, order: Sequence[str]) -> dict[str, Any]:
    results, records = collect(profile), run_records(profile)
    for record in records:
        record["stale"] = stale_inputs(record, profile)
    return {
        "results": results,
        "synthetic": synthetic(profile),
        "facts": _facts(records, results),
        "untrained": _untrained(profile),
        "troubles": _troubles(records),
        "cards": _cards(results, records),
        "pages": _pages(profile, records, order),
        "problems": _problem_rows(profile),
        "versions": _versions(records),
    }


def _study(profile: str, members: Sequence[str]) -> dict[str, Any]:
    found = study.read_members(members)
    results = study.pool(profile, found)
    runs = {
        name: [
            {**record, "name": f"{name}: {record['name']}", "stale": stale_inputs(record, name)}
            for record in run_records(name)
        ]
        for name in found
    }
    records = [record for own in runs.values() for record in own]
    absent = [f"{name} has not run" for name in members if name not in found]
    absent += [f"{name} has no scores yet" for name, part in found.items() if not part["scores"]]
    return {
        "results": results,
        "synthetic": next((text for name in members if (text := synthetic(name))), None),
        "facts": [("corpora", str(len(found))), *_facts(records, results)],
        "untrained": "",
        "troubles": absent + _troubles(records),
        "cards": _cards(results, records, "listed by each corpus"),
        "pages": [_member_page(name, part, runs[name]) for name, part in found.items()],
        "problems": [],
        "versions": _versions(records),
    }


def _member_page(name: str, part: dict[str, Any], own: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": f"{part['clips']['total']} clips",
        "title": name,
        "page": f"../{name}/index.html",
        "thumbnail": None,
        "state": _state(own, incomplete=not part["scores"]),
        "facts": [duration(part["seconds"])],
        "parameters": {},
        "shards": [],
    }


def _facts(records: list[dict[str, Any]], results: dict[str, Any]) -> list[tuple[str, str]]:
    latest = max(records, key=lambda record: str(record.get("started", "")), default={})
    known = dict(run_facts(latest))
    facts = [("profile", results["profile"])]
    facts += [("last run", known["started"])] if "started" in known else []
    facts += [("sum over notebooks", duration(results["seconds"]))] if records else []
    several = len({record["commit"] for record in records if record.get("commit")}) > 1  # told among the troubles
    return facts + [(name, known[name]) for name in ("device", *([] if several else ["commit"])) if name in known]


def _untrained(profile: str) -> str:
    """Why a corpus with labels could not be learned from."""
    facts = data_dir(profile) / "corpus.json"
    return read_json(facts).get("untrained", "") if facts.exists() and is_labelled(profile) else ""


def _troubles(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for record in records:
        if record.get("status") == "running":
            lines.append(f"{record['name']} is running, or was killed")
        elif record.get("status") != "ok":
            why = str(record.get("error") or "no reason was recorded").strip().splitlines()[0]
            lines.append(f"{record['name']} {record.get('status') or 'did not finish'}: {why}")
        elif record["stale"]:
            more = f" and {len(record['stale']) - 1} more" if len(record["stale"]) > 1 else ""
            lines.append(f"{_whole(record)} is stale: {record['stale'][0]}{more} since it ran")
    commits = {record["commit"] for record in records if record.get("commit")}
    if len(commits) > 1:
        short = ", ".join(sorted(commit[:7] for commit in commits))
        lines.append(f"The runs come from {len(commits)} different commits: {short}.")
    return list(dict.fromkeys(lines))  # all shards are stale together


def _cards(
    results: dict[str, Any], records: list[dict[str, Any]], problems_are: str = "listed below"
) -> list[dict[str, str]]:
    clips, cards = results["clips"], []
    parts = [f"{clips[name]} {name}" for name in ("train", "test", "unlabelled") if clips[name]]
    cards.append({"value": clips["total"], "title": "clips", "note": ", ".join(parts)})
    cards.append({"value": clips["problems"], "title": "clips with a problem", "note": problems_are})
    cards += scoreboard.score_card(results["scores"])
    notebooks = _notebooks(records)
    done = sum(all(run.get("status") == "ok" for run in runs) for runs in notebooks)
    note = f"{len(notebooks) - done} not finished" if done < len(notebooks) else duration(results["seconds"])
    cards.append({"value": done, "title": "notebooks run", "note": note})
    return cards


# ---- notebooks


def _whole(record: dict[str, Any]) -> str:
    """The name of a run without its shard."""
    return SHARD.sub("", record["name"])


def _notebooks(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The runs of each notebook: one, or those of its shards."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(_whole(record), []).append(record)
    return list(found.values())


def _pages(profile: str, records: list[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    pages = [_page(profile, runs) for runs in _notebooks(records)]
    run = {_whole(record) for record in records}
    for name in order:
        if name not in run:
            empty = {"page": None, "thumbnail": None, "parameters": {}, "facts": [], "shards": []}
            title = readable(name).partition(" ")[2] or name
            pages.append({"name": name, "title": title, "state": "not run", **empty})
    return sorted(pages, key=lambda page: page["name"])


def _page(profile: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    first = next((run for run in runs if run["page"]), runs[0])
    title, thumbnail = first_look(reports_dir(profile) / "runs" / first["name"] / "executed.ipynb")
    shards = [run for run in runs if SHARD.search(run["name"])]
    seconds = [run["seconds"] for run in runs if run.get("seconds") is not None]
    memory = max((run.get("peak_memory_mb") or 0 for run in runs), default=0)
    facts = [f"{len(shards)} of {_total(shards)} shards"] if shards else []
    facts += [duration(sum(seconds))] if seconds else []
    facts += [f"{memory:.0f} MB"] if memory else []
    return {
        "name": _whole(first),
        "title": title or readable(_whole(first)),
        "page": first["page"],
        "thumbnail": thumbnail,
        "state": _state(runs, len(shards) < _total(shards)),
        "facts": facts,
        "parameters": first.get("parameters") or {},
        "shards": [
            {"number": SHARD.search(run["name"])[1], "page": run["page"], "state": _state([run])} for run in shards
        ],
    }


def _total(shards: list[dict[str, Any]]) -> int:
    return max((int(SHARD.search(run["name"])[2]) for run in shards), default=0)


def _state(runs: list[dict[str, Any]], incomplete: bool = False) -> str:
    """What a run came to, or the worst that one of several did."""
    states = [run.get("status") or "died" for run in runs]
    bad = [state for state in states if state != "ok"]
    stale = ["stale"] if any(run["stale"] for run in runs) else []
    return [*bad, *(["incomplete"] if incomplete else []), *stale, "ok"][0]


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
