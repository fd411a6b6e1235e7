"""What each generated clip is to be: who speaks, what is true, what every modality shows.

A recipe is decided by the seed alone. Modalities are unreliable independently of each other
(`RELIABILITY`); training labels are wrong where annotators would err; some clips are hard on purpose.
"""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_utils import files

GENERATOR_VERSION = 1
EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
N_BLOCKS, N_TEST_BLOCKS = 10, 2
# Probability that a modality shows the truth; otherwise neutral or a class it is confused with.
RELIABILITY = dict(face=0.76, audio=0.74, scene=0.74, text=0.92)
AMBIGUOUS_TEXTS = 0.32  # share of sentences that fit several emotions
CONFUSABLE = dict(
    neutral=("sad", "worried", "happy"),
    angry=("neutral", "worried", "surprise"),
    happy=("neutral", "surprise", "sad"),
    sad=("neutral", "worried", "angry"),
    worried=("neutral", "sad", "surprise"),
    surprise=("neutral", "happy", "worried"),
)
LABEL_NOISE = 0.12  # share of the training labels that are wrong
MISLEADING = dict(face=3.0, audio=2.0, text=1.5, scene=0.5)  # how strongly a modality misleads annotators
HARD = dict(  # share of the corpus, and the kinds it is dealt to in turn
    hard_face=(0.08, ("turned", "hidden", "tiny", "absent")),
    hard_audio=(0.05, ("silent", "noisy")),
    hard_text=(0.04, ("missing", "empty")),
)


def plan(n_train: int, n_test: int, n_unlabelled: int, seed: int, n_speakers: int) -> list[dict[str, Any]]:
    """The recipe of every clip: who speaks, what is true, what each modality shows, what is hard."""
    if min(n_train, n_test, n_unlabelled) < 0 or n_train + n_test + n_unlabelled == 0 or n_speakers < N_BLOCKS:
        raise files.EcmfError(
            f"a corpus of {n_train} + {n_test} + {n_unlabelled} clips by {n_speakers} speakers cannot be "
            f"made: give at least one clip and {N_BLOCKS} speakers"
        )
    rng = np.random.default_rng([GENERATOR_VERSION, seed])
    blocks = [int(b) for b in rng.permutation(N_BLOCKS)]
    recipes: list[dict[str, Any]] = []
    used: Counter = Counter()
    for split, count in (("train", n_train), ("test", n_test), ("unlabelled", n_unlabelled)):
        own = blocks[:N_TEST_BLOCKS] if split == "test" else blocks[N_TEST_BLOCKS:]
        recipes += _deal(split, count, own, n_speakers, used, rng)
    for recipe in recipes:
        recipe.update(_shows(recipe["truth"], rng))
    _give_sentences(recipes, rng)
    _make_hard(recipes, rng)
    _give_labels(recipes, rng)
    order = rng.permutation(len(recipes))
    for place, recipe in zip(order, recipes, strict=True):
        recipe.update(clip_id=f"c{place + 1:04d}", seed=seed, n_speakers=n_speakers, version=GENERATOR_VERSION)
    return sorted(recipes, key=lambda recipe: recipe["clip_id"])


def _deal(
    split: str, count: int, blocks: list[int], n_speakers: int, used: Counter, rng: np.random.Generator
) -> list[dict]:
    """Clips of a split: emotions equally often in all, blocks equally often, speakers in turn."""
    emotions: Counter = Counter()
    recipes = []
    for k in range(count):
        block = blocks[k % len(blocks)]
        truth = min(EMOTIONS, key=lambda e: (emotions[e], emotions[e, block], rng.random()))
        speaker = min(range(block, n_speakers, N_BLOCKS), key=lambda s: (used[s], used[s, truth], rng.random()))
        emotions.update([truth, (truth, block)])
        used.update([speaker, (speaker, truth)])
        recipes.append(dict(split=split, block=block, speaker=speaker, truth=truth))
    return recipes


def _shows(truth: str, rng: np.random.Generator) -> dict[str, Any]:
    """What each modality shows, and how strongly."""
    shows: dict[str, Any] = {}
    for modality, reliability in RELIABILITY.items():
        right = rng.random() < reliability
        shows[f"shown_{modality}"] = truth if right else str(rng.choice(CONFUSABLE[truth]))
    for modality in ("face", "audio", "scene"):
        shows[f"{modality}_intensity"] = round(float(np.clip(rng.beta(5, 2), 0.3, 1)), 3)
    shows["snr_db"] = round(float(rng.uniform(8, 30)), 1)
    return shows


def _give_sentences(recipes: list[dict[str, Any]], rng: np.random.Generator) -> None:
    """Sentences of the clip's own block, the least used first; a share of them ambiguous."""
    used: Counter = Counter()
    unclear = set(rng.permutation(len(recipes))[: round(AMBIGUOUS_TEXTS * len(recipes))].tolist())
    for index, recipe in enumerate(recipes):
        emotion = "ambiguous" if index in unclear else recipe["shown_text"]
        choice = min(sentences()[recipe["block"], emotion], key=lambda row: (used[row], rng.random()))
        used[choice] += 1
        recipe.update(template=choice[0], sentence=choice[1], ambiguous=index in unclear)
        recipe["shown_text"] = emotion


@cache
def sentences() -> dict[tuple[int, str], list[tuple[str, str]]]:
    """(block, emotion) -> (template, sentence) pairs of the committed list."""
    table: dict[tuple[int, str], list[tuple[str, str]]] = {}
    with open(Path(__file__).parent / "data/sentences.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            table.setdefault((int(row["block"]), row["emotion"]), []).append((row["template"], row["sentence"]))
    return table


def _make_hard(recipes: list[dict[str, Any]], rng: np.random.Generator) -> None:
    for field, (share, kinds) in HARD.items():
        chosen = rng.permutation(len(recipes))[: round(share * len(recipes))]
        for recipe in recipes:
            recipe[field] = None
        for turn, index in enumerate(chosen):
            recipes[index][field] = kinds[turn % len(kinds)]
    for recipe in recipes:
        if recipe["hard_audio"] == "noisy":
            recipe["snr_db"] = round(float(rng.uniform(-12, -6)), 1)


def _give_labels(recipes: list[dict[str, Any]], rng: np.random.Generator) -> None:
    """Labels as annotators give them: wrong in a share of the training clips, where shown signals mislead."""
    train = [recipe for recipe in recipes if recipe["split"] == "train"]
    weights = np.array([0.15 + sum(_misleading(recipe).values()) for recipe in train])
    for recipe in recipes:
        recipe["label"] = None if recipe["split"] == "unlabelled" else recipe["truth"]
    wrong = round(LABEL_NOISE * len(train))
    for index in rng.choice(len(train), wrong, replace=False, p=weights / weights.sum()) if wrong else ():
        pull = _misleading(train[index])
        names = list(pull) or list(CONFUSABLE[train[index]["truth"]])
        force = np.array(list(pull.values()) or [1.0] * len(names))
        train[index]["label"] = str(rng.choice(names, p=force / force.sum()))


def _misleading(recipe: dict[str, Any]) -> dict[str, float]:
    """Emotion -> how strongly what the clip shows pulls an annotator to it, away from the truth."""
    pull: dict[str, float] = {}
    for modality, strength in MISLEADING.items():
        shown = recipe[f"shown_{modality}"]
        if shown in EMOTIONS and shown != recipe["truth"] and not recipe.get(f"hard_{modality}"):
            pull[shown] = pull.get(shown, 0.0) + strength
    return pull
