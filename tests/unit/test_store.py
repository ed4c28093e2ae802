"""The durable store: whole rounds or none, on both databases, the same as in memory."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from store_runs import (
    CLIENTS,
    PROCESS,
    assert_same,
    assert_same_states,
    go_on,
    in_memory,
    open_store,
    round_of,
    server_of,
    snapshot,
    state_of,
    train,
)

from experiments import kill_and_resume
from stateful_tff.state import ClientState
from stateful_tff.stores import MemoryStore, SqlStore, StoreError
from tools import postgres

KILLS = {"stand-in": 8, "packed": 2, "stand-in on PostgreSQL": 2}


def test_a_run_in_a_store_equals_one_in_memory_however_often_it_is_stopped(url):
    for until in (1, 4, 4, 9):
        result = train(url, until)
        assert len(result[1]) == until
    assert_same(result, in_memory(9))


def test_both_stores_answer_the_same_questions_in_the_same_way(url):
    memory = MemoryStore(PROCESS, CLIENTS)
    with open_store(url) as store:
        for until in (0, 5):
            go_on(memory, until)
            go_on(store, until)
            for name in ("last_round", "num_visits", "age", "visited", "round_num", "num_clients"):
                ours, theirs = getattr(store, name), getattr(memory, name)
                np.testing.assert_array_equal(ours, theirs)
                assert np.asarray(ours).dtype == np.asarray(theirs).dtype, name
            for ids in (7, np.int64(7), [3, 1], np.array([5]), range(CLIENTS), []):
                assert_same_states(store[ids], memory[ids])
            for ours, theirs in zip(store.local_weights(), memory.local_weights(), strict=True):
                assert ours.shape == (CLIENTS, 4)
                np.testing.assert_array_equal(ours, theirs)
            assert list(store.history.columns) == list(memory.history.columns)
            assert list(store.history.index) == list(memory.history.index)
        never = int(np.flatnonzero(store.last_round == 0)[0])
        assert store.age[never] == -1 and store[never].index == never
        assert not store[never].local_weights[0].any()


@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_ids_are_whole_numbers_of_the_population_each_once(kind, tmp_path):
    store = MemoryStore(PROCESS, CLIENTS) if kind == "memory" else open_store(tmp_path / "a.sqlite")
    for ids, error, sentence in (
        ([1.9], TypeError, "whole number"),
        (1.9, TypeError, "whole number"),
        (True, TypeError, "whole number"),
        ("5", TypeError, "whole number"),
        (None, TypeError, "whole number"),
        ([1, 1], ValueError, "Client 1 is named twice"),
        ([-1], ValueError, "Client -1 is unknown"),
        (40, ValueError, "Client 40 is unknown"),
    ):
        with pytest.raises(error, match=sentence):
            store[ids]


def test_what_the_reader_adds_to_the_metrics_comes_back(url):
    with open_store(url) as store:
        metrics = {"loss": np.float32(0.5), "rmse": np.float64(0.25), "count": np.int64(3)}
        store.commit(round_of(1, [1], metrics))
        store.commit(round_of(2, [1], {"loss": 0.1}))
        history = store.history
    assert history.loc[1].to_dict() == {"loss": 0.5, "rmse": 0.25, "count": 3}
    assert history["rmse"].isna().tolist() == [False, True]


def test_metrics_can_be_added_to_the_last_round(url):
    memory = MemoryStore(PROCESS, CLIENTS)
    with open_store(url) as store:
        for each in (memory, store):
            with pytest.raises(ValueError, match="No round is committed yet; add metrics after"):
                each.add_metrics({"rmse": 1.0})
            each.commit(round_of(1, [1]))
            each.add_metrics({"rmse": np.float32(0.75)})
            each.commit(round_of(2, [1], {"loss": 2.0}))
            each.add_metrics({"rmse": 0.5, "accuracy": 0.25})
            each.add_metrics({"rmse": 0.25})
        before = store.history
        assert before.equals(memory.history)
        with pytest.raises(TypeError, match="metrics cannot be written as JSON"):
            store.add_metrics({"rmse": object()})
        assert store.round_num == 2 and store.history.equals(before)
    with open_store(url) as store:
        assert store.history.equals(before)
        store.commit(round_of(3, [2]))


def test_metrics_are_not_added_to_a_damaged_row(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        store.commit(round_of(1, [1]))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE stateful_rounds SET metrics = replace(metrics, '1.0', '9.0')")
    with (
        open_store(path) as store,
        pytest.raises(StoreError, match="Round 1 of the history is not what was written"),
    ):
        store.add_metrics({"rmse": 1.0})


@pytest.fixture(scope="session")
def killed_runs(request):
    """What `python -m experiments.kill_and_resume` finds in a few kills; it does hundreds.

    In a Python of its own that has not run TFF yet, since it forks.
    """
    url = None if postgres.missing() else request.getfixturevalue("postgres_server")
    jobs = [
        (count, name.split(" on ")[0], url if "PostgreSQL" in name else None)
        for name, count in KILLS.items()
    ]
    code = (
        "import json\nfrom experiments.kill_and_resume import kill_and_resume\n"
        f"print(json.dumps([kill_and_resume(*job, seed=None) for job in {jobs!r}]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=550,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(zip(KILLS, json.loads(run.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", KILLS)
def test_killed_runs_are_intact_and_end_bit_identical(killed_runs, name):
    if "PostgreSQL" in name and postgres.missing():
        pytest.skip(postgres.missing())
    rows = killed_runs[name]
    assert len(rows) == KILLS[name]
    assert all(row["intact"] and row["identical"] for row in rows), rows


def test_a_failed_commit_keeps_nothing_of_its_round(url, monkeypatch):
    with open_store(url) as store:
        store.commit(round_of(1, [1, 2]))
    before = snapshot(url)
    with open_store(url) as store:
        with pytest.raises(TypeError, match="metrics cannot be written as JSON"):
            store.commit(round_of(2, [2, 3], {"loss": object()}))
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr("zlib.crc32", lambda data: len(data) // 0)  # after all other writes
            store._run.write_round(2, dict(crc32=0, state=b"x"), [], "{}", False)
        assert store.round_num == 1 and store.visited.tolist() == [1, 2]
    assert snapshot(url) == before


@pytest.mark.parametrize("round_num", [1, 3])
def test_a_round_that_does_not_follow_is_refused(url, round_num):
    with open_store(url) as store:
        store.commit(round_of(1, [2]))
        before = snapshot(url) if "://" in url else None
        with pytest.raises(ValueError, match=f"Round {round_num} does not follow on round 1"):
            store.commit(round_of(round_num, [3]))
        assert store.visited.tolist() == [2]
    assert before in (None, snapshot(url))


@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_a_round_with_the_server_state_of_another_is_refused(kind, tmp_path):
    store = MemoryStore(PROCESS, CLIENTS) if kind == "memory" else open_store(tmp_path / "a.sqlite")
    done = round_of(1, [2])
    done.server_state = server_of(2)
    with pytest.raises(ValueError, match="Round 1 has the server state of round 2"):
        store.commit(done)
    assert store.visited.tolist() == [] and store.round_num == 0


@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_a_round_of_nobody_is_refused(kind, tmp_path):
    store = MemoryStore(PROCESS, CLIENTS) if kind == "memory" else open_store(tmp_path / "a.sqlite")
    with pytest.raises(ValueError, match="Round 1 has no clients; commit rounds of at least one"):
        store.commit(round_of(1, []))
    with pytest.raises(ValueError, match="Client 3 was asked 1 times and returned 0 states"):
        store.commit(round_of(1, [], cohort=[3]))
    assert store.round_num == 0


@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_ids_of_a_cohort_are_whole_numbers(kind, tmp_path):
    store = MemoryStore(PROCESS, CLIENTS) if kind == "memory" else open_store(tmp_path / "a.sqlite")
    with pytest.raises(TypeError, match="whole numbers"):
        store.commit(round_of(1, [1], cohort=[1.0]))


@pytest.mark.parametrize(
    "returned, sentence",
    [
        ([0, 5], "Client 1 was asked 1 times and returned 0"),
        ([0, 1, 1], "Client 1 was asked 1 times and returned 2"),
        ([0], "Client 1 was asked 1 times and returned 0"),
        ([], "Client 0 was asked 1 times and returned 0"),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_results_that_do_not_add_up_are_refused_whole(kind, tmp_path, returned, sentence):
    store = MemoryStore(PROCESS, CLIENTS) if kind == "memory" else open_store(tmp_path / "a.sqlite")
    with pytest.raises(ValueError, match=sentence):
        store.commit(round_of(1, returned, cohort=[0, 1]))
    assert store.visited.tolist() == [] and store.round_num == 0


@pytest.mark.parametrize(
    "part, sentence",
    [
        (np.zeros((1, 4), np.float64), "is float64.1, 4.; the store keeps float32.1, 4."),
        (np.zeros((1, 3), np.float32), "is float32.1, 3.; the store keeps float32.1, 4."),
        (np.zeros(4, np.float32), "is float32.4.; the store keeps float32.1, 4."),
    ],
)
def test_states_of_another_shape_or_dtype_are_refused(tmp_path, part, sentence):
    with open_store(tmp_path / "run.sqlite") as store:
        for weights, words in (([part], sentence), ([part, part], "5 parts; the store keeps 4")):
            state = ClientState(np.int32(0), weights, (), np.int32(1), np.int32(1))
            with pytest.raises(ValueError, match=words):
                store.commit(round_of(1, [state]))


def test_numbers_are_kept_as_little_endian_bytes_and_nothing_is_pickled(tmp_path):
    path = tmp_path / "run.sqlite"
    weights = np.array([[1.5, -2.0, 3.25, 0.1]], np.float32)
    with open_store(path) as store:
        state = ClientState(np.int32(7), [weights], (), np.int32(1), np.int32(1))
        store.commit(round_of(1, [state]))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        data, checksum = connection.execute("SELECT state, crc32 FROM stateful_clients").fetchone()
    of_client = np.int32([7]).astype("<i4").tobytes(), weights.astype("<f4").tobytes()
    assert data == b"".join(of_client) + np.int32([1, 1]).astype("<i4").tobytes()
    assert checksum == zlib.crc32(data)


def test_all_kinds_of_numbers_come_back(tmp_path):
    class Process:
        initialize = PROCESS.initialize

        @staticmethod
        def client_state_fn():
            return ClientState(
                tf.constant(-1),
                [tf.constant([0.1], tf.float64), tf.constant(True), tf.zeros([2, 3], tf.int64)],
                {"a": tf.constant(3, tf.uint8), "b": (tf.zeros([0], tf.float16),)},
                tf.constant(0),
                tf.constant(0),
            )

    with SqlStore(tmp_path / "run.sqlite", Process, 3) as store:
        state = store[2]
        store.commit(round_of(1, [state]))
        back = store[2]
    tf.nest.assert_same_structure(back, Process.client_state_fn())
    assert_same_states(back, state)

    class Texts(Process):
        @staticmethod
        def client_state_fn():
            return ClientState(np.int32(-1), [np.array("text")], (), np.int32(0), np.int32(0))

    with pytest.raises(TypeError, match=r"local_weights\[0\] is of .*; a store keeps numbers only"):
        SqlStore(tmp_path / "text.sqlite", Texts, 3)


def test_stacks_and_single_states_are_the_same_round(tmp_path):
    stack = tf.nest.map_structure(lambda *parts: np.stack(parts), state_of(4), state_of(2))
    kept = []
    for name, states in (("stacked", [stack]), ("single", [state_of(2), state_of(4)])):
        with open_store(tmp_path / f"{name}.sqlite") as store:
            store.commit(round_of(1, states, cohort=[2, 4]))
            kept.append(store[range(CLIENTS)])
    assert_same_states(*kept)


def test_a_method_that_keeps_nothing_still_has_its_visits(tmp_path):
    class Process:
        initialize = PROCESS.initialize

        @staticmethod
        def client_state_fn():
            return ClientState(np.int32(-1), [], (), np.int32(0), np.int32(0))

    with SqlStore(tmp_path / "run.sqlite", Process, 3) as store:
        state = ClientState(np.int32(2), [], (), np.int32(1), np.int32(1))
        store.commit(round_of(1, [state]))
        assert store.local_weights() == []
        assert store.age.tolist() == [-1, -1, 0]


def test_the_state_of_an_earlier_round_can_be_asked_for(url):
    with open_store(url, keep_states=True) as store:
        for round_num, cohort in enumerate(([1, 2], [2], [1]), start=1):
            states = [state_of(client, 10 * client + round_num) for client in cohort]
            store.commit(round_of(round_num, states))

        def value(client, round_num):
            state = store.state_at(client, round_num)
            assert int(state.index) == client
            return state.local_weights[0][0, 0]

        assert [value(1, r) for r in range(4)] == [0, 11, 11, 13]
        assert [value(2, r) for r in range(4)] == [0, 21, 22, 22]
        assert value(3, 3) == 0
        with pytest.raises(ValueError, match="Round 4 is not among rounds 0 to 3"):
            store.state_at(1, 4)
        with pytest.raises(ValueError, match="Client 40 is unknown"):
            store.state_at(40, 1)
    with pytest.raises(StoreError, match="keep_states True, and this is False"):
        open_store(url)
    with (
        open_store(url, name="other") as store,
        pytest.raises(ValueError, match="does not keep earlier states"),
    ):
        store.state_at(1, 0)


def test_two_runs_in_one_database_do_not_meet(url):
    with open_store(url, name="one") as store:
        store.commit(round_of(1, [1]))
    with open_store(url, name="two") as store:
        assert (store.round_num, store.visited.tolist(), len(store.history)) == (0, [], 0)
    with open_store(url, name="one") as store:
        store.forget(1)
        assert store.round_num == 1


def bytes_written(path, clients):
    """What the log grows by for a commit of 10 of many clients, in pages."""
    with SqlStore(path, PROCESS, clients) as store:
        everyone = tf.nest.map_structure(
            lambda part: np.repeat(np.asarray(part)[None], clients, axis=0), state_of(0)
        )
        everyone.index[:] = np.arange(clients)
        store.commit(round_of(1, [everyone], cohort=everyone.index))
        store.database.outside("Emptying", "PRAGMA wal_checkpoint(TRUNCATE)")
        cohort = np.random.default_rng(0).choice(clients, 10, replace=False)
        store.commit(round_of(2, [state_of(client, 2.0) for client in cohort]))
        return path.with_name(path.name + "-wal").stat().st_size


def test_a_commit_writes_as_much_whatever_the_population(tmp_path):
    small, large = (bytes_written(tmp_path / f"{n}.sqlite", n) for n in (1_000, 50_000))
    assert large < 2 * small


@pytest.mark.parametrize("name", ["packed", "per client"])
def test_processes_of_tff_go_on_to_the_same_bits(name, tmp_path):
    process, clients = kill_and_resume.PROCESSES[name]()
    sampler = kill_and_resume.UniformSampler(CLIENTS, 8)

    def run(store, until):
        for done in kill_and_resume.rounds(process, store, clients, sampler, until):
            store.commit(done)
        return store.server_state, store.history, store[range(CLIENTS)]

    expected = run(MemoryStore(process, CLIENTS), 4)
    for until in (1, 4):
        with SqlStore(tmp_path / "run.sqlite", process, CLIENTS) as store:
            result = run(store, until)
    expected = tf.nest.map_structure(np.asarray, expected[0]), *expected[1:]
    assert_same(result, expected)
