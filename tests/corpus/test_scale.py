"""As many rows as the largest corpus of the field has: checked, folded and searched for leaks in little memory."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import corpus
from ecmf_utils.corpus import leakage, manifest, probing
from ecmf_utils.corpus.sound_prints import find_near_duplicates
from tests import miniatures

N, N_TRAIN, N_TEST = 132_171, 7_369, 2_026
LABELS = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
SAME = 500  # files that are there three times
REPEATED = 1_000  # transcripts of training clips that unlabelled clips have too
COPIES = 2_000  # re-encoded copies of other clips, by their made-up fingerprints
LIMIT_MIB = 2048
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_a_corpus_of_132171_clips_stays_under_two_gib(home, clip, capsys):
    env = os.environ | {"ECMF_DATA": str(home / "data")}
    command = [sys.executable, "-m", "tests.corpus.test_scale", str(clip)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        steps = ", ".join(f"{name} {seconds}" for name, seconds in told["seconds"].items())
        print(f"\n{N:,} clips, seconds: {steps}, in all {sum(told['seconds'].values()):.1f}; {told['peak_mib']} MiB")
    assert told["peak_mib"] < LIMIT_MIB
    assert told["clips"] == N and told["folds"] == N_TRAIN
    assert told["copies_found"] > 0.99 * COPIES and told["false_pairs"] == 0
    assert told["clusters"]["content"] == SAME and told["clusters"]["transcript"] == REPEATED
    assert told["content_across_folds"] > 0 and told["content_across_folds_after_merging"] == 0


@pytest.mark.slow
def test_a_folder_of_132171_clips_is_read_and_explored_from_a_stated_sample(home, tmp_path, capsys):
    """MER2025's layout with as many names, all hard links to a few clips, of which 400 are opened."""
    source = mer2025(tmp_path / "MER2025")
    env = os.environ | {"ECMF_DATA": str(home / "data"), "ECMF_REPORTS": str(home / "reports")}
    took, peak = {}, {}
    for name, sets in (("00_start_here", [f"source={source}", "n_probe=400"]), ("10_explore_corpus", ["n_sample=400"])):
        words = ["run", name, "--profile", "mer2025", *(f"--set={text}" for text in sets)]
        done = subprocess.run(
            [sys.executable, "-m", "ecmf_workflow.cli", *words], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        record = json.loads((home / "reports" / "mer2025" / "runs" / name / "run.json").read_text())
        took[name], peak[name] = record["seconds"], record["peak_memory_mb"]
    with capsys.disabled():
        print(f"\n{N:,} clips, seconds {took}, MiB {peak}")
    assert max(peak.values()) < LIMIT_MIB
    page = (home / "reports" / "mer2025" / "10_explore_corpus.html").read_text(encoding="utf-8")
    assert f"{N:,}" in page and "400" in page  # the sample is stated where its figures stand
    facts = json.loads((home / "data" / "mer2025" / "corpus.json").read_text())
    assert facts["probed"] == 400 and facts["untrained"] == ""


def mer2025(folder):
    stock = miniatures.cheap_clips(folder.parent / "stock", 6)
    (folder / "video").mkdir(parents=True)
    names = [f"sample_{i:08d}" for i in range(N)]
    for i, name in enumerate(names):
        os.link(stock[i % len(stock)], folder / "video" / f"{name}.mp4")
    rng = np.random.default_rng(0)
    labels = rng.choice(LABELS, N_TRAIN)
    rows = [f"{name},{label},0.1" for name, label in zip(names[:N_TRAIN], labels, strict=True)]
    write(folder / "track1_train_disdim.csv", "name,discrete,valence", rows)
    write(folder / "track_all_candidates.csv", "name", names[N_TRAIN : N_TRAIN + 20_000])
    words = [f"{name},第{i}句话说得很清楚,Sentence {i} is said clearly" for i, name in enumerate(names)]
    write(folder / "subtitle_chieng.csv", "name,chinese,english", words)
    return folder


def write(path, head, rows):
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def made_up_manifest(seed=0):
    """Rows with names, labels, splits, groups and words; media facts for a sample only."""
    rng = np.random.default_rng(seed)
    number = np.arange(N)
    split = np.where(number < N_TRAIN, "train", np.where(number < N_TRAIN + N_TEST, "test", "unlabelled"))
    label = np.where(number < N_TRAIN + N_TEST, rng.choice(LABELS, N), None)
    characters = np.array([chr(0x4E00 + i) for i in range(2000)])
    text = ["".join(row) for row in rng.choice(characters, (N, 14))]
    text[-REPEATED:] = [f"{words}！" for words in text[:REPEATED]]
    rows = pd.DataFrame({"clip_id": [f"sample_{i:08d}" for i in number], "label": label, "split": split, "text": text})
    rows["text_en"] = [f"Sentence {i} of the made-up corpus, with a few words more." for i in number]
    rows["group"] = [f"source_{i:05d}" for i in rng.integers(0, 4400, N)]
    return rows.assign(speaker=rows["group"], language="zh")


def sampled(rows):
    """Media facts for a sample, whose files lie about: one twice in the training split and once elsewhere."""
    facts = pd.DataFrame(index=rows.index, columns=manifest.NUMBER_COLUMNS, dtype=float)
    content = np.full(N, None, object)
    for places in (np.arange(SAME), np.arange(SAME, 2 * SAME), np.arange(N - SAME, N)):
        facts.iloc[places] = [3.0, 640, 360, 25, 75, 16000]
        content[places] = [f"{i:016x}" for i in range(SAME)]
    return rows.join(facts).assign(content_hash=content, status="ok", problem=None)


def made_up_prints(ids, seed=0, moments=90):
    """Fingerprints whose bits wander, as those of speech do; the last ones are worn copies of the first."""
    rng = np.random.default_rng(seed)
    made = np.empty((N, moments), np.uint32)
    made[:, 0] = rng.integers(0, 2**32, N, dtype=np.uint32)
    for t in range(1, moments):
        made[:, t] = made[:, t - 1] ^ _few_bits(rng, N, 3)
    prints = [row.tobytes() for row in made[:-COPIES]]
    for row in made[:COPIES]:
        cut = int(rng.integers(0, 10))
        prints.append((row[cut:] ^ _few_bits(rng, moments - cut, 4)).tobytes())
    return pd.Series(prints, index=ids)


def _few_bits(rng, n, halvings):
    """Each bit set with probability 2 ** -halvings."""
    bits = rng.integers(0, 2**32, n, dtype=np.uint32)
    for _ in range(halvings - 1):
        bits &= rng.integers(0, 2**32, n, dtype=np.uint32)
    return bits


def peak_mib():
    """The most memory this process has had; its own, not that of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("the kernel does not tell the peak of memory")


def main(clip):
    """Every step over the whole manifest; the last line of the output is JSON."""
    seconds = {}

    @contextmanager
    def timed(name):
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 1)

    rows = sampled(made_up_manifest())
    with timed("probe"):  # one file under all names: the bookkeeping alone
        probing.probe_all(rows[["clip_id", "text"]].assign(video=clip), profile="p", n_workers=1)
    with timed("save"):
        clips = manifest.save_clips(
            "p", rows.assign(video=[f"/nowhere/{name}.mp4" for name in rows["clip_id"]]), LABELS
        )
    with timed("read"):
        clips = corpus.read_clips("p")
    with timed("folds"):
        folds = manifest.make_folds(clips, 5)
    prints = made_up_prints(clips["clip_id"].to_numpy(object))
    with timed("near duplicates"):
        pairs = find_near_duplicates(prints)
    with timed("leakage"):
        shared = leakage.find_leaks(clips, folds, prints)
    with timed("summary"):
        counts = corpus.summarise_leaks(shared).set_index("kind")
    with timed("merge"):
        merged, _ = leakage.merge_groups(clips, ["content"])
    after = corpus.summarise_leaks(leakage.find_leaks(merged, manifest.make_folds(merged, 5))).set_index("kind")
    ids = clips["clip_id"].to_numpy(object)
    true = set(zip(ids[:COPIES], ids[-COPIES:], strict=True))
    found = set(zip(pairs["a"], pairs["b"], strict=True))
    told = {"clips": len(clips), "folds": len(folds), "clusters": counts["clusters"].to_dict()}
    told |= {"copies_found": len(found & true), "false_pairs": len(found - true)}
    told["content_across_folds"] = int(counts.loc["content", "across folds"])
    told["content_across_folds_after_merging"] = int(after.loc["content", "across folds"])
    print(json.dumps(told | {"seconds": seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(sys.argv[1])
