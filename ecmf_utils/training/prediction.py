"""One clip from its file to a distribution, through the steps and encoders of its corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import corpus, enrichment, features, files, media
from ecmf_utils.corpus import probing
from ecmf_utils.corpus.readers import own
from ecmf_utils.encoders import loading
from ecmf_utils.enrichment import answers
from ecmf_utils.features import extraction
from ecmf_utils.files import EcmfError, data_dir, given_path
from ecmf_utils.media import faces, reading

from . import cross_validation


def choose_input(profile: str, clip: str = "", text: str | None = None) -> dict[str, Any]:
    """The row of a clip: of a file, or the first readable test clip of the corpus.

    Parameters
    ----------
    clip : str
        A video file; empty for a clip of the corpus.
    text : str, optional
        Its transcript, instead of the corpus's or of `<clip>.txt`.

    Raises
    ------
    EcmfError
        The file cannot be read: its problem is named.
    """
    if not clip:
        clips = corpus.read_clips(profile)
        ready = clips[(clips["status"] == "ok") & (clips["split"] == "test")]
        row = (ready if len(ready) else clips[clips["status"] == "ok"]).iloc[0].to_dict()
        return row if text is None else row | {"text": text}
    path = given_path(clip).resolve()
    said = own.sidecar_text(path) if text is None else text
    start = pd.DataFrame([{"clip_id": path.stem, "video": str(path), "text": said, "problem": None}])
    row = probing.probe_all(start, n_workers=1).iloc[0].to_dict()
    if row["status"] != "ok":
        raise EcmfError(f"{clip}: {media.PROBLEMS.get(str(row['problem']).split(';')[0], row['detail'])}")
    return row


def encode_clip(
    one: dict[str, Any],
    profile: str,
    branches: Sequence[str],
    labels: list[str],
    device: str = "auto",
    base_url: str = "",
    allow_remote: bool = False,
) -> features.Features:
    """The vectors of a clip, with the encoders that the corpus was encoded with.

    Returns
    -------
    Features
        One clip; a branch that cannot be had is not present, and its x is zero.
    """
    x, present, dims = {}, {}, {}
    for branch in branches:
        chosen = features.read_selected(profile, branch)
        name = files.named(branch)[0]
        row, reader = _reader(one, profile, name, chosen["recipe"], labels, base_url, allow_remote)
        model = loading.load_from_recipe(chosen["recipe"], name, device)
        made = extraction.encode_row(row, model, reader, chosen["recipe"])
        vector = _pooled(made, chosen["recipe"])
        dims[branch], present[branch] = chosen["dim"], np.array([vector is not None])
        x[branch] = np.zeros((1, chosen["dim"]), np.float32) if vector is None else vector[None].astype(np.float32)
    return features.Features([one["clip_id"]], x, present, dims)


def _reader(
    one: dict[str, Any],
    profile: str,
    branch: str,
    how: dict[str, Any],
    labels: list[str],
    base_url: str,
    remote: bool,
) -> tuple[dict[str, Any], Any]:
    if branch == "face":
        return one, partial(_crops, settings=how["extra"]["crops"])
    if branch == "context":
        answer = answers.ask(profile, [one["text"]], labels, how["extra"]["model"], base_url, remote)
        said = enrichment.render_answer(answer.iloc[0].to_dict(), labels) if len(answer) else None
        return one | {"text": said}, features.read_text
    reader = {
        "scene": features.read_scene,
        "audio": features.read_audio,
        "text": features.read_text,
    }.get(branch)
    if reader is None:
        raise EcmfError(f"branch {branch!r}: a single clip can be encoded for scene, face, audio, text and context")
    return one, partial(reader, **how["extra"])


def _crops(row: dict[str, Any], settings: dict[str, Any]) -> np.ndarray:
    wanted = ("every_s", "max_frames", "max_side", "margin", "size", "upsample")
    how = {name: settings[name] for name in wanted} | {"aligned": settings["alignment"] == "5-point"}
    crops = faces.detect_in_clip(row["video"], **how)[1]
    if not len(crops):
        raise reading.MediaError("no_face", row["video"])
    return crops


def _pooled(made: dict[str, Any], how: dict[str, Any]) -> np.ndarray | None:
    if "vectors" in made:
        return loading.pool(np.stack(made["vectors"]), how["pooling"], how.get("normalise", False))
    return made.get("vector")


def list_available(inputs: features.Features, branches: Sequence[str]) -> pd.DataFrame:
    """Which branches of the clip could be encoded: index branch, columns `dimension`, `present`."""
    return pd.DataFrame(
        {
            "dimension": [inputs.dims[b] for b in branches],
            "present": [bool(inputs.present[b][0]) for b in branches],
        },
        index=list(branches),
    )


def predict_clip(inputs: features.Features, profile: str, run_name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean probability (C,) and mean branch weights (B,) of all folds and seeds of a run."""
    models = cross_validation.load_run(data_dir(profile) / "runs" / run_name)
    proba, weights = cross_validation.predict_mean(models, inputs)
    return proba[0], None if weights is None else weights[0]


def predict_branches(
    inputs: features.Features,
    profile: str,
    run_name: str,
    branches: Sequence[str],
    labels: list[str],
) -> pd.DataFrame:
    """What the fusion says of each present branch when all others are hidden: index branch, columns labels."""
    models = cross_validation.load_run(data_dir(profile) / "runs" / run_name)
    rows = {}
    for branch in [b for b in branches if inputs.present[b][0]]:
        others = [b for b in branches if b != branch]
        rows[branch] = cross_validation.predict_without(models, inputs, others)[0]
    return pd.DataFrame.from_dict(rows, orient="index", columns=labels)
