"""The durable store when something is wrong: one sentence, and the last round is still there."""

import contextlib
import errno
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store_runs import (
    CLIENTS,
    PROCESS,
    assert_same,
    go_on,
    in_memory,
    open_store,
    round_of,
    snapshot,
    state_of,
    train,
)

from experiments import interrupt_and_rerun, kill_and_resume
from stateful_tff.state import ServerState
from stateful_tff.stores import SqlStore, StoreError

OPEN_ALREADY = "open already, here or in another process; close it"


@pytest.mark.parametrize("rounds", [0, 2], ids=["new", "with rounds"])
def test_a_store_is_open_once_at_a_time(url, rounds):
    train(url, rounds)
    with open_store(url) as store:  # which only reads
        with pytest.raises(StoreError, match=OPEN_ALREADY):
            open_store(url)
        if "://" not in url:
            code = f"import sqlite3; sqlite3.connect({url!r}, timeout=0).execute('BEGIN IMMEDIATE')"
            other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert "database is locked" in other.stderr
        store.commit(round_of(rounds + 1, [1]))
    with open_store(url) as store:
        assert store.round_num == rounds + 1


def test_reading_the_file_in_the_same_process_does_not_give_its_lock_away(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        store.commit(round_of(1, [1]))
        path.read_bytes()  # closes the file, and with it SQLite's own lock is gone
        code = (
            "from store_runs import open_store\nfrom stateful_tff.stores import StoreError\n"
            f"try:\n    open_store({str(path)!r})\nexcept StoreError as error:\n    print(error)"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert OPEN_ALREADY in other.stdout, other.stderr


FORKED = """
import os, sys
from store_runs import open_store
store = open_store(sys.argv[1])
reader, writer = os.pipe()
child = os.fork()
if not child:  # lives on while the store is closed and opened again
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
try:
    store.close()
    open_store(sys.argv[1]).close()
finally:
    os.close(writer)
    print("child ended with", os.waitpid(child, 0)[1])
"""


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    # In a process of its own: one that has run TensorFlow has too many threads to be forked.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FORKED, str(tmp_path / "run.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "child ended with 0" in done.stdout, done.stderr


def test_many_runs_can_be_opened_at_once_in_an_empty_server(postgres_url):
    def open_and_close(number):
        open_store(postgres_url, name=f"run {number}").close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(open_and_close, range(8)))


def end_connections(url):
    """What a restart of the server, or a firewall, does to open connections."""
    with kill_and_resume.engine_of(url).connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )


def test_after_a_lost_connection_the_lock_is_taken_before_anything_else(postgres_url):
    store = open_store(postgres_url)
    store.commit(round_of(1, [1]))
    end_connections(postgres_url)
    with pytest.raises(StoreError, match="connection to the server was lost; run this again once"):
        store.commit(round_of(2, [1]))
    store.commit(round_of(2, [1]))
    with pytest.raises(StoreError, match=OPEN_ALREADY):
        open_store(postgres_url)
    store.close()
    with pytest.raises(StoreError, match="was closed; open the store again"):
        store.commit(round_of(3, [1]))


def test_the_driver_that_opened_a_run_last_writes_it(postgres_url):
    first = open_store(postgres_url)
    first.commit(round_of(1, [1]))
    end_connections(postgres_url)
    with open_store(postgres_url) as second:
        with pytest.raises(StoreError, match="connection to the server was lost"):
            _ = first.round_num
        with pytest.raises(StoreError, match=OPEN_ALREADY):
            first.commit(round_of(2, [1]))
        second.commit(round_of(2, [2]))
    with pytest.raises(StoreError, match="was opened elsewhere since; go on there, or open it"):
        first.commit(round_of(3, [1]))
    first.close()
    with open_store(postgres_url) as third:
        assert third.round_num == 2 and third.visited.tolist() == [1, 2]


