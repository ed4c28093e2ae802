"""The check of the notebooks finds what it is there to find."""

import shutil

import nbformat
import notebooks_clean
import pytest


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A copy of chapter 3 with its module, both as committed."""
    source = notebooks_clean.PACKAGE.parent / "03_frame_model.ipynb"
    package = tmp_path / "stateful_tff"
    package.mkdir()
    shutil.copy(notebooks_clean.PACKAGE / "frame.py", package)
    shutil.copy(source, tmp_path)
    monkeypatch.setattr(notebooks_clean, "PACKAGE", package)
    return tmp_path / source.name


def changed(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def first_export(notebook):
    return next(c for c in notebook.cells if c.source.startswith("#| export"))


def test_a_committed_notebook_is_clean(chapter):
    assert notebooks_clean.problems(chapter) == []


def test_outputs_are_found_and_removed(chapter):
    output = nbformat.v4.new_output("stream", text="something")
    changed(chapter, lambda notebook: first_export(notebook).outputs.append(output))
    assert "holds outputs" in notebooks_clean.problems(chapter)[0]
    assert notebooks_clean.problems(chapter, mend=True) == []
    assert notebooks_clean.problems(chapter) == []


def test_a_stale_export_is_found_and_written_anew(chapter):
    def edit(notebook):
        first_export(notebook).source += "\n\nADDED = 1"

    changed(chapter, edit)
    assert "differs from stateful_tff/frame.py" in notebooks_clean.problems(chapter)[0]
    assert notebooks_clean.problems(chapter, mend=True) == []
    assert "ADDED = 1" in (notebooks_clean.PACKAGE / "frame.py").read_text()


@pytest.mark.parametrize("old", ["# Set-up, the same in every chapter.", "# @title Set-up"])
def test_another_set_up_cell_is_found_and_replaced(chapter, old):
    def edit(notebook):
        cell = next(c for c in notebook.cells if c.source == notebooks_clean.setup_cell())
        cell.source = f"{old}\nfrom stateful_tff import setup\n\nsetup.notebook()"
        cell.metadata = {}

    committed = chapter.read_text()
    changed(chapter, edit)
    assert "has another set-up cell" in notebooks_clean.problems(chapter)[0]
    assert notebooks_clean.problems(chapter, mend=True) == []
    assert chapter.read_text() == committed


def test_a_missing_set_up_cell_is_found(chapter):
    def edit(notebook):
        cell = next(c for c in notebook.cells if c.source == notebooks_clean.setup_cell())
        cell.source = "print('none')"

    changed(chapter, edit)
    assert "lacks the common set-up cell" in notebooks_clean.problems(chapter)[0]
