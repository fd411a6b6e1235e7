"""Text of a file whose encoding is not known: UTF-8, or what is detected and told."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from .findings import Findings, escaped
from .paths import EcmfError, show

SAMPLE_BYTES = 200_000  # enough lines to tell encodings apart
# about a third of any modern Chinese text; Korean and Traditional Chinese bytes do not decode to them
FREQUENT = frozenset(
    "的一是了我不人在他有这个上们来到时大为子中你说着就那和要她出也得里后自以会家可下过天去能对小多然心么"
    "之都好看起没成只事把还用样想吗啊吧呢谁什知道让给真很怎"
)
DAMAGED = "\ufffd"
DAMAGED_SHARE = 0.05  # of the characters beyond ASCII, at most; more is another encoding
NO_FILE = ("punycode", "idna", "unicode-escape", "raw-unicode-escape")  # codecs of domain names and source text
FREQUENT_SHARE = 0.12  # of the hanzi of a Chinese text, at least


def read_text(path: Path, found: Findings | None, encoding: str = "", what: str = "table") -> str:
    """The text of a file, with line ends LF.

    Parameters
    ----------
    found : Findings, optional
        Gets the encoding when it is not UTF-8; without it only UTF-8 is read.
    encoding : str
        Forces one; nothing is detected then.
    what : str
        What the error calls a file that is not there.

    Raises
    ------
    EcmfError
        The file is missing, empty, not text, or not in the encoding; the line is named.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise EcmfError(f"{show(path)}: no such {what}; give an existing CSV file") from None
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be read ({error.strerror}); give a readable CSV file") from None
    if not data:
        raise EcmfError(f"{show(path)}: the file has no bytes; copy it again from its source")
    text = escaped(_decoded(data, path, encoding)) if encoding else _detected(data, path, found)
    if not text.strip():
        raise EcmfError(f"{show(path)}: not a CSV table (there is nothing but blank space in it)")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise EcmfError(
            f"{show(path)}: line {line} has a NUL byte, so this is not a text table; save it as CSV in UTF-8 "
            "(or say encoding=utf-16-le if it is UTF-16)"
        )
    if "\r" in text and "\n" not in text:
        raise EcmfError(
            f"{show(path)}: its lines end in a carriage return alone (old Mac); save it with line ends LF or CRLF"
        )
    return re.sub(r"\r+\n", "\n", text).replace("\r", " ")


def _decoded(data: bytes, path: Path, encoding: str) -> str:
    """The text in a given encoding, or an error that names the first line where it does not fit."""
    check_encoding(encoding)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise EcmfError(
            f"{show(path)}: line {line} is not {encoding.upper()}; save it as UTF-8 or say encoding=NAME (such as "
            "gb18030)"
        ) from None


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that Python does not know, or that no text file has."""
    try:
        "".encode(encoding)
        known = codecs.lookup(encoding).name.replace("_", "-") not in NO_FILE
    except (LookupError, ValueError):
        known = False
    if not known:
        examples = "utf-8, gb18030, big5, shift-jis"
        raise EcmfError(f"unknown encoding: encoding {encoding!r} is not known; expected a name such as {examples}")


def _detected(data: bytes, path: Path, found: Findings | None) -> str:
    """UTF-8, or what the bytes look like, which is told with a sample."""
    try:
        return _decoded(data, path, "utf-8")
    except EcmfError:
        if found is None:
            raise
        if text := _almost_utf8(data, path, found):
            return text
        if (guess := _guess(data)) is None:
            raise
    text = _decoded(data, path, guess)
    lines = enumerate(text.split("\n"), 1)
    line, sample = next(((i, line) for i, line in lines if not line.isascii()), (1, ""))
    advice = f"not UTF-8, read as {guess}; if the transcripts look wrong, say encoding=NAME"
    found.add("encoding", path, advice, row=line, quote=sample)
    return text


def _almost_utf8(data: bytes, path: Path, found: Findings) -> str:
    """The text where only a few characters are damaged, each line of which is told; empty otherwise."""
    text = data.decode("utf-8-sig", "replace")
    if text.count(DAMAGED) > DAMAGED_SHARE * sum(not char.isascii() for char in text):
        return ""
    for number, line in enumerate(text.split("\n"), 1):
        if DAMAGED in line:
            found.add("bad_encoding", path, f"bytes that are not UTF-8, shown as {DAMAGED}", row=number, quote=line)
    return text


def _guess(data: bytes) -> str | None:
    """The encoding that bytes look like, None when none fits all of them."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    from charset_normalizer import from_bytes

    odd = b"\n".join(line for line in data.split(b"\n") if not line.isascii())
    odd = odd if len(odd) <= SAMPLE_BYTES else odd[: odd.rindex(b"\n", 0, SAMPLE_BYTES)]
    best = from_bytes(odd).best()
    guesses = ["gb18030"] if _is_chinese(odd) else [best.encoding] if best else []
    guesses = ["gb18030" if guess in ("gb2312", "gbk", "hz") else guess for guess in guesses]
    return next((guess for guess in guesses if _fits(data, guess)), None)


def _is_chinese(data: bytes) -> bool:
    """Whether bytes read as GB18030 give the characters that Chinese text is made of."""
    if not _fits(data, "gb18030"):
        return False
    hanzi = [char for char in data.decode("gb18030") if "\u3400" <= char <= "\u9fff"]
    return len(hanzi) >= 4 and sum(char in FREQUENT for char in hanzi) >= FREQUENT_SHARE * len(hanzi)


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True
