"""The check of the notebooks finds what it is there to find, and the export writes modules."""

import subprocess
import sys

import nbformat
import pytest

from tools import export

TITLE = "# Two modules\n\n> What the first does.\n> Knows nothing of the second.\n\nText."
FIRST = """\
#| export
from __future__ import annotations

import math
from stateful_tff import plots
from stateful_tff.methods.second import (
    area,
    half,
)
from stateful_tff.state import VALUE
"""
SECOND = '''\
#| export methods.second
"""What the second does.

Knows nothing of the first.
"""

from stateful_tff.state import VALUE
from stateful_tff.methods import third
'''
AREA = (
    "#| export methods.second\ndef area(r):\n    from stateful_tff import plots\n    return VALUE"
)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A notebook of two modules in an empty package, as it is committed, not yet exported."""
    package = tmp_path / "stateful_tff"
    (package / "methods").mkdir(parents=True)
    monkeypatch.setattr(export, "PACKAGE", package)
    code = nbformat.v4.new_code_cell
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(TITLE),
            code("#| default_exp first"),
            code(export.setup_cell(), metadata=export.SETUP_METADATA),
            code(FIRST),
            code(SECOND),
            code("#| export\ndef twice(x):\n    return 2 * x"),
            code("print('not exported')"),
            code(AREA),
        ],
    )
    export.strip(notebook)
    path = tmp_path / "04_two.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def exported(chapter):
    """The same, exported."""
    assert export.problems(chapter, write=True) == []
    return chapter


def changed(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def replaced(path, old, new):
    def edit(notebook):
        cells = [cell for cell in notebook.cells if old in cell.source]
        assert cells
        for cell in cells:
            cell.source = cell.source.replace(old, new)

    changed(path, edit)


def written(module):
    return export.file_of(module).read_text()


def test_a_committed_notebook_is_clean(exported):
    assert export.problems(exported) == []
    assert export.misplaced([exported]) == []


def test_each_module_begins_with_its_docstring_and_says_that_it_is_generated(exported):
    first, second = written("first"), written("methods.second")
    assert first.startswith('"""What the first does.\n\nKnows nothing of the second.\n"""\n')
    assert second.startswith('"""What the second does.\n\nKnows nothing of the first.\n"""\n')
    assert second.count("Knows nothing") == 1
    assert f"{export.GENERATED} File to edit: ../04_two.ipynb." in first
    assert f"{export.GENERATED} File to edit: ../../04_two.ipynb." in second
    assert '__all__ = ["twice"]' in first and '__all__ = ["area"]' in second
    assert "not exported" not in first + second
    for module in ("first", "methods.second"):
        compile(written(module), module, "exec")  # `from __future__` stands where it may


def test_imports_are_relative_to_the_folder_of_the_module(exported):
    first, second = written("first"), written("methods.second")
    assert "from .methods.second import (\n    area," in first
    assert "from .state import VALUE" in first and "from . import plots" in first
    assert "from ..state import VALUE" in second and "from . import third" in second
    assert "    from .. import plots" in second
    assert "stateful_tff" not in first + second


def test_a_module_is_as_ruff_would_write_it(exported):
    check = [sys.executable, "-m", "ruff", "format", "--check", "--config"]
    command = [*check, str(export.ROOT / "pyproject.toml"), str(export.PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_outputs_are_found_and_removed(exported):
    output = nbformat.v4.new_output("stream", text="something")
    changed(exported, lambda notebook: notebook.cells[-1].outputs.append(output))
    assert "holds outputs" in export.problems(exported)[0]
    assert export.problems(exported, write=True) == []
    assert export.problems(exported) == []


@pytest.mark.parametrize(
    "old, new, name", [("2 * x", "3 * x", "first"), ("return VALUE", "return 2", "methods/second")]
)
def test_a_stale_export_is_found_and_written(exported, old, new, name):
    replaced(exported, old, new)
    (problem,) = export.problems(exported)
    assert f"differs from stateful_tff/{name}.py" in problem
    assert export.problems(exported, write=True) == []
    assert new in written(name.replace("/", "."))
    assert export.problems(exported) == []


def test_exporting_twice_adds_nothing(exported):
    before = written("methods.second")
    assert export.problems(exported, write=True) == []
    assert written("methods.second") == before


def test_a_notebook_that_is_as_it_should_be_is_not_written(exported):
    before = exported.stat().st_mtime_ns
    export.problems(exported, write=True)
    assert exported.stat().st_mtime_ns == before


def test_a_module_without_a_docstring_is_found(exported):
    replaced(exported, SECOND, "#| export methods.second\nfrom stateful_tff.state import VALUE")
    assert "exports methods.second without a docstring" in export.problems(exported)[0]


def test_a_module_written_by_hand_is_not_overwritten(exported):
    export.file_of("first").write_text("BY_HAND = True\n")
    (problem,) = export.problems(exported, write=True)
    assert "exports first, which is written by hand" in problem
    assert written("first") == "BY_HAND = True\n"


def test_a_module_of_two_notebooks_or_of_none_is_found(exported):
    twin = exported.with_name("05_twin.ipynb")
    twin.write_text(exported.read_text())
    both, none = export.misplaced([exported, twin]), export.misplaced([])
    assert len(both) == len(none) == 2
    assert all("04_two.ipynb and 05_twin.ipynb" in sentence for sentence in both)
    assert all(sentence.endswith("exported from no notebook; delete it.") for sentence in none)


@pytest.mark.parametrize(
    "old", ["from stateful_tff import setup\n\nsetup.notebook()", "x = 1\nsession.notebook()"]
)
def test_another_set_up_cell_is_found_and_replaced(exported, old):
    def edit(notebook):
        cell = next(c for c in notebook.cells if c.source == export.setup_cell())
        cell.source = f"# Set-up\n{old}"
        cell.metadata = {}

    committed = exported.read_text()
    changed(exported, edit)
    assert "has another set-up cell" in export.problems(exported)[0]
    assert export.problems(exported, write=True) == []
    assert exported.read_text() == committed


def test_a_missing_set_up_cell_is_found(exported):
    def edit(notebook):
        cell = next(c for c in notebook.cells if c.source == export.setup_cell())
        cell.source = "print('none')"

    changed(exported, edit)
    assert "lacks the common set-up cell" in export.problems(exported)[0]


def test_the_set_up_cell_is_as_narrow_as_a_page():
    assert max(map(len, export.SETUP_CELL.splitlines())) <= 78
