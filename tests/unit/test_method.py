"""Methods as values, and the optimizers and models that a per-client process takes."""

from collections import OrderedDict

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from numpy_rounds import (
    NUM_FACTORS,
    NUM_ITEMS,
    SERVER_RATE,
    as_dataset,
    assert_close,
    build,
    by_index,
    no_ratings,
    numpy_round,
    random_cohort,
    random_states,
    sgd,
    state_of,
)

from stateful_tff.engines.per_client import build_process, build_stateful_fed_avg
from stateful_tff.methods import Method, Optimizers, client_update
from stateful_tff.models import build_model_fn
from stateful_tff.state import ClientState

optimizers = tff.learning.optimizers


@pytest.mark.parametrize("server", [sgd(1.0), sgd(1.0, momentum=0.9), optimizers.build_adam(0.1)])
def test_a_cohort_without_data_changes_nothing(server):
    process = build(server=server)
    with_data = [as_dataset(*c) for c in random_cohort(3)]
    states = random_states(process, 5, 3)
    before, _, states = process.next(process.initialize(), with_data, states)
    after, _, kept = process.next(before, [as_dataset(*no_ratings())] * 5, states)
    assert int(after.round_num) == int(before.round_num) + 1
    after = attrs.evolve(after, round_num=before.round_num)
    for old, new in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
        np.testing.assert_array_equal(old, new)
    for index, weights in by_index(kept).items():
        assert_close(weights, by_index(states)[index], 0)


def test_server_momentum_lives_in_the_server_state():
    process = build(server=sgd(SERVER_RATE, momentum=0.5))
    cohort = random_cohort(4)
    states = random_states(process, len(cohort), 4)
    server = process.initialize()
    velocity = [0.0 for _ in server.model_weights]
    for _ in range(2):
        weights = [np.asarray(w, np.float64) for w in server.model_weights]
        plain, local = numpy_round(weights, states, cohort)
        velocity = [
            0.5 * v - (p - w) / SERVER_RATE
            for v, p, w in zip(velocity, plain, weights, strict=True)
        ]
        server, _, _ = process.next(server, [as_dataset(*c) for c in cohort], states)
        expected = [w - SERVER_RATE * v for w, v in zip(weights, velocity, strict=True)]
        assert_close(server.model_weights, expected)
        states = [
            ClientState(
                s.index, [np.float32(w) for w in local[int(s.index)]], (), np.int32(0), np.int32(0)
            )
            for s in states
        ]


def test_local_momentum_lives_in_the_client_state_when_asked():
    cohort = [random_cohort(9, 1)[0]]
    assert len(cohort[0][0]) > 3
    results = {}
    for keep in (False, True):
        process = build(local=sgd(0.05, momentum=0.9), keep_local=keep)
        server, states = process.initialize(), [state_of(process, 4)]
        for _ in range(2):
            server, _, states = process.next(server, [as_dataset(*cohort[0])], states)
        results[keep] = states[0]
    assert tf.nest.flatten(results[False].optimizer_state) == []
    velocity = results[True].optimizer_state["accumulator"]
    assert np.abs(np.asarray(velocity[0])).max() > 0
    assert not np.allclose(results[True].local_weights[0], results[False].local_weights[0])


def test_a_state_from_a_process_with_other_rates_takes_the_new_rates():
    slow = build(server=sgd(0.0), local=sgd(0.0), keep_local=True)
    fast = build(server=sgd(1.0), local=sgd(0.1), keep_local=True)
    dataset = as_dataset(np.arange(6), np.ones(6, np.float32))
    server, _, states = slow.next(slow.initialize(), [dataset], [state_of(slow, 0)])
    after, _, moved = fast.next(server, [dataset], states)
    assert not np.array_equal(after.model_weights[0], server.model_weights[0])
    assert not np.array_equal(moved[0].local_weights[0], states[0].local_weights[0])


@pytest.mark.parametrize(
    "client",
    [
        sgd(0.1, momentum=0.9),
        optimizers.build_adam(0.1),
        optimizers.build_adagrad(0.1),
        optimizers.schedule_learning_rate(sgd(), lambda step: 0.1),
    ],
    ids=["momentum", "adam", "adagrad", "schedule"],
)
def test_other_optimizers_train(client):
    process = build(client=client)
    rated = np.arange(6)
    server, _, _ = process.next(
        process.initialize(),
        [as_dataset(rated, np.ones(6, np.float32))],
        [state_of(process, 0)],
    )
    start = process.initialize().model_weights[0]
    moved = np.any(np.asarray(server.model_weights[0]) != np.asarray(start), axis=1)
    assert moved[rated].all() and not moved[6:].any()


class DecayingSGD(optimizers.Optimizer):
    """Moves every row at each step, also those without a gradient."""

    def initialize(self, specs):
        return OrderedDict()

    def next(self, state, weights, gradients):
        return state, tuple(0.9 * w - 0.1 * g for w, g in zip(weights, gradients, strict=True))


def test_an_optimizer_that_moves_untouched_rows_is_given_all_rows():
    process = build(server=sgd(1.0), client=DecayingSGD())
    start = process.initialize()
    server, _, _ = process.next(
        start, [as_dataset(np.arange(3), np.ones(3, np.float32))], [state_of(process, 0)]
    )
    untouched = np.asarray(start.model_weights[0])[3:]
    assert_close([np.asarray(server.model_weights[0])[3:]], [0.9 * untouched])


