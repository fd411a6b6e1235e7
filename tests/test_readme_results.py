"""The figures of the README are those of the references that ship, which `ecmf verify` compares a run with."""

import re

from ecmf_utils.files import ROOT, read_json
from ecmf_utils.metrics import SEARCHED
from ecmf_utils.notebook.profiles import load_profile
from ecmf_workflow.pages import scoreboard, study
from ecmf_workflow.results import reference_path

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
NAMES = {"ECMF": "ecmf", "late fusion": "late", "logistic regression": "logreg"}
NAMED = {short: name for name, short in NAMES.items()}


def table_under(heading, first, page=README):
    """Rows of the first table below a heading whose header starts with a word, cells without markup."""
    part = re.split(rf"^#+ {heading}.*$", page, flags=re.M)[1]
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
            r for r in tested if (r["model"], None if len(r["branches"]) == 5 else r["branches"], r["labels"]) == wanted
        ]
        low, high = row["ci95"]
        assert figures == [
            f"{row['weighted_f1']:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{row['accuracy']:.3f}",
            f"{row['macro_f1']:.3f}",
        ]
    assert [float(row[3]) for row in shown] == sorted((float(row[3]) for row in shown), reverse=True)


def named(model):
    short = model.removesuffix(SEARCHED)
    return NAMED.get(short, short) + (", searched" if short != model else "")


def study_tables(parts):
    """Both tables of the study as docs/results.md shows them: what a part adds, and ECMF against the others."""
    found = scoreboard.difference_rows(study.differences(parts))
    scores = {
        (row["model"], row["labels"]): row
        for row in study.pool("study", dict(enumerate(parts)))["scores"]
        if row["split"] == "test" and len(row["branches"]) == 5
    }
    figures = ("difference", "interval", "holm")
    parts = [[row["part"], *(row[name] for name in figures)] for row in found["parts"]]
    others = [
        [
            named(row["model"]),
            row["labels"],
            f"{scores[row['model'], row['labels']]['weighted_f1']:.3f}",
            *(row[figure] for figure in figures),
        ]
        for row in found["others"]
        if row["branches"] == "all"
    ]
    return parts, others


def plain(text):
    return text.replace("\N{MINUS SIGN}", "-")


def study_references():
    paths = [reference_path(member) for member in load_profile("study")["members"]]
    return [read_json(path) | {"seconds": 0, "notebooks": []} for path in paths]


def test_the_study_tables_are_the_references():
    tables = study_tables(study_references())
    for heading, first, wanted in zip(("What each part adds", "ECMF against"), ("Part", "Model"), tables, strict=True):
        shown = table_under(heading, first, RESULTS)
        assert [[plain(cell) for cell in row] for row in shown] == wanted


def test_the_readme_tells_the_study_as_its_page_does():
    parts, others = study_tables(study_references())
    told = plain(re.split(r"^### What each part adds.*$", README, flags=re.M)[1].split("\n## ")[0]).replace("\n", " ")
    switches = {re.sub(r" \(.*", "", row[0]): row[1:3] for row in parts if "," not in row[0]}
    around_zero = {name for name, (_, ends) in switches.items() if re.fullmatch(r"-\S+ to \+\S+", ends)}
    (nothing,) = re.findall(r"nothing shown: (.*?)\.", told)
    assert set(nothing.split(", ")) == around_zero
    for name in set(switches) - around_zero:
        (figures,) = re.findall(rf"{name}[a-z, ]* ([+-]\d\.\d+) \((.*?)\)", told)
        assert list(figures) == switches[name]
    on_refined = {row[0].removesuffix(", searched"): row[3:5] for row in others if row[1] == "refined"}
    told = told.replace("official `attention`", "attention")
    for name in ("late fusion", "attention", "logistic regression"):
        (figures,) = re.findall(rf"{name} ([+-]\d\.\d+) \((.*?)\)", told)
        assert list(figures) == on_refined[name]
    scores = [
        row["weighted_f1"]
        for part in study_references()
        for row in part["scores"]
        if (row["model"], row["labels"], row["split"], len(row["branches"])) == ("ecmf", "refined", "test", 5)
    ]
    (figures,) = re.findall(r"weighted F1 (\d\.\d+), mean over the corpora \((\d\.\d+) to (\d\.\d+)\)", told)
    assert [float(figure) for figure in figures] == [
        round(value, 3) for value in (sum(scores) / len(scores), min(scores), max(scores))
    ]


def published_table(reference):
    """The table of CMU-MOSI as the README shows it, save the differences, which page 51 tells."""
    tested = [row for row in reference["scores"] if row["split"] == "test" and len(row["branches"]) == 3]
    tested.sort(key=lambda row: -row["weighted_f1"])
    return [
        [
            named(row["model"]),
            f"{row['weighted_f1']:.3f}",
            " – ".join(f"{end:.3f}" for end in row["ci95"]),
            f"{row['seed_mean']:.3f} ± {row['seed_sd']:.3f}" if "seed_sd" in row else "–",
        ]
        for row in tested
    ]


def test_the_table_of_published_features_is_the_reference():
    shown = table_under("Results on published features", "Model")
    assert [row[:4] for row in shown] == published_table(read_json(reference_path("mosi")))
