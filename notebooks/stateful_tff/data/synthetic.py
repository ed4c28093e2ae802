"""Ratings drawn from a known low-rank model, in MovieLens-1M's shape.

Knows nothing of files, splits, clients, models and TFF.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr

from ..checks import seed_number, shown, whole_number
from ..progress import progress
from .ratings import DataError, Ratings, index_ratings

_ML1M_HISTOGRAM = np.array([56_174, 107_557, 261_197, 348_971, 226_310])  # of 1 to 5 stars
_USER_SHARE, _ITEM_SHARE, _TASTE_SHARE, _NOISE_SHARE = 0.12, 0.15, 0.35, 0.38  # of the variance
_FEWEST_RATINGS = 20  # of a user, as in MovieLens
_MOST_SEEN = 0.65  # largest share of the movies that a user rates, where that is 20 or more
_MOST_USERS = 100_000
_MOST_CELLS = 100_000_000  # users times movies; a draw takes about ten seconds for as many
_MOST_FACTORS = 100
_COUNT_SPREAD = 1.25  # standard deviation of the logarithm of a user's ratings beyond 19


def _draw_visits(rng, popularity, user_factors, item_factors, median):
    """Draws who rates what, and when: arrays user, item and timestamp, one entry per rating."""
    num_users, num_items = len(user_factors), len(popularity)
    least = _FEWEST_RATINGS - 1  # what everybody has, short of one; the rest is log-normal
    more = rng.lognormal(np.log(median - least), _COUNT_SPREAD, num_users)
    room = max(_MOST_SEEN * num_items - least, 1.0)
    counts = least + room * -np.expm1(-more / room)  # levels off where the room ends
    counts = np.maximum(counts, _FEWEST_RATINGS).astype(int)
    items, times = [], []
    for u, count in enumerate(progress(counts, "Drawing ratings", delay=2)):
        # The largest of these keys are a sample without replacement (Gumbel's trick).
        keys = popularity + 0.5 * item_factors @ user_factors[u] + rng.gumbel(size=num_items)
        keys[u::num_users] = np.inf  # every movie is rated at least once
        items.append(rng.permutation(np.argpartition(-keys, count - 1)[:count]))
        first = rng.uniform(956_000_000, 1_046_000_000)  # from 2000 to 2003, as in ML-1M
        times.append(first + np.cumsum(rng.exponential(60, count)))  # one a minute
    user = np.repeat(np.arange(num_users), counts)
    return user, np.concatenate(items), np.concatenate(times).astype(np.int64)


def _best_rmse(expected: np.ndarray, limits: np.ndarray, noise: float) -> float:
    """RMSE of the expected rating, which no predictor can beat, from the model alone."""
    below = ndtr((limits - expected[:, None]) / noise)  # P(stars <= 1), ..., P(stars <= 4)
    mean = 5 - below.sum(axis=1)
    mean_square = 25 - below @ np.array([3, 5, 7, 9])
    return float(np.sqrt(np.mean(mean_square - mean**2)))


def synthetic_ratings(
    num_users: int = 600,
    num_items: int = 400,
    seed: int = 0,
    *,
    num_factors: int = 4,
    median_ratings: int | None = None,
) -> Ratings:
    """Draws ratings with ML-1M's shape from a known low-rank model.

    Args:
        num_users: number of users; 6040 gives ML-1M's size together with 3706 movies.
        num_items: number of movies, from 20 to 20 for each user; users times movies are at most
            a hundred million, users a hundred thousand.
        seed: decides everything that is drawn.
        num_factors: rank of the taste, at most 100.
        median_ratings: ratings of the median user, from 20; by default an eighth of the
            movies, from 24 to ML-1M's 96. The fewest are 20.

    Returns:
        The ratings, with the best RMSE that is possible for them.

    Raises:
        DataError: when the numbers of users and movies do not fit each other, or are too large.
        TypeError: if a number is not whole.
        ValueError: if it is too small or too large.
    """
    num_users = whole_number("num_users", num_users, 1)
    num_items = whole_number("num_items", num_items, 1)
    num_factors = whole_number("num_factors", num_factors, 1)
    if not 20 <= num_items <= 20 * num_users:
        raise DataError(
            f"num_items is {num_items} for {num_users} users; give from 20 to {20 * num_users}."
        )
    fits = num_users <= _MOST_USERS and num_users * num_items <= _MOST_CELLS
    if not fits or num_factors > _MOST_FACTORS:
        raise DataError(
            f"num_users={shown(num_users)}, num_items={shown(num_items)} and num_factors="
            f"{shown(num_factors)} are too many; draw at most {_MOST_USERS:,} users, "
            f"{_MOST_CELLS:,} pairs of a user and a movie, and {_MOST_FACTORS} factors."
        )
    median = min(max(24, num_items // 8), 96)
    if median_ratings is not None:
        median = whole_number("median_ratings", median_ratings, _FEWEST_RATINGS)
        if median > num_items:
            raise DataError(f"median_ratings is {median} for {num_items} movies; give at most all.")
    rng = np.random.default_rng(seed_number("seed", seed))
    popularity = rng.normal(0, 1.3, num_items)
    user_bias = rng.normal(0, _USER_SHARE**0.5, num_users)
    quality = 0.5 * popularity / 1.3 + rng.normal(0, 0.75**0.5, num_items)
    factor_scale = (_TASTE_SHARE / num_factors) ** 0.25
    user_factors = rng.normal(0, factor_scale, (num_users, num_factors))
    item_factors = rng.normal(0, factor_scale, (num_items, num_factors))
    user, item, time = _draw_visits(rng, popularity, user_factors, item_factors, median)

    expected = user_bias[user] + _ITEM_SHARE**0.5 * quality[item]
    expected += (user_factors[user] * item_factors[item]).sum(axis=1)
    score = expected + rng.normal(0, _NOISE_SHARE**0.5, len(user))
    limits = np.quantile(score, np.cumsum(_ML1M_HISTOGRAM)[:4] / _ML1M_HISTOGRAM.sum())
    rating = 1 + np.searchsorted(limits, score)
    raw = pd.DataFrame(dict(user=user + 1, movie=item + 1, rating=rating, timestamp=time))
    titles = [f"Synthetic movie {i}" for i in range(1, num_items + 1)]
    genres = [f"Genre {g + 1}" for g in np.abs(item_factors).argmax(axis=1)]
    movies = pd.DataFrame(dict(title=titles, genres=genres), index=range(1, num_items + 1))
    return index_ratings(
        "synthetic", raw, movies, _best_rmse(expected, limits, _NOISE_SHARE**0.5), (1, 5)
    )
