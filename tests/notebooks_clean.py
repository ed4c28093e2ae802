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
import yaml
from nbdev.export import nb_export

PACKAGE = Path(__file__).parents[1] / "notebooks" / "stateful_tff"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CONFIG = Path(__file__).parents[1] / "_config.yml"
SETUP_CELL = """\
# @title Set-up, the same in every chapter
REPOSITORY, COMMIT = "", "main"
try:
    from stateful_tff import setup
except ModuleNotFoundError:  # this notebook is by itself, as in Colab: fetch what belongs to it
    import shutil
    import sys
    import urllib.request
    from pathlib import Path

    if not REPOSITORY:
        raise RuntimeError(
            "The package stateful_tff is not beside this notebook, and the address to fetch it "
            "from is not set; open the notebook in a copy of the whole book, in its folder."
        ) from None
    archive, folder = f"{REPOSITORY}/archive/{COMMIT}.zip", Path.home() / ".cache/stateful_tff"
    try:
        shutil.unpack_archive(urllib.request.urlretrieve(archive)[0], folder / COMMIT, "zip")
    except OSError as error:
        raise RuntimeError(
            f"{archive} cannot be fetched ({error}); check the network and run this cell again."
        ) from None
    sys.path.insert(0, str(next(folder.glob(f"{COMMIT}/*/notebooks"))))
    from stateful_tff import setup

setup.notebook()"""
# Folded on the page and in Colab.
SETUP_METADATA = {"cellView": "form", "tags": ["hide-input"]}


def setup_cell() -> str:
    """Returns the source of the set-up cell, with the address that `_config.yml` holds."""
    address = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repository"]["url"]
    return SETUP_CELL.replace('""', f'"{address}"', 1)


def put_setup_cell(notebook: nbformat.NotebookNode) -> bool:
    """Puts the set-up cell in place of an older one; returns whether that changed anything."""
    old = [cell for cell in notebook.cells if cell.source.endswith("\nsetup.notebook()")]
    current = {"source": setup_cell(), "metadata": SETUP_METADATA}
    changed = any(cell[key] != value for cell in old for key, value in current.items())
    for cell in old[:1]:
        cell.update(nbformat.from_dict(current))
    return changed


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
    if strip(notebook) and not mend:
        found.append("holds outputs or run marks; `make export` removes them")
    if put_setup_cell(notebook) and not mend:
        found.append("has another set-up cell; `make export` puts in the common one")
    if sum(cell.source == setup_cell() for cell in notebook.cells) != 1:
        found.append("lacks the common set-up cell; copy it from chapter 1")
    if mend:
        nbformat.write(notebook, path)
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
