"""Models of a reader's own: which variables are trained, averaged, kept or left alone."""

from collections import OrderedDict

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.per_client import build_process
from stateful_tff.methods import Optimizers, alternating, fed_avg, stateful
from stateful_tff.stores import MemoryStore

layers, optimizers = tf.keras.layers, tff.learning.optimizers
SGD = optimizers.build_sgdm
RATES = Optimizers(SGD(1.0), SGD(0.1), SGD(0.1))
SPEC = OrderedDict(x=tf.TensorSpec([None, 2]), y=tf.TensorSpec([None, 1]))


class OwnModel(tff.learning.models.VariableModel):
    """A stack of layers, whose author says which variables belong to which group."""

    def __init__(self, parts, shared, own, extra=()):
        self.parts, self._extra = parts, list(extra)
        self.global_model_variables, self.local_model_variables = shared, own
        self.n, self.s = (tf.Variable(0.0, trainable=False) for _ in range(2))

    global_model_variables = local_model_variables = None
    input_spec = SPEC

    @property
    def trainable_variables(self):
        return [v for part in self.parts for v in part.trainable_variables]

    @property
    def non_trainable_variables(self):
        return [v for part in self.parts for v in part.non_trainable_variables] + self._extra

    local_variables = property(lambda self: [self.n, self.s])

    def predict_on_batch(self, x, training=True):
        for part in self.parts:
            x = part(x, training=training)
        return x

    def forward_pass(self, batch, training=True):
        predicted = tf.cast(self.predict_on_batch(batch["x"], training), tf.float32)
        loss = tf.reduce_mean((predicted - batch["y"]) ** 2)
        for counter in self._extra:
            counter.assign_add(tf.ones_like(counter))
        count = tf.shape(batch["y"])[0]
        self.n.assign_add(tf.cast(count, tf.float32))
        self.s.assign_add(loss * tf.cast(count, tf.float32))
        return tff.learning.models.BatchOutput(loss, None, count)

    def report_local_unfinalized_metrics(self):
        parts = [self.s.read_value(), self.n.read_value()]
        return OrderedDict(loss=parts, num_examples=parts)

    def metric_finalizers(self):
        return OrderedDict(
            loss=tf.function(lambda parts: parts[0] / parts[1]),
            num_examples=tf.function(lambda parts: parts[1]),
        )

    def reset_metrics(self):
        for variable in self.local_variables:
            variable.assign(0.0)


def normalization(dtype=None):
    norm, head = layers.BatchNormalization(dtype=dtype), layers.Dense(1, dtype=dtype)
    norm.build([None, 2]), head.build([None, 2])
    return norm, head


def norm_at_the_client():
    norm, head = normalization()
    return OwnModel([norm, head], list(head.variables), list(norm.variables))


def norm_at_the_server(dtype=None):
    norm, head = normalization(dtype)
    return OwnModel([norm, head], [*norm.variables, head.kernel], [head.bias])


def frozen():
    layer, head = layers.Dense(3, trainable=False), layers.Dense(1)
    layer.build([None, 2]), head.build([None, 3])
    return OwnModel([layer, head], [*layer.variables, head.kernel], [head.bias])


def frozen_later():
    layer, head = layers.Dense(3), layers.Dense(1)
    layer.build([None, 2]), head.build([None, 3])
    layer.trainable = False
    return OwnModel([head, layer][::-1], [head.kernel, head.bias], list(layer.variables))


def data(seed=0, size=8):
    rng = np.random.default_rng(seed)
    arrays = OrderedDict(x=rng.normal(1, 2, (size, 2)), y=np.ones((size, 1)))
    arrays = OrderedDict((k, v.astype(np.float32)) for k, v in arrays.items())
    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


def run_round(model_fn, rates=RATES, method=stateful, sizes=(8, 4)):
    """Returns the server's weights before and after a round, the states, and the process."""
    process = InThisProcess(build_process(method, model_fn, rates))
    store = MemoryStore(process, len(sizes))
    before = process.initialize()
    passes = [data(seed, size) for seed, size in enumerate(sizes)]
    if len(method.passes) > 1:
        passes = [[part] * len(method.passes) for part in passes]
    after, metrics, states = process.next(before, passes, [store[i] for i in range(len(sizes))])
    assert float(metrics["num_examples"]) == sum(sizes)
    return before.model_weights, after.model_weights, states


def statistics(seed, size):
    """The moving mean and variance of Keras' batch normalization after a client's batches."""
    mean, variance = np.zeros(2), np.ones(2)
    for batch in data(seed, size):
        x = batch["x"].numpy().astype(np.float64)
        mean = 0.99 * mean + 0.01 * x.mean(axis=0)
        variance = 0.99 * variance + 0.01 * x.var(axis=0)
    return mean, variance


def test_a_client_keeps_its_statistics():
    _, _, states = run_round(norm_at_the_client)
    for seed, (size, state) in enumerate(zip((8, 4), states, strict=True)):
        gamma, _, mean, variance = state.local_weights
        assert np.abs(np.asarray(gamma) - 1).max() > 0
        np.testing.assert_allclose(mean, statistics(seed, size)[0], rtol=1e-5)
        np.testing.assert_allclose(variance, statistics(seed, size)[1], rtol=1e-5)


SERVERS = {"fast": SGD(3.0), "adam": optimizers.build_adam(0.1)}


