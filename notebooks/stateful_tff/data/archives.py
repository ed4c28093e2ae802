"""What a folder or a zip holds: a ratings file with its movies file and perhaps its users file.

Knows nothing of the lines of a file, downloads, splits, models and TFF.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import attrs

from ..checks import cut_short
from .ratings import DataError
from .releases import LAYOUTS

FILES = [f for one in LAYOUTS.values() for f in (one.ratings_file, one.movies_file)]
USERS_FILE = "users.dat"  # who the users said they are, in ML-1M alone
_LARGEST_UNPACKED = 2**31  # bytes; the ratings of MovieLens-latest take 0.9 GB
_LARGEST_RATIO = 50  # of what is larger than _ALWAYS_FINE; ratings pack to about a fifth
_ALWAYS_FINE = 2**26  # bytes
# What zipfile and the four ways to compress raise when bytes are wrong.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError, struct.error, IndexError, OSError,
)  # fmt: skip


@attrs.frozen(kw_only=True)
class RatingsFiles:
    """One data set in a folder or a zip.

    Attributes:
        layout: the name of its ratings file, which says how both files are written.
        ratings_file: where its ratings are, for messages.
        movies_file: where its movies are.
        users_file: where its users are, if it says who they are.
        read: returns the content of one of these.
    """

    layout: str
    ratings_file: str
    movies_file: str
    users_file: str | None
    read: Callable[[str], bytes]


def as_path(name) -> Path:
    """Returns a path with `~` spelled out; whatever names none is a `DataError`."""
    if not isinstance(name, str | os.PathLike):
        raise DataError(f"A {type(name).__name__} names no file or folder; give a path.")
    if not os.fspath(name):
        raise DataError("The name of a file or folder is empty; give a path.")
    try:
        return Path(name).expanduser()
    except (RuntimeError, TypeError) as error:  # nobody of that name, or a path of bytes
        raise DataError(
            f"{cut_short(str(name))!r} cannot be read ({error}); give another path."
        ) from error


@contextlib.contextmanager
def sentences(path: Path):
    """Turns what the system says of a path that cannot be read into a `DataError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        words = getattr(error, "strerror", None) or error
        raise DataError(
            f"{cut_short(str(path))!r} cannot be read ({words}); look at its name, and whether "
            "you may read it."
        ) from error


def find(path: str | os.PathLike) -> list[RatingsFiles]:
    """Returns the data sets that a folder or a zip holds; nothing is unpacked.

    Args:
        path: the folder, the zip, or a ratings file in its folder.

    Raises:
        DataError: if it cannot be read, half a data set is there, or the zip is not to be
            trusted.
    """
    path = as_path(path)
    with sentences(path):
        if path.is_file() and path.name not in LAYOUTS:
            return _in_zip(path)
        folder = path.parent if path.is_file() else path
        names = [str(folder / f) for f in (*FILES, USERS_FILE) if (folder / f).is_file()]
        found = _pairs(names, _read_file, str(folder))
        return [one for one in found if path == folder or one.ratings_file == str(path)]


def _pairs(names: list[str], read: Callable[[str], bytes], where: str) -> list[RatingsFiles]:
    """Puts the files of each folder together, and says what is missing."""
    there, found = set(names), []
    folders = dict.fromkeys(str(Path(name).parent) for name in names)
    for folder in folders:
        for layout in LAYOUTS.values():
            pair = [str(Path(folder) / f) for f in (layout.ratings_file, layout.movies_file)]
            if not there & set(pair):
                continue
            for name in pair:
                if name not in there:
                    raise DataError(f"{name} is missing; unpack the zip again.")
            users = str(Path(folder) / USERS_FILE)
            found.append(
                RatingsFiles(
                    layout=layout.ratings_file,
                    ratings_file=pair[0],
                    movies_file=pair[1],
                    users_file=users if users in there else None,
                    read=read,
                )
            )
    return found


def _read_file(name: str) -> bytes:
    with sentences(Path(name)):
        return Path(name).read_bytes()


def _in_zip(path: Path) -> list[RatingsFiles]:
    """The data sets of a zip, each in a folder of its own."""
    with _sound(path), zipfile.ZipFile(path) as archive:
        members = {}
        for member in archive.infolist():
            name = member.filename.replace("\\", "/")
            if name.startswith("/") or ":" in name or ".." in name.split("/"):
                raise DataError(f"{path} holds {name!r}, outside its folder; take another zip.")
            if member.flag_bits & 1:
                raise DataError(f"{path} is encrypted; unpack it and name the folder instead.")
            if PurePosixPath(name).name not in (*FILES, USERS_FILE):
                continue
            inside = str(path / name)
            if inside in members:
                raise DataError(f"{path} holds {name!r} twice; take another zip.")
            members[inside] = member

    def read(name: str) -> bytes:
        member = members[name]
        size, ratio = member.file_size, member.file_size / max(member.compress_size, 1)
        if size > _LARGEST_UNPACKED or (size > _ALWAYS_FINE and ratio > _LARGEST_RATIO):
            raise DataError(
                f"{name} would unpack to {size:,} bytes, {ratio:.0f} times what it takes in the "
                "zip, which no ratings do; take another zip."
            )
        with _sound(path), zipfile.ZipFile(path) as archive:
            return archive.read(member)

    return _pairs(list(members), read, str(path))


@contextlib.contextmanager
def _sound(path: Path):
    """Turns what is raised over a damaged zip into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise  # the file itself cannot be opened
        words = str(error) or type(error).__name__
        raise DataError(f"{path} is not a sound zip ({words}); download it again.") from error
