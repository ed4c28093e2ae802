"""Kills training runs at random moments, resumes them, and compares every byte.

    python -m experiments.kill_and_resume [--kills 100] [--process packed] [--postgresql]
                                          [--record]

A run trains in a process of its own on a `SqlStore`. It is killed by SIGKILL while it opens the
store, while it trains, while it commits or between these; the moment within is random. Then two
things must hold. What is in the database is what an uninterrupted run had committed after the
same round. And a second process, which goes on with the run, ends with what the uninterrupted run
ends with: server state, every client's state and the history, whose wall-clock columns
`seconds` and `preparation` alone are left out. Both are compared in the database itself, read
without the code under test.

The processes are the packed one of chapter 6, the per-client one of chapter 4, and a stand-in in
NumPy that starts at once. With --record the table goes to
experiments/results/kill_and_resume.jsonl.
"""

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

from experiments.record import Recorder
from tools import postgres

# isort: split
import numpy as np
import sqlalchemy as sa

from experiments.stand_in import StandIn
from stateful_tff import session
from stateful_tff.stores import SqlStore
from stateful_tff.training import UniformSampler, rounds

os.environ["STATEFUL_TFF_PROGRESS"] = "0"

MOMENTS = ["opening", "between", "training", "committing"]
NUM_CLIENTS, COHORT, ROUNDS = 40, 8, 10
_old = []
CHILD_SECONDS = 120  # a run that takes longer hangs, and is ended


def of_tff(packed: bool):
    """A process of TFF and its data; momentum on both sides, so that all kinds of state occur."""
    import tensorflow_federated as tff  # takes seconds, and the stand-in does without

    from stateful_tff.data import ClientDatasets, synthetic_ratings
    from stateful_tff.engines.packed import build_packed_process
    from stateful_tff.engines.per_client import build_process
    from stateful_tff.methods import (
        BOTH,
        Optimizers,
        Phase,
        in_phases,
        keep_optimizer_state,
        stateful,
    )
    from stateful_tff.models import MatrixFactorization, ModelFn

    sgd = tff.learning.optimizers.build_sgdm
    spec = MatrixFactorization(60, 4, biases=True, mean_rating=3.6, l2=0.05, seed=0)
    ratings = synthetic_ratings(num_users=NUM_CLIENTS, num_items=60, seed=1)
    clients = ClientDatasets(ratings, batch_size=5, shuffle_seed=0)
    server = sgd(1.0, momentum=0.9)
    if packed:
        optimizers = Optimizers(server, sgd(0.5), sgd(0.05))
        return build_packed_process(stateful, spec, optimizers), clients
    optimizers = Optimizers(server, sgd(0.5), sgd(0.05, momentum=0.9))
    method = in_phases("stateful", Phase("all", BOTH), client_state_fn=keep_optimizer_state)
    return build_process(method, ModelFn(spec), optimizers), clients


# Each makes a process and its clients.
PROCESSES = {
    "stand-in": lambda: (StandIn(0.005), None),
    "packed": lambda: of_tff(True),
    "per client": lambda: of_tff(False),
}


class Board:
    """Says in memory shared with the parent what a run is doing right now, and in which round.

    When the run reaches the target, a byte goes through a pipe, so that the parent can sleep
    until then.
    """

    def __init__(self, target: tuple[str, int] | None = None):
        """Makes the shared memory and the pipe."""
        self._memory, self.target = mmap.mmap(-1, 2), target
        self.reader, self.writer = os.pipe()

    def write(self, moment: str, round_num: int) -> None:
        """Notes what the run does from now on."""
        self._memory[:2] = struct.pack("BB", MOMENTS.index(moment), round_num)
        if (moment, round_num) == self.target:
            os.write(self.writer, b"!")

    def read(self) -> tuple[str, int]:
        """Returns what the run does, and in which round."""
        moment, round_num = struct.unpack("BB", self._memory[:2])
        return MOMENTS[moment], round_num


