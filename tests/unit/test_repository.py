"""The address of the repository stands in one place, and every copy of it agrees."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from tools import export, repository

ROOT = Path(__file__).parents[2]
URL = "https://github.com/some-reader/the.book"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The files that hold the address."""
    for name in ("_config.yml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notebooks").mkdir()
    for path in repository.chapters(ROOT):
        shutil.copy(path, tmp_path / "notebooks")
    monkeypatch.setattr(export, "CONFIG", tmp_path / "_config.yml")
    return tmp_path


def set_address(copy, url):
    """Does what `make repository` does."""
    repository.put(copy, url)
    for path in repository.chapters(copy):
        notebook = nbformat.read(path, as_version=4)
        export.put_setup_cell(notebook)
        nbformat.write(notebook, path)


def test_no_copy_of_the_address_differs():
    assert repository.stale() == []
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert repository.address() == url
    for path in repository.chapters(ROOT):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
        assert cells.count(export.setup_cell()) == 1, path.name
        assert f'REPOSITORY, COMMIT, CHECKSUM = "{url}", "main", ""\n' in export.setup_cell()


def test_every_copy_is_set_and_found_when_it_differs(copy):
    set_address(copy, URL)
    config = yaml.safe_load((copy / "_config.yml").read_text())
    assert config["repository"]["url"] == URL
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert yaml.safe_load((copy / "CITATION.cff").read_text())["repository-code"] == URL
    assert repository.stale(copy) == []
    for name in ("README.md", "CITATION.cff"):
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace("some-reader/the.book", "another/book"))
        assert repository.stale(copy) == [name]
        (copy / name).write_text(text)
    set_address(copy, repository.address())
    for name in ("_config.yml", "README.md", "CITATION.cff"):
        assert (copy / name).read_text() == (ROOT / name).read_text()


def test_the_readme_has_one_badge_per_chapter_with_the_right_path(copy):
    set_address(copy, URL)
    links = re.findall(r"colab-badge\.svg\)\]\((\S+)\) ", (copy / "README.md").read_text())
    place = "https://colab.research.google.com/github/some-reader/the.book/blob/colab/notebooks/"
    assert links == [place + path.name for path in repository.chapters(ROOT)]


def test_notebooks_are_stamped_with_a_commit_and_change_in_nothing_else(copy):
    set_address(copy, URL)
    before = [path.read_text() for path in repository.chapters(copy)]
    repository.stamp(copy, "c0ffee", "abc")
    for path, text in zip(repository.chapters(copy), before, strict=True):
        old, new = text.split("\n"), path.read_text().split("\n")
        changed = [b for a, b in zip(old, new, strict=True) if a != b]
        assert changed == [
            rf'    "REPOSITORY, COMMIT, CHECKSUM = \"{URL}\", \"c0ffee\", \"abc\"\n",'
        ]
    with pytest.raises(ValueError, match="make export"):
        repository.stamp(copy, "again", "def")


def test_the_checksum_is_of_all_files_but_the_notebooks(tmp_path):
    names = ["b.py", "a/c.txt", "n.ipynb"]
    (tmp_path / "a").mkdir()
    for name in names:
        (tmp_path / name).write_text("1")
    first = repository.checksum(tmp_path, names)
    (tmp_path / "n.ipynb").write_text("2")
    assert repository.checksum(tmp_path, names[::-1]) == first
    (tmp_path / "b.py").write_text("2")
    assert repository.checksum(tmp_path, names) != first
    assert "notebooks/stateful_tff/session.py" in repository.published(ROOT)


@pytest.mark.parametrize("given", [URL, URL + "/", f" {URL}.git"])
def test_an_address_is_brought_to_its_shortest_form(given):
    assert repository.checked(given) == URL


@pytest.mark.parametrize("given", ["", "github.com/a/b", "https://gitlab.com/a/b", URL + "/tree"])
def test_an_address_that_colab_cannot_open_is_refused(given):
    script = ROOT / "tools" / "repository.py"
    done = subprocess.run([sys.executable, script, "--set", given], capture_output=True, text=True)
    assert done.returncode == 1 and "is not https://github.com/OWNER/NAME" in done.stderr
    assert repository.stale() == []
