"""Frames of clips as a page may show them."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import media


@pytest.fixture
def clips(clip):
    return pd.DataFrame({"video": [str(clip)] * 2, "duration_s": [1.2, 0.4], "width": [160.0, np.nan]})


def test_the_middle_of_each_clip_is_shown_as_the_policy_allows(clips):
    full, blurred, none = (media.show_middle(clips, policy, max_side=80) for policy in ("full", "blurred", "none"))
    assert [frame.shape for frame in full] == [(60, 80, 3)] * 2 and none == [None, None]
    assert np.array_equal(full[0], media.read_frames(clips["video"][0], [0.6], 80)[0][0])
    assert blurred[0].shape == full[0].shape and not np.array_equal(blurred[0], full[0])
    assert media.show_middle(clips.iloc[:0], "full") == []


def test_frames_come_evenly_and_only_where_there_is_a_picture(clips):
    frames, times = media.show_evenly(clips.iloc[0], 3, "full", max_side=80)
    assert times.tolist() == pytest.approx([0.2, 0.6, 1.0]) and len(frames) == 3
    assert media.show_evenly(clips.iloc[0], 3, "none")[0] == []
    frames, times = media.show_evenly(clips.iloc[1], 4, "full")
    assert frames == [] and len(times) == 4
