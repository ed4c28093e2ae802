"""Packed rounds against rounds of one client at a time, from the same server and client states."""

import functools

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from engine_rounds import (
    BIASED,
    PLAIN,
    RATES,
    SGD,
    assert_same_results,
    away_from_start,
    close,
    in_epochs,
    network,
    one_round,
    rating_clients,
    scattered,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_ratings import NUM_ITEMS, NUM_USERS, random_ratings

from stateful_tff.data import ClientDatasets, synthetic_ratings
from stateful_tff.engines import packed, packed_steps
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.packing import PackedRatings, shards
from stateful_tff.engines.per_client import build_process
from stateful_tff.methods import (
    GLOBAL,
    Method,
    Optimizers,
    Phase,
    in_phases,
    keep_optimizer_state,
    stateful,
    touched_rows,
)
from stateful_tff.models import ModelFn
from stateful_tff.stores import MemoryStore
from stateful_tff.training import DivergenceError, UniformSampler, rounds


@functools.cache
def both(spec=BIASED, method=stateful, optimizers=RATES):
    """The process of chapter 4 and the packed one, in this Python process."""
    slow = build_process(method, ModelFn(spec), optimizers)
    fast = build_packed_process(method, spec, optimizers)
    return InThisProcess(slow), InThisProcess(fast)


def in_parts(clients, epochs, num_parts):
    """The `inputs` of a packed process that cuts a cohort into a given number of parts."""

    def inputs(_, cohort, round_num):
        phases = in_epochs(epochs).passes
        parts = shards([PackedRatings(clients)], phases, cohort, round_num, num_parts)
        return parts, [part[0].index for part in parts]

    return inputs


def assert_equal_rounds(spec, epochs, clients, cohort, num_parts, seed):
    slow, fast = both(spec, in_epochs(epochs))
    store, server = scattered(slow, seed), away_from_start(slow, seed)
    expected = one_round(slow, server, clients, cohort, store, 3)
    actual = one_round(
        fast, server, clients, cohort, store, 3, in_parts(clients, epochs, num_parts)
    )
    assert_same_results(actual, expected, server)


@pytest.mark.parametrize("spec", [BIASED, PLAIN], ids=["biases and L2", "plain"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_round_equals_that_of_chapter_4(spec, epochs, seed):
    rng = np.random.default_rng(seed)
    cohort = rng.choice(NUM_USERS, 9, replace=False)
    clients = rating_clients(seed)
    assert_equal_rounds(spec, epochs, clients, cohort, int(rng.integers(1, 5)), seed)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    batch_size=st.integers(1, 30),
    epochs=st.integers(1, 3),
    num_parts=st.integers(1, 20),
    cohort=st.sets(st.integers(0, NUM_USERS - 1), min_size=1).map(sorted),
    biases=st.booleans(),
)
def test_any_batch_size_parts_and_cohort(seed, batch_size, epochs, num_parts, cohort, biases):
    clients = rating_clients(seed % 1000, batch_size, seed)
    if clients.counts[cohort].sum():  # a round without data has a test of its own
        spec = BIASED if biases else PLAIN
        assert_equal_rounds(spec, epochs, clients, cohort, num_parts, seed)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_cohort_without_data_changes_nothing(epochs):
    _, fast = both(BIASED, in_epochs(epochs))
    nothing = ClientDatasets(random_ratings(0).select(np.zeros(0, int)), shuffle_seed=1)
    store, server = scattered(fast, 0), away_from_start(fast, 1)
    after, metrics, states = one_round(fast, server, nothing, [3, 1], store)
    assert int(metrics["num_examples"]) == 0 and np.isnan(metrics["loss"])
    for a, b in zip(after.model_weights, server.model_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(states.local_weights, store[[1, 3]].local_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert states.num_visits.tolist() == [1, 1]


def whole_run(process, until, store=None, epochs=1, size=6):
    clients = ClientDatasets(synthetic_ratings(20, NUM_ITEMS, seed=1), 3, shuffle_seed=5)
    store = MemoryStore(process, 20) if store is None else store
    for done in rounds(process, store, clients, UniformSampler(20, size, 2), until):
        store.commit(done)
    return store


def assert_same_runs(actual, expected):
    weights = [s.server_state.model_weights + s.local_weights() for s in (actual, expected)]
    for a, e in zip(*weights, strict=True):
        close(a, e)
    close(actual.history["loss"], expected.history["loss"])
    assert actual.visited.tolist() == expected.visited.tolist()
    assert actual.age.tolist() == expected.age.tolist()


def test_whole_runs_with_momentum_at_the_server_are_the_same():
    momentum = Optimizers(SGD(0.7, momentum=0.9), SGD(0.1), SGD(0.05))
    slow, fast = both(BIASED, in_epochs(2), momentum)
    assert_same_runs(whole_run(fast, 4), whole_run(slow, 4))


def test_two_halves_of_a_run_are_the_whole():
    _, fast = both()
    halves = whole_run(fast, 4, whole_run(fast, 2))
    assert list(halves.history.index) == [1, 2, 3, 4]
    assert_same_runs(halves, whole_run(fast, 4))


def test_touched_rows_are_averaged_over_those_who_touched_them():
    """From the changes of single clients, computed by the process of chapter 4."""
    optimizers = Optimizers(SGD(1.0), SGD(0.1), SGD(0.05))
    slow, _ = both(optimizers=optimizers)
    fast = InThisProcess(build_packed_process(touched_rows, BIASED, optimizers))
    clients = rating_clients(4)
    cohort = np.flatnonzero(clients.counts)[:6]
    store, server = scattered(slow, 1), away_from_start(slow, 1)
    sums = [np.zeros(np.shape(w)) for w in server.model_weights]
    held = np.zeros((NUM_ITEMS, 1))
    for client in cohort:
        alone, *_ = one_round(slow, server, clients, [client], store)
        weight = clients.counts[client]
        held[clients.arrays(client)[0]] += weight
        for total, a, b in zip(sums, alone.model_weights, server.model_weights, strict=True):
            total += weight * (np.asarray(a) - b)
    after, *_ = one_round(
        fast, server, clients, cohort, store, inputs=in_parts(clients, 1, 3)
    )  # fmt: skip
    for total, a, b in zip(sums, after.model_weights, server.model_weights, strict=True):
        close(np.asarray(a) - b, (total / np.maximum(held, 1)).astype(np.float32), least=0.1)


@pytest.mark.parametrize("epochs", [1, 2])
def test_rounds_of_other_cohorts_trace_nothing_again(epochs, monkeypatch):
    """Not a line of Python of the packed work runs again, whatever the shapes."""
    _, fast = both(BIASED, in_epochs(epochs))
    calls = []
    for module, name in [(packed, "part_work"), (packed_steps, "epoch"), (packed, "local_steps")]:
        monkeypatch.setattr(module, name, lambda *a, n=name, **k: calls.append(n))
    for batch_size, size in [(4, 3), (4, 9), (7, 12), (2, 5)]:
        clients = rating_clients(1, batch_size)
        one_round(fast, fast.initialize(), clients, range(size), MemoryStore(fast, NUM_USERS))
    assert calls == []
    with pytest.raises(Exception):  # noqa: B017 - the counter works: building traces them
        build_packed_process(in_epochs(epochs), BIASED, RATES)
    assert calls


def test_a_round_of_many_own_rows_is_cut_into_parts_that_fit(monkeypatch):
    """In the second epoch every client has rows of its own, and they take memory."""
    clients = rating_clients(1)
    count = clients.counts.sum()
    for epochs, limit, num_parts in [(1, count // 4, 1), (2, count, 2), (2, count // 4, 10)]:
        monkeypatch.setattr(packed, "LARGEST_PART", limit)
        data, ids = both(BIASED, in_epochs(epochs))[1].inputs(clients, np.arange(NUM_USERS), 0)
        assert 1 <= len(data) <= num_parts and (len(data) > 1) == (epochs > 1)
        assert sorted(np.concatenate(ids)) == list(range(NUM_USERS))
        assert epochs == 1 or all(p[0].sizes.sum() <= max(limit, 22) for p in data)


def test_divergence_leaves_the_store_as_it_was():
    wild = InThisProcess(
        build_packed_process(stateful, BIASED, Optimizers(*map(SGD, (100.0, 5.0, 5.0))))
    )
    store = MemoryStore(wild, NUM_USERS)
    with pytest.raises(DivergenceError, match="diverged.*Lower the learning rates"):
        for done in rounds(wild, store, rating_clients(0), UniformSampler(NUM_USERS, 5), 20):
            kept = done.round_num
            store.commit(done)
    assert store.round_num == kept < 20
    assert all(np.isfinite(w).all() for w in store.local_weights())


def test_a_model_without_a_seed_starts_from_the_same_weights_in_every_graph():
    unseeded = attrs.evolve(BIASED, seed=None)
    process = InThisProcess(build_packed_process(stateful, unseeded, RATES))
    one, other = process.initialize(), process.initialize()
    np.testing.assert_array_equal(one.model_weights[0], other.model_weights[0])
    first = process.client_state_fn().local_weights[0]
    np.testing.assert_array_equal(first, process.client_state_fn().local_weights[0])
    another = build_packed_process(stateful, unseeded, RATES).client_state_fn().local_weights[0]
    assert not np.array_equal(first, another)


@pytest.mark.parametrize(
    "name, optimizer",
    [
        ("client_optimizer", SGD(0.1, momentum=0.9)),
        ("local_optimizer", tff.learning.optimizers.build_adam(0.1)),
    ],
)
def test_optimizers_with_a_memory_are_refused(name, optimizer):
    odd = attrs.evolve(RATES, **{name.partition("_")[0]: optimizer})
    with pytest.raises(ValueError, match=f"{name} is not plain SGD.*use the per-client"):
        build_packed_process(stateful, BIASED, odd)


@pytest.mark.parametrize(
    "method, message",
    [
        (in_phases("odd", Phase(moves=GLOBAL), Phase()), "'odd' moves them before"),
        (Method("by hand", client_update=lambda *parts: None), "'by hand' is not"),
        (attrs.evolve(stateful, client_state_fn=keep_optimizer_state), "keep an optimizer's state"),
    ],
)
def test_methods_that_the_packed_steps_do_not_know_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        build_packed_process(method, BIASED, RATES)


def test_another_model_is_refused():
    for model in (network(), network().model_fn, tf.keras.Sequential()):
        with pytest.raises(TypeError, match="runs MatrixFactorization only.*vectorized engine"):
            build_packed_process(stateful, model, RATES)


def test_states_in_another_order_than_the_shard_are_refused():
    _, fast = both()
    data, (ids,) = fast.inputs(rating_clients(1), np.array([4, 9, 2]), 0)
    with pytest.raises(Exception, match="not in the order"):
        fast.next(fast.initialize(), data, [MemoryStore(fast, NUM_USERS)[ids[::-1]]])
