"""Sessions as in Colab. The environment with TFF is made once, by the set-up cell; all share it."""

from pathlib import Path

import pytest

from tools.play_colab import (
    COLABS_PYTHONS,
    Repository,
    Session,
    colabs_variables,
    outer_python,
    text_of,
)


def pytest_addoption(parser):
    parser.addoption("--colab", type=Path, help="a folder that keeps the environments for later")


@pytest.fixture(scope="session")
def folder(request, tmp_path_factory):
    """The folder for everything."""
    kept = request.config.getoption("--colab")
    if kept is None:
        return tmp_path_factory.mktemp("colab")
    kept.mkdir(exist_ok=True)
    return kept.resolve()


@pytest.fixture(scope="session")
def book(folder):
    repository = Repository(folder)
    yield repository
    repository.server.shutdown()


@pytest.fixture(scope="session")
def colab(folder):
    return colabs_variables(folder)


@pytest.fixture(scope="session")
def open_session(folder, colab):
    """Opens a session under a version of Python; ends it with the tests, if not before."""
    opened = []

    def start(version, python=None, **environment):
        python = python or outer_python(folder, version)
        session = Session(python, colab | environment, folder / f"content{len(opened)}")
        opened.append(session)
        return session

    yield start
    for session in opened:
        session.end()


@pytest.fixture(scope="session", params=COLABS_PYTHONS)
def version(request):
    return request.param


@pytest.fixture(scope="session")
def session(version, open_session, book):
    """A session in which the set-up cell has run."""
    session = open_session(version)
    reply, outputs = session.set_up(book)
    assert reply["status"] == "ok", outputs
    assert not text_of(outputs, "stderr")
    session.said_at_first = text_of(outputs)
    return session


@pytest.fixture(scope="session")
def with_tff(open_session, book, colab):
    """The interpreter of the environment that the set-up cell has made."""
    pattern = ".cache/stateful_tff/environment-*/bin/python"
    if not list(Path(colab["HOME"]).glob(pattern)):
        open_session(COLABS_PYTHONS[0]).set_up(book)
    return next(Path(colab["HOME"]).glob(pattern))
