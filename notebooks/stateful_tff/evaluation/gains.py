"""Users one by one: who gains by how much, what is chance, which traits go along, how even it is.

Knows nothing of models, methods, engines and stores: it takes predictions.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr

from ..checks import finite_array
from ..data import Ratings
from .bootstrap import interval
from .metrics import clipped_errors, per_user


def gains(predicted: np.ndarray, baseline: np.ndarray, ratings: Ratings) -> pd.Series:
    """Returns by how many stars each user's RMSE lies below that of a baseline.

    Args:
        predicted: predictions of the method, one per row of `ratings.table`, in stars.
        baseline: predictions of what it is compared with.
        ratings: the true ratings.

    Returns:
        float[n], in stars, indexed by the ids of the users who have ratings.

    Raises:
        ValueError: as `metrics.clipped_errors` does.
    """
    return per_user(baseline, ratings)["rmse"] - per_user(predicted, ratings)["rmse"]


def worse_off(gains: np.ndarray) -> float:
    """Returns the share of users with a gain below zero.

    Raises:
        TypeError: if the gains are no numbers.
        ValueError: if there are none, or one is not finite.
    """
    gains = finite_array("gains", gains, 1)
    if not len(gains):
        raise ValueError("There are no gains to take a share of; give at least one.")
    return float(np.mean(gains < 0))


def gains_in_halves(predicted: np.ndarray, baseline: np.ndarray, ratings: Ratings) -> np.ndarray:
    """Returns each user's gain on two halves of the ratings, dealt out in turn.

    Args:
        predicted: predictions of the method, one per row of `ratings.table`, in stars.
        baseline: predictions of what it is compared with.
        ratings: the true ratings.

    Returns:
        float[n, 2], in stars, for the users who have two ratings or more.

    Raises:
        ValueError: as `metrics.clipped_errors` does.
    """
    for one in (predicted, baseline):
        clipped_errors(one, ratings)  # refuses what cannot be judged
    turn = np.arange(len(ratings)) - ratings.bounds[ratings.table["user"]]
    halves = [
        gains(np.asarray(predicted)[rows], np.asarray(baseline)[rows], ratings.select(rows))
        for rows in (turn % 2 == 0, turn % 2 == 1)
    ]
    return pd.concat(halves, axis=1, join="inner").to_numpy()


def shrunk_gains(halves: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """Tells true gains from the noise of a small test (empirical Bayes; Efron and Morris 1975).

    The noise of two halves of a test is independent, and a true gain is in both. So their
    covariance is the variance of the true gains, and their difference tells the noise, whose
    variance falls with the number of ratings. A gain is pulled to the mean of all, the more the
    noisier it is; what comes out is its expectation where both are normally distributed.

    Args:
        halves: float[n, 2] in stars, made by `gains_in_halves`.
        counts: int[n], how many test ratings each user has in both halves together.

    Returns:
        One row per user: `gain`, the mean of the halves, and `noise`, its standard deviation;
        `shrunk`, the expected true gain, and `left`, its standard deviation, all in stars; and
        `worse`, the chance that the true gain is below zero. `attrs["spread"]` is the standard
        deviation of the true gains.

    Raises:
        TypeError: if the gains are no numbers.
        ValueError: if they are not finite, not two each of two users or more, or there is not one
            count above zero for each user.
    """
    halves, counts = finite_array("halves", halves, 2), finite_array("counts", counts, 1)
    if halves.shape[1] != 2 or len(halves) < 2:
        raise ValueError(
            f"halves must hold two gains of each of two users or more, and has the shape "
            f"{list(halves.shape)}."
        )
    if len(counts) != len(halves) or counts.min() <= 0:
        raise ValueError(
            f"{len(counts)} counts do not fit {len(halves)} users; give one above zero for each."
        )
    gain = halves.mean(axis=1)
    true = max(np.cov(halves.T)[0, 1], 0.0)
    noise = np.mean(counts * (halves[:, 0] - halves[:, 1]) ** 2) / 4 / counts
    both = np.maximum(true + noise, np.finfo(float).tiny)
    center, kept = np.average(gain, weights=1 / both), true / both
    shrunk, left = center + kept * (gain - center), np.sqrt(kept * noise)
    worse = np.where(left > 0, ndtr(-shrunk / np.where(left > 0, left, 1)), shrunk < 0)
    table = dict(gain=gain, noise=np.sqrt(noise), shrunk=shrunk, left=left, worse=worse)
    table = pd.DataFrame(table)
    table.attrs["spread"] = float(np.sqrt(true))
    return table


def user_traits(train: Ratings) -> pd.DataFrame:
    """Describes users by what they rated in training.

    Args:
        train: the ratings that training may use.

    Returns:
        One row per user who has ratings, indexed by the user's id: `ratings`, how many they
        are; `distance`, in stars, the root mean square of the differences to the mean rating
        that the others gave to the same movie; `popularity`, how many ratings a movie has that
        the user rates, on average.
    """
    user, item, stars = (train.table[c].to_numpy() for c in ("user", "item", "rating"))
    count = np.bincount(item, minlength=train.num_items)
    total = np.bincount(item, stars, train.num_items)
    others = count[item] - 1
    apart = stars - (total[item] - stars) / np.maximum(others, 1)
    table = pd.DataFrame({"apart": np.where(others, apart**2, np.nan), "count": count[item]})
    users = table.groupby(user)
    columns = {
        "ratings": users.size(),
        "distance": np.sqrt(users["apart"].mean()).fillna(0.0),
        "popularity": users["count"].mean(),
    }
    return pd.DataFrame(columns).rename_axis("user")


def gains_by_group(gains: pd.Series, before: pd.Series, groups: pd.Series) -> pd.DataFrame:
    """Returns the mean gain of each group of users, in stars and relative to its error before.

    Args:
        gains: one gain per user, in stars, indexed by user.
        before: the RMSE of the baseline, in stars, of these users.
        groups: a label for each of these users and perhaps more, such as what `pd.qcut` makes
            of a trait.

    Returns:
        One row per group: `users`, how many; the mean gain `stars` with its interval `low` and
        `high`; and `percent`, the mean gain as a share of the mean error before, with
        `percent low` and `percent high`.

    Raises:
        ValueError: if there are no users.
    """
    table = pd.DataFrame({"gain": gains, "before": before.loc[gains.index]})
    rows = {}
    for group, part in table.groupby(groups.loc[gains.index], observed=True):
        relative = interval(part.to_numpy(), lambda rows: 100 * rows[:, 0].sum() / rows[:, 1].sum())
        stars = dict(zip(("stars", "low", "high"), interval(part["gain"]), strict=True))
        names = "percent", "percent low", "percent high"
        rows[group] = {"users": len(part)} | stars | dict(zip(names, relative, strict=True))
    if not rows:
        raise ValueError("There are no users in any group; give gains of some.")
    return pd.DataFrame.from_dict(rows, orient="index")


def trait_effects(gains: pd.Series, traits: pd.DataFrame) -> pd.DataFrame:
    """Separates the traits, by a regression of the gain on the ranks of all traits together.

    Args:
        gains: one gain per user, in stars, indexed by user.
        traits: made by `user_traits`; holds these users and perhaps more.

    Returns:
        One row per trait: `value` with `low` and `high`, how many stars the user with the
        highest value gains more than the one with the lowest, at equal ranks in the others.

    Raises:
        ValueError: if there are no users.
    """
    ranks = traits.loc[gains.index].rank(pct=True).to_numpy()

    def coefficients(rows):
        design = np.column_stack([np.ones(len(rows)), rows[:, 1:]])
        return np.linalg.lstsq(design, rows[:, 0], rcond=None)[0][1:]

    found = interval(np.column_stack([gains, ranks]), coefficients)
    return pd.DataFrame(found.T, index=list(traits), columns=["value", "low", "high"])
