"""What the set-up cell does where it finds itself, and what it says when it cannot go on."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from stateful_tff.colab import environment, packages
from tools import export
from tools.play_colab import MEAN, UV, Session, text_of

NOTEBOOKS = export.PACKAGE.parent
TINY = "six==1.16.0 --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture(scope="module")
def own_python(folder):
    """The book's own environment, as the kernel of a notebook."""
    kernels = Path(sys.executable).parents[1] / "share" / "jupyter" / "kernels"
    place = folder / "own"
    if not place.exists():
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").symlink_to(sys.executable)
        (place / "kernels").symlink_to(kernels)
    return place / "bin" / "python"


def test_with_tff_present_the_cell_only_prints_what_it_runs_on(own_python, tmp_path):
    session = Session(own_python, dict(os.environ), NOTEBOOKS)
    try:
        session.run("import tensorflow_federated, stateful_tff.plots", timeout=120)
        start = time.monotonic()
        reply, outputs = session.run(export.setup_cell())
        assert time.monotonic() - start < 1 and reply["status"] == "ok"
        (output,) = outputs
        assert output.name == "stdout" and output.text.count("\n") == 1
        assert output.text.startswith("Python 3.1") and "TFF 0.87.0" in output.text
        session.run("import sys")
        assert session.value("'stateful_tff.colab.bridge' in sys.modules")
        assert session.value("sys.modules['stateful_tff.colab.bridge']._bridge is None")
    finally:
        session.end()


def test_a_fitting_python_without_tff_goes_on_by_itself(open_session, book, with_tff):
    """With the environment that the other tests have made, to save minutes."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([with_tff, "-c", ask], capture_output=True, text=True, check=True)
    session = open_session(done.stdout.strip())
    session.run(
        f"import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(book.checkout.parent / 'right' / 'notebooks')!r})\n"
        f"from stateful_tff.colab import environment\n"
        f"environment.make = lambda python: Path({str(with_tff)!r})"
    )
    reply, outputs = session.set_up(book)
    assert reply["status"] == "ok", outputs
    assert "TFF 0.87.0" in text_of(outputs) and not text_of(outputs, "stderr")
    session.run("import numpy")
    assert "outer-3.1" in session.value("sys.prefix")
    assert session.value("numpy.__version__ < '2'")
    _, outputs = session.run(MEAN)
    assert len(text_of(outputs).split()) == 2, outputs


@pytest.mark.parametrize("pythons, loaded", [((sys.version_info[:2],), True), ((), False)])
def test_a_python_that_does_not_fit_or_has_loaded_numpy_gets_another(monkeypatch, pythons, loaded):
    shell = types.SimpleNamespace(kernel="a kernel")
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(environment, "PYTHONS", pythons)
    monkeypatch.setattr(environment, "make", lambda python: python)
    started = []
    monkeypatch.setattr(environment.bridge, "start", started.append)
    monkeypatch.setattr(environment, "_go_on_with", lambda python: started.append("itself"))
    if loaded:
        import numpy  # noqa: F401
    else:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
    assert environment.supply() and started == [environment.ANY_OF_THEM]
    monkeypatch.setattr(environment, "PYTHONS", (sys.version_info[:2],))
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    assert not environment.supply() and started[1:] == ["itself"]


def said(session, code):
    """The one sentence in which a set-up cell has failed."""
    reply, outputs = session.run(code)
    assert reply["status"] == "error"
    return reply["evalue"]


def test_while_there_is_no_address_the_cell_says_so(open_session):
    sentence = said(open_session("3.13"), export.SETUP_CELL)
    assert "the address to fetch it from is not set" in sentence and sentence.endswith("folder.")


def test_a_repository_that_cannot_be_reached_is_said(open_session, book):
    session = open_session("3.13")
    for there, reason in ((book.address, "127.0.0.1:9"), ("c0ffee", "404")):
        code = book.setup_cell.replace(there, "http://127.0.0.1:9/b" if "9" in reason else "gone")
        sentence = said(session, code)
        assert "cannot be fetched" in sentence and sentence.endswith("run this cell again.")
        assert "refused" in sentence or reason in sentence


def test_files_that_are_not_the_published_ones_are_not_run(open_session, book):
    checksum = book.setup_cell.split('"')[5]
    assert len(checksum) == 64
    sentence = said(open_session("3.13"), book.setup_cell.replace(checksum, "0" * 64))
    assert "holds other files than this notebook was published with" in sentence


def test_a_server_that_stays_silent_is_given_up(open_session, book):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/reader/book"
        code = book.setup_cell.replace(book.address, address).replace("timeout=30", "timeout=1")
        sentence = said(open_session("3.13"), code)
    assert "cannot be fetched" in sentence and "timed out" in sentence


def test_a_folder_that_cannot_be_written_is_said(open_session, book, tmp_path):
    (tmp_path / "file").touch()
    session = open_session("3.13", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME to a folder of your own" in said(session, book.setup_cell)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock of one small package, and a cache that holds nothing."""
    lock = tmp_path / "requirements.txt"
    lock.write_text(TINY)
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{UV.parent}{os.pathsep}{os.environ['PATH']}")
    return lock


