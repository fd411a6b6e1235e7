"""Reports: self-contained, nothing from data is taken as HTML, and the figures are checked."""

import html
import json
import os
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from scipy.stats import ttest_1samp

from ecmf_utils import media
from ecmf_utils.features import store
from ecmf_utils.files import EcmfError, data_dir, read_json, reports_dir, write_json, write_parquet
from ecmf_utils.models import registry
from ecmf_utils.notebook import steps
from ecmf_utils.scores import KEYS
from ecmf_workflow import cli, results
from ecmf_workflow.pages import index, markup, page as pages_page, scoreboard
from ecmf_workflow.pages.page import to_html
from tests.browser import needs_chromium, visit

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
INSIDE = r"data:|#|(?:\.\./[\w-]+/)?[\w.-]+\.(?:html|json)\b"
OUTSIDE = re.compile(rf"""<\w[^>]*\s(?:src|href)\s*=\s*["']?(?!{INSIDE})[^"'\s>]+|url\(|https?:""")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ISSUE_KEYS = {"profile", "commit", "seconds", "clips", "notebooks", "scores"}


def outside(html):
    """Whatever a page would load or link that is not inside it or beside it."""
    return OUTSIDE.findall(html)


def shown(data, metadata=None):
    return new_output("display_data", data=data, metadata=metadata or {})


def code(source, *outputs, tags=()):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def notebook(*extra):
    """An executed notebook with parameters, a figure and whatever a test adds."""
    figure = shown({"image/png": PNG}, {"image/png": {"alt": "Bars", "width": 80}})
    return new_notebook(
        cells=[
            new_markdown_cell("# Explore the corpus\n\nWhat is in it?"),
            code('profile: str = "tiny"  # which\nseed: int = 0  # draws', tags=["parameters"]),
            code('profile = "demo"\nseed = 7', tags=["injected-parameters"]),
            new_markdown_cell("## Is it balanced?"),
            code("plots.class_balance(clips)", figure),
            new_markdown_cell("## Is it long?"),
            code("assert secret_check", tags=["check", "remove-cell"]),
            *extra,
        ]
    )


def publish(home, *extra, name="10_explore_corpus", profile="demo", **settings):
    """Write the notebook as if run and return its page."""
    executed = reports_dir(profile) / "runs" / name / "executed.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(*extra), executed)
    page = reports_dir(profile) / f"{name}.html"
    return to_html(executed, page, profile, **settings).read_text(encoding="utf-8")


def record(name, profile="demo", **changes):
    run = {
        "notebook": name,
        "profile": profile,
        "parameters": {"seed": 0, "note": EVIL},
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.34,
        "peak_memory_mb": 321.0,
        "device": "cpu",
        "commit": "0123456789abcdef",
        "versions": {"python": "3.11"},
        "status": "ok",
        "error": None,
        "inputs": {},
        "html": f"{name}.html",
    }
    write_json(reports_dir(profile) / "runs" / name / "run.json", run | changes)


def corpus(profile="demo", labelled=True):
    clips = pd.DataFrame(
        {
            "clip_id": ["a", "b", EVIL, "d"],
            "label": ["sad", "happy", "sad", None] if labelled else [None] * 4,
            "split": ["train", "train", "test", "unlabelled"],
            "status": ["ok", "ok", "failed", "ok"],
            "problem": [None, "silent_sound", "truncated;no_sound_stream", None],
            "detail": [None, None, EVIL, None],
        }
    )
    write_parquet(clips, data_dir(profile) / "clips.parquet")


def score(model="ecmf", f1=0.7, branches=("face", "text"), labels="refined", **changes):
    row = {
        "model": model,
        "branches": list(branches),
        "labels": labels,
        "split": "test",
        "n": 100,
        "seeds": 3,
        "weighted_f1": f1,
        "ci95": [f1 - 0.05, f1 + 0.05],
        "accuracy": f1,
        "macro_f1": f1,
        "scored_on": "truth",
        "ece": 0.1,
    }
    return row | changes


