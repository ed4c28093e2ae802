"""Vectorized rounds of functional models against rounds of one client at a time."""

import functools
import re

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from engine_rounds import (
    BIASED,
    RATES,
    SGD,
    assert_same_results,
    away_from_start,
    close,
    in_epochs,
    network,
    network_clients,
    one_round,
    scattered,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stateful_tff.data import ExampleDatasets
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.vectorized import build_vectorized_process, pad
from stateful_tff.methods import Optimizers, keep_optimizer_state, stateful
from stateful_tff.models import FunctionalModel, UserEmbedding, functional_keras_model

adam = tff.learning.optimizers.build_adam
MOMENTUM = Optimizers(SGD(1.0, momentum=0.9), SGD(0.1, momentum=0.5), SGD(0.05, momentum=0.9))
keeping = attrs.evolve(in_epochs(2), client_state_fn=keep_optimizer_state)


def assert_equal_rounds(model, method, optimizers, clients, cohort=(5, 0, 3, 2)):
    slow = InThisProcess(build_process(method, model, optimizers))
    fast = InThisProcess(build_vectorized_process(method, model, optimizers))
    server = away_from_start(slow, 1)
    stores = [scattered(slow, 2, clients.num_clients) for _ in range(2)]
    for round_num in range(2):
        results = [
            one_round(process, server, clients, cohort, store, round_num)
            for process, store in zip((slow, fast), stores, strict=True)
        ]
        assert_same_results(results[1], results[0], server)
        for store, (_, _, states) in zip(stores, results, strict=True):
            store.replace(states)
        server = results[0][0]


@pytest.mark.parametrize(
    "method, optimizers",
    [
        (stateful, RATES),
        (keeping, MOMENTUM),
        (in_epochs(3), Optimizers(adam(0.01), adam(0.01), SGD(0.05))),
    ],
    ids=["sgd", "momentum that is kept, two epochs", "adam, three epochs"],
)
def test_a_round_equals_that_of_chapter_4(method, optimizers):
    assert_equal_rounds(network(), method, optimizers, network_clients())


@functools.cache
def both():
    model = network()
    slow, fast = build_process, build_vectorized_process
    return [InThisProcess(build(stateful, model, RATES)) for build in (slow, fast)]


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    batch_size=st.integers(1, 13),
    seed=st.integers(0, 2**40),
)
def test_any_batch_size_and_cohort(counts, batch_size, seed):
    clients = network_clients(batch_size, seed, counts)
    if sum(counts):  # a round without data has a test of its own
        server = away_from_start(both()[0], seed)
        slow, fast = (
            one_round(p, server, clients, range(len(counts)), scattered(p, seed, len(counts)), 3)
            for p in both()
        )
        assert_same_results(fast, slow, server)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    batch_size=st.integers(1, 13),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_padded_batches_begin_with_those_that_a_client_is_dealt(counts, batch_size, epochs, seed):
    clients = network_clients(batch_size, seed, counts)
    padded = pad(clients, np.arange(len(counts)), 5, epochs)
    assert padded.sizes.dtype == np.int32 and padded.x.shape[:2] == padded.sizes.shape
    assert padded.x.shape[2:] == (batch_size, 3)
    for client, dealt in enumerate(clients.for_round(range(len(counts)), 5, epochs)):
        batches = list(dealt.as_numpy_iterator())
        assert (padded.sizes[client, len(batches) :] == 0).all()
        for step, batch in enumerate(batches):
            size = padded.sizes[client, step]
            np.testing.assert_array_equal(padded.x[client, step, :size], batch["x"])
            np.testing.assert_array_equal(padded.y[client, step, :size], batch["y"])
    if sum(counts):
        held = {tuple(x) for x in clients.x}
        assert {tuple(x) for x in padded.x.reshape(-1, 3)} <= held  # padding is real examples


def test_a_loss_that_is_infinite_at_zero_does_not_reach_the_padding():
    model = FunctionalModel(
        [np.float32(0.1)],
        [np.float32(0.2)],
        lambda shared, own, x, y: (shared[0] * tf.math.log(x[:, 0]) + own[0] - y) ** 2,
        {"x": tf.TensorSpec([None, 1]), "y": tf.TensorSpec([None])},
    )
    rng = np.random.default_rng(0)
    examples = [
        (rng.uniform(1, 2, (n, 1)).astype(np.float32), rng.normal(size=n).astype(np.float32))
        for n in (5, 1, 3, 0)
    ]
    assert_equal_rounds(model, stateful, RATES, ExampleDatasets(examples, 2, 0), range(4))


