"""What models learn from and are tested on: features, labels, folds and sample weights of a profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ecmf_utils import corpus, features, refinement
from ecmf_utils.corpus.label_map import becomes as map_labels, index_labels
from ecmf_utils.files import EcmfError, data_dir, show
from ecmf_utils.models.linear import EXTRA, training_rows


@dataclass
class Problem:
    """What a model learns from and is tested on.

    `data` holds the labelled training clips, then the pseudo-labelled ones; `fold`, `group` have a row for
    each. `given` (M,) are the annotators' labels of the labelled ones, `test_y` those of `test` (-1: unknown).
    `train_clips` are the manifest rows of `data`, `clips` those of `test`: of two corpora when
    `train_profile` names another one.
    """

    labels: list[str]
    branches: list[str]
    trained_on: str
    data: features.Features
    fold: np.ndarray
    group: np.ndarray
    given: np.ndarray
    targets: dict[int, np.ndarray]
    weights: dict[int, np.ndarray]
    test: features.Features
    test_y: np.ndarray
    clips: pd.DataFrame
    train_clips: pd.DataFrame
    train_profile: str = ""
    label_map: dict[str, str | None] = field(default_factory=dict)
    in_both: int = 0  # clips of `train_profile` that are clips of the tested corpus too, left out

    def labelled(self) -> features.Features:
        """Training clips that an annotator has labelled: those of `given`."""
        return features.take_clips(self.data, range(len(self.given)))

    def table(self) -> pd.DataFrame:
        """How many clips have each branch, by role."""
        n = len(self.given)
        rows = {
            b: {
                "dimension": self.data.dims[b],
                "training clips": int(self.data.present[b][:n].sum()),
                "test clips": int(self.test.present[b][self.test_y >= 0].sum()),
            }
            for b in self.branches
        }
        total = {
            "dimension": sum(self.data.dims.values()),
            "training clips": n,
            "test clips": int((self.test_y >= 0).sum()),
        }
        return pd.DataFrame(rows | {"all": total}).T

    def remarks(self) -> list[str]:
        """Lines on what a reader should know before trusting what is learned from this.

        Raises
        ------
        EcmfError
            A single class among the training labels, or a branch with the same numbers for every clip.
        """
        n, lines = len(self.given), []
        counts = np.bincount(self.given, minlength=len(self.labels))
        if (counts > 0).sum() < 2:
            raise EcmfError(f"every training label is {self.labels[counts.argmax()]!r}: there is nothing to tell apart")
        n_folds = len(self.targets)
        for label, count in zip(self.labels, counts, strict=True):
            if count < n_folds:
                lines.append(f"{label}: {count} training clips, fewer than the {n_folds} folds; its scores say little")
        for branch, x in self.data.x.items():
            x = x[:n][self.data.present[branch][:n]].reshape(-1, x.shape[-1])
            if len(x) < 2:
                continue
            constant = x.min(0) == x.max(0)
            if constant.all():
                raise EcmfError(
                    f"branch {branch}: all {x.shape[1]} dimensions are the same for every training clip; "
                    "extract it again, or leave it out of `branches`"
                )
            if constant.any():
                lines.append(f"{branch}: {constant.sum()} of {x.shape[1]} dimensions never change")
            repeated = int((~constant).sum()) - len(np.unique(x[:, ~constant], axis=1).T)
            if repeated:
                lines.append(f"{branch}: {repeated} of {x.shape[1]} dimensions repeat another one")
        return lines

    def origin(self) -> str:
        """One line on whose clips are learned from."""
        if not self.train_profile:
            return "trained on this corpus's own training clips"
        left = f"; {self.in_both} of its clips are in both and were left out" if self.in_both else ""
        return f"trained on {self.train_profile}, tested on every clip of this corpus{left}"

    def label_table(self) -> pd.DataFrame:
        """What each label of the training corpus counts as, and how many labelled clips have it."""
        found = self.train_clips.loc[self.train_clips["split"] == "train", "label"].value_counts()
        counts_as = [self.label_map.get(label) or "left out" for label in found.index]
        return pd.DataFrame({"counts as": counts_as, "clips": found.to_numpy()}, index=found.index)

    def learned_table(self) -> pd.DataFrame:
        """Clips of each label, pseudo-labelled ones included, that a model learns from while a fold is held out."""
        counts = {}
        for fold, targets in self.targets.items():
            rows = training_rows(self.fold, self.group, fold)
            rows = rows[self.weights[fold][rows] > 0]
            counts[f"without fold {fold}"] = np.bincount(targets[rows].argmax(1), minlength=len(self.labels))
        return pd.DataFrame(counts, index=pd.Index(self.labels, name="label"))


def load_problem(
    profile: str,
    branches: Sequence[str],
    labels: Sequence[str],
    trained_on: str = "refined",
    train_profile: str = "",
    label_map: Mapping[str, str | None] | None = None,
    steps: int = 0,
) -> Problem:
    """Features, labels and folds of a profile, ready for cross-validation.

    Parameters
    ----------
    profile : str
        Whose clips are tested, and learned from unless `train_profile` names others.
    branches : sequence of str
        Branches of the features, in this order.
    labels : sequence of str
        Names of the C classes, in this order.
    trained_on : {"refined", "given"}
        Refined labels differ for every held-out fold: those for fold k were made without fold k.
    train_profile : str
        Train on this profile's clips instead; every usable clip of `profile` is then a test clip.
    label_map : mapping, optional
        Label of `train_profile` to one of `labels`, or None: its clips are left out.
    steps : int
        Sequences of so many steps instead of vectors, see `features.load`.

    Returns
    -------
    Problem
        The truth of a generated corpus is not in it.

    Raises
    ------
    EcmfError
        A label outside the label set, or branches that the two profiles encode differently.
    """
    source = train_profile or profile
    if twice := _twice(branches):
        raise EcmfError(f"branches: {twice} is named twice; another encoder's vectors need a name of their own")
    if twice := _twice(labels):
        raise EcmfError(f"labels: {twice} is named twice")
    if train_profile == profile:
        raise EcmfError(f"train_profile={train_profile}: expected another profile than the one that is tested")
    if train_profile:
        same_recipes(profile, train_profile, branches)
    clips = corpus.read_clips(profile).set_index("clip_id")
    train = corpus.read_clips(source).set_index("clip_id") if train_profile else clips
    becomes = map_labels(source, train, labels, label_map or {})
    folds = corpus.read_folds(source).set_index("clip_id")["fold"]
    _check_folds(source, folds, train)
    folds = folds[train["label"].reindex(folds.index).map(becomes).notna()]
    known = in_both(train, clips) if train_profile else set()
    folds = folds[~folds.index.isin(known)]
    if not len(folds):
        raise EcmfError(f"no training clip of {source} is left: {len(known)} are clips of {profile} too")
    refined = _read_refined(source, becomes) if trained_on == "refined" else None
    tested = set(clips.loc[clips["split"] == "test", "group"])  # nothing of their groups is learned from
    extra = [i for i in _pseudo_ids(refined, train) if i not in known] if refined is not None else []
    extra = [i for i in extra if train.loc[i, "group"] not in tested]
    ids = [*folds.index, *extra]
    given = index_labels(train["label"].reindex(folds.index).map(becomes), labels)
    fold = np.concatenate([folds.to_numpy(int), np.full(len(extra), EXTRA)])
    targets, weights = {}, {}
    for k in sorted(set(folds)):
        targets[k], weights[k] = _targets(ids, given, refined, k, list(labels))
    held, test_y = _held_out(clips, labels, bool(train_profile))
    return Problem(
        list(labels),
        list(branches),
        trained_on,
        features.load(source, branches, clip_ids=ids, steps=steps),
        fold,
        train["group"].reindex(ids).to_numpy(object),
        given,
        targets,
        weights,
        features.load(profile, branches, clip_ids=list(held.index), steps=steps),
        test_y,
        clips,
        train,
        train_profile,
        becomes,
        len(known),
    )


def _twice(names: Sequence[str]) -> str:
    """The first name that stands twice."""
    return next((name for name, n in Counter(names).items() if n > 1), "")


def _check_folds(profile: str, folds: pd.Series, clips: pd.DataFrame) -> None:
    """Every clip in one fold, and none that is held out from all of them."""
    where = f"{show(data_dir(profile))}/folds.parquet"
    again = f"run `ecmf run 00 --profile {profile}` again"
    if twice := _twice(list(folds.index)):
        raise EcmfError(f"{where}: clip {twice!r} stands there twice; {again}")
    split = clips["split"].reindex(folds.index)
    if len(odd := split[split != "train"]):
        what = f"a {odd.iloc[0]} clip" if isinstance(odd.iloc[0], str) else "no clip of the corpus"
        raise EcmfError(f"{where}: {odd.index[0]!r} is {what}, expected training clips; {again}")


def _held_out(clips: pd.DataFrame, labels: Sequence[str], cross: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """The clips to predict and their labels, -1 where unknown or not to be scored."""
    held = clips[(cross | (clips["split"] != "train")) & (clips["status"] == "ok")]
    scored = cross | (held["split"] == "test")
    return held, np.where(scored, index_labels(held["label"], labels), -1)


def _read_refined(profile: str, becomes: Mapping[str, str | None]) -> pd.DataFrame:
    refined = refinement.read(profile)
    mapped = refined["refined"].map(becomes)
    lost = refined["refined"].notna() & mapped.isna()  # refined into a label that has no counterpart
    return refined.assign(refined=mapped.where(mapped.notna(), None))[~lost]


def _pseudo_ids(refined: pd.DataFrame, clips: pd.DataFrame) -> list[str]:
    added = refined.loc[(refined["action"] == "added") & (refined["for_fold"] >= 0), "clip_id"]
    known = set(added)
    return [clip_id for clip_id in clips.index if clip_id in known]


def _targets(
    ids: list[str], given: np.ndarray, refined: pd.DataFrame | None, fold: int, labels: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, C), each one label, and weights (N,) of a training set that fold `fold` is held out of."""
    one_hot = np.eye(len(labels))
    targets = np.full((len(ids), len(labels)), 1 / len(labels))
    targets[: len(given)] = one_hot[given]
    weights = np.zeros(len(ids))
    weights[: len(given)] = 1
    if refined is None:
        return targets, weights
    rows = refined[refined["for_fold"] == fold].set_index("clip_id").reindex(ids)
    known = rows["refined"].notna().to_numpy()
    targets[known] = one_hot[index_labels(rows.loc[known, "refined"], labels)]
    weights = np.where(rows["weight"].notna(), rows["weight"].fillna(0), weights)
    return targets, weights


# ---- training on one corpus for another: what the two have to share, and what they must not


def same_recipes(profile: str, train_profile: str, branches: Sequence[str]) -> None:
    """Refuse branches that the two profiles encode differently.

    Raises
    ------
    EcmfError
        Names the branch and both extractions.
    """
    for branch in branches:
        here, there = (features.read_selected(name, branch) for name in (profile, train_profile))
        if here["recipe_hash"] != there["recipe_hash"]:
            raise EcmfError(
                f"branch {branch}: {profile} has {here['slug']} of {here['dim']} numbers and {train_profile} has "
                f"{there['slug']} of {there['dim']}, or another recipe of it; extract both with the same parameters"
            )


def in_both(train: pd.DataFrame, clips: pd.DataFrame) -> set[str]:
    """Clips of one corpus that the other has too: the same content, or the same name where there are no media."""
    same = train["content_hash"].notna() & train["content_hash"].isin(clips["content_hash"].dropna())
    unseen = set(clips.index[clips["content_hash"].isna()])
    no_hash = train["content_hash"].isna()
    named = [name in clips.index and (none or name in unseen) for name, none in no_hash.items()]
    return set(train.index[same | np.array(named, bool)])