def scores(*rows, profile="demo"):
    write_json(data_dir(profile) / "runs" / "scores.json", list(rows))


# ---- pages


def test_page_refers_to_nothing_outside(home):
    link = new_markdown_cell("[paper](https://arxiv.org/abs/2508.05991) ![x](http://a.example/x.png)")
    html = shown({"text/html": '<img src="http://a.example/x.png"><p style="background:url(//x)">p'})
    page = publish(home, link, code("1", html, shown({"text/markdown": "![y](http://b.example/y.png)"})))
    assert outside(page) == []
    assert "arxiv.org/abs/2508.05991" in page


@pytest.mark.parametrize("mime", ["text/html", "text/markdown", "text/plain", "text/latex"])
def test_script_in_an_output_never_runs(home, mime):
    page = publish(home, code("1", shown({mime: EVIL + "kept"})))
    assert not re.search(r"<script|<[^>]*\sonerror=", page)
    assert "kept" in page


def test_script_in_prose_streams_and_names_is_text(home):
    stream = new_output("stream", name="stdout", text=EVIL)
    page = publish(home, new_markdown_cell("## " + EVIL), code("1", stream), run={"device": EVIL})
    assert not re.search(r"<script|<[^>]*\sonerror=", page)
    assert page.count("&lt;script&gt;") >= 3


def test_svg_output_becomes_an_image(home):
    page = publish(home, code("1", shown({"image/svg+xml": f"<svg>{EVIL}</svg>"})))
    assert "data:image/svg+xml;base64," in page and "<svg" not in page


def test_check_cell_is_dropped_and_code_is_folded(home):
    page = publish(home)
    assert "secret_check" not in page
    assert re.search(r"<details[^>]*><summary>code</summary><pre class=\"code\">.*class_balance", page)


def test_parameters_show_value_default_and_remark(home):
    page = publish(home)
    row = re.search(r"<tr><td><code>seed</code></td>(.*?)</tr>", page)[1]
    assert re.findall(r"<td>(.*?)</td>", row) == ["<b>7</b>", "0", "draws"]
    assert page.count("2 changed") == 1


def test_title_facts_contents_and_neighbours(home):
    run = {"seconds": 61, "commit": "0123456789abcdef", "device": "cpu"}
    order = ["00_start_here", "10_explore_corpus", "20_detect_faces"]
    page = publish(home, run=run, order=order)
    assert page.count("<h1>Explore the corpus</h1>") == 1
    assert "61 s" in page and "0123456789<" in page
    assert 'href="00_start_here.html"' in page and 'href="20_detect_faces.html"' in page
    assert 'href="#is-it-long"' in page and 'id="is-it-long"' in page
    assert 'href="index.html"' in page and 'alt="Bars"' in page


def test_only_a_generated_corpus_is_called_synthetic(home):
    assert "Synthetic corpus" not in publish(home)
    write_parquet(pd.DataFrame({"clip_id": ["a"]}), data_dir("demo") / "truth.parquet")
    assert "Synthetic corpus" in publish(home)


def test_a_page_over_the_limit_is_refused_by_name(home, monkeypatch):
    monkeypatch.setattr(pages_page, "MAX_PAGE_BYTES", 2000)
    with pytest.raises(EcmfError, match=r"10_explore_corpus\.html.*at most"):
        publish(home)
    assert not (reports_dir("demo") / "10_explore_corpus.html").exists()


def test_a_broken_notebook_is_one_line(home):
    broken = home / "executed.ipynb"
    broken.write_text("{")
    with pytest.raises(EcmfError, match="not a notebook"):
        to_html(broken, home / "x.html", "demo")


def test_numeric_columns_are_marked_and_text_is_not():
    html = pd.DataFrame({"name": ["a1", "b"], "score": [0.5, -12.0]}).to_html()
    marked = re.findall(r'class="num">([^<]+)<', markup.clean(html))
    assert marked == ["score", "0", "0.5", "1", "-12.0"]  # the index is a number too


