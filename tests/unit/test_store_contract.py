"""What every store refuses, in the same words, and keeps nothing of."""

import functools
import signal
import threading

import attrs
import numpy as np
import pytest
from store_runs import (
    CLIENTS,
    PROCESS,
    assert_same_states,
    in_memory,
    open_store,
    round_of,
    server_of,
    state_of,
)

from stateful_tff.interrupts import interrupts_held_back
from stateful_tff.state import ClientState, ServerState
from stateful_tff.stores import MemoryStore, SqlStore, StoreError
from stateful_tff.training import Round


@pytest.fixture(params=["memory", "sql"])
def store(request, tmp_path):
    """A store of each kind after one round of clients 0 and 1."""
    if request.param == "memory":
        store = MemoryStore(PROCESS, CLIENTS)
        store.commit(round_of(1, [0, 1]))
        yield store
        return
    with open_store(tmp_path / "run.sqlite") as store:
        store.commit(round_of(1, [0, 1]))
        yield store


def weights(*parts):
    return ClientState(np.int32(2), list(parts), (), np.int32(2), np.int32(1))


GOOD, NAN = np.ones((1, 4), np.float32), np.float32([[1, 2, np.nan, 4]])
NAN_SERVER = attrs.evolve(server_of(2), model_weights=[np.full((60, 4), np.nan, np.float32)])
SERVER_ELSEWHERE = attrs.evolve(server_of(2), model_weights=[np.zeros((61, 4), np.float32)])
ROUNDS = {
    "shape": (dict(client_states=[weights(np.ones((1, 5), np.float32))]), "of another model"),
    "broadcast": (dict(client_states=[weights(np.ones((1, 1), np.float32))]), "of another model"),
    "dtype": (dict(client_states=[weights(np.ones((1, 4)))]), "float64.1, 4.; the store keeps"),
    "no weights": (dict(client_states=[weights()]), "has 3 parts; the store keeps 4"),
    "more weights": (dict(client_states=[weights(GOOD, GOOD)]), "has 5 parts; the store keeps 4"),
    "nan": (dict(client_states=[weights(NAN)]), "state of the client 2 is not finite"),
    "no state": (dict(client_states=[None]), "is a NoneType; the store keeps a ClientState"),
    "a float as index": (
        dict(client_states=[attrs.evolve(weights(GOOD), index=1.9)]),
        r"index\[0\] of the state of client 1.9 is float64",
    ),
    "others": (dict(cohort=np.array([3])), "Client 2 was asked 0 times and returned 1"),
    "nobody": (dict(cohort=np.array([], int), client_states=[]), "Round 2 has no clients"),
    "float ids": (dict(cohort=[2.0]), "Client ids are whole numbers"),
    "a nan server": (dict(server_state=NAN_SERVER), "state of the server is not finite"),
    "another server": (dict(server_state=SERVER_ELSEWHERE), "model_weights.* of another model"),
    "a client as server": (dict(server_state=state_of(1)), "the store keeps a ServerState"),
    "server of another round": (dict(server_state=server_of(3)), "the server state of round 3"),
    "round again": (dict(round_num=1, server_state=server_of(1)), "does not follow on round 1"),
    "round left out": (dict(round_num=3, server_state=server_of(3)), "does not follow on round 1"),
    "half a round": (dict(round_num=2.0), "round_num must be a whole number"),
    "metrics": (dict(metrics={"loss": object()}), "metrics cannot be written as JSON"),
    "metrics by number": (dict(metrics={1: 2.0}), "metrics are a dictionary by name"),
    "no metrics": (dict(metrics=None), "metrics are a dictionary by name"),
    "metrics named round": (dict(metrics={"round": 7}), "A metric cannot be named round"),
    "circular metrics": (dict(metrics={"a": (a := {})} | {"b": a.update(a=a)}), "as JSON"),
}


@pytest.mark.parametrize("odd", ROUNDS)
def test_a_round_is_refused_whole(store, odd):
    change, sentence = ROUNDS[odd]
    done = round_of(2, [weights(GOOD)])
    before = store[range(CLIENTS)], store.history
    with pytest.raises((TypeError, ValueError), match=sentence):
        store.commit(attrs.evolve(done, **change))
    assert_same_states(store[range(CLIENTS)], before[0])
    assert store.history.equals(before[1]) and store.round_num == 1
    store.commit(done)
    assert store.round_num == 2 and store.visited.tolist() == [0, 1, 2]


