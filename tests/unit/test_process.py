"""The Core process of chapter 4 against a plain NumPy reference, and its promises by type."""

from collections import OrderedDict

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff.frame import build_model_fn
from stateful_tff.process import (
    ClientState,
    build_client_state_fn,
    build_stateful_fed_avg,
    types_sent_to_server,
)

NUM_ITEMS, NUM_FACTORS, MEAN, L2, BATCH = 30, 4, 3.5, 0.05, 3
SERVER_RATE, CLIENT_RATE, LOCAL_RATE = 0.7, 0.4, 0.1
optimizers = tff.learning.optimizers
sgd = optimizers.build_sgdm


def build(biases=True, server=None, client=None, local=None, keep_local=False):
    model_fn = build_model_fn(
        NUM_ITEMS, NUM_FACTORS, biases=biases, mean_rating=MEAN, l2=L2, seed=3
    )
    local = local or sgd(LOCAL_RATE)
    client_state_fn = build_client_state_fn(model_fn, local if keep_local else None)
    process = build_stateful_fed_avg(
        model_fn, client_state_fn, server or sgd(SERVER_RATE), client or sgd(CLIENT_RATE), local
    )
    return process, client_state_fn


@pytest.fixture(scope="module")
def with_biases():
    return build()


@pytest.fixture(scope="module")
def without_biases():
    return build(biases=False)


def random_cohort(seed, num_clients=5):
    """Ratings of clients with 0 to 11 of them, the same movie possibly rated twice."""
    rng = np.random.default_rng(seed)
    cohort = []
    for n in rng.integers(0, 12, num_clients):
        cohort.append((rng.integers(0, NUM_ITEMS, n), rng.integers(1, 6, n).astype(np.float32)))
    return cohort


def as_dataset(items, stars, epochs=1):
    batch = OrderedDict(x=items[:, None].astype(np.int64), y=stars[:, None])
    return tf.data.Dataset.from_tensor_slices(batch).batch(BATCH).repeat(epochs)


def random_states(client_state_fn, num_clients, seed):
    """Client states away from the common start, with ids that are no positions."""
    rng = np.random.default_rng(seed)
    first = client_state_fn()
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


def numpy_client(weights, local, items, stars, epochs):
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
    return ([q] if b is None else [q, b]), ([p[None]] if b is None else [p[None], [[a]]])


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
    return {int(s.index): [np.asarray(w) for w in s.local_weights] for s in states}


