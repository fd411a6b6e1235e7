"""How hard the generated corpora are for plain logistic regression.

Run it with `python tests/ecmf_demo/demo_bounds.py --seeds 1 2`. For each corpus seed: generate, encode with the
offline encoders, train on the given (noisy) labels with speakers and sentences held apart, and score
against the truth, out of fold on the training clips and on the test clips. The bounds hold for the
mean over seeds that nobody tuned on: every branch at least .30, none above .70, late fusion at least
.08 above the best single branch.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ecmf_demo import corpus
from ecmf_demo.recipes import EMOTIONS
from ecmf_utils import encoders, enrichment, media
from ecmf_utils.encoders import loading
from ecmf_utils.media import faces, reading
from ecmf_utils.parallel import parallel_map

LOWEST, HIGHEST, GAIN = 0.30, 0.70, 0.08
N_FOLDS, N_FRAMES = 4, 12
REGULARISATION = (0.003, 0.03, 0.3)  # values of C; chosen by folds within the training rows
ENCODERS = dict(scene="classical", face="classical", audio="classical", text="minilm", context="minilm")
POOLING = dict(scene="mean+std", face="mean+std", audio="mean+std", text="mean", context="mean")

Vectors = list[np.ndarray | None]


def media_vectors(video: str) -> dict[str, np.ndarray | None]:
    """Utterance vectors of scene, face and audio of one clip; None where there is nothing to encode."""
    times = media.frame_times(reading.probe(video)["duration_s"], N_FRAMES)
    frames, _ = media.read_frames(video, times, max_side=320)
    _, crops = faces.detect_in_clip(video)
    inputs = dict(scene=frames, face=crops if len(crops) else None, audio=sound_of(video))
    return {branch: None if value is None else vector(branch, value) for branch, value in inputs.items()}


def sound_of(video: str) -> np.ndarray | None:
    sound = media.read_audio(video)
    return sound if np.abs(sound).max() > reading.SILENCE else None


def vector(branch: str, value: Any) -> np.ndarray:
    """Encode one input and pool it over time."""
    return loading.pool(encoder_of(branch).encode([value])[0], POOLING[branch])


@cache
def encoder_of(branch: str) -> encoders.Encoder:
    return encoders.load(ENCODERS[branch], branch)


def text_vectors(texts: list[str | None], branch: str) -> Vectors:
    """Sentence vectors; each distinct sentence is encoded once."""
    encoder, known = encoder_of(branch), sorted({text for text in texts if text})
    pooled = [loading.pool(rows, POOLING[branch]) for rows in encoder.encode(known)]
    table = dict(zip(known, pooled, strict=True))
    return [table[text] if text else None for text in texts]


def enriched_texts(texts: list[str | None]) -> list[str | None]:
    """The recorded answers of the language model, as the context branch reads them."""
    labels = list(EMOTIONS)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, ECMF_DATA=folder):
        answers = enrichment.enrich("bounds", [text for text in texts if text], labels).set_index("text")
    return [enrichment.render_answer(answers.loc[text].to_dict(), labels) if text else None for text in texts]


def features(clips: pd.DataFrame, n_workers: int) -> dict[str, Vectors]:
    """branch -> vectors in the order of the clips."""
    rows = list(parallel_map(media_vectors, clips["video"].tolist(), n_workers, chunk=8))
    found: dict[str, Vectors] = {b: [row[b] for row in rows] for b in ("scene", "face", "audio")}
    texts = [text if isinstance(text, str) and text.strip() else None for text in clips["text"]]
    found["text"] = text_vectors(texts, "text")
    found["context"] = text_vectors(enriched_texts(texts), "context")
    return found


def probabilities(
    vectors: Vectors, labels: np.ndarray, groups: np.ndarray, train: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """(asked, C) from logistic regression on the training rows that have the branch; else their prior."""
    present = np.array([vector is not None for vector in vectors])
    x = np.stack([np.zeros_like(_first(vectors)) if vector is None else vector for vector in vectors])
    rows, known = train & present, asked & present
    model = logistic_regression(x[rows], labels[rows], groups[rows])
    result = np.tile([(labels[train] == e).mean() for e in range(len(EMOTIONS))], (len(labels), 1))
    result[np.ix_(known, model.classes_)] = model.predict_proba(x[known])
    return result[asked]


def _first(vectors: Vectors) -> np.ndarray:
    return next(vector for vector in vectors if vector is not None)


def logistic_regression(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Pipeline:
    """Standardised logistic regression, C chosen on the given labels, groups held apart."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    grid = {"logisticregression__C": list(REGULARISATION)}
    search = GridSearchCV(model, grid, scoring="f1_weighted", cv=GroupKFold(3))
    return search.fit(x, y, groups=groups).best_estimator_


