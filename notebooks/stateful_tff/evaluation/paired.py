"""Paired differences of two methods over several seeds: the one convention of the whole book.

Both methods are judged on the same users, drawn with replacement; the difference is the mean over
seeds, and a dot for each seed stands beside it. Knows nothing of models, methods and engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from ..checks import listed, shown
from ..data import Ratings
from .bootstrap import bounds, populations
from .metrics import clipped_errors

SMALLEST_EFFECT = 0.002  # stars of RMSE: what is smaller is called no difference


@attrs.frozen(eq=False)
class UserErrors:
    """What one run gets wrong, summed by user.

    Attributes:
        squared: float64[num_users], the sum of squared errors in stars; zero without ratings.
        count: int64[num_users], how many ratings the user is judged on.
    """

    squared: np.ndarray = attrs.field()
    count: np.ndarray = attrs.field()

    @property
    def rmse(self) -> float:
        """The RMSE over all ratings, in stars."""
        return float(np.sqrt(self.squared.sum() / self.count.sum()))


def user_errors(predicted: np.ndarray, ratings: Ratings) -> UserErrors:
    """Sums squared errors by user.

    Args:
        predicted: one prediction per row of `ratings.table`, in stars; clipped to the scale.
        ratings: the true ratings.

    Raises:
        ValueError: as `metrics.clipped_errors` does.
    """
    squared = np.float64(clipped_errors(predicted, ratings)) ** 2
    user, size = ratings.table["user"].to_numpy(), ratings.num_users
    return UserErrors(np.bincount(user, squared, size), np.bincount(user, minlength=size))


@attrs.frozen
class PairedDifference:
    """The RMSE of one method minus that of another, in stars.

    Attributes:
        value: the mean over seeds.
        low, high: the ends of the interval, over users.
        by_seed: the difference of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """ "better", "worse", "no difference" (of `SMALLEST_EFFECT`) or "undecided"."""
        if max(abs(self.low), abs(self.high)) < SMALLEST_EFFECT:
            return "no difference"
        if self.low > 0 or self.high < 0:
            return "worse" if self.value > 0 else "better"
        return "undecided"

    def __str__(self):
        """The difference with its interval."""
        return f"{self.value:+.4f} ({self.low:+.4f}, {self.high:+.4f})"


def paired_difference(
    first: Sequence[UserErrors],
    second: Sequence[UserErrors],
    *,
    minus: tuple[Sequence[UserErrors], Sequence[UserErrors]] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """Compares two methods on the same users and seeds.

    Users are drawn with replacement, each with its ratings of all seeds; in every drawn
    population each seed has its own difference of RMSEs, and their mean is the statistic. So the
    interval tells how much the difference depends on the users; the dots tell how much on the
    seeds (Efron and Tibshirani 1993, chapter 8, on pairs).

    Args:
        first: the errors of one method, one `UserErrors` per seed.
        second: those of the other, of the same seeds in the same order.
        minus: two more methods, whose difference is taken away from the first two's: how much a
            difference has grown, on the same users.
        draws: how many populations to draw.
        seed: decides the draws.
        level: the share of the drawn populations that lie in the interval.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if the methods do not share seeds, users and numbers of ratings, or `draws`
            or `level` makes no sense.
    """
    methods = [listed("first", first, UserErrors, 0), listed("second", second, UserErrors, 0)]
    if minus is not None:
        if not isinstance(minus, list | tuple) or len(minus) != 2:
            raise TypeError(f"minus must be the errors of two methods, not {shown(minus)}.")
        methods += [listed("minus", one, UserErrors, 0) for one in minus]
    if len({len(method) for method in methods}) > 1 or not methods[0]:
        numbers = " and ".join(str(len(method)) for method in methods)
        raise ValueError(f"{numbers} seeds make no pairs; give all methods the same ones.")
    differences = []
    judged = np.flatnonzero(sum(one.count for one in methods[0]))
    often = populations(len(judged), draws, seed)
    for number, runs in enumerate(zip(*methods, strict=True)):
        if any(not np.array_equal(run.count, runs[0].count) for run in runs):
            raise ValueError(
                f"In pair {number} the methods are judged on different ratings; give all the same."
            )
        count = often @ runs[0].count[judged]
        rmse = [np.sqrt(often @ run.squared[judged] / count) for run in runs]
        differences.append(rmse[0] - rmse[1] - (rmse[2] - rmse[3] if minus else 0.0))
    value, low, high = map(float, bounds(np.mean(differences, axis=0), level))
    return PairedDifference(value, low, high, tuple(float(d[0]) for d in differences))
