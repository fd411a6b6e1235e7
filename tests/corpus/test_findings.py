"""Findings: every one is kept, a systematic one is told once."""

import ast
from pathlib import Path

import ecmf_utils
from ecmf_utils.corpus.findings import FINDINGS, INFO, Findings, rate_severity


def test_the_frame_keeps_every_finding_in_order():
    found = Findings()
    found.add("missing_file", Path("a") / "labels.csv", "no media of this name", row=7, clip_id="x")
    found.add("layout", "mer", "raw folders")
    frame = found.frame()
    assert list(frame.columns) == ["code", "file", "row", "clip_id", "text"]
    assert list(frame["file"]) == ["labels.csv", "mer"] and frame["row"][0] == 7
    assert frame["row"].isna()[1] and frame["clip_id"].isna()[1]


def test_an_empty_frame_has_the_same_columns_and_types():
    found = Findings()
    empty = found.frame()
    found.add("layout", "mer", "raw folders")
    assert (empty.dtypes == found.frame().dtypes).all() and found.lines() and not Findings().lines()


def test_few_findings_are_told_one_by_one():
    found = Findings()
    for row in (3, 5):
        found.add("missing_file", "labels.csv", f"'c{row}' has no media", row=row)
    assert found.lines() == ["labels.csv row 3: 'c3' has no media", "labels.csv row 5: 'c5' has no media"]


def test_a_systematic_finding_is_told_once_with_its_number_and_rows():
    found = Findings()
    for row in range(2, 1210):
        found.add("missing_file", "labels.csv", f"'c{row}' has no media", row=row)
    found.add("missing_file", "other.csv", "'x' has no media", row=2)
    lines = found.lines()
    assert len(lines) == 5
    assert lines[3] == "labels.csv: … and 1,205 more like it (rows 5 to 1,209)"
    assert lines[4].startswith("other.csv row 2")


def test_warnings_come_before_remarks():
    found = Findings()
    found.add("layout", "mer", "raw folders")
    found.add("bad_id", "labels.csv", "'a/b' has a separator", row=2)
    assert [line.split(":")[0] for line in found.lines()] == ["labels.csv row 2", "mer"]


def test_a_finding_is_one_line_whatever_it_quotes():
    found = Findings()
    found.add("bad_id", "labels.csv", "'a\n/b' has a\r\n separator")
    assert found.lines() == ["labels.csv: 'a /b' has a separator"]


def test_words_of_the_corpus_are_for_the_terminal_only():
    found = Findings()
    found.add("encoding", "subtitle.csv", "read as gb18030", row=2, quote="你好，" * 100)
    assert "你好" not in found.lines()[0] + found.frame().to_string()
    assert found.lines(quotes=True)[0].startswith("subtitle.csv row 2: read as gb18030 [你好，你好")
    assert len(found.lines(quotes=True)[0]) < 110


def test_a_finding_is_a_warning_unless_its_code_is_that_of_a_remark():
    assert rate_severity("layout") == "info" and rate_severity("bad_id") == "warning"
    assert INFO < set(FINDINGS)


def test_every_code_that_the_package_adds_is_explained():
    used = set()
    for path in Path(ecmf_utils.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_finding(node):
                used.add(node.args[0].value)
    assert "bad_id" in used and used <= set(FINDINGS), used - set(FINDINGS)


def _is_finding(call):
    """Whether a call is `found.add("code", file, text)` or `Fault("code", text)`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    many = len(call.args) >= {"add": 3, "Fault": 2}.get(name, 99)
    return many and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
