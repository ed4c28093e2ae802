"""The rules of the house: who may import whom, how long a module is, what it says of itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import refresh_cache

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "notebooks" / "stateful_tff"
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [file.relative_to(PACKAGE).as_posix() for file in FILES]
MOST_LINES = 400

LEAVES = {*("__init__", "checks", "colab", "exercises", "plans", "plots", "progress", "recorded")}
LEAVES |= {"fresh", "interrupts", "local_worker", "runtime", "session"}
ROWS = ["state", "data", "models", "methods", "engines"]  # each sees what stands left of it
MAY_IMPORT = {
    **{leaf: LEAVES for leaf in LEAVES},
    **{room: LEAVES | set(ROWS[: n + 1]) for n, room in enumerate(ROWS)},
    "stores": LEAVES | {"state", "stores"},
    "training": LEAVES | {"state", "training"},
    "evaluation": LEAVES | {"state", "data", "models", "evaluation"},
}
MAY_IMPORT["experiment"] = {*MAY_IMPORT, "experiment"}

every_module = pytest.mark.parametrize("file", FILES, ids=IDS)


def room_of(file):
    """The room of a module: its folder in the package, or its own name."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def inside(file):
    """The sub-package that a module stands in, with dots."""
    return ".".join(file.parent.relative_to(PACKAGE).parts)


def imported_rooms(source, inside=""):
    names = refresh_cache.imported_modules(source, PACKAGE, inside)
    return {name.partition(".")[0] for name in names}


def private_names(source):
    """The names with a leading underscore that some code takes from another of our modules."""

    def private(name):
        return name.startswith("_") and not name.endswith("__")

    tree, found, modules = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level or (node.module or "").partition(".")[0] == PACKAGE.name:
            found |= {alias.name for alias in node.names if private(alias.name)}
            modules |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                found.add(f"{node.value.id}.{node.attr}")
    return found


@every_module
def test_imports_go_only_to_rooms_on_the_left(file):
    assert room_of(file) in MAY_IMPORT, "this module stands in no room of the house"
    rooms = imported_rooms(file.read_text(encoding="utf-8"), inside(file))
    assert rooms <= MAY_IMPORT[room_of(file)]


@every_module
def test_no_private_name_crosses_a_module(file):
    assert private_names(file.read_text(encoding="utf-8")) == set()


@every_module
def test_no_module_is_longer_than_can_be_read(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@every_module
def test_every_module_says_what_it_does_and_what_it_knows_nothing_of(file):
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first, _, others = text.partition("\n")
    assert first.strip()
    assert re.search(r"(?m)(^|[.:] )Knows nothing of\s", others)


def test_every_room_is_a_package():
    folders = {file.parent for file in FILES}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []


YARD = ("notebooks/stateful_tff", "tools", "experiments", "tests")
# What each part of the yard may never import; nothing imports a conftest.
NEVER = {
    "notebooks/stateful_tff": {"conftest", "experiments", "tests", "tools"},
    "tools": {"conftest", "experiments", "tests"},
    "experiments": {"conftest", "tests"},
    "tests": {"conftest"},
}


@pytest.mark.parametrize("part", YARD)
def test_the_yard_imports_in_one_direction(part):
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        names |= {
            node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
        }
        assert not {name.partition(".")[0] for name in names} & NEVER[part], file
        assert not any(name.endswith("conftest") for name in names), file


def test_reading_ratings_does_not_load_what_colab_needs():
    code = "import sys, stateful_tff.data; print('stateful_tff.colab.bridge' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


def test_the_rules_can_be_broken():
    assert imported_rooms("from ..engines.round import trace", "methods") == {"engines"}
    assert imported_rooms("from stateful_tff import checks, state") == {"checks", "state"}
    assert "engines" not in MAY_IMPORT["methods"] and "stores" not in MAY_IMPORT["engines"]
    assert private_names("from .round import _trace, run") == {"_trace"}
    assert private_names("from . import round\nround._trace()") == {"round._trace"}
    assert private_names("import numpy as np\nnp._globals\nfrom . import __version__") == set()
