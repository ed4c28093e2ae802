"""Checks that the notebooks are as they are committed; `--mend` brings them there.

Usage: python tests/notebooks_clean.py [--mend] NOTEBOOK...
A notebook has no outputs, the common kernel and the common set-up cell, and its exported
cells stand unchanged in the helper package.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbdev.export import nb_export

PACKAGE = Path(__file__).parents[1] / "notebooks" / "stateful_tff"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SETUP_CELL = """\
# Set-up, the same in every chapter.
from stateful_tff import setup

setup.notebook()"""


def strip(notebook: nbformat.NotebookNode) -> bool:
    """Removes outputs and run marks in place; returns whether there was anything to remove."""
    changed = notebook.metadata.get("kernelspec") != KERNEL
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        changed |= bool(cell.metadata.pop("execution", None))
        if cell.cell_type == "code":
            changed |= bool(cell.outputs) or cell.execution_count is not None
            cell.outputs, cell.execution_count = [], None
    return changed


def module_of(notebook: nbformat.NotebookNode) -> str | None:
    """Returns the name of the module that the notebook is exported to, if it is."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("#| default_exp "):
            return cell.source.split()[2]
    return None


def stale_export(path: Path, module: str) -> bool:
    """Returns whether the module differs from what the notebook exports now."""
    with tempfile.TemporaryDirectory() as folder:
        # The same places relative to each other: the export writes them into the module.
        copy, package = Path(folder) / path.name, Path(folder) / PACKAGE.name
        package.mkdir()
        shutil.copy(path, copy)
        nb_export(str(copy), lib_path=str(package))
        fresh = (package / f"{module}.py").read_text(encoding="utf-8")
    committed = PACKAGE / f"{module}.py"
    return not committed.exists() or committed.read_text(encoding="utf-8") != fresh


def problems(path: Path, mend: bool = False) -> list[str]:
    """Returns one sentence for each thing that is wrong with a notebook."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    if strip(notebook):
        if mend:
            nbformat.write(notebook, path)
        else:
            found.append("holds outputs or run marks; `make export` removes them")
    if not any(cell.source == SETUP_CELL for cell in notebook.cells):
        found.append("lacks the common set-up cell; copy it from chapter 1")
    module = module_of(notebook)
    if module and mend:
        nb_export(str(path), lib_path=str(PACKAGE))
    elif module and stale_export(path, module):
        found.append(f"differs from stateful_tff/{module}.py; `make export` writes it anew")
    return [f"{path}: {problem}." for problem in found]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    mend = "--mend" in arguments
    wrong = [
        problem for path in arguments if path != "--mend" for problem in problems(Path(path), mend)
    ]
    print("\n".join(wrong) or "The notebooks are clean and their exports are fresh.")
    sys.exit(bool(wrong))
