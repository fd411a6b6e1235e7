"""What clips of different splits and folds share is found, counted, and kept together on request."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import corpus
from ecmf_utils.corpus import leakage
from ecmf_utils.corpus.manifest import make_folds
from ecmf_utils.files import EcmfError
from tests.corpus.test_sound_prints import babble, fingerprint


def manifest(**columns):
    n = len(next(iter(columns.values())))
    given = {"split": ["train"] * n, "group": [f"g{i}" for i in range(n)], "status": ["ok"] * n} | columns
    return pd.DataFrame({"clip_id": [f"c{i}" for i in range(n)]} | given)


def folds(*numbers):
    return pd.DataFrame({"clip_id": [f"c{i}" for i in range(len(numbers))], "fold": numbers})


def found(table, fold_table=None, prints=None, **how):
    shared = leakage.find_leaks(table, fold_table, prints, **how)
    return [tuple(row) for row in shared[["kind", "n_clips", "splits", "folds", "groups"]].itertuples(index=False)]


def test_a_group_in_training_and_test_is_named():
    table = manifest(group=["ann", "bob", "ann"], split=["train", "train", "test"])
    shared = leakage.find_leaks(table, None)
    assert list(shared) == list(leakage.COLUMNS)
    assert shared.iloc[0].to_dict() == {
        "kind": "group",
        "key": "ann",
        "n_clips": 2,
        "clips": ["c0", "c2"],
        "splits": "test+train",
        "folds": "",
        "groups": 1,
    }


def test_what_stays_in_one_split_and_fold_is_no_leak():
    table = manifest(group=["a", "a", "b"], content_hash=["x", "x", "y"], text=["one two three"] * 2 + ["else"])
    assert found(table, folds(1, 1, 0)) == []


def test_a_group_in_two_folds_is_found():
    assert found(manifest(group=["a", "a"]), folds(2, 0)) == [("group", 2, "train", "0+2", 1)]


def test_the_same_file_under_two_names_is_found():
    table = manifest(content_hash=["x", "y", "x", None, None], split=["train", "train", "test", "train", "test"])
    assert found(table) == [("content", 2, "test+train", "", 2)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I saw him, yesterday!", "i saw  HIM yesterday"),
        ("我昨天看见他了。", "我昨天 看见他了！"),
        ("Ｉ　ｓａｗ　ｈｉｍ", "I saw him"),
        ("Straße, Straße, Straße", "STRASSE strasse Strasse"),
        ("你好吗 my old friend", "你好吗，My old friend…"),
    ],
)
def test_words_are_the_same_whatever_their_case_width_and_punctuation(one, other):
    assert found(manifest(text=[one, other], split=["train", "test"])) == [("transcript", 2, "test+train", "", 2)]


@pytest.mark.parametrize("words", ["Oh really?", "Yes.", "对不起", "…!", ""])
def test_words_that_everybody_says_link_nothing(words):
    assert found(manifest(text=[words, words], split=["train", "test"])) == []


def test_the_least_length_of_a_transcript_can_be_set():
    table = manifest(text=["Oh really?"] * 2 + ["你好"] * 2, split=["train", "test"] * 2)
    assert len(found(table, min_words=2)) == 1 and len(found(table, min_han=2)) == 1


def test_the_english_words_stand_in_where_there_are_no_others():
    table = manifest(text=[None, "I saw him."], text_en=["i saw him", None], split=["train", "test"])
    assert [row[0] for row in found(table)] == ["transcript"]


def test_no_word_of_a_transcript_is_in_the_table():
    shared = leakage.find_leaks(manifest(text=["a secret of hers"] * 2, split=["train", "test"]), None)
    assert len(shared) == 1 and "secret" not in shared.to_csv()


def test_the_same_sound_is_found_in_other_files():
    sound = babble(1)
    prints = {"c0": sound, "c1": babble(2), "c2": sound[1600:] * 0.5, "c3": sound}
    prints = pd.Series({name: fingerprint(value) for name, value in prints.items()})
    table = manifest(split=["train", "train", "test", "train"])
    shared = leakage.find_leaks(table, folds(0, 1, 0, 1), prints)
    assert [tuple(row) for row in shared[["kind", "n_clips", "splits"]].to_numpy()] == [("sound", 3, "test+train")]
    assert list(shared.loc[0, "clips"]) == ["c0", "c2", "c3"]


def test_clips_that_failed_take_no_part():
    assert found(manifest(content_hash=["x", "x"], split=["train", "test"], status=["ok", "failed"])) == []


def test_at_most_twenty_clips_are_listed():
    shared = leakage.find_leaks(manifest(group=["a"] * 50, split=["train", "test"] * 25), None)
    assert shared.loc[0, "n_clips"] == 50 and len(shared.loc[0, "clips"]) == 20


def test_the_summary_counts_each_kind_even_where_there_is_nothing():
    table = manifest(
        group=["a", "a", "b", "b", "c"],
        split=["train", "test", "train", "unlabelled", "train"],
        content_hash=["x", "y", "z", "w", "z"],
    )
    counts = corpus.summarise_leaks(leakage.find_leaks(table, folds(0, 0, 1, 1, 2)))
    counts = counts.set_index("kind").drop(columns="meaning")
    assert list(counts) == ["clusters", "clips", "across train/test", "across folds", "with unlabelled"]
    assert counts.loc["group"].tolist() == [2, 4, 1, 0, 1] and counts.loc["content"].tolist() == [1, 2, 0, 1, 0]
    assert (counts.loc[["transcript", "sound"]] == 0).all(axis=None)


def test_an_empty_manifest_shares_nothing(home):
    empty = leakage.find_leaks(manifest(text=["a"])[:0], None)
    assert len(empty) == 0 and (corpus.summarise_leaks(empty)["clusters"] == 0).all()


# ---- merging


def test_linked_groups_become_one_and_take_the_first_name():
    table = manifest(group=["d", "b", "c", "a"], content_hash=["x", "x", "y", "z"], text=["w", "we two three"] * 2)
    merged, n = leakage.merge_groups(table, ["content"])
    assert list(merged["group"]) == ["b", "b", "c", "a"] and n == 1
    merged, n = leakage.merge_groups(table, ["content", "transcript"])
    assert list(merged["group"]) == ["a", "a", "c", "a"] and n == 2


def test_links_reach_over_several_kinds():
    sound = fingerprint(babble(1))
    table = manifest(content_hash=["x", "x", "y", "z"])
    merged, n = leakage.merge_groups(table, ["sound", "content"], {"c1": sound, "c2": sound})
    assert list(merged["group"]) == ["g0", "g0", "g0", "g3"] and n == 2


def test_without_links_nothing_changes():
    table = manifest(group=["b", "a", "b"], content_hash=["x", "y", None])
    for kinds in ([], ["content", "transcript", "sound"]):
        merged, n = leakage.merge_groups(table, kinds)
        assert list(merged["group"]) == ["b", "a", "b"] and n == 0


def test_merging_does_not_depend_on_the_order_of_the_rows():
    table = manifest(group=list("fedcba"), content_hash=["x", "y", "x", "z", "y", "z"])
    one, _ = leakage.merge_groups(table, ["content"])
    other, _ = leakage.merge_groups(table[::-1], ["content"])
    assert dict(zip(one["clip_id"], one["group"], strict=True)) == dict(
        zip(other["clip_id"], other["group"], strict=True)
    )


def test_folds_of_merged_groups_share_nothing_of_that_kind():
    rng = np.random.default_rng(0)
    table = manifest(content_hash=[f"h{i}" for i in rng.integers(0, 45, 60)]).assign(label=list("abc") * 20)
    before = leakage.find_leaks(table, make_folds(table, 3))
    merged, _ = leakage.merge_groups(table, ["content"])
    after = leakage.find_leaks(merged, make_folds(merged, 3))
    assert (before["kind"] == "content").any() and not len(after)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(EcmfError, match="'group' cannot be merged; expected some of content, transcript, sound"):
        leakage.merge_groups(manifest(text=["a"]), ["group"])