def test_one_field_makes_another_method():
    """Every client that has data counts the same, whatever the number of its examples."""

    def one_vote(trainer, data, client_state, server_message):
        output = client_update(trainer, data, client_state, server_message)
        return attrs.evolve(output, client_weight=tf.sign(output.client_weight))

    model_fn = build_model_fn(NUM_ITEMS, NUM_FACTORS, seed=3)
    method = Method("one vote", client_update=one_vote)
    process = build_process(method, model_fn, Optimizers(sgd(1.0), sgd(0.4), sgd(0.1)))
    one, many = np.array([0]), np.arange(1, 12)
    data = [as_dataset(items, np.full(len(items), 5, np.float32)) for items in (one, many)]
    states = [state_of(process, index) for index in (0, 1)]
    start = process.initialize()
    both, _, _ = process.next(start, data, states)
    alone, _, _ = process.next(start, data[:1], states[:1])
    moved = [np.asarray(s.model_weights[0])[0] - start.model_weights[0][0] for s in (both, alone)]
    np.testing.assert_allclose(moved[0], moved[1] / 2, rtol=1e-4, atol=1e-7)


class LineWithOffset(tff.learning.models.VariableModel):
    """A second model, without Keras: a common slope, and an offset per client."""

    def __init__(self):
        self._slope = tf.Variable([[0.0], [0.0]], name="slope")
        self._offset = tf.Variable(0.0, name="offset")
        self._loss_sum = tf.Variable(0.0, trainable=False)
        self._num_examples = tf.Variable(0.0, trainable=False)

    global_model_variables = property(lambda self: [self._slope])
    local_model_variables = property(lambda self: [self._offset])
    trainable_variables = property(lambda self: [self._slope, self._offset])
    non_trainable_variables = property(lambda self: [])
    local_variables = property(lambda self: [self._loss_sum, self._num_examples])
    input_spec = property(
        lambda self: (tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None, 1], tf.float32))
    )

    def predict_on_batch(self, x, training=True):
        return x @ self._slope + self._offset

    def forward_pass(self, batch, training=True):
        x, y = batch
        loss = tf.reduce_mean((self.predict_on_batch(x) - y) ** 2)
        count = tf.shape(y)[0]
        self._loss_sum.assign_add(loss * tf.cast(count, tf.float32))
        self._num_examples.assign_add(tf.cast(count, tf.float32))
        return tff.learning.models.BatchOutput(loss, None, count)

    def report_local_unfinalized_metrics(self):
        parts = [self._loss_sum.read_value(), self._num_examples.read_value()]
        return OrderedDict(loss=parts)

    def metric_finalizers(self):
        return OrderedDict(loss=tf.function(lambda parts: parts[0] / parts[1]))

    def reset_metrics(self):
        for variable in self.local_variables:
            variable.assign(0.0)


def test_a_second_model_learns_common_slope_and_private_offsets():
    process = build_stateful_fed_avg(LineWithOffset, sgd(1.0), sgd(0.1), sgd(0.1))
    rng = np.random.default_rng(0)
    offsets = {10: -2.0, 20: 0.5, 30: 3.0}
    datasets = []
    for offset in offsets.values():
        x = rng.normal(size=(40, 2)).astype(np.float32)
        y = x @ np.array([[1.0], [-0.5]], np.float32) + np.float32(offset)
        datasets.append(tf.data.Dataset.from_tensor_slices((x, y)).batch(10))
    server = process.initialize()
    states = [state_of(process, i) for i in offsets]
    for _ in range(12):
        server, metrics, states = process.next(server, datasets, states)
    assert float(metrics["loss"]) < 1e-3
    assert_close(server.model_weights, [[[1.0], [-0.5]]], 0.02)
    for state in states:
        assert float(state.local_weights[0]) == pytest.approx(offsets[int(state.index)], abs=0.02)


@pytest.mark.parametrize("name", ["server_optimizer", "client_optimizer", "local_optimizer"])
def test_an_optimizer_of_keras_is_refused_by_name(name):
    arguments = {f"{part}_optimizer": sgd(0.1) for part in ("server", "client", "local")} | {
        name: tf.keras.optimizers.SGD(0.1)
    }
    with pytest.raises(TypeError, match=f"{name} must be an optimizer of tff.learning"):
        build_stateful_fed_avg(build_model_fn(NUM_ITEMS, NUM_FACTORS), **arguments)


def test_a_model_without_groups_is_refused():
    class Ungrouped(LineWithOffset):
        local_model_variables = None

    with pytest.raises(TypeError, match="no local_model_variables"):
        build_stateful_fed_avg(Ungrouped, sgd(1.0), sgd(0.1), sgd(0.1))


def test_a_variable_in_both_groups_is_refused():
    class Overlapping(LineWithOffset):
        global_model_variables = property(lambda self: [self._slope, self._offset])

    with pytest.raises(ValueError, match="both local and global"):
        build_stateful_fed_avg(Overlapping, sgd(1.0), sgd(0.1), sgd(0.1))
