"""The pages of the chapters lead to Colab, each to its own notebook."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import ROOT, repository

PLACE = "https://colab.research.google.com/github/reader/book/blob/colab/notebooks/"


def test_every_chapter_page_has_a_button_with_the_right_path(tmp_path):
    shutil.copytree(
        ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "_build", "_executed", "tests")
    )
    copy = tmp_path / "copy"
    repository.put(copy, "https://github.com/reader/book")
    config = yaml.safe_load((copy / "_config.yml").read_text())
    config["execute"]["execute_notebooks"] = "off"
    (copy / "_config.yml").write_text(yaml.safe_dump(config))
    chapters = [f"notebooks/{path.stem}" for path in repository.chapters(copy)]
    toc = {"format": "jb-book", "root": "book/intro", "chapters": [{"file": c} for c in chapters]}
    (copy / "_toc.yml").write_text(yaml.safe_dump(toc))
    builder = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([builder, "build", copy, "--quiet"], check=True, capture_output=True)
    for chapter in chapters:
        page = (copy / "_build" / "html" / f"{chapter}.html").read_text("utf-8")
        assert f'href="{PLACE}{Path(chapter).name}.ipynb"' in page, chapter
    assert "colab.research.google.com" not in (copy / "_build/html/book/intro.html").read_text()
