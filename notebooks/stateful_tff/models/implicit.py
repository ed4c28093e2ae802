"""Models that score items for lists: what a client chose should stand above what it did not.

Knows nothing of methods, engines and stores.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import tensorflow as tf

from ..checks import finite_number, listed, seed_number, table_size, whole_number
from .functional import FunctionalModel

_LARGEST = 1e6  # of a first weight or a penalty


def _spec(ids: int = 1) -> OrderedDict:
    """Returns the type of a batch: item ids, and labels."""
    return OrderedDict(
        x=tf.TensorSpec([None, ids], tf.int64), y=tf.TensorSpec([None, 1], tf.float32)
    )


def _size_of(name: str, value) -> float:
    """Returns a number from 0 that no float32 overflows with."""
    value = finite_number(name, value, 0)
    if value > _LARGEST:
        raise ValueError(f"{name} is {value:g}, and at most {_LARGEST:g} makes sense.")
    return value


def _sizes(num_items: int, num_factors: int, seed: int):
    """Returns the checked sizes of an item table, and a generator."""
    num_items = whole_number("num_items", num_items, 1)
    num_factors = whole_number("num_factors", num_factors, 1, 10_000)
    table_size("The item table", num_items, num_factors)
    return num_items, num_factors, np.random.default_rng(seed_number("seed", seed))


def _as_weights(*arrays) -> list[np.ndarray]:
    return [np.asarray(array, np.float32) for array in arrays]


def _cross_entropy(logits, y):
    """Binary cross entropy of each example, float32[batch]."""
    return tf.nn.sigmoid_cross_entropy_with_logits(y[:, 0], logits)


def logistic_factorization(
    num_items: int,
    num_factors: int = 32,
    *,
    item_stddev: float = 1.0,
    user_range: float | None = None,
    l2: float = 0.0,
    seed: int = 0,
) -> FunctionalModel:
    """Returns matrix factorization with binary cross entropy: `logit = q_i . u + b`.

    The client's side, a vector u and a number b, is also what PFedRec (Zhang et al. 2023) calls
    a private score function: a linear layer over an item's vector.

    Args:
        num_items: rows of the item table, the only global weight.
        num_factors: the length of the vectors.
        item_stddev: of the first item vectors, normal.
        user_range: the client's first weights are uniform between plus and minus so much; left
            out, `1 / sqrt(num_factors)`, as a linear layer of PyTorch starts.
        l2: penalty for each example on the vectors it uses.
        seed: decides the first weights.

    Returns:
        A model of weights `[num_items, k]`, and `[1, k]` and `[1, 1]` at the client.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if it is too small or too large.
    """
    num_items, k, rng = _sizes(num_items, num_factors, seed)
    item_stddev = _size_of("item_stddev", item_stddev)
    limit = k**-0.5 if user_range is None else _size_of("user_range", user_range)
    l2 = np.float32(_size_of("l2", l2))

    def example_losses(global_weights, local_weights, x, y):
        items, (vector, bias) = tf.gather(global_weights[0], x[:, 0]), local_weights
        losses = _cross_entropy(tf.linalg.matvec(items, vector[0]) + bias[0, 0], y)
        if l2:
            losses += l2 * (tf.reduce_sum(items**2, axis=1) + tf.reduce_sum(vector**2))
        return losses

    items = rng.normal(0, item_stddev, (num_items, k))
    own = rng.uniform(-limit, limit, (1, k)), rng.uniform(-limit, limit, (1, 1))
    weights = _as_weights(items), _as_weights(*own)
    return FunctionalModel(*weights, example_losses, _spec(), num_items)


def two_table_factorization(
    num_items: int,
    num_factors: int = 32,
    *,
    independence: float = 0.1,
    sparsity: float = 0.1,
    seed: int = 0,
) -> FunctionalModel:
    """Returns the model of FedRAP: `logit = (c_i + d_i) . u + b`, d private.

    The loss of an example (Li et al. 2024, sums taken as means over a row) is
    its cross entropy, minus `independence` times the mean of `(d_i - c_i)^2`, plus `sparsity`
    times the mean of `|c_i|`.

    Args:
        num_items: rows of both tables.
        num_factors: the length of the vectors.
        independence: how much the two tables are pushed apart.
        sparsity: how much the common table is pulled to zero.
        seed: decides the first weights.

    Returns:
        A model of the common table `[num_items, k]`, and of `[1, k]`, `[1, 1]` and the private
        table `[num_items, k]` at the client.
    """
    num_items, k, rng = _sizes(num_items, num_factors, seed)
    apart = np.float32(_size_of("independence", independence))
    sparse = np.float32(_size_of("sparsity", sparsity))

    def example_losses(global_weights, local_weights, x, y):
        vector, bias, table = local_weights
        common, own = (tf.gather(one, x[:, 0]) for one in (global_weights[0], table))
        logits = tf.linalg.matvec(common + own, vector[0]) + bias[0, 0]
        pushed = tf.reduce_mean((own - common) ** 2, axis=1)
        pulled = tf.reduce_mean(tf.abs(common), axis=1)
        return _cross_entropy(logits, y) - apart * pushed + sparse * pulled

    limit, shape = k**-0.5, (num_items, k)
    common, own = rng.normal(0, 1, shape), rng.normal(0, 1, shape)
    score = rng.uniform(-limit, limit, (1, k)), rng.uniform(-limit, limit, (1, 1))
    weights = _as_weights(common), _as_weights(*score, own)
    return FunctionalModel(*weights, example_losses, _spec(), num_items)


def one_class_factorization(
    num_items: int, num_factors: int = 32, *, stddev: float = 0.1, seed: int = 0
) -> FunctionalModel:
    """Returns the model of implicit ALS: `(q_i . u - 1)^2` for each chosen item.

    What was not chosen stands in no batch; the method `fcf` adds it in closed form.

    Args:
        num_items: rows of the item table.
        num_factors: the length of the vectors.
        stddev: of the first item vectors.
        seed: decides these.

    Returns:
        A model of the item table, and of `[1, k]` at the client, which starts at zero.
    """
    num_items, k, rng = _sizes(num_items, num_factors, seed)

    def example_losses(global_weights, local_weights, x, y):
        items = tf.gather(global_weights[0], x[:, 0])
        return (tf.linalg.matvec(items, local_weights[0][0]) - y[:, 0]) ** 2

    items = rng.normal(0, _size_of("stddev", stddev), (num_items, k))
    weights = _as_weights(items), _as_weights(np.zeros((1, k)))
    return FunctionalModel(*weights, example_losses, _spec(), num_items)


def neural_factorization(
    num_items: int,
    num_factors: int = 32,
    hidden: tuple[int, ...] = (32, 16),
    *,
    stddev: float = 0.1,
    seed: int = 0,
) -> FunctionalModel:
    """Returns the model of FedNCF: a tower over both vectors, beside their product.

    It is NeuMF (He et al. 2017, section 3.4) with one pair of vectors for both branches, as in
    federated form of Perifanis and Efraimidis (2022): the towers and the item table are shared.

    Args:
        num_items: rows of the item table.
        num_factors: the length of the vectors.
        hidden: the widths of the tower's layers, with ReLU.
        stddev: of the first vectors.
        seed: decides the first weights.

    Returns:
        A model of the item table, and a matrix and a vector for each layer; `[1, k]` at the
        client.
    """
    num_items, k, rng = _sizes(num_items, num_factors, seed)
    hidden = listed("hidden", hidden, int)
    widths = [2 * k, *(whole_number("A width of hidden", one, 1, 10_000) for one in hidden)]
    stddev = _size_of("stddev", stddev)

    def example_losses(global_weights, local_weights, x, y):
        table, *layers, last, bias = global_weights
        items, user = tf.gather(table, x[:, 0]), local_weights[0]
        tower = tf.concat([items, tf.zeros_like(items) + user], axis=1)
        for matrix, offset in zip(layers[::2], layers[1::2], strict=True):
            tower = tf.nn.relu(tower @ matrix + offset)
        both = tf.concat([items * user, tower], axis=1)
        return _cross_entropy((both @ last)[:, 0] + bias[0], y)

    layers = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        limit = (6 / (before + after)) ** 0.5
        layers += [rng.uniform(-limit, limit, (before, after)), np.zeros(after)]
    limit = (3 / (k + widths[-1])) ** 0.5
    layers += [rng.uniform(-limit, limit, (k + widths[-1], 1)), np.zeros(1)]
    items, user = rng.normal(0, stddev, (num_items, k)), rng.normal(0, stddev, (1, k))
    weights = _as_weights(items, *layers), _as_weights(user)
    return FunctionalModel(*weights, example_losses, _spec(), num_items)


def pairwise_factorization(
    num_items: int, num_factors: int = 32, *, stddev: float = 0.1, l2: float = 0.0, seed: int = 0
) -> FunctionalModel:
    """Returns matrix factorization with the loss of BPR, `-log sigmoid((q_i - q_j) . u)`.

    Source: Rendle et al. 2009, section 4.1; item i was chosen and item j was not. The penalty is
    `l2` times the squared weights of the example.

    Args:
        num_items: rows of the item table.
        num_factors: the length of the vectors.
        stddev: of the first vectors.
        l2: the penalty.
        seed: decides the first weights.

    Returns:
        A model of the item table and of `[1, k]` at the client, whose x is `[batch, 2]`.
    """
    num_items, k, rng = _sizes(num_items, num_factors, seed)
    stddev, l2 = _size_of("stddev", stddev), np.float32(_size_of("l2", l2))

    def example_losses(global_weights, local_weights, x, y):
        chosen, drawn = (tf.gather(global_weights[0], x[:, side]) for side in range(2))
        user = local_weights[0][0]
        losses = tf.nn.softplus(-tf.linalg.matvec(chosen - drawn, user))
        if l2:
            squares = tf.reduce_sum(chosen**2 + drawn**2, axis=1) + tf.reduce_sum(user**2)
            losses += l2 * squares
        return losses

    items, user = rng.normal(0, stddev, (num_items, k)), rng.normal(0, stddev, (1, k))
    return FunctionalModel(
        _as_weights(items), _as_weights(user), example_losses, _spec(2), num_items
    )
