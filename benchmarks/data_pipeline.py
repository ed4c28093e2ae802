"""Measures reading the ratings and building the client datasets, each against the slow way.

    python benchmarks/data_pipeline.py

Runs on what STATEFUL_TFF_DATA names, else on synthetic ratings of the size of ML-1M. Both ways
of a pair are timed in one run, and the ratio is what counts.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "notebooks"))

from stateful_tff import setup

setup.quiet_imports()

import tensorflow as tf  # noqa: E402

from stateful_tff.data import (  # noqa: E402
    ClientDatasets,
    load_ratings,
    parse_ratings,
    synthetic_ratings,
    write_movielens,
)


def seconds(work) -> float:
    """Returns how long a function without arguments takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_parsing(ratings) -> None:
    """Prints the time of the chapter's parser and of pandas' Python engine on one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_movielens(ratings, folder) / "ratings.dat"
        fast = min(seconds(lambda: parse_ratings(file.read_bytes())) for _ in range(3))
        slow = seconds(lambda: pd.read_csv(file, sep="::", engine="python", header=None))
    print(f"parse      {fast:6.2f} s, Python engine   {slow:6.2f} s, {slow / fast:5.1f} times")


def measure_datasets(ratings, sample: int = 300) -> None:
    """Prints the time to build every client's dataset, and with one table scan per user."""
    table = ratings.table

    def scan(user):
        rows = table[table["user"] == user]
        columns = (rows[["item"]].to_numpy("int64"), rows[["rating"]].to_numpy("float32"))
        return tf.data.Dataset.from_tensor_slices(columns).batch(5)

    fast = seconds(lambda: list(ClientDatasets(ratings).values()))
    users = range(0, ratings.num_users, max(1, ratings.num_users // sample))
    slow = statistics.mean(seconds(lambda u=u: scan(u)) for u in users) * ratings.num_users
    print(f"datasets   {fast:6.2f} s, scan per user   {slow:6.2f} s, {slow / fast:5.1f} times")


if __name__ == "__main__":
    ratings = load_ratings("auto")
    if ratings.name == "synthetic":
        ratings = synthetic_ratings(num_users=6040, num_items=3706)
    print(ratings)
    measure_parsing(ratings)
    measure_datasets(ratings)
