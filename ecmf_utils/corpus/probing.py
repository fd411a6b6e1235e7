"""What the media of a corpus hold: looked at in worker processes, kept in parts that survive a kill."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ecmf_utils import media
from ecmf_utils.files import ROOT, EcmfError, data_dir, digest, file_hash, read_parquet, read_table, show, write_parquet
from ecmf_utils.media import reading
from ecmf_utils.media.reading import MediaError
from ecmf_utils.parallel import parallel_map
from ecmf_utils.progress import track

from . import sound_prints
from .manifest import NUMBER_COLUMNS

VERSION = 3  # of what is found out about a file; older results are not used
PART = 256  # clips in a part: what a kill may cost
FEW_CLIPS = 16  # starting processes takes longer than this many clips
SCHEMA = pa.schema(
    [("key", pa.string()), ("video", pa.string())]
    + [(name, pa.float64()) for name in NUMBER_COLUMNS]
    + [(name, pa.string()) for name in ("content_hash", "problem", "detail")]
    + [("failed", pa.bool_()), ("has_sound", pa.bool_()), ("own_sound", pa.bool_()), ("fingerprint", pa.binary())]
)


def probe_all(
    clips: pd.DataFrame, *, profile: str | None = None, n_workers: int = 0, n_probe: int = 0, seed: int = 0
) -> pd.DataFrame:
    """Fill the media columns of a manifest from the files; `status` and `problem` say what is wrong with a clip.

    Parameters
    ----------
    clips : DataFrame
        `clip_id`, `video` and, as far as known, `audio` (sound in a file of its own), `text`, `status`,
        `problem`, `detail`. Rows that failed already are left alone.
    profile : str, optional
        What is found goes to `data/<profile>/.probe` and is used again as long as size and time stamp of the
        files are the same; fingerprints of the sound go to `data/<profile>/fingerprints.parquet`.
    n_workers : int
        Processes; 0: as many as there are processors.
    n_probe : int
        Look at a random sample of that many clips only, 0: at all. The others keep NaN, no content hash and no
        fingerprint; their sound is taken to be where the manifest says.
    seed : int
        Of the sample.

    Returns
    -------
    DataFrame
        The other columns as they were, then the media columns, `audio` (null without a usable stream),
        `content_hash`, `detail`, `text` (null when blank), `status`, `problem`.

    Raises
    ------
    EcmfError
        The data folder cannot be written, or a worker was killed. Nothing raises for a single clip.
    """
    video, audio = _strings(clips, "video"), _strings(clips, "audio")
    failed = _strings(clips, "status") == "failed"
    named = ~failed & pd.notna(video)
    chosen = np.flatnonzero(named & _sample(clips, named, n_probe, seed))
    keys = [_key(video[i], audio[i]) for i in chosen]
    folder = data_dir(profile) if profile else None
    jobs = dict(zip(keys, zip(video[chosen], audio[chosen], strict=True), strict=True))
    facts = _facts(folder, jobs, n_workers, partial=n_probe > 0)
    place = pd.Index(facts.column("key").to_numpy(zero_copy_only=False)).get_indexer(keys)
    facts = facts.take(pa.array(place))
    if folder:
        table = pa.table({"clip_id": _strings(clips, "clip_id")[chosen], "fingerprint": facts.column("fingerprint")})
        write_parquet(table, folder / "fingerprints.parquet", {"version": sound_prints.VERSION})
    return _filled(clips, chosen, facts.drop_columns(["key", "video", "fingerprint"]).to_pandas())


def read_fingerprints(profile: str) -> pd.Series:
    """The fingerprints of a profile's sound, bytes by clip_id; none before its media were probed."""
    path = data_dir(profile) / "fingerprints.parquet"
    if not path.exists():
        return pd.Series([], index=pd.Index([], dtype="str", name="clip_id"), dtype=object, name="fingerprint")
    return read_parquet(path).set_index("clip_id")["fingerprint"]


# ---- one clip


