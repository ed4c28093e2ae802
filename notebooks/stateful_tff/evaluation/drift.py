"""A client's mood at the moment of a rating, read from its own residuals and never sent.

A user's stars drift: one who was strict a minute ago is strict now (Koren 2009, "Collaborative
Filtering with Temporal Dynamics", section 3). The device has its own ratings with their times, so
it can correct a prediction by itself. Knows nothing of models, methods and engines.
"""

from __future__ import annotations

import numpy as np

from ..checks import finite_array, positive_number
from ..data import Ratings


def drift(
    support: Ratings, residuals: np.ndarray, judged: Ratings, reach: float, shrink: float
) -> np.ndarray:
    """Returns what to add to each prediction: the shrunk mean of the residuals around it.

    A residual counts `exp(-d / reach)`, where d is the number of the user's own ratings between
    it and the judged moment. The weighted sum is divided by the sum of weights plus `shrink`.

    Args:
        support: ratings that the client has.
        residuals: float[len(support)], rating minus prediction, in stars.
        judged: the ratings to predict; only their users and times are read. A time of the same
            second counts as after the support ratings of that second.
        reach: how many ratings away a residual still counts 1/e.
        shrink: in ratings; how much a user without evidence is pulled to zero.

    Returns:
        float64[len(judged)], in stars; zeros for users without support ratings.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if `reach` or `shrink` is not above zero, or there is not one residual per
            support rating.
    """
    reach, shrink = positive_number("reach", reach), positive_number("shrink", shrink)
    residuals = finite_array("residuals", residuals).astype(np.float64)
    if residuals.shape != (len(support),):
        raise ValueError(
            f"{residuals.shape} residuals do not fit {len(support)} support ratings; give one each."
        )
    times = support.table["timestamp"].to_numpy()
    user, moments = (judged.table[name].to_numpy() for name in ("user", "timestamp"))
    found = np.zeros(len(judged))
    ends = np.searchsorted(user, np.arange(judged.num_users + 1))
    for one in np.unique(user):
        own = slice(support.bounds[one], support.bounds[one + 1])
        if own.start == own.stop:
            continue
        rows = slice(ends[one], ends[one + 1])
        before = np.searchsorted(times[own], moments[rows], "right")
        places = np.arange(own.stop - own.start) + 0.5
        weights = np.exp(-np.abs(places - before[:, None]) / reach)
        found[rows] = weights @ residuals[own] / (weights.sum(axis=1) + shrink)
    return found
