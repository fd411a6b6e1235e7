"""The generated corpora: balanced, disjoint, noisy as stated, the same in every process."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from ecmf_demo import corpus as generated, face, film, people, recipes, speech as voice
from ecmf_demo.corpus import RECORD, clip_path, generate, make_clip
from ecmf_demo.speech import make_voice, synthesise
from ecmf_utils import media
from ecmf_utils.files import EcmfError, file_hash
from ecmf_utils.media import reading


@pytest.fixture(scope="module")
def plan():
    return recipes.plan(300, 120, 120, seed=3, n_speakers=40)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    clips, truth = generate(folder, n_train=3, n_test=1, n_unlabelled=1, seed=5, n_workers=1)
    return folder, clips, truth


def of(plan, split):
    return [recipe for recipe in plan if recipe["split"] == split]


def test_plan_depends_on_the_seed_alone(plan):
    assert plan == recipes.plan(300, 120, 120, seed=3, n_speakers=40)
    assert plan != recipes.plan(300, 120, 120, seed=4, n_speakers=40)


def test_each_split_holds_every_emotion_equally_often(plan):
    for split, each in (("train", 50), ("test", 20), ("unlabelled", 20)):
        assert set(Counter(r["truth"] for r in of(plan, split)).values()) == {each}


def test_test_blocks_are_two_and_shared_with_no_other_split(plan):
    test = {r["block"] for r in of(plan, "test")}
    assert len(test) == 2
    assert not test & {r["block"] for r in plan if r["split"] != "test"}


def test_other_blocks_are_used_evenly(plan):
    counts = Counter(r["block"] for r in of(plan, "train"))
    assert len(counts) == 8 and max(counts.values()) - min(counts.values()) <= 1


def test_forty_speakers_stay_in_their_block(plan):
    assert len({r["speaker"] for r in plan}) == 40
    assert all(r["speaker"] % recipes.N_BLOCKS == r["block"] for r in plan)


def test_templates_stay_in_one_block(plan):
    blocks = {}
    for recipe in plan:
        blocks.setdefault(recipe["template"], set()).add(recipe["block"])
    assert all(len(found) == 1 for found in blocks.values())


def test_a_third_of_the_texts_is_ambiguous(plan):
    assert np.mean([r["ambiguous"] for r in plan]) == pytest.approx(recipes.AMBIGUOUS_TEXTS, abs=0.01)


@pytest.mark.parametrize("modality", ["face", "audio", "scene"])
def test_modality_shows_the_truth_as_often_as_documented(plan, modality):
    shown = np.mean([r[f"shown_{modality}"] == r["truth"] for r in plan])
    assert shown == pytest.approx(recipes.RELIABILITY[modality], abs=0.06)


def test_labels_are_noisy_in_training_only(plan):
    wrong = [r["label"] != r["truth"] for r in of(plan, "train")]
    assert np.mean(wrong) == pytest.approx(recipes.LABEL_NOISE, abs=0.005)
    assert all(r["label"] == r["truth"] for r in of(plan, "test"))
    assert all(r["label"] is None for r in of(plan, "unlabelled"))


def test_wrong_labels_follow_what_the_clip_shows(plan):
    wrong = [r for r in of(plan, "train") if r["label"] != r["truth"]]
    shown = [r["label"] in {r[f"shown_{m}"] for m in recipes.RELIABILITY} for r in wrong]
    assert np.mean(shown) > 0.8


@pytest.mark.parametrize("field", sorted(recipes.HARD))
def test_hard_cases_are_as_many_as_documented(plan, field):
    share, kinds = recipes.HARD[field]
    found = Counter(r[field] for r in plan if r[field])
    assert sum(found.values()) == round(share * len(plan)) and set(found) == set(kinds)


def test_clip_names_say_nothing_about_split_or_emotion(plan):
    first = [r["split"] for r in plan[:60]]
    assert [r["clip_id"] for r in plan] == [f"c{k:04d}" for k in range(1, 541)]
    assert set(first) == {"train", "test", "unlabelled"}


def test_tiny_plan_is_even_too():
    tiny = recipes.plan(16, 6, 2, seed=0, n_speakers=40)
    assert set(Counter(r["block"] for r in of(tiny, "train")).values()) == {2}
    assert set(Counter(r["truth"] for r in of(tiny, "test")).values()) == {1}


def test_impossible_sizes_are_refused():
    with pytest.raises(EcmfError, match="at least one clip"):
        recipes.plan(0, 0, 0, seed=0, n_speakers=40)


def test_clips_are_what_the_contract_says(corpus):
    info = reading.probe(corpus[1]["video"][0])
    assert (info["width"], info["height"], info["fps"]) == (320, 240, 12)
    assert info["sample_rate"] == 16000 and info["channels"] == 1
    assert 2.0 <= info["duration_s"] <= 3.3


def test_tables_have_the_columns_of_the_contract(corpus):
    _, clips, truth = corpus
    assert list(clips) == ["clip_id", "video", "text", "label", "split", "group", "speaker"]
    assert {"clip_id", "truth", "template", "shown_face", "hard_face", "snr_db"} <= set(truth)
    assert "truth" not in clips


def test_complete_clips_are_kept_and_missing_ones_made_again(corpus):
    folder, clips, _ = corpus
    first, second = (clip_path(folder, name) for name in clips["clip_id"][:2])
    before, kept_since = file_hash(first), second.stat().st_mtime_ns
    first.unlink()
    generate(folder, n_train=3, n_test=1, n_unlabelled=1, seed=5, n_workers=1)
    assert file_hash(first) == before and second.stat().st_mtime_ns == kept_since


def test_a_record_cut_by_a_kill_costs_one_clip(corpus):
    folder, clips, _ = corpus
    record = folder / RECORD
    last = record.read_text().splitlines()[-1]
    record.write_text(record.read_text()[: -len(last) // 2])
    generate(folder, n_train=3, n_test=1, n_unlabelled=1, seed=5, n_workers=1)
    assert set(generated._read_record(folder)) == set(clips["clip_id"])


def test_files_are_the_same_in_every_process_and_order(corpus, tmp_path):
    folder, clips, _ = corpus
    names = clips["clip_id"][:3].tolist()
    code = (
        "import sys; from pathlib import Path; from ecmf_demo import corpus as demo, recipes\n"
        "made = {r['clip_id']: r for r in recipes.plan(3, 1, 1, seed=5, n_speakers=40)}\n"
        "for name in sys.argv[2:]: demo.make_clip(Path(sys.argv[1]), made[name])\n"
    )
    for hash_seed, order in (("1", names), ("2", names[::-1])):
        other = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-c", code, str(other), *order],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for name in names:
            assert file_hash(clip_path(other, name)) == file_hash(clip_path(folder, name))


def test_speech_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(EcmfError, match=r"ecmf_utils\[demo\]"):
        synthesise("hello", "en+m1", 170, 50, 50)


def test_silent_clip_has_a_sound_stream_without_sound(tmp_path):
    recipe = next(r for r in recipes.plan(60, 0, 0, seed=1, n_speakers=40) if r["hard_audio"] == "silent")
    make_clip(tmp_path, recipe)
    sound = media.read_audio(clip_path(tmp_path, recipe["clip_id"]))
    assert len(sound) > 30000 and np.abs(sound).max() < reading.SILENCE


def test_noise_has_the_stated_level():
    speech = np.sin(np.arange(40000) / 5).astype(np.float32) * 0.1
    clean, noisy = (voice.record(speech, snr, np.random.default_rng(0)) for snr in (99, -6))
    assert 10 * np.log10((clean**2).mean() / ((noisy - clean) ** 2).mean()) == pytest.approx(-6, abs=0.3)


def picture(hard, seed=0, emotion="happy"):
    rng = np.random.default_rng(seed)
    who = people.make_identity(rng, seed)
    shows = dict(shown_face=emotion, face_intensity=1.0, shown_scene=emotion, scene_intensity=1.0)
    return film.film(who, {**shows, "hard_face": hard}, np.full(4, 0.3), rng)[3]


def faces_in(image):
    dlib = pytest.importorskip("dlib")
    return len(dlib.get_frontal_face_detector()(image, 0))


def test_detector_finds_the_faces_that_are_shown():
    assert sum(faces_in(picture(None, seed)) == 1 for seed in range(6)) >= 5


@pytest.mark.parametrize("hard", ["turned", "hidden", "tiny", "absent"])
def test_detector_misses_hard_faces(hard):
    assert sum(faces_in(picture(hard, seed)) == 0 for seed in range(3)) >= 2


def test_scene_is_visible_in_whole_frame_statistics():
    happy, sad = (np.mean([picture("absent", s, e).mean() for s in range(4)]) for e in ("happy", "sad"))
    assert happy > 1.3 * sad


def test_every_emotion_changes_the_face():
    who = people.make_identity(np.random.default_rng(1))
    head = face.make_head(who, (0.5, -0.5, 0.9), 0.44)
    rest = face.paint(head, who, {})
    for emotion in face.EXPRESSIONS:
        changed = np.abs(face.paint(head, who, face.blend(emotion, 1.0)) - rest)[..., :3].max()
        assert (changed > 60) == (emotion != "neutral")


def test_voices_use_only_variants_that_are_the_same_in_every_process():
    names = {make_voice(np.random.default_rng(s), "fm"[s % 2]).name[-2:] for s in range(200)}
    assert names == {"f1", "f4", "m1", "m2", "m3", "m4", "m5", "m6", "m7"}
