"""MovieLens files as tables: parsed at full speed, and every line of them checked.

Knows nothing of folders, zips, downloads, splits, models and TFF.
"""

from __future__ import annotations

import csv
import io
import re

import attrs
import numpy as np
import pandas as pd

from .ratings import DataError


@attrs.frozen(kw_only=True)
class Release:
    """How one release of MovieLens is laid out."""

    ratings_file: str
    movies_file: str
    separator: str
    header: str = ""  # first line of the ratings file
    encoding: str  # of the movies file
    step: float  # the lowest rating, and the distance from one rating to the next
    checksum: str  # of the official zip


RELEASES = {
    "ml-1m": Release(
        ratings_file="ratings.dat",
        movies_file="movies.dat",
        separator="::",
        encoding="ISO-8859-1",
        step=1.0,
        checksum="md5:c4d9eecfca2ab87c1945afe126590906",
    ),
    "ml-latest-small": Release(
        ratings_file="ratings.csv",
        movies_file="movies.csv",
        separator=",",
        header="userId,movieId,rating,timestamp",
        encoding="UTF-8",
        step=0.5,
        checksum="sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
}
_COLUMNS = {"user": "int64", "movie": "int64", "rating": "float32", "timestamp": "int64"}
_MAX_RATING = 5.0
_FIRST_SECOND, _LAST_SECOND = 788_918_400, 2_524_608_000  # from 1995 to the end of 2049


def parse_ratings(data: bytes, release: str = "ml-1m", where: str = "ratings") -> pd.DataFrame:
    """Parses the ratings file of a MovieLens release and checks every line of it.

    Args:
        data: the content of the file.
        release: the name of the release, which decides the format.
        where: the name of the file, for error messages.

    Returns:
        Columns `user`, `movie` (int64, original ids), `rating` (float32), `timestamp` (int64),
        in the order of the file.

    Raises:
        DataError: naming the first bad line.
    """
    layout = RELEASES[release]
    step = len(layout.separator)  # with "::" split at ":", every second column is empty
    try:
        table = pd.read_csv(
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
        )
    except (ValueError, OverflowError):
        table = None
    if table is None or not _is_sound(table, data, layout):
        raise _first_fault(data, layout, where)
    return table


def _is_sound(table: pd.DataFrame, data: bytes, layout: Release) -> bool:
    """Whether the fast parser read what the file holds, and all of it is possible."""
    lines = len(table) + (1 if layout.header else 0)
    separator = layout.separator.encode()
    steps = table["rating"].to_numpy() / layout.step
    return bool(
        len(table)
        and data.startswith(layout.header.encode())
        and not data[len(layout.header) :].translate(None, b"0123456789.\r\n" + separator)
        # Too few fields stop the parser, so with the right total no line has too many.
        and data.count(separator) == 3 * lines
        and data.count(separator[:1]) == 3 * lines * len(separator)
        and min(table["user"].min(), table["movie"].min()) > 0
        and np.array_equal(steps, np.round(steps))
        and 1 <= steps.min() <= steps.max() <= _MAX_RATING / layout.step
        and table["timestamp"].between(_FIRST_SECOND, _LAST_SECOND).all()
        and not table.duplicated(["user", "movie"]).any()
    )


def _first_fault(data: bytes, layout: Release, where: str) -> DataError:
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


def _fault(fields: list[str], layout: Release) -> str | None:
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
            return f"column {column} holds {field!r}; write {kind}"
    user, movie, rating, timestamp = (float(field) for field in fields)
    for column, value in (("user", user), ("movie", movie)):
        if not 0 < value < 2**63:
            return f"column {column} holds {value:.0f}; ids are whole numbers from 1"
    if not (layout.step <= rating <= _MAX_RATING and (rating / layout.step).is_integer()):
        return (
            f"column rating holds {rating:g}; ratings go from {layout.step:g} to "
            f"{_MAX_RATING:g} in steps of {layout.step:g}"
        )
    if not _FIRST_SECOND <= timestamp <= _LAST_SECOND:
        return f"column timestamp holds {timestamp:.0f}; write seconds since 1970, 1995 to 2049"
    return None


def parse_movies(data: bytes, release: str = "ml-1m", where: str = "movies") -> pd.DataFrame:
    """Parses the movies file of a MovieLens release.

    Args:
        data: the content of the file.
        release: the name of the release, which decides format and encoding.
        where: the name of the file, for error messages.

    Returns:
        Columns `title` and `genres`, indexed by the original movie id.

    Raises:
        DataError: naming the first bad line.
    """
    layout = RELEASES[release]
    text = _decode(data, layout.encoding, where)
    lines = text.rstrip().replace("\r\n", "\n").split("\n")
    if layout.header:  # a CSV file: titles with commas stand between quotation marks
        rows = csv.reader(lines[1:])
    else:
        rows = (line.split(layout.separator) for line in lines)
    movies = {}
    for number, fields in enumerate(rows, 2 if layout.header else 1):
        if len(fields) != 3 or not re.fullmatch(r"\d{1,18}", fields[0], re.ASCII):
            raise DataError(
                f"{where}, line {number}: expected movie id, title and genres, separated by "
                f"{layout.separator!r}; unpack the file again."
            )
        movies[int(fields[0])] = fields[1:]
    return pd.DataFrame.from_dict(movies, orient="index", columns=["title", "genres"])


def _decode(data: bytes, encoding: str, where: str) -> str:
    """Decodes a text file, and refuses one that is in another encoding."""
    if not data.strip():
        raise DataError(f"{where} is empty; unpack or download it again.")
    odd = re.search(rb"[^\x01-\x7f]", data)  # the first byte that is not ASCII
    if odd is None:
        return data.decode("ASCII")
    try:
        data.decode("UTF-8")
        found = "UTF-8"
    except UnicodeDecodeError:
        found = "ISO-8859-1"
    if found != encoding or b"\0" in data:
        line = data.count(b"\n", 0, odd.start()) + 1
        raise DataError(
            f"{where}, line {line}: the text is not in {encoding}; convert the file to {encoding}."
        )
    return data.decode(encoding)
