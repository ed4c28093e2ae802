"""One container for ratings: contiguous ids, the way back to the original ones, slices by user.

Knows nothing of files, downloads, splits, TensorFlow, models and TFF.
"""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd


class DataError(ValueError):
    """Data that cannot be used: one sentence with what is wrong, where, and how to fix it."""


@attrs.frozen(eq=False, repr=False)
class Ratings:
    """Ratings of movies by users, with contiguous ids and the way back to the original ones.

    Attributes:
        name: "ml-1m", "ml-latest-small" or "synthetic".
        table: one row per rating, sorted by user, then time: columns `user` and `item`
            (int32, contiguous from 0), `rating` (float32, stars) and `timestamp` (int64,
            seconds since 1970).
        user_ids: int64[num_users], the original id of every user.
        items: one row per movie, in the order of its contiguous id: columns `movie_id`
            (int64, the original id), `title` and `genres`.
        best_rmse: the RMSE in stars that no predictor can beat over all ratings, if known.
    """

    name: str
    table: pd.DataFrame
    user_ids: np.ndarray
    items: pd.DataFrame
    best_rmse: float | None = None

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
        return np.searchsorted(self.table["user"], np.arange(self.num_users + 1))

    def select(self, rows) -> Ratings:
        """Returns fewer ratings with the same ids.

        Args:
            rows: a boolean mask over the rows of the table, or the rows' indices from 0.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.sort(rows)
        return attrs.evolve(self, table=self.table.iloc[rows].reset_index(drop=True))

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


def index_ratings(
    name: str, raw: pd.DataFrame, movies: pd.DataFrame, best_rmse: float | None = None
) -> Ratings:
    """Makes ids contiguous and sorts by user, then time, then movie.

    Args:
        name: the name of the data set.
        raw: columns `user`, `movie` (original ids), `rating` and `timestamp`, in any order.
        movies: columns `title` and `genres`, indexed by original movie id; movies without a
            rating are left out.
        best_rmse: the RMSE in stars that no predictor can beat, if known.
    """
    user, user_ids = pd.factorize(raw["user"].to_numpy(), sort=True)
    item, movie_ids = pd.factorize(raw["movie"].to_numpy(), sort=True)
    table = pd.DataFrame(
        {
            "user": user.astype(np.int32),
            "item": item.astype(np.int32),
            "rating": raw["rating"].to_numpy(np.float32),
            "timestamp": raw["timestamp"].to_numpy(np.int64),
        }
    )
    order = np.lexsort((table["item"], table["timestamp"], table["user"]))
    items = movies.loc[movie_ids].rename_axis("movie_id").reset_index()
    return Ratings(name, table.iloc[order].reset_index(drop=True), user_ids, items, best_rmse)