@pytest.mark.parametrize("server", SERVERS)
def test_the_server_averages_statistics_whatever_its_optimizer_is(server):
    rates = attrs.evolve(RATES, server=SERVERS[server])
    _, after, _ = run_round(norm_at_the_server, rates)
    found = [statistics(seed, size) for seed, size in enumerate((8, 4))]
    for weight, (first, second) in zip(after[2:4], zip(*found, strict=True), strict=True):
        np.testing.assert_allclose(weight, (8 * first + 4 * second) / 12, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_weights_of_other_widths_are_averaged(dtype):
    before, after, _ = run_round(lambda: norm_at_the_server(dtype))
    assert [w.dtype for w in after] == [w.dtype for w in before]
    for a, b in zip(before, after, strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() > 0


def test_statistics_of_a_group_that_is_frozen_in_the_last_pass_stay():
    method = alternating()  # the local weights move first, the global ones then
    _, _, states = run_round(norm_at_the_client, method=method)
    np.testing.assert_allclose(states[0].local_weights[2], statistics(0, 8)[0], rtol=1e-5)


WITH_DECAY = Optimizers(*[optimizers.build_adamw(0.1, weight_decay=0.5)] * 3)


def test_a_frozen_layer_stays_frozen_at_the_server():
    before, after, _ = run_round(frozen, WITH_DECAY)
    for a, b in zip(before[:2], after[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(after[2] - before[2]).max() > 0


def test_a_layer_that_was_frozen_later_stays_frozen_at_the_client():
    process = InThisProcess(build_process(stateful, frozen_later, WITH_DECAY))
    start = process.client_state_fn()
    after, _, (state,) = process.next(process.initialize(), [data()], [start])
    for a, b in zip(start.local_weights, state.local_weights, strict=True):
        np.testing.assert_array_equal(a, b)


def counting(shared):
    head = layers.Dense(1)
    head.build([None, 2])
    counter = tf.Variable(np.int64(5), trainable=False)
    groups = [head.kernel], [head.bias]
    groups[not shared].append(counter)
    return OwnModel([head], *groups, extra=[counter])


def test_a_counter_counts_at_the_client_and_is_averaged_at_the_server():
    _, _, states = run_round(lambda: counting(False))
    assert [int(state.local_weights[1]) for state in states] == [7, 6]
    _, after, _ = run_round(lambda: counting(True), WITH_DECAY)
    assert after[1].dtype == tf.int64
    assert int(after[1]) == 5 + round((8 * 2 + 4 * 1) / 12)


def unused():
    head, idle = layers.Dense(1), tf.Variable([1.0, 2.0])
    head.build([None, 2])
    model = OwnModel([head], [head.kernel], [head.bias, idle])
    head._trainable_weights.append(idle)
    return model


def test_a_weight_that_the_loss_does_not_use_is_left_alone():
    _, _, states = run_round(unused, WITH_DECAY)
    np.testing.assert_array_equal(states[0].local_weights[1], [1.0, 2.0])


def test_a_table_at_the_server_holds_statistics_too():
    _, after, _ = run_round(norm_at_the_client, method=fed_avg(2))
    for seed, size in enumerate((8, 4)):
        mean = statistics(seed, size)[0] * size / 12
        np.testing.assert_allclose(after[2 + 2][seed], mean, rtol=1e-5)


def forgotten():
    hidden, head = layers.Dense(3), layers.Dense(1)
    hidden.build([None, 2]), head.build([None, 3])
    return OwnModel([hidden, head], [head.kernel], [head.bias])


def forgotten_statistics():
    norm, head = normalization()
    return OwnModel([norm, head], list(head.variables), list(norm.trainable_variables))


def foreign():
    head = layers.Dense(1)
    head.build([None, 2])
    return OwnModel([head], [head.kernel], [head.bias, tf.Variable(1.0)])


def twice(same):
    head = layers.Dense(1)
    head.build([None, 2])
    own = [head.bias, head.bias] if same else [head.bias, head.kernel]
    return OwnModel([head], [head.kernel], own)


def of_words():
    head, word = layers.Dense(1), tf.Variable("a word", trainable=False)
    head.build([None, 2])
    model = OwnModel([head], [head.kernel], [head.bias, word])
    head._non_trainable_weights.append(word)
    return model


OUTSIDE = layers.Dense(1)
OUTSIDE.build([None, 2])


@pytest.mark.parametrize(
    "model_fn, words",
    [
        (forgotten, r"kernel:0 of shape \[2, 3\] is neither local nor global"),
        (forgotten_statistics, "moving_mean:0 .* is neither local nor global"),
        (foreign, "is in a group, and not among the model's"),
        (lambda: twice(True), "bias:0 .* is twice in local_model_variables"),
        (lambda: twice(False), "kernel:0 .* is both local and global"),
        (of_words, "is of string, and only whole and floating-point numbers"),
        (lambda: OwnModel([OUTSIDE], [OUTSIDE.kernel], [OUTSIDE.bias]), "inside of model_fn"),
        (lambda: OwnModel([OUTSIDE], [], [OUTSIDE.bias]), "has no global_model_variables"),
        (5, "model_fn is a function that builds a new model at each call, not int"),
    ],
)
def test_groups_that_are_no_partition_are_refused(model_fn, words):
    with pytest.raises((TypeError, ValueError), match=words):
        build_process(stateful, model_fn, RATES)
