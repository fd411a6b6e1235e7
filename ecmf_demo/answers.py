"""Recorded answers of a language model about every sentence that a generated corpus can contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_answers() -> dict[str, dict[str, Any]]:
    """The recorded answers by sentence; the first line of the file says how they were made."""
    path = Path(__file__).parent / "data/enriched.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return {row["sentence"]: row for row in map(json.loads, lines)}
