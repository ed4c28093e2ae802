"""Whole chapters, unmodified, from the first cell to the last."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tools.editions import edition
from tools.play_colab import ROOT, outer_python, text_of

EXPECTED = json.loads((Path(__file__).parents[1] / "chapters" / "expected.json").read_text())


def execute(notebook, python, environment, where):
    """Runs a notebook as "Run all" does: up to the end, or up to the first error."""
    where.mkdir()
    kernels = KernelSpecManager(kernel_dirs=[str(python.parents[1] / "kernels")])
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=kernels)
    client = NotebookClient(
        notebook, manager, timeout=600, resources={"metadata": {"path": str(where)}}
    )
    client.execute(env=environment)


@pytest.mark.parametrize("chapter", ["01_data_pipeline", "04_core_process"])
def test_a_chapter_runs_from_first_to_last_cell(chapter, version, folder, book, colab, tmp_path):
    """The first is opened in Colab from the repository, the other one uploaded: it stands alone."""
    asked = len(book.asked)
    if chapter == "01_data_pipeline":
        notebook = book.notebook(chapter[:2])
    else:
        notebook = nbformat.from_dict(edition(ROOT / "notebooks" / f"{chapter}.ipynb"))
    execute(notebook, outer_python(folder, version), colab, tmp_path / "content")
    assert chapter == "01_data_pipeline" or len(book.asked) == asked
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells)
    assert not [o for o in outputs if o.output_type == "error"]
    assert not text_of(outputs, "stderr")
    for result in EXPECTED[chapter]:
        found = re.search(result["printed"], text_of(outputs))
        assert found, result["printed"]
        assert result["low"] <= float(found[1].replace(",", "")) <= result["high"], found[0]
    assert list((tmp_path / "content").iterdir()) == []
