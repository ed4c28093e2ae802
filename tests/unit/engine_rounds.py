"""Models, populations and rounds for the tests of engines, and how two results are compared."""

import functools

import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from random_ratings import NUM_FACTORS, NUM_ITEMS, NUM_USERS, random_ratings

from stateful_tff.data import ClientDatasets, ExampleDatasets
from stateful_tff.methods import BOTH, Optimizers, Phase, in_phases, stateful
from stateful_tff.models import FunctionalModel, MatrixFactorization
from stateful_tff.stores import MemoryStore
from stateful_tff.stores.contract import as_arrays

SGD = tff.learning.optimizers.build_sgdm
RATES = Optimizers(SGD(0.7), SGD(0.1), SGD(0.05))
BIASED = MatrixFactorization(
    NUM_ITEMS, NUM_FACTORS, biases=True, mean_rating=3.5, l2=0.05, seed=3
)  # fmt: skip
PLAIN = MatrixFactorization(NUM_ITEMS, NUM_FACTORS, seed=3)


@functools.cache
def in_epochs(epochs):
    """The stateful method with several passes over a client's ratings."""
    return stateful if epochs == 1 else in_phases("stateful", Phase("all", BOTH, epochs))


def example_losses(global_weights, local_weights, x, y):
    """A small network: a shared layer, a private head, and a penalty on the head."""
    hidden = tf.tanh(x @ global_weights[0] + global_weights[1])
    error = tf.linalg.matvec(hidden, local_weights[0]) + local_weights[1] - y
    return error**2 + 0.1 * tf.reduce_sum(local_weights[0] ** 2)


def network():
    """The small network, whose local weights are a vector and a number."""
    rng = np.random.default_rng(0)
    spec = {"x": tf.TensorSpec([None, 3]), "y": tf.TensorSpec([None])}
    return FunctionalModel(
        [rng.normal(size=(3, 4)).astype(np.float32), np.zeros(4, np.float32)],
        [rng.normal(size=4).astype(np.float32), np.float32(0.5)],
        example_losses,
        spec,
    )


def network_clients(batch_size=4, seed=6, counts=(7, 3, 11, 0, 4, 1, 6, 2, 9, 5, 3, 8, 1, 12)):
    """Examples of the network's clients, one of whom has none."""
    rng = np.random.default_rng(4)
    examples = [
        (rng.normal(size=(n, 3)).astype(np.float32), rng.normal(size=n).astype(np.float32))
        for n in counts
    ]
    return ExampleDatasets(examples, batch_size, shuffle_seed=seed)


def rating_clients(seed=1, batch_size=4, shuffle_seed=5):
    """Ratings of the factorization's clients, with 0 to 22 ratings each."""
    return ClientDatasets(random_ratings(seed), batch_size, shuffle_seed=shuffle_seed)


def scattered(process, seed, num_clients=NUM_USERS):
    """A store whose local weights are away from the common start."""
    store, rng = MemoryStore(process, num_clients), np.random.default_rng(seed)
    states = store[range(num_clients)]
    local = [rng.normal(0, 0.3, w.shape).astype(np.float32) for w in states.local_weights]
    store.replace(attrs.evolve(states, local_weights=local))
    return store


def away_from_start(process, seed):
    """A server state away from the first one."""
    rng, state = np.random.default_rng(seed), process.initialize()
    weights = [rng.normal(0, 0.3, np.shape(w)).astype(np.float32) for w in state.model_weights]
    return attrs.evolve(state, model_weights=weights)


def one_round(process, server, clients, cohort, store, round_num=0, inputs=None):
    """Runs a round; returns the server state, the metrics and the states by ascending id."""
    data, ids = (inputs or process.inputs)(clients, cohort, round_num)
    after, metrics, states = process.next(server, data, [store[some] for some in ids])
    stacks = [
        state if np.ndim(state.index) else tf.nest.map_structure(lambda part: part[None], state)
        for state in map(as_arrays, states)
    ]
    states = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *stacks)
    assert sorted(states.index) == sorted(cohort)
    order = np.argsort(states.index)
    return after, metrics, tf.nest.map_structure(lambda part: part[order], states)


def close(actual, expected, least=1e-3):
    """Within 1e-5 of the largest number of the array; of `least` where all cancel out."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    scale = max(np.abs(expected).max(initial=0), least)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape


def assert_same_structures(actual, expected, least=1e-3):
    """Two structures of tensors or arrays hold the same numbers in the same containers."""
    tf.nest.assert_same_structure(actual, expected)
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        close(a, e, least)


def assert_same_results(actual, expected, server):
    """Two results of `one_round` from one server state are the same, its change in particular."""
    for after, same, before in zip(
        actual[0].model_weights, expected[0].model_weights, server.model_weights, strict=True
    ):
        close(np.asarray(after) - before, np.asarray(same) - before, least=0.1)
    assert int(actual[0].round_num) == int(expected[0].round_num)
    assert_same_structures(actual[2], expected[2], least=0.1)  # states start at a size of 0.3
    assert list(actual[1]) == list(expected[1])
    for name, value in expected[1].items():
        close(actual[1][name], value)
