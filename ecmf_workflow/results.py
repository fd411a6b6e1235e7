"""What the runs of a profile left behind: records, counts, scores, problems; and `verify`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from ecmf_utils import files, scores
from ecmf_utils.features.feature_files import FeatureFile, list_files
from ecmf_utils.files import EcmfError, data_dir, read_json, read_parquet, reports_dir, show
from ecmf_utils.media.problems import PROBLEMS

SCHEMA_VERSION = 1
COST_KEYS = ("seconds", "parameters")  # as far as a row has them
SEED_KEYS = ("seed_mean", "seed_sd")  # of runs with several seeds
IDENTITY = ("model", "branches", "labels", "split", "scored_on")
CLIP_KEYS = ("total", "train", "test", "unlabelled", "problems")
# a score may differ this much between machines: other BLAS, other thread count, other codec build
TOLERANCES = {
    "weighted_f1": 0.03,
    "accuracy": 0.03,
    "macro_f1": 0.03,
    "n": 0,
    "seeds": 0,
    "clips": 0,
}
REFERENCES = Path(__file__).parent / "references"
PROBLEM_COLUMNS = ["clip_id", "step", "code", "meaning", "detail"]


def run_records(profile: str) -> list[dict[str, Any]]:
    """The `run.json` of every notebook run, in order of name; `name` and `page` are added.

    A record that cannot be read becomes one with status "died", so that the index still appears.
    """
    records = []
    for path in sorted((reports_dir(profile) / "runs").glob("*/run.json")):
        try:
            record = dict(read_json(path))
        except (EcmfError, TypeError, ValueError) as error:
            record = {"status": "died", "error": f"{show(path)}: {error}"}
        page = Path(record.get("html") or f"{path.parent.name}.html").name
        found = (reports_dir(profile) / page).exists() and record.get("status") == "ok"
        records.append({**record, "name": path.parent.name, "page": page if found else None})
    return records


def stale_inputs(record: dict[str, Any], profile: str) -> list[str]:
    """Inputs of a run that have changed or gone since; an untouched file is not read again."""
    changed = []
    written = reports_dir(profile) / "runs" / record["name"] / "run.json"
    for name, known in (record.get("inputs") or {}).items():
        path = files.ROOT / name
        if not path.exists():
            changed.append(f"{name} is gone")
        elif path.is_file() and path.stat().st_mtime > written.stat().st_mtime:
            if files.file_hash(path) != known:
                changed.append(f"{name} has changed")
    return changed


def problems(profile: str) -> pd.DataFrame:
    """Every clip that something is wrong with, one row per clip, step and code.

    Returns
    -------
    DataFrame
        Columns clip_id, step (corpus, faces, or a branch), code, meaning, detail (str or null).
    """
    columns = ["clip_id", "status", "problem", "detail"]
    steps = [("corpus", data_dir(profile) / "clips.parquet")]
    steps.append(("faces", data_dir(profile) / "faces" / "faces.parquet"))
    tables = [_list_problems(read_parquet(path, columns=columns), step) for step, path in steps if path.exists()]
    for selected in sorted((data_dir(profile) / "features").glob("*/selected.json")):
        chosen = read_json(selected)
        folder = selected.parent / str(chosen.get("slug")) / str(chosen.get("level"))
        keys = [FeatureFile(path, columns).keys.to_pandas() for path in list_files(folder)]
        tables += [_list_problems(table, selected.parent.name) for table in keys]
    table = pd.concat(tables) if tables else pd.DataFrame(columns=PROBLEM_COLUMNS)
    return table.drop_duplicates(["clip_id", "step", "code"]).reset_index(drop=True)


def _list_problems(frame: pd.DataFrame, step: str) -> pd.DataFrame:
    state = frame["status"].astype(object) if "status" in frame else pd.Series("ok", frame.index)
    told = frame["problem"].astype(object).where(frame["problem"].notna() & (frame["problem"] != ""))
    code = told.fillna(state.where(state != "ok"))
    detail = frame["detail"].astype(object) if "detail" in frame else None
    table = pd.DataFrame({"clip_id": frame["clip_id"], "step": step, "code": code, "detail": detail})
    table = table[code.notna()].assign(code=lambda t: t["code"].astype(str).str.split(";"))
    table = table.explode("code")
    table["meaning"] = [PROBLEMS.get(one, str(one).replace("_", " ")) for one in table["code"]]
    return table[PROBLEM_COLUMNS]


def clip_counts(profile: str) -> dict[str, int]:
    """Clips by split, and how many of them have at least one problem anywhere."""
    path = data_dir(profile) / "clips.parquet"
    if not path.exists():
        return dict.fromkeys(CLIP_KEYS, 0)
    split = read_parquet(path)["split"]
    counts = {name: int((split == name).sum()) for name in ("train", "test", "unlabelled")}
    return {"total": len(split), **counts, "problems": int(problems(profile)["clip_id"].nunique())}


def is_labelled(profile: str) -> bool:
    """Whether any clip has a label; True while the corpus does not exist yet."""
    path = data_dir(profile) / "clips.parquet"
    return not path.exists() or bool(read_parquet(path)["label"].notna().any())


def collect(profile: str) -> dict[str, Any]:
    """The content of `results.json`."""
    records = run_records(profile)
    latest = max(records, key=lambda record: str(record.get("started", "")), default={})
    return finite(
        {
            "schema_version": SCHEMA_VERSION,
            "profile": profile,
            "commit": latest.get("commit"),
            "seconds": round(sum(record.get("seconds") or 0 for record in records), 1),
            "labelled": is_labelled(profile),
            "clips": clip_counts(profile),
            "notebooks": [
                {
                    "name": record["name"],
                    "status": record.get("status"),
                    "seconds": record.get("seconds"),
                    "peak_memory_mb": record.get("peak_memory_mb"),
                    "html": record["page"],
                }
                for record in records
            ],
            "scores": [
                {key: row[key] for key in (*scores.KEYS, *COST_KEYS, *SEED_KEYS) if key in row}
                for row in scores.read_scores(profile)
            ],
        }
    )


def finite(value: Any) -> Any:
    """The same value, None in place of every number that is not finite: JSON has none of those."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def reference_path(profile: str) -> Path:
    """Where the figures to compare with are kept."""
    return REFERENCES / f"reference-{profile}.json"


