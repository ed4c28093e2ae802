"""Copies the chapters to a folder, with the solutions of their exercises put in as cells.

Usage: python tools/prepare_chapters.py FOLDER
After the check cell of an exercise, the copy gets two cells tagged `solution`: the code of the
solution in the dropdown, and the check once more. Readers see neither.
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def with_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Returns the notebook with each solution run and checked right after its exercise."""
    cells, check = [], None
    for cell in notebook.cells:
        cells.append(cell)
        if "check" in cell.metadata.get("tags", []):
            check = cell
        elif cell.cell_type == "markdown" and "{solution}" in cell.source:
            (code,) = FENCE.findall(cell.source)
            for source in (code, check.source):
                added = nbformat.v4.new_code_cell(source, metadata={"tags": ["solution"]})
                cells.append(added)
    notebook.cells = cells
    return notebook


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(with_solutions(nbformat.read(path, as_version=4)), target / path.name)
    print(f"Copied {len(list(target.iterdir()))} chapters to {target}.")
