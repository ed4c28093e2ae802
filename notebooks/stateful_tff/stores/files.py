"""The files of an SQLite store, as people find, copy and move them.

Knows nothing of runs and states.
"""

import contextlib
import os
import sqlite3
import urllib.parse
from pathlib import Path

from .errors import StoreError

_MAGIC = b"SQLite format 3\0"


def identity(path: str) -> tuple[int, int] | None:
    """Returns what tells a file from any other, whatever its name; None where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def log_of(path: str) -> str:
    """Returns the path of the log of an SQLite file: commits lie there first."""
    return f"{path}-wal"


def make_owner_only(path: str) -> None:
    """Makes an SQLite file that its owner alone can read; SQLite gives its logs the same rights.

    A file that holds something else than a database is left as it is.
    """
    if not os.path.exists(path):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if _start(path) not in (b"", _MAGIC):
        return
    for name in (path, log_of(path), f"{path}-shm", f"{path}-journal"):
        with contextlib.suppress(OSError):  # there is none, or it is not ours
            mode = os.stat(name).st_mode & 0o777
            if mode & 0o077:
                os.chmod(name, mode & 0o700)


def _start(path: str, size: int = 16) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def refuse_half_a_store(path: str) -> None:
    """Refuses a file that lacks what its log held, which SQLite would take for an empty one.

    Raises:
        StoreError: if the file is empty beside its log, or made for a log and without tables.
    """
    log = log_of(path)
    if os.path.getsize(path) == 0 and os.path.exists(log) and os.path.getsize(log):
        raise StoreError(
            f"{path} is empty, and its log {log} is not: it is damaged; go back to a backup, and "
            "remove the log."
        )
    is_logged = _start(path, 19)[18:] == b"\2"
    if is_logged and not os.path.exists(log) and alone(path, "SELECT 1 FROM sqlite_master") == []:
        raise StoreError(
            f"{path} holds nothing and lacks its log {log}: it is a copy from while it was open; "
            "copy both files, or make a backup. If it was never more, remove it."
        )


def alone(path: str, query: str) -> list[tuple] | None:
    """Returns what a query finds in an SQLite file alone, without its log; None on errors."""
    return _found(f"file:{urllib.parse.quote(path)}?mode=ro&immutable=1", query)


def with_log(path: str, query: str) -> list[tuple] | None:
    """Returns what a query finds in an SQLite file with its log, and changes neither."""
    index = f"{path}-shm"  # SQLite's index of the log, made by reading
    had_index = os.path.exists(index)
    found = _found(f"file:{urllib.parse.quote(path)}?mode=ro", query)
    if not had_index:
        with contextlib.suppress(OSError):
            os.remove(index)
    return found


def _found(uri: str, query: str) -> list[tuple] | None:
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error:
        return None


def sync(path: str | os.PathLike) -> None:
    """Waits until the disk has a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written_whole(path: Path):
    """Yields another path to write to; what is there at the end gets the name, synced.

    Raises:
        FileExistsError: if there is something of that name.
    """
    if os.path.lexists(path):
        raise FileExistsError("File exists")
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        yield new
        sync(new)
        os.rename(new, path)
        sync(path.parent)
    finally:
        new.unlink(missing_ok=True)