def write_reference(profile: str, tolerances: dict[str, float] | None = None) -> Path:
    """Make the present `results.json` of a profile the one that `verify` compares with."""
    fresh = _read_results(profile)
    kept = {key: fresh[key] for key in ("schema_version", "profile", "clips")}
    figures = (*scores.KEYS, *SEED_KEYS)  # costs are another machine's
    kept["scores"] = [{key: row[key] for key in figures if key in row} for row in fresh["scores"]]
    return files.write_json(reference_path(profile), {"tolerances": TOLERANCES | (tolerances or {}), **kept})


def verify(profile: str) -> list[str]:
    """Compare a fresh `results.json` with the reference of this profile.

    Returns
    -------
    list of str
        One line for each figure that moved by more than its tolerance, or is missing.

    Raises
    ------
    EcmfError
        The profile has no reference or has not been run.
    """
    if not reference_path(profile).exists():
        raise EcmfError(f"{reference_path(profile).name} does not exist: no reference for {profile}")
    reference, fresh = read_json(reference_path(profile)), _read_results(profile)
    allowed = TOLERANCES | reference.get("tolerances", {})
    lines = []
    for key, wanted in reference.get("clips", {}).items():
        lines += _moved(f"clips {key}", fresh["clips"].get(key), wanted, allowed["clips"])
    known = {identity(row): row for row in fresh["scores"]}
    for row in reference.get("scores", []):
        name = _describe(row)
        if identity(row) not in known:
            lines.append(f"{name}: missing from results.json")
            continue
        for key in ("n", "seeds", "weighted_f1", "accuracy", "macro_f1"):
            figure = f"{name}: {key.replace('_', ' ')}"
            lines += _moved(figure, known[identity(row)].get(key), row[key], allowed[key])
    return lines


def _read_results(profile: str) -> dict[str, Any]:
    return read_json(reports_dir(profile) / "results.json", f"ecmf reproduce {profile}")


def identity(row: dict[str, Any]) -> tuple[str, ...]:
    """What a score row is about: model, branches, labels, split and kind of truth."""
    return tuple("+".join(row[k]) if k == "branches" else str(row[k]) for k in IDENTITY)


def _describe(row: dict[str, Any]) -> str:
    model, branches, labels, split, scored_on = identity(row)
    return f"{model} on {branches} ({labels} labels, {split}, scored on {scored_on})"


def _moved(figure: str, now: Any, wanted: Any, tolerance: float) -> list[str]:
    if now is None or wanted is None:
        return [] if now == wanted else [f"{figure} is {now}, reference {wanted}"]
    if abs(now - wanted) <= tolerance + 1e-9:
        return []
    sign = f"{now - wanted:+.4g}"
    return [f"{figure} is {now:.4g}, reference {wanted:.4g} ± {tolerance:g}: moved by {sign}"]
