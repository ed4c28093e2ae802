"""Measures what it costs to make a round durable, against the size of the population.

    python -m experiments.benchmarks.commit_costs [--quick] [--folder FOLDER]

A round writes the states of 100 clients with 50 factors and a bias, and the server's item matrix
of 3,706 movies with 50 factors and a bias, 756 kB. All numbers change in each round. Writes
experiments/results/commit_costs.jsonl, one object a line. Where PostgreSQL is not installed, its
rows are left out. Takes about 5 minutes.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.record import Recorder
from tools import postgres

# isort: split
from stateful_tff.process import ClientState, ServerState
from stateful_tff.simulation import sample_cohort
from stateful_tff.store import (
    RunStore,
    commit_seconds,
    write_arrays,
    write_pickles,
    write_program_state,
)

ITEMS, FACTORS, COHORT = 3706, 50, 100
TURNS = 12  # the populations of a way take turns, so that all see the same machine
FILES = {
    "pickled files": write_pickles,
    "one file of arrays": write_arrays,
    "FileProgramStateManager": write_program_state,
}
MOST = {"pickled files": 10**5}  # a million files take minutes to make


def first_state() -> ClientState:
    """The state of a new client."""
    weights = [np.zeros((1, FACTORS), np.float32), np.zeros((1, 1), np.float32)]
    return ClientState(np.int32(-1), weights)


class Start:
    """Gives the first server state, as a process does."""

    @staticmethod
    def initialize() -> ServerState:
        """The item matrix and the item biases."""
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=(ITEMS, n)).astype(np.float32) for n in (FACTORS, 1)]
        return ServerState(weights, (), np.int32(0))


def population(size: int) -> ClientState:
    """Random states of clients, stacked."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(size, 1, n)).astype(np.float32) for n in (FACTORS, 1)]
    return ClientState(np.arange(size, dtype=np.int32), weights)


def rows_of(everyone: ClientState, cohort) -> ClientState:
    """The states of some clients."""
    return ClientState(everyone.index[cohort], [rows[cohort] for rows in everyone.local_weights])


def filled(url: str, everyone: ClientState, name: str) -> RunStore:
    """A store in which every client was visited."""
    size = len(everyone.index)
    store = RunStore(url, Start, first_state, size, name=name)
    for part in np.array_split(np.arange(size), max(1, size // 100_000)):
        store.update(part, [rows_of(everyone, part)])
        number = np.int32(store.round_num + 1)
        store.commit(ServerState(store.server_state().model_weights, (), number), {})
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
            return
        self._store.update(cohort, [rows_of(everyone, cohort)])
        number = np.int32(self._store.round_num + 1)
        self._store.commit(ServerState(server_state.model_weights, (), number), {"loss": 1.0})

    def turn(self, number: int) -> None:
        """Times a few rounds: more of those that are fast."""
        rounds = 1 if self.name in FILES and self.size > 10_000 else 5
        self.writing += [*commit_seconds(self.write, Start.initialize(), self._everyone, rounds)]
        if self._store is not None:
            for seed in range(rounds):
                cohort = sample_cohort(self.size, COHORT, number, seed)
                start = time.perf_counter()
                self._store.stacked(cohort)
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
