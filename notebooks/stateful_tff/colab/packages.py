"""What stands in the lock, what an environment really holds, and how uv gets at packages.

Knows nothing of notebooks, nor of TFF.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

LOCK = Path(__file__).resolve().parents[3] / "requirements-run.txt"
# What others set for their own installations would change ours.
NOT_OURS = {
    *("UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE"),
    *("UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_CONFIG_FILE", "UV_NO_BINARY", "UV_EXCLUDE"),
    *("UV_PROJECT", "UV_WORKING_DIR", "UV_ENV_FILE", "UV_TARGET", "UV_PREFIX"),
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONSTRAINT"),
    *("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"),
}
# Of a reader's configuration of uv only this counts: where packages come from.
SOURCES = {
    **{"index-url": "UV_INDEX_URL", "extra-index-url": "UV_EXTRA_INDEX_URL"},
    **{"find-links": "UV_FIND_LINKS", "offline": "UV_OFFLINE", "cache-dir": "UV_CACHE_DIR"},
    **{"native-tls": "UV_NATIVE_TLS", "system-certs": "UV_SYSTEM_CERTS"},
    **{"allow-insecure-host": "UV_INSECURE_HOST", "keyring-provider": "UV_KEYRING_PROVIDER"},
    "python-install-mirror": "UV_PYTHON_INSTALL_MIRROR",
}


def without_secrets(text: str) -> str:
    """Returns what a program says, without the users and passwords in its addresses."""
    return re.sub(r"://[^\s`'\"]*@", "://…@", text)


def environment_for_uv() -> dict[str, str]:
    """Returns this process's environment variables as uv and pip should see them."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    return _sources() | kept | {"UV_NO_CONFIG": "1"}


def _sources() -> dict[str, str]:
    """Returns what the reader's and the machine's configuration say of package indexes."""
    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11, whose pip brings it
        from pip._vendor import tomli as tomllib
    own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "uv" / "uv.toml"
    named = os.environ.get("UV_CONFIG_FILE")
    found = {}
    for file in [Path("/etc/uv/uv.toml"), Path(named) if named else own]:
        try:
            settings = tomllib.loads(file.read_text("utf-8"))
        except (OSError, ValueError):  # none, or one that uv itself could not read
            continue
        settings |= settings.get("pip", {})
        for index in settings.get("index", []):
            key = "index-url" if index.get("default") else "extra-index-url"
            settings.setdefault(key, index.get("url"))
        for key, variable in SOURCES.items():
            if (value := settings.get(key)) is not None:
                parts = value if isinstance(value, list) else [value]
                parts = [str(p).lower() if isinstance(p, bool) else str(p) for p in parts]
                found[variable] = " ".join(parts)
    return found


def locked(lock: Path) -> list[str]:
    """Returns the requirements of a lock without their hashes, such as "six==1.16.0"."""
    lines = re.findall(r"(?m)^[A-Za-z0-9][\w.-]*==[^\\\n]*", lock.read_text("utf-8"))
    return [line.partition(" --hash")[0].strip() for line in lines]


def pinned(name: str) -> str:
    """Returns the entry of a package in the book's lock, hashes included."""
    return re.search(rf"(?m)^{name}==(?:.*\\\n)*.*\n?", LOCK.read_text("utf-8"))[0]


def contents(place: Path, lock: Path) -> str:
    """Returns what an environment holds of a lock's packages; any change changes the text.

    A package counts as changed if its version or its list of files is another, or if a file or
    folder of its first level is gone. Packages that were added do not count.
    """
    found, names = [], {_plain(line.partition("==")[0]) for line in locked(lock)}
    for name, folder in sorted(_installed(place).items()):
        record = folder / "RECORD"
        if name in names and record.is_file():
            text = record.read_text("utf-8", errors="replace")
            firsts = {line.partition(",")[0].strip('"').split("/")[0] for line in text.splitlines()}
            gone = [first for first in firsts if not (folder.parent / first).exists()]
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            found.append(f"{folder.name} {digest} {' '.join(sorted(gone))}\n")
    return "".join(found)


def missing(place: Path, lock: Path) -> list[str]:
    """Returns which packages of a lock an environment lacks, those for some systems aside."""
    there = _installed(place)
    names = [line.partition("==")[0] for line in locked(lock) if ";" not in line]
    return [name for name in names if _plain(name) not in there]


def is_in_use(interpreter: Path) -> bool:
    """Returns whether a process runs this interpreter, as another notebook's kernel does."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if command.read_bytes().partition(b"\0")[0] == os.fsencode(interpreter):
                return True
        except OSError:  # it has ended while we looked, or is somebody else's
            pass
    return False


def _installed(place: Path) -> dict[str, Path]:
    """Returns the packages of an environment: by name the folder that describes each."""
    folders = place.glob("lib/python3.*/site-packages/*.dist-info")
    return {_plain(folder.name.partition("-")[0]): folder for folder in folders}


def _plain(name: str) -> str:
    """Returns a package's name in the one form that all its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()
