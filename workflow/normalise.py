"""Bring notebooks to the form they are committed in: known metadata only, cells counted from 1."""

import sys
from pathlib import Path

import nbformat

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def normalise(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what changes from run to run: timings, versions, execution counts, widget state."""
    book.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    count = 0
    for cell in book.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)  # it means nothing without its kernel
                if "execution_count" in output:
                    output.execution_count = count
                if "metadata" in output:
                    output.metadata = nbformat.from_dict({})
    return book


def main(paths: list[str]) -> None:
    """Rewrite each notebook in place where its normal form differs."""
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        after = nbformat.writes(normalise(nbformat.reads(before, as_version=4)), indent=1) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
