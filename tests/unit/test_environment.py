"""How `environment.sh` finds a Python, and what it says when it cannot. Nothing is installed."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
UNFIT = "#!/bin/sh\nexit 1\n"
# Takes part in the play of an interpreter: notes what it is asked to do, and does nothing.
PLAYED = '#!/bin/sh\necho "$@" >> "{log}"\ncase "$*" in *"{fails}"*) exit 1;; esac\n'


@pytest.fixture
def stage(tmp_path):
    """A copy of the script with a PATH of its own, on which every Python is unfit."""
    for name in ("environment.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in ("sh", "dirname", "rm", "mkdir", "cp", "cat"):
        (programs / tool).symlink_to(shutil.which(tool))
    for python in ("python3", "python3.11", "python3.10"):
        write(programs / python, UNFIT)
    return tmp_path


def write(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def add_uv(stage, fails="nothing"):
    """Puts a uv on the PATH that makes a played environment."""
    write(stage / "played", PLAYED.format(log=stage / "log", fails=fails))
    write(
        stage / "bin" / "uv",
        f'#!/bin/sh\necho uv "$@" >> "{stage}/log"\nmkdir -p .venv/bin\n'
        f'cp "{stage}/played" .venv/bin/python\n',
    )


def run(stage):
    return subprocess.run(
        ["sh", "./environment.sh", ".venv"],
        cwd=stage,
        env={"PATH": str(stage / "bin"), "HOME": os.devnull},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_python_and_without_uv_it_says_what_to_install(stage):
    done = run(stage)
    assert done.returncode == 1
    assert "needs Python 3.10 or 3.11" in done.stderr and "or install uv" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (stage / ".venv").exists()


def test_uv_supplies_a_python_where_there_is_none(stage):
    add_uv(stage)
    done = run(stage)
    assert done.returncode == 0, done.stderr
    asked, installed, kernel = (stage / "log").read_text().splitlines()
    assert asked == "uv venv --quiet --clear --seed --python 3.11 .venv"
    assert "--no-deps --require-hashes -r requirements.txt" in installed
    assert "ipykernel install --sys-prefix --name python3" in kernel


def test_a_failed_installation_leaves_nothing_and_says_so(stage):
    add_uv(stage, fails="-m pip")
    done = run(stage)
    assert done.returncode == 1 and "could not be installed" in done.stderr
    assert not (stage / ".venv").exists()


def test_the_lock_is_exact_and_hashed_and_holds_what_is_asked_for():
    lock = (ROOT / "requirements.txt").read_text()
    entries = [line for line in lock.splitlines() if line and line[0] not in "# "]
    assert entries and all("==" in entry and entry.endswith("\\") for entry in entries)
    assert lock.count("--hash=sha256:") > len(entries)
    locked = {entry.split("==")[0] for entry in entries}
    for line in (ROOT / "requirements.in").read_text().splitlines():
        request, _, reason = line.partition("#")
        if request.strip():
            name = Requirement(request).name
            assert name in locked, name
            assert reason.strip(), f"{name} has no reason"