def group_folds(groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each row; a group never lies in two folds."""
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    return pd.Series(groups).map({name: k % N_FOLDS for k, name in enumerate(names)}).to_numpy()


def score(clips: pd.DataFrame, truth: np.ndarray, found: dict[str, Vectors], seed: int) -> pd.DataFrame:
    """Weighted F1 on the truth: rows branches and late fusion, columns oof and test."""
    labels = clips["label"].map(EMOTIONS.index, na_action="ignore").fillna(-1).to_numpy(int)
    split, groups = clips["split"].to_numpy(object), clips["group"].to_numpy(object)
    is_train, is_test = split == "train", split == "test"
    folds = np.full(len(clips), -1)
    folds[is_train] = group_folds(groups[is_train], seed)
    outputs = {b: np.zeros((len(clips), len(EMOTIONS))) for b in found}
    present = {b: np.array([v is not None for v in vectors]) for b, vectors in found.items()}
    for branch, vectors in found.items():
        outputs[branch][is_test] = probabilities(vectors, labels, groups, is_train, is_test)
        for fold in range(N_FOLDS):
            held = folds == fold
            outputs[branch][held] = probabilities(vectors, labels, groups, is_train & ~held, held)
    weight = sum(present.values())[:, None].clip(1)
    outputs["late fusion"] = sum(outputs[b] * present[b][:, None] for b in found) / weight
    rows = {
        name: {
            part: f1_score(truth[use], p[use].argmax(1), average="weighted")
            for part, use in (("oof", is_train), ("test", is_test))
        }
        for name, p in outputs.items()
    }
    return pd.DataFrame(rows).T


def measure(seed: int, folder: Path, n_train: int, n_test: int, n_workers: int) -> pd.DataFrame:
    """Generate and score one corpus; prints its table with seconds and megabytes."""
    start = time.perf_counter()
    clips, truth = corpus.generate(
        folder, n_train=n_train, n_test=n_test, n_unlabelled=0, seed=seed, n_workers=n_workers
    )
    made = time.perf_counter() - start
    size = sum(file.stat().st_size for file in (folder / "clips").iterdir()) / 1e6
    table = score(clips, truth["truth"].map(EMOTIONS.index).to_numpy(), features(clips, n_workers), seed)
    print(
        f"seed {seed}: {len(clips)} clips, {made:.0f} s, {size:.1f} MB\n{table.round(3).to_string()}\n",
        flush=True,
    )
    return table


def verdict(mean: pd.DataFrame) -> dict[str, bool]:
    """Which bounds the mean table meets, each on the mean of oof and test."""
    values = mean.mean(axis=1)
    single = values.drop("late fusion")
    return {
        f"every branch at least {LOWEST}": bool(single.min() >= LOWEST),
        f"no branch above {HIGHEST}": bool(single.max() <= HIGHEST),
        f"late fusion at least {GAIN} above the best": bool(values["late fusion"] - single.max() >= GAIN),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--n-train", type=int, default=300)
    parser.add_argument("--n-test", type=int, default=120)
    parser.add_argument("--n-workers", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to keep the corpora in")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        base = options.keep or Path(temporary)
        run = partial(measure, n_train=options.n_train, n_test=options.n_test, n_workers=options.n_workers)
        tables = [run(seed, base / f"seed-{seed}") for seed in options.seeds]
    mean = sum(tables) / len(tables)
    print(f"mean of {len(tables)} seeds\n{mean.assign(both=mean.mean(axis=1)).round(3).to_string()}")
    print(json.dumps(verdict(mean), indent=1))


if __name__ == "__main__":
    main()
