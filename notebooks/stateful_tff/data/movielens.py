"""Where ratings come from: a folder or zip you name, the cache, GroupLens or the generator.

Knows nothing of the lines of a file, splits, clients, models and TFF.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import pandas as pd

from .grouplens import download
from .parsing import RELEASES, parse_movies, parse_ratings
from .ratings import DataError, Ratings, index_ratings
from .synthetic import synthetic_ratings

_FILE_NAMES = [f for r in RELEASES.values() for f in (r.ratings_file, r.movies_file)]
_LARGEST_UNPACKED = 2**28  # bytes; ML-1M takes a tenth of it


def _read_folder(folder: Path) -> dict[str, bytes]:
    """The content of the files of any release in a folder, by file name."""
    return {f: (folder / f).read_bytes() for f in _FILE_NAMES if (folder / f).is_file()}


def _read_zip(path: Path) -> dict[str, bytes]:
    """The content of the files of any release in a zip, by file name; nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > _LARGEST_UNPACKED:
                raise DataError(f"{path} would unpack to {size:,} bytes; take another zip.")
            for member in members:
                name = member.filename.replace("\\", "/")
                if name.startswith("/") or ":" in name or ".." in name.split("/"):
                    raise DataError(f"{path} holds {name!r}, outside its folder; take another zip.")
                if member.flag_bits & 1:
                    raise DataError(f"{path} is encrypted; unpack it and name the folder instead.")
            wanted = {Path(member.filename).name: member for member in members}
            return {name: archive.read(wanted[name]) for name in _FILE_NAMES if name in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path} is not a sound zip ({error}); download it again.") from error


def read_movielens(path: str | os.PathLike) -> Ratings:
    """Reads a MovieLens release from its unpacked folder or straight from its zip.

    The release is recognized by the names of its files.

    Args:
        path: the folder or the zip.

    Returns:
        The ratings, with every movie that has at least one.

    Raises:
        DataError: naming the file, and the line where there is one.
    """
    path = Path(path)
    files = _read_zip(path) if path.is_file() else _read_folder(path)
    present = [
        name for name, r in RELEASES.items() if r.ratings_file in files or r.movies_file in files
    ]
    if not present:
        raise DataError(f"{path} holds no MovieLens: {' and '.join(_FILE_NAMES[::2])} are missing.")
    name = present[0]
    ratings_file, movies_file = RELEASES[name].ratings_file, RELEASES[name].movies_file
    for file in (ratings_file, movies_file):
        if file not in files:
            raise DataError(f"{path / file} is missing; unpack the zip of {name} again.")
    ratings = parse_ratings(files[ratings_file], name, str(path / ratings_file))
    movies = parse_movies(files[movies_file], name, str(path / movies_file))
    unknown = ratings.loc[~ratings["movie"].isin(movies.index), "movie"]
    if len(unknown):
        raise DataError(
            f"{path / movies_file} has no line for movie {unknown.iloc[0]}, which is rated in "
            f"{ratings_file}; take both files from the same zip."
        )
    return index_ratings(name, ratings, movies)


def write_movielens(ratings: Ratings, folder: str | os.PathLike) -> Path:
    """Writes ratings in ML-1M's format, with the original ids.

    Args:
        ratings: ratings in whole stars.
        folder: where to write `ratings.dat` and `movies.dat`; made if need be.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table, items = ratings.table, ratings.items
    columns = {
        "user": ratings.user_ids[table["user"]],
        "movie": items["movie_id"].to_numpy()[table["item"]],
        "rating": table["rating"].astype(int),
        "timestamp": table["timestamp"],
    }
    spaced = pd.DataFrame({"user": columns.pop("user")})
    for name, column in columns.items():
        spaced[f"before {name}"] = ""
        spaced[name] = column
    spaced.to_csv(folder / "ratings.dat", sep=":", header=False, index=False)
    lines = ("::".join(map(str, movie)) + "\n" for movie in items.itertuples(index=False))
    (folder / "movies.dat").write_text("".join(lines), encoding="ISO-8859-1")
    return folder


_unreachable: dict[str, DataError] = {}  # releases that this process could not get, and why


def load_ratings(name: str = "auto", *, cache_dir: str | os.PathLike | None = None) -> Ratings:
    """Loads ratings from the folder you name, the cache, GroupLens, or a random generator.

    Args:
        name: "ml-1m", "ml-latest-small", "synthetic", or "auto": ML-1M where it can be had,
            else the synthetic set with a notice. `STATEFUL_TFF_DATA` may name a folder that
            holds the zip or the unpacked folder, the zip, or the word "synthetic".
        cache_dir: where to keep downloads; your system's cache folder when left out.

    Raises:
        DataError: when the data is missing or wrong.
    """
    if name not in ("auto", "synthetic", *RELEASES):
        raise DataError(f"{name!r} is no data set; use auto, synthetic, {' or '.join(RELEASES)}.")
    where = os.environ.get("STATEFUL_TFF_DATA", "")
    if name == "synthetic" or (name == "auto" and where == "synthetic"):
        return synthetic_ratings()
    if where and where != "synthetic":
        return _read_named(Path(where), list(RELEASES) if name == "auto" else [name])
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


def _read_named(where: Path, names: list[str]) -> Ratings:
    """Reads the first of these releases that is found in what STATEFUL_TFF_DATA names."""
    candidates = [where / f"{name}{ending}" for name in names for ending in ("", ".zip")]
    here = [where] if where.is_file() or any((where / f).is_file() for f in _FILE_NAMES) else []
    found = here + [path for path in candidates if path.exists()]
    ratings = read_movielens(found[0]) if found else None
    if ratings is None or ratings.name not in names:
        raise DataError(
            f"STATEFUL_TFF_DATA names {str(where)!r}, which holds no {' or '.join(names)}; "
            "name a folder that holds the zip, or the word synthetic."
        )
    return ratings
