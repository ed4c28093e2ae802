"""The pages of the chapters lead to Colab, and the workflows bring the notebooks there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tools import repository
from tools.play_colab import COLABS_PYTHONS, ROOT

PLACE = "https://colab.research.google.com/github/reader/book/blob/colab/notebooks/"


def test_every_chapter_page_has_a_button_with_the_right_path(tmp_path):
    shutil.copytree(
        ROOT,
        tmp_path / "copy",
        ignore=shutil.ignore_patterns(".*", "_build", "_executed*", "tests"),
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


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8"))


def test_the_weekly_run_looks_for_a_python_that_is_tested_here():
    weekly = workflow("colab")
    assert weekly[True]["schedule"] and weekly["env"]["PYTHON"] in COLABS_PYTHONS
    checkout = next(s for s in weekly["jobs"]["chapters"]["steps"] if "uses" in s)
    assert checkout["with"]["ref"] == repository.BRANCH


def test_the_workflow_stamps_the_notebooks_and_pushes_them_where_the_buttons_lead(tmp_path):
    """Its commands, in a clone, with a bare repository in the place of the real one."""
    (step,) = (s for s in workflow("publish")["jobs"]["notebooks"]["steps"] if "run" in s)
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--bare", ROOT, origin], check=True)
    subprocess.run(["git", "clone", "-q", origin, clone], check=True)
    environment = {**os.environ, "GITHUB_SHA": "c0ffee"}
    run = ["bash", "-e", "-c", step["run"]]
    subprocess.run(run, cwd=clone, env=environment, check=True, capture_output=True)
    digest = repository.checksum(clone, repository.published(clone))
    for path in repository.chapters(ROOT):
        show = ["git", "-C", origin, "show", f"{repository.BRANCH}:notebooks/{path.name}"]
        text = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        assert rf"\"c0ffee\", \"{digest}\"\n" in text
