"""Figures of the exploration: any label set, any number of groups, with or without media."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ecmf_utils import corpus, notebook, plots
from ecmf_utils.plots import theme

TWO = ["negative", "positive"]
SIX = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
SEVEN = [*SIX, "disgust"]
EIGHT = [*SEVEN, "calm"]
TWELVE = [*EIGHT, "proud", "price $5 and $6", "ashamed", "a label with a rather long name"]
rng = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def small():
    """The theme, drawn coarsely: what is tested is that it draws."""
    theme.set_theme()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theme, "SHARPNESS", 0.6)
        yield


def draw(figure):
    """The rendered picture; a warning of matplotlib or seaborn would reach a notebook's stderr."""
    assert isinstance(figure, Figure), figure
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        picture = np.asarray(Image.open(io.BytesIO(figure.image_bytes())).convert("RGB"))
    assert picture.std() > 1, "blank"
    return picture


def made_up(n=240, labels=SIX, groups=10, media=True):
    """A manifest of made-up rows."""
    label = np.array(labels, object)[rng.integers(0, len(labels), n)] if labels else np.full(n, None)
    clips = pd.DataFrame({"clip_id": [f"c{i}" for i in range(n)], "label": label})
    clips["group"] = [f"group {i}" for i in rng.integers(0, groups, n)]
    clips["split"] = np.array(["train", "test", "unlabelled"])[np.arange(n) % 3]
    clips.loc[clips["split"] == "unlabelled", "label"] = None
    clips["text"] = ["one two three four" if i % 3 else "你好世界" for i in range(n)]
    known = np.full(n, 1.0 if media else np.nan)
    clips["duration_s"] = known * rng.lognormal(1, 0.6, n)
    clips["width"], clips["height"] = known * 320, known * np.where(np.arange(n) % 5, 240, 180)
    clips["fps"], clips["sample_rate"] = known * (12 + np.arange(n) % 9), known * 16000
    clips["audio"] = "a.wav" if media else None
    return clips


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title, ax._left_title)]


@pytest.mark.parametrize("labels", [TWO, SEVEN, EIGHT, TWELVE], ids=len)
@pytest.mark.parametrize("groups", [1, 12, 600])
def test_groups_draw_for_any_label_set(labels, groups):
    draw(plots.groups(made_up(700, labels, groups), labels))


def test_few_groups_have_a_row_each_and_all_their_clips():
    clips = made_up(60, SIX, 3)
    figure = plots.groups(clips, SIX)
    rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert rows == list(clips["group"].value_counts().index)
    assert f" {clips['group'].value_counts().iloc[0]}" in texts(figure)


def test_groups_without_labels_are_counted_only():
    figure = plots.groups(made_up(60, None, 3), SIX)
    assert len(figure.axes) == 1
    draw(figure)


def test_many_groups_are_told_by_their_numbers():
    clips = made_up(9000, TWO, 9000).assign(label="positive")
    said = " ".join(texts(plots.groups(clips, TWO)))
    n = clips["group"].nunique()
    assert f"{n:,} groups" in said and f"{n:,} with a single label" in said
    draw(plots.groups(clips, TWO))


def test_many_groups_without_labels_draw():
    draw(plots.groups(made_up(500, None, 400), SIX))


def test_files_show_what_differs_and_name_what_does_not():
    clips = made_up()
    figure = plots.files(clips)
    titles = [ax._left_title.get_text() for ax in figure.axes]
    assert "frame size (pixels)" in titles and "sample rate (kHz)" not in titles
    assert "sample rate (kHz): 16" in figure._supxlabel.get_text()
    assert "240 of 240 clips" in titles[0]
    draw(figure)


def test_files_that_are_all_alike_are_one_panel():
    figure = plots.files(made_up().assign(height=240.0, fps=25.0))
    assert len(figure.axes) == 1 and "320 × 240" in figure._supxlabel.get_text()
    draw(figure)


def test_files_with_sound_alone_have_no_frames():
    figure = plots.files(made_up().assign(width=np.nan, height=np.nan, fps=np.nan))
    assert "frame size (pixels): none" in figure._supxlabel.get_text()
    draw(figure)


def test_a_long_tail_of_durations_is_cut_and_said():
    clips = made_up(300)
    clips.loc[0, "duration_s"] = 9000.0
    assert "above, up to 9,000 s" in plots.files(clips).axes[0]._left_title.get_text()


def test_no_media_is_one_line():
    assert plots.files(made_up(media=False)).startswith("No media are known")


@pytest.mark.parametrize("labels", [TWO, SEVEN, EIGHT, TWELVE], ids=len)
def test_measures_by_label_draw_for_any_label_set(labels):
    figure = plots.by_label(made_up(120, labels), labels, {"duration_s": "duration (s)", "fps": "frames"})
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["all clips", *labels]
    draw(figure)


def test_measures_of_an_unlabelled_corpus_are_those_of_all_clips():
    figure = plots.by_label(made_up(60, None), SIX, {"duration_s": "duration (s)"})
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["all clips"]
    draw(figure)


def test_measures_of_nothing_are_one_line():
    assert plots.by_label(made_up(media=False), SIX, {"duration_s": "s"}) == "There are no media to measure."
    assert plots.by_label(made_up().iloc[:0], SIX, {"duration_s": "s"}) == "There are no media to measure."


def test_speech_draws_with_two_scripts_and_without_a_rate():
    clips = made_up()
    said = corpus.count_words(clips)
    draw(plots.speech(said, clips["fps"], said["script"]))
    draw(plots.speech(said, clips["fps"] * np.nan, said["script"]))


def test_speech_of_no_transcripts_is_one_line():
    said = corpus.count_words(made_up().assign(text=None))
    assert plots.speech(said, said["length"], said["script"]) == "No clip has a transcript."


def test_a_contact_sheet_has_a_row_for_each_label_that_has_pictures():
    tile = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    rows = {
        "sad": [(tile, "c $1$"), (tile[:, :40], "c2")],
        "happy": [],
        "other": [(tile, "an id that is much too long")],
    }
    figure = plots.contact_sheets(rows, SIX)
    assert len(figure.axes) == 4 and any(text.startswith("…") for text in texts(figure))
    draw(figure)
    assert plots.contact_sheets({"sad": []}, SIX).startswith("There are no pictures")


@pytest.mark.parametrize("frames", [0, 5])
@pytest.mark.parametrize("sound", [None, 50, 32000])
def test_one_clip_draws_with_what_it_has(frames, sound):
    tiles = [np.full((60, 80, 3), 40 * i, np.uint8) for i in range(frames)]
    wave = None if sound is None else (0.1 * rng.normal(size=sound)).astype(np.float32)
    figure = plots.clip_timeline(wave, tiles, 2.0, "c1: what costs $5 and $6")
    if frames or sound:
        draw(figure)
    else:
        assert figure == "This clip has neither picture nor sound that media_in_reports allows."


def test_a_note_is_plain_text_and_a_sentence_of_a_page():
    note = notebook.Note("Nothing.")
    assert repr(note) == note._repr_markdown_() == "Nothing."
