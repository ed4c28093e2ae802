"""Presses stop at random moments, runs the same cell again, and compares where the run ends.

    python -m experiments.interrupt_and_rerun [--interrupts 50] [--cell NAME …] [--postgresql]
                                              [--record]

A process with IPython stands in for a kernel. It runs a cell that trains, as those of the
chapters do. The cell is interrupted by SIGINT, to the process and its children as Jupyter does it,
at a random moment, sometimes twice within 20 ms, and run again until it ends. Then the server's
state, all clients' states and the history, whose columns `seconds` and `preparation` alone are
left out, must be those of the same cell that nobody interrupted. A cell that is run again may also
refuse in a sentence that says what to do; then that is done.

With --record the table goes to experiments/results/interrupt_and_rerun.jsonl.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.record import Recorder
from tools import postgres

LOOP = """
for done in rounds(process, store, clients, sampler, UNTIL):
    done.metrics["mine"] = evaluate(done)
    store.commit(done)
"""
WITH_STORE = "with SqlStore(url, process, CLIENTS) as store:" + LOOP.replace("\n", "\n    ")
STAND_IN = """
from experiments.stand_in import StandIn
process, clients, CLIENTS, UNTIL = StandIn(0.003), None, 40, 20
sampler = UniformSampler(CLIENTS, 8)
"""
EXPERIMENT = """
from stateful_tff.data import synthetic_ratings
from stateful_tff.experiment import Experiment
ratings = synthetic_ratings(num_users=40, num_items=60, seed=1)
CLIENTS, UNTIL, run = 40, 20, Experiment(ratings, num_factors=4, cohort_size=8)
"""
PER_CLIENT = """
from experiments.kill_and_resume import NUM_CLIENTS as CLIENTS, of_tff
(process, clients), UNTIL = of_tff(False), 6
sampler = UniformSampler(CLIENTS, 8)
"""
NEW_RUN = "store = MemoryStore(process, CLIENTS)"
# For each kind of cell: what a kernel does once, what begins a new run, and the cell itself.
CELLS = {
    "store in memory": (STAND_IN, NEW_RUN, LOOP),
    "experiment": (
        EXPERIMENT,
        "run.store = store = MemoryStore(run.process, CLIENTS)",
        "run.train(UNTIL, lambda: evaluate() or run.score(ratings), every=3)",
    ),
    "worker of TFF": (PER_CLIENT, NEW_RUN, LOOP),
    "store in SQL": (STAND_IN, "new_database()", WITH_STORE),
    "store in SQL, left open": (
        STAND_IN,
        "new_database()",
        "store = SqlStore(url, process, CLIENTS)" + LOOP,
    ),
}
KERNEL = """
import time
import numpy as np
import tensorflow as tf
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.training import UniformSampler, rounds
from experiments.interrupt_and_rerun import end_of, remove_database

def new_database():
    remove_database(url)

def evaluate(done=None):
    time.sleep(0.002)
    return done and float(np.asarray(done.server_state.model_weights[0]).sum())
"""
END = """
if "url" in globals():
    with SqlStore(url, process, CLIENTS) as store:
        end = end_of(store)
else:
    end = end_of(store)
