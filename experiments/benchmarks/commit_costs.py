"""Measures what it costs to make a round durable, against the size of the population.

    python -m experiments.benchmarks.commit_costs [--quick] [--folder FOLDER]

A round writes the states of 100 clients with 50 factors and a bias, and the server's item matrix
of 3,706 movies with 50 factors and a bias, 756 kB. All numbers change in each round. Writes
experiments/results/commit_costs.jsonl, one object a line. Where PostgreSQL is not installed, its
rows are left out. Takes about 5 minutes.
"""

import argparse
import asyncio
import contextlib
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.record import Recorder
from tools import postgres

# isort: split
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff.state import ClientState, ServerState
from stateful_tff.stores import SqlStore
from stateful_tff.training import Round, sample_cohort

ITEMS, FACTORS, COHORT = 3706, 50, 100
TURNS = 12  # the populations of a way take turns, so that all see the same machine
MOST = {"pickled files": 10**5}  # a million files take minutes to make


def write_pickles(folder: Path, round_num: int, server_state, everyone, cohort) -> None:
    """Writes a file for the server and one for each client of the cohort."""
    (folder / "server.pickle").write_bytes(pickle.dumps(server_state))
    for client in cohort:
        state = tf.nest.map_structure(lambda rows, client=client: rows[client], everyone)
        (folder / f"{client}.pickle").write_bytes(pickle.dumps(state))


def write_arrays(folder: Path, round_num: int, server_state, everyone, cohort) -> None:
    """Writes one file with all states of the population, and puts it in place of the last."""
    with open(folder / "new.npz", "wb") as file:
        np.savez(file, *tf.nest.flatten((server_state, everyone)))
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "new.npz", folder / "run.npz")


def write_program_state(folder: Path, round_num: int, server_state, everyone, cohort) -> None:
    """Writes all states of the population by TFF's own manager, which keeps two versions."""
    manager = tff.program.FileProgramStateManager(folder, keep_total=2, keep_first=False)
    # It is a coroutine, and where a loop runs already it needs a thread of its own.
    with ThreadPoolExecutor(1) as thread:
        states = tf.nest.flatten((server_state, everyone))
        thread.submit(asyncio.run, manager.save(states, round_num)).result()


FILES = {
    "pickled files": write_pickles,
    "one file of arrays": write_arrays,
    "FileProgramStateManager": write_program_state,
}


def commit_seconds(
    write: Callable, server_state: ServerState, everyone: ClientState, rounds: int
) -> np.ndarray:
    """Times the writing of rounds in which all states of a cohort and of the server change.

    Args:
        write: called with the round's number from 1, the server state, the stacked states of
            the whole population, and the ids of the cohort.
        server_state: the state to begin with.
        everyone: the stacked states of the population; changed in place.
        rounds: how many rounds.

    Returns:
        float64[rounds], the seconds that each round took to write.
    """
    seconds = []
    for round_num in range(1, rounds + 1):
        cohort = sample_cohort(len(everyone.index), COHORT, round_num)
        weights = [part + np.float32(0.1) for part in server_state.model_weights]
        server_state = ServerState(weights, server_state.optimizer_state, np.int32(round_num))
        for rows in everyone.local_weights:
            rows[cohort] += np.float32(0.1)
        start = time.perf_counter()
        write(round_num, server_state, everyone, cohort)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


class Start:
    """Gives the first states, as a process does."""

    @staticmethod
    def initialize() -> ServerState:
        """The item matrix and the item biases."""
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=(ITEMS, n)).astype(np.float32) for n in (FACTORS, 1)]
        return ServerState(weights, (), np.int32(0))

    @staticmethod
    def client_state_fn() -> ClientState:
        """The state of a new client."""
        weights = [np.zeros((1, FACTORS), np.float32), np.zeros((1, 1), np.float32)]
        return ClientState(np.int32(-1), weights, (), np.int32(0), np.int32(0))


