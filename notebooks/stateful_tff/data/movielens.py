"""Where ratings come from: a folder or zip you name, the cache, GroupLens or the generator.

Knows nothing of the lines of a file, splits, clients, models and TFF.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..checks import left_out_or, listed, shown
from . import archives
from .grouplens import download
from .parsing import FIRST_SECOND, LAST_SECOND, parse_movies, parse_ratings
from .people import read_users
from .ratings import DataError, Ratings, has_fractions, index_ratings
from .releases import HIGHEST_RATING, LAYOUTS, RELEASES, recognize
from .synthetic import synthetic_ratings


def read_movielens(path: str | os.PathLike, names: Sequence[str] | None = None) -> Ratings:
    """Reads a MovieLens release from its unpacked folder or straight from its zip.

    The release is recognized by what is in the files: how they are written, and the numbers of
    ratings and users. Whatever is none of them, such as a part of one, is called "movielens".

    Args:
        path: the folder, the zip, or the ratings file in its folder.
        names: which releases to look for, where there are several in one place.

    Returns:
        The ratings, with every movie that has at least one.

    Raises:
        DataError: naming the file, and the line where there is one.
    """
    path = archives.as_path(path)
    names = left_out_or(listed)("names", names, str)
    found = archives.find(path)
    if not found:
        raise DataError(f"{path} holds no MovieLens: {' and '.join(LAYOUTS)} are missing.")
    if len(found) > 1 and names is None:
        raise DataError(
            f"{path} holds {len(found)} data sets, {found[0].ratings_file} and "
            f"{found[1].ratings_file}; name the folder of one of them."
        )
    for files in found:
        ratings = _read(files)
        if names is None or ratings.name in names:
            break
    return ratings


def _read(files: archives.RatingsFiles) -> Ratings:
    """Reads one data set, and recognizes it."""
    raw = parse_ratings(files.read(files.ratings_file), files.layout, files.ratings_file)
    movies = parse_movies(files.read(files.movies_file), files.layout, files.movies_file)
    rated = pd.unique(raw["movie"])
    unknown = rated[~np.isin(rated, movies.index)]
    if len(unknown):
        raise DataError(
            f"{files.movies_file} has no line for movie {unknown[0]}, which is rated in "
            f"{files.layout}; take both files from the same zip."
        )
    counts = len(raw), len(pd.unique(raw["user"]))
    name, scale = recognize(files.layout, *counts, has_fractions(raw["rating"].to_numpy()))
    return index_ratings(name, raw, movies, scale=scale)


def write_movielens(ratings: Ratings, folder: str | os.PathLike, release: str = "ml-1m") -> Path:
    """Writes ratings in the format of ML-1M or ML-10M, with the original ids.

    `read_movielens` reads the same ratings and titles from it.

    Args:
        ratings: ratings with whole numbers from 1 as ids and times from 1995 to 2049.
        folder: where to write `ratings.dat` and `movies.dat`; made if need be.
        release: "ml-1m" for whole stars and titles in ISO-8859-1, "ml-10m" for half stars, too,
            and titles in UTF-8.

    Returns:
        The folder.

    Raises:
        DataError: if the format cannot hold an id, a rating, a time or a title, or the folder
            cannot be written to.
    """
    if not isinstance(release, str) or release not in ("ml-1m", "ml-10m"):
        raise DataError(f"{shown(release)} is no format to write; use 'ml-1m' or 'ml-10m'.")
    folder = archives.as_path(folder)
    table, items = ratings.table, ratings.items
    columns = {
        "user": np.asarray(ratings.user_ids)[table["user"]],
        "movie": items["movie_id"].to_numpy()[table["item"]],
        "rating": table["rating"].to_numpy(),
        "timestamp": table["timestamp"].to_numpy(),
    }
    _check_columns(columns, release)
    stars = (columns["rating"] * 2).astype(int)
    columns["rating"] = np.array([f"{half / 2:g}" for half in range(11)])[stars]
    spaced = pd.DataFrame({"user": columns.pop("user")})
    for name, column in columns.items():
        spaced[f"before {name}"] = ""
        spaced[name] = column
    movies = _movies_file(items, release)
    with archives.sentences(folder):
        folder.mkdir(parents=True, exist_ok=True)
        spaced.to_csv(folder / "ratings.dat", sep=":", header=False, index=False)
        (folder / "movies.dat").write_bytes(movies)
    return folder


def _check_columns(columns: dict[str, np.ndarray], release: str) -> None:
    """Checks that the files of a release can hold every value of the columns of ratings."""
    step = RELEASES[release].step
    ids, times = (1, 2**63 - 1, 1), (FIRST_SECOND, LAST_SECOND, 1)
    limits = dict(user=ids, movie=ids, rating=(step, HIGHEST_RATING, step), timestamp=times)
    for name, column in columns.items():
        low, high, step = limits[name]
        if not np.issubdtype(column.dtype, np.number):
            raise DataError(f"Column {name} holds {column.dtype}; MovieLens' files hold numbers.")
        odd = (column < low) | (column > high)
        if name == "rating":
            odd |= column % step != 0
        if odd.any():
            other = "; write them as 'ml-10m'" if name == "rating" and step == 1 else ""
            raise DataError(
                f"Column {name} holds {column[odd.argmax()]}, and {release}'s files hold {low:g} "
                f"to {high:g} in steps of {step:g}{other}."
            )


def _movies_file(items: pd.DataFrame, release: str) -> bytes:
    """The content of `movies.dat`; a title that would not be read as it is has no place in it."""
    lines = []
    for movie in items[["movie_id", "title", "genres"]].itertuples(index=False):
        fields = [str(field) for field in movie]
        text = "::".join(fields)
        data = text.encode("ISO-8859-1" if release == "ml-1m" else "UTF-8", "replace")
        if text.split("::") != fields or set(text) & set("\r\n\0"):
            fault = "has '::' or a line break in it or at its end; change the title"
        elif _read_back(data) != text:
            fault = "is not in ISO-8859-1; write them as 'ml-10m'"
        else:
            lines.append(data + b"\n")
            continue
        raise DataError(f"{release}'s files cannot hold the title {fields[1]!r}, which {fault}.")
    return b"".join(lines)


def _read_back(data: bytes) -> str:
    """What a reader that tries UTF-8 first makes of a line."""
    try:
        return data.decode("UTF-8")
    except UnicodeDecodeError:
        return data.decode("ISO-8859-1")


_unreachable: dict[str, DataError] = {}  # releases that this process could not get, and why


def load_ratings(name: str = "auto", *, cache_dir: str | os.PathLike | None = None) -> Ratings:
    """Loads ratings from the folder you name, the cache, GroupLens, or a random generator.

    Args:
        name: a release, such as "ml-1m" or "ml-latest-small", "synthetic", or "auto": ML-1M where
            it can be had, else the synthetic set with a notice. `STATEFUL_TFF_DATA` may name a
            folder that holds the zip or the unpacked folder, the zip, or the word "synthetic";
            "auto" then takes whatever release is there, ML-1M first.
        cache_dir: where to keep downloads; your system's cache folder when left out.

    Raises:
        DataError: when the data is missing or wrong.
    """
    if not isinstance(name, str) or name not in ("auto", "synthetic", *RELEASES):
        known = " or ".join(RELEASES)
        raise DataError(f"{shown(name)} is no data set; use auto, synthetic, {known}.")
    cache_dir = None if cache_dir is None else archives.as_path(cache_dir)
    where = _named_place()
    if name == "synthetic" or (name == "auto" and where == "synthetic"):
        return synthetic_ratings()
    if where and where != "synthetic":
        return _read_named(Path(where).expanduser(), name)
    if name != "auto":
        return read_movielens(download(name, cache_dir))
    try:
        if "ml-1m" in _unreachable:  # wait for a silent server only once
            raise _unreachable["ml-1m"]
        path = download("ml-1m", cache_dir)
    except DataError as error:
        _unreachable["ml-1m"] = error
        print(f"Notice: this runs on synthetic ratings instead of MovieLens-1M. {error}")
        return synthetic_ratings()
    return read_movielens(path)


def load_users(ratings: Ratings, *, cache_dir: str | os.PathLike | None = None) -> pd.DataFrame:
    """Loads who the users of MovieLens-1M said they are, from where `load_ratings` found it.

    Args:
        ratings: the ratings of "ml-1m".
        cache_dir: where downloads are kept, as for `load_ratings`.

    Returns:
        Columns `gender`, `age` and `occupation`, one row per user, indexed by contiguous id.

    Raises:
        DataError: if the ratings are others, or the file is missing or wrong.
    """
    if ratings.name != "ml-1m":
        raise DataError(
            f"Nothing says who the users of {ratings.name!r} are; only ml-1m has gender, age and "
            "occupation, so load that."
        )
    where = _named_place()
    if not where or where == "synthetic":
        return read_users(download("ml-1m", cache_dir), ratings)
    found = [place for place in _places(Path(where).expanduser(), "ml-1m") if archives.find(place)]
    return read_users(found[0] if found else where, ratings)


def _named_place() -> str:
    """Returns what STATEFUL_TFF_DATA names."""
    return os.environ.get("STATEFUL_TFF_DATA", "").strip().strip("\"'")


def _places(where: Path, name: str) -> list[Path]:
    """Returns the folders and zips in a place that may hold the release of this name."""
    with archives.sentences(where):
        here = where.is_file() or any((where / file).is_file() for file in archives.FILES)
        folders = [where / "ml-10M100K"] if name in ("auto", "ml-10m") else []
        for one in RELEASES if name == "auto" else [name]:
            folders += [where / one, where / f"{one}.zip"]
        places = [place for place in folders if place.exists()]
    return [where] if here else places


def _read_named(where: Path, name: str) -> Ratings:
    """Reads the release of this name, or the first of any, in what STATEFUL_TFF_DATA names."""
    others, places = [], _places(where, name)
    for place in places:
        if not archives.find(place) and place != places[-1]:
            continue  # an empty folder beside a zip
        ratings = read_movielens(place, None if name == "auto" else [name])
        if name in ("auto", ratings.name):
            return ratings
        others.append(str(ratings))
    missing = "MovieLens" if name == "auto" else name
    if others:
        missing += f" but {others[0]}"
    raise DataError(
        f"STATEFUL_TFF_DATA names {str(where)!r}, which holds no {missing}; name a folder that "
        "holds the zip, or the word synthetic."
    )
