"""Three ways to split ratings without sharing one, and the deal into support and query.

Knows nothing of files, TensorFlow, models and TFF.
"""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd

from ..checks import finite_number, seed_number, whole_number
from ..progress import progress
from .ratings import DataError, Ratings, order_in_time


@attrs.frozen
class Split:
    """Three parts of the same ratings; no rating is in two of them."""

    train: Ratings
    validation: Ratings
    test: Ratings

    @property
    def train_and_validation(self) -> Ratings:
        """What the final model trains on, once validation has chosen the hyperparameters."""
        table = pd.concat([self.train.table, self.validation.table])
        user, item, time = (table[c].to_numpy() for c in ("user", "item", "timestamp"))
        table = table.iloc[order_in_time(user, item, time)].reset_index(drop=True)
        return attrs.evolve(self.train, table=table)


def split_by_part(ratings: Ratings, part: np.ndarray) -> Split:
    """Makes a split from the number of each row's part, 0 to 2; what is in none has another."""
    return Split(*(ratings.select(part == i) for i in progress(range(3), "Splitting", delay=2)))


def cuts(count, train: float, validation: float) -> tuple:
    """Where to cut so many things into three parts: two indices, rounded down."""
    train, validation = finite_number("train", train), finite_number("validation", validation)
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise DataError(
            f"train={train} and validation={validation} leave no room for three parts; give "
            "shares above 0 with a sum below 1."
        )
    return tuple(
        # 0.8 + 0.1 is a little more than 0.9 in floating point, so round before cutting.
        np.floor(np.round(np.multiply(count, share), 9)).astype(int)
        for share in (train, train + validation)
    )


def _index_in_user(ratings: Ratings) -> np.ndarray:
    """int64[n]: each row counted from 0 among the rows of its user."""
    bounds = ratings.bounds
    return np.arange(len(ratings)) - np.repeat(bounds[:-1], np.diff(bounds))


def in_three(what: str, count: int, train: float, validation: float) -> np.ndarray:
    """Returns the numbers of the parts of so many things in order, int8[count].

    Raises:
        DataError: when there are too few for three parts; `what` says of what.
    """
    first, second = cuts(count, train, validation)
    if not 0 < first < second < count:
        raise DataError(f"{count} {what} are too few for three parts; use more {what}.")
    return np.repeat(np.arange(3, dtype=np.int8), [first, second - first, count - second])


def refuse_users(what: str, ratings: Ratings, too_few: np.ndarray) -> None:
    """Refuses ratings in which a user has too few for three parts.

    Args:
        what: what the ratings are, for the message.
        ratings: of all users.
        too_few: bool[num_users].

    Raises:
        DataError: naming the first such user.
    """
    if too_few.any():
        u = too_few.argmax()
        raise DataError(
            f"user {ratings.user_ids[u]} has {np.diff(ratings.bounds)[u]} {what}, too few for "
            "three parts; leave such users out with select."
        )


def split_by_time(
    ratings: Ratings, train: float = 0.8, validation: float = 0.1, seed: int = 0
) -> Split:
    """Splits every user's ratings by time: the oldest to train on, the newest to test.

    Of ratings that a user gave at one time none is the newer. There a hash of user and movie
    decides, and the parts stand in its order; `ratings.tied` is the share of the ratings that
    this touches.

    Args:
        ratings: the ratings.
        train: share of each user's ratings to train on, rounded down.
        validation: share of each user's ratings to choose hyperparameters with.
        seed: decides the order of ratings of one time.

    Raises:
        DataError: when a user has ratings, but too few to be in all three parts, or when all
            ratings of each user bear one time.
        TypeError: if an argument is of the wrong kind.
        ValueError: if a share is not finite, or the seed negative.
    """
    counts = np.diff(ratings.bounds)
    first, second = cuts(counts, train, validation)
    too_few = (counts > 0) & ((first == 0) | (first == second) | (second == counts))
    refuse_users("ratings", ratings, too_few)
    ratings.check_times()
    order = ratings.in_time(seed)
    if (order[1:] < order[:-1]).any():
        ratings = attrs.evolve(ratings, table=ratings.table.iloc[order].reset_index(drop=True))
    user, index = ratings.table["user"].to_numpy(), _index_in_user(ratings)
    part = (index >= first[user]).astype(np.int8) + (index >= second[user])
    return split_by_part(ratings, part)


def split_at_random(
    ratings: Ratings, train: float = 0.8, validation: float = 0.1, seed: int = 0
) -> Split:
    """Splits ratings at random, regardless of user and time.

    Args:
        ratings: the ratings.
        train: share of the ratings to train on, rounded down.
        validation: share of the ratings to choose hyperparameters with.
        seed: decides the split.

    Raises:
        DataError: when there are too few ratings for three parts.
        TypeError: if an argument is of the wrong kind.
        ValueError: if a share is not finite, or the seed negative.
    """
    part = in_three("ratings", len(ratings), train, validation)
    order = np.random.default_rng(seed_number("seed", seed)).permutation(len(ratings))
    part[order] = part.copy()
    return split_by_part(ratings, part)


def split_users(
    ratings: Ratings,
    train: float = 0.8,
    validation: float = 0.1,
    seed: int = 0,
    max_ratings: int = 300,
) -> Split:
    """Splits users at random, so that users of one part are unknown to the others.

    Args:
        ratings: the ratings.
        train: share of the users to train on, rounded down.
        validation: share of the users to choose hyperparameters with.
        seed: decides the split.
        max_ratings: how many of each user's oldest ratings to keep.

    Raises:
        DataError: when there are too few users for three parts.
        TypeError: if an argument is of the wrong kind.
        ValueError: if a share is not finite, the seed negative, or `max_ratings` below one.
    """
    users = np.flatnonzero(np.diff(ratings.bounds))
    part = np.zeros(ratings.num_users, np.int8)
    parts = in_three("users", len(users), train, validation)
    part[np.random.default_rng(seed_number("seed", seed)).permutation(users)] = parts
    rows = part[ratings.table["user"].to_numpy()]
    beyond = _index_in_user(ratings) >= whole_number("max_ratings", max_ratings, 1)
    rows[ratings.in_time()[beyond]] = 3
    return split_by_part(ratings, rows)


def support_and_query(ratings: Ratings) -> tuple[Ratings, Ratings]:
    """Deals each user's ratings out in turn: one to adapt to, the next to be judged on.

    Args:
        ratings: at least two ratings of each user who has any.

    Returns:
        The support set and the query set.

    Raises:
        DataError: when a user has a single rating.
    """
    single = np.diff(ratings.bounds) == 1
    if single.any():
        raise DataError(
            f"user {ratings.user_ids[single.argmax()]} has a single rating, too few for support "
            "and query; leave such users out with ratings.select."
        )
    even = _index_in_user(ratings) % 2 == 0
    return ratings.select(even), ratings.select(~even)
