"""Find out what the media files of a corpus contain: once for each file, in worker processes.

The results are stored in parts while the work goes on, so that a killed run loses little.
"""

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

VERSION = 3  # of the facts about a file; facts of another version are not used
PART = 256  # clips in a stored part; a killed run loses at most these
FEW_CLIPS = 16  # to start processes takes longer than to probe this many clips
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
        `clip_id`, `video` and, as far as they are known, `audio` (where the sound has a file of its own), `text`,
        `status`, `problem`, `detail`. Rows with status failed are not opened.
    profile : str, optional
        The facts about the files are stored in `data/<profile>/.probe` and used again while size and time stamp of
        the files stay the same. Fingerprints of the sound go to `data/<profile>/fingerprints.parquet`.
    n_workers : int
        Processes; 0 takes as many as there are processors.
    n_probe : int
        Open only a random sample of this many clips; 0 opens all. The others get NaN, no content hash and no
        fingerprint, and their sound is taken to be where the manifest says.
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
        The data folder cannot be written, or a worker was killed. A single clip never raises.
    """
    video, audio = _to_strings(clips, "video"), _to_strings(clips, "audio")
    failed = _to_strings(clips, "status") == "failed"
    can_open = ~failed & pd.notna(video)
    chosen = np.flatnonzero(can_open & _sample(clips, can_open, n_probe, seed))
    keys = [_make_key(video[i], audio[i]) for i in chosen]
    folder = data_dir(profile) if profile else None
    jobs = dict(zip(keys, zip(video[chosen], audio[chosen], strict=True), strict=True))
    facts = _collect_facts(folder, jobs, n_workers, partial=n_probe > 0)
    place = pd.Index(facts.column("key").to_numpy(zero_copy_only=False)).get_indexer(keys)
    facts = facts.take(pa.array(place))
    if folder:
        ids = _to_strings(clips, "clip_id")[chosen]
        table = pa.table({"clip_id": ids, "fingerprint": facts.column("fingerprint")})
        write_parquet(table, folder / "fingerprints.parquet", {"version": sound_prints.VERSION})
    return _fill_columns(clips, chosen, facts.drop_columns(["key", "video", "fingerprint"]).to_pandas())


def read_fingerprints(profile: str) -> pd.Series:
    """The fingerprints of the sound of a profile, bytes by clip_id; empty before its media were probed."""
    path = data_dir(profile) / "fingerprints.parquet"
    if not path.exists():
        return pd.Series([], index=pd.Index([], dtype="str", name="clip_id"), dtype=object, name="fingerprint")
    return read_parquet(path).set_index("clip_id")["fingerprint"]


# ---- which clips to open


def _to_strings(clips: pd.DataFrame, name: str) -> np.ndarray:
    """A column as an array of str and None; all None where there is no such column."""
    if name not in clips:
        return np.full(len(clips), None, object)
    values = clips[name].to_numpy(object)
    return np.array([value if isinstance(value, str) else None for value in values], object)


def _sample(clips: pd.DataFrame, allowed: np.ndarray, n_probe: int, seed: int) -> np.ndarray:
    """bool (N,): a random sample; the rank of a clip comes from its clip_id and the seed alone."""
    if n_probe <= 0 or n_probe >= allowed.sum():
        return allowed
    rank = pd.util.hash_array(clips["clip_id"].to_numpy(object), hash_key=f"{seed:016d}"[-16:], categorize=False)
    rank = np.where(allowed, rank, np.iinfo(np.uint64).max)
    taken = np.zeros(len(clips), bool)
    taken[np.argsort(rank, kind="stable")[:n_probe]] = True
    return taken


def _make_key(video: str, audio: str | None) -> str:
    """A name for the state of a clip's files; it changes when one of them does."""
    parts = [f"{VERSION}.{sound_prints.VERSION}"]
    for path in [video, audio] if _is_apart(video, audio) else [video]:
        # relative inside the project, so that the folder can be moved
        parts += [path.removeprefix(f"{ROOT}{os.sep}"), _read_state(path)]
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _read_state(path: str) -> str:
    """Size and time stamp of a file."""
    for place in (os.path.join(ROOT, path), path):
        try:
            state = os.stat(place)
        except OSError:
            continue
        return f"{state.st_size}.{state.st_mtime_ns}"
    return "missing"


