"""Private tables in the stores: kept as touched rows, read as they were."""

import os
import signal
import sqlite3
import zlib

import attrs
import numpy as np
import pytest

from experiments.stand_in import StandIn
from stateful_tff.state import ClientState
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.stores.errors import StoreError
from stateful_tff.stores.layout import Layout, as_bytes
from stateful_tff.stores.touched import rows_of_all
from stateful_tff.training import UniformSampler, rounds


def state(table, **changes):
    """A client's state with a table among its weights."""
    weights = [np.float32([[1, 2]]), np.asarray(table, np.float32), np.float32([[3]])]
    first = ClientState(np.int32(4), weights, (), np.int32(1), np.int32(2))
    return attrs.evolve(first, **changes)


@pytest.fixture
def layout():
    return Layout(state(np.zeros((100, 2))))


def row_of(layout, table):
    return layout.rows(layout.parts(state(table), "client 4"))[0]


def same(first, second):
    return first.tobytes() == second.tobytes()


@pytest.mark.parametrize("touched", [[], [0], [99], [3, 4, 50], range(0, 100, 2)])
def test_a_table_is_written_as_its_touched_rows(layout, touched):
    table = np.zeros((100, 2))
    table[list(touched)] = np.random.default_rng(0).normal(size=(len(touched), 2))
    row = row_of(layout, table)
    written = as_bytes(row)
    rest = row.nbytes - 100 * 2 * 4
    assert len(written["state"]) == rest + 13 + len(touched) * 2 * 4
    assert same(layout.read(written["state"], written["crc32"], "client 4"), row)


def test_a_row_of_minus_zero_is_kept(layout):
    table = np.zeros((100, 2))
    table[7, 1] = -0.0
    row = row_of(layout, table)
    written = as_bytes(row)
    assert same(layout.read(written["state"], written["crc32"], "client 4"), row)


def test_a_full_table_is_written_as_it_is(layout):
    row = row_of(layout, np.ones((100, 2)))
    written = as_bytes(row)
    assert written["state"] == row.tobytes()
    assert same(layout.read(written["state"], written["crc32"], "client 4"), row)


def test_states_without_tables_are_written_as_before():
    layout = Layout(state(np.zeros((4, 2))))
    row = row_of(layout, np.zeros((4, 2)))
    assert as_bytes(row) == dict(crc32=zlib.crc32(row.tobytes()), state=row.tobytes())


def test_what_was_not_written_is_refused(layout):
    table = np.zeros((100, 2))
    table[5] = 1
    data = as_bytes(row_of(layout, table))["state"]
    for damaged in (data[:-1], data + b"\0", data[:30] + bytes([data[30] ^ 1]) + data[31:], b""):
        with pytest.raises(StoreError, match="the store is damaged"):
            layout.read(damaged, zlib.crc32(data), "client 4")
        with pytest.raises(StoreError, match="the store is damaged"):
            layout.read(damaged[:-2], zlib.crc32(damaged[:-2]), "client 4")


CLIENTS, ROWS, TOUCHED = 12, 3000, 7


class WithTables(StandIn):
    """The stand-in with a private table in each state, of which a round moves a few rows."""

    def __init__(self, first: float):
        super().__init__()
        self.first = np.full((ROWS, 8), first, np.float32)

    def client_state_fn(self):
        state = super().client_state_fn()
        return attrs.evolve(state, local_weights=[*state.local_weights, self.first])

    def next(self, server_state, data, client_states):
        tables = [state.local_weights[-1] for state in client_states]
        server, metrics, states = super().next(server_state, data, client_states)
        for number, (seed, state, table) in enumerate(zip(data, states, tables, strict=True)):
            rng, table = np.random.default_rng(seed), table.copy()
            table[rng.choice(ROWS, TOUCHED, replace=False)] += rng.normal(size=8)
            weights = [*state.local_weights, table]
            states[number] = attrs.evolve(state, local_weights=weights)
        return server, metrics, states


def go_on(process, store, until):
    for done in rounds(process, store, None, UniformSampler(CLIENTS, 5), until):
        store.commit(done)
    return [*store[range(CLIENTS)].local_weights, *store.server_state.model_weights]


def dense(process, until):
    """What a plain dictionary of states comes to."""
    states = {i: attrs.evolve(process.client_state_fn(), index=i) for i in range(CLIENTS)}
    server, sampler = process.initialize(), UniformSampler(CLIENTS, 5)
    for number in range(until):
        data, ids = process.inputs(None, sampler(number), number)
        server, _, new = process.next(server, data, [states[i] for i in ids])
        states |= {int(state.index): state for state in new}
    own = [np.stack(part) for part in zip(*(states[i].local_weights for i in states), strict=True)]
    return [*own, *server.model_weights]


@pytest.mark.parametrize("first", [0.0, 0.5])
def test_memory_keeps_the_touched_rows_of_large_tables(first):
    process = WithTables(first)
    store = MemoryStore(process, CLIENTS)
    for found, expected in zip(go_on(process, store, 6), dense(process, 6), strict=True):
        np.testing.assert_array_equal(found, expected)
    copied = store.copy()
    np.testing.assert_array_equal(copied.local_weights()[1], store[range(CLIENTS)].local_weights[1])
    np.testing.assert_array_equal(store[3].local_weights[1], store.local_weights()[1][3])
    kept = rows_of_all(process.first[None], CLIENTS)
    kept[range(CLIENTS)] = store.local_weights()[1]
    assert kept.nbytes < process.first.nbytes + CLIENTS * 6 * TOUCHED * 36


def test_touched_rows_outlive_a_kill(tmp_path):
    process, path = WithTables(0.0), tmp_path / "run.db"
    child = os.fork()
    if child == 0:  # dies with the store open, after two rounds
        try:
            go_on(process, SqlStore(path, process, CLIENTS), 2)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    for until in (2, 4):  # opened again, gone on with, and opened once more
        with SqlStore(path, process, CLIENTS) as store:
            found = go_on(process, store, until)
        for part, expected in zip(found, dense(process, until), strict=True):
            np.testing.assert_array_equal(part, expected)
    with sqlite3.connect(path) as database:
        sizes = [size for (size,) in database.execute("SELECT length(state) FROM stateful_clients")]
    assert 0 < len(sizes) and max(sizes) < ROWS // 8 + 4 * TOUCHED * 32 + 100
