"""The durable store of chapter 10: whole rounds or none, on both databases, and clear refusals."""

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import kill_and_resume
import numpy as np
from tools import postgres
import pytest
import tensorflow as tf

from stateful_tff.cohort import StackedRegistry, run_cohorts
from stateful_tff.process import ClientState, ServerState
from stateful_tff.simulation import ClientRegistry, run_rounds
from stateful_tff.store import RunStore, StoreError, resume

CLIENTS = 40
LOOP, PROCESS, FIRST_STATE, DATA = kill_and_resume.stand_in()
SKIP_POSTGRES = postgres.missing()


@pytest.fixture(scope="session")
def postgres_server():
    if SKIP_POSTGRES:
        pytest.skip(SKIP_POSTGRES)
    with postgres.server() as url:
        yield url


def emptied(url):
    engine = kill_and_resume.engine_of(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "run.sqlite")
    return emptied(request.getfixturevalue("postgres_server"))


def open_store(url, **options):
    return RunStore(url, PROCESS, FIRST_STATE, CLIENTS, **options)


def train(url, rounds, cohort_size=8, **options):
    with open_store(url) as store:
        state, history = resume(run_rounds, PROCESS, store, DATA, rounds, cohort_size, **options)
        return state, history, store.local_weights()[0]


def assert_same(one, other):
    for a, b in zip(tf.nest.flatten(one[0]), tf.nest.flatten(other[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    clocks = ["seconds", "preparation"]
    assert one[1].drop(columns=clocks).equals(other[1].drop(columns=clocks))
    np.testing.assert_array_equal(one[2], other[2])


def in_memory(rounds, cohort_size=8):
    registry = ClientRegistry(FIRST_STATE, CLIENTS)
    state, history = run_rounds(PROCESS, registry, DATA, rounds, cohort_size)
    return state, history, registry.local_weights()[0]


def snapshot(url):
    """All that a store holds, read without the store."""
    engine = kill_and_resume.engine_of(url)
    with engine.connect() as connection:
        return kill_and_resume.digest(connection)


def test_a_run_in_a_store_equals_one_in_memory_however_often_it_is_stopped(url):
    for rounds in (1, 4, 4, 9):
        result = train(url, rounds)
        assert len(result[1]) == rounds
    assert_same(result, in_memory(9))


def test_evaluation_sees_the_states_of_the_round_and_its_numbers_come_back(url):
    def judged(registry):
        return lambda _: {"mean": float(registry.local_weights()[0].mean())}

    registry = ClientRegistry(FIRST_STATE, CLIENTS)
    _, expected = run_rounds(
        PROCESS, registry, DATA, 6, 8, evaluate_fn=judged(registry), evaluate_every=2
    )
    for rounds in (2, 6):
        with open_store(url) as store:
            _, history = resume(
                run_rounds, PROCESS, store, DATA, rounds, 8,
                evaluate_fn=judged(store), evaluate_every=2,
            )  # fmt: skip
    assert history["mean"].equals(expected["mean"])
    assert history["mean"].notna().tolist() == [False, True] * 3


@pytest.mark.parametrize("name", ["vectorized", "per client"])
def test_processes_of_tff_go_on_to_the_same_bits(name, tmp_path):
    loop, process, state_fn, data = kill_and_resume.PROCESSES[name]()
    kind = StackedRegistry if loop is run_cohorts else ClientRegistry
    registry = kind(state_fn, CLIENTS)
    expected = *loop(process, registry, data, 4, 8), registry.local_weights()[0]
    for rounds in (1, 4):
        with RunStore(str(tmp_path / "run.sqlite"), process, state_fn, CLIENTS) as store:
            result = *resume(loop, process, store, data, rounds, 8), store.local_weights()[0]
            kept = store.stacked(range(CLIENTS))
    assert_same(result, expected)
    if kind is StackedRegistry:
        for a, b in zip(
            tf.nest.flatten(kept), tf.nest.flatten(registry.stacked(range(CLIENTS))), strict=True
        ):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    else:
        for a, b in zip(
            store_states(tmp_path, process, state_fn), registry.states(range(CLIENTS)), strict=True
        ):
            for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
                np.testing.assert_array_equal(x, y)


def store_states(folder, process, state_fn):
    with RunStore(str(folder / "run.sqlite"), process, state_fn, CLIENTS) as store:
        return store.states(range(CLIENTS))


KILLS = {"stand-in": 8, "vectorized": 2, "stand-in on PostgreSQL": 2}


@pytest.fixture(scope="session")
def killed_runs(request):
    """What `python tests/kill_and_resume.py` finds in a few kills; by hand it does hundreds.

    In a Python of its own that has not run TFF yet, since it forks.
    """
    url = None if SKIP_POSTGRES else emptied(request.getfixturevalue("postgres_server"))
    jobs = [(count, *name.split(" on ")[:1], "on" in name) for name, count in KILLS.items()]
    jobs = [(count, name, url if on_postgres else None) for count, name, on_postgres in jobs]
    code = (
        "import json, kill_and_resume as k\n"
        f"print(json.dumps([k.kill_and_resume(*job, seed=None) for job in {jobs!r}]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=550,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(zip(KILLS, json.loads(run.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", KILLS)
def test_killed_runs_are_intact_and_end_bit_identical(killed_runs, name):
    if "PostgreSQL" in name and SKIP_POSTGRES:
        pytest.skip(SKIP_POSTGRES)
    rows = killed_runs[name]
    assert len(rows) == KILLS[name]
    assert all(row["intact"] and row["identical"] for row in rows), rows


def state_of(client, value=1.0):
    return ClientState(np.int32(client), [np.full((1, 4), value, np.float32)])


def server_of(round_num):
    return ServerState([np.full((60, 4), round_num, np.float32)], (), np.int32(round_num))


def test_a_failed_commit_keeps_nothing_of_its_round(url):
    with open_store(url) as store:
        store.update([1, 2], [state_of(1), state_of(2)])
        store.commit(server_of(1), {"round": 1, "loss": 1.0})
    before = snapshot(url)
    with open_store(url) as store:
        store.update([2, 3], [state_of(2, 5.0), state_of(3)])
        with pytest.raises(ValueError, match="Circular"):
            store.commit(server_of(2), {"loss": object})  # after all other writes
        assert (store.round_num, store.visited) == (1, [1, 2])
    assert snapshot(url) == before


@pytest.mark.parametrize("round_num", [1, 3])
def test_a_round_that_does_not_follow_on_is_refused(url, round_num):
    with open_store(url) as store:
        store.commit(server_of(1), {"round": 1})
        before = snapshot(url) if "://" in url else None
        store.update([3], [state_of(3)])
        with pytest.raises(StoreError, match=f"Round {round_num} does not follow on round 1"):
            store.commit(server_of(round_num), {"round": round_num})
        assert store.visited == []
    assert before in (None, snapshot(url))


@pytest.mark.parametrize(
    "returned, sentence",
    [
        ([0, 5], "Client 1 was asked 1 times and returned 0"),
        ([0, 1, 1], "Client 1 was asked 1 times and returned 2"),
        ([0], "Client 1 was asked 1 times and returned 0"),
    ],
)
def test_results_that_do_not_add_up_are_refused_whole(tmp_path, returned, sentence):
    with open_store(tmp_path / "run.sqlite") as store:
        with pytest.raises(ValueError, match=sentence):
            store.update([0, 1], [state_of(client) for client in returned])
        with pytest.raises(ValueError, match="client 1 is not finite"):
            store.update([0, 1], [state_of(0), state_of(1, np.inf)])
        for call in (store.states, store.stacked, lambda c: store.update(c, [state_of(40)])):
            with pytest.raises(ValueError, match="Client 40 is unknown"):
                call([40])
        assert store.visited == []


def test_a_round_that_was_not_committed_is_told_of(tmp_path):
    with open_store(tmp_path / "run.sqlite") as store:
        with pytest.raises(StoreError, match="pass on_round=store.commit"):
            run_rounds(PROCESS, store, DATA, 2, 8)
        store.discard()
        assert store.visited == [] and store.round_num == 0


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
        with pytest.raises(StoreError, match=sentence):
            store.update([0], [ClientState(np.int32(0), [part])])
        with pytest.raises(StoreError, match="3 parts; the store keeps 2"):
            store.update([0], [ClientState(np.int32(0), [part, part])])


def test_numbers_are_kept_as_little_endian_bytes_and_nothing_is_pickled(tmp_path):
    path = tmp_path / "run.sqlite"
    weights = np.array([[1.5, -2.0, 3.25, 0.1]], np.float32)
    with open_store(path) as store:
        store.update([7], [ClientState(np.int32(7), [weights])])
        store.commit(server_of(1), {"round": 1, "loss": 0.1})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        data, checksum = connection.execute("SELECT state, crc32 FROM stateful_clients").fetchone()
    assert data == np.int32(7).astype("<i4").tobytes() + weights.astype("<f4").tobytes()
    assert checksum == zlib.crc32(data)
    source = (kill_and_resume.ROOT / "notebooks/stateful_tff/store.py").read_text()
    assert "pickle.load" not in source


def test_all_kinds_of_numbers_come_back(tmp_path):
    def first():
        return ClientState(
            tf.constant(-1),
            [tf.constant([0.1], tf.float64), tf.constant(True), tf.zeros([2, 3], tf.int64)],
            {"a": tf.constant(3, tf.uint8), "b": (tf.zeros([0], tf.float16),)},
        )

    with RunStore(str(tmp_path / "run.sqlite"), PROCESS, first, 3) as store:
        (state,) = store.states([2])
        store.update([2], [state])
        store.commit(server_of(1), {"round": 1})
        (back,) = store.states([2])
    tf.nest.assert_same_structure(back, first())
    for a, b in zip(tf.nest.flatten(back), tf.nest.flatten(state), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    with pytest.raises(
        StoreError, match=r"local_weights\[0\] is of .*; a store keeps numbers only"
    ):
        RunStore(
            str(tmp_path / "text.sqlite"), PROCESS,
            lambda: ClientState(np.int32(-1), [np.array("text")]), 3,
        )  # fmt: skip


def test_the_state_of_an_earlier_round_can_be_asked_for(url):
    with open_store(url, keep_states=True) as store:
        for round_num, cohort in enumerate(([1, 2], [2], [1]), start=1):
            states = [state_of(client, 10 * client + round_num) for client in cohort]
            store.update(cohort, states)
            store.commit(server_of(round_num), {"round": round_num})

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
        pytest.raises(StoreError, match="does not keep earlier states"),
    ):
        store.state_at(1, 0)


def test_a_forgotten_client_is_gone_and_the_others_are_not(url, tmp_path):
    odd = np.float32(0.123456789)
    with open_store(url, keep_states=True) as store:
        for round_num in (1, 2):
            store.update([1, 2], [state_of(1, odd), state_of(2, 2.0)])
            store.commit(server_of(round_num), {"round": round_num})
        if "://" not in url:
            store.backup(tmp_path / "copy.sqlite")
            with pytest.raises(StoreError, match="there is something of that name already"):
                store.backup(tmp_path / "copy.sqlite")
        else:
            with pytest.raises(StoreError, match="pg_dump"):
                store.backup(tmp_path / "copy.sqlite")
        store.forget(1)
        assert store.visited == [2]
        assert not store.state_at(1, 2).local_weights[0].any()
        assert store.state_at(2, 1).local_weights[0][0, 0] == 2.0
        with pytest.raises(ValueError, match="Client 40 is unknown"):
            store.forget(40)
        vector = np.full((1, 4), odd).tobytes()
        found = [f.name for f in tmp_path.iterdir() if vector in f.read_bytes()]
        assert found == ([] if "://" in url else ["copy.sqlite"])
    if "://" not in url:
        with open_store(tmp_path / "copy.sqlite", keep_states=True) as copy:
            assert copy.visited == [1, 2] and copy.round_num == 2


def test_two_runs_in_one_database_do_not_meet(url):
    with open_store(url, name="one") as store:
        store.update([1], [state_of(1)])
        store.commit(server_of(1), {"round": 1})
    with open_store(url, name="two") as store:
        assert (store.round_num, store.visited, len(store.history())) == (0, [], 0)
    with open_store(url, name="one") as store:
        store.forget(1)
        assert store.round_num == 1


@pytest.mark.parametrize("rounds", [0, 2], ids=["new", "with rounds"])
def test_a_store_is_open_once_at_a_time(url, rounds):
    train(url, rounds)
    with open_store(url) as store:  # which only reads
        with pytest.raises(StoreError, match="open already, here or in another process; close it"):
            open_store(url)
        if "://" not in url:
            code = f"import sqlite3; sqlite3.connect({url!r}, timeout=0).execute('BEGIN IMMEDIATE')"
            other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert "database is locked" in other.stderr
        store.commit(server_of(rounds + 1), {"round": rounds + 1})
    with open_store(url) as store:
        assert store.round_num == rounds + 1


def test_another_model_version_or_plan_is_refused_by_name(url, monkeypatch):
    train(url, 2, seed=3)
    before = snapshot(url)

    class Larger:
        @staticmethod
        def initialize():
            return ServerState([np.zeros((61, 4), np.float32)], (), np.int32(0))

    def other_first():
        return ClientState(np.int32(-1), [np.ones((1, 4), np.float32)])

    for process, first, clients, sentence in (
        (Larger, FIRST_STATE, CLIENTS, r"server model_weights\[0\] float32\[60, 4\], and this is"),
        (PROCESS, lambda: state_of(-1, 0.0), 41, "num_clients 40, and this is 41"),
        (PROCESS, other_first, CLIENTS, "first_client_state"),
    ):
        with pytest.raises(StoreError, match=sentence):
            RunStore(url, process, first, clients)
    with pytest.raises(StoreError, match="made with rate None, and this is 0.5"):
        open_store(url, settings=dict(rate=0.5))
    with open_store(url) as store:
        for loop, size, options, sentence in (
            (run_rounds, 8, dict(seed=4), "seed 3, and this is 4"),
            (run_rounds, 9, dict(seed=3), "cohort_size 8, and this is 9"),
            (run_cohorts, 8, dict(seed=3), "loop run_rounds, and this is run_cohorts"),
        ):
            with pytest.raises(StoreError, match=sentence):
                resume(loop, PROCESS, store, DATA, 3, size, **options)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "9.9")
    with pytest.raises(StoreError, match="tensorflow 2.14.1, and this is 9.9"):
        open_store(url)
    monkeypatch.undo()
    assert snapshot(url) == before
    assert len(train(url, 3, seed=3)[1]) == 3


def test_another_schema_version_is_refused_by_name(url):
    train(url, 1)
    with kill_and_resume.engine_of(url).begin() as connection:
        connection.exec_driver_sql("UPDATE stateful_schema SET version = 0")
    with pytest.raises(StoreError, match="schema version 0; this book reads version 1"):
        open_store(url)


def test_a_full_disk_keeps_the_last_round(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path, keep_states=True) as store:
        store._sqlite("Limiting", "PRAGMA max_page_count = 30")
        with pytest.raises(StoreError, match=r"Committing round \d+ to .* disk is full; make room"):
            resume(run_rounds, PROCESS, store, DATA, 200, 40)
        last = store.round_num
        assert last > 0 and store.visited == list(range(CLIENTS))
    with open_store(path, keep_states=True) as store:
        assert store.round_num == len(store.history()) == last
        result = resume(run_rounds, PROCESS, store, DATA, last + 3, 40)
        assert_same((*result, store.local_weights()[0]), in_memory(last + 3, 40))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full_keeps_the_last_round(small_disk, tmp_path):
    path = small_disk / "run.sqlite"
    with open_store(path) as store:
        resume(run_rounds, PROCESS, store, DATA, 3, 8)
        rest = os.statvfs(small_disk)
        (small_disk / "ballast").write_bytes(bytes(rest.f_bavail * rest.f_bsize))
        with pytest.raises(StoreError, match="disk is full|disk refuses"):
            resume(run_rounds, PROCESS, store, DATA, 200, 8)
        last = store.round_num
    (small_disk / "ballast").unlink()
    assert_same(train(path, last + 2), in_memory(last + 2))


def test_a_limit_on_the_file_size_keeps_the_last_round(tmp_path):
    path = tmp_path / "run.sqlite"
    train(path, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(StoreError, match="Committing round .* the disk"):
            train(path, 400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with open_store(path) as store:
        last = store.round_num
    assert last >= 3
    assert_same(train(path, last + 2), in_memory(last + 2))


def test_a_file_that_can_only_be_read_is_refused():
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which is root's alone
        path = Path(folder) / "run.sqlite"
        train(path, 2)
        before = path.read_bytes()
        with pytest.raises(StoreError, match="it can only be read; allow writing"):
            open_store(f"sqlite:///file:{path}?mode=ro&uri=true")
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        root = os.geteuid() == 0
        if root:  # for whom nothing is read-only
            os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match="it can only be read; allow writing"):
                open_store(path)
        finally:
            if root:
                os.seteuid(0)
            Path(folder).chmod(0o755)
        assert path.read_bytes() == before


def test_a_flipped_bit_is_told_by_name_and_the_rest_can_be_read(tmp_path):
    path = tmp_path / "run.sqlite"
    train(path, 4, 40)
    with open_store(path) as store:
        vector = store.states([5])[0].local_weights[0].tobytes()
        server = np.asarray(store.server_state().model_weights[0]).tobytes()
    content = path.read_bytes()
    assert content.count(vector) == 1
    path.write_bytes(content.replace(vector, bytes([vector[0] ^ 16]) + vector[1:]))
    with open_store(path) as store:
        with pytest.raises(StoreError, match="state of client 5 is not what was written"):
            store.states([4, 5])
        assert len(store.states([c for c in range(CLIENTS) if c != 5])) == CLIENTS - 1
        assert len(store.history()) == store.round_num == 4
    path.write_bytes(content.replace(server[:64], bytes([server[0] ^ 1]) + server[1:64]))
    with (
        open_store(path) as store,
        pytest.raises(StoreError, match="state of the server is not what was written"),
    ):
        store.server_state()


def test_no_damaged_page_is_ever_used(tmp_path):
    """Whatever page is overwritten: the same results as before, or one sentence."""
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        resume(run_rounds, PROCESS, store, DATA, 12, 40)
    expected, copy = in_memory(12, 40), tmp_path / "copy.sqlite"
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for page in range(len(content) // 4096):
        broken = bytearray(content)
        broken[4096 * page : 4096 * (page + 1)] = rng.bytes(4096)
        copy.write_bytes(broken)
        try:
            with open_store(copy) as store:
                found = store.server_state(), store.history(), store.local_weights()[0]
            assert_same(found, expected)
        except StoreError as error:
            refused += 1
            assert len(str(error)) < 300
        for file in tmp_path.glob("copy.sqlite*"):
            file.unlink()
    assert refused > len(content) // 4096 / 2


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("{tmp}/no/such/folder/run.sqlite", "cannot be opened; look at the path"),
        ("{tmp}/text.sqlite", "it is no SQLite file; choose another path"),
        ("mysql://somebody@host/db", "neither SQLite nor PostgreSQL"),
        ("postgresql://somebody@127.0.0.1:9/db", "the database server does not answer"),
    ],
)
def test_what_is_no_store_is_refused(url, sentence, tmp_path):
    (tmp_path / "text.sqlite").write_text("This is a text and not a database. " * 40)
    with pytest.raises(StoreError, match=sentence):
        open_store(url.format(tmp=tmp_path))


def test_a_password_is_not_repeated():
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://somebody:secret@127.0.0.1:9/db")
    assert "secret" not in str(caught.value)


def bytes_written(path, clients):
    """What the log grows by for a commit of 10 of many clients, in pages."""
    with RunStore(str(path), PROCESS, FIRST_STATE, clients) as store:
        everyone = np.arange(clients, dtype=np.int32)
        store.update(everyone, [ClientState(everyone, [np.zeros((clients, 1, 4), np.float32)])])
        store.commit(server_of(1), {})
        store._sqlite("Emptying", "PRAGMA wal_checkpoint(TRUNCATE)")
        cohort = np.random.default_rng(0).choice(everyone, 10, replace=False)
        store.update(cohort, [ClientState(cohort, [np.ones((10, 1, 4), np.float32)])])
        store.commit(server_of(2), {})
        return path.with_name(path.name + "-wal").stat().st_size


def test_a_commit_writes_as_much_whatever_the_population(tmp_path):
    small, large = (bytes_written(tmp_path / f"{n}.sqlite", n) for n in (1_000, 50_000))
    assert large < 2 * small


def test_other_tables_in_the_file_stay(tmp_path):
    path = tmp_path / "run.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE mine (x INTEGER)")
        connection.execute("INSERT INTO mine VALUES (1)")
    train(path, 1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(1,)]


def test_a_state_under_another_client_is_not_taken(tmp_path):
    """The id is part of the bytes, so rows that were exchanged in the file do not go unnoticed."""
    path = tmp_path / "run.sqlite"
    train(path, 3, 40)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE stateful_clients SET (state, crc32) = "
            "(SELECT state, crc32 FROM stateful_clients WHERE client = 3) WHERE client = 4"
        )
    with open_store(path) as store, pytest.raises(StoreError, match="client 4 is that of client 3"):
        store.states([4])
