"""MovieLens files as tables: parsed at full speed, and every line of them checked.

Knows nothing of folders, zips, downloads, splits, models and TFF.
"""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pandas as pd

from ..checks import shown
from ..progress import progress
from .ratings import DataError
from .releases import HIGHEST_RATING, LAYOUTS, Layout

_COLUMNS = {"user": "int64", "movie": "int64", "rating": "float32", "timestamp": "int64"}
FIRST_SECOND, LAST_SECOND = 788_918_400, 2_524_608_000  # from 1995 to the end of 2049
_GENRES = (  # of ML-100K, in the order of its u.genre
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_CHUNK = 2_000_000  # lines that are parsed at a time


def parse_ratings(data: bytes, layout: str = "ratings.dat", where: str = "ratings") -> pd.DataFrame:
    """Parses the ratings file of a MovieLens release and checks every line of it.

    Args:
        data: the content of the file.
        layout: the file's usual name, which decides how it is read: "u.data" of ML-100K,
            "ratings.dat" of ML-1M and ML-10M, "ratings.csv" of all others.
        where: the name of the file, for error messages.

    Returns:
        Columns `user`, `movie` (int64, original ids), `rating` (float32), `timestamp` (int64),
        in the order of the file.

    Raises:
        DataError: naming the first bad line.
    """
    layout, data = _layout(layout), _content(data)
    try:
        table = _read_columns(data, layout, where)
    except (ValueError, OverflowError):
        table = None
    if table is None or not _is_sound(table, data, layout):
        raise _first_fault(data, layout, where)
    return table


def _read_columns(data: bytes, layout: Layout, where: str) -> pd.DataFrame:
    """Reads the four columns, some lines at a time; whatever it stumbles over is a ValueError."""
    step = len(layout.separator)  # with "::" split at ":", every second column is empty
    most = data.count(b"\n") + data.count(b"\r") + 1
    columns = {name: np.empty(most, kind) for name, kind in _COLUMNS.items()}
    chunks = pd.read_csv(
        io.BytesIO(data),
        engine="c",
        sep=layout.separator[0],
        names=list(_COLUMNS),
        usecols=range(0, 4 * step, step),
        dtype=_COLUMNS,
        skiprows=1 if layout.header else 0,
        quoting=csv.QUOTE_NONE,
        na_filter=False,
        index_col=False,
        chunksize=_CHUNK,
        low_memory=False,
    )
    done = 0
    for chunk in progress(chunks, f"Reading {where}", -(-most // _CHUNK), delay=2):
        for name, column in columns.items():
            column[done : done + len(chunk)] = chunk[name]
        done += len(chunk)
    return pd.DataFrame({n: column[:done] for n, column in columns.items()}, copy=False)


def _layout(name: str) -> Layout:
    """Returns the layout of this name."""
    if not isinstance(name, str) or name not in LAYOUTS:
        raise DataError(f"{shown(name)} is no layout; use {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def _content(data: bytes) -> bytes:
    """Returns the content of a file."""
    if not isinstance(data, bytes | bytearray):
        raise DataError(f"The content of a file is bytes, not {type(data).__name__}.")
    return bytes(data)


def _is_sound(table: pd.DataFrame, data: bytes, layout: Layout) -> bool:
    """Whether the fast parser read what the file holds, and all of it is possible."""
    lines = len(table) + (1 if layout.header else 0)
    separator, header = layout.separator.encode(), layout.header.encode()
    plain = b"0123456789.\r\n" + separator
    steps = table["rating"].to_numpy() / np.float32(layout.step)
    return bool(
        len(table)
        and data.startswith(header)
        and data.translate(None, plain) == header.translate(None, plain)
        # Too few fields stop the parser, so with the right total no line has too many.
        and data.count(separator) == 3 * lines
        and (len(separator) == 1 or data.count(separator[:1]) == 3 * lines * len(separator))
        and min(table["user"].min(), table["movie"].min()) > 0
        and np.array_equal(steps, np.round(steps))
        and 1 <= steps.min() <= steps.max() <= HIGHEST_RATING / layout.step
        and table["timestamp"].between(FIRST_SECOND, LAST_SECOND).all()
        and not _has_pair_twice(table["user"].to_numpy(), table["movie"].to_numpy())
    )


def _has_pair_twice(user: np.ndarray, movie: np.ndarray) -> bool:
    """Whether two rows have the same user and movie."""
    after = movie[1:] > movie[:-1]
    if ((user[1:] > user[:-1]) | (user[1:] == user[:-1]) & after).all():  # sorted by both
        return False
    if (int(user.max()) + 1) * (int(movie.max()) + 1) >= 2**63:
        return bool(pd.DataFrame({"user": user, "movie": movie}).duplicated().any())
    pair = user * (movie.max() + 1)
    pair += movie
    pair.sort()
    return bool((pair[1:] == pair[:-1]).any())


def _first_fault(data: bytes, layout: Layout, where: str) -> DataError:
    """Finds the first bad line of a ratings file, slowly, and puts it into words."""
    if not data.strip():
        return DataError(f"{where} is empty; unpack or download it again.")
    line_of = {}
    for number, line in enumerate(data.splitlines(), 1):
        here = f"{where}, line {number}"
        if not line.isascii() or b"\0" in line:
            return DataError(f"{here} is not plain ASCII text; save the file as ASCII.")
        if number == 1 and layout.header:
            if line.decode() != layout.header:
                return DataError(f"{here} is not the header; it must read {layout.header!r}.")
            continue
        if not line:
            continue
        fields = line.decode().split(layout.separator)
        fault = _fault(fields, layout)
        if fault:
            return DataError(f"{here}: {fault}.")
        first = line_of.setdefault((float(fields[0]), float(fields[1])), number)
        if first != number:
            return DataError(
                f"{here}: user {fields[0]} has already rated movie {fields[1]} in line {first}; "
                "keep one of the two lines."
            )
    return DataError(f"{where} holds no ratings that can be read; unpack or download it again.")


def _fault(fields: list[str], layout: Layout) -> str | None:
    """Returns what is wrong with one line's fields and how to fix it; `None` if nothing is."""
    separator = layout.separator
    if len(fields) == 1:
        return f"there is no {separator!r} between fields; separate them by {separator!r}"
    if len(fields) < 4:
        return f"only {len(fields)} of 4 fields; the line is cut off, so unpack the file again"
    if len(fields) > 4:
        return f"{len(fields)} fields instead of 4; remove what follows the timestamp"
    for column, field in zip(_COLUMNS, fields, strict=True):
        number, kind = r"-?\d+(\.0*)?", "a whole number"
        if column == "rating":
            number, kind = r"-?(\d+\.?\d*|\.\d+)", "a number"
        if not re.fullmatch(number, field):
            return f"column {column} holds {shown(field)}; write {kind}"
    user, movie, rating, timestamp = (float(field) for field in fields)
    for column, value in (("user", user), ("movie", movie)):
        if not 0 < value < 2**63:
            return f"column {column} holds {value:.0f}; ids are whole numbers from 1"
    if not (layout.step <= rating <= HIGHEST_RATING and (rating / layout.step).is_integer()):
        return (
            f"column rating holds {rating:g}; ratings go from {layout.step:g} to "
            f"{HIGHEST_RATING:g} in steps of {layout.step:g}"
        )
    if not FIRST_SECOND <= timestamp <= LAST_SECOND:
        return f"column timestamp holds {timestamp:.0f}; write seconds since 1970, 1995 to 2049"
    return None


def parse_movies(data: bytes, layout: str = "ratings.dat", where: str = "movies") -> pd.DataFrame:
    """Parses the movies file of a MovieLens release.

    Args:
        data: the content of the file.
        layout: the usual name of the ratings file beside it, as for `parse_ratings`.
        where: the name of the file, for error messages.

    Returns:
        Columns `title` and `genres`, indexed by the original movie id.

    Raises:
        DataError: naming the first bad line.
    """
    layout, data = _layout(layout), _content(data)
    text = _decode(data, layout.encodings, where)
    lines = text.rstrip().replace("\r\n", "\n").split("\n")
    if layout.header:  # a CSV file: titles with commas stand between quotation marks
        rows = csv.reader(lines[1:])
    else:
        rows = (line.split(layout.movies_separator) for line in lines)
    if layout.movies_file == "u.item":
        rows = map(_title_and_genres, rows)
    movies = {}
    try:
        for number, fields in enumerate(rows, 2 if layout.header else 1):
            if len(fields) != 3 or not re.fullmatch(r"\d{1,18}", fields[0], re.ASCII):
                raise DataError(
                    f"{where}, line {number}: expected movie id, title and genres, separated by "
                    f"{layout.movies_separator!r}; unpack the file again."
                )
            movies[int(fields[0])] = fields[1:]
    except csv.Error as error:
        raise DataError(f"{where} cannot be read ({error}); unpack the file again.") from error
    return pd.DataFrame.from_dict(movies, orient="index", columns=["title", "genres"])


def _title_and_genres(fields: list[str]) -> list[str]:
    """Reads a line of u.item: id, title, two dates, an address, and a 0 or 1 for each genre."""
    flags = fields[5:]
    if len(flags) != len(_GENRES) or not set(flags) <= {"0", "1"}:
        return []
    genres = [genre for genre, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
    return [*fields[:2], "|".join(genres)]


def _decode(data: bytes, encodings: tuple[str, ...], where: str) -> str:
    """Decodes a text file by the first encoding that fits, and refuses any other."""
    if not data.strip():
        raise DataError(f"{where} is empty; unpack or download it again.")
    if b"\0" not in data and not data.startswith(b"\xef\xbb\xbf"):  # no UTF-16, no byte order mark
        for encoding in encodings:
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                continue
    odd = re.search(rb"[^\x01-\x7f]", data)  # the first byte that is not ASCII
    line, right = data.count(b"\n", 0, odd.start()) + 1, encodings[-1]
    raise DataError(
        f"{where}, line {line}: the text is not in {right}; convert the file to {right}."
    )
