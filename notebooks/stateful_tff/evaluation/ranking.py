"""Lists instead of stars: where a movie stands that the user went on to rate.

Knows nothing of methods, engines and stores: a model is its specification and its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from ..checks import (
    array_of,
    arrays,
    client_ids,
    finite_array,
    seed_number,
    shown,
    table_size,
    whole_number,
)
from ..data import Ratings
from ..models.matrix_factorization import MatrixFactorization
from ..progress import progress

_AT_ONCE = 2**22  # users times movies that are looked at together


@attrs.frozen(eq=False)
class LeaveOneOut:
    """One movie per user to be found among others.

    Kept are lists of movies; the tables of users by movies are made when they are asked for. Of
    many users take some at a time: `task[:1000]`.

    Attributes:
        users: int64[n], the users.
        target: int64[n], the movie that each rated last.
        rated: for each user the movies that the user rated, int32[...].
        drawn: int64[n, negatives], movies that the user never rated, drawn at random.
        num_items: how many movies there are.
    """

    users: np.ndarray
    target: np.ndarray
    rated: Sequence[np.ndarray]
    drawn: np.ndarray
    num_items: int

    def __getitem__(self, some: slice) -> LeaveOneOut:
        """Returns the tasks of some of the users."""
        if not isinstance(some, slice):
            raise TypeError(f"Some users are a slice, such as task[:1000], not {shown(some)}.")
        parts = self.users[some], self.target[some], self.rated[some], self.drawn[some]
        return LeaveOneOut(*parts, self.num_items)

    @property
    def all(self) -> np.ndarray:
        """bool[n, num_items], the movies that the user never rated."""
        return _all_but(self.rated, self.num_items)

    @property
    def sampled(self) -> np.ndarray:
        """bool[n, num_items], those that were drawn."""
        table_size("A table of candidates", len(self.users), self.num_items)
        sampled = np.zeros((len(self.users), self.num_items), bool)
        np.put_along_axis(sampled, self.drawn, True, axis=1)
        return sampled


def _all_but(rated: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """bool[n, num_items]: all movies but those of a list for each user."""
    table_size("A table of candidates", len(rated), num_items)
    unknown = np.ones((len(rated), num_items), bool)
    rows = np.repeat(np.arange(len(rated)), [len(items) for items in rated])
    unknown[rows, np.concatenate([np.zeros(0, int), *rated])] = False
    return unknown


def leave_one_out(
    ratings: Ratings, test: Ratings, seed: int = 0, negatives: int = 99
) -> LeaveOneOut:
    """Sets the task of finding each user's last test movie among those never rated.

    Of several that a user rated last, at one time, a hash of user and movie takes one, so that
    neither ids nor the order in a file tell which.

    Args:
        ratings: all ratings, so that no movie which the user knows competes.
        test: the newest ratings.
        seed: decides the sampled movies, and which of several last movies is taken.
        negatives: how many to sample for each user.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if one is too small, there are no test ratings, or a user has rated so many
            movies that there are too few to sample; a `DataError` if all ratings of each user
            bear one time.
    """
    seed, negatives = seed_number("seed", seed), whole_number("negatives", negatives, 1)
    users = np.flatnonzero(np.diff(test.bounds))
    if not len(users):
        raise ValueError("There are no test ratings to take a last movie of; give at least one.")
    ratings.check_times()
    last = test.in_time(seed)[test.bounds[users + 1] - 1]
    target = test.table["item"].to_numpy(np.int64)[last]
    items, bounds = ratings.table["item"].to_numpy(), ratings.bounds
    rated = [items[bounds[user] : bounds[user + 1]] for user in users]
    whole_number("negatives", negatives, most=ratings.num_items)
    drawn, rng = np.empty((len(users), negatives), np.int64), np.random.default_rng(seed)
    step = max(_AT_ONCE // ratings.num_items, 1)
    for start in progress(range(0, len(users), step), "Drawing movies", delay=2):
        some = slice(start, start + step)
        unknown = _all_but(rated[some], ratings.num_items)
        fewest = unknown.sum(axis=1).min()
        if fewest < negatives:
            raise ValueError(f"A user has {fewest} movies left, too few to sample {negatives}.")
        keys = np.where(unknown, rng.random(unknown.shape, np.float32), 2)
        drawn[some] = np.argpartition(keys, negatives - 1, axis=1)[:, :negatives]
    return LeaveOneOut(users, target, rated, drawn, ratings.num_items)


def target_ranks(
    scores: np.ndarray, target: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds each user's target among the movies that it competes with.

    Args:
        scores: float[n, num_items], higher is better, or one row for all users.
        target: int[n], one movie per user, which is not among the candidates.
        candidates: bool[n, num_items].

    Returns:
        int64[n] twice: how many candidates score higher, and how many the same.

    Raises:
        ValueError: if the shapes do not go together, or a score is NaN, which would rank first.
    """
    scores = array_of("scores", scores)
    target = array_of("target", target, whole=True, ndim=1)
    candidates = np.asarray(candidates)
    shape = len(target), scores.shape[-1] if scores.ndim else 0
    if (
        candidates.dtype != bool
        or candidates.shape != shape
        or scores.shape not in (shape, shape[1:])
    ):
        raise ValueError(
            f"Scores of shape {list(scores.shape)}, {len(target)} targets and candidates "
            f"{candidates.dtype}{list(candidates.shape)} do not go together; give bool[n, "
            "num_items] for n targets."
        )
    if len(target) and not 0 <= target.min() <= target.max() < shape[1]:
        raise ValueError(f"A target is none of the {shape[1]} movies, which count from 0.")
    scores = np.broadcast_to(scores, shape)
    if np.isnan(scores).any():
        raise ValueError("A score is NaN, which compares with nothing; check the predictions.")
    own = scores[np.arange(len(target)), target][:, None]
    above = np.count_nonzero((scores > own) & candidates, axis=1)
    return above, np.count_nonzero((scores == own) & candidates, axis=1)