def population(size: int) -> ClientState:
    """Random states of clients, stacked, each visited once."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(size, 1, n)).astype(np.float32) for n in (FACTORS, 1)]
    once = np.ones(size, np.int32)
    return ClientState(np.arange(size, dtype=np.int32), weights, (), once, once.copy())


def commit(store: SqlStore, server_state: ServerState, everyone: ClientState, cohort) -> None:
    """Commits a round in which some clients have the states that they have in the population."""
    states = tf.nest.map_structure(lambda rows: rows[cohort], everyone)
    round_num = store.round_num + 1
    server_state = ServerState(server_state.model_weights, (), np.int32(round_num))
    store.commit(Round(round_num, cohort, server_state, [states], {"loss": 1.0}, 0.0, 0.0))


def filled(url: str, everyone: ClientState, name: str) -> SqlStore:
    """A store in which every client was visited."""
    size = len(everyone.index)
    store = SqlStore(url, Start, size, name=name)
    for part in np.array_split(np.arange(size), max(1, size // 100_000)):
        commit(store, store.server_state, everyone, part)
    return store


class Way:
    """One way to write rounds, for a population of one size, and the seconds it took."""

    def __init__(self, name: str, size: int, folder: Path, url: str | None, stack):
        """Writes everybody once."""
        self.name, self.size, self._folder, self._store = name, size, folder, None
        self._everyone, self.writing, self.reading = population(size), [], []
        if name in FILES:
            FILES[name](folder, 0, Start.initialize(), self._everyone, range(size))
        else:
            url = url if "PostgreSQL" in name else str(folder / "run.sqlite")
            self._store = stack.enter_context(filled(url, self._everyone, str(size)))

    def write(self, round_num, server_state, everyone, cohort) -> None:
        """Writes a round."""
        if self._store is None:
            version = len(self.writing) + round_num
            FILES[self.name](self._folder, version, server_state, everyone, cohort)
        else:
            commit(self._store, server_state, everyone, cohort)

    def turn(self, number: int) -> None:
        """Times a few rounds: more of those that are fast."""
        rounds = 1 if self.name in FILES and self.size > 10_000 else 5
        self.writing += [*commit_seconds(self.write, Start.initialize(), self._everyone, rounds)]
        if self._store is not None:
            for seed in range(rounds):
                cohort = sample_cohort(self.size, COHORT, number, seed)
                start = time.perf_counter()
                _ = self._store[cohort]
                self.reading.append(time.perf_counter() - start)

    def row(self) -> dict:
        """The medians and the slow tail."""
        median = float(np.median(self.writing))
        row = dict(
            name=self.name, clients=COHORT, population=self.size, seconds=round(median, 5),
            clients_per_second=round(COHORT / median), rounds=len(self.writing),
            p95=round(float(np.percentile(self.writing, 95)), 5),
        )  # fmt: skip
        if self.reading:
            row["load_seconds"] = round(float(np.median(self.reading)), 5)
        return row


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 10,000 clients, not written")
    parser.add_argument("--folder", help="on the disk to measure; else the temporary folder")
    options = parser.parse_args()
    sizes = [10**3, 10**4] if options.quick else [10**3, 10**4, 10**5, 10**6]
    names = ["store, SQLite", *FILES]
    with contextlib.ExitStack() as stack:
        url = None
        if postgres.missing():
            print(postgres.missing())
        else:
            url = stack.enter_context(postgres.server())
            names.append("store, PostgreSQL")
        ways = []
        for name, size in [(n, s) for s in sizes for n in names if s <= MOST.get(n, s)]:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
            ways.append(Way(name, size, folder, url, stack))
            print(f"made: {name}, {size:,} clients", flush=True)
        for name in dict.fromkeys(way.name for way in ways):
            for number in range(TURNS):
                for way in ways:
                    if way.name == name:
                        way.turn(number)
        rows = [way.row() for way in ways]
    table = pd.DataFrame(rows)
    print("median milliseconds to write a round of 100 clients, by population")
    print((1000 * table.pivot(index="name", columns="population", values="seconds")).round(1))
    stores = table[table["name"].str.startswith("store")]
    print("median milliseconds to read the states of 100 clients")
    print((1000 * stores.pivot(index="name", columns="population", values="load_seconds")).round(1))
    if not options.quick:
        recorder = Recorder("commit_costs")
        for row in rows:
            recorder.write(**row)
        recorder.finish()


if __name__ == "__main__":
    main()
