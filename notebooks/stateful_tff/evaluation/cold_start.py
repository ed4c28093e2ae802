"""Users who arrive: who counts as seen, what they rate first, and where their state begins.

Knows nothing of methods, engines and stores: serving a user is a function that predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
import pandas as pd

from ..checks import (
    array_of,
    arrays,
    called,
    client_ids,
    finite_array,
    positive_number,
    whole_number,
    yes_or_no,
)
from ..data import DataError, Ratings, Split, split_by_time, split_users
from ..models import MatrixFactorization
from ..state import ClientState
from .baselines import fit_biases
from .metrics import per_user

LEAST_QUERY = 10  # ratings that a new user has to be judged on


@attrs.frozen
class SeenAndUnseen:
    """Two kinds of users, so that one training serves two questions.

    Attributes:
        seen: the ratings of the users who may be trained on, each user's split by time.
        unseen: the ratings of users whom nobody trains on, at most the 300 oldest of each.
    """

    seen: Split
    unseen: Ratings


def seen_and_unseen(ratings: Ratings, seed: int = 0, tuning: bool = False) -> SeenAndUnseen:
    """Keeps a tenth of the users out of training, and splits the others' ratings by time.

    Args:
        ratings: the ratings.
        seed: decides who is unseen.
        tuning: keep the test users out of everything; the validation users are the unseen ones.

    Raises:
        DataError: as `split_users` and `split_by_time` do.
    """
    split = split_users(ratings, seed=seed)
    seen, unseen = split.train_and_validation, split.test
    if yes_or_no("tuning", tuning):
        seen, unseen = split.train, split.validation
    rows = ratings.table["user"].isin(seen.table["user"].unique())
    return SeenAndUnseen(split_by_time(ratings.select(rows)), unseen)


def first_ratings(unseen: Ratings, counts: Sequence[int]) -> tuple[dict[int, Ratings], Ratings]:
    """Lets new users arrive: their first ratings to adapt to, and later ones to judge on.

    Args:
        unseen: the ratings of new users.
        counts: how many first ratings to adapt to.

    Returns:
        The support set for each count, and the one query set: what comes after the largest
        count, of the users who have at least ten ratings there.

    Raises:
        TypeError: if a count is no whole number.
        ValueError: if a count is negative, or there are no counts.
        DataError: if no user has enough ratings.
    """
    counts = list(counts) if isinstance(counts, set | range) else counts
    counts = array_of("counts", counts, whole=True, ndim=1)
    counts = [whole_number("A count of first ratings", count, 0) for count in counts]
    if not counts:
        raise ValueError("There are no counts of first ratings; give at least one.")
    index = np.arange(len(unseen)) - unseen.bounds[unseen.table["user"]]
    most = max(counts)
    needed = most + LEAST_QUERY
    enough = np.diff(unseen.bounds)[unseen.table["user"]] >= needed
    if not enough.any():
        raise DataError(f"No new user has {needed} ratings; give smaller counts than {most}.")
    support = {count: unseen.select(enough & (index < count)) for count in counts}
    return support, unseen.select(enough & (index >= most))


def cold_start(
    unseen: Ratings,
    counts: Sequence[int],
    serve: Callable[[Ratings, Ratings, int], np.ndarray],
) -> pd.DataFrame:
    """Returns the RMSE of new users in stars, one row per user and one column per count.

    Args:
        unseen: the ratings of new users.
        counts: after how many ratings to judge.
        serve: `serve(support, query, count)` adapts to the support ratings and returns a
            prediction in stars for each row of `query.table`.

    Raises:
        DataError: if no user has enough ratings.
        ValueError: as `first_ratings` and `metrics.clipped_errors` do.
    """
    called("serve", serve)
    supports, query = first_ratings(unseen, counts)
    return pd.DataFrame(
        {n: per_user(serve(part, query, n), query)["rmse"] for n, part in supports.items()}
    )


def serve_biases(
    train: Ratings, shrink: float = 5.0
) -> Callable[[Ratings, Ratings, int], np.ndarray]:
    """Returns a baseline for `cold_start`: mean, item bias, and a user bias from the support.

    Args:
        train: the ratings of seen users, for the mean and the items' biases.
        shrink: pulls the biases to zero, in ratings.

    Raises:
        TypeError: if `shrink` is not a number.
        ValueError: if `shrink` is not above zero.
    """
    biases = fit_biases(train, shrink)

    def serve(support: Ratings, query: Ratings, count: int) -> np.ndarray:
        return biases.fold_in(support, shrink=shrink).predict(query)

    return serve


def mean_start(states: ClientState, start: ClientState) -> ClientState:
    """Returns first states whose local weights are the mean of the clients that took part.

    Args:
        states: stacked; those whose `num_visits` is zero do not count, so a whole population
            will do, as in `store[range(store.num_clients)]`.
        start: stacked first states of the clients that are to begin there.

    Returns:
        `start` with other local weights: every client's are the same.

    Raises:
        ValueError: if none of the clients took part in a round.
    """
    took_part = np.asarray(states.num_visits) > 0
    if not took_part.any():
        raise ValueError("None of these clients took part in a round; train first.")
    means = [
        np.broadcast_to(np.asarray(part)[took_part].mean(axis=0), np.shape(first)).copy()
        for part, first in zip(states.local_weights, start.local_weights, strict=True)
    ]
    return attrs.evolve(start, local_weights=means)


@attrs.frozen(eq=False)
class Prior:
    """What users are like of whom nothing is known: a normal distribution of their sides.

    Attributes:
        mean: float64[k + 1], of the vector and, last, the bias.
        covariance: float64[k + 1, k + 1].
    """

    mean: np.ndarray
    covariance: np.ndarray

    def fit(
        self, model: MatrixFactorization, items: list[np.ndarray], support: Ratings, noise: float
    ) -> list[np.ndarray]:
        """Fits every user's side to its own ratings, with the items frozen.

        The result is the mean of the posterior, where a rating is the prediction plus normal
        noise (Rasmussen and Williams 2006, equation 2.12); it takes one small system of equations
        per user, with as many of them as the user has ratings.

        Args:
            model: holds the mean rating.
            items: float[num_items, k] vectors and float[num_items, 1] biases.
            support: the ratings to fit users to; a user without any gets the prior's mean.
            noise: the variance of the noise, in stars squared; above zero.

        Returns:
            float32[num_users, k] vectors and float32[num_users, 1] biases.

        Raises:
            TypeError: if `noise` is not a number, or the items are no two arrays.
            ValueError: if `noise` is not above zero, or the items do not fit.
        """
        noise = positive_number("noise", noise)
        vectors, biases = _vectors_and_biases("items", items, support.num_items)
        if vectors.shape[1] + 1 != len(self.mean):
            raise ValueError(
                f"items have vectors of length {vectors.shape[1]}, and the prior is of sides with "
                f"{len(self.mean) - 1}; give those of the same run."
            )
        user, item, stars = (support.table[c].to_numpy() for c in ("user", "item", "rating"))
        features = np.column_stack([vectors[item], np.ones(len(item))])
        rest = stars - model.mean_rating - biases[item, 0] - features @ self.mean
        sides = np.tile(self.mean, (support.num_users, 1))
        for one in np.unique(user):
            own = slice(support.bounds[one], support.bounds[one + 1])
            known = features[own] @ self.covariance
            between = known @ features[own].T + noise * np.eye(len(known))
            sides[one] += np.linalg.solve(between, rest[own]) @ known
        return [sides[:, :-1].astype(np.float32), sides[:, -1:].astype(np.float32)]


def prior_of(sides: Sequence[np.ndarray], users: Sequence[int]) -> Prior:
    """Returns the prior that a population of users makes: two sums over clients, and their number.

    Args:
        sides: float[num_users, k] vectors and float[num_users, 1] biases.
        users: ids of those who count, such as `store.visited`.

    Raises:
        TypeError, ValueError: if the sides are no such arrays, or there are no users.
    """
    parts = _vectors_and_biases("sides", sides)
    users = client_ids(users, len(parts[0]))
    if not len(users):
        raise ValueError("Nobody has a side to make a prior of; train first.")
    rows = np.column_stack(parts)[users]
    mean, square = rows.sum(axis=0) / len(rows), rows.T @ rows / len(rows)
    return Prior(mean, square - np.outer(mean, mean))


def _vectors_and_biases(name: str, parts: Sequence[np.ndarray], rows: int | None = None) -> list:
    """Returns vectors, float64[n, k], and biases, float64[n, 1], after checking them."""
    found = [finite_array(name, part, 2).astype(np.float64) for part in arrays(name, parts)]
    shapes = [part.shape for part in found]
    if len(found) != 2 or shapes[1] != (shapes[0][0], 1) or rows not in (None, shapes[0][0]):
        size = "n" if rows is None else rows
        raise ValueError(
            f"{name} must be vectors of the shape [{size}, k] and biases of the shape [{size}, 1], "
            f"not arrays of the shapes {[list(shape) for shape in shapes]}."
        )
    return found
