"""Private tables in the durable store: written as touched rows, read as they were."""

import zlib

import attrs
import numpy as np
import pytest

from stateful_tff.state import ClientState
from stateful_tff.stores.errors import StoreError
from stateful_tff.stores.layout import Layout, as_bytes


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
