"""Does a notebook have to run again? The one place that decides it, and says why.

A run is a notebook of a profile, or one of its shards. Its parameters and its code decide what it writes. Two files
remember the last run: the note that `start` writes when the notebook begins, by hand or in batch, and the `run.json`
that the runner writes about a run in batch, which also says how it ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ecmf_utils import code
from ecmf_utils.files import data_dir, digest, read_json, write_json

from . import parameters, steps

SPEED_ONLY = {"n_workers"}  # parameters that change how fast a notebook runs, not what comes out of it
NEVER_RAN = "it has not run yet"
FAILED = "its last run did not end well"
OTHER_PARAMETERS = "it last ran with other parameters"
OTHER_CODE = "its code has changed since it ran"


class Identity(NamedTuple):
    """What decides the outputs of a run; two runs of a notebook with the same identity give the same outputs."""

    parameters: str  # digest of the parameters, without those that only change the speed
    code: str  # fingerprint of the notebook and of the modules that it comes to import


def identify(nb: str, values: Mapping[str, Any]) -> Identity:
    """The identity of a run that starts now with these parameters."""
    return Identity(_digest_parameters(values), fingerprint(nb))


def fingerprint(nb: str) -> str:
    """16 hex digits that change with the code that a notebook comes to run (see `code.fingerprint`)."""
    return code.fingerprint([cell["source"] for cell in parameters.read_code_cells(nb)])


def _digest_parameters(values: Mapping[str, Any]) -> str:
    decisive = {name: value for name, value in values.items() if name not in SPEED_ONLY}
    return digest(json.loads(json.dumps(decisive)))  # JSON turns all keys into text, as a note on disk has them


def start_note_path(nb: str, profile: str, key: str = "") -> Path:
    """The note about the last start of a notebook, or of the shard with this key."""
    return data_dir(profile) / ".made" / f"{nb}{key}.json"


def note_start(nb: str, profile: str, values: Mapping[str, Any]) -> None:
    """Note with which parameters and which code a notebook starts."""
    note = {"parameters": values, "fingerprint": fingerprint(nb)}
    for key in {"", steps.make_run_key(values)}:  # the last start of the notebook, and that of its shard
        write_json(start_note_path(nb, profile, key), note)


def find_reason(nb: str, profile: str, values: Mapping[str, Any]) -> str:
    """Why a notebook, or one of its shards, has to run again.

    It does not ask whether the outputs are still there: Snakemake looks for the files itself.

    Parameters
    ----------
    nb, profile : str
    values : mapping
        All parameters of the run, as `profiles.resolve` gives them; `shard` and `n_shards` name the shard.

    Returns
    -------
    str
        `NEVER_RAN`, `FAILED`, `OTHER_PARAMETERS` or `OTHER_CODE`; empty where the last run is still good.
    """
    key = steps.make_run_key(values)
    note, record = _read(start_note_path(nb, profile, key)), _read(steps.run_dir(nb, profile, key) / "run.json")
    last = note or record
    if last is None:
        return NEVER_RAN
    if record and record["status"] != "ok":
        return FAILED
    wanted = identify(nb, values)
    if _digest_parameters(last["parameters"]) != wanted.parameters:
        return OTHER_PARAMETERS
    if values.get("n_shards", 1) > 1 and (last_of_all := _read(start_note_path(nb, profile))):
        # A later run of another kind, in one piece for instance, has replaced what all shards wrote.
        if _digest_parameters({**last_of_all["parameters"], "shard": values["shard"]}) != wanted.parameters:
            return OTHER_PARAMETERS
    return OTHER_CODE if last["fingerprint"] != wanted.code else ""


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None
