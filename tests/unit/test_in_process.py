"""Rounds in this Python process against the same rounds in TFF's runtime."""

import functools
from collections import OrderedDict

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from engine_rounds import (
    BIASED,
    RATES,
    assert_same_results,
    away_from_start,
    in_epochs,
    one_round,
    rating_clients,
    scattered,
)
from random_ratings import NUM_USERS

from stateful_tff.engines.in_process import (
    GraphFunction,
    InThisProcess,
    flat_types,
    flatten,
    unflatten,
)
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.packing import PackedRatings, shards
from stateful_tff.engines.per_client import build_process
from stateful_tff.methods import stateful
from stateful_tff.models import ModelFn
from stateful_tff.state import BroadcastMessage, ClientState, ServerState


@functools.cache
def process_of(kind, epochs=1):
    if kind == "packed":
        return build_packed_process(in_epochs(epochs), BIASED, RATES)
    return build_process(in_epochs(epochs), ModelFn(BIASED), RATES)


def in_parts(clients, cohort, round_num, num_parts=3):
    parts = shards([PackedRatings(clients)], stateful.passes, cohort, round_num, num_parts)
    return parts, [part[0].index for part in parts]


@pytest.mark.parametrize("kind", ["packed", "per client"])
def test_a_round_is_that_of_the_runtime(kind):
    process, clients = process_of(kind), rating_clients(2)
    here = InThisProcess(process)
    server, store = away_from_start(process, 1), scattered(process, 1)
    cohort, inputs = [4, 9, 2, 0, 7], in_parts if kind == "packed" else None
    there = one_round(process, server, clients, cohort, store, 3, inputs)
    mine = one_round(here, server, clients, cohort, store, 3, inputs)
    assert_same_results(mine, there, server)


def test_the_first_states_are_those_of_the_runtime():
    process = process_of("packed")
    here = InThisProcess(process)
    for a, e in zip(
        tf.nest.flatten(here.initialize()), tf.nest.flatten(process.initialize()), strict=True
    ):
        np.testing.assert_array_equal(a, e)
    assert here.inputs is process.inputs and here.client_state_fn is process.client_state_fn


@pytest.mark.parametrize("threads", [1, 3])
def test_the_states_come_back_in_the_order_of_the_parts(threads):
    here = InThisProcess(process_of("packed"), threads)
    server, store, cohort = here.initialize(), scattered(here, 1), [4, 9, 2, 0, 7, 11]
    data, ids = in_parts(rating_clients(2), cohort, 0)
    assert len(data) == 3
    _, _, states = here.next(server, data, [store[some] for some in ids])
    for some, state in zip(ids, states, strict=True):
        assert isinstance(state, ClientState) and isinstance(state.local_weights, list)
        np.testing.assert_array_equal(state.index, some)


def test_the_containers_are_those_of_the_types():
    here = InThisProcess(process_of("packed"))
    server, metrics, _ = one_round(
        here, here.initialize(), rating_clients(2), [4, 9], scattered(here, 1)
    )
    assert isinstance(server, ServerState) and isinstance(metrics, OrderedDict)
    assert list(metrics)[0] == "num_examples"


def test_a_round_can_be_repeated_and_leaves_its_arguments():
    """Variables of a graph are set again in every call: no client finds those of another."""
    here = InThisProcess(process_of("per client"))
    server, store, clients = away_from_start(here, 1), scattered(here, 1), rating_clients(2)
    before = [np.array(w) for w in server.model_weights]
    first, _, states = one_round(here, server, clients, [4, 9], store)
    again, _, same = one_round(here, server, clients, [4, 9], store)
    alone, _, own = one_round(here, server, clients, [9], store)
    for a, e in zip(tf.nest.flatten((first, states)), tf.nest.flatten((again, same)), strict=True):
        np.testing.assert_array_equal(a, e)
    np.testing.assert_array_equal(own.local_weights[0][0], states.local_weights[0][1])
    for a, e in zip(server.model_weights, before, strict=True):
        np.testing.assert_array_equal(a, e)


def test_graphs_with_variables_run_one_after_the_other():
    assert GraphFunction(process_of("per client").functions.client_work).has_variables
    assert not GraphFunction(process_of("packed").functions.message).has_variables


def counter(start, dtype):
    """A computation whose graph has a variable without a name of its own."""

    @tff.tensorflow.computation(dtype)
    def count(step):
        return tf.Variable(start, dtype=dtype).assign_add(step)

    return GraphFunction(count)


def test_variables_of_one_name_in_two_graphs_are_two_variables():
    whole, real = counter(5, np.int64), counter(0.5, np.float32)
    assert whole(np.int64(1)).numpy() == 6 and real(np.float32(1)).numpy() == 1.5
    assert whole(np.int64(1)).numpy() == 6


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 1)])
def test_a_round_of_nobody_or_without_a_state_is_refused(counts):
    here = InThisProcess(process_of("packed"))
    data, ids = in_parts(rating_clients(2), [4, 9], 0, 1)
    states = [scattered(here, 1)[some] for some in ids]
    with pytest.raises(ValueError, match="needs data and a state for each of at least one client"):
        here.next(here.initialize(), data[: counts[0]], states[: counts[1]])


def test_a_structure_is_its_parts_in_order():
    @tff.tensorflow.computation(np.int32, np.float32)
    def made(number, values):
        return OrderedDict(message=BroadcastMessage([values, values + 1], number), pair=(number,))

    kind = made.type_signature.result
    value = OrderedDict(message=BroadcastMessage([2.0, 3.0], 5), pair=(5,))
    assert flatten(value) == [2.0, 3.0, 5, 5] and len(flat_types(kind)) == 4
    again = unflatten(kind, iter(flatten(value)))
    assert attrs.asdict(again["message"]) == attrs.asdict(value["message"])
    assert again["pair"] == (5,)
    function = GraphFunction(made)
    result = function(5, 2.0)
    assert result["message"].model_weights[1].numpy() == 3.0


def test_a_dataset_is_an_argument_like_any_other():
    @tff.tensorflow.computation(tff.SequenceType(np.int64))
    def total(numbers):
        return numbers.reduce(np.int64(0), lambda a, b: a + b)

    assert GraphFunction(total)(tf.data.Dataset.range(5)).numpy() == 10
    assert NUM_USERS == rating_clients().num_clients
