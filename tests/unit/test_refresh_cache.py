"""A change outside a notebook makes the book run the notebook again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import refresh_cache

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setenv("STATEFUL_TFF_DATA", "synthetic")


@pytest.fixture
def book(tmp_path):
    """A book of two chapters: the second needs module b, which needs module a."""
    package = tmp_path / "notebooks/stateful_tff"
    package.mkdir(parents=True)
    for name, code in {
        "__init__": "",
        "session": "import os",
        "plots": "",
        "exercises": "",
        "a": "VALUE = 'first'",
        "b": "from .a import VALUE",
        "c": "from . import a",
        "unused": "from . import b",
        "rooms/__init__": "",
        "rooms/one": "from ..a import VALUE\nfrom . import two",
        "rooms/two": "",
    }.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / f"{name}.py").write_text(code + "\n")
    write_notebook(tmp_path, "01_one", "import math\nprint(math.pi)")
    results = "experiments/results/two.jsonl"
    write_notebook(
        tmp_path,
        "02_two",
        "from stateful_tff.b import VALUE\nprint('it is', VALUE)",
        "print(len('two'))",
    )
    (tmp_path / results).parent.mkdir(parents=True)
    (tmp_path / results).write_text("{}\n")
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    (tmp_path / "_config.yml").write_text(
        "title: Small\nonly_build_toc_files: true\nexecute: {execute_notebooks: cache}\n"
    )
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: notebooks/01_one\nchapters: [{file: notebooks/02_two}]\n"
    )
    return tmp_path


def write_notebook(root, name, *cells):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(f"# {name}"), *map(nbformat.v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, root / f"notebooks/{name}.ipynb")


def store_outputs(root):
    """Puts every notebook into the cache, as the build does after running it."""
    from jupyter_cache import get_cache

    cache = get_cache(str(root / refresh_cache.CACHE))
    for path in (root / "notebooks").glob("*.ipynb"):
        cache.cache_notebook_file(str(path), check_validity=False, overwrite=True)


def stored(root):
    from jupyter_cache import get_cache

    records = get_cache(str(root / refresh_cache.CACHE)).list_cache_records()
    return sorted(Path(record.uri).stem for record in records)


def modules(book, code, inside=""):
    return refresh_cache.imported_modules(code, book / "notebooks/stateful_tff", inside)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import stateful_tff.a", {"a"}),
        ("import stateful_tff.a as x, stateful_tff.b, os", {"a", "b"}),
        ("from stateful_tff.a import VALUE", {"a"}),
        ("from stateful_tff import a, b as c", {"a", "b"}),
        ("from stateful_tff import __version__", set()),
        ("from .a import VALUE", {"a"}),
        ("from . import a", {"a"}),
        ("def f():\n    from stateful_tff import b", {"b"}),
        ("from stateful_tff.rooms.one import X", {"rooms", "rooms.one"}),
        ("from stateful_tff.rooms import one, X", {"rooms", "rooms.one"}),
        ("import stateful_tff.rooms", {"rooms"}),
        ("import a\nfrom b import c\nfrom other.stateful_tff import a", set()),
    ],
)
def test_imports_in_every_form(book, code, names):
    assert modules(book, code) == names


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from . import two", {"rooms", "rooms.two"}),
        ("from .two import X", {"rooms", "rooms.two"}),
        ("from ..a import VALUE", {"a"}),
        ("from .. import b", {"b"}),
        ("from stateful_tff import c", {"c"}),
    ],
)
def test_imports_inside_a_room(book, code, names):
    assert modules(book, code, "rooms") == names


def test_magics_do_not_hide_imports(book):
    code = "%%time\nfrom stateful_tff import b\n!ls\n%matplotlib inline"
    write_notebook(book, "03_three", code, "def broken(", "from stateful_tff import c")
    files = refresh_cache.helper_files(book / "notebooks/03_three.ipynb")
    assert {file.stem for file in files} == {*refresh_cache.ALWAYS, "a", "b", "c"}


def test_rooms_are_followed_with_what_they_import(book):
    write_notebook(book, "03_three", "from stateful_tff.rooms.one import VALUE")
    files = refresh_cache.helper_files(book / "notebooks/03_three.ipynb")
    package = book / "notebooks/stateful_tff"
    found = {file.relative_to(package).as_posix() for file in files}
    common = {f"{name}.py" for name in refresh_cache.ALWAYS}
    assert found - common == {"rooms/__init__.py", "rooms/one.py", "rooms/two.py", "a.py"}


def test_modules_are_followed_and_the_common_ones_always_count(book):
    files = refresh_cache.helper_files(book / "notebooks/01_one.ipynb")
    assert {file.stem for file in files} == set(refresh_cache.ALWAYS)
    files = refresh_cache.helper_files(book / "notebooks/02_two.ipynb")
    assert {file.stem for file in files} == {*refresh_cache.ALWAYS, "a", "b"}


def test_nothing_changes_nothing(book):
    assert refresh_cache.refresh(book) == ([], ["01_one", "02_two"])
    store_outputs(book)
    assert refresh_cache.refresh(book) == ([], [])
    assert stored(book) == ["01_one", "02_two"]


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("notebooks/stateful_tff/a.py", ["02_two"]),
        ("notebooks/stateful_tff/b.py", ["02_two"]),
        ("notebooks/stateful_tff/unused.py", []),
        ("notebooks/stateful_tff/session.py", ["01_one", "02_two"]),
        ("experiments/results/two.jsonl", ["02_two"]),
        ("experiments/results/other.jsonl", []),
        ("requirements.txt", ["01_one", "02_two"]),
    ],
)
def test_a_change_is_felt_where_it_matters(book, file, again):
    refresh_cache.refresh(book)
    store_outputs(book)
    doctrees = book / refresh_cache.DOCTREES / "notebooks"
    doctrees.mkdir(parents=True)
    for name in ("01_one", "02_two"):
        (doctrees / f"{name}.doctree").touch()
    with open(book / file, "a") as f:
        f.write("# changed\n")
    assert refresh_cache.refresh(book) == (again, again)
    kept = sorted({"01_one", "02_two"} - set(again))
    assert stored(book) == kept
    assert sorted(path.stem for path in doctrees.iterdir()) == kept
    assert refresh_cache.refresh(book) == ([], again)


def test_new_data_runs_everything(book, monkeypatch, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    for path in (data, data / "ml-1m.zip"):
        monkeypatch.setenv("STATEFUL_TFF_DATA", str(path))
        (data / "ml-1m.zip").write_bytes(b"one")
        refresh_cache.refresh(book)
        store_outputs(book)
        assert refresh_cache.refresh(book) == ([], [])
        (data / "ml-1m.zip").write_bytes(b"two, longer")
        assert refresh_cache.refresh(book)[0] == ["01_one", "02_two"]
        store_outputs(book)
    monkeypatch.setenv("STATEFUL_TFF_DATA", "synthetic")
    assert refresh_cache.refresh(book)[0] == ["01_one", "02_two"]


def test_outputs_of_unknown_origin_are_not_trusted(book):
    store_outputs(book)
    assert refresh_cache.refresh(book)[0] == ["01_one", "02_two"]


def test_a_book_that_was_moved_is_refreshed(book, tmp_path_factory):
    refresh_cache.refresh(book)
    store_outputs(book)
    moved = tmp_path_factory.mktemp("moved") / "book"
    shutil.copytree(book, moved)
    assert refresh_cache.refresh(moved) == ([], [])
    (moved / "notebooks/stateful_tff/a.py").write_text("VALUE = 'second'\n")
    assert refresh_cache.refresh(moved) == (["02_two"], ["02_two"])


def build(root):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    jupyter_book = str(Path(sys.executable).parent / "jupyter-book")
    steps = (
        [sys.executable, str(ROOT / "tools/refresh_cache.py"), str(root)],
        [jupyter_book, "build", str(root), "-W", "-n", "--keep-going", "--quiet"],
    )
    done = [
        subprocess.run(step, env=environment, capture_output=True, text=True, timeout=120)
        for step in steps
    ]
    page = root / "_build/html/notebooks/02_two.html"
    return done, page.read_text(encoding="utf-8") if page.exists() else ""


def test_the_site_shows_the_new_output(book):
    package = book / "notebooks/stateful_tff"
    done, page = build(book)
    assert [step.returncode for step in done] == [0, 0], done[-1].stderr
    assert "it is first" in page

    (package / "a.py").write_text("VALUE = 'second, after a change of the helper'\n")
    done, page = build(book)
    assert done[0].stdout.splitlines()[-1] == "Chapters to run: 02_two."
    assert "it is second, after a change of the helper" in page
    assert "it is first" not in page


def test_a_failure_shows_in_every_build_until_it_is_repaired(book):
    (book / "notebooks/stateful_tff/a.py").write_text("raise ValueError('no value yet')\n")
    for _ in range(2):
        done, page = build(book)
        assert done[1].returncode != 0
        assert "no value yet" in page
    digests = json.loads((book / refresh_cache.CACHE / "helper_digests.json").read_text())
    assert set(digests) == {"01_one", "02_two"}
    (book / "notebooks/stateful_tff/a.py").write_text("VALUE = 'repaired'\n")
    done, page = build(book)
    assert done[1].returncode == 0, done[1].stderr
    assert "it is repaired" in page


def test_chapters_that_measure_no_time_run_side_by_side(book, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(book / "notebooks"))
    write_notebook(book, "03_timed", "import time\nprint(time.perf_counter() > 0)")
    write_notebook(book, "04_broken", "raise ValueError('no such thing')")
    chapters = ["01_one", "02_two", "03_timed", "04_broken"]
    refresh_cache.run_side_by_side(book, chapters)
    assert stored(book) == ["01_one", "02_two"]