def test_another_model_version_or_plan_is_refused_by_name(url, monkeypatch):
    train(url, 2, seed=3)
    before = snapshot(url)

    class Larger:
        client_state_fn = PROCESS.client_state_fn

        @staticmethod
        def initialize():
            return ServerState([np.zeros((61, 4), np.float32)], (), np.int32(0))

    class OtherFirst:
        initialize = PROCESS.initialize

        @staticmethod
        def client_state_fn():
            return state_of(-1, 1.0, 0, 0)

    for process, clients, sentence in (
        (Larger, CLIENTS, r"server model_weights\[0\] float32\[60, 4\], and this is"),
        (PROCESS, 41, "num_clients 40, and this is 41"),
        (OtherFirst, CLIENTS, "first_client_state"),
    ):
        with pytest.raises(StoreError, match=sentence):
            SqlStore(url, process, clients)
    with pytest.raises(StoreError, match="made with rate None, and this is 0.5"):
        open_store(url, settings=dict(rate=0.5))
    with open_store(url) as store:
        for size, seed in ((8, 4), (9, 3)):
            with pytest.raises(
                ValueError, match=r"began with sampler .*seed=3.* cannot go on with"
            ):
                go_on(store, 3, size, seed)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "9.9")
    with pytest.raises(StoreError, match="tensorflow 2.14.1, and this is 9.9"):
        open_store(url)
    monkeypatch.undo()
    assert snapshot(url) == before
    assert len(train(url, 3, seed=3)[1]) == 3


def test_settings_are_what_json_holds_and_may_have_any_name(tmp_path):
    path = tmp_path / "run.sqlite"
    for value in (float("nan"), object(), {1, 2}):
        with pytest.raises(TypeError, match="settings cannot be written as JSON"):
            open_store(path, settings=dict(rate=value))
    rates = dict(rates=np.array([1.0, 0.5]), num_clients=np.int64(7), numpy="mine")
    open_store(path, settings=rates).close()
    with open_store(path, settings=dict(rates=(1, 0.5), num_clients=7, numpy="mine")) as store:
        assert store.num_clients == CLIENTS


@pytest.mark.parametrize("version", [0, 4])
def test_another_schema_version_is_refused_by_name(url, version):
    train(url, 1)
    with kill_and_resume.engine_of(url).begin() as connection:
        connection.exec_driver_sql(f"UPDATE stateful_schema SET version = {version}")
    with pytest.raises(
        StoreError, match=f"schema version {version}; this book reads versions 1 to"
    ):
        open_store(url)


def test_a_full_disk_keeps_the_last_round(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path, keep_states=True) as store:
        store.database.outside("Limiting", "PRAGMA max_page_count = 30")
        with pytest.raises(StoreError, match=r"Committing round \d+ to .* disk is full; make room"):
            go_on(store, 200, 40)
        last = store.round_num
        assert last > 0 and store.visited.tolist() == list(range(CLIENTS))
    with open_store(path, keep_states=True) as store:
        assert store.round_num == len(store.history) == last
        assert_same(go_on(store, last + 3, 40), in_memory(last + 3, 40))


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


def test_a_disk_that_is_really_full_keeps_the_last_round(small_disk):
    path = small_disk / "run.sqlite"
    with open_store(path) as store:
        go_on(store, 3)
        rest = os.statvfs(small_disk)
        (small_disk / "ballast").write_bytes(bytes(rest.f_bavail * rest.f_bsize))
        with pytest.raises(StoreError, match="disk is full|disk refuses"):
            go_on(store, 200)
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


def test_files_can_be_read_by_their_owner_only(tmp_path):
    path, old = tmp_path / "run.sqlite", os.umask(0)
    try:
        with open_store(path) as store:
            store.commit(round_of(1, [1]))
            store.backup(tmp_path / "copy.sqlite")
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
        assert {"run.sqlite", "run.sqlite-wal", "copy.sqlite"} <= modes.keys()
        assert set(modes.values()) == {0o600}
        path.chmod(0o644)  # as the first edition made them
        with open_store(path) as store:
            store.commit(round_of(2, [1]))
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()}
        assert set(modes.values()) == {0o600}
    finally:
        os.umask(old)


