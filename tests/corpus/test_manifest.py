"""The manifest: what goes in, what is refused, how it is folded."""

import shutil

import pandas as pd
import pytest

from ecmf_utils import corpus
from ecmf_utils.corpus import probing
from ecmf_utils.corpus.manifest import NUMBER_COLUMNS, TEXT_COLUMNS, make_folds, save_clips, validate
from ecmf_utils.corpus.readers import own
from ecmf_utils.files import EcmfError

LABELS = ["neutral", "angry", "happy"]


def manifest(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return path


def clips(n=24, groups=6):
    rows = [
        {
            "clip_id": f"c{i}",
            "split": "train",
            "label": LABELS[i % 3],
            "group": f"g{i % groups}",
            "status": "ok",
        }
        for i in range(n)
    ]
    return pd.DataFrame(rows)


def test_scan_finds_clips_of_all_levels_and_groups_them_by_folder(tmp_path, clip):
    (tmp_path / "ann").mkdir()
    shutil.copy(clip, tmp_path / "ann" / "one.mp4")
    shutil.copy(clip, tmp_path / "two.mp4")
    found = own.scan_folder(tmp_path)
    assert dict(zip(found["clip_id"], found["group"], strict=True)) == {
        "ann__one": "ann",
        "two": "two",
    }


def test_scan_keeps_apart_files_that_differ_only_in_their_ending(tmp_path, clip):
    shutil.copy(clip, tmp_path / "a.mp4")
    shutil.copy(clip, tmp_path / "a.mov")
    assert set(own.scan_folder(tmp_path)["clip_id"]) == {"a.mp4", "a.mov"}


def test_scan_makes_a_usable_id_of_any_file_name(tmp_path, clip):
    shutil.copy(clip, tmp_path / "Ünï <b>\\x.mp4")
    assert list(own.scan_folder(tmp_path)["clip_id"]) == ["Ünï <b>_x"]


def test_scan_reads_the_transcript_beside_a_clip(tmp_path, clip):
    shutil.copy(clip, tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("Hello there.\n", encoding="utf-8-sig")
    assert own.scan_folder(tmp_path)["text"][0] == "Hello there."


def test_probe_gives_streams_and_problems_and_loses_no_row(tmp_path, clip):
    (tmp_path / "broken.mp4").write_bytes(b"<html>not found</html>")
    (tmp_path / "empty.mp4").write_bytes(b"")
    shutil.copy(clip, tmp_path / "good.mp4")
    probed = probing.probe_all(own.scan_folder(tmp_path), n_workers=1).set_index("clip_id")
    assert probed["status"].to_dict() == {"broken": "failed", "empty": "failed", "good": "ok"}
    assert probed.loc["broken", "problem"].startswith("not_media")
    assert probed.loc["empty", "problem"].startswith("empty_file")
    assert probed.loc["good", "duration_s"] == pytest.approx(1.2, abs=0.1)


def test_saved_manifest_comes_back_with_the_contract_types(home, tmp_path, clip):
    shutil.copy(clip, tmp_path / "good.mp4")
    saved = save_clips("p", probing.probe_all(own.scan_folder(tmp_path), n_workers=1), LABELS)
    pd.testing.assert_frame_equal(corpus.read_clips("p"), saved, check_dtype=False)
    assert set(TEXT_COLUMNS) | set(NUMBER_COLUMNS) <= set(saved.columns)


def test_content_hash_follows_the_file_and_not_its_name_or_words(tmp_path, clip):
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "a.txt").write_text("Words.")
    (tmp_path / "c.mp4").write_bytes(clip.read_bytes() + b"\0")
    probed = probing.probe_all(own.scan_folder(tmp_path), n_workers=1).set_index("clip_id")["content_hash"]
    assert probed["a"] == probed["b"] != probed["c"]


def test_folds_are_stratified_and_never_cross_a_group():
    table = clips(60, 10)
    folds = table.merge(make_folds(table, 5, seed=3), on="clip_id")
    assert folds.groupby("group")["fold"].nunique().max() == 1
    assert folds.groupby("fold")["label"].nunique().min() == 3


def test_folds_are_the_same_for_the_same_seed():
    assert make_folds(clips(), 3, 1).equals(make_folds(clips(), 3, 1))


def test_too_few_groups_for_the_folds_is_refused_with_both_numbers():
    with pytest.raises(EcmfError, match=r"2 groups .* n_folds=5"):
        make_folds(clips(12, 2), 5)


def test_one_class_only_is_refused():
    with pytest.raises(EcmfError, match="same label"):
        make_folds(clips().assign(label="happy"), 2)


def test_validate_names_the_row_and_the_rule():
    table = clips(3).assign(label=["neutral", "bored", "happy"])
    with pytest.raises(EcmfError, match=r"here: row 2, column label: 'bored'"):
        validate(table, LABELS, "here")


def test_test_clips_with_a_label_keep_it_and_clips_without_are_unlabelled(tmp_path):
    path = manifest(tmp_path, "clip_id,video,label,split\na,a.mp4,happy,test\nb,b.mp4,,\n")
    rows = own.read_manifest(path)
    assert list(rows["split"]) == ["test", "unlabelled"]


def test_sound_in_a_file_of_its_own_is_used_and_counts_as_content(tmp_path, clip):
    from tests.conftest import make_clip

    make_clip(tmp_path / "mute.mp4", sound=False)
    shutil.copy(clip, tmp_path / "voice.mp4")
    path = manifest(tmp_path, "clip_id,video,audio\na,mute.mp4,voice.mp4\nb,mute.mp4,\n")
    probed = probing.probe_all(own.read_manifest(path), n_workers=1).set_index("clip_id")
    assert probed.loc["a", "audio"].endswith("voice.mp4") and probed.loc["a", "problem"] == "empty_text"
    assert probed.loc["b", "problem"].startswith("no_sound_stream")
    assert probed["content_hash"].nunique() == 2


def test_a_training_row_without_a_label_counts_as_unlabelled(tmp_path):
    path = manifest(tmp_path, "clip_id,video,label,split\na,a.mp4,,train\n")
    assert list(own.read_manifest(path)["split"]) == ["unlabelled"]


def test_blank_words_are_missing_words(tmp_path, clip):
    shutil.copy(clip, tmp_path / "a.mp4")
    probed = probing.probe_all(own.scan_folder(tmp_path).assign(text="  "), n_workers=1)
    assert probed["text"].isna().all() and list(probed["problem"]) == ["empty_text"]