@pytest.mark.parametrize("good_first", [True, False])
def test_one_odd_stack_among_good_ones_keeps_nothing(store, good_first):
    stacks = [state_of(2, 5.0), weights(np.ones((1, 3), np.float32))]
    stacks[1] = attrs.evolve(stacks[1], index=np.int32(3))
    done = round_of(2, stacks if good_first else stacks[::-1], cohort=[2, 3])
    with pytest.raises(ValueError, match="of the state of client 3 is float32.1, 3."):
        store.commit(done)
    assert store.visited.tolist() == [0, 1] and store.round_num == 1


@pytest.mark.parametrize("odd", [None, 5, "round", [], {}])
def test_what_is_committed_is_a_round(store, odd):
    with pytest.raises(TypeError, match="A store commits rounds, not a value of type"):
        store.commit(odd)


@pytest.mark.parametrize("odd", [None, "x", {1: 1}, {"rate": np.nan}, {"x": object()}])
def test_a_plan_is_what_json_holds(store, odd):
    with pytest.raises(TypeError, match="The plan"):
        store.keep_plan(odd)
    store.keep_plan({"seed": np.int64(1), "sizes": (1, 2)})
    store.keep_plan({"seed": 1, "sizes": [1, 2]})
    with pytest.raises(ValueError, match="began with seed 1 and cannot go on with 2"):
        store.keep_plan({"seed": np.int64(2), "sizes": [1, 2]})


@pytest.mark.parametrize("odd", [None, {"x": object()}, {3: 1.0}, {"round": 1}])
def test_added_metrics_are_checked_like_others(store, odd):
    with pytest.raises(TypeError, match="metric"):
        store.add_metrics(odd)
    assert list(store.history.columns) == ["loss"]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None, "40", np.nan])
def test_a_population_has_a_whole_size(size, tmp_path):
    for new in (MemoryStore, functools.partial(SqlStore, tmp_path / "run.sqlite")):
        with pytest.raises((TypeError, ValueError), match="num_clients must be"):
            new(PROCESS, size)
    assert not list(tmp_path.iterdir())


def test_a_population_that_does_not_fit_is_told_of(monkeypatch):
    with pytest.raises(ValueError, match="num_clients must be at most 100000000"):
        MemoryStore(PROCESS, 10**15)

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(np, "repeat", full)
    with pytest.raises(MemoryError, match="do not fit into memory; take fewer, or keep them in"):
        MemoryStore(PROCESS, 10**8)


def test_a_state_of_over_a_gigabyte_is_refused_before_there_is_a_run(tmp_path):
    class Large:
        client_state_fn = PROCESS.client_state_fn

        @staticmethod
        def initialize():
            return ServerState([np.broadcast_to(np.float32(0), (10**9,))], (), np.int32(0))

    with pytest.raises(StoreError, match="state of the server has 4.0 GB"):
        SqlStore(tmp_path / "run.sqlite", Large, 3)
    assert not list(tmp_path.iterdir())


def test_what_was_committed_is_not_what_the_caller_goes_on_changing(store):
    done = round_of(2, [state_of(2)])
    store.commit(done)
    done.server_state.model_weights[0][:] = 7
    done.client_states[0].local_weights[0][:] = 7
    done.metrics["loss"] = 7
    assert store.server_state.model_weights[0].max() == 2 and store[2].local_weights[0].max() == 1
    assert store.history["loss"].tolist() == [1, 1]


def interrupt(times=1):
    main = threading.main_thread().ident
    for _ in range(times):
        signal.pthread_kill(main, signal.SIGINT)


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_in_a_commit_to_memory_waits_for_its_end(monkeypatch, presses):
    store = MemoryStore(PROCESS, CLIENTS)
    put = MemoryStore._put

    def stopped(self, rows):
        interrupt(presses)
        put(self, rows)
        interrupt(presses)

    monkeypatch.setattr(MemoryStore, "_put", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.commit(round_of(1, [1]))
    monkeypatch.undo()
    assert store.round_num == len(store.history) == 1 and store.visited.tolist() == [1]


@pytest.mark.parametrize("for_good, calls", [(False, 1), (True, 3)])
def test_only_what_is_short_waits_for_good(for_good, calls):
    count = 0
    with pytest.raises(KeyboardInterrupt), interrupts_held_back(for_good=for_good):
        for _ in range(3):
            count += 1
            interrupt()
            count += 0
    assert count == (3 if for_good else 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_round_of_the_loop_is_what_both_stores_take(store):
    server, history, states = in_memory(1)
    assert isinstance(server, ServerState) and isinstance(states, ClientState)
    assert attrs.fields(Round) and len(history) == 1
