"""How `environment.sh` finds a Python, and what it says when it cannot. Nothing is installed."""

import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from stateful_tff.colab import packages

ROOT = Path(__file__).parents[2]
UNFIT = "#!/bin/sh\nexit 1\n"
# Takes part in the play of an interpreter: notes what it is asked to do, and does nothing.
PLAYED = '#!/bin/sh\necho "$@" >> "{log}"\ncase "$*" in *"{fails}"*) exit 1;; esac\n'


TOOLS = (
    "sh",
    "dirname",
    "rm",
    "mv",
    "mkdir",
    "cp",
    "cat",
    "cmp",
    "touch",
    "uname",
    "grep",
    "sleep",
)


@pytest.fixture
def stage(tmp_path):
    """A copy of the script with a PATH of its own, on which every Python is unfit."""
    for name in ("environment.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
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
    assert asked == "uv venv --quiet --seed --python 3.11 .venv"
    assert "--no-deps --require-hashes -r requirements.txt" in installed
    assert "ipykernel install --sys-prefix --name python3" in kernel


def test_a_uv_that_fails_is_not_said_to_be_missing(stage):
    write(stage / "bin" / "uv", "#!/bin/sh\nexit 2\n")
    done = run(stage)
    assert done.returncode == 1 and "uv could not supply Python 3.11" in done.stderr
    assert "install uv" not in done.stderr


def test_a_failed_installation_leaves_nothing_and_says_so(stage):
    add_uv(stage, fails="-m pip")
    done = run(stage)
    assert done.returncode == 1 and "could not be installed" in done.stderr
    assert "Nothing is left behind." in done.stderr and not (stage / ".venv").exists()


def test_another_system_is_told_before_anything_is_made(stage):
    add_uv(stage)
    (stage / "bin" / "uname").unlink()
    write(stage / "bin" / "uname", "#!/bin/sh\necho Darwin arm64\n")
    done = run(stage)
    assert done.returncode == 1 and "this is Darwin arm64" in done.stderr
    assert not (stage / ".venv").exists() and not (stage / "log").exists()


@pytest.fixture
def older(stage):
    """An environment that was made from an older lock, by this script."""
    (stage / ".venv").mkdir()
    (stage / ".venv" / "lock").write_text("an older lock")
    (stage / ".venv" / "mine").write_text("kept")
    return stage / ".venv"


@pytest.mark.parametrize("fails", ["-m pip", "ipykernel install"])
def test_without_a_network_the_environment_that_was_there_stays(stage, older, fails):
    add_uv(stage, fails=fails)
    done = run(stage)
    assert done.returncode == 1 and "is as it was" in done.stderr
    assert (older / "mine").read_text() == "kept" and not (stage / ".venv.before").exists()


def test_an_interrupt_brings_the_old_environment_back(stage, older):
    add_uv(stage)
    (stage / "played").write_text(f'#!/bin/sh\n: > "{stage}/started"\nexec sleep 30\n')
    process = subprocess.Popen(
        ["sh", "./environment.sh", ".venv"],
        cwd=stage,
        env={"PATH": str(stage / "bin")},
        start_new_session=True,
        # A shell that starts with interrupts ignored, as in the background, cannot heed them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (stage / "started").exists():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert (older / "mine").read_text() == "kept" and not (stage / ".venv.before").exists()


def test_a_kill_is_repaired_by_the_next_run(stage, older):
    add_uv(stage, fails="-m pip")
    older.rename(stage / ".venv.before")
    (stage / ".venv").mkdir()
    (stage / ".venv" / "unfinished").touch()
    assert run(stage).returncode == 1
    assert (stage / ".venv" / "mine").read_text() == "kept"


def test_a_new_environment_takes_the_place_of_an_older_one(stage, older):
    add_uv(stage)
    assert run(stage).returncode == 0
    assert (older / "lock").read_text() == (ROOT / "requirements.txt").read_text()
    assert not (older / "mine").exists() and not (stage / ".venv.before").exists()
    log = (stage / "log").read_text()
    os.utime(stage / "requirements.txt")
    assert run(stage).returncode == 0 and (stage / "log").read_text() == log
    assert (older / "lock").stat().st_mtime >= (stage / "requirements.txt").stat().st_mtime


def test_an_environment_made_by_hand_is_kept_beside_the_new_one(stage, older):
    add_uv(stage)
    (older / "lock").unlink()
    assert "it is now .venv.before" in run(stage).stdout
    assert (stage / ".venv.before" / "mine").read_text() == "kept"


@pytest.mark.parametrize("works", [True, False])
def test_a_link_and_what_it_leads_to_are_left_alone(stage, older, works):
    add_uv(stage, fails="nothing" if works else "-m pip")
    older.rename(stage / "shared")
    older.symlink_to(stage / "shared")
    done = run(stage)
    assert done.returncode == 1 and ".venv is a link" in done.stderr
    assert older.is_symlink() and (older / "mine").read_text() == "kept"
    shutil.copy(stage / "requirements.txt", stage / "shared" / "lock")
    assert run(stage).returncode == 0
    assert not (stage / "log").exists()


@pytest.mark.parametrize("place", ["", "experiments/benchmarks", "tools/lab"])
def test_the_lock_is_exact_and_hashed_and_holds_what_is_asked_for(place):
    lock = (ROOT / place / "requirements.txt").read_text()
    entries = [line for line in lock.splitlines() if line and line[0] not in "# "]
    assert entries and all("==" in entry and entry.endswith("\\") for entry in entries)
    assert lock.count("--hash=sha256:") > len(entries)
    locked = {entry.split("==")[0] for entry in entries}
    for line in (ROOT / place / "requirements.in").read_text().splitlines():
        request, _, reason = line.partition("#")
        if request.strip():
            name = Requirement(request).name
            assert name in locked, name
            assert reason.strip(), f"{name} has no reason"


def test_workflows_take_actions_by_commit_and_what_colab_installs_has_a_hash():
    used = [
        line.partition("uses:")[2].split("#")[0].strip()
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in used)
    pinned = packages.pinned("uv")
    assert re.match(r"uv==[\d.]+ ", pinned) and "--hash=sha256:" in pinned
    assert pinned.count("==") == 1
