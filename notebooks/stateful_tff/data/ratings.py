"""One container for ratings: contiguous ids, the way back to the original ones, slices by user.

Knows nothing of files, downloads, splits, TensorFlow, models and TFF.
"""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd

from ..checks import finite_array, finite_number, left_out_or, seed_number, shown
from ..progress import progress


class DataError(ValueError):
    """Data that cannot be used: one sentence with what is wrong, where, and how to fix it."""


@attrs.frozen(eq=False, repr=False)
class Ratings:
    """Ratings of movies by users, with contiguous ids and the way back to the original ones.

    Attributes:
        name: what `load_ratings` recognized, such as "ml-1m", or "synthetic".
        table: one row per rating, sorted by user, then time, then a hash of user and movie:
            columns `user` and `item` (int32, contiguous from 0), `rating` (float32, stars) and
            `timestamp` (int64, seconds since 1970).
        user_ids: [num_users], the original id of every user, whole numbers or texts.
        items: one row per movie, in the order of its contiguous id: columns `movie_id`
            (the original id), `title` and `genres`.
        best_rmse: the RMSE in stars that no predictor can beat over all ratings, if known.
        scale: the lowest and the highest rating that can be given; when left out, 1 (0.5 with
            half stars) and 5 if all ratings fit there, else the ends of what the table holds.
            Parts of the ratings keep the scale of the whole, and a table that holds more
            widens it.

    Raises:
        DataError: naming the first row that is not sorted by user, has an id that is not
            there, or a rating that is not finite.
    """

    name: str
    table: pd.DataFrame
    user_ids: np.ndarray
    items: pd.DataFrame
    best_rmse: float | None = None
    scale: tuple[float, float] | None = None

    def __attrs_post_init__(self):
        """Checks the table and fills in the scale."""
        missing = [c for c in ("user", "item", "rating", "timestamp") if c not in self.table]
        if missing:
            raise DataError(f"The table of ratings has no column {missing[0]}; add it.")
        for column in ("user", "item", "timestamp"):
            self._widen(column)
        for column, size in (("user", self.num_users), ("item", self.num_items)):
            ids = self.table[column].to_numpy()
            if not np.issubdtype(ids.dtype, np.integer):
                raise DataError(
                    f"Column {column} holds {ids.dtype}; give contiguous whole numbers."
                )
            if len(ids) and not 0 <= ids.min() <= ids.max() < size:
                row = int(((ids < 0) | (ids >= size)).argmax())
                raise DataError(
                    f"Row {row} has {column} {ids[row]}; contiguous ids run from 0 to {size - 1}."
                )
        user = self.table["user"].to_numpy()
        if (user[1:] < user[:-1]).any():
            row = int((user[1:] < user[:-1]).argmax()) + 1
            raise DataError(f"Row {row} is of an earlier user than the row before; sort by user.")
        kind = self.table["timestamp"].to_numpy().dtype
        if not np.issubdtype(kind, np.integer):
            raise DataError(f"Column timestamp holds {kind}; give whole seconds.")
        rating = self.table["rating"].to_numpy()
        low, high = _ends(rating)
        left_out_or(finite_number)("best_rmse", self.best_rmse, 0)
        scale = left_out_or(checked_scale)("scale", self.scale) or _usual_scale(rating, low, high)
        if scale == (1.0, 5.0) and has_fractions(rating):
            scale = _usual_scale(rating, low, high)
        wider = min(scale[0], low), max(scale[1], high)
        object.__setattr__(self, "scale", wider)

    def _widen(self, column: str) -> None:
        """Makes a column of small or unsigned whole numbers, whose sums would wrap, int64."""
        values = self.table[column].to_numpy()
        if values.dtype.kind not in "iu" or values.dtype in (np.int32, np.int64):
            return
        if values.max(initial=0) > np.iinfo(np.int64).max:
            row = int(values.argmax())
            raise DataError(f"Row {row} has the {column} {values[row]}, which is beyond 64 bits.")
        wider = self.table.assign(**{column: values.astype(np.int64)})
        object.__setattr__(self, "table", wider)

    @property
    def num_users(self) -> int:
        """Number of users, with or without ratings in this table."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of movies, with or without ratings in this table."""
        return len(self.items)

    @property
    def bounds(self) -> np.ndarray:
        """int64[num_users + 1]: the rows of user u are `bounds[u]` up to `bounds[u + 1]`."""
        user = self.table["user"].to_numpy()
        return np.searchsorted(user, np.arange(self.num_users + 1, dtype=user.dtype))

    @property
    def tied(self) -> float:
        """The share of the ratings that have a user and a time in common with another one."""
        rows = self.in_time()
        user, time = (self.table[c].to_numpy()[rows] for c in ("user", "timestamp"))
        return float(_in_ties(user, time).mean()) if len(self) else 0.0

    def in_time(self, seed: int = 0) -> np.ndarray:
        """Returns the rows sorted by user, then time, int64[n].

        Ratings of one user at one time, of which none is the newer, stand in the order of a
        hash of user and movie; so neither the movie's id nor the order in a file decides.

        Args:
            seed: decides the hash.

        Raises:
            TypeError: if the seed is no whole number.
            ValueError: if it is negative.
        """
        return order_in_time(*(self.table[c].to_numpy() for c in _KEY), seed)

    def check_times(self) -> None:
        """Checks that time tells the order of some user's ratings.

        Raises:
            DataError: if every user's ratings bear one time.
        """
        user, time = (self.table[c].to_numpy() for c in ("user", "timestamp"))
        same = user[1:] == user[:-1]
        if same.any() and not (same & (time[1:] != time[:-1])).any():
            raise DataError(
                "Every user's ratings bear one and the same time, so none is the newest; take "
                "split_at_random or split_users."
            )

    def select(self, rows) -> Ratings:
        """Returns fewer ratings with the same ids.

        Args:
            rows: a boolean mask over the rows of the table, or the rows' indices from 0, each
                once. Zeros and ones are no mask, but indices.

        Raises:
            DataError: if it is neither.
        """
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise DataError(
                    f"The mask has shape {list(rows.shape)} for {len(self)} ratings; give one "
                    "truth value for each."
                )
            rows = np.flatnonzero(rows)
        else:
            rows = rows.astype(np.int64) if not rows.size else rows
            if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
                raise DataError(
                    f"Rows are chosen by a mask of truth values or by whole numbers, not by "
                    f"{rows.dtype}{list(rows.shape)}."
                )
            rows = np.sort(rows)
            if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
                odd = rows[0] if rows[0] < 0 else rows[-1]
                raise DataError(f"There is no row {odd}; rows run from 0 to {len(self) - 1}.")
            twice = rows[1:][rows[1:] == rows[:-1]]
            if len(twice):
                raise DataError(
                    f"Row {twice[0]} is chosen twice; choose each once, or give a mask of truth "
                    "values."
                )
        columns = {name: self.table[name].to_numpy()[rows] for name in self.table}
        return attrs.evolve(self, table=pd.DataFrame(columns, copy=False))

    def __len__(self) -> int:
        """Number of ratings."""
        return len(self.table)

    def __repr__(self) -> str:
        """What these ratings are, in one line."""
        best = f"; best possible RMSE {self.best_rmse:.3f}" if self.best_rmse else ""
        return (
            f"{self.name}: {len(self):,} ratings of {self.num_items:,} movies "
            f"by {self.num_users:,} users{best}"
        )


