"""Marks for lists, with all choices in one place: popularity, item-kNN, EASE and iALS.

Knows nothing of clients, methods, engines and stores.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from ..checks import (
    finite_number,
    num_passes,
    positive_number,
    seed_number,
    table_size,
    whole_number,
)
from ..data import Ratings


def choices(log: Ratings) -> scipy.sparse.csr_matrix:
    """Returns who chose what, float32[num_users, num_items] of zeros and ones."""
    pair = log.table["user"].to_numpy(), log.table["item"].to_numpy()
    shape = log.num_users, log.num_items
    return scipy.sparse.csr_matrix((np.ones(len(log), np.float32), pair), shape)


def popularity(log: Ratings, newest: float = 1.0) -> np.ndarray:
    """Returns how often each item was chosen, float64[num_items].

    Args:
        log: what may be known at the moment of serving, and nothing after it.
        newest: only so large a share of it counts, the newest.
    """
    newest, count = finite_number("newest", newest), len(log)
    if not 0 < newest <= 1:
        raise ValueError(f"newest is {newest:g}; give a share above 0 and up to 1.")
    order = np.argsort(log.table["timestamp"].to_numpy(), kind="stable")
    kept = log.table["item"].to_numpy()[order[count - round(count * newest) :]]
    return np.bincount(kept, minlength=log.num_items).astype(float)


def item_neighbours(log: Ratings, neighbours: int = 100, shrink: float = 10.0) -> np.ndarray:
    """Returns scores by item-kNN: the sum of similarities to what a user chose.

    The similarity of two items is their cosine, with `shrink` added below the line
    (Ferrari Dacrema et al. 2019).

    Args:
        log: the choices.
        neighbours: only so many of an item's nearest count, and those that tie with the last.
        shrink: pulls similarities of rare items to zero.

    Returns:
        float32[num_users, num_items].
    """
    neighbours, shrink = num_passes("neighbours", neighbours), finite_number("shrink", shrink, 0)
    table_size("The similarities", log.num_items, log.num_items)
    chosen = choices(log)
    both = np.asarray((chosen.T @ chosen).todense())
    length = np.sqrt(np.diag(both))
    near = both / np.maximum(np.outer(length, length) + shrink, 1e-9)
    np.fill_diagonal(near, 0)
    if neighbours < len(near):
        least = np.partition(near, -neighbours, axis=0)[-neighbours]
        near = np.where(near >= least - 1e-6, near, 0)
    return np.asarray(chosen @ near.astype(np.float32))


def ease(log: Ratings, l2: float = 500.0) -> np.ndarray:
    """Returns scores by EASE, a linear model from items to items with a zero diagonal.

    Source: Steck 2019, the solution in closed form.

    Args:
        log: the choices.
        l2: the penalty, in users; above zero.

    Returns:
        float32[num_users, num_items].
    """
    l2, chosen = positive_number("l2", l2), choices(log)
    table_size("The weights", log.num_items, log.num_items)
    both = np.asarray((chosen.T @ chosen).todense(), float)
    try:
        inverse = np.linalg.inv(both + l2 * np.eye(log.num_items))
    except np.linalg.LinAlgError as error:
        raise ValueError(f"The equations have no one solution with l2={l2:g}; raise it.") from error
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.asarray(chosen @ weights.astype(np.float32))


def penalties(counts: np.ndarray, others: int, weight: float, l2: float, power: float):
    """Returns each row's penalty of iALS, `l2 (n + weight N) ** power`.

    Source: Rendle et al. 2022, frequency-scaled regularization; a row has n choices among N of the
    other side.
    """
    return np.float32(l2 * (counts + weight * others) ** power)


def ridge_rows(chosen, other, weight: float, penalty: np.ndarray) -> np.ndarray:
    """Solves one side of iALS, row by row, with the other side frozen.

    Args:
        chosen: a CSR matrix [rows, N].
        other: float32[N, k], the other side.
        weight: of what was not chosen.
        penalty: float32[rows].

    Returns:
        float32[rows, k]: `(weight V'V + sum_chosen v v' + penalty I)^-1 sum_chosen v` each.
    """
    k, gram = other.shape[1], weight * (other.T @ other)
    solved = np.zeros((chosen.shape[0], k), np.float32)
    for row in range(chosen.shape[0]):
        mine = other[chosen.indices[chosen.indptr[row] : chosen.indptr[row + 1]]]
        if len(mine):
            left = gram + mine.T @ mine + penalty[row] * np.eye(k, dtype=np.float32)
            solved[row] = np.linalg.solve(left, mine.sum(axis=0))
    return solved


def ials(
    log: Ratings,
    num_factors: int = 64,
    *,
    weight: float = 0.1,
    l2: float = 0.01,
    power: float = 1.0,
    sweeps: int = 8,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits users and items by alternating least squares on all cells.

    The loss is the squared error of a one for each choice, plus `weight` times the squares of
    all predictions (Hu et al. 2008; Rendle et al. 2022).

    Args:
        log: the choices.
        num_factors: the length k of the vectors.
        weight: of what was not chosen; above zero.
        l2: the penalty; above zero.
        power: how it grows with the number of choices; see `penalties`.
        sweeps: how often both sides are fitted.
        seed: decides the first items.

    Returns:
        float32[num_users, k] and float32[num_items, k].
    """
    k, weight = (
        whole_number("num_factors", num_factors, 1, 10_000),
        positive_number("weight", weight),
    )
    l2, power = positive_number("l2", l2), finite_number("power", power, 0)
    table_size("One side's vectors", max(log.num_users, log.num_items), k)
    rng, by_user = np.random.default_rng(seed_number("seed", seed)), choices(log)
    items = rng.normal(0, 0.1 / k**0.5, (log.num_items, k)).astype(np.float32)
    by_item = by_user.T.tocsr()
    sides = [
        penalties(np.diff(chosen.indptr), chosen.shape[1], weight, l2, power)
        for chosen in (by_user, by_item)
    ]
    for _ in range(num_passes("sweeps", sweeps)):
        users = ridge_rows(by_user, items, weight, sides[0])
        items = ridge_rows(by_item, users, weight, sides[1])
    return ridge_rows(by_user, items, weight, sides[0]), items
