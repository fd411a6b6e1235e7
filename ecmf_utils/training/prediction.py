"""One clip from its file to a distribution, through the steps and encoders of its corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import corpus, enrichment, features, files, media
from ecmf_utils.corpus import probing
from ecmf_utils.corpus.readers import own
from ecmf_utils.encoders import loading
from ecmf_utils.enrichment import answers
from ecmf_utils.features import extraction
from ecmf_utils.files import EcmfError, data_dir, given_path, write_json
from ecmf_utils.media import faces, reading

from . import cross_validation


def choose_input(profile: str, clip: str = "", text: str | None = None) -> dict[str, Any]:
    """The row of a clip: of a file, or the first readable test clip of the corpus.

    Parameters
    ----------
    profile : str
        Whose corpus to take a clip of.
    clip : str
        A video file; empty for a clip of the corpus.
    text : str, optional
        Its transcript, instead of the corpus's or of `<clip>.txt`.

    Returns
    -------
    dict
        The columns of `clips.parquet`.

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
    clip: dict[str, Any],
    profile: str,
    branches: Sequence[str],
    labels: list[str],
    device: str = "auto",
    base_url: str = "",
    allow_remote: bool = False,
) -> features.Features:
    """The vectors of a clip, with the encoders that the corpus was encoded with.

    Parameters
    ----------
    clip : dict
        The row of the clip, of `choose_input`.
    profile : str
        Whose encoders to use; their recipes are read from its feature files.
    branches : sequence of str
        Branches to encode.
    labels : list of str
        What the language model's answer is over.
    device : str
        auto, cpu, cuda, cuda:1.
    base_url : str
        Server of the language model, for the branch `context`.
    allow_remote : bool
        Whether the transcript may leave this machine.

    Returns
    -------
    Features
        One clip; a branch that cannot be had is not present, and its x is zero.

    Raises
    ------
    EcmfError
        The corpus has no features of a branch, or a single clip cannot be encoded for it.
    """
    x, present, dims = {}, {}, {}
    for branch in branches:
        chosen = features.read_selected(profile, branch)
        name = files.named(branch)[0]
        row, reader = _reader(clip, profile, name, chosen["recipe"], labels, base_url, allow_remote)
        model = loading.load_from_recipe(chosen["recipe"], name, device)
        made = extraction.encode_row(row, model, reader, chosen["recipe"])
        vector = _pooled(made, chosen["recipe"])
        dims[branch], present[branch] = chosen["dim"], np.array([vector is not None])
        x[branch] = np.zeros((1, chosen["dim"]), np.float32) if vector is None else vector[None].astype(np.float32)
    return features.Features([clip["clip_id"]], x, present, dims)


def _reader(
    clip: dict[str, Any],
    profile: str,
    branch: str,
    how: dict[str, Any],
    labels: list[str],
    base_url: str,
    remote: bool,
) -> tuple[dict[str, Any], Any]:
    if branch == "face":
        return clip, partial(_crops, settings=how["extra"]["crops"])
    if branch == "context":
        answer = answers.ask(profile, [clip["text"]], labels, how["extra"]["model"], base_url, remote)
        said = enrichment.render_answer(answer.iloc[0].to_dict(), labels) if len(answer) else None
        return clip | {"text": said}, features.read_text
    reader = {
        "scene": features.read_scene,
        "audio": features.read_audio,
        "text": features.read_text,
    }.get(branch)
    if reader is None:
        raise EcmfError(f"branch {branch!r}: a single clip can be encoded for scene, face, audio, text and context")
    return clip, partial(reader, **how["extra"])


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


@dataclass(frozen=True)
class Prediction:
    """What a run says of one clip.

    Attributes
    ----------
    distribution : Series (C,)
        Mean probability over all folds and seeds, index label.
    weights : Series (B,) or None
        Mean weight of each branch, index branch; None where the model has no branch weights.
    alone : DataFrame
        The distribution for each present branch when all other branches are hidden: index branch, columns labels.
    """

    distribution: pd.Series
    weights: pd.Series | None
    alone: pd.DataFrame


def predict_clip(
    inputs: features.Features, profile: str, run_name: str, branches: Sequence[str], labels: Sequence[str]
) -> Prediction:
    """Predict one clip with all fitted models of a run, and with each branch alone.

    Parameters
    ----------
    inputs : Features
        The vectors of the clip, of `encode_clip`.
    profile : str
        Whose run to use.
    run_name : str
        A folder of `data/<profile>/runs`, such as `ecmf`.
    branches, labels : sequence of str
        Those that the run was trained with, in its order.

    Returns
    -------
    Prediction
        Distribution, branch weights, and the distribution of each branch alone.

    Raises
    ------
    EcmfError
        There is no such run, or it was trained by other code than there is now.
    """
    models = cross_validation.load_run(data_dir(profile) / "runs" / run_name)
    proba, weights = cross_validation.predict_mean(models, inputs)
    present = [branch for branch in branches if inputs.present[branch][0]]
    alone = {
        branch: cross_validation.predict_without(models, inputs, [other for other in branches if other != branch])[0]
        for branch in present
    }
    return Prediction(
        pd.Series(proba[0], list(labels), name="probability"),
        None if weights is None else pd.Series(weights[0], list(branches), name="weight"),
        pd.DataFrame.from_dict(alone, orient="index", columns=list(labels)),
    )


def save_prediction(profile: str, clip_id: str, prediction: Prediction) -> Path:
    """Write the prediction of one clip to `data/<profile>/predict/prediction.json`.

    Parameters
    ----------
    profile : str
        Whose run predicted.
    clip_id : str
        Name of the clip.
    prediction : Prediction
        Of `predict_clip`.

    Returns
    -------
    Path
        The file: the clip, its most probable label, that probability, and the distribution.
    """
    shares = prediction.distribution
    answer = {"clip": clip_id, "predicted": shares.idxmax(), "probability": round(float(shares.max()), 3)}
    path = data_dir(profile) / "predict" / "prediction.json"
    return write_json(path, answer | {"distribution": shares.to_dict()})
