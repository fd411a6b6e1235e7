"""The figures of the README are those of the references that ship, which `ecmf verify` compares a run with."""

import re

from ecmf_utils.paths import ROOT, read_json
from ecmf_utils.results import reference_path

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {"ECMF": "ecmf", "late fusion": "late", "logistic regression": "logreg"}


def table_under(heading, first):
    """Rows of the first table below a heading whose header starts with a word, cells without markup."""
    part = re.split(rf"^#+ {heading}.*$", README, flags=re.M)[1]
    lines = part[part.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("*", "").replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def test_the_demo_table_is_the_reference():
    reference = read_json(reference_path("demo"))
    shown = table_under("Results on the synthetic demo corpus", "Model")
    tested = [row for row in reference["scores"] if row["split"] == "test"]
    assert len(shown) == len(tested)
    for name, branches, labels, *figures in shown:
        model = NAMES.get(name, name.removeprefix("official ").removesuffix(", re-implemented"))
        wanted = (model, None if branches == "all five" else [branches], labels.split()[0])
        (row,) = [
            r for r in tested
            if (r["model"], None if len(r["branches"]) == 5 else r["branches"], r["labels"]) == wanted
        ]  # fmt: skip
        low, high = row["ci95"]
        assert figures == [
            f"{row['weighted_f1']:.3f}", f"{low:.3f} – {high:.3f}", f"{row['accuracy']:.3f}", f"{row['macro_f1']:.3f}"
        ]  # fmt: skip
    assert [float(row[3]) for row in shown] == sorted((float(row[3]) for row in shown), reverse=True)
    (said,) = re.findall(r"\(Out-of-fold, on the (.*?)\)", README, re.S)
    for name, model in NAMES.items():
        want = ("oof", "truth", model, 5)
        rows = [r for r in reference["scores"] if (r["split"], r["scored_on"], r["model"], len(r["branches"])) == want]
        given = {r["labels"]: f"{r['weighted_f1']:.3f}" for r in rows}
        (figures,) = re.findall(rf"{name}\s(\d\.\d+)[a-z ]*\sand\s(\d\.\d+)", said)
        assert figures == (given["refined"], given["given"])