def _look(job: tuple[str, str, str | None]) -> dict[str, Any]:
    """Everything that the files of a clip tell."""
    key, video, audio = job
    made: dict[str, Any] = {"key": key, "video": video, "failed": False, "has_sound": False}
    made |= {"own_sound": False, "fingerprint": b""}
    problems: list[str] = []
    try:
        made |= _picture_facts(video, problems)
        made |= _sound_facts(made["content_hash"], audio) if _apart(video, audio) else {}
        made |= _heard_apart(video, audio, problems) if _apart(video, audio) else _heard(video, problems)
    except MediaError as error:
        made |= {"failed": True, "detail": error.detail}
        problems.append(error.code)
    except Exception as error:  # one file that a library chokes on must not end a batch of thousands
        made |= {"failed": True, "detail": f"{show(video)}: {error}"}
        problems.append("unreadable")
    return made | {"problem": ";".join(problems) or None}


def _apart(video: str, audio: str | None) -> bool:
    return audio is not None and audio != video


def _picture_facts(video: str, problems: list[str]) -> dict[str, Any]:
    info = reading.probe(video)
    if not info["has_video"]:
        problems.append("no_video_stream")
    elif info["n_frames"] == 1:
        problems.append("one_frame")
    numbers = {name: info[name] for name in NUMBER_COLUMNS}
    return numbers | {"content_hash": file_hash(reading.resolve(video))}


def _sound_facts(content_hash: str, audio: str) -> dict[str, Any]:
    """The sound has a file of its own, which is part of the content."""
    if not reading.resolve(audio).is_file():
        return {}
    return {"content_hash": digest(content_hash, file_hash(reading.resolve(audio)))}


def _heard(path: str, problems: list[str]) -> dict[str, Any]:
    try:
        return _sound(path, problems)
    except MediaError as error:
        problems.append(error.code)
        return {}


def _heard_apart(video: str, audio: str, problems: list[str]) -> dict[str, Any]:
    """The sound of a file of its own; where that is broken it is named, and the video's own sound is used."""
    try:
        return _sound(audio, problems)
    except MediaError as error:
        own: list[str] = []
        heard = {"detail": error.detail, "own_sound": True} | _heard(video, own)
        problems += [error.code, *(code for code in own if code == "silent_sound")]
        return heard


def _sound(path: str, problems: list[str]) -> dict[str, Any]:
    sound = media.read_audio(path)
    if np.abs(sound).max() < reading.SILENCE:
        problems.append("silent_sound")
    return {"has_sound": True, "fingerprint": sound_prints.fingerprint(sound)}


# ---- all clips


def _facts(folder: Path | None, jobs: dict[str, tuple], n_workers: int, partial: bool) -> pa.Table:
    """One row of SCHEMA for each key: what is stored, and the rest looked at now."""
    stored, files = _stored(folder)
    known = set(stored.column("key").to_pylist())
    todo = [(key, *job) for key, job in jobs.items() if key not in known]
    looks = parallel_map(_look, todo, n_workers if len(todo) > FEW_CLIPS else 1, chunk=8)
    looks, parts = track(looks, len(todo), "media"), [stored]
    while batch := list(islice(looks, PART)):
        parts.append(pa.Table.from_pylist(batch, SCHEMA))
        if folder:
            files.append(folder / ".probe" / f"{digest([made['key'] for made in batch])}.parquet")
            write_parquet(parts[-1], files[-1])
    facts = pa.concat_tables(parts)
    if folder and len(files) > 1 or len(facts) > len(jobs):
        _compact(folder, files, facts, jobs, partial)
    return facts


def _stored(folder: Path | None) -> tuple[pa.Table, list[Path]]:
    """The rows found earlier, one of each key, and the files they are in."""
    files = sorted(folder.glob(".probe/*.parquet")) if folder else []
    tables = [table for path in files if (table := _read(path)) is not None]
    stored = pa.concat_tables([SCHEMA.empty_table(), *tables])
    keys = pd.Series(stored.column("key").to_numpy(zero_copy_only=False), dtype=object)
    return stored.filter(pa.array(~keys.duplicated(), pa.bool_())), files


def _read(path: Path) -> pa.Table | None:
    try:
        return read_table(path, schema=SCHEMA)
    except EcmfError:  # damaged, or another run has just tidied up
        return None


