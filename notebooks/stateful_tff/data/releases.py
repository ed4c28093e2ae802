"""What is known of every release of MovieLens: its files, its scale, its counts, its checksum.

Knows nothing of folders, zips, downloads, parsing, splits, models and TFF.
"""

from __future__ import annotations

import attrs

from ..checks import one_of, whole_number, yes_or_no


@attrs.frozen(kw_only=True)
class Layout:
    """How the two files of a release are written."""

    ratings_file: str
    movies_file: str
    separator: str
    movies_separator: str
    header: str = ""  # first line of the ratings file
    encodings: tuple[str, ...]  # of the movies file
    step: float  # the lowest rating, and the distance from one rating to the next


@attrs.frozen(kw_only=True)
class Release:
    """What tells one release from the others."""

    layout: str
    step: float
    counts: frozenset[tuple[int, int]]  # ratings and users, of each edition
    checksum: str = ""  # of the official zip; none where it is replaced at times


LAYOUTS = {
    "u.data": Layout(
        ratings_file="u.data",
        movies_file="u.item",
        separator="\t",
        movies_separator="|",
        encodings=("UTF-8", "ISO-8859-1"),
        step=1.0,
    ),
    "ratings.dat": Layout(
        ratings_file="ratings.dat",
        movies_file="movies.dat",
        separator="::",
        movies_separator="::",
        encodings=("UTF-8", "ISO-8859-1"),
        step=0.5,
    ),
    "ratings.csv": Layout(
        ratings_file="ratings.csv",
        movies_file="movies.csv",
        separator=",",
        movies_separator=",",
        header="userId,movieId,rating,timestamp",
        encodings=("UTF-8",),
        step=0.5,
    ),
}

HIGHEST_RATING = 5.0

# GroupLens publishes MD5 sums. The SHA-256 sums are those of the zips with these MD5 sums, as
# several public projects that fetched them have written them down; TensorFlow Datasets is one.
RELEASES = {
    "ml-1m": Release(
        layout="ratings.dat",
        step=1.0,
        counts=frozenset({(1_000_209, 6_040)}),
        checksum="sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "ml-latest-small": Release(
        layout="ratings.csv",
        step=0.5,
        counts=frozenset({(100_836, 610), (100_004, 671)}),
        checksum="sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
    "ml-100k": Release(
        layout="u.data",
        step=1.0,
        counts=frozenset({(100_000, 943)}),
        checksum="sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "ml-10m": Release(
        layout="ratings.dat",
        step=0.5,
        counts=frozenset({(10_000_054, 69_878)}),
        checksum="sha256:813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
    ),
    "ml-20m": Release(
        layout="ratings.csv",
        step=0.5,
        counts=frozenset({(20_000_263, 138_493)}),
        checksum="sha256:96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "ml-25m": Release(
        layout="ratings.csv",
        step=0.5,
        counts=frozenset({(25_000_095, 162_541)}),
        checksum="sha256:8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    "ml-32m": Release(
        layout="ratings.csv",
        step=0.5,
        counts=frozenset({(32_000_204, 200_948)}),
        checksum="md5:d472be332d4daa821edc399621853b57",
    ),
    "ml-latest": Release(
        layout="ratings.csv",
        step=0.5,
        counts=frozenset({(33_832_162, 330_975), (27_753_444, 283_228), (26_024_289, 270_896)}),
    ),
}


def recognize(
    layout: str, num_ratings: int, num_users: int, half_stars: bool
) -> tuple[str, tuple[float, float]]:
    """Returns which release ratings are, and the ends of their scale, by what they hold.

    Args:
        layout: the name of the ratings file, which decides how it is written.
        num_ratings: how many ratings there are.
        num_users: by how many users.
        half_stars: whether there are half stars among them.

    Returns:
        The name of the release with these numbers, or "movielens", as for a part of one; and the
        lowest and the highest rating that the release allows. In the layout of ML-1M and ML-10M
        half stars tell which of the two it is.
    """
    one_of("layout", layout, LAYOUTS)
    half_stars = yes_or_no("half_stars", half_stars)
    num_ratings = whole_number("num_ratings", num_ratings, 0)
    num_users = whole_number("num_users", num_users, 0)
    for name, release in RELEASES.items():
        fits = release.layout == layout and half_stars <= (release.step < 1)
        if fits and (num_ratings, num_users) in release.counts:
            return name, (release.step, HIGHEST_RATING)
    step = LAYOUTS[layout].step if layout == "ratings.csv" or half_stars else 1.0
    return "movielens", (step, HIGHEST_RATING)
