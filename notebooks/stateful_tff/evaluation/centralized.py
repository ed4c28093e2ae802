"""The same factorization with all ratings in one place: alternating least squares and SGD.

Knows nothing of clients, methods, engines and stores.
"""

from __future__ import annotations

import attrs
import numpy as np
import scipy.sparse

from ..checks import (
    finite_array,
    finite_number,
    num_passes,
    positive_number,
    seed_number,
    table_size,
    whole_number,
)
from ..data import Ratings
from ..models.matrix_factorization import MatrixFactorization

_NOT_SOLVED = "Least squares has no solution in float32; give l2 and shrink of a usual size."


@attrs.frozen(eq=False)
class Factors:
    """A matrix factorization with biases whose two sides lie in one place.

    Attributes:
        model: the `MatrixFactorization`, which holds the mean rating and predicts.
        items: float32[num_items, k] vectors and float32[num_items, 1] biases, a list.
        users: float32[num_users, k] vectors and float32[num_users, 1] biases, a list.
        implicit: float32[num_items, k], what an item says of its raters; see `told_by_items`.
            Left out, nothing.
    """

    model: MatrixFactorization
    items: list[np.ndarray]
    users: list[np.ndarray]
    implicit: np.ndarray | None = None

    def predict(self, ratings: Ratings) -> np.ndarray:
        """Returns a prediction in stars for every row of a table, float32[n], not clipped."""
        user, item = (ratings.table[column].to_numpy() for column in ("user", "item"))
        return self.model.predict(self.items, self.users, user, item)

    def fold_in(self, support: Ratings, l2: float, shrink: float) -> Factors:
        """Returns factors whose users are fitted to their support ratings, the items unchanged.

        The penalties pull a user's vector to what its own items tell, or to zero.

        Args:
            support: the ratings to fit users to; a user without any gets zeros.
            l2: penalty per rating, as in `fit_als`.
            shrink: penalty per user, as in `fit_als`; above zero.

        Raises:
            TypeError: if `l2` or `shrink` is not a number.
            ValueError: if `l2` is negative, or `shrink` not above zero.
        """
        penalties = finite_number("l2", l2, 0), positive_number("shrink", shrink)
        user, item, stars = (support.table[c].to_numpy() for c in ("user", "item", "rating"))
        targets = stars - np.float32(self.model.mean_rating) - self.items[1][item, 0]
        vectors, told = self.items[0][item], 0.0
        if self.implicit is not None:
            told = told_by_items(support, self.implicit)
            targets = targets - np.einsum("nk,nk->n", vectors, told[user])
        vectors, biases = _solve_side(user, support.num_users, vectors, targets, *penalties)
        return attrs.evolve(self, users=[vectors + told, biases])


def told_by_items(ratings: Ratings, table: np.ndarray) -> np.ndarray:
    """Returns what the n items that a user has rated tell of it: `n^-1/2 sum_j y_j`.

    Source: Koren 2008, equation 15.

    Args:
        ratings: only their users and items are read.
        table: float32[num_items, k], y.

    Returns:
        float32[num_users, k]; zeros for a user without ratings.

    Raises:
        TypeError: if the table holds no numbers.
        ValueError: if it has not one row per item, or numbers that are not finite.
    """
    table = finite_array("table", table, ndim=2)
    if len(table) != ratings.num_items:
        raise ValueError(
            f"The table has {len(table)} rows for {ratings.num_items} items; give one row each."
        )
    return _shares(ratings) @ table


def _shares(ratings: Ratings) -> scipy.sparse.csr_matrix:
    """Returns float32[num_users, num_items]: `n^-1/2` for each of a user's n items."""
    counts = np.diff(ratings.bounds)
    of_rows = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
    parts = of_rows, ratings.table["item"].to_numpy(), ratings.bounds
    return scipy.sparse.csr_matrix(parts, (ratings.num_users, ratings.num_items))


