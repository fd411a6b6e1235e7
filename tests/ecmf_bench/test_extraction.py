"""What the benchmark measures is what it says."""

import numpy as np
import pytest

from ecmf_bench import extraction, untrained
from ecmf_utils import parallel


def hold(n_mib):
    """Peak memory of a process after it has held so much."""
    np.ones(n_mib * 2**17)
    return extraction.peak_mib()


def test_peak_memory_is_that_of_the_process_itself_not_of_its_parent():
    own = hold(700)  # this process is the larger one now
    small, large = (next(iter(parallel.parallel_map(hold, [n], 2))) for n in (1, 400))
    assert small < own - 300
    assert large > small + 300


def test_peak_memory_is_taken_of_fresh_processes(tmp_path):
    name = untrained.save("hubert", tmp_path)
    table = extraction.measure_memory([2, 40], name)
    assert table["clips"].tolist() == [2, 40] and table["ratio"][0] == 1
    assert 0.9 < table["ratio"][1] < 1.3 and table["peak (MiB)"].between(100, 5000).all()


def test_the_whole_extraction_is_held_against_the_bare_model(tmp_path):
    name = untrained.save("bert", tmp_path)
    (tmp_path / "clips").mkdir()
    clips = extraction.make_clips(tmp_path / "clips", 2, 60)
    found = extraction.measure_efficiency("text", name, clips, 2, "cpu")
    assert found["efficiency"] == pytest.approx(found["whole (clips/s)"] / found["bare (clips/s)"])
    assert 0 < found["efficiency"] < 2 and found["GPU busy (%)"] is None
