from pathlib import Path

import nbformat
import pytest


def pytest_addoption(parser):
    parser.addoption("--executed", default="_executed", help="folder of executed chapters")


def pytest_generate_tests(metafunc):
    if "chapter" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--executed"))
        paths = sorted(folder.glob("*.ipynb"))
        metafunc.parametrize("chapter", paths, ids=[p.stem for p in paths], indirect=True)


@pytest.fixture
def chapter(request):
    """An executed chapter; its path is in `chapter.metadata.path`."""
    notebook = nbformat.read(request.param, as_version=4)
    notebook.metadata.path = str(request.param)
    return notebook