def failure(python=sys.executable):
    """The one sentence in which the making of an environment fails."""
    with pytest.raises(environment.SetUpError) as error:
        environment.make(python)
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    assert error.value._render_traceback_() == [f"SetUpError: {sentence}"]
    return sentence


def test_a_package_with_another_hash_is_refused(lock):
    sentence = failure()
    assert "not, bit for bit," in sentence and "Hash mismatch for `six==1.16.0`" in sentence
    lock.write_text(SIX)
    python = environment.make(sys.executable)  # repaired: nothing of the failure is in the way
    assert subprocess.run([python, "-c", "import six, pip"]).returncode == 0


SIX = TINY.replace("0" * 64, "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254")


def version_of_six(python):
    ask = "from importlib.metadata import version; print(version('six'))"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "harm",
    [
        "-m pip install -q six==1.15.0",
        "-m pip uninstall -q -y six",
        "-c 'import os, six; os.remove(six.__file__)'",
        "-m pip install -q --force-reinstall --no-deps six==1.16.0",
    ],
)
def test_a_spoiled_environment_is_made_again(lock, capsys, harm):
    lock.write_text(SIX)
    python = environment.make(sys.executable)
    subprocess.run(f"{python} {harm}", shell=True, check=True)
    capsys.readouterr()
    assert environment.make(sys.executable) == python
    assert "were changed; making their environment again" in capsys.readouterr().out
    assert version_of_six(python) == "1.16.0"
    assert subprocess.run([python, "-c", "import six"]).returncode == 0
    environment.make(sys.executable)
    assert capsys.readouterr().out == ""


def test_what_is_added_does_not_spoil_and_what_cells_install_keeps_to_the_lock(lock, capsys):
    lock.write_text(SIX)
    python = environment.make(sys.executable)
    install = [python, "-m", "pip", "install", "-q"]
    env = environment.bridge.environment_of(python)
    done = subprocess.run([*install, "six==1.15.0"], env=env, capture_output=True)
    assert done.returncode != 0 and version_of_six(python) == "1.16.0"
    folder = next(python.parents[1].glob("lib/python3.*/site-packages"))
    (folder / "own-1.dist-info").mkdir()
    (folder / "own-1.dist-info" / "RECORD").touch()
    capsys.readouterr()
    environment.make(sys.executable)
    assert capsys.readouterr().out == ""