def _is_apart(video: str, audio: str | None) -> bool:
    """Whether the sound has a file of its own."""
    return audio is not None and audio != video


# ---- the facts about all files, stored and new


def _collect_facts(folder: Path | None, jobs: dict[str, tuple], n_workers: int, partial: bool) -> pa.Table:
    """One row of SCHEMA for each key: those that are stored, and the others probed now."""
    stored, paths = _read_stored(folder)
    stored_keys = set(stored.column("key").to_pylist())
    missing = [(key, *job) for key, job in jobs.items() if key not in stored_keys]
    rows = parallel_map(_probe_clip, missing, n_workers if len(missing) > FEW_CLIPS else 1, chunk=8)
    rows, parts = track(rows, len(missing), "media"), [stored]
    while batch := list(islice(rows, PART)):
        parts.append(pa.Table.from_pylist(batch, SCHEMA))
        if folder:
            paths.append(folder / ".probe" / f"{digest([row['key'] for row in batch])}.parquet")
            write_parquet(parts[-1], paths[-1])
    facts = pa.concat_tables(parts)
    if folder and len(paths) > 1 or len(facts) > len(jobs):
        _merge_parts(folder, paths, facts, jobs, partial)
    return facts


def _read_stored(folder: Path | None) -> tuple[pa.Table, list[Path]]:
    """The rows of earlier runs, one for each key, and the files that they are in."""
    paths = sorted(folder.glob(".probe/*.parquet")) if folder else []
    tables = [table for path in paths if (table := _read_part(path)) is not None]
    stored = pa.concat_tables([SCHEMA.empty_table(), *tables])
    keys = pd.Series(stored.column("key").to_numpy(zero_copy_only=False), dtype=object)
    return stored.filter(pa.array(~keys.duplicated(), pa.bool_())), paths


def _read_part(path: Path) -> pa.Table | None:
    try:
        return read_table(path, schema=SCHEMA)
    except EcmfError:  # damaged, or another run has just merged the parts
        return None


def _merge_parts(folder: Path, paths: list[Path], facts: pa.Table, jobs: dict[str, tuple], partial: bool) -> None:
    """Replace the parts by one file, without rows of files that have changed or are no longer named.

    Where only a sample was probed (`partial`), rows of files outside the sample stay.
    """
    kept = pc.is_in(facts.column("key"), pa.array(jobs, pa.string()))
    if partial:
        probed = pa.array([video for video, _ in jobs.values()], pa.string())
        kept = pc.or_(kept, pc.invert(pc.is_in(facts.column("video"), probed)))
    whole = write_parquet(facts.filter(kept), folder / ".probe" / "all.parquet")
    for path in paths:
        if path != whole:
            path.unlink(missing_ok=True)


# ---- the facts about one clip


def _probe_clip(job: tuple[str, str, str | None]) -> dict[str, Any]:
    """One row of SCHEMA: what the files of a clip contain."""
    key, video, audio = job
    row: dict[str, Any] = {"key": key, "video": video, "failed": False, "has_sound": False}
    row |= {"own_sound": False, "fingerprint": b""}
    problems: list[str] = []
    try:
        row |= _probe_video(video, problems)
        if _is_apart(video, audio):
            if reading.resolve(audio).is_file():  # the sound is a part of the content
                row["content_hash"] = digest(row["content_hash"], file_hash(reading.resolve(audio)))
            row |= _hear_apart(video, audio, problems)
        else:
            row |= _hear_video(video, problems)
    except MediaError as error:
        row |= {"failed": True, "detail": error.detail}
        problems.append(error.code)
    except Exception as error:  # one file that a library cannot handle must not end a batch of thousands
        row |= {"failed": True, "detail": f"{show(video)}: {error}"}
        problems.append("unreadable")
    return row | {"problem": ";".join(problems) or None}


