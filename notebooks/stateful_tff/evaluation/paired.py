"""Paired differences of two methods over several seeds: the one convention of the whole book.

Both methods are judged on the same users, drawn with replacement; the difference is the mean over
seeds, and a dot for each seed stands beside it. Knows nothing of models, methods and engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from ..checks import array_of, finite_array, listed, shown
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
class OverSeeds:
    """A statistic of users with its interval.

    Attributes:
        value: the mean over seeds.
        low, high: the ends of the interval, over users.
        by_seed: the value of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    def __str__(self):
        """The value with its interval."""
        return f"{self.value:+.4f} ({self.low:+.4f}, {self.high:+.4f})"


@attrs.frozen
class PairedDifference(OverSeeds):
    """The RMSE of one method minus that of another, in stars; or the same of another error.

    Attributes:
        smallest: the smallest effect of interest.
    """

    smallest: float = SMALLEST_EFFECT

    @property
    def verdict(self) -> str:
        """ "better", "worse", "no difference" (of `smallest`) or "undecided"."""
        if max(abs(self.low), abs(self.high)) < self.smallest:
            return "no difference"
        if self.low > 0 or self.high < 0:
            return "worse" if self.value > 0 else "better"
        return "undecided"


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


def rmse_of_users(runs: Sequence[UserErrors]) -> np.ndarray:
    """Returns the RMSE of each user in each run, in stars.

    Args:
        runs: the errors of one method, one `UserErrors` per seed.

    Returns:
        float64[seeds, num_users]; NaN where a run does not judge the user.

    Raises:
        TypeError: if it is no list of `UserErrors`.
    """
    with np.errstate(invalid="ignore"):
        return np.array([np.sqrt(r.squared / r.count) for r in listed("runs", runs, UserErrors)])


def mean_over_users(
    values: np.ndarray,
    *,
    per: np.ndarray | None = None,
    users: np.ndarray | None = None,
    minus: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> OverSeeds:
    """Returns the mean of what is known of each user, with the interval of `paired_difference`.

    Args:
        values: float[seeds, num_users], such as gains in stars; NaN where a seed does not judge
            the user.
        per: float[seeds, num_users]; the result is the sum of the values per sum of these, such
            as the error before, which makes gains relative. Left out, a plain mean.
        users: bool[num_users], whom to take the mean of; left out, everybody.
        minus: bool[num_users], a second group, whose mean is taken away from the first's, on the
            same drawn populations.
        draws: how many populations to draw.
        seed: decides the draws.
        level: the share of the drawn populations that lie in the interval.

    Raises:
        TypeError: if an array or a number is of the wrong kind.
        ValueError: if shapes differ, a value is infinite, or a group has nobody in a seed or in a
            drawn population.
    """
    values = array_of("values", values, ndim=2).astype(np.float64)
    known = ~np.isnan(values)
    per = known if per is None else array_of("per", per, ndim=2)
    groups = [_group("users", users, values.shape[1])]
    groups += [] if minus is None else [_group("minus", minus, values.shape[1])]
    if per.shape != values.shape:
        raise ValueError(f"per has the shape {list(per.shape)}, and values {list(values.shape)}.")
    finite_array("values", values[known])
    judged = np.flatnonzero(known.any(axis=0))
    often = populations(len(judged), draws, seed)
    above, below = np.where(known, values, 0)[:, judged], np.where(known, per, 0)[:, judged]
    means = []
    for group in groups:
        size = often @ (below * group[judged]).T
        if not (size > 0).all():
            raise ValueError(
                f"A group of {int(group[judged].sum())} users has nobody to judge in some seed or "
                "drawn population; take a larger group."
            )
        means.append(often @ (above * group[judged]).T / size)
    found = means[0] - means[1] if len(means) > 1 else means[0]
    value, low, high = map(float, bounds(found.mean(axis=1), level))
    return OverSeeds(value, low, high, tuple(map(float, found[0])))


def _group(name: str, users: np.ndarray | None, size: int) -> np.ndarray:
    """Returns who is in a group, bool[size]; everybody where it is left out."""
    if users is None:
        return np.ones(size, bool)
    if not isinstance(users, np.ndarray) or users.dtype != bool or users.shape != (size,):
        raise TypeError(
            f"{name} must be an array with True or False for each of {size} users, not "
            f"{shown(users)}."
        )
    return users
