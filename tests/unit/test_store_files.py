"""What a durable store's file holds, loses and gives back: damage, backups, forgotten clients."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys

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


KILL = "os.kill(os.getpid(), 9)"
FORK = """
child = os.fork()
if not child:
    said = []
    for what in (lambda: store.round_num, lambda: store.commit(round_of(3, [1]))):
        try:
            what()
        except StoreError as error:
            said.append("was forked from" in str(error))
    store.close()
    sys.exit(0 if said == [True, True] else 1)  # as an ordinary process ends
assert os.waitpid(child, 0)[1] == 0
go_on(store, 4)
store.close()
"""
# What a process does with an open store; None before it opens one that is there already.
JOBS = {
    "killed": ["go_on(store, 3)", KILL],
    "killed twice": ["go_on(store, 3)", KILL, None, "go_on(store, 5)", KILL],
    "backup before": ["go_on(store, 3)", "store.backup('copy')", "store.close()", None]
    + ["go_on(store, 6)", KILL],
    "backup within": ["go_on(store, 3)", "store.backup('copy')", "go_on(store, 6)", KILL],
    "ends": ["go_on(store, 2)"],
    "lost": ["go_on(store, 2)", "del store"],
    "error": ["go_on(store, 2)", "raise KeyError"],
    "exit": ["go_on(store, 2)", "sys.exit(3)"],
    "fork": ["go_on(store, 2)", FORK],
}
RUN_JOBS = """
import json, os, sys
from store_runs import go_on, open_store, round_of
from stateful_tff.stores import StoreError
for name, lines in json.loads(sys.argv[1]).items():
    os.makedirs(name)
    for part in "\\n".join(line or "---" for line in lines).split("---"):
        child = os.fork()
        if not child:
            os.chdir(name)
            exec("store = open_store('run.sqlite')\\n" + part)
            sys.exit(0)
        print(name, os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The folder of what is left by `JOBS`, each run in processes of its own."""
    folder = tmp_path_factory.mktemp("jobs")
    done = subprocess.run(
        [sys.executable, "-c", RUN_JOBS, json.dumps(JOBS)], cwd=folder, capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, text=True,
    )  # fmt: skip
    assert "fork 0" in done.stdout, done.stderr
    return folder


@pytest.fixture
def left(jobs, tmp_path):
    """Returns the path of a copy of the store that a job left, with all that lies beside it."""

    def copied(name):
        shutil.copytree(jobs / name, tmp_path / name)
        return tmp_path / name / "run.sqlite"

    return copied


def test_a_copy_of_an_open_file_without_its_log_is_refused_and_with_it_goes_on(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        shutil.copy(path, tmp_path / "early.sqlite")
        store.commit(round_of(1, [1]))
        for name in ("alone.sqlite", "whole.sqlite"):
            shutil.copy(path, tmp_path / name)
        shutil.copy(f"{path}-wal", tmp_path / "whole.sqlite-wal")
    for name in ("early.sqlite", "alone.sqlite"):
        for _ in range(2):
            with pytest.raises(StoreError, match="a copy from while it was open, without its log"):
                open_store(tmp_path / name)
    with open_store(tmp_path / "whole.sqlite") as store:
        assert store.round_num == 1


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_backup_put_back_under_the_log_of_a_killed_run_is_told_of(left, when):
    """Also one of the very session that was killed."""
    path = left(f"backup {when}")
    shutil.copy(path.parent / "copy", path)
    for _ in range(2):
        with pytest.raises(StoreError, match="are of different times, as after a backup was put"):
            open_store(path)
    (path.parent / "run.sqlite-wal").unlink()
    assert_same(train(path, 4), in_memory(4))


def test_a_killed_run_goes_on_from_its_log(left):
    path = left("killed twice")
    assert (path.parent / "run.sqlite-wal").stat().st_size
    assert_same(train(path, 6), in_memory(6))


def test_a_file_that_lost_what_was_in_it_is_no_new_run(left, tmp_path):
    path = left("killed")
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="is empty, and its log .* is not: it is damaged"):
        open_store(path)
    with contextlib.closing(sqlite3.connect(tmp_path / "half.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as it was left before it had tables
    with pytest.raises(StoreError, match="holds nothing and lacks its log"):
        open_store(tmp_path / "half.sqlite")


def test_a_log_that_is_removed_while_it_is_open_is_told_of(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        store.commit(round_of(1, [1]))
        os.remove(f"{path}-wal")
        with pytest.raises(StoreError, match="run.sqlite-wal was moved or removed while it was"):
            store.commit(round_of(2, [1]))
    with open_store(path) as store:
        assert store.round_num == 1


def test_a_file_that_was_moved_while_it_was_open_is_whole_where_it_went(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        store.commit(round_of(1, [1]))
        path.rename(tmp_path / "moved.sqlite")
    with open_store(tmp_path / "moved.sqlite") as store:
        assert store.round_num == 1


def test_a_relative_path_is_that_of_the_beginning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store("run.sqlite") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.commit(round_of(1, [1]))
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("end", ["ends", "lost", "error", "exit"])
def test_a_store_that_nobody_closed_is_closed_by_the_end_of_the_process(left, end):
    path = left(end)
    assert sorted(f.name for f in path.parent.iterdir()) == ["run.sqlite", "run.sqlite.lock"]
    shutil.copy(path, path.parent / "copy.sqlite")
    assert_same(train(path.parent / "copy.sqlite", 3), in_memory(3))


def test_a_forked_process_leaves_the_store_to_its_parent(left):
    assert_same(train(left("fork"), 5), in_memory(5))


def test_a_kept_state_that_is_missing_is_told_of(tmp_path):
    path = tmp_path / "run.sqlite"
    train(path, 3, keep_states=True)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM stateful_kept_states WHERE round = 2")
    with pytest.raises(StoreError, match="lacks rows"):
        open_store(path, keep_states=True)


@pytest.mark.parametrize("to", ["", None, 5, b"copy"])
def test_a_backup_goes_to_a_path(tmp_path, to):
    with open_store(tmp_path / "run.sqlite") as store:
        with pytest.raises(TypeError, match="A backup goes to the path of a file"):
            store.backup(to)
        with pytest.raises(StoreError, match="cannot be opened; look at the path"):
            store.backup(tmp_path / "no" / "folder")


@pytest.mark.parametrize("column, table", [("about", "runs"), ("metrics", "rounds")])
@pytest.mark.parametrize("value", ["NULL", "7", "X'ff00'", "'{'", "'[1]'"])
def test_values_of_another_kind_are_damage(tmp_path, column, table, value):
    path = tmp_path / "run.sqlite"
    train(path, 3)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE stateful_{table} SET {column} = {value}")
    with (
        pytest.raises(StoreError, match="damaged|not what was written|lacks rows"),
        open_store(path) as store,
    ):
        _ = store.history