def train(url, parts, board, log=None) -> None:
    """Begins a run or goes on, in this process, telling the board; with `log`, notes rounds."""
    process, clients, first_client_state = parts
    noted, since = {"opening": [], "between": [], "training": [], "committing": []}, time.time()

    def now(moment, round_num):
        nonlocal since
        noted[board.read()[0]].append(time.time() - since)
        since = time.time()
        board.write(moment, round_num)

    class Watched:
        initialize, inputs = map(staticmethod, (process.initialize, process.inputs))

        @staticmethod
        def client_state_fn():
            return first_client_state

        @staticmethod
        def next(server_state, *arguments):
            now("training", int(server_state.round_num) + 1)
            result = process.next(server_state, *arguments)
            now("between", int(server_state.round_num) + 1)
            return result

    def digest_of(store):
        with store.database.transaction("Reading") as connection:
            return digest(connection)

    board.write("opening", 0)
    with SqlStore(url, Watched, NUM_CLIENTS) as store:
        digests = [digest_of(store)]
        now("between", store.round_num + 1)
        sampler = UniformSampler(NUM_CLIENTS, COHORT, seed=5)
        for done in rounds(Watched, store, clients, sampler, ROUNDS):
            now("committing", done.round_num)
            store.commit(done)
            now("between", done.round_num + 1)
            if log:
                digests.append(digest_of(store))
    if log:
        seconds = {moment: float(np.median(times)) for moment, times in noted.items() if times}
        Path(log).write_text(json.dumps(dict(digests=digests, seconds=seconds)))


def child(url, parts, board, log=None) -> int:
    """Forks a process that trains, and returns its id. Python and TFF are warm in it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(board.writer)
        return pid
    code = 1
    try:
        signal.alarm(CHILD_SECONDS)
        session.end_workers_with_this_process()  # a guard of its own, which outlives a kill
        if tff := sys.modules.get("tensorflow_federated"):
            # The parent's context has a thread, which a child does not get; so a new one, while
            # the old one is kept, because letting go of it would wait for that thread.
            _old.append(tff.framework.get_context_stack().current)
            tff.backends.native.set_sync_local_cpp_execution_context()
        train(url, parts, board, log)
        session.end_workers()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_to_the_end(url, parts, log=None) -> None:
    """Begins or goes on with a run in a child, which has to end well."""
    board = Board()
    _, status = os.waitpid(child(url, parts, board, log), 0)
    os.close(board.reader)
    assert status == 0, f"the run ended with status {status}"


def engine_of(url) -> sa.Engine:
    """The way to a database that does not go through the store."""
    url = url if "://" in url else f"sqlite:///{url}"
    url = url.replace("postgresql:", "postgresql+psycopg:")
    return sa.create_engine(url, poolclass=sa.NullPool)


def digest(connection) -> str:
    """The fingerprint of everything that a database holds of a run, but for wall-clock times."""
    found = hashlib.sha256()
    for query in (
        "SELECT name, about, round, num_visited, clients_crc32, crc32, state "
        "FROM stateful_runs ORDER BY name",
        "SELECT client, last_round, num_visits, crc32, state FROM stateful_clients ORDER BY client",
        "SELECT round, metrics FROM stateful_rounds ORDER BY round",
    ):
        for row in connection.exec_driver_sql(query):
            row = list(row)
            if "metrics" in query:
                metrics = json.loads(row[-1])
                row[-1] = {k: v for k, v in metrics.items() if k not in ("seconds", "preparation")}
            found.update(repr(row).encode())
    return found.hexdigest()


def committed(url, folder: Path) -> tuple[int, str | None]:
    """The last round in a database and the digest of it all; SQLite's files are copied first."""
    if "://" not in url:
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in folder.glob("run.sqlite*"):
            shutil.copy(file, copy)
        url = str(copy / "run.sqlite")
    engine = engine_of(url)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        made = sa.inspect(connection).has_table("stateful_runs")
        row = made and connection.exec_driver_sql("SELECT round FROM stateful_runs").first()
        return (row[0], digest(connection)) if row else (0, None)