def _solve_side(ids, size, vectors, targets, l2, shrink) -> list[np.ndarray]:
    """Fits vectors and biases of one side by least squares, with the other side frozen.

    Args:
        ids: int[n], whose rating each row is, in ascending order.
        size: how many rows the side has.
        vectors: float32[n, k], the other side's vectors.
        targets: float32[n], the stars without mean and the other side's bias.
        l2: penalty per rating, as in the loss of chapter 2.
        shrink: penalty that does not grow with the number of ratings.

    Returns:
        Vectors, float32[size, k], and biases, float32[size, 1].
    """
    table_size("The equations of one side", size, vectors.shape[1] + 1, vectors.shape[1] + 1)
    features = np.column_stack([vectors, np.ones(len(ids), np.float32)])
    bounds = np.searchsorted(ids, np.arange(size + 1))
    width = features.shape[1]
    left, right = np.empty((size, width, width), np.float32), np.empty((size, width), np.float32)
    for one in range(size):
        own = features[bounds[one] : bounds[one + 1]]
        left[one] = own.T @ own
        right[one] = targets[bounds[one] : bounds[one + 1]] @ own
    left += (l2 * np.diff(bounds) + shrink)[:, None, None] * np.eye(width, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            solved = np.linalg.solve(left, right[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError as error:
            raise ValueError(_NOT_SOLVED) from error
    if not np.isfinite(solved).all():
        raise ValueError(_NOT_SOLVED)
    return [solved[:, :-1], solved[:, -1:]]


def _model(train: Ratings, num_factors: int, l2: float) -> MatrixFactorization:
    """Returns the specification of the model of chapter 2 for some ratings."""
    mean = float(train.table["rating"].to_numpy().mean(dtype=np.float64))
    return MatrixFactorization(train.num_items, num_factors, biases=True, mean_rating=mean, l2=l2)


def fit_als(
    train: Ratings,
    num_factors: int,
    l2: float = 0.05,
    shrink: float = 2.0,
    sweeps: int = 12,
    seed: int = 0,
) -> Factors:
    """Fits biases and vectors by alternating least squares, with all ratings in one place.

    Each half of a sweep solves one side exactly (Zhou et al. 2008; with biases as one more
    column). The loss is that of chapter 2, plus `shrink` times the squared weights. Biases alone
    are `baselines.fit_biases`.

    Args:
        train: the ratings.
        num_factors: the length k of the vectors, at least 1.
        l2: penalty per rating.
        shrink: penalty per user and per movie, in ratings; above zero.
        sweeps: how often both sides are fitted, the users first.
        seed: decides the first item vectors.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if a count is below one, `l2` negative, or `shrink` not above zero.
    """
    model, shrink = _model(train, num_factors, l2), positive_number("shrink", shrink)
    l2 = model.l2
    user, item, stars = (train.table[c].to_numpy() for c in ("user", "item", "rating"))
    by_item = np.argsort(item, kind="stable")
    rng = np.random.default_rng(seed_number("seed", seed))
    start = rng.normal(0, 0.1, (train.num_items, num_factors))
    items = [start.astype(np.float32), np.zeros((train.num_items, 1), np.float32)]
    factors = Factors(model, items, [])
    for _ in range(num_passes("sweeps", sweeps)):
        factors = factors.fold_in(train, l2, shrink)
        vectors, bias = (part[user[by_item]] for part in factors.users)
        targets = stars[by_item] - np.float32(model.mean_rating) - bias[:, 0]
        items = _solve_side(item[by_item], train.num_items, vectors, targets, l2, shrink)
        factors = attrs.evolve(factors, items=items)
    return factors


def fit_sgd(
    train: Ratings,
    num_factors: int,
    l2: float = 0.05,
    rate: float = 0.05,
    epochs: int = 30,
    batch_size: int = 500,
    seed: int = 0,
    implicit: float = 0.0,
) -> Factors:
    """Fits biases and vectors by SGD over shuffled ratings, with all ratings in one place.

    The loss is that of chapter 2. The rate falls in a straight line to zero.

    Args:
        train: the ratings.
        num_factors: the length k of the vectors, at least 1.
        l2: penalty per rating.
        rate: the first learning rate, per rating.
        epochs: passes over all ratings.
        batch_size: ratings whose errors are taken at one point.
        seed: decides the first vectors and the order of the ratings.
        implicit: the first rate of a second table, ten steps an epoch, whose sum over a user's
            items the penalty pulls the user's vector to; zero for none. See `told_by_items`.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if a count is below one, a rate or `l2` negative, or a rate too high.
    """
    implicit = finite_number("implicit", implicit, 0)
    model, rate = _model(train, num_factors, l2), finite_number("rate", rate, 0)
    l2 = model.l2
    epochs = num_passes("epochs", epochs)
    ids = [train.table[column].to_numpy() for column in ("item", "user")]
    stars = train.table["rating"].to_numpy()
    mean, rng = np.float32(model.mean_rating), np.random.default_rng(seed_number("seed", seed))
    table_size("The users' vectors", train.num_users, num_factors)
    sides = [_start(rng, size, num_factors, ones) for size, ones in _sizes(train)]
    num_batches = -(-len(train) // whole_number("batch_size", batch_size, 1))
    batches = np.array_split(np.arange(len(train)), num_batches)
    shares, table = _shares(train), np.zeros((train.num_items, num_factors), np.float32)
    told, ratings_of = np.zeros_like(sides[1][0]), np.diff(train.bounds)[:, None] / np.float32(10)
    every = max(len(batches) // 10, 1)
    for epoch in range(epochs):
        order = rng.permutation(len(train))
        for number, batch in enumerate(batches):
            left = 1 - (epoch + number / len(batches)) / epochs
            rows_of = [own[order[batch]] for own in ids]
            seen = [rows[at] for (rows, _), at in zip(sides, rows_of, strict=True)]
            error = (seen[0] * seen[1]).sum(axis=1) + mean - stars[order[batch]]
            pulled = seen[0], seen[1] - told[rows_of[1]]
            for side, (rows, moves) in enumerate(sides):
                gradient = (error[:, None] * seen[1 - side] + l2 * pulled[side]) * moves
                _add_rows(rows, rows_of[side], np.float32(-2 * rate * left) * gradient)
            if implicit and number % every == 0:
                own = ratings_of * (sides[1][0] - told)[:, :num_factors]
                table += np.float32(2 * implicit * left * l2) * (shares.T @ own)
                told[:, :num_factors] = shares @ table
    (items, _), (users, _) = sides
    if not (np.isfinite(items).all() and np.isfinite(users).all()):
        raise ValueError(f"SGD went out of bounds with the rate {rate}; give a lower one.")
    k = num_factors
    both = [items[:, :k], items[:, k : k + 1]], [users[:, :k], users[:, k + 1 :]]
    return Factors(model, *both, table if implicit else None)


def _sizes(train: Ratings) -> list[tuple[int, int]]:
    """Returns of movies and users how many there are, and which column holds their ones."""
    return [(train.num_items, -1), (train.num_users, -2)]


def _start(rng, size: int, num_factors: int, ones: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns one side's first rows, and which of their columns training moves.

    A bias is a factor, too: its partner on the other side is a column of ones that stays.
    """
    rows = rng.uniform(-0.05, 0.05, (size, num_factors + 2)).astype(np.float32)
    rows[:, -2:] = 0.0
    rows[:, ones] = 1.0
    moves = np.ones(num_factors + 2, np.float32)
    moves[ones] = 0.0
    return rows, moves


def _add_rows(table: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """Adds values to rows of a table in place; a row that comes twice gets both."""
    distinct, column = np.unique(rows, return_inverse=True)
    shape = len(distinct), len(rows)
    sums = scipy.sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (column, np.arange(len(rows)))), shape
    )
    table[distinct] += sums @ values
