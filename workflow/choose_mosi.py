"""How the settings of the profile mosi were chosen: on its training clips, with features made again in every fold.

The released vectors learned the labels of the training clips, so a fold that is held out of them is not held out at
all. Here a stand-in for each such branch is trained anew without the held-out fold: text is the hidden layer of a
network on the transcripts' TF-IDF, pictures are the same on noise with a weak signal. `--visual-epochs` says how well
the pictures know their training rows by heart. No test clip is read.

    .venv/bin/python workflow/choose_mosi.py DIR     # the DIR of `ecmf reproduce mosi --set source=DIR`
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from ecmf_utils import metrics, models
from ecmf_utils.features import Features, take_clips
from ecmf_utils.notebook.profiles import load_profile

HIDDEN, BATCH = 100, 50
NOISE, SIGNAL = 500, 0.15  # numbers of a made picture; what three of them know of the label
TEXT_EPOCHS = 11


def settings() -> tuple[dict, dict]:
    """Settings of ECMF and of the other networks in the profile, by the names that `baselines.bind_model` knows."""
    notebooks = load_profile("mosi")["notebooks"]
    ours = dict(notebooks["50_train_fusion"])
    flat = {k: ours[k] for k in ("components", "width", "dropout", "input_dropout", "epochs", "lr")} | ours["more"]
    return flat | {part: False for part in ours["without"]}, notebooks["51_compare_runs"]["more"]


def learned(x: np.ndarray, y: np.ndarray, seen: np.ndarray, epochs: int, seed: int) -> np.ndarray:
    """Hidden layer (N, 100) of a classifier trained on the rows that `seen` marks."""
    torch.manual_seed(seed)
    parts = torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(HIDDEN, 2)
    net, rows, target = torch.nn.Sequential(*parts), torch.tensor(x[seen]), torch.tensor(y[seen])
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(BATCH):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(rows[batch]), target[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        return torch.relu(net[0](torch.tensor(x))).numpy()


def remade(clips: pd.DataFrame, audio: np.ndarray, y: np.ndarray, seen: np.ndarray, epochs: int, seed: int) -> Features:
    """Branches of all clips whose label-trained ones have learned the rows that `seen` marks only."""
    terms = TfidfVectorizer(min_df=2, sublinear_tf=True).fit(clips["text"][seen])
    text = 3 * terms.transform(clips["text"]).toarray().astype(np.float32)
    picture = np.random.default_rng(seed).normal(size=(len(y), NOISE)).astype(np.float32)
    picture[:, :3] += SIGNAL * (2 * y[:, None] - 1)
    x = {
        "visual": learned(picture, y, seen, epochs, seed),
        "audio": audio,
        "text": learned(text, y, seen, TEXT_EPOCHS, seed),
    }
    present = {branch: np.ones(len(y), bool) for branch in x}
    return Features(list(clips["clip_id"]), x, present, {branch: rows.shape[1] for branch, rows in x.items()})


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float:
    """Accuracy of logistic regression on features that know these rows' labels: how much by heart."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return float((cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(5)) == y).mean())


def main() -> None:
    """Print how much each branch knows by heart, released and made, then what each setting scores held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--draws", type=int, default=2, help="draws of five folds of whole videos")
    parser.add_argument("--visual-epochs", type=int, default=3, help="3: as the released pictures; 5: more by heart")
    asked = parser.parse_args()
    for name in ("labels.csv", "visual.parquet", "audio.parquet", "text.parquet"):
        if not (asked.source / name).is_file():
            parser.error(f"{asked.source / name} is not there: expected the folder of the profile mosi")
    torch.set_num_threads(1)
    clips = pd.read_csv(asked.source / "labels.csv").query("split == 'train'").reset_index(drop=True)
    y, groups = (clips["label"] == "positive").to_numpy(int), clips["dialogue"].to_numpy()
    released = {}
    for branch in ("visual", "audio", "text"):
        table = pd.read_parquet(asked.source / f"{branch}.parquet").set_index("clip_id")
        released[branch] = np.stack(table.loc[clips["clip_id"], "vector"])
    folds = []
    for draw in range(asked.draws):
        videos = np.random.default_rng(draw).permutation(np.unique(groups))
        for fold in range(5):
            held = np.isin(groups, videos[fold::5])
            made = remade(clips, released["audio"].astype(np.float32), y, ~held, asked.visual_epochs, 100 * draw + fold)
            folds.append((draw, held, made))
    _, held, made = folds[0]
    for branch in ("text", "visual"):
        told = out_of_fold(released[branch], y, groups), out_of_fold(made.x[branch][~held], y[~held], groups[~held])
        print(f"{branch}: accuracy out-of-fold on rows it has learned {told[0]:.2f} released, {told[1]:.2f} made")
    ours, others = settings()
    tried = {
        "ecmf, the profile's settings": ("ecmf", ours),
        "ecmf, 64 principal axes": ("ecmf", ours | {"components": 64}),
        "ecmf, width 32": ("ecmf", ours | {"width": 32}),
        "ecmf, dropout .3": ("ecmf", ours | {"dropout": 0.3, "input_dropout": 0.3}),
        "ecmf, no label smoothing": ("ecmf", ours | {"label_smoothing": 0.0}),
        "ecmf, 20 epochs at 5e-3": ("ecmf", ours | {"epochs": 20, "lr": 5e-3}),
        "ecmf, defaults": ("ecmf", {}),
        "attention": ("attention", others),
        "logistic regression": ("logreg", {}),
    }
    for name, (model, values) in tried.items():
        proba = np.zeros((asked.draws, len(y), 2))
        for draw, held, made in tqdm(folds, desc=name, leave=False):
            rows = np.flatnonzero(~held)
            fitted = models.bind_model(model, made.dims, 2, **values)()
            fitted.fit(take_clips(made, rows), np.eye(2)[y[rows]], np.ones(len(rows)), groups[rows], seed=0)
            proba[draw, held] = fitted.predict(take_clips(made, np.flatnonzero(held)))[0]
        each = [metrics.score(y, p)["weighted_f1"] for p in proba]
        print(f"{name:30} weighted F1 held out {np.mean(each):.3f} ({min(each):.3f} to {max(each):.3f})", flush=True)


if __name__ == "__main__":
    main()
