"""A phase that solves for the local weights, against ridge regression in NumPy."""

import attrs
import numpy as np
import pytest
import tensorflow as tf
from engine_rounds import BIASED, RATES, network, network_clients, rating_clients
from random_ratings import NUM_USERS

from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.methods import (
    LOCAL,
    Phase,
    falling_to_zero,
    in_phases,
    sgd,
    stateful,
    weighted,
)
from stateful_tff.methods.weighting import taken_apart
from stateful_tff.stores import MemoryStore
from stateful_tff.training import UniformSampler, rounds

SOLVED = in_phases("solved", Phase("all", LOCAL, solve=True))


def one_round(process, clients, num_clients, size):
    process = InThisProcess(process)
    store = MemoryStore(process, num_clients)
    for done in rounds(process, store, clients, UniformSampler(num_clients, size, 0), 1):
        store.commit(done)
    return store


def test_it_is_ridge_regression():
    clients = rating_clients()
    store = one_round(build_packed_process(SOLVED, BIASED, RATES), clients, NUM_USERS, NUM_USERS)
    vectors, biases = (np.float64(w) for w in store.server_state.model_weights)
    seen = np.hstack([vectors, np.ones_like(biases)])
    for client, state in enumerate(store[client] for client in range(NUM_USERS)):
        rows = slice(clients.starts[client], clients.starts[client] + clients.counts[client])
        if not clients.counts[client]:
            continue
        items, stars = clients.x[rows, 0], np.float64(clients.y[rows, 0])
        q, n = seen[items], len(items)
        r = stars - BIASED.mean_rating - biases[items, 0]
        expected = np.linalg.solve(q.T @ q + n * BIASED.l2 * np.eye(q.shape[1]), q.T @ r)
        found = np.concatenate([np.ravel(part) for part in state.local_weights])
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_it_is_the_minimum_of_any_quadratic_loss():
    clients, model = network_clients(), network()
    num_clients = clients.num_clients
    process = build_vectorized_process(SOLVED, model, RATES)
    store = one_round(process, clients, num_clients, num_clients)
    weights = [tf.constant(w) for w in model.global_weights]
    for client in np.flatnonzero(clients.counts):
        rows = slice(clients.starts[client], clients.starts[client] + clients.counts[client])
        own = [tf.constant(w) for w in store[client].local_weights]
        with tf.GradientTape() as tape:
            tape.watch(own)
            loss = tf.reduce_sum(
                model.example_losses(weights, own, clients.x[rows], clients.y[rows])
            )
        for slope in tape.gradient(loss, own):
            assert np.abs(slope).max() < 1e-3


def test_without_a_penalty_there_is_no_one_solution():
    with pytest.raises(ValueError, match="'solved' solves for the users, .* give it an l2 above"):
        build_packed_process(SOLVED, attrs.evolve(BIASED, l2=0.0), RATES)


@pytest.mark.parametrize(
    ("build", "model"), [(build_packed_process, BIASED), (build_vectorized_process, network())]
)
def test_only_local_weights_are_solved_for(build, model):
    method = in_phases("both solved", Phase(solve=True))
    with pytest.raises(ValueError, match="A phase that solves moves the local weights alone"):
        build(method, model, RATES)


def test_weights_between_equal_and_by_examples():
    method, weigh = taken_apart(weighted(stateful, tf.sqrt))
    assert method == stateful and weigh(4.0) == 2.0
    clients = rating_clients()

    def change(method):
        process = build_packed_process(method, BIASED, sgd(1.0, 0.1, 0.05))
        store = one_round(process, clients, NUM_USERS, NUM_USERS)
        return store.server_state.model_weights[0]

    by_examples, rooted = change(stateful), change(weighted(stateful, tf.sqrt))
    assert np.abs(by_examples - rooted).max() > 1e-4


def test_a_rate_that_falls_to_zero():
    at = falling_to_zero(16.0, 1000)
    assert [float(at(tf.constant(n))) for n in (0, 250, 1000, 2000)] == [16.0, 12.0, 0.0, 0.0]
    clients = rating_clients()
    process = build_packed_process(stateful, BIASED, sgd(falling_to_zero(1.0, 2), 0.1, 0.05))
    process = InThisProcess(process)
    store, items = MemoryStore(process, NUM_USERS), []
    for done in rounds(process, store, clients, UniformSampler(NUM_USERS, 5, 0), 3):
        store.commit(done)
        items.append(store.server_state.model_weights[0])
    assert np.abs(items[1] - items[0]).max() > 0
    np.testing.assert_array_equal(items[2], items[1])