"""


def end_of(store) -> str:
    """Returns a fingerprint of all that a run has led to."""
    import hashlib

    import numpy as np
    import tensorflow as tf

    found = hashlib.sha256()
    for part in tf.nest.flatten((store.server_state, store[range(store.num_clients)])):
        found.update(np.asarray(part).tobytes())
    history = store.history.drop(columns=["seconds", "preparation"])
    found.update(history.to_json(double_precision=15).encode())
    return f"round {store.round_num}, {len(history)} rows, {found.hexdigest()[:16]}"


def remove_database(url: str) -> None:
    """Removes the files of an SQLite store, or all tables of a PostgreSQL server."""
    if "://" not in url:
        for file in Path(url).parent.glob(f"{Path(url).name}*"):
            file.unlink()
        return
    from experiments.kill_and_resume import engine_of

    with engine_of(url).begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def kernel() -> None:
    """Runs cells that come in by lines of JSON, and says how each ended."""
    from IPython.core.interactiveshell import InteractiveShell

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shell, answers = InteractiveShell.instance(), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        print("begins", file=answers, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = None
        with contextlib.suppress(KeyboardInterrupt):
            result = shell.run_cell(json.loads(line))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        error = KeyboardInterrupt() if result is None else result.error_in_exec
        error = error or result.error_before_exec
        answer = type(error).__name__, str(error), str(shell.user_ns.get("end"))
        print(json.dumps(answer), file=answers, flush=True)


class Kernel:
    """A process that runs cells, and can be interrupted."""

    def __init__(self):
        """Starts it, in a group of its own as Jupyter does."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.interrupt_and_rerun", "--kernel"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True, env=os.environ | {"STATEFUL_TFF_PROGRESS": "0"},
        )  # fmt: skip

    def run(self, cell: str, presses: tuple[float, ...] = ()) -> tuple[str, str, str]:
        """Runs a cell, pressing stop after so many seconds each.

        Returns:
            The name of the error or "NoneType", its words, and what `end` is in the kernel.
        """
        self._process.stdin.write(json.dumps(cell) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "begins\n", "the kernel died"
        for seconds in presses:
            time.sleep(seconds)
            os.killpg(self._process.pid, signal.SIGINT)
        return tuple(json.loads(self._process.stdout.readline()))

    def done(self, cell: str) -> str:
        """Runs a cell that has to end well; returns what `end` is."""
        error, words, end = self.run(cell)
        assert error == "NoneType", f"{error}: {words}"
        return end

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def interrupt_and_rerun(
    name: str,
    interrupts: int,
    url: str | None = None,
    seed: int = 0,
    kernel: Kernel | None = None,
) -> dict:
    """Interrupts a kind of cell many times.

    Args:
        name: a key of `CELLS`.
        interrupts: how often at least.
        url: an empty database of PostgreSQL; left out, a file of SQLite in a temporary folder.
        seed: decides the moments, as far as they can be decided.
        kernel: where to run, which may have run cells that keep no store in SQL; left out, a
            new one.

    Returns:
        How many runs and interrupts there were, how many runs ended as the undisturbed one, how
        often a cell said what to do, and all other ends and errors.
    """
    rng, (set_up, new_run, cell) = random.Random(seed), CELLS[name]
    found = dict(runs=0, interrupts=0, same_end=0, told=0, faults=[])
    with contextlib.ExitStack() as at_the_end:
        folder = at_the_end.enter_context(tempfile.TemporaryDirectory())
        kernel = kernel or at_the_end.enter_context(contextlib.closing(Kernel()))
        kernel.done(KERNEL + set_up)
        if "SqlStore" in cell:
            kernel.done(f"url = {url or folder + '/run.sqlite'!r}")
        close = "store.close()" if "left open" in name else ""
        for _ in range(2):  # the first one is slower
            kernel.done(new_run)
            start = time.perf_counter()
            kernel.done(cell)
            seconds = time.perf_counter() - start
            kernel.done(close)
            expected = kernel.done(END)
        while found["interrupts"] < interrupts and len(found["faults"]) < 20:
            kernel.done(new_run)
            error = "KeyboardInterrupt"
            for times in range(12):  # the last ones without stop, so that there is an end
                again = [rng.random() * 0.02] if rng.random() < 0.3 else []
                presses = [rng.random() * seconds, *again] if times < 6 else []
                error, words, _ = kernel.run(cell, presses)
                found["interrupts"] += error == "KeyboardInterrupt"
                if error == "NoneType":
                    break
                if "close it there first" in words:
                    found["told"] += 1
                    kernel.done(close)
                elif error != "KeyboardInterrupt":
                    found["faults"].append(f"{error}: {words}")
                    kernel.run(close)
            kernel.run(close)
            found["runs"] += 1
            end = kernel.done(END)
            found["same_end"] += end == expected
            if end != expected:
                found["faults"].append(f"{end} in place of {expected}")
    return dict(cell=name, database="PostgreSQL" if url else "SQLite", **found)


def main() -> None:
    """Runs, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interrupts", type=int, default=50, help="of each kind of cell")
    parser.add_argument("--cell", choices=CELLS, nargs="+", default=list(CELLS))
    parser.add_argument("--postgresql", action="store_true", help="on a server started for it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--kernel", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kernel:
        kernel()
        return
    rows = []
    with postgres.server() if options.postgresql else contextlib.nullcontext() as url:
        for name in options.cell:
            row = interrupt_and_rerun(name, options.interrupts, url, options.seed)
            faults = row.pop("faults")
            rows.append(row | dict(faults=len(faults)))
            print(json.dumps(rows[-1]), flush=True)
            print(*(f"  {fault}" for fault in faults[:10]), sep="\n", end="\n" if faults else "")
    print(f"{sum(row['interrupts'] for row in rows)} interrupts")
    if options.record:
        ours = {(row["cell"], row["database"]) for row in rows}
        recorder = Recorder(
            "interrupt_and_rerun", keep=lambda row: (row["cell"], row["database"]) not in ours
        )
        for row in rows:
            recorder.write(**row)
        recorder.finish()
    if any(row["faults"] for row in rows):
        sys.exit("A run did not end as it had to.")


if __name__ == "__main__":
    main()
