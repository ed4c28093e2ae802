"""Intervals by bootstrap over users: how sure a number is, in one place for the whole book.

Knows nothing of ratings, models and methods: a user is a row of numbers here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ..checks import array_of, called, num_passes, seed_number, share, table_size, whole_number


def populations(num_users: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Draws populations of users with replacement (Efron 1979).

    A statistic that is made of sums over users needs no more than the product of this matrix
    with one column per sum, which is much faster than `interval`.

    Args:
        num_users: how many users there are, and in each population.
        draws: how many populations to draw.
        seed: decides the draws.

    Returns:
        float64[draws + 1, num_users], read-only: how often each population holds each user.
        Row 0 is the true population, which holds everybody once.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if there are no users or no draws.
    """
    if not whole_number("num_users", num_users, 0):
        raise ValueError("There are no users to take an interval over; give at least one.")
    draws = num_passes("draws", draws)
    table_size("The drawn populations", draws, num_users)
    return _drawn(int(num_users), draws, seed_number("seed", seed))


@functools.lru_cache(maxsize=2)  # many differences are taken on the same users, one after another
def _drawn(num_users: int, draws: int, seed: int) -> np.ndarray:
    """Draws populations; see `populations`."""
    rng = np.random.default_rng(seed)
    often = np.empty((draws + 1, num_users))
    often[0] = 1
    often[1:] = rng.multinomial(num_users, np.full(num_users, 1 / num_users), draws)
    often.flags.writeable = False
    return often


def bounds(values: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Returns a statistic and its interval from its values on `populations`.

    Args:
        values: float[draws + 1] or float[draws + 1, k], the true population's value first.
        level: the share of the drawn populations that lie in the interval, between 0 and 1.

    Returns:
        float64[3] or float64[3, k]: the statistic, and the ends of its interval (percentiles).

    Raises:
        TypeError: if `level` is not a number.
        ValueError: if `level` is not between 0 and 1.
    """
    tail, values = (1 - share("level", level)) / 2, array_of("values", values)
    if values.ndim not in (1, 2) or len(values) < 2:
        raise ValueError(
            f"values must hold a statistic of the true population and of drawn ones, in rows, and "
            f"has the shape {list(values.shape)}."
        )
    return np.array([values[0], *np.quantile(values[1:], [tail, 1 - tail], axis=0)])


def interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float | np.ndarray] = np.mean,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> np.ndarray:
    """Returns any statistic of users with its interval by bootstrap over users.

    Args:
        values: what is known of each user, one row per user.
        statistic: takes such an array and returns a number, or k numbers.
        draws: how many populations to draw with replacement.
        seed: decides the draws.
        level: the share of the drawn populations that lie in the interval.

    Returns:
        float64[3] or float64[3, k]: the statistic, and the ends of its interval, in its units.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if there are no users or no draws, or `level` is not between 0 and 1.
    """
    values, level = array_of("values", values), share("level", level)
    if not values.ndim or not len(values):
        raise ValueError("There are no users to take an interval over; give at least one.")
    rng = np.random.default_rng(seed_number("seed", seed))
    draws, statistic = num_passes("draws", draws), called("statistic", statistic)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]
    return bounds([statistic(values), *drawn], level)
