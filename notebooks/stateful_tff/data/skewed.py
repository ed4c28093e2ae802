"""Clients that differ: in their labels, in their inputs, or in what one stands for the other.

Each function returns for every client a pair of arrays, as `ExampleDatasets` takes them.
Knows nothing of models, methods, engines, stores and TFF.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits

from ..checks import (
    array_of,
    finite_number,
    one_of,
    positive_number,
    seed_number,
    share,
    shown,
    table_size,
    whole_number,
)
from .implicit import synthetic_log
from .ratings import DataError
from .synthetic import synthetic_ratings

SKEWS = ("labels", "rotation", "concept")
_MOST = 100_000  # clients, and examples of each: what is drawn one by one takes minutes


def _strength(value) -> float:
    value = finite_number("strength", value, 0)
    if value > 1:
        raise ValueError(f"strength is a share from 0 to 1, not {shown(value)}.")
    return value


def deal_by_label(
    labels: np.ndarray, num_clients: int, per_client: int, concentration: float, seed: int = 0
) -> list[np.ndarray]:
    """Deals examples to clients whose labels are skewed, the same number to each.

    Each client draws its own mixture of labels from a Dirichlet distribution around that of all
    labels (Hsu et al. 2019, section 3), and then examples without replacement. Clients draw one
    after the other, so the last ones get what is left.

    Args:
        labels: int[n], the label of each example, from 0.
        num_clients: how many clients there are.
        per_client: how many examples each gets.
        concentration: alpha of the paper: at 100 all clients have nearly the same mixture, at
            0.1 most have one or two labels.
        seed: decides the mixtures and the examples.

    Returns:
        For each client the rows of its examples, int64[per_client].

    Raises:
        DataError: if there are too few examples.
    """
    labels = array_of("labels", labels, whole=True, ndim=1).astype(np.int64)
    num_clients = whole_number("num_clients", num_clients, 1)
    per_client = whole_number("per_client", per_client, 1)
    concentration = min(positive_number("concentration", concentration), 1e6)
    if num_clients * per_client > len(labels):
        raise DataError(
            f"{num_clients} clients with {per_client} examples each need "
            f"{num_clients * per_client}, and there are {len(labels)}; take fewer."
        )
    rng = np.random.default_rng(seed_number("seed", seed))
    kinds = np.unique(labels)
    pools = [list(rng.permutation(np.flatnonzero(labels == kind))) for kind in kinds]
    prior = np.array([len(pool) for pool in pools]) / len(labels)
    rows = []
    for _ in range(num_clients):
        # The logarithms of gamma variables, which are too small to be divided by their sum.
        shape = concentration * prior
        logs = np.log(rng.gamma(shape + 1)) + np.log(rng.random(len(prior))) / shape
        mixture = np.maximum(np.exp(logs - logs.max()), 1e-30)
        mine = []
        for _ in range(per_client):
            left = mixture * [bool(pool) for pool in pools]
            mine.append(pools[rng.choice(len(pools), p=left / left.sum())].pop())
        rows.append(np.array(mine, np.int64))
    return rows


def digit_clients(
    num_clients: int = 50,
    per_client: int = 35,
    *,
    skew: str = "labels",
    strength: float = 0.5,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deals the handwritten digits that come with scikit-learn to clients that differ.

    Args:
        num_clients: how many clients there are.
        per_client: how many images each holds; 1,797 images are there in all.
        skew: "labels": clients hold other digits, by `deal_by_label` with a concentration of
            `1 / strength - 1`; "rotation": clients hold their images turned by none, one, two or
            three quarters; "concept": clients call the digits by other names, in four dialects.
        strength: from 0, where all clients are alike, to 1. Rotation and concept concern this
            share of a client's group; labels at 1 are nearly one digit a client.
        seed: decides who gets what.

    Returns:
        For each client its images, float32[per_client, 64] from 0 to 1, and digits,
        int64[per_client].
    """
    one_of("skew", skew, SKEWS)
    strength = _strength(strength)
    images, digits = load_digits(return_X_y=True)
    images, digits = (images / 16).astype(np.float32), digits.astype(np.int64)
    concentration = 1e4
    if skew == "labels":
        concentration = max(1 / max(strength, 1e-3) - 1, 1e-3)
    rows = deal_by_label(digits, num_clients, per_client, concentration, seed)
    rng = np.random.default_rng([seed, 1])
    names = [np.arange(10)] + [rng.permutation(10) for _ in range(3)]
    clients = []
    for number, mine in enumerate(rows):
        x, y, group = images[mine], digits[mine], number % 4
        changed = rng.random(len(mine)) < strength
        if skew == "rotation":
            turned = np.rot90(x.reshape(-1, 8, 8), group, (1, 2)).reshape(-1, 64)
            x = np.where(changed[:, None], turned, x)
        if skew == "concept":
            y = np.where(changed, names[group][y], y)
        clients.append((np.ascontiguousarray(x), y))
    return clients


