"""Short runs of the stand-in process, for the tests of stores."""

import numpy as np
import tensorflow as tf

from experiments import kill_and_resume
from experiments.stand_in import StandIn
from stateful_tff.state import ClientState, ServerState
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.training import Round, UniformSampler, rounds

CLIENTS = 40
PROCESS = StandIn()


def open_store(url, **options):
    return SqlStore(url, PROCESS, CLIENTS, **options)


def go_on(store, until, cohort_size=8, seed=0):
    """Trains, and returns what the run has led to."""
    sampler = UniformSampler(CLIENTS, cohort_size, seed)
    for done in rounds(PROCESS, store, None, sampler, until):
        store.commit(done)
    return store.server_state, store.history, store[range(CLIENTS)]


def train(url, until, cohort_size=8, seed=0, **options):
    with open_store(url, **options) as store:
        return go_on(store, until, cohort_size, seed)


def in_memory(until, cohort_size=8, seed=0):
    return go_on(MemoryStore(PROCESS, CLIENTS), until, cohort_size, seed)


def assert_same_states(one, other):
    tf.nest.assert_same_structure(one, other)
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


def assert_same(one, other):
    assert_same_states(one[0], other[0])
    clocks = ["seconds", "preparation"]
    assert one[1].drop(columns=clocks).equals(other[1].drop(columns=clocks))
    assert_same_states(one[2], other[2])


def state_of(client, value=1.0, last_round=1, num_visits=1):
    weights = [np.full((1, 4), value, np.float32)]
    return ClientState(np.int32(client), weights, (), np.int32(last_round), np.int32(num_visits))


def server_of(round_num):
    return ServerState([np.full((60, 4), round_num, np.float32)], (), np.int32(round_num))


def round_of(round_num, states, metrics=None, cohort=None):
    """A round whose clients return given states."""
    states = [state_of(s, 1.0, round_num) if isinstance(s, int) else s for s in states]
    cohort = [int(state.index) for state in states] if cohort is None else cohort
    metrics = {"loss": 1.0} if metrics is None else metrics
    return Round(round_num, np.array(cohort), server_of(round_num), states, metrics, 0.0, 0.0)


def snapshot(url):
    """All that a store holds, read without the store."""
    with kill_and_resume.engine_of(url).connect() as connection:
        return kill_and_resume.digest(connection)
