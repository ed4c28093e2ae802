"""What a durable store's file holds, loses and gives back: damage, backups, forgotten clients."""

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest
from store_runs import (
    CLIENTS,
    assert_same,
    in_memory,
    open_store,
    round_of,
    state_of,
    train,
)

from stateful_tff.state import ClientState
from stateful_tff.stores import StoreError


def test_a_forgotten_client_is_gone_and_the_others_are_not(url, tmp_path):
    odd = np.float32(0.123456789)
    with open_store(url, keep_states=True) as store:
        for round_num in (1, 2):
            store.commit(round_of(round_num, [state_of(1, odd), state_of(2, 2.0)]))
        if "://" not in url:
            store.backup(tmp_path / "copy.sqlite")
            with pytest.raises(StoreError, match="there is something of that name already"):
                store.backup(tmp_path / "copy.sqlite")
        else:
            with pytest.raises(StoreError, match="pg_dump"):
                store.backup(tmp_path / "copy.sqlite")
        for ids in (1.9, True, "1", [1]):
            with pytest.raises(TypeError):
                store.forget(ids)
        store.forget(1)
        assert store.visited.tolist() == [2] and store.age[1] == -1
        assert not store.state_at(1, 2).local_weights[0].any()
        assert store.state_at(2, 1).local_weights[0][0, 0] == 2.0
        with pytest.raises(ValueError, match="Client 40 is unknown"):
            store.forget(40)
        vector = np.full((1, 4), odd).tobytes()
        found = [f.name for f in tmp_path.iterdir() if vector in f.read_bytes()]
        assert found == ([] if "://" in url else ["copy.sqlite"])
    with open_store(url, keep_states=True) as store:
        assert store.visited.tolist() == [2]
    if "://" not in url:
        with open_store(tmp_path / "copy.sqlite", keep_states=True) as copy:
            assert copy.visited.tolist() == [1, 2] and copy.round_num == 2


def test_a_backup_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    with open_store(tmp_path / "run.sqlite") as store:
        store.commit(round_of(1, [1]))
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", lambda descriptor: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                store.backup(tmp_path / "copy.sqlite")
        assert not list(tmp_path.glob("copy*"))
        store.backup(tmp_path / "copy.sqlite")
    with open_store(tmp_path / "copy.sqlite") as store:
        assert store.round_num == 1


def test_a_flipped_bit_is_told_by_name_and_the_rest_can_be_read(tmp_path):
    path = tmp_path / "run.sqlite"
    train(path, 4, 40)
    with open_store(path) as store:
        vector = store[5].local_weights[0].tobytes()
        server = store.server_state.model_weights[0].tobytes()
    content = path.read_bytes()
    assert content.count(vector) == 1
    path.write_bytes(content.replace(vector, bytes([vector[0] ^ 16]) + vector[1:]))
    with open_store(path) as store:
        with pytest.raises(StoreError, match="state of client 5 is not what was written"):
            store[[4, 5]]
        rest = [client for client in range(CLIENTS) if client != 5]
        assert len(store[rest].index) == CLIENTS - 1
        assert len(store.history) == store.round_num == 4
    path.write_bytes(content.replace(server[:64], bytes([server[0] ^ 1]) + server[1:64]))
    with (
        open_store(path) as store,
        pytest.raises(StoreError, match="state of the server is not what was written"),
    ):
        _ = store.server_state


def test_no_damaged_page_is_ever_used(tmp_path):
    """Whatever page is overwritten: the same results as before, or one sentence."""
    path = tmp_path / "run.sqlite"
    train(path, 12, 40)
    expected, copy = in_memory(12, 40), tmp_path / "copy.sqlite"
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for page in range(len(content) // 4096):
        broken = bytearray(content)
        broken[4096 * page : 4096 * (page + 1)] = rng.bytes(4096)
        copy.write_bytes(broken)
        try:
            with open_store(copy) as store:
                found = store.server_state, store.history, store[range(CLIENTS)]
            assert_same(found, expected)
        except StoreError as error:
            refused += 1
            assert len(str(error)) < 300
        for file in tmp_path.glob("copy.sqlite*"):
            file.unlink()
    assert refused > len(content) // 4096 / 2


@pytest.mark.parametrize(
    "damage, sentence",
    [
        ("DELETE FROM stateful_rounds WHERE round > 3", "lacks rows"),
        ("DELETE FROM stateful_clients WHERE client < 5", "lacks rows"),
        ("UPDATE stateful_clients SET crc32 = crc32 + 1 WHERE client = 3", "lacks rows"),
        ("UPDATE stateful_clients SET last_round = 1 WHERE client = 3", "visits of client 3"),
        ("UPDATE stateful_rounds SET metrics = replace(metrics, '0.0', '9.0')", "of the history"),
        ("UPDATE stateful_runs SET about = 'nonsense'", "it is damaged"),
    ],
)
def test_rows_that_are_missing_or_changed_are_told_of(tmp_path, damage, sentence):
    path = tmp_path / "run.sqlite"
    train(path, 6, 40)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    with pytest.raises(StoreError, match=sentence), open_store(path) as store:
        _ = store.history, store[range(CLIENTS)]


def test_a_state_under_another_client_is_not_taken(tmp_path):
    """The id is part of the bytes, so rows that were exchanged in the file do not go unnoticed."""
    path = tmp_path / "run.sqlite"
    train(path, 3, 40)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for one, other in ((3, 100), (4, 3), (100, 4)):
            connection.execute(
                "UPDATE stateful_clients SET client = ? WHERE client = ?", (other, one)
            )
    with open_store(path) as store, pytest.raises(StoreError, match="client 4 is that of client 3"):
        store[[4]]


def test_other_tables_in_the_file_stay(tmp_path):
    path = tmp_path / "run.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE mine (x INTEGER)")
        connection.execute("INSERT INTO mine VALUES (1)")
    train(path, 1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(1,)]


def test_a_copied_file_goes_on_alone(tmp_path):
    path = tmp_path / "run.sqlite"
    train(path, 2)
    shutil.copy(path, tmp_path / "copy.sqlite")
    assert_same(train(path, 4), train(tmp_path / "copy.sqlite", 4))
    assert isinstance(train(path, 4)[2], ClientState)