def empty(url, folder: Path) -> None:
    """Removes what the run before left."""
    for file in folder.glob("run.sqlite*"):
        file.unlink()
    if "://" in url:
        engine = engine_of(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")


def kill_once(url, parts, folder, seconds, rng) -> tuple[str, int] | None:
    """Starts a new run and kills it at a random moment; returns which one it was."""
    empty(url, folder)
    moment = rng.choice(MOMENTS)
    board = Board((moment, 0 if moment == "opening" else rng.randint(1, ROUNDS)))
    pid = child(url, parts, board)
    reached = os.read(board.reader, 1)
    time.sleep(rng.random() * seconds[moment])
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(board.reader)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return board.read() if reached and killed else None


def kill_and_resume(kills: int, process_name: str, url: str | None = None, seed: int = 0):
    """Kills and resumes a run many times.

    Args:
        kills: how often.
        process_name: a key of `PROCESSES`.
        url: an empty database of PostgreSQL; left out, a file of SQLite in a temporary folder.
        seed: decides the moments, as far as they can be decided.

    Returns:
        One row per kill: the moment, its round, the last round in the database, and whether the
        database was right after the kill and at the end.
    """
    rng, rows = random.Random(seed), []
    process, clients = PROCESSES[process_name]()
    # Made here, since it may take a TensorFlow session, which does not run in a forked process.
    parts = process, clients, process.client_state_fn()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        url = url or str(folder / "run.sqlite")
        empty(url, folder)
        run_to_the_end(url, parts, folder / "log.json")
        whole = json.loads((folder / "log.json").read_text())
        assert committed(url, folder) == (ROUNDS, whole["digests"][-1])
        assert len(set(whole["digests"])) == ROUNDS + 1
        while len(rows) < kills:
            killed = kill_once(url, parts, folder, whole["seconds"], rng)
            if killed is None:
                continue
            last, found = committed(url, folder)
            intact = found == whole["digests"][last] if found else killed[0] == "opening"
            run_to_the_end(url, parts)
            identical = committed(url, folder) == (ROUNDS, whole["digests"][-1])
            rows.append(
                dict(moment=killed[0], round=killed[1], last=last, intact=intact,
                     identical=identical)
            )  # fmt: skip
    return rows


def table(rows, **more) -> list[dict]:
    """Counts by moment."""
    counted = []
    for moment in MOMENTS:
        part = [row for row in rows if row["moment"] == moment]
        counts = dict(
            moment=moment, kills=len(part), intact=sum(row["intact"] for row in part),
            identical=sum(row["identical"] for row in part),
        )  # fmt: skip
        counted.append(more | counts)
    return counted


def main() -> None:
    """Runs, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--process", choices=PROCESSES, default="packed")
    parser.add_argument("--postgresql", action="store_true", help="on a server started for it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    start = time.time()
    database = "PostgreSQL" if options.postgresql else "SQLite"
    with postgres.server() if options.postgresql else contextlib.nullcontext() as url:
        rows = kill_and_resume(options.kills, options.process, url, options.seed)
    counted = table(rows, process=options.process, database=database)
    print(f"{'moment':12} {'kills':>6} {'intact':>7} {'bit-identical':>14}")
    for row in counted:
        print(f"{row['moment']:12} {row['kills']:6} {row['intact']:7} {row['identical']:14}")
    print(f"{len(rows)} kills of {options.process} on {database} in {time.time() - start:.0f} s")
    if options.record:
        ours = options.process, database
        recorder = Recorder(
            "kill_and_resume", keep=lambda row: (row["process"], row["database"]) != ours
        )
        for row in counted:
            recorder.write(**row)
        recorder.finish()
    if not all(row["intact"] and row["identical"] for row in rows):
        sys.exit("A run was not what it had to be.")


if __name__ == "__main__":
    main()
