"""Every bad input with the one line it gives: a table to read, and the proof that it is true."""

import errno
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ecmf_utils import corpus, files, media
from ecmf_utils.corpus import probing
from ecmf_utils.corpus.readers import own
from ecmf_utils.features import feature_files
from ecmf_utils.files import EcmfError
from ecmf_utils.media import writing
from ecmf_workflow import cli
from tests.conftest import build

LABELS = ["neutral", "angry", "happy"]

# what the user typed | the line on standard error (exit status 2, no traceback, no kernel started)
COMMANDS = {
    "reproduce nosuch": r"profile 'nosuch'.*demo.*tiny",
    "run 99 --profile tiny": r"notebook '?99'?.*00_start_here",
    "run 00 --profile nosuch": r"profile 'nosuch'.*demo.*tiny",
    "run 22 --profile tiny --set n_frame=3": r"n_frame.*n_frames",
    "run 22 --profile tiny --set n_frames=many": r"n_frames is int, which 'many' is not",
    "run 22 --profile tiny --set level=word": r"level is .*utterance.*which 'word' is not",
    "run 50 --profile tiny --set lr=fast": r"lr is float > 0, which 'fast' is not",
    "run 50 --profile tiny --set n_seeds=0": r"n_seeds is int >= 1, which '0' is not",
    "run 50 --profile tiny --set without=dropout": r"without is .*'residual', .*which 'dropout' is not",
    "run 53 --profile tiny --set official_epochs=-1": r"official_epochs is int >= 0, which '-1' is not",
    "reproduce folder --set source=/no/such/folder": r"/no/such/folder",
    "reproduce folder": r"source",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_gives_one_line(command, home, capfd):
    assert cli.main(command.split()) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(COMMANDS[command], lines[0]), lines


# the manifest file | the line that refuses it
MANIFESTS = {
    b"": r"manifest\.csv: the file has no bytes",
    b"name,file\na,a.mp4\n": r"manifest\.csv: .*clip_id.*name, file",
    b"clip_id,video,label\n": r"manifest\.csv: there is no row below the header",
    "clip_id,video,text\na,a.mp4,gr\xfc\xdf\n".encode("latin-1"): r"manifest\.csv.*not UTF-8",
}


@pytest.mark.parametrize("content", MANIFESTS)
def test_an_unreadable_manifest_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(EcmfError, match=MANIFESTS[content]) as caught:
        own.read_manifest(path)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_is_refused_in_one_line(tmp_path):
    with pytest.raises(EcmfError, match=r"gone\.csv: no such manifest"):
        own.read_manifest(tmp_path / "gone.csv")


# a row of the manifest | the code in the problem table; the other rows go on
ROWS = {
    "a,good.mp4,Hello.,happy": "duplicate_id",
    "x/y,good.mp4,Hello.,happy": "bad_id",
    "..\\z,good.mp4,Hello.,happy": "bad_id",
    ",good.mp4,Hello.,happy": "bad_id",
    "b,good.mp4,Hello.,bored": "unknown_label",
    "b,gone.mp4,Hello.,happy": "missing_file",
    "b,,Hello.,happy": "missing_file",
    "b,empty.mp4,Hello.,happy": "empty_file",
    "b,page.mp4,Hello.,happy": "not_media",
    "b,half.mp4,Hello.,happy": "truncated|unreadable",
    "b,mute.mp4,Hello.,happy": "no_sound_stream",
    "b,sound.mp4,Hello.,happy": "no_video_stream",
    "b,one.mp4,Hello.,happy": "one_frame",
    "b,good.mp4,,happy": "empty_text",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clip):
    """A folder with one clip for each way in which a file can be wrong."""
    from tests.conftest import make_clip

    place = tmp_path_factory.mktemp("wrong")
    shutil.copy(clip, place / "good.mp4")
    (place / "empty.mp4").write_bytes(b"")
    (place / "page.mp4").write_text("<html><body>404 not found</body></html>")
    (place / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    make_clip(place / "mute.mp4", sound=False)
    make_clip(place / "one.mp4", seconds=1 / 12)
    import numpy as np

    writing.write_clip(place / "sound.mp4", [], 12, np.zeros(16000, np.float32) + 0.1, 16000)
    return place


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_row_is_in_the_problem_table_and_the_others_go_on(row, folder, home):
    path = folder / "manifest.csv"
    path.write_text(f"clip_id,video,text,label\na,good.mp4,Hello.,happy\n{row}\nlast,good.mp4,Bye.,angry\n")
    clips = build(manifest=path, labels=LABELS).clips
    assert len(clips) == 3 and list(clips["status"])[::2] == ["ok", "ok"]
    assert re.search(ROWS[row], clips["problem"][1])
    assert {code for code in clips["problem"][1].split(";")} <= set(media.PROBLEMS)


def test_a_transcript_in_a_wrong_encoding_is_a_problem_of_its_clip_only(folder, tmp_path, home):
    for name in ("a", "b"):
        shutil.copy(folder / "good.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "a.txt").write_bytes("gr\xfc\xdf dich".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("grüß dich".encode())
    clips = probing.probe_all(own.scan_folder(tmp_path), n_workers=1).set_index("clip_id")
    assert clips.loc["a", "problem"] == "bad_encoding" and clips.loc["b", "text"] == "grüß dich"


def test_a_clip_without_a_face_has_no_face_branch(folder):
    from ecmf_utils.media import faces

    rows, crops = faces.detect_in_clip(folder / "good.mp4")
    assert [row["problem"] for row in rows] == ["no_face"] and len(crops) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_leaves_the_old_file_whole(code, home, monkeypatch):
    table = pd.DataFrame({"a": [1]})
    path = files.write_parquet(table, files.data_dir("p") / "t.parquet")

    def refuse(*_):
        raise OSError(code, "No space left on device" if code == errno.ENOSPC else "Read-only file system")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(EcmfError, match=r"t\.parquet: cannot be written .*run the same command again"):
        files.write_parquet(pd.DataFrame({"a": [2]}), path)
    monkeypatch.undo()
    monkeypatch.setenv("ECMF_DATA", str(home / "data"))
    assert list(files.read_parquet(path)["a"]) == [1]
    assert [p.name for p in Path(path).parent.iterdir()] == ["t.parquet"]


def write_features(path, table, vectors):
    recipe = {"level": "utterance", "name": "a test"}
    names = [name for name in feature_files.make_schema(4, recipe).names if name != "vector"]
    keys = pa.table({name: table.get(name, pd.Series([None] * len(table))) for name in names})
    keys = keys.cast(pa.schema([field for field in feature_files.make_schema(4, recipe) if field.name in names]))
    header = {"recipe": recipe, "recipe_hash": "h", "dim": 4}
    feature_files.write_file(path, header, keys, np.ones(len(table), int), vectors.__getitem__)


def read_features(path):
    file = feature_files.FeatureFile(path, ("clip_id", "detail"))
    vectors = [rows for batch in range(len(file.batch_lengths)) for rows in file.read_vectors(batch)]
    return file.keys.to_pydict() | {"x": np.concatenate(vectors)[:, 0]}


@pytest.mark.parametrize("kind", ["table", "features"])
def test_no_damage_to_a_table_is_read_as_if_nothing_had_happened(home, monkeypatch, kind):
    """Bytes changed or missing anywhere: the very same rows, or one clear line."""
    path, rng = files.data_dir("p") / ("t.parquet" if kind == "table" else "t.arrow"), np.random.default_rng(0)
    table = pd.DataFrame({"clip_id": [f"c{i}" for i in range(50)], "status": "ok", "x": rng.random(50)})
    if kind == "table":
        files.write_parquet(table, path, {"made_by": "a test"})
    else:
        table = table.astype({"x": "float32"}).assign(detail=[f"line {i}" for i in range(50)])
        monkeypatch.setattr(feature_files, "BATCH_BYTES", 300)  # several batches
        write_features(path, table, [np.full((1, 4), x, np.float32) for x in table["x"]])
    raw, damaged = path.read_bytes(), 0
    for turn in range(200 if kind == "table" else 1000):
        at, changed = int(rng.integers(len(raw))), bytearray(raw)
        changed[at : at + 4] = rng.integers(256, size=len(changed[at : at + 4]), dtype=np.uint8).tobytes()
        path.unlink()  # a file that is mapped must not shrink
        path.write_bytes(raw[:at] if turn % 3 == 0 else bytes(changed))
        try:
            found = files.read_parquet(path) if kind == "table" else read_features(path)
        except EcmfError as error:
            assert re.search(r"t\.(parquet|arrow): .*(delete it and run again|damaged \(.*\); delete it)", str(error))
            damaged += 1
            continue
        assert all(list(found[name]) == list(table[name]) for name in {"clip_id", "x", "detail"} & {*table.columns})
    assert damaged > 100


def test_a_table_cut_short_says_which_file_and_what_to_do(home):
    path = files.data_dir("p") / "clips.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(EcmfError, match=r"clips\.parquet: not a Parquet file .*delete it and run again"):
        corpus.read_clips("p")
