"""The round of chapter 4 against a plain NumPy reference, and its promises by type."""

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from numpy_rounds import (
    NUM_FACTORS,
    as_dataset,
    assert_close,
    build,
    by_index,
    no_ratings,
    numpy_client,
    numpy_round,
    random_cohort,
    random_states,
    sgd,
)

from stateful_tff.engines.round import types_sent_to_server
from stateful_tff.engines.types import stacked_type
from stateful_tff.methods import Method, keep_nothing
from stateful_tff.state import ClientState


@pytest.fixture(scope="module")
def with_biases():
    return build()


@pytest.fixture(scope="module")
def without_biases():
    return build(biases=False)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["with_biases", "without_biases"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_round_equals_the_numpy_reference(kind, seed, epochs, request):
    process = request.getfixturevalue(kind)
    cohort = random_cohort(seed)
    states = random_states(process, len(cohort), seed)
    before = process.initialize()
    after, metrics, new_states = process.next(
        before, [as_dataset(*client, epochs) for client in cohort], states
    )
    weights, local = numpy_round(before.model_weights, states, cohort, epochs)
    assert_close(after.model_weights, weights)
    assert by_index(new_states).keys() == local.keys()
    for index, new in by_index(new_states).items():
        assert_close(new, local[index])
    assert int(after.round_num) == 1
    assert int(metrics["num_examples"]) == epochs * sum(len(items) for items, _ in cohort)


def test_two_rounds_pass_the_state_on_and_count_the_visits(with_biases):
    process = with_biases
    cohort = random_cohort(8)
    states = random_states(process, len(cohort), 8)
    server = process.initialize()
    weights = server.model_weights
    expected = states
    for done in range(2):
        server, _, states = process.next(server, [as_dataset(*c) for c in cohort], states)
        weights, local = numpy_round(weights, expected, cohort)
        expected = [ClientState(s.index, local[int(s.index)]) for s in expected]
        assert [int(s.last_round) for s in states] == [done + 1] * len(cohort)
        assert [int(s.num_visits) for s in states] == [done + 1] * len(cohort)
    assert_close(server.model_weights, weights)


def test_a_client_that_was_away_knows_its_last_round(with_biases):
    process = with_biases
    data, states = [as_dataset(*random_cohort(8)[0])], random_states(process, 1, 8)
    server, _, states = process.next(process.initialize(), data, states)
    server = attrs.evolve(server, round_num=np.int32(9))
    _, _, (state,) = process.next(server, data, states)
    assert (int(state.last_round), int(state.num_visits)) == (10, 2)
    assert int(state.index) == 100


def test_rates_of_zero_leave_everything_as_it_was():
    process = build(client=sgd(0.0), local=sgd(0.0))
    cohort = random_cohort(1)
    states = random_states(process, len(cohort), 1)
    before = process.initialize()
    after, _, new_states = process.next(before, [as_dataset(*c) for c in cohort], states)
    for old, new in zip(before.model_weights, after.model_weights, strict=True):
        np.testing.assert_array_equal(old, new)
    for index, new in by_index(new_states).items():
        for a, b in zip(by_index(states)[index], new, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_client_with_weight_equals_centralized_sgd():
    """With server rate 1 the other clients, who have no data, change nothing."""
    process = build(server=sgd(1.0))
    items, stars = random_cohort(2)[0]
    states = random_states(process, 3, 2)
    before = process.initialize()
    datasets = [as_dataset(*c) for c in [no_ratings(), (items, stars), no_ratings()]]
    after, _, new_states = process.next(before, datasets, states)
    weights, local = numpy_client(
        [np.asarray(w, np.float64) for w in before.model_weights],
        [np.asarray(w, np.float64) for w in states[1].local_weights],
        items,
        stars,
    )
    assert len(items) > 0
    assert_close(after.model_weights, weights)
    assert_close(by_index(new_states)[107], local)


def test_permuted_clients_permute_the_results(with_biases):
    process = with_biases
    cohort = random_cohort(6)
    states = random_states(process, len(cohort), 6)
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


def test_a_mean_is_a_sum_divided_at_the_end(with_biases):
    """Two halves of a cohort may be worked on and added up apart."""
    process = with_biases
    functions, cohort = process.functions, random_cohort(7, 4)
    states = random_states(process, 4, 7)
    before = process.initialize()
    message = functions.message(before)
    sums = [
        functions.client_work(as_dataset(*client), state, message)[0]
        for client, state in zip(cohort, states, strict=True)
    ]
    halves = [tf.nest.map_structure(np.add, *sums[:2]), tf.nest.map_structure(np.add, *sums[2:])]
    after, metrics = functions.finish(before, tf.nest.map_structure(np.add, *halves))
    whole, same, _ = process.next(before, [as_dataset(*c) for c in cohort], states)
    assert_close(after.model_weights, whole.model_weights, 1e-6)
    assert_close(metrics.values(), same.values(), 1e-6)


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
    process = request.getfixturevalue(kind)
    server_type, metrics_type, states_type = process.next.type_signature.result
    local_shapes = {tuple(w.shape) for w in process.client_state_fn().local_weights}
    global_types = tensors_of(process.initialize.type_signature.result.member.model_weights)

    (sent,) = types_sent_to_server(process.next)
    assert tensors_of(sent.weighted_delta) == global_types
    scalars = tensors_of(sent)[len(global_types) :]
    assert scalars and all(tensor.shape == () for tensor in scalars)

    at_server = tensors_of(server_type) + tensors_of(metrics_type)
    assert not local_shapes & {tuple(t.shape) for t in tensors_of(sent)}
    assert not local_shapes & {tuple(t.shape) for t in at_server}
    assert states_type.placement is tff.CLIENTS
    assert local_shapes <= {tuple(t.shape) for t in tensors_of(states_type)}


def test_a_process_that_sends_the_state_is_found_out(with_biases):
    """The test above can fail: the user vector shows up as soon as it is summed."""
    _, _, states_type = with_biases.next.type_signature.parameter

    @tff.federated_computation(states_type)
    def leak(states):
        return tff.federated_sum(states.local_weights)

    (sent,) = types_sent_to_server(leak)
    assert (1, NUM_FACTORS) in {tuple(t.shape) for t in tensors_of(sent)}


def test_a_stacked_state_has_a_first_axis_of_clients_in_every_part(with_biases):
    state_type = with_biases.functions.client_work.type_signature.parameter[1]
    stacked = stacked_type(state_type)
    for one, many in zip(tensors_of(state_type), tensors_of(stacked), strict=True):
        assert tuple(many.shape) == (None, *one.shape) and many.dtype == one.dtype
    assert stacked.python_container is ClientState


def test_the_state_that_goes_in_is_of_the_type_that_comes_out(with_biases):
    work = with_biases.functions.client_work.type_signature
    assert work.parameter[1].is_equivalent_to(work.result[1])


def test_what_a_method_keeps_can_be_read_from_the_type():
    method = Method("forgetful", keep_nothing)
    assert method.client_state_fn(type("T", (), {"local_weights": [1.0]})()).local_weights == []