def test_packages_are_not_taken_from_under_a_running_notebook(lock):
    lock.write_text(SIX)
    python = environment.make(sys.executable)
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "six"], check=True)
    running = subprocess.Popen([python, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert "a notebook still runs with them; end its session" in failure()
    finally:
        running.kill()
        running.wait()
    environment.make(sys.executable)
    assert version_of_six(python) == "1.16.0"


def test_a_readers_own_settings_of_uv_say_only_where_packages_come_from(lock, monkeypatch):
    lock.write_text(SIX)
    own = lock.parent / "config" / "uv"
    own.mkdir(parents=True)
    (own / "uv.toml").write_text(
        f'link-mode = "symlink"\noffline = false\n[pip]\ntarget = "{lock.parent}/elsewhere"\n'
        '[[index]]\nurl = "https://index.example/simple"\ndefault = true\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(lock.parent / "config"))
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    seen = packages.environment_for_uv()
    assert seen["UV_INDEX_URL"] == "https://index.example/simple" and seen["UV_NO_CONFIG"] == "1"
    assert seen["UV_OFFLINE"] == "false"
    (own / "uv.toml").write_text(f'[pip]\ntarget = "{lock.parent}/elsewhere"\n')
    assert version_of_six(environment.make(sys.executable)) == "1.16.0"
    assert not (lock.parent / "elsewhere").exists()


def test_packages_that_went_elsewhere_are_missed(lock, monkeypatch):
    lock.write_text(SIX)
    monkeypatch.setattr(environment.packages, "missing", lambda *_: ["six"])
    assert "but six is not in" in failure()


@pytest.mark.parametrize("cache", ["relative/cache", "~/cache"])
def test_the_cache_may_be_named_in_any_way(lock, monkeypatch, cache):
    lock.write_text(SIX)
    monkeypatch.chdir(lock.parent)
    monkeypatch.setenv("HOME", str(lock.parent / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    python = environment.make(sys.executable)
    assert python.is_absolute() and python.is_relative_to(lock.parent)
    assert version_of_six(python) == "1.16.0"


def test_another_users_cache_is_not_run_and_ones_own_is_closed_to_others(lock, monkeypatch):
    lock.write_text(SIX)
    place = lock.parent / "cache" / "stateful_tff"
    place.mkdir(parents=True, mode=0o777)
    place.chmod(0o777)
    environment.make(sys.executable)
    assert place.stat().st_mode & 0o777 == 0o755
    monkeypatch.setattr(environment.os, "getuid", lambda: place.stat().st_uid + 1)
    assert "belongs to another user" in failure()


def test_passwords_in_addresses_are_not_shown(lock, monkeypatch, capsys):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.setenv(name, "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(lock.parent / "empty"))
    assert "secret" not in failure() + capsys.readouterr().out
    said = "at https://me:sec@ret@host/simple, `http://token@host`, for me@host.example"
    shown = "at https://…@host/simple, `http://…@host`, for me@host.example"
    assert packages.without_secrets(said) == shown


def test_no_network(lock, monkeypatch):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(lock.parent / "empty"))
    assert failure().startswith("A download failed (Failed to fetch")


def test_no_python(lock, monkeypatch):
    (lock.parent / "bin").mkdir()
    (lock.parent / "bin" / "uv").symlink_to(UV)
    monkeypatch.setenv("PATH", str(lock.parent / "bin"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(lock.parent / "none"))
    sentence = failure(environment.ANY_OF_THEM)
    assert "there is none here" in sentence and "apt install python3.11" in sentence


def test_little_disk(lock, monkeypatch):
    usage = shutil.disk_usage(lock.parent)._replace(free=10**9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: usage)
    assert "needs 4 GB of disk" in failure() and "1.0 are free" in failure()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up(lock, monkeypatch):
    cache = lock.parent / "cache"
    cache.mkdir()
    monkeypatch.setattr(environment, "NEEDED_GB", 0)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", cache])
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        assert failure().startswith("The disk is full")
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_folder_that_cannot_be_written(lock):
    (lock.parent / "cache").write_text("a file in its place")
    assert "cannot be made in" in failure() and "set XDG_CACHE_HOME" in failure()


def test_no_uv_and_no_pip(lock, monkeypatch):
    monkeypatch.setenv("PATH", str(lock.parent))
    monkeypatch.setattr(environment.sys, "executable", "/bin/false")
    assert "uv, which makes the environment for TFF, is not here" in failure("3.11")


def test_no_uv_but_pip(lock, monkeypatch):
    monkeypatch.setenv("PATH", str(lock.parent))
    (lock.parent / "cache" / "stateful_tff").mkdir(parents=True)
    uv = environment._find_uv()
    pinned = re.search(r"(?m)^uv==(\S+)", packages.LOCK.read_text())[1]
    assert (
        subprocess.run([uv, "--version"], capture_output=True).stdout.split()[1] == pinned.encode()
    )
    assert Path(uv).is_relative_to(lock.parent) and uv == environment._find_uv()
    assert subprocess.run([uv, "--version"]).returncode == 0


def test_another_kind_of_machine(lock, monkeypatch):
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    assert failure().startswith("TFF runs only on Linux with an Intel or AMD processor")


def test_no_lock(lock):
    lock.unlink()
    assert "is missing; get the whole repository" in failure()


def test_outside_a_notebook(monkeypatch):
    monkeypatch.setattr(environment, "PYTHONS", ())
    with pytest.raises(environment.SetUpError, match="work in a Jupyter notebook"):
        environment.supply()


def test_words_for_what_nobody_has_foreseen():
    sentence = environment._in_words(["uv", "pip", "install"], "hello\nerror: odd\n  cause: x\n")
    assert sentence == "The environment for TFF cannot be made (error: odd); run this cell again."