def _compact(folder: Path, files: list[Path], facts: pa.Table, jobs: dict[str, tuple], partial: bool) -> None:
    """One file instead of the parts, without rows of files that have changed (or, probing all, are not named)."""
    kept = pc.is_in(facts.column("key"), pa.array(jobs, pa.string()))
    if partial:
        looked_at = pa.array([video for video, _ in jobs.values()], pa.string())
        kept = pc.or_(kept, pc.invert(pc.is_in(facts.column("video"), looked_at)))
    whole = write_parquet(facts.filter(kept), folder / ".probe" / "all.parquet")
    for path in files:
        if path != whole:
            path.unlink(missing_ok=True)


def _filled(clips: pd.DataFrame, chosen: np.ndarray, facts: pd.DataFrame) -> pd.DataFrame:
    """The manifest with its columns of facts, which are in the order of the chosen rows."""
    video, audio, detail = (_strings(clips, name) for name in ("video", "audio", "detail"))
    failed = _strings(clips, "status") == "failed"
    nameless = pd.isna(video) & ~failed
    content, problem = np.full((2, len(clips)), None, object)
    columns: dict[str, Any] = {name: np.full(len(clips), np.nan) for name in NUMBER_COLUMNS}
    for name, values in columns.items():
        values[chosen] = facts[name]
    told = facts["detail"].notna().to_numpy()
    detail[chosen[told]], detail[nameless] = facts.loc[told, "detail"], MediaError("missing_file", "(no path)").detail
    problem[chosen], problem[nameless] = facts["problem"].to_numpy(object), "missing_file"
    content[chosen] = facts["content_hash"].to_numpy(object)
    sound = np.where(failed, None, np.where(pd.isna(audio) | nameless, video, audio))
    own = chosen[facts["own_sound"].to_numpy(bool)]
    sound[own] = video[own]
    sound[chosen[~facts["has_sound"].to_numpy(bool)]] = None
    failed |= nameless
    failed[chosen] = facts["failed"]
    text = [(text or "").strip() or None for text in _strings(clips, "text")]
    made = {"audio": sound, "content_hash": content, "detail": detail, "text": text}
    made |= {"status": np.where(failed, "failed", "ok"), "problem": _problems(clips, problem, text)}
    columns |= {name: pd.array(list(values), dtype="str") for name, values in made.items()}
    return clips.drop(columns=[name for name in columns if name in clips]).assign(**columns)


def _problems(clips: pd.DataFrame, of_media: Iterable[str | None], text: list[str | None]) -> list[str | None]:
    """Codes of each row: those it came with, those of its media, and whether the transcript is missing."""
    joined = []
    for own, found, words in zip(_strings(clips, "problem"), of_media, text, strict=True):
        codes = [code for code in (own, found) if isinstance(code, str)]
        if not words and "bad_encoding" not in (own or "").split(";"):
            codes.append("empty_text")
        joined.append(";".join(codes) or None)
    return joined


def _strings(clips: pd.DataFrame, name: str) -> np.ndarray:
    """A column as an array of str and None; all None where there is no such column."""
    if name not in clips:
        return np.full(len(clips), None, object)
    values = clips[name].to_numpy(object)
    return np.array([value if isinstance(value, str) else None for value in values], object)


def _sample(clips: pd.DataFrame, allowed: np.ndarray, n_probe: int, seed: int) -> np.ndarray:
    """bool (N,): a random sample that stays the same for a clip whatever other clips there are."""
    if n_probe <= 0 or n_probe >= allowed.sum():
        return allowed
    rank = pd.util.hash_array(clips["clip_id"].to_numpy(object), hash_key=f"{seed:016d}"[-16:], categorize=False)
    rank = np.where(allowed, rank, np.iinfo(np.uint64).max)
    taken = np.zeros(len(clips), bool)
    taken[np.argsort(rank, kind="stable")[:n_probe]] = True
    return taken


def _key(video: str, audio: str | None) -> str:
    """Names the state of a clip's files; another one when either was changed."""
    files = [video, audio] if _apart(video, audio) else [video]
    parts = [f"{VERSION}.{sound_prints.VERSION}"]
    for path in files:  # relative inside the project, so that the folder can be moved
        parts += [path.removeprefix(f"{ROOT}{os.sep}"), _state(path)]
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _state(path: str) -> str:
    for place in (os.path.join(ROOT, path), path):
        try:
            found = os.stat(place)
        except OSError:
            continue
        return f"{found.st_size}.{found.st_mtime_ns}"
    return "missing"