def test_a_cohort_without_data_changes_nothing():
    fast = both()[1]
    clients = network_clients(counts=(0, 3, 0))
    store, server = scattered(fast, 0, 3), away_from_start(fast, 1)
    after, metrics, states = one_round(fast, server, clients, [2, 0], store)
    assert int(metrics["num_examples"]) == 0
    for a, b in zip(after.model_weights, server.model_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(states.local_weights, store[[0, 2]].local_weights, strict=True):
        np.testing.assert_array_equal(a, b)


def small_keras_model():
    """A Keras matrix factorization whose own order of variables is not that of creation."""
    x = tf.keras.Input([1], dtype=tf.int64)
    item = tf.keras.layers.Flatten()(tf.keras.layers.Embedding(9, 3, name="Items")(x))
    user = UserEmbedding(3, name="User")(x)
    dense = tf.keras.layers.Dense(3, activation="tanh")(item)
    return tf.keras.Model(x, tf.keras.layers.Dot(1)([user, dense]))


def functional(keras_model, loss):
    user = keras_model.get_layer("User").trainable_variables
    return functional_keras_model(keras_model, user, loss, tf.TensorSpec([None]))


def test_a_keras_model_is_vectorized():
    model = functional(small_keras_model(), lambda y, predicted: (y - predicted[:, 0]) ** 2)
    rng = np.random.default_rng(1)
    examples = [
        (rng.integers(0, 9, (n, 1)), rng.normal(size=n).astype(np.float32))
        for n in (7, 3, 11, 0, 4, 1)
    ]
    rates = Optimizers(SGD(1.0), SGD(0.3), SGD(0.3))
    assert_equal_rounds(model, in_epochs(2), rates, ExampleDatasets(examples, 4, 6))


def test_a_functional_keras_model_predicts_what_the_keras_model_does():
    keras_model = small_keras_model()
    x = np.arange(5)[:, None]
    expected = keras_model(x).numpy()[:, 0]  # before a graph switches Keras to its older mode
    model = functional(keras_model, lambda y, predicted: predicted[:, 0] - y)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        predicted = session.run(
            model.example_losses(model.global_weights, model.local_weights, tf.constant(x), 0.0)
        )
    close(predicted, expected)


def test_keras_models_that_are_not_supported_are_refused():
    spec = tf.TensorSpec([None])

    def squared(y, predicted):
        return (predicted[:, 0] - y) ** 2

    penalized = tf.keras.Sequential([tf.keras.layers.Dense(1, kernel_regularizer="l2")])
    penalized(np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="penalties"):
        functional_keras_model(penalized, penalized.trainable_variables[:1], squared, spec)
    layers = tf.keras.layers
    inner = tf.keras.Sequential([layers.BatchNormalization(name="of_batches"), layers.Dense(2)])
    normalized = tf.keras.Sequential([inner, layers.Dense(1, name="frozen", trainable=False)])
    normalized(np.ones((1, 2), np.float32))
    named = re.escape("in of_batches (BatchNormalization), frozen (Dense); a functional model")
    with pytest.raises(ValueError, match=named):
        functional_keras_model(normalized, normalized.trainable_variables[:1], squared, spec)
    kept = tf.keras.Sequential([layers.LayerNormalization(input_shape=(2,)), layers.Dense(1)])
    functional_keras_model(kept, kept.trainable_variables[:1], squared, spec)
    model = small_keras_model()
    for variables in ([], [tf.Variable(0.0)]):
        with pytest.raises(ValueError, match="model's own variables"):
            functional_keras_model(model, variables, squared, spec)


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="runs FunctionalModel only.*use the per-client engine"):
        build_vectorized_process(stateful, BIASED, RATES)


@pytest.mark.parametrize(
    "cohort, error, message",
    [([6], ValueError, "6"), ([1, 1], ValueError, "twice"), ([1.9], TypeError, "1.9")],
)
def test_bad_cohorts_are_refused(cohort, error, message):
    with pytest.raises(error, match=message):
        both()[1].inputs(network_clients(counts=(1, 2, 3)), cohort, 0)