def test_numbers_stand_right_below_a_cell_that_spans_rows():
    frame = pd.DataFrame({"f1": [0.5, 0.6, 0.7]}, index=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")]))
    marked = re.findall(r'class="num">([^<]+)<', markup.clean(frame.to_html()))
    assert [one for one in marked if one.startswith("0.")] == ["0.5", "0.6", "0.7"]


def test_a_table_has_one_row_of_heads_and_a_dash_where_a_number_is_not_there():
    runs = pd.Index(["a · all", "b" * 60], name="run")
    frame = pd.DataFrame({"f1": [0.5, 0.6], "sd": [0.1, float("nan")], "n": pd.array([1, None], "Int64")}, index=runs)
    made = markup.clean(frame.to_html())
    heads = re.search(r"<thead>.*</thead>", made, re.S)[0]
    assert re.findall(r"<th(?: [^>]*)?>([^<]*)<", heads) == ["run", "f1", "sd", "n"] and heads.count("<tr") == 1
    assert made.count('class="num">–<') == 2 and "NaN" not in made and "NA&gt;" not in made
    assert re.findall(r'<th class="name">([^<]+)<', made) == ["a · all"]  # a long one may break
    named = markup.clean(frame.rename_axis(columns="score").to_html())  # both rows say something of one column
    assert re.findall(r"<th(?: [^>]*)?>([^<]*)<", named)[:5] == ["score", "f1", "sd", "n", "run"]


def test_names_of_parts_may_break_where_the_parts_meet():
    frame = pd.DataFrame({"seed_mean": [0.5]}, index=["ecmf · scene+face+audio+text+context"])
    made = markup.clean(frame.to_html())
    assert "seed_<wbr/>mean" in made and "scene+<wbr/>face+<wbr/>audio+<wbr/>text+<wbr/>context" in made


def test_words_stay_as_they_are_and_nothing_is_a_dash():
    said = ["nan", "c1: NaN or infinite", None, float("nan")]
    made = markup.clean(pd.DataFrame({"said": said}, dtype=object).to_html(na_rep="NaN"))
    assert re.findall(r"<td>([^<]*)<", made) == ["nan", "c1: NaN or infinite", "None", "–"]


def test_a_path_in_a_table_of_prose_may_break_at_its_folders():
    made = markup.markdown("| Reads |\n|---|\n| `data/demo/labels/refined.parquet` |\n")
    assert "<code>data/<wbr/>demo/<wbr/>labels/<wbr/>refined.parquet</code>" in made


# ---- index


def test_index_works_with_nothing_run(home):
    page = index.build_index("demo", order=["00_start_here"]).read_text()
    assert "not run yet" in page and "No scores yet" in page


def test_results_have_the_keys_of_the_contract(home):
    corpus()
    record("00_start_here")
    publish(home, name="00_start_here")
    scores(score(), score("logreg", 0.3, ["face"], "given"))
    index.build_index("demo")
    found = read_json(reports_dir("demo") / "results.json")
    assert set(found) >= ISSUE_KEYS and found["schema_version"] == 1
    assert found["clips"] == {"total": 4, "train": 2, "test": 1, "unlabelled": 1, "problems": 2}
    assert set(found["notebooks"][0]) >= {"name", "seconds", "peak_memory_mb", "html"}
    assert found["notebooks"][0]["html"] == "00_start_here.html"
    assert set(found["scores"][0]) == set(KEYS)
    assert found["seconds"] == 12.3 and found["commit"] == "0123456789abcdef"


def test_results_hold_no_invalid_number(home):
    scores(score(f1=0.5, macro_f1=float("nan")))
    index.build_index("demo")
    text = (reports_dir("demo") / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["scores"][0]["macro_f1"] is None


def test_a_score_row_without_a_key_is_named(home):
    row = score()
    del row["ci95"]
    scores(score(), row)
    with pytest.raises(EcmfError, match=r"scores\.json: row 1 lacks ci95"):
        index.build_index("demo")


def test_index_escapes_and_refers_to_nothing_outside(home):
    corpus()
    record("10_explore_corpus", error=EVIL)
    record("40_refine_labels", status="died", error=f"the kernel died {EVIL}")
    publish(home, new_markdown_cell(EVIL))
    scores(score(), score(EVIL, 0.2, [EVIL], "given"))
    page = index.build_index("demo").read_text()
    assert not re.search(r"<script|<[^>]*\sonerror=", page)
    assert outside(page) == []
    assert "the kernel died &lt;script&gt;" in page and "data:image/jpeg;base64," in page


def test_problems_are_gathered_from_every_step(home):
    corpus()
    faces = pd.DataFrame({"clip_id": ["a", "a", "b"], "problem": ["no_face", "no_face", None]})
    write_parquet(faces, data_dir("demo") / "faces" / "faces.parquet")
    recipe = {"name": "m", "layers": "last", "pooling": "mean", "level": "utterance"}
    stored = store.Store(store.branch_folder("demo", "face"), 2, recipe, 0, 1)
    rows = [{"clip_id": clip_id, "content_hash": "h"} for clip_id in ("a", "b")]
    stored.write_part([rows[0] | {"status": "missing"}, rows[1] | {"status": "ok", "vector": [0, 1]}])
    stored.merge(rows)
    store.select_store("demo", "face", stored)
    table = results.problems("demo")
    told = set(zip(table["clip_id"], table["step"], table["code"], strict=True))
    assert told == {
        ("b", "corpus", "silent_sound"),
        (EVIL, "corpus", "truncated"),
        (EVIL, "corpus", "no_sound_stream"),
        ("a", "faces", "no_face"),
        ("a", "face", "missing"),
    }
    assert table["meaning"].str.len().min() > 3


def test_failed_and_stale_runs_are_named(home, monkeypatch):
    record("20_detect_faces", status="failed", error="clips.parquet: row 3\nmore")
    record("21_extract_face", inputs={str(home / "gone.parquet"): "00"})
    page = index.build_index("demo").read_text()
    assert "20_detect_faces failed: clips.parquet: row 3<" in page
    assert "21_extract_face is stale" in page and "gone.parquet is gone" in page


def test_a_changed_input_makes_a_run_stale(home):
    data = home / "x.bin"
    data.write_bytes(b"1")
    record("21_extract_face", inputs={str(data): "not the hash"})
    found = results.run_records("demo")[0]
    assert results.stale_inputs(found, "demo") == []  # older than the run
    os.utime(data, (4e9, 4e9))
    assert results.stale_inputs(found, "demo") == [f"{data} has changed"]


def test_corpus_without_labels_says_why_there_are_no_scores(home):
    corpus(labelled=False)
    page = index.build_index("demo").read_text()
    assert "No clip of this corpus carries a label" in page and "No scores yet" not in page


def test_key_figure_is_the_refined_run_not_the_best_on_test(home):
    scores(score(f1=0.61, labels="refined"), score(f1=0.69, labels="given"))
    page = index.build_index("demo").read_text()
    assert '<div class="big">0.610</div>' in page


# ---- study


def test_study_pools_its_members(home):
    for number, f1 in enumerate([0.6, 0.7, 0.8]):
        name = f"s{number}"
        corpus(name)
        cost = {"seconds": 2 + number} | ({"parameters": 5} if number < 2 else {})
        scores(score(f1=f1, **cost), score("logreg", f1 - 0.1 + 0.01 * number), profile=name)
        index.build_index(name)
    page = index.build_index("all", members=["s0", "s1", "s2", "s3"])
    found = read_json(page.parent / "results.json")
    ours = next(row for row in found["scores"] if row["model"] == "ecmf")
    assert ours["weighted_f1"] == pytest.approx(0.7) and ours["n"] == 300
    assert ours["seconds"] == 3 and "parameters" not in ours  # s2 does not know how many
    assert ours["ci95"] == pytest.approx([0.7 - 4.3027 * 0.1 / 3**0.5, 0.7 + 4.3027 * 0.1 / 3**0.5], abs=1e-3)
    (difference,) = found["differences"]
    assert difference["difference"] == pytest.approx(0.09)
    assert difference["p"] == pytest.approx(ttest_1samp([0.1, 0.09, 0.08], 0).pvalue)
    assert "s3 has not run" in page.read_text()


def test_a_study_tells_a_corpus_that_runs_or_lacks_scores_from_one_that_failed(home):
    states = {"s0": "ok", "s1": "running", "s2": "failed", "s3": "ok"}
    for name, status in states.items():
        corpus(name)
        record("51_compare_runs", profile=name, status=status, error="no" if status == "failed" else None)
        scores(*([] if name == "s3" else [score()]), profile=name)
        index.build_index(name)
    (reports_dir("s2") / "runs" / "20_detect_faces").mkdir()
    (reports_dir("s2") / "runs" / "20_detect_faces" / "run.json").write_text("{")
    soup = BeautifulSoup(index.build_index("all", members=list(states)).read_text(), "html.parser")
    shown = {page.b.text: page.find(class_="what").find_all("span")[-1].text for page in soup.select(".page")}
    assert shown == {"s0": "ok", "s1": "running", "s2": "died", "s3": "incomplete"}
    said = [line.text for line in soup.select(".note.bad li")]
    assert said[:3] == ["s3 has no scores yet", "s1: 51_compare_runs is running, or was killed", said[2]]
    assert said[2].startswith("s2: 20_detect_faces died: ") and said[3] == "s2: 51_compare_runs failed: no"
    assert "listed by each corpus" in soup.text and "listed below" not in soup.text


def test_the_page_says_what_the_names_in_its_tables_mean(home):
    corpus()
    scores(score(), score("mult-searched", 0.5), score("ecmf-no-attention", 0.6), score("new", 0.4, branches=("face",)))
    soup = BeautifulSoup(index.build_index("demo").read_text(), "html.parser")
    (table,) = [one.table for one in soup.select("details") if one.summary.text == "What the names mean"]
    assert [row.code.text for row in table.find_all("tr")] == [
        "ecmf",
        "mult",
        "-searched",
        "-no-",
        "given, refined",
        "text, context",
    ]
    assert set(scoreboard.MODELS) >= {*registry.NETWORKS, *registry.LINEAR}


def test_what_all_rows_have_in_common_is_said_once(home):
    corpus()
    scores(score(n=7), score("late", n=7))
    assert "7 clips. Weighted F1" in index.build_index("demo").read_text()
    scores(score(n=7), score("late", n=6))
    soup = BeautifulSoup(index.build_index("demo").read_text(), "html.parser")
    heads = [cell.text for cell in soup.table.find_all("th")]
    assert heads[7] == "clips" and [row.find_all("td")[7].text for row in soup.tbody.find_all("tr")] == ["7", "6"]


def test_a_study_s_scores_stay_between_0_and_1_and_its_card_says_what_it_rests_on(home):
    for number, f1 in enumerate([0.5, 1.0]):
        corpus(f"s{number}")
        scores(score(f1=f1, n=50), profile=f"s{number}")
        index.build_index(f"s{number}")
    page = index.build_index("all", members=["s0", "s1"])
    assert read_json(page.parent / "results.json")["scores"][0]["ci95"] == [0.0, 1.0]
    assert "; 2 corpora, 100 clips" in page.read_text()


def test_a_study_says_what_each_part_adds(home):
    """A row of ECMF without a branch or a switch is named by what it lacks, apart from other models."""
    branches = ["scene", "face", "audio"]
    for number in range(3):
        name = f"s{number}"
        corpus(name)
        rows = [
            score(f1=0.8, labels="refined", branches=branches),
            score(f1=0.75 + 0.01 * number, labels="refined", branches=["scene", "audio"]),
            score("ecmf-no-branch_dropout", 0.81, labels="refined", branches=branches),
            score(f1=0.7, labels="given", branches=branches),
            score("logreg", 0.6, labels="refined", branches=branches),
        ]
        scores(*rows, profile=name)
        index.build_index(name)
    text = BeautifulSoup(index.build_index("all", members=["s0", "s1", "s2"]).read_text(), "html.parser")
    tables = {title.text: title.find_next("table") for title in text.find_all("h3")}
    parts = [[cell.text for cell in row.find_all("td")] for row in tables["What each part adds"].find_all("tr")[1:]]
    assert parts == [
        ["face (branch)", "+0.040", "+0.015 to +0.065", "0.020", "3"],  # t-test with two degrees of freedom
        ["branch dropout", "-0.010", "-0.010 to -0.010", "–", "3"],
        ["refined instead of given labels", "+0.100", "+0.100 to +0.100", "–", "3"],
    ]
    others = tables["ECMF against the others"].text
    assert "logreg" in others and "ecmf" not in others
    assert "all but face" in tables["Test clips, scored on the known truth"].text


def test_a_row_that_stands_twice_or_has_no_score_does_not_count_in_a_study(home):
    """Twice as many corpora would make the interval too narrow."""
    for number, f1 in enumerate([0.6, 0.7, 0.8]):
        corpus(f"s{number}")
        rows = [score(f1=0.1), score(f1=f1, seconds=None), score("logreg", f1 - 0.1 * number)]
        scores(*rows, score("mult", float("nan"), accuracy=float("nan")), profile=f"s{number}")
        index.build_index(f"s{number}")
    page = index.build_index("all", members=["s0", "s1", "s2"])
    found = json.loads((page.parent / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [(row["model"], row["corpora"]) for row in found["scores"]] == [("ecmf", 3), ("logreg", 3)]
    assert [(row["model"], row["corpora"]) for row in found["differences"]] == [("logreg", 3)]
    assert found["scores"][0]["weighted_f1"] == pytest.approx(0.7) and "seconds" not in found["scores"][0]
    table = BeautifulSoup(page.read_text(), "html.parser").find("table")
    assert [cell.text for cell in table.find_all("tr")[1].find_all("td")][7] == "3"  # of the corpora


def test_a_study_says_that_searched_models_stand_against_ecmf_with_searched_settings(home):
    for number in range(3):
        corpus(f"s{number}")
        rows = [score(f1=0.8), score("ecmf-searched", 0.9), score("mult-searched", 0.6), score("mult", 0.5)]
        scores(*rows, profile=f"s{number}")
        index.build_index(f"s{number}")
    found = BeautifulSoup(index.build_index("all", members=["s0", "s1", "s2"]).read_text(), "html.parser")
    table = next(title for title in found.find_all("h3") if title.text == "ECMF against the others").find_next("table")
    rows = [[cell.text for cell in row.find_all("td")] for row in table.find_all("tr")[1:]]
    assert [(row[0], row[3], row[4]) for row in rows] == [
        ("mult", "refined", "+0.300"),
        ("mult-searched", "refined, settings searched", "+0.300"),
    ]
    assert "Test clips, scored on the known truth." in table.find_previous("p").text


def test_the_index_by_hand_lists_what_has_not_run_and_renews_the_members_of_a_study(home, capsys):
    assert cli.main(["index", "study"]) == 0
    corpus("study-2")
    record("50_train_fusion--from-other", profile="study-2")
    scores(score(), profile="study-2")
    assert cli.main(["index", "study-2"]) == 0
    page = (reports_dir("study-2") / "index.html").read_text()
    assert page.count("not run yet") == len(steps.plan_notebooks("study-2"))  # a detour is not the run itself
    scores(score(f1=0.9), profile="study-2")
    assert cli.main(["index", "study"]) == 0
    (row,) = read_json(reports_dir("study") / "results.json")["scores"]
    assert row["weighted_f1"] == 0.9 and not (reports_dir("study-1") / "results.json").exists()


# ---- verify


@pytest.fixture
def referenced(home, monkeypatch):
    """A profile with results and a reference of its own."""
    monkeypatch.setattr(results, "REFERENCES", home)
    corpus()
    scores(score(), score("logreg", 0.5))
    index.build_index("demo")
    results.write_reference("demo")


def test_verify_accepts_what_it_was_written_from(referenced):
    assert results.verify("demo") == []


def test_verify_says_which_figure_moved(referenced):
    scores(score(f1=0.6, accuracy=0.7, macro_f1=0.69), score("logreg", 0.49))
    index.build_index("demo")
    assert results.verify("demo") == [
        "ecmf on face+text (refined labels, test, scored on truth): weighted f1 is 0.6, "
        "reference 0.7 ± 0.03: moved by -0.1"
    ]


def test_verify_says_what_is_missing(referenced):
    scores(score())
    corpus()
    index.build_index("demo")
    (line,) = results.verify("demo")
    assert line.startswith("logreg on face+text") and "missing" in line


def test_verify_counts_clips(referenced):
    clips = pd.DataFrame({"clip_id": ["a"], "label": ["sad"], "split": ["train"], "status": ["ok"]})
    write_parquet(clips.assign(problem=None), data_dir("demo") / "clips.parquet")
    index.build_index("demo")
    assert "clips total is 1, reference 4 ± 0: moved by -3" in results.verify("demo")


def test_verify_without_reference_or_run_is_one_line(home):
    with pytest.raises(EcmfError, match="no reference for nothing"):
        results.verify("nothing")
    with pytest.raises(EcmfError, match="run ecmf reproduce demo first"):
        results.write_reference("demo")


# ---- media policy


def test_policy_none_leaves_no_picture_sound_or_text():
    image = np.full((40, 60, 3), 7, np.uint8)
    assert media.show_frame(image, "none") is None
    assert media.show_sound(np.zeros(3), "none") is None
    assert media.show_sound(np.zeros(3), "blurred") is None
    assert {media.show_text("secret", p) for p in ("none", "blurred")} == {"(withheld)"}


def test_blurred_picture_keeps_its_size_and_loses_its_detail():
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    blurred = media.show_frame(image, "blurred")
    assert blurred.shape == image.shape and blurred.dtype == np.uint8
    assert np.abs(np.diff(blurred.astype(int), axis=1)).max() < 20


def test_full_policy_shows_all():
    image = np.zeros((4, 4, 3), np.uint8)
    assert media.show_frame(image, "full") is image
    assert media.show_text("it's <b>", "full") == "it's <b>"  # a table escapes it
    assert media.show_text(None, "full") == media.show_text(float("nan"), "full") == ""


def test_a_clip_plays_from_within_the_page_or_is_withheld(home):
    (home / "a.mp4").write_bytes(b"clip")
    playing = media.show_video(home / "a.mp4", "full")
    page = publish(home, code("1", shown({"text/html": playing})))
    assert '<video controls="" preload="metadata" src="data:video/mp4;base64,' in page
    assert outside(page) == []
    assert "video" not in media.show_video(home / "a.mp4", "blurred")


def test_unknown_policy_is_refused():
    with pytest.raises(EcmfError, match="none, blurred, full"):
        media.show_text("x", "some")


# ---- browser


@pytest.mark.slow
@needs_chromium
def test_pages_open_without_network_or_console_error(home, tmp_path):
    corpus()
    record("10_explore_corpus")
    publish(home, new_markdown_cell(EVIL), code("1", shown({"text/html": EVIL})))
    scores(score(), score("logreg", 0.5))
    front = index.build_index("demo")
    for page in (front, front.with_name("10_explore_corpus.html")):
        seen = visit(page, tmp_path / "page.png", open_details=True)
        assert seen.console == [] and seen.requests == []
        assert seen.overflow == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("'no clip has a face'", "no clip has a face"),
        ('"it\'s \\u00e9"', "it's é"),
        ("'open", "'open"),
        ("{'a': 1}", "{'a': 1}"),
        ("", ""),
    ],
)
def test_a_sentence_of_a_cell_is_shown_without_quotes(given, said):
    assert markup.unquoted(given) == said


def test_quotes_of_a_sentence_do_not_let_html_in(home):
    page = publish(home, code("x", shown({"text/plain": repr("a " + EVIL)})))
    assert f"a {html.escape(EVIL)}</pre>" in page
