"""No frame, sound or transcript enters a notebook's page past `media_in_reports`."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


def code_of(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_drawn_has_passed_the_policy(path):
    code = code_of(path)
    if "contact_sheet" in code:
        assert "report.frame_for_report(" in code and "media_in_reports" in code
    if "waveform_spectrogram" in code:
        assert "report.sound_for_report(" in code and "media_in_reports" in code
    for shown in re.findall(r'\["(?:text|reading|sentence)"\]\]?\.(?:head|tail|to_frame)', code):
        raise AssertionError(f"{shown}: transcripts go through report.text_for_report")
