"""How far predictions lie from ratings: over all ratings, by user, by group, and as a difference.

Knows nothing of models, methods, engines and stores: it takes predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..checks import array_of, shown
from ..data import Ratings
from .bootstrap import bounds, populations

LARGEST_CLOSE_ERROR = 0.5  # stars; accuracy counts the errors up to this one


def clipped_errors(predicted: np.ndarray, ratings: Ratings) -> np.ndarray:
    """Returns the errors of predictions: prediction minus rating, after clipping to the scale.

    Args:
        predicted: one prediction per row of `ratings.table`, in stars, `[n]`, or those of several
            runs, `[runs, n]`; clipped to `ratings.scale`.
        ratings: the true ratings.

    Returns:
        Errors in stars, of the shape of `predicted`.

    Raises:
        ValueError: if there are no ratings, the numbers of predictions and ratings differ, or a
            prediction is not finite.
    """
    predicted = array_of("predicted", predicted)
    if not len(ratings):
        raise ValueError("There are no ratings to judge predictions on; give at least one.")
    if predicted.ndim not in (1, 2) or predicted.shape[-1] != len(ratings):
        found = predicted.shape[-1] if predicted.ndim in (1, 2) else f"{predicted.shape}"
        raise ValueError(f"{found} predictions cannot be judged on {len(ratings)} ratings.")
    if not np.isfinite(predicted).all():
        row = np.argwhere(~np.isfinite(predicted))[0][-1]
        raise ValueError(f"The prediction for row {row} of the ratings is not a finite number.")
    return np.clip(predicted, *ratings.scale) - ratings.table["rating"].to_numpy()


def per_user(predicted: np.ndarray, ratings: Ratings) -> pd.DataFrame:
    """Judges predictions of ratings user by user.

    Args:
        predicted: one prediction per row of `ratings.table`, in stars; clipped to the scale.
        ratings: the true ratings.

    Returns:
        One row per user who has ratings, indexed by the user's id: `ratings`, how many they
        are, `rmse` in stars, and `accuracy`, the share of errors of at most half a star.

    Raises:
        ValueError: as `clipped_errors` does.
    """
    error = clipped_errors(predicted, ratings)
    table = pd.DataFrame({"squared": error**2, "close": np.abs(error) <= LARGEST_CLOSE_ERROR})
    users = table.groupby(ratings.table["user"].to_numpy())
    columns = {
        "ratings": users.size(),
        "rmse": np.sqrt(users["squared"].mean()),
        "accuracy": users["close"].mean(),
    }
    return pd.DataFrame(columns).rename_axis("user")


def score(predicted: np.ndarray, ratings: Ratings) -> dict[str, float]:
    """Judges predictions of ratings.

    Args:
        predicted: one prediction per row of `ratings.table`, in stars; clipped to the scale.
        ratings: the true ratings.

    Returns:
        `rmse` in stars and `accuracy` (share of errors of at most half a star), both over all
        ratings, and `user_rmse` in stars, the mean over users who have ratings.

    Raises:
        ValueError: as `clipped_errors` does.
    """
    error = clipped_errors(predicted, ratings)
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "accuracy": float(np.mean(np.abs(error) <= LARGEST_CLOSE_ERROR)),
        "user_rmse": float(per_user(predicted, ratings)["rmse"].mean()),
    }


def score_with_intervals(
    predicted: np.ndarray, ratings: Ratings, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Judges predictions of ratings, with intervals by bootstrap over users.

    Users are drawn with replacement, with all their ratings.

    Args:
        predicted: one prediction per row of `ratings.table`, in stars; clipped to the scale.
        ratings: the true ratings.
        draws: how many populations to draw.
        seed: decides the draws.
        level: the share of the drawn populations that lie in the interval.

    Returns:
        One row per metric: `rmse` in stars and `accuracy` (share of errors of at most half a
        star) over all ratings, `user_rmse` and `user_accuracy`, the means over users. Columns
        `value`, `low` and `high`.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: as `clipped_errors` does, or if `draws` or `level` makes no sense.
    """
    error, user = clipped_errors(predicted, ratings), ratings.table["user"].to_numpy()
    return _with_intervals(error, user, draws, seed, level)


