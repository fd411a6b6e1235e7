"""The clip browser: filters, what a browser can play, and nothing of a clip in what is saved."""

import html
import importlib
import json

import av
import numpy as np
import pandas as pd
import pytest

from ecmf_utils import corpus, media
from ecmf_utils.corpus import browser
from ecmf_utils.corpus.manifest import validate
from ecmf_utils.files import data_uri
from ecmf_utils.media import playback, reading
from ecmf_utils.media.writing import write_clip
from tests.browser import chromium, needs_chromium
from tests.conftest import make_clip

EVIL = '<script>alert("x")</script> & more'
LABELS = ["sad", "happy"]
READY = "return [...document.querySelectorAll('video')].map(v => v.videoWidth > 0 ? v.readyState : 0)"


def manifest(rows):
    """A checked manifest of a few rows, as `00_start_here` writes it."""
    base = {"split": "train", "group": "g", "status": "ok", "problem": None}
    return validate(pd.DataFrame([base | row for row in rows]), LABELS, "test")


def streams(path):
    """The media columns of a file."""
    found = reading.probe(path)
    names = ("duration_s", "width", "height", "fps", "n_frames", "sample_rate")
    return {"video": str(path), "audio": str(path) if found["has_audio"] else None} | {n: found[n] for n in names}


@pytest.fixture
def clips(tmp_path):
    seen = streams(make_clip(tmp_path / "a.mp4"))
    return manifest(
        [
            {"clip_id": "a", "label": "sad", "text": EVIL, "group": "<b>g1</b>", **seen},
            {"clip_id": "b", "label": "happy", "text": "Good day", "split": "test", "problem": "silent_sound", **seen},
            {"clip_id": "c", "text": None, "split": "unlabelled", "problem": "silent_sound;empty_text"},
        ]
    )


@pytest.fixture
def live(monkeypatch):
    """As a kernel that JupyterLab has started."""
    for name in ("PYTEST_VERSION", "ECMF_BATCH", "TQDM_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/10_explore_corpus.ipynb")
    pytest.importorskip("anywidget")
    importlib.import_module("ipykernel")


@pytest.fixture
def shown(clips, live):
    """A live browser whose player keeps what it was sent."""
    found = corpus.browse_clips(clips, LABELS, "none")
    found.sent = []
    found.player.send = lambda content, buffers=(): found.sent.append((content, list(buffers)))
    return found


# ---- live or not


@pytest.mark.parametrize("name", ["PYTEST_VERSION", "ECMF_BATCH"])
def test_nobody_looks_on_in_tests_and_batch_runs(live, monkeypatch, name):
    assert browser.is_live()
    monkeypatch.setenv(name, "1")
    assert not browser.is_live()


def test_a_notebook_that_is_only_executed_is_not_live(live, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert not browser.is_live()


def test_without_the_widgets_there_is_the_table(clips, live, monkeypatch):
    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: None)
    assert isinstance(corpus.browse_clips(clips, LABELS, "full"), browser.ClipTable)


# ---- filters


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "abc"),
        ({"split": "test"}, "b"),
        ({"label": "sad"}, "a"),
        ({"label": "no label"}, "c"),
        ({"problem": "any problem"}, "bc"),
        ({"problem": "no problem"}, "a"),
        ({"problem": "empty_text"}, "c"),
        ({"problem": "text"}, ""),
        ({"group": "g"}, "bc"),
        ({"group": "g1"}, "a"),
        ({"text": "GOOD"}, "b"),
        ({"text": "<script>"}, "a"),
        ({"text": "["}, ""),
        ({"split": "train", "label": "happy"}, ""),
    ],
)
def test_a_filter_keeps_what_fits(clips, filters, expected):
    assert "".join(browser.filter_clips(clips, **filters)["clip_id"]) == expected


# ---- the table


def test_the_table_escapes_what_comes_from_data(clips):
    page = browser.ClipTable(clips, "full", 8)._repr_html_()
    assert html.escape(EVIL) in page and "<script" not in page and "<b>" not in page
    assert page.count("data:image/jpeg;base64,") == 2