_KEY = ("user", "item", "timestamp")


def checked_scale(name: str, scale) -> tuple[float, float]:
    """Returns the ends of a scale, the lowest and the highest rating, as two numbers.

    Raises:
        DataError: if there are not two, or the first is the higher one.
        TypeError, ValueError: if they are no finite numbers.
    """
    ends = finite_array(name, scale, 1).astype(float).tolist()
    if len(ends) != 2 or ends[0] > ends[1]:
        raise DataError(f"{name} is the lowest and the highest rating, not {shown(scale)}.")
    return tuple(ends)


def _ends(rating: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest rating; refuses what is no finite number."""
    if rating.dtype.kind not in "iuf":
        raise DataError(f"Column rating holds {rating.dtype}; give numbers.")
    if not len(rating):
        return np.inf, -np.inf
    low, high = float(rating.min()), float(rating.max())
    if not np.isfinite([low, high]).all():  # a NaN anywhere makes both NaN
        row = int((~np.isfinite(rating)).argmax())
        raise DataError(f"Row {row} has the rating {rating[row]}; leave such rows out.")
    return low, high


def _usual_scale(rating: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """One to five stars, or half a star to five, where all ratings fit there; else the ends."""
    if not len(rating):
        return 1.0, 5.0
    if 0.5 <= low and high <= 5 and not has_fractions(rating * 2):
        return (0.5 if has_fractions(rating) else 1.0), 5.0
    return low, high


def has_fractions(numbers: np.ndarray) -> bool:
    """Whether one of the numbers is not whole."""
    return bool((numbers != np.floor(numbers)).any())


def _in_ties(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """bool[n]: which of the rows, sorted by both, has both in common with a neighbour."""
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    return np.append(False, same) | np.append(same, False)


def order_in_time(user: np.ndarray, item: np.ndarray, time: np.ndarray, seed: int = 0):
    """Returns the order by user, then time, then a hash of user and movie, int64[n].

    Args:
        user: int[n], contiguous ids.
        item: int[n], contiguous ids.
        time: int[n].
        seed: decides the hash.
    """
    seed = seed_number("seed", seed)
    if not len(user):
        return np.zeros(0, np.int64)
    start, end = int(time.min()), int(time.max())
    if (int(user.max()) + 1) * (end - start + 1) + max(abs(start), abs(end)) < 2**63:
        key = np.multiply(user, end - start + 1, dtype=np.int64)
        key += time
        order = None if (key[1:] >= key[:-1]).all() else np.argsort(key, kind="stable")
    else:
        order = np.lexsort((time, user))
    order = np.arange(len(user)) if order is None else order
    user_now, time_now = user[order], time[order]
    places = np.flatnonzero(_in_ties(user_now, time_now))
    if not len(places):
        return order
    rows = order[places]
    user_now, time_now = user_now[places], time_now[places]
    new = (user_now[1:] != user_now[:-1]) | (time_now[1:] != time_now[:-1])
    tie = np.append(0, np.cumsum(new)).astype(np.uint64)  # the number of each row's tie
    spare = np.uint64(64 - int(tie[-1]).bit_length())
    hashed = _hash(user_now, item[rows], seed)
    if spare < 64:
        hashed = tie << spare | hashed >> (np.uint64(64) - spare)
    order[places] = rows[np.argsort(hashed, kind="stable")]
    return order


def _hash(user: np.ndarray, item: np.ndarray, seed: int) -> np.ndarray:
    """Hashes pairs of ids to uint64[n], by the finalizer of SplitMix64 (Steele et al. 2014)."""

    def mixed(x):
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return x ^ x >> np.uint64(31)

    words = [seed >> shift & (2**64 - 1) for shift in range(0, max(seed.bit_length(), 1), 64)]
    key = np.zeros(1, np.uint64)
    for word in words:
        key = mixed((key ^ np.uint64(word)) + np.uint64(0x9E3779B97F4A7C15))
    return mixed(mixed(user.astype(np.uint64) + key) + item.astype(np.uint64))


def index_ratings(
    name: str,
    raw: pd.DataFrame,
    movies: pd.DataFrame,
    best_rmse: float | None = None,
    scale: tuple[float, float] | None = None,
) -> Ratings:
    """Makes ids contiguous and sorts by user, then time, then a hash of user and movie.

    Args:
        name: the name of the data set.
        raw: columns `user`, `movie` (original ids), `rating` and `timestamp`, in any order.
        movies: columns `title` and `genres`, indexed by original movie id; movies without a
            rating are left out.
        best_rmse: the RMSE in stars that no predictor can beat, if known.
        scale: the lowest and the highest rating that can be given; see `Ratings`.
    """
    columns = progress(("user", "movie"), "Numbering ids", delay=2)
    (user, user_ids), (item, movie_ids) = (
        pd.factorize(raw[column].to_numpy(), sort=True) for column in columns
    )
    items = movies.loc[movie_ids].rename_axis("movie_id").reset_index()
    rating, time = raw["rating"].to_numpy(np.float32), raw["timestamp"].to_numpy(np.int64)
    table = sorted_table(user, item, rating, time)
    return Ratings(name, table, user_ids, items, best_rmse, scale)


def sorted_table(
    user: np.ndarray, item: np.ndarray, rating: np.ndarray, time: np.ndarray
) -> pd.DataFrame:
    """Returns a table of ratings as `Ratings` keeps it.

    Args:
        user: int[n], contiguous ids.
        item: int[n], contiguous ids.
        rating: float32[n].
        time: int64[n].
    """
    user, item = user.astype(np.int32), item.astype(np.int32)
    columns = dict(user=user, item=item, rating=rating, timestamp=time)
    bar = progress(columns, "Sorting ratings", delay=2)
    order = order_in_time(user, item, time)
    return pd.DataFrame({name: columns[name][order] for name in bar}, copy=False)
