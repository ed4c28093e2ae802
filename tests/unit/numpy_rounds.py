"""Rounds of a per-client process, and the same rounds in NumPy with float64."""

from collections import OrderedDict

import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff.engines.per_client import build_process
from stateful_tff.methods import Method, Optimizers, keep_local_weights, keep_optimizer_state
from stateful_tff.models import MatrixFactorization, ModelFn

NUM_ITEMS, NUM_FACTORS, MEAN, L2, BATCH = 30, 4, 3.5, 0.05, 3
SERVER_RATE, CLIENT_RATE, LOCAL_RATE = 0.7, 0.4, 0.1
sgd = tff.learning.optimizers.build_sgdm


def build(biases=True, server=None, client=None, local=None, keep_local=False):
    """The process of the stateful method, one client at a time."""
    spec = MatrixFactorization(
        NUM_ITEMS, NUM_FACTORS, biases=biases, mean_rating=MEAN, l2=L2, seed=3
    )
    optimizers = Optimizers(
        server or sgd(SERVER_RATE), client or sgd(CLIENT_RATE), local or sgd(LOCAL_RATE)
    )
    method = Method("stateful", keep_optimizer_state if keep_local else keep_local_weights)
    return build_process(method, ModelFn(spec), optimizers)


def random_cohort(seed, num_clients=5):
    """Ratings of clients with 0 to 11 of them, the same movie possibly rated twice."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, NUM_ITEMS, n), rng.integers(1, 6, n).astype(np.float32))
        for n in rng.integers(0, 12, num_clients)
    ]


def as_dataset(items, stars, epochs=1):
    """Ratings in batches, in their order."""
    batch = OrderedDict(x=items[:, None].astype(np.int64), y=stars[:, None])
    return tf.data.Dataset.from_tensor_slices(batch).batch(BATCH).repeat(epochs)


def no_ratings():
    """The ratings of a client that has none."""
    return np.empty(0, int), np.empty(0, np.float32)


def state_of(process, index):
    """The first state of a client."""
    return attrs.evolve(process.client_state_fn(), index=np.int32(index))


def random_states(process, num_clients, seed):
    """Client states away from the common start, with ids that are no positions."""
    rng = np.random.default_rng(seed)
    first = process.client_state_fn()
    return [
        attrs.evolve(
            first,
            index=np.int32(100 + 7 * i),
            local_weights=[
                rng.normal(0, 0.3, w.shape).astype(np.float32) for w in first.local_weights
            ],
        )
        for i in range(num_clients)
    ]


def numpy_client(weights, local, items, stars, epochs=1):
    """One client in float64: the text-book loop, rating by rating within a batch."""
    q, b = weights[0].copy(), weights[1].copy() if len(weights) == 2 else None
    p, a = local[0][0].copy(), local[1][0, 0] if b is not None else 0.0
    for start in np.tile(np.arange(0, len(items), BATCH), epochs):
        i, r = items[start : start + BATCH], stars[start : start + BATCH]
        step_q, step_p, step_a = np.zeros_like(q), np.zeros_like(p), 0.0
        step_b = np.zeros_like(b) if b is not None else None
        for item, star in zip(i, r, strict=True):
            bias = b[item, 0] + a if b is not None else 0.0
            error = MEAN + bias + q[item] @ p - star
            step_q[item] += 2 * (error * p + L2 * q[item]) / len(i)
            step_p += 2 * (error * q[item] + L2 * p) / len(i)
            if b is not None:
                step_b[item, 0] += 2 * (error + L2 * b[item, 0]) / len(i)
                step_a += 2 * (error + L2 * a) / len(i)
        q, p = q - CLIENT_RATE * step_q, p - LOCAL_RATE * step_p
        if b is not None:
            b, a = b - CLIENT_RATE * step_b, a - LOCAL_RATE * step_a
    if b is None:
        return [q], [p[None]]
    return [q, b], [p[None], np.array([[a]])]


def numpy_round(weights, states, cohort, epochs=1):
    """One round in float64. Returns the new weights and the new local weights by client id."""
    weights = [np.asarray(w, np.float64) for w in weights]
    total, mean, new_states = 0, [np.zeros_like(w) for w in weights], {}
    for state, (items, stars) in zip(states, cohort, strict=True):
        local = [np.asarray(w, np.float64) for w in state.local_weights]
        trained, local = numpy_client(weights, local, items, stars, epochs)
        new_states[int(state.index)] = local
        total += len(items)
        mean = [m + len(items) * (t - w) for m, t, w in zip(mean, trained, weights, strict=True)]
    return [w + SERVER_RATE * m / total for w, m in zip(weights, mean, strict=True)], new_states


def by_index(states):
    """The local weights of states by client id."""
    return {int(s.index): [np.asarray(w) for w in s.local_weights] for s in states}


def assert_close(actual, expected, tolerance=1e-5):
    """Two lists of arrays hold the same numbers."""
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), e, rtol=tolerance, atol=tolerance)