def _probe_video(video: str, problems: list[str]) -> dict[str, Any]:
    info = reading.probe(video)
    if not info["has_video"]:
        problems.append("no_video_stream")
    elif info["n_frames"] == 1:
        problems.append("one_frame")
    numbers = {name: info[name] for name in NUMBER_COLUMNS}
    return numbers | {"content_hash": file_hash(reading.resolve(video))}


def _hear_video(video: str, problems: list[str]) -> dict[str, Any]:
    """The sound of the video; without a usable one, only its problem."""
    try:
        return _hear(video, problems)
    except MediaError as error:
        problems.append(error.code)
        return {}


def _hear_apart(video: str, audio: str, problems: list[str]) -> dict[str, Any]:
    """The sound of a file of its own; where that is broken, its problem and the sound of the video."""
    try:
        return _hear(audio, problems)
    except MediaError as error:
        of_video: list[str] = []
        facts = {"detail": error.detail, "own_sound": True} | _hear_video(video, of_video)
        problems += [error.code, *(code for code in of_video if code == "silent_sound")]
        return facts


def _hear(path: str, problems: list[str]) -> dict[str, Any]:
    sound = media.read_audio(path)
    if np.abs(sound).max() < reading.SILENCE:
        problems.append("silent_sound")
    return {"has_sound": True, "fingerprint": sound_prints.fingerprint(sound)}


# ---- the manifest with the facts


def _fill_columns(clips: pd.DataFrame, chosen: np.ndarray, facts: pd.DataFrame) -> pd.DataFrame:
    """The manifest with its media columns, from facts that are in the order of the chosen rows."""
    video, audio, detail = (_to_strings(clips, name) for name in ("video", "audio", "detail"))
    failed = _to_strings(clips, "status") == "failed"
    nameless = pd.isna(video) & ~failed
    columns: dict[str, Any] = {name: np.full(len(clips), np.nan) for name in NUMBER_COLUMNS}
    for name, values in columns.items():
        values[chosen] = facts[name]

    content, problem = np.full((2, len(clips)), None, object)
    content[chosen] = facts["content_hash"].to_numpy(object)
    problem[chosen], problem[nameless] = facts["problem"].to_numpy(object), "missing_file"
    has_detail = facts["detail"].notna().to_numpy()
    detail[chosen[has_detail]] = facts.loc[has_detail, "detail"]
    detail[nameless] = MediaError("missing_file", "(no path)").detail

    sound = np.where(failed, None, np.where(pd.isna(audio) | nameless, video, audio))
    in_video = chosen[facts["own_sound"].to_numpy(bool)]
    sound[in_video] = video[in_video]
    sound[chosen[~facts["has_sound"].to_numpy(bool)]] = None

    failed |= nameless
    failed[chosen] = facts["failed"]
    text = [(text or "").strip() or None for text in _to_strings(clips, "text")]
    strings = {"audio": sound, "content_hash": content, "detail": detail, "text": text}
    strings |= {"status": np.where(failed, "failed", "ok"), "problem": _join_problems(clips, problem, text)}
    columns |= {name: pd.array(list(values), dtype="str") for name, values in strings.items()}
    return clips.drop(columns=[name for name in columns if name in clips]).assign(**columns)


def _join_problems(clips: pd.DataFrame, of_media: Iterable[str | None], text: list[str | None]) -> list[str | None]:
    """The codes of each row: those that it came with, those of its media, and whether the transcript is missing."""
    joined = []
    for own, media_codes, words in zip(_to_strings(clips, "problem"), of_media, text, strict=True):
        codes = [code for code in (own, media_codes) if isinstance(code, str)]
        if not words and "bad_encoding" not in (own or "").split(";"):
            codes.append("empty_text")
        joined.append(";".join(codes) or None)
    return joined
