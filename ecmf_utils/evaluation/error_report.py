"""Where a run is wrong: what it takes for what, whether it knows, which clips are worst, and who suffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ecmf_utils import corpus, features, metrics, training
from ecmf_utils.files import data_dir, write_parquet


@dataclass(frozen=True)
class ErrorReport:
    """What `report_errors` returns, of the N clips of one role that have a label.

    Attributes
    ----------
    role : str
        `test`, or `oof` where no test clip has a label.
    clips : DataFrame (N rows)
        Predictions and manifest, index clip_id, with `confidence` (0-1) and `wrong` (bool).
    scores : DataFrame
        Weighted F1, accuracy, macro F1 and expected calibration error.
    confusion : int array (C, C)
        Clips: row the label, column the prediction.
    classes : DataFrame
        Precision, recall, F1 and clips of each label.
    calibration : DataFrame
        Confidence, accuracy and clips in bins of confidence.
    by_branch, by_speaker : DataFrame
        Clips, error rate and its 95 % interval (Wilson): of clips that lack a branch and of complete ones, and of each
        speaker, the highest lower bound first.
    pairs : DataFrame
        How many clips of a label were taken for another, the most frequent first.
    """

    role: str
    clips: pd.DataFrame
    scores: pd.DataFrame
    confusion: np.ndarray
    classes: pd.DataFrame
    calibration: pd.DataFrame
    by_branch: pd.DataFrame
    by_speaker: pd.DataFrame
    pairs: pd.DataFrame

    def worst(self, n: int) -> pd.DataFrame:
        """The wrong clips, at most n, the most confident first."""
        return self.clips[self.clips["wrong"]].sort_values("confidence", ascending=False).head(n)


def report_errors(
    profile: str, run_name: str, labels: Sequence[str], branches: Sequence[str], role: str = "test"
) -> ErrorReport:
    """Compare the predictions of a run with the labels that come with the clips.

    Parameters
    ----------
    profile : str
        Whose clips they are.
    run_name : str
        Whose predictions to read, such as `ecmf`.
    labels : sequence of str
        Names of the C classes.
    branches : sequence of str
        Of the run.
    role : {"test", "oof"}
        Which predictions; `oof` in any case where no test clip has a label.

    Returns
    -------
    ErrorReport
        Tables to show and to draw.

    Raises
    ------
    EcmfError
        There is no such run.
    """
    manifest = corpus.read_clips(profile).set_index("clip_id")
    predictions = training.read_predictions(profile, run_name).set_index("clip_id")
    labelled = predictions.index.isin(manifest.index[manifest["label"].notna()])
    role = role if (labelled & (predictions["role"] == role)).any() else "oof"
    clips = predictions[predictions["role"] == role].join(manifest).dropna(subset=["label"])
    y = clips["label"].map({label: i for i, label in enumerate(labels)}).to_numpy(int)
    proba = clips[[f"p_{label}" for label in labels]].to_numpy(float)
    clips = clips.assign(confidence=proba.max(axis=1), wrong=clips["predicted"] != clips["label"])
    present = features.load(profile, list(branches), clip_ids=list(clips.index)).present
    missing = pd.DataFrame({branch: ~present[branch] for branch in branches}, index=clips.index)
    by_branch = {f"{branch} missing": clips.loc[missing[branch], "wrong"] for branch in branches}
    by_speaker = _rate_errors(dict(iter(clips.groupby("speaker")["wrong"]))).rename_axis("speaker")
    pairs = clips[clips["wrong"]].groupby(["label", "predicted"]).size().sort_values(ascending=False, kind="stable")
    return ErrorReport(
        role=role,
        clips=clips,
        scores=pd.Series(metrics.score(y, proba), name=f"{run_name}, {role}, {len(y)} clips").round(2).to_frame(),
        confusion=metrics.count_confusions(y, proba),
        classes=metrics.score_classes(y, proba, list(labels)).round(2),
        calibration=metrics.bin_calibration(y, proba, bins=8),
        by_branch=_rate_errors(by_branch | {"complete": clips.loc[~missing.any(axis=1), "wrong"]}).round(2),
        by_speaker=by_speaker.sort_values(["low", "error rate"], ascending=False, kind="stable").round(2),
        pairs=pairs.to_frame("clips"),
    )


def _rate_errors(groups: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Clips, error rate and its 95 % interval (Wilson) of each group that has clips."""
    rows = {}
    for name, wrong in groups.items():
        if len(wrong):
            interval = binomtest(int(wrong.sum()), len(wrong)).proportion_ci(method="wilson")
            rows[name] = (len(wrong), wrong.mean(), interval.low, interval.high)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["clips", "error rate", "low", "high"])


def save_worst(profile: str, worst: pd.DataFrame) -> Path:
    """Write the worst clips to `data/<profile>/errors/worst.parquet`.

    Parameters
    ----------
    profile : str
        Whose clips they are.
    worst : DataFrame
        Of `ErrorReport.worst`, index clip_id.

    Returns
    -------
    Path
        The file: clip_id, label, predicted, confidence.
    """
    table = worst.reset_index()[["clip_id", "label", "predicted", "confidence"]]
    return write_parquet(table, data_dir(profile) / "errors" / "worst.parquet")