@pytest.mark.parametrize(("policy", "pictures"), [("none", 0), ("blurred", 2), ("full", 2)])
def test_the_table_obeys_media_in_reports(clips, policy, pictures):
    page = browser.ClipTable(clips, policy, 8)._repr_html_()
    assert page.count("data:image/") == pictures
    assert ("Good day" in page) == (policy == "full")


def test_the_table_starts_with_problems(clips):
    assert list(browser.ClipTable(clips, "none", 2).clips["clip_id"]) == ["b", "a"]


def test_a_clip_that_cannot_be_decoded_is_named_not_raised(clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no media")
    assert "not_media" in browser.ClipTable(clips, "full", 8)._repr_html_()


def test_no_clips_is_one_line(clips):
    assert corpus.browse_clips(clips.iloc[:0], LABELS, "full") == "There are no clips."


# ---- the widgets


def test_the_list_follows_the_filters(shown):
    assert len(shown.list.options) == 1 + 3
    shown.filters["split"].value = "test"
    assert [value for _, value in shown.list.options[1:]] == ["b"]
    assert shown.count.value == "1 of 3 clips fit"


def test_a_long_list_is_turned_page_by_page(live):
    many = manifest([{"clip_id": f"c{i:03d}", "text": None} for i in range(450)])
    shown = corpus.browse_clips(many, LABELS, "none")
    assert len(shown.list.options) == 1 + 200 and shown.back.disabled
    shown.on.click()
    shown.on.click()
    assert shown.list.options[1][1] == "c400" and shown.on.disabled
    assert shown.count.value == "450 of 450 clips fit, 401 to 450 are listed"
    shown.filters["text"].value = "c00"
    assert len(shown.list.options) == 1 + 10 and shown.page == 0


def test_a_chosen_clip_goes_to_the_player_with_its_words(shown):
    shown.list.value = "a"
    content, buffers = shown.sent[-1]
    assert content["kind"] == "video" and ["transcript", EVIL] in content["facts"]
    assert buffers[0][4:8] == b"ftyp"


def test_a_clip_without_media_says_so(shown):
    shown.list.value = "c"
    content, buffers = shown.sent[-1]
    assert "cannot be played" in content["facts"][0][0] and not buffers


def test_the_list_marks_what_can_be_played(shown):
    assert [text[0] for text, _ in shown.list.options[1:]] == ["▶", "▶", "✕"]


def test_nothing_of_a_clip_is_in_the_output_or_the_state_of_the_widgets(clips, shown):
    from ipywidgets import Widget

    shown.list.value = "b"
    state = {key: str(value) for key, value in Widget.get_manager_state()["state"].items()}
    saved = json.dumps([shown._repr_mimebundle_(), state], default=str)
    assert "Choose a clip" in saved and "silent_sound" in saved
    assert "Good day" not in saved and "alert" not in saved
    assert "data:" not in saved and "ftyp" not in saved and "base64" not in saved


def test_the_output_names_the_table_for_whoever_has_no_kernel(shown):
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/plain", "text/html"}
    assert "(withheld)" in bundle["text/html"] and "VBox" not in bundle["text/plain"]


def test_with_many_groups_a_name_is_typed(live):
    many = manifest([{"clip_id": f"c{i}", "group": f"g{i}", "text": None} for i in range(100)])
    menu = corpus.browse_clips(many, LABELS, "none").filters["group"]
    assert type(menu).__name__ == "Text"


# ---- what a web browser plays


def test_a_small_mp4_is_sent_as_it_is(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    shown = playback.prepare_playback({"clip_id": "a"} | streams(path))
    assert shown == ("video", "video/mp4", path.read_bytes(), "")


def recoded(path, source, codec, form, pixels="yuv420p"):
    """The pictures of a clip in another codec and container."""
    frames, _ = media.read_frames(source, np.arange(6) / 6)
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "form", "pixels"),
    [
        ("a.mpg", "mpeg1video", "mpeg", "yuv420p"),
        ("a.flv", "flv", "flv", "yuv420p"),
        ("a.mov", "libx264", "mov", "yuv420p"),
        ("a.mp4", "mpeg4", "mp4", "yuv420p"),
        ("b.mp4", "libx264", "mp4", "yuv444p"),
    ],
)
def test_what_a_browser_cannot_play_becomes_a_small_copy(clip, tmp_path, name, codec, form, pixels):
    path = recoded(tmp_path / name, clip, codec, form, pixels)
    shown = playback.prepare_playback({"clip_id": "a", "video": str(path), "audio": None})
    (tmp_path / "copy.mp4").write_bytes(shown.content)
    assert shown.mime == "video/mp4" and "browsers do not play" in shown.remark
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        assert copy.streams.video[0].codec_context.name == "h264"
        assert copy.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_a_file_over_the_limit_becomes_a_small_copy_that_says_so(clip, monkeypatch):
    monkeypatch.setattr(playback, "MAX_BYTES", 1000)
    assert "are sent as they are" in playback.prepare_playback({"clip_id": "a"} | streams(clip)).remark