def _with_intervals(error, user, draws=1000, seed=0, level=0.95) -> pd.DataFrame:
    """`score_with_intervals` from errors and the id of the user who made each rating."""
    user = np.unique(user, return_inverse=True)[1]
    close = np.abs(error) <= LARGEST_CLOSE_ERROR
    count, squared, close = (
        np.bincount(user, part).astype(float) for part in (np.ones(len(user)), error**2, close)
    )
    by_user = [count, squared, close, np.sqrt(squared / count), close / count]
    sums = populations(len(count), draws, seed) @ np.stack(by_user, axis=1)
    n, squared, close, rmses, accuracies = sums.T
    metrics = {
        "rmse": np.sqrt(squared / n),
        "accuracy": close / n,
        "user_rmse": rmses / len(count),
        "user_accuracy": accuracies / len(count),
    }
    table = {name: bounds(values, level) for name, values in metrics.items()}
    return pd.DataFrame(table, index=["value", "low", "high"]).T


def error_by(groups: Sequence, predicted: np.ndarray, ratings: Ratings) -> pd.DataFrame:
    """Judges predictions separately for groups of clients, with intervals.

    Args:
        groups: one label per client, such as what `pd.cut` returns; clients without a label
            are left out.
        predicted: one prediction per row of `ratings.table`, in stars; clipped to the scale.
        ratings: the true ratings.

    Returns:
        One row per group that has ratings: `clients` and `ratings` in it, and the RMSE in stars
        as `value`, with the 95% interval by bootstrap over users from `low` to `high`.

    Raises:
        ValueError: as `clipped_errors` does, or if there is not one label per client.
    """
    if isinstance(groups, str | dict | set) or np.shape(groups)[1:] or not np.shape(groups):
        raise TypeError(f"groups must list a label for each client, not {shown(groups)}.")
    if len(groups) != ratings.num_users:
        raise ValueError(
            f"{len(groups)} labels do not fit {ratings.num_users} clients; give one each."
        )
    error, user = clipped_errors(predicted, ratings), ratings.table["user"].to_numpy()
    of_row = pd.Series(groups)[user].reset_index(drop=True)
    rows = {}
    for group, index in of_row.groupby(of_row, observed=True).groups.items():
        index = index.to_numpy()
        rmse = _with_intervals(error[index], user[index]).loc["rmse"]
        size = {"clients": len(np.unique(user[index])), "ratings": len(index)}
        rows[group] = size | dict(rmse)
    return pd.DataFrame.from_dict(rows, orient="index")


def rmse_of_runs(predicted: np.ndarray, ratings: Ratings) -> np.ndarray:
    """Returns the RMSE of each run in stars, float64[runs], to plot a dot for each.

    Args:
        predicted: predictions in stars, `[runs, ratings]`; clipped to the scale.
        ratings: the true ratings.

    Raises:
        ValueError: as `clipped_errors` does.
    """
    predicted = np.atleast_2d(array_of("predicted", predicted))
    squared = clipped_errors(predicted, ratings) ** 2
    return np.sqrt(squared.mean(axis=1, dtype=np.float64))


def rmse_difference(
    first: np.ndarray,
    second: np.ndarray,
    ratings: Ratings,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Returns the RMSE of one method minus that of another on the same users, with its interval.

    The interval is paired: both are judged on the same drawn users, so what makes users hard for
    both cancels. Several runs are pooled by their squared errors.

    Args:
        first: predictions in stars, `[ratings]`, or `[runs, ratings]`; clipped to the scale.
        second: those of the other method, of the same shape.
        ratings: the true ratings.
        draws: how many populations of users to draw.
        seed: decides the draws.
        level: the share of the drawn populations that lie in the interval.

    Returns:
        The difference in stars, and the lower and upper end of its interval.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: as `clipped_errors` does, if the shapes differ, or if `draws` or `level` makes
            no sense.
    """
    first, second = (
        np.atleast_2d(array_of(name, runs)) for name, runs in (("first", first), ("second", second))
    )
    if first.shape != second.shape:
        raise ValueError(f"Predictions of shapes {first.shape} and {second.shape} make no pairs.")
    user = np.unique(ratings.table["user"], return_inverse=True)[1]
    count = np.bincount(user)
    often = populations(len(count), draws, seed)
    rmse = []
    for predicted in (first, second):
        squared = clipped_errors(predicted, ratings) ** 2
        squared = np.bincount(user, squared.mean(axis=0))
        rmse.append(np.sqrt(often @ squared / (often @ count)))
    return tuple(map(float, bounds(rmse[0] - rmse[1], level)))