def hit_rate_and_ndcg(
    above: np.ndarray, tied: np.ndarray, cutoff: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Returns HR and NDCG at a cutoff for one target per user, the mean over orders of ties.

    Args:
        above: int[n], how many candidates score higher than the target.
        tied: int[n], how many score the same.
        cutoff: the length of the list.

    Returns:
        float64[n] twice: the chance of the target to be in the list, and the expected
        1 / log2(1 + rank), with ranks from 1, which counts zero outside of the list.

    Raises:
        TypeError: if `cutoff` is no whole number.
        ValueError: if it is below one.
    """
    cutoff = whole_number("cutoff", cutoff, 1, 10**8)
    above, tied = (array_of(name, n, whole=True) for name, n in (("above", above), ("tied", tied)))
    if above.shape != tied.shape or min(above.min(initial=0), tied.min(initial=0)) < 0:
        raise ValueError("above and tied must hold counts from 0, one of each for each target.")
    worth = np.cumsum(np.append(0.0, 1 / np.log2(np.arange(2, cutoff + 2))))
    first, last = np.minimum(above, cutoff), np.minimum(above + tied + 1, cutoff)
    return (last - first) / (tied + 1), (worth[last] - worth[first]) / (tied + 1)


def score_all(
    model: MatrixFactorization,
    global_weights: Sequence[np.ndarray],
    local_weights: Sequence[np.ndarray],
    users: Sequence[int],
) -> np.ndarray:
    """Scores every movie for some users; a user's own bias is left out, since it changes no rank.

    Args:
        model: the specification of the model.
        global_weights: item vectors `[num_items, k]` and, with biases, `[num_items, 1]`.
        local_weights: the users' vectors, stacked, `[num_users, k]`; what follows is not used.
        users: n ids, rows of the user vectors, each once.

    Returns:
        float32[n, num_items], in stars.

    Raises:
        TypeError: if an id is no whole number.
        ValueError: if an id is out of range or comes twice.
    """
    of_items = arrays("global_weights", global_weights)
    of_users = arrays("local_weights", local_weights)
    vectors, *biases = (finite_array("A global weight", part, 2) for part in of_items or [[[]]])
    own = finite_array("The users' vectors", of_users[0] if of_users else [[]], 2)
    if own.shape[1] != vectors.shape[1] or any(b.shape != (len(vectors), 1) for b in biases):
        raise ValueError(
            f"Global weights of shapes {[part.shape for part in (vectors, *biases)]} do not fit "
            f"users' vectors of shape {own.shape}."
        )
    users = client_ids(users, len(own))
    table_size("The scores", len(users), len(vectors))
    scores = own[users] @ vectors.T
    for bias in biases:
        scores = scores + bias[:, 0]
    return scores + np.float32(model.mean_rating)