def synthetic_clients(
    alpha: float = 1.0,
    beta: float = 1.0,
    num_clients: int = 30,
    *,
    per_client: int = 50,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws synthetic(alpha, beta) of Li et al. 2020 (FedProx), section 5.1 and appendix.

    Each client has a linear classifier and a distribution of inputs of its own. It differs from
    the paper in that all clients have as many examples, and that a network may be fit to it.

    Args:
        alpha: how much the clients' classifiers differ, a variance.
        beta: how much their inputs differ, a variance.
        num_clients: how many clients there are, at most 100,000.
        per_client: how many examples each has, at most 100,000.
        seed: decides everything.

    Returns:
        For each client inputs, float32[per_client, 60], and classes from 0 to 9,
        int64[per_client].
    """
    alpha, beta = finite_number("alpha", alpha, 0), finite_number("beta", beta, 0)
    num_clients = whole_number("num_clients", num_clients, 1, _MOST)
    per_client = whole_number("per_client", per_client, 1, _MOST)
    table_size("The inputs", num_clients * per_client, 60)
    rng = np.random.default_rng(seed_number("seed", seed))
    spread = np.sqrt(np.arange(1, 61) ** -1.2)
    clients = []
    for _ in range(num_clients):
        center, middle = rng.normal(0, np.sqrt(alpha)), rng.normal(0, np.sqrt(beta))
        weights, bias = rng.normal(center, 1, (60, 10)), rng.normal(center, 1, 10)
        x = rng.normal(middle, 1, 60) + spread * rng.normal(size=(per_client, 60))
        clients.append((x.astype(np.float32), (x @ weights + bias).argmax(axis=1)))
    return clients


def sequence_clients(
    num_clients: int = 40,
    per_client: int = 20,
    *,
    strength: float = 0.5,
    num_symbols: int = 8,
    length: int = 12,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws sequences from Markov chains that are partly everybody's and partly a client's own.

    Args:
        num_clients: how many clients there are, at most 100,000.
        per_client: how many sequences each has, at most 100,000.
        strength: the share of a client's transition probabilities that is its own, 0 to 1.
        num_symbols: the size of the alphabet, at most 1,000.
        length: of an example, at most 10,000.
        seed: decides everything.

    Returns:
        For each client sequences, int64[per_client, length], and the symbols that follow,
        int64[per_client, length].
    """
    strength = _strength(strength)
    num_clients = whole_number("num_clients", num_clients, 1, _MOST)
    per_client = whole_number("per_client", per_client, 1, _MOST)
    length = whole_number("length", length, 1, 10_000)
    num_symbols = whole_number("num_symbols", num_symbols, 2, 1_000)
    table_size("The sequences", num_clients * per_client, length, num_symbols)
    rng = np.random.default_rng(seed_number("seed", seed))

    def chain():
        return rng.dirichlet(np.full(num_symbols, 0.2), num_symbols)

    common, clients = chain(), []
    for _ in range(num_clients):
        bounds = np.cumsum((1 - strength) * common + strength * chain(), axis=1)
        symbols = np.empty((per_client, length + 1), np.int64)
        symbols[:, 0] = rng.integers(0, num_symbols, per_client)
        for place in range(length):
            draws = rng.random((per_client, 1))
            after = (draws > bounds[symbols[:, place]]).sum(axis=1)
            symbols[:, place + 1] = np.minimum(after, num_symbols - 1)
        clients.append((symbols[:, :-1].copy(), symbols[:, 1:].copy()))
    return clients


def rating_clients(
    num_clients: int = 50, num_items: int = 60, *, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws `synthetic_ratings`, a client for each user.

    Args:
        num_clients: how many clients there are, each with 20 ratings or more.
        num_items: how many movies there are, from 20 to 20 for each client.
        seed: decides everything.

    Returns:
        For each client ids of movies, int64[n], and stars, int64[n], which count from 0.
    """
    ratings = synthetic_ratings(num_clients, num_items, seed)
    columns = (ratings.table[name].to_numpy(np.int64) for name in ("item", "rating"))
    item, stars = (np.split(column, ratings.bounds[1:-1]) for column in columns)
    return [(x, y - 1) for x, y in zip(item, stars, strict=True)]


def choice_clients(
    num_clients: int = 50, num_items: int = 100, *, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws `synthetic_log`, a client for each user, with items that were not chosen beside it.

    Each client has as many of these as it has choices, or all, drawn without replacement before
    anything is held out. So what it trains on says nothing of which other items are held out.

    Args:
        num_clients: how many clients there are, each with 15 to 60 choices.
        num_items: how many items there are, from 100 to 10,000.
        seed: decides everything.

    Returns:
        For each client ids of items, int64[n], and a 1 for chosen or a 0, int64[n].
    """
    log, _ = synthetic_log(num_clients, num_items, seed)
    rng, clients = np.random.default_rng([seed, 2]), []
    for chosen in np.split(log.table["item"].to_numpy(np.int64), log.bounds[1:-1]):
        others = np.setdiff1d(np.arange(log.num_items), chosen)
        others = rng.choice(others, min(len(chosen), len(others)), replace=False)
        y = np.repeat([1, 0], [len(chosen), len(others)])
        clients.append((np.concatenate([chosen, others]), y))
    return clients


def split_examples(
    examples: Sequence[tuple], train: float = 0.6, seed: int = 0
) -> tuple[list[tuple], list[tuple]]:
    """Splits each client's examples at random into two.

    Args:
        examples: for each client a pair of arrays of equal length.
        train: the share of the first part; each client with two examples or more has at least
            one in each.
        seed: decides the split.

    Returns:
        The clients' first and second parts, two lists of pairs.
    """
    train, parts = share("train", train), ([], [])
    rng = np.random.default_rng(seed_number("seed", seed))
    for x, y in examples:
        order = rng.permutation(len(x))
        first = min(max(round(train * len(x)), 1), max(len(x) - 1, 1))
        for part, rows in zip(parts, (order[:first], order[first:]), strict=True):
            part.append((x[rows], y[rows]))
    return parts
