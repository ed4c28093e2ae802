"""Supplies TFF to a notebook whose own Python does not have it, as in Colab.

The packages of the book's lock go into an environment of their own, made once by uv. A Python
that can hold TFF goes on by itself with those packages. Any other starts a second Python in
that environment and runs the later cells there (`bridge`).

Knows nothing of federated learning: of TFF only its version and which Pythons can hold it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

from . import bridge, packages

LOCK = packages.LOCK
TFF_VERSION = "0.87.0"
PYTHONS = ((3, 10), (3, 11))
ANY_OF_THEM = ">=3.10,<3.12"  # the same, in uv's words
NEEDED_GB = 4
CONSTRAINTS = "constraints.txt"  # beside the packages: what `%pip` has to keep to
AGAIN = "run this cell again"
# What uv says, and what that means for the reader; `…` stands for uv's own words.
TROUBLES = {
    r"No space left on device|os error 28": "The disk is full: the environment for TFF takes "
    f"about 3 GB, so free some space and {AGAIN}.",
    r"Hash mismatch for `[^`]+`": "A package that arrived is not, bit for bit, the one the book "
    f"was tested with (…), so the download was damaged or changed on its way; {AGAIN}, and if it "
    "stays so, use another network or package index.",
    r"No interpreter found[^\n]*": "TFF needs Python 3.10 or 3.11, and there is none here (…); "
    f"install one, on Debian or Ubuntu with `apt install python3.11`, and {AGAIN}.",
    r"(Failed to (fetch|download)|error sending request)[^\n]*": "A download failed (…); check "
    f"the network and {AGAIN}, which keeps what has arrived.",
}


class SetUpError(bridge.BridgeError):
    """TFF cannot be supplied; shown as one sentence that says what to do."""


def is_complete() -> bool:
    """Returns whether this very Python has the TFF of the book."""
    try:
        installed = metadata.version("tensorflow-federated")
    except metadata.PackageNotFoundError:
        return False
    return installed == TFF_VERSION and sys.version_info[:2] in PYTHONS


def supply() -> bool:
    """Supplies TFF to this notebook.

    Returns:
        Whether the later cells run in another Python now.

    Raises:
        SetUpError: in one sentence that says what is wrong and what to do.
    """
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    # A NumPy that is already loaded cannot be replaced by the one that TFF needs.
    if sys.version_info[:2] in PYTHONS and "numpy" not in sys.modules:
        _go_on_with(make(sys.executable))
        return False
    if not hasattr(get_ipython(), "kernel"):
        raise SetUpError(
            f"TFF {TFF_VERSION} needs Python 3.10 or 3.11, and this is "
            f"{platform.python_version()}; make an environment with `make book`, or work in a "
            "Jupyter notebook, which gets one by itself."
        )
    bridge.start(make(ANY_OF_THEM))
    return True


def _go_on_with(python: Path) -> None:
    """Puts the packages of an environment of the same Python first in this process."""
    before = list(sys.path)
    (packages,) = python.parents[1].glob("lib/python3.*/site-packages")
    site.addsitedir(str(packages))
    sys.path.sort(key=lambda place: place in before)  # the new ones first, else as it was
    importlib.invalidate_caches()
    os.environ.update(PATH=bridge.environment_of(python)["PATH"])


def make(python: str) -> Path:
    """Makes an environment with the packages of the lock, unless it is there already.

    Args:
        python: which Python, as uv understands it: a path or a range of versions.

    Returns:
        The environment's interpreter.

    Raises:
        SetUpError: in one sentence that says what is wrong and what to do.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetUpError(
            "TFF runs only on Linux with an Intel or AMD processor, and this is "
            f"{platform.system()} on {platform.machine()}; open the notebook in Colab."
        )
    if not LOCK.is_file():
        raise SetUpError(f"The list of packages, {LOCK}, is missing; get the whole repository.")
    wanted = hashlib.sha256(LOCK.read_bytes() + python.encode()).hexdigest()[:12]
    place = _cache() / f"environment-{wanted}"
    interpreter, complete = place / "bin" / "python", place / "complete"
    with _one_at_a_time(place):
        if not (complete.exists() and interpreter.exists()):
            print(
                f"TFF {TFF_VERSION} is not in this Python {platform.python_version()}. Making an "
                "environment for it takes a minute or two, once.",
                flush=True,
            )
        elif complete.read_text("utf-8") == packages.contents(place, LOCK):
            return interpreter
        elif packages.is_in_use(interpreter):
            raise SetUpError(
                f"The packages in {place} were changed, as `%pip install` can do, and a notebook "
                f"still runs with them; end its session and {AGAIN}."
            )
        else:
            print("The packages for TFF were changed; making their environment again.", flush=True)
        _check_space(place.parent)
        uv = _find_uv()
        complete.unlink(missing_ok=True)
        _run([uv, "venv", "--clear", "--seed", "--python", python, str(place)])
        _run(
            [uv, "pip", "install", "--python", str(interpreter)]
            + ["--no-deps", "--require-hashes", "-r", str(LOCK)]
        )
        lacking = packages.missing(place, LOCK)
        if lacking:
            raise SetUpError(
                f"uv reports success, but {lacking[0]} is not in {place}: a setting of uv on this "
                f"machine sends packages elsewhere; remove it and {AGAIN}."
            )
        lines = packages.locked(LOCK)
        (place / CONSTRAINTS).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        complete.write_text(packages.contents(place, LOCK), "utf-8")
    return interpreter