def test_a_file_that_is_moved_while_it_is_open_is_told_of(tmp_path):
    path = tmp_path / "run.sqlite"
    with open_store(path) as store:
        store.commit(round_of(1, [1]))
        path.rename(tmp_path / "moved.sqlite")
        with pytest.raises(StoreError, match="No such file|cannot be opened|moved or removed"):
            store.commit(round_of(2, [1]))
        path.touch()
        with pytest.raises(StoreError, match="was moved or removed while it was open"):
            store.commit(round_of(2, [1]))


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_waits_for_the_end_of_a_transaction_and_a_second_one_does_not(tmp_path, count):
    with open_store(tmp_path / "run.sqlite") as store:
        ended, main = [], threading.main_thread().ident

        def interrupt():
            for _ in range(count):
                time.sleep(0.1)
                signal.pthread_kill(main, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt), store.database.transaction("Reading"):
            time.sleep(0.5)
            ended.append(True)
        assert ended == ([True] if count == 1 else [])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with open_store(tmp_path / "run.sqlite") as store:
        store.commit(round_of(1, [1]))


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("{tmp}/no/such/folder/run.sqlite", "cannot be opened; look at the path"),
        ("{tmp}", "that is a folder"),
        ("{tmp}/text.sqlite", "it is no SQLite file; choose another path"),
        ("mysql://somebody@host/db", "neither SQLite nor PostgreSQL"),
        ("postgresql+asyncpg://somebody@host/db", "neither SQLite nor PostgreSQL"),
        ("postgresql://somebody@127.0.0.1:9/db", "the database server does not answer"),
        ("nonsense://", "neither SQLite nor PostgreSQL"),
        ("", "keeps nothing; give the path"),
        (":memory:", "keeps nothing; give the path"),
        ("sqlite://", "keeps nothing; give the path"),
        ("sqlite:///file:x?mode=memory&uri=true", "keeps nothing; give the path"),
    ],
)
def test_what_is_no_store_is_refused(url, sentence, tmp_path):
    (tmp_path / "text.sqlite").write_text("This is a text and not a database. " * 40)
    with pytest.raises(StoreError, match=sentence):
        open_store(url.format(tmp=tmp_path))
    assert (tmp_path / "text.sqlite").stat().st_mode & 0o044


@pytest.mark.parametrize("url", [None, b"run.sqlite", 5, ["run.sqlite"]])
def test_a_url_is_a_text_or_a_path(url):
    with pytest.raises(TypeError, match="needs a path or a URL"):
        open_store(url)


def test_a_path_is_taken_as_it_is(tmp_path):
    names = "lr=0.1?a.sqlite", "lr=0.1?b.sqlite", "a%20b.sqlite", "a b#c:d'e.sqlite", "user=5.db"
    for name in names:
        open_store(str(tmp_path / name)).close()
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://somebody:secret@127.0.0.1:9/db",
        "postgresql://somebody:also@secret@127.0.0.1:9/db",
        "postgresql://somebody:also/secret@127.0.0.1:9/db",
        "postgresql://127.0.0.1:secret/db",
        "postgresql://127.0.0.1:9/db?user=somebody&password=secret",
        "postgresql:/somebody:secret@127.0.0.1:9/db",
        "postgresql:somebody:secret@127.0.0.1:9/db",
        "postgres//somebody:secret@127.0.0.1:9/db",
        "somebody:secret@127.0.0.1:9/db",
        "postgresql://somebody:1@sec/secret@127.0.0.1:9/db",
        "mysql://127.0.0.1:9/db?password=secret",
        "host=127.0.0.1 port=9 user=somebody password=secret dbname=db",
        "password='secret' host=127.0.0.1",
        "pwd=secret",
        b"postgresql://somebody:secret@127.0.0.1:9/db",
        Path("postgresql://somebody:secret@127.0.0.1:9/db"),
    ],
)
def test_a_password_is_not_repeated(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((StoreError, TypeError)) as caught:
        open_store(url)
    assert not list(tmp_path.iterdir())
    error = caught.value
    while error is not None:
        assert "secret" not in str(error)
        error = None if error.__suppress_context__ and not error.__cause__ else error.__cause__


def test_a_server_that_refuses_says_why(postgres_url):
    with pytest.raises(StoreError, match="no such database or user"):
        open_store(postgres_url.replace("/postgres", "/nowhere"))
    with pytest.raises(StoreError, match="no such database or user"):
        open_store(postgres_url.replace("book@", "nobody_here@"))


REASONS = {
    'password authentication failed for user "trainer"': "does not accept this user and password",
    'database "fed" does not exist': "no such database or user",
    'role "trainer" does not exist': "no such database or user",
    "sorry, too many clients already": "no connection left for you",
    "remaining connection slots are reserved for superusers": "no connection left for you",
    "no more connections allowed (max_client_conn)": "no connection left for you",
    "the database system is starting up": "starting or stopping; try again in a moment",
    "the database system is shutting down": "starting or stopping; try again in a moment",
    'no pg_hba.conf entry for host "10.0.0.1"': "does not let this user in from here",
    'role "trainer" is not permitted to log in': "does not let this user log in",
    "something that nobody thought of": "the server refuses: something that nobody thought of",
}


def refuse(listener, text):
    """Plays PostgreSQL up to the first refusal."""
    connection, _ = listener.accept()
    with connection:
        while True:
            (size,) = struct.unpack("!i", connection.recv(4))
            (kind,) = struct.unpack("!i", connection.recv(size - 4)[:4])
            if kind in (80877103, 80877104):  # TLS or GSSAPI? No.
                connection.sendall(b"N")
                continue
            fields = b"SFATAL\0VFATAL\0C28000\0M" + text.encode() + b"\0\0"
            connection.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            return


@pytest.mark.parametrize("text", REASONS)
def test_a_server_that_says_no_is_not_one_that_does_not_answer(text):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener, text), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(StoreError, match=re.escape(REASONS[text])) as caught:
            open_store(f"postgresql://trainer:secret@127.0.0.1:{port}/fed?gssencmode=disable")
        thread.join()
    assert "does not answer" not in str(caught.value)