def test_of_a_long_clip_the_beginning_is_sent(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(playback, "MAX_BYTES", 1000)
    monkeypatch.setattr(playback, "LONGEST_S", 0.5)
    shown = playback.prepare_playback({"clip_id": "a"} | streams(clip))
    (tmp_path / "copy.mp4").write_bytes(shown.content)
    assert reading.probe(tmp_path / "copy.mp4")["duration_s"] == pytest.approx(0.5, abs=0.1)
    assert "its first" in shown.remark


def test_sound_in_a_file_of_its_own_joins_the_picture(tmp_path):
    mute, heard = make_clip(tmp_path / "a.mp4", sound=False), make_clip(tmp_path / "b.mp4")
    shown = playback.prepare_playback({"clip_id": "a", "video": str(mute), "audio": str(heard)})
    (tmp_path / "copy.mp4").write_bytes(shown.content)
    assert reading.probe(tmp_path / "copy.mp4")["has_audio"]
    assert np.abs(media.read_audio(tmp_path / "copy.mp4")).max() > 0.1


def test_sound_alone_is_an_audio(tmp_path):
    tone = (0.2 * np.sin(np.arange(16000) / 10)).astype(np.float32)
    path = write_clip(tmp_path / "a.mp4", [], 1.0, tone)
    shown = playback.prepare_playback({"clip_id": "a", "video": None, "audio": str(path)})
    assert shown.kind == "audio" and shown.mime == "audio/mp4"


def test_no_media_is_one_line():
    with pytest.raises(reading.MediaError, match="the manifest names no media"):
        playback.prepare_playback({"clip_id": "a", "video": None, "audio": None})


@pytest.mark.slow
@needs_chromium
def test_every_real_clip_plays_in_a_browser(realdata, tmp_path):
    paths = sorted(path for path in (realdata / "clips").rglob("*") if path.suffix in {".mp4", ".mov", ".mpg"})
    rows = [{"clip_id": path.stem} | streams(path) for path in paths]
    shown = [playback.prepare_playback(row) for row in rows]
    address = [data_uri(clip.content, clip.mime) for clip in shown]
    videos = [f'<video src="{uri}" preload="auto" muted width="200"></video>' for uri in address]
    (tmp_path / "page.html").write_text("".join(videos))
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium() as driver:
        driver.get((tmp_path / "page.html").as_uri())
        driver.execute_script("document.querySelectorAll('video').forEach(v => v.play())")
        WebDriverWait(driver, 60).until(lambda driver: all(state > 1 for state in driver.execute_script(READY)))
        lengths = driver.execute_script("return [...document.querySelectorAll('video')].map(v => v.duration)")
    assert len(paths) == 16 and sum(bool(clip.remark) for clip in shown) == 6  # four mpg, two mov
    assert lengths == pytest.approx([row["duration_s"] for row in rows], abs=0.3)