def assert_close(actual, expected, tolerance=1e-5):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["with_biases", "without_biases"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_round_equals_the_numpy_reference(kind, seed, epochs, request):
    process, client_state_fn = request.getfixturevalue(kind)
    cohort = random_cohort(seed)
    states = random_states(client_state_fn, len(cohort), seed)
    before = process.initialize()
    after, _, new_states = process.next(
        before, [as_dataset(*client, epochs) for client in cohort], states
    )
    weights, local = numpy_round(before.model_weights, states, cohort, epochs)
    assert_close(after.model_weights, weights)
    assert by_index(new_states).keys() == local.keys()
    for index, new in by_index(new_states).items():
        assert_close(new, local[index])
    assert int(after.round_num) == 1


def test_two_rounds_pass_the_state_on(with_biases):
    process, client_state_fn = with_biases
    cohort = random_cohort(8)
    states = random_states(client_state_fn, len(cohort), 8)
    server = process.initialize()
    weights = server.model_weights
    expected = states
    for _ in range(2):
        server, _, states = process.next(server, [as_dataset(*c) for c in cohort], states)
        weights, local = numpy_round(weights, expected, cohort)
        expected = [ClientState(s.index, local[int(s.index)]) for s in expected]
    assert_close(server.model_weights, weights)


def test_metrics_are_those_of_the_pooled_ratings(with_biases):
    process, client_state_fn = with_biases
    cohort = [client for client in random_cohort(5, 8) if len(client[0])]
    states = random_states(client_state_fn, len(cohort), 5)
    _, metrics, _ = process.next(process.initialize(), [as_dataset(*c) for c in cohort], states)
    assert int(metrics["num_examples"]) == sum(len(items) for items, _ in cohort)


def test_rates_of_zero_leave_everything_as_it_was():
    process, client_state_fn = build(client=sgd(0.0), local=sgd(0.0))
    cohort = random_cohort(1)
    states = random_states(client_state_fn, len(cohort), 1)
    before = process.initialize()
    after, _, new_states = process.next(before, [as_dataset(*c) for c in cohort], states)
    for old, new in zip(before.model_weights, after.model_weights, strict=True):
        np.testing.assert_array_equal(old, new)
    for index, new in by_index(new_states).items():
        for a, b in zip(by_index(states)[index], new, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_client_with_weight_equals_centralized_sgd():
    """With server rate 1 the other clients, who have no data, change nothing."""
    process, client_state_fn = build(server=sgd(1.0))
    (items, stars), nothing = random_cohort(2)[0], (np.empty(0, int), np.empty(0, np.float32))
    states = random_states(client_state_fn, 3, 2)
    before = process.initialize()
    datasets = [as_dataset(*c) for c in [nothing, (items, stars), nothing]]
    after, _, new_states = process.next(before, datasets, states)
    weights, local = numpy_client(
        [np.asarray(w, np.float64) for w in before.model_weights],
        [np.asarray(w, np.float64) for w in states[1].local_weights],
        items,
        stars,
        epochs=1,
    )
    assert len(items) > 0
    assert_close(after.model_weights, weights)
    assert_close(by_index(new_states)[107], local)


def test_permuted_clients_permute_the_results(with_biases):
    process, client_state_fn = with_biases
    cohort = random_cohort(6)
    states = random_states(client_state_fn, len(cohort), 6)
    order = np.random.default_rng(0).permutation(len(cohort))
    before = process.initialize()
    datasets = [as_dataset(*c) for c in cohort]
    after, _, straight = process.next(before, datasets, states)
    after_permuted, _, permuted = process.next(
        before, [datasets[i] for i in order], [states[i] for i in order]
    )
    assert_close(after_permuted.model_weights, after.model_weights, 1e-6)
    assert by_index(permuted).keys() == by_index(straight).keys()
    for index, weights in by_index(permuted).items():
        assert_close(weights, by_index(straight)[index], 1e-6)


@pytest.mark.parametrize("server", [sgd(1.0), sgd(1.0, momentum=0.9), optimizers.build_adam(0.1)])
def test_a_cohort_without_data_changes_nothing(server):
    process, client_state_fn = build(server=server)
    with_data = [as_dataset(*c) for c in random_cohort(3)]
    states = random_states(client_state_fn, 5, 3)
    before, _, states = process.next(process.initialize(), with_data, states)
    nothing = as_dataset(np.empty(0, int), np.empty(0, np.float32))
    after, _, kept = process.next(before, [nothing] * 5, states)
    for old, new in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
        if np.shape(old) or np.asarray(old).dtype != np.int32:
            np.testing.assert_array_equal(old, new)
    for index, weights in by_index(kept).items():
        assert_close(weights, by_index(states)[index], 0)


def test_server_momentum_lives_in_the_server_state():
    process, client_state_fn = build(server=sgd(SERVER_RATE, momentum=0.5))
    cohort = random_cohort(4)
    states = random_states(client_state_fn, len(cohort), 4)
    server = process.initialize()
    velocity = [0.0 for _ in server.model_weights]
    for _ in range(2):
        weights = [np.asarray(w, np.float64) for w in server.model_weights]
        plain, local = numpy_round(weights, states, cohort)
        velocity = [
            0.5 * v - (p - w) / SERVER_RATE
            for v, p, w in zip(velocity, plain, weights, strict=True)
        ]
        server, _, new = process.next(server, [as_dataset(*c) for c in cohort], states)
        expected = [w - SERVER_RATE * v for w, v in zip(weights, velocity, strict=True)]
        assert_close(server.model_weights, expected)
        states = [
            ClientState(s.index, [np.float32(w) for w in local[int(s.index)]]) for s in states
        ]


def test_local_momentum_lives_in_the_client_state_when_asked():
    cohort = [random_cohort(9, 1)[0]]
    assert len(cohort[0][0]) > 3
    results = {}
    for keep in (False, True):
        process, client_state_fn = build(local=sgd(0.05, momentum=0.9), keep_local=keep)
        server, states = process.initialize(), [attrs.evolve(client_state_fn(), index=4)]
        for _ in range(2):
            server, _, states = process.next(server, [as_dataset(*cohort[0])], states)
        results[keep] = states[0]
    assert tf.nest.flatten(results[False].optimizer_state) == []
    velocity = results[True].optimizer_state["accumulator"]
    assert np.abs(np.asarray(velocity[0])).max() > 0
    assert not np.allclose(results[True].local_weights[0], results[False].local_weights[0])


def test_a_state_from_a_process_with_other_rates_takes_the_new_rates():
    slow, client_state_fn = build(server=sgd(0.0), local=sgd(0.0), keep_local=True)
    fast, _ = build(server=sgd(1.0), local=sgd(0.1), keep_local=True)
    dataset = as_dataset(np.arange(6), np.ones(6, np.float32))
    server, _, states = slow.next(
        slow.initialize(), [dataset], [attrs.evolve(client_state_fn(), index=0)]
    )
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
    process, client_state_fn = build(client=client)
    rated = np.arange(6)
    server, _, _ = process.next(
        process.initialize(),
        [as_dataset(rated, np.ones(6, np.float32))],
        [attrs.evolve(client_state_fn(), index=0)],
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
    process, client_state_fn = build(server=sgd(1.0), client=DecayingSGD())
    start = process.initialize()
    server, _, _ = process.next(
        start,
        [as_dataset(np.arange(3), np.ones(3, np.float32))],
        [attrs.evolve(client_state_fn(), index=0)],
    )
    untouched = np.asarray(start.model_weights[0])[3:]
    assert_close([np.asarray(server.model_weights[0])[3:]], [0.9 * untouched])


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
    client_state_fn = build_client_state_fn(LineWithOffset)
    process = build_stateful_fed_avg(LineWithOffset, client_state_fn, sgd(1.0), sgd(0.1), sgd(0.1))
    rng = np.random.default_rng(0)
    offsets = {10: -2.0, 20: 0.5, 30: 3.0}
    datasets = []
    for offset in offsets.values():
        x = rng.normal(size=(40, 2)).astype(np.float32)
        y = x @ np.array([[1.0], [-0.5]], np.float32) + np.float32(offset)
        datasets.append(tf.data.Dataset.from_tensor_slices((x, y)).batch(10))
    server = process.initialize()
    states = [attrs.evolve(client_state_fn(), index=i) for i in offsets]
    for _ in range(12):
        server, metrics, states = process.next(server, datasets, states)
    assert float(metrics["loss"]) < 1e-3
    assert_close(server.model_weights, [[[1.0], [-0.5]]], 0.02)
    for state in states:
        assert float(state.local_weights[0]) == pytest.approx(offsets[int(state.index)], abs=0.02)


def tensors_of(value_type):
    """All tensor types in a type, with their shapes."""
    found = []

    def walk(part):
        if isinstance(part, tff.TensorType):
            found.append(part)
        elif isinstance(part, tff.StructType):
            for inner in part:
                walk(inner)
        elif isinstance(part, (tff.FederatedType, tff.SequenceType)):
            walk(part.member if isinstance(part, tff.FederatedType) else part.element)

    walk(value_type)
    return found


@pytest.mark.parametrize("kind", ["with_biases", "without_biases"])
def test_no_local_variable_reaches_the_server(kind, request):
    process, client_state_fn = request.getfixturevalue(kind)
    server_type, metrics_type, states_type = process.next.type_signature.result
    local_shapes = {tuple(w.shape) for w in client_state_fn().local_weights}
    global_types = tensors_of(process.initialize.type_signature.result.member.model_weights)

    sent = types_sent_to_server(process.next)
    update, *rest = sent
    assert tensors_of(update) == global_types
    scalars = [tensor for part in rest for tensor in tensors_of(part)]
    assert scalars and all(tensor.shape == () for tensor in scalars)

    at_server = tensors_of(server_type) + tensors_of(metrics_type)
    assert not local_shapes & {tuple(t.shape) for part in sent for t in tensors_of(part)}
    assert not local_shapes & {tuple(t.shape) for t in at_server}
    assert states_type.placement is tff.CLIENTS
    assert local_shapes <= {tuple(t.shape) for t in tensors_of(states_type)}


def test_a_process_that_sends_the_state_is_found_out(with_biases):
    """The test above can fail: the user vector shows up as soon as somebody sums it."""
    process, _ = with_biases
    _, datasets_type, states_type = process.next.type_signature.parameter

    @tff.federated_computation(states_type)
    def leak(states):
        return tff.federated_sum(states.local_weights)

    (sent,) = types_sent_to_server(leak)
    assert (1, NUM_FACTORS) in {tuple(t.shape) for t in tensors_of(sent)}


@pytest.mark.parametrize("name", ["server_optimizer", "client_optimizer", "local_optimizer"])
def test_an_optimizer_of_keras_is_refused_by_name(name):
    model_fn = build_model_fn(NUM_ITEMS, NUM_FACTORS)
    arguments = {f"{part}_optimizer": sgd(0.1) for part in ("server", "client", "local")} | {
        name: tf.keras.optimizers.SGD(0.1)
    }
    with pytest.raises(TypeError, match=f"{name} must be an optimizer of tff.learning"):
        build_stateful_fed_avg(model_fn, build_client_state_fn(model_fn), **arguments)


def test_a_model_without_groups_is_refused():
    class Ungrouped(LineWithOffset):
        local_model_variables = None

    with pytest.raises(TypeError, match="no local_model_variables"):
        build_stateful_fed_avg(
            Ungrouped, build_client_state_fn(LineWithOffset), sgd(1.0), sgd(0.1), sgd(0.1)
        )


def test_a_variable_in_both_groups_is_refused():
    class Overlapping(LineWithOffset):
        global_model_variables = property(lambda self: [self._slope, self._offset])

    with pytest.raises(ValueError, match="both local and global"):
        build_stateful_fed_avg(
            Overlapping, build_client_state_fn(Overlapping), sgd(1.0), sgd(0.1), sgd(0.1)
        )


def test_a_state_of_another_model_is_refused():
    model_fn = build_model_fn(NUM_ITEMS, NUM_FACTORS)
    other = build_client_state_fn(build_model_fn(NUM_ITEMS, NUM_FACTORS + 1))
    with pytest.raises(ValueError, match="build both from one model_fn"):
        build_stateful_fed_avg(model_fn, other, sgd(1.0), sgd(0.1), sgd(0.1))