def _cache() -> Path:
    """Returns the folder of the environments.

    Raises:
        SetUpError: if it cannot be made, or is another user's.
    """
    named = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(named).expanduser().absolute() / "stateful_tff"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        if status.st_uid != os.getuid():
            raise SetUpError(
                f"{place} belongs to another user, whose programs are not run in your name; set "
                f"XDG_CACHE_HOME to a folder of your own, and {AGAIN}."
            )
        place.chmod(status.st_mode & ~0o022)
    except OSError as error:
        raise _no_cache(place, error) from None
    return place


def _no_cache(place: Path, error: OSError) -> SetUpError:
    return SetUpError(
        f"The environment for TFF cannot be made in {place} ({error.strerror}); set "
        f"XDG_CACHE_HOME to a folder that you may write to, and {AGAIN}."
    )


@contextlib.contextmanager
def _one_at_a_time(place: Path):
    """Lets a second notebook wait until the first has made the environment."""
    import fcntl

    try:
        file = open(place.with_suffix(".lock"), "w")
    except OSError as error:
        raise _no_cache(place.parent, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_space(folder: Path) -> None:
    """Raises before an installation that cannot end well."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GB:
        raise SetUpError(
            f"The environment for TFF needs {NEEDED_GB} GB of disk in {folder}, and {free:.1f} "
            f"are free; free some space and {AGAIN}."
        )


def _find_uv() -> str:
    """Returns the path of uv; if need be, pip installs the one of the lock beside environments."""
    own = _cache() / "uv"
    found = shutil.which("uv", path=f"{os.environ.get('PATH', '')}{os.pathsep}{own / 'bin'}")
    if found is None:
        found, wanted = str(own / "bin" / "uv"), own.with_suffix(".txt")
        wanted.write_text(packages.pinned("uv"), "utf-8")
        _run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", str(own)]
            + ["--no-deps", "--require-hashes", "-r", str(wanted)]
        )
    return found


def _run(command: list[str]) -> None:
    """Runs a command, shows its last line and the seconds, and puts its failure into words."""
    lines, start = [""], time.monotonic()
    with subprocess.Popen(
        command,
        cwd=_cache(),
        env=packages.environment_for_uv(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        said = map(packages.without_secrets, process.stdout)
        reader = threading.Thread(target=lambda: lines.extend(said), daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(timeout=1)
                seconds = time.monotonic() - start
                print(f"\r{seconds:4.0f} s  {lines[-1].strip():70.70}", end="", flush=True)
        except BaseException:
            process.kill()
            raise
    print(flush=True)
    if process.returncode:
        raise SetUpError(_in_words(command, "".join(lines)))


def _in_words(command: list[str], said: str) -> str:
    """Says in one sentence why a command has failed and what to do."""
    for pattern, sentence in TROUBLES.items():
        found = re.search(pattern, said)
        if found:
            return sentence.replace("…", found[0].rstrip("."))
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    reason = next((line for line in lines if "rror" in line), lines[-1] if lines else "no reason")
    if "pip" in command[1:3] and "-m" in command:
        return (
            f"uv, which makes the environment for TFF, is not here, and pip cannot install it "
            f"({reason}); install it as https://docs.astral.sh/uv says and {AGAIN}."
        )
    return f"The environment for TFF cannot be made ({reason}); {AGAIN}."