@pytest.fixture
def pooler(postgres_url, tmp_path):
    """Returns the URL of a pooler before the server, by its mode."""
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        pytest.skip("pgbouncer is not installed; on Debian, apt-get install pgbouncer")
    host, _, base = postgres_url.split("@")[1].partition("/")
    running = []

    def start(mode):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with tempfile.NamedTemporaryFile("w", suffix=".ini", delete=False) as settings:
            settings.write(
                f"[databases]\n* = host=127.0.0.1 port={host.split(':')[1]} user=book\n"
                f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
                f"pool_mode = {mode}\nunix_socket_dir =\n"
            )
        os.chmod(settings.name, 0o644)
        root = os.geteuid() == 0
        user = "setpriv --reuid=postgres --regid=postgres --clear-groups".split() if root else []
        command = [*user, program, "-q", settings.name]
        running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        return f"postgresql://book@127.0.0.1:{port}/{base}"

    yield start
    for process in running:
        process.terminate()
        process.wait()


def test_a_pooler_that_loses_locks_is_refused_and_leaves_none(pooler, postgres_url):
    url = pooler("transaction")
    for _ in range(3):
        with pytest.raises(StoreError, match="there is a pooler that shares connections out by"):
            open_store(url)
    with open_store(postgres_url) as store:
        store.commit(round_of(1, [1]))


def test_a_pooler_that_keeps_sessions_is_fine(pooler):
    url = pooler("session")
    with open_store(url) as store:
        go_on(store, 7)
        with pytest.raises(StoreError, match=OPEN_ALREADY):
            open_store(url)
    assert_same(train(url, 8), in_memory(8))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, code):
    def lockf(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.lockf", lockf)
    with pytest.raises(StoreError, match="the file system has no locks, as on some network and"):
        open_store(tmp_path / "run.sqlite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", None, 5, "a\0b", "a\nb", "\ud800", b"run"])
def test_the_name_of_a_run_is_a_text_on_one_line(tmp_path, name):
    with pytest.raises(TypeError, match="name is a text of letters on one line"):
        open_store(tmp_path / "run.sqlite", name=name)


@pytest.mark.parametrize("odd", [None, 1, "yes", []])
def test_whether_states_are_kept_is_true_or_false(tmp_path, odd):
    with pytest.raises(TypeError, match="keep_states is True or False"):
        open_store(tmp_path / "run.sqlite", keep_states=odd)


@pytest.mark.parametrize("odd", ["rates", 5, [1], {1: 2}])
def test_settings_are_a_dictionary_by_name(tmp_path, odd):
    with pytest.raises(TypeError, match="The settings are a dictionary by name"):
        open_store(tmp_path / "run.sqlite", settings=odd)


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(StoreError, match="that is a device or a pipe"):
            open_store(path)


def test_run_names_of_one_checksum_do_not_lock_each_other_out(postgres_url):
    names = "run 29685295", "run 32060020"
    assert zlib.crc32(names[0].encode()) == zlib.crc32(names[1].encode())
    with open_store(postgres_url, name=names[0]), open_store(postgres_url, name=names[1]):
        pass


def test_runs_that_are_stopped_and_run_again_end_as_undisturbed():
    """What `python -m experiments.interrupt_and_rerun` finds in a few; it does hundreds."""
    with contextlib.closing(interrupt_and_rerun.Kernel()) as kernel:
        for name in ("store in memory", "store in SQL, left open"):
            seed = int(time.time())
            row = interrupt_and_rerun.interrupt_and_rerun(name, 2, seed=seed, kernel=kernel)
            assert row["same_end"] == row["runs"] > 0 and not row["faults"], row


def test_an_odd_state_in_a_first_server_state_is_refused(tmp_path):
    class Process:
        client_state_fn = PROCESS.client_state_fn

        @staticmethod
        def initialize():
            return ServerState([np.array("text")], (), np.int32(0))

    with pytest.raises(TypeError, match="a store keeps numbers only"):
        SqlStore(tmp_path / "run.sqlite", Process, 3)
    assert not (tmp_path / "run.sqlite").exists()
