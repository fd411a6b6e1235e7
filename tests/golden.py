"""Print hashes of what the code computes, so that a change which must not move a number can prove it.

Run it before and after a change and compare the two outputs with `diff`:

    ECMF_DATA=… ECMF_REPORTS=… .venv/bin/python -m tests.golden tiny demo mosi models > before.txt

A profile has to have been reproduced first (`ecmf reproduce tiny`). `models` needs no data: it fits each of
the 16 models once on made-up branches. Only content is hashed (arrays, labels, scores), never how a file is
laid out or when it was written, so that the same numbers in another format give the same hashes. Hashes
agree on one machine only: another processor rounds otherwise.
"""

import hashlib
import json
import sys

import numpy as np

from ecmf_utils import features, models
from ecmf_utils.files import data_dir, read_parquet, reports_dir
from ecmf_utils.models import registry
from tests.made_up import group_numbers, make_branches, one_hot

VOLATILE = {"seconds", "peak_memory_mb", "commit", "search"}  # of score rows and results.json: no two runs agree


def digest_array(array):
    """16 hex digits of an array's type, shape and bytes."""
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def digest_value(value):
    """16 hex digits of a JSON-able value, volatile keys left out."""
    return hashlib.sha256(json.dumps(without_volatile(value), sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_table(table, keys):
    """16 hex digits of a table's values, independent of the order of its rows and of its file format."""
    table = table.sort_values(list(keys), kind="stable").reset_index(drop=True)[sorted(table.columns)]
    rows = (
        table.astype(object)
        .where(table.notna(), None)
        .map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)
    )
    return digest_value(rows.to_dict("list"))


def without_volatile(value):
    """The same value without the keys that differ from run to run."""
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def hash_profile(profile):
    """Name to hash for everything that the notebooks of a profile have computed."""
    data, hashes = data_dir(profile), {}
    for folder in sorted((data / "features").glob("*")):
        branch, chosen = folder.name, features.read_selected(profile, folder.name)
        status = features.read_status(profile, [branch])
        hashes[f"features/{branch}/status"] = digest_table(status, ["clip_id"])
        table = features.load(profile, [branch])
        hashes[f"features/{branch}/vectors"] = digest_array(table.x[branch])
        hashes[f"features/{branch}/clips"] = digest_value([list(table.clip_ids), table.present[branch].tolist()])
        hashes[f"features/{branch}/recipe"] = digest_value(chosen["recipe"])
    keys = {"labels/refined": ["clip_id", "for_fold"], "faces/faces": ["clip_id", "time_s"], "clips": ["clip_id"]}
    keys |= {f"predictions/{path.stem}": ["clip_id", "role"] for path in (data / "predictions").glob("*.parquet")}
    for name in sorted(keys):
        if (path := data / f"{name}.parquet").exists():
            table = read_parquet(path)
            table = table.drop(columns=[c for c in ("video", "audio") if name == "clips" and c in table])
            hashes[name] = digest_table(table, keys[name])
    if (path := data / "runs" / "scores.json").exists():
        for row in json.loads(path.read_text()):
            key = "/".join([row["model"], "+".join(row["branches"]), row["labels"], row["split"], row["scored_on"]])
            hashes[f"scores/{key}"] = digest_value(row)
    results = json.loads((reports_dir(profile) / "results.json").read_text())
    hashes["results.json"] = digest_value({key: results[key] for key in ("clips", "labelled", "scores")})
    return hashes


def hash_models():
    """Name to hash of the probabilities of one fit of each model, on made-up branches with noisy labels."""
    table, _, given, groups = make_branches(noise=0.2)
    folds, hashes = group_numbers(groups), {}
    training, held_out = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    for name in sorted({*registry.NETWORKS, *registry.LINEAR}):
        model = models.make_model(name, table.dims, 4, **({"epochs": 5} if registry.has_epochs(name) else {}))
        weights = np.ones(len(training))
        model.fit(features.take_clips(table, training), one_hot(given[training]), weights, groups[training], seed=0)
        proba, branch_weights = model.predict(features.take_clips(table, held_out))
        hashes[name] = digest_array(proba) + ("" if branch_weights is None else " " + digest_array(branch_weights))
    return hashes


def main(names):
    """Print `<name> <what> <hash>` for each profile, and for `models`."""
    for name in names:
        hashes = hash_models() if name == "models" else hash_profile(name)
        for what, value in hashes.items():
            print(name, what, value)


if __name__ == "__main__":
    main(sys.argv[1:])
