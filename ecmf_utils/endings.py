"""Whether a file ends where it says it does; for formats whose decoder does not tell."""

from __future__ import annotations

import struct
from pathlib import Path

LOST_SHARE = 0.02  # of the announced sound that may be missing in a whole file
# share of the announced duration, by format: FLAC counts its samples, encoders of FLV write it from another clock
LOST_TIME = {"flac": LOST_SHARE, "flv": 0.1}
LAST_PACKET_S = 0.3  # the announced duration holds the last packet, whose own length a file need not tell
OPEN_END = 0x7FFF0000  # announced by programs that write to a pipe and do not know the size


def lost_bytes(path: Path | str) -> tuple[int, int] | None:
    """What a WAV file lacks, from its header.

    Returns
    -------
    tuple of int or None
        Bytes of sound that are there and that are announced; None where nothing much is missing, the
        size is left open, or the file is no plain RIFF file.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, announced = struct.unpack("<4sI", head)
            if name == b"data":
                there = size - file.tell()
                lost = 0 < announced < OPEN_END and there < announced * (1 - LOST_SHARE)
                return (there, announced) if lost else None
            file.seek(announced + announced % 2, 1)
    return None


def lost_time(kind: str, end_s: float, announced_s: float | None) -> bool:
    """Whether a file of a format that announces its duration (s) ends well before it."""
    return kind in LOST_TIME and bool(announced_s) and end_s < announced_s * (1 - LOST_TIME[kind]) - LAST_PACKET_S
