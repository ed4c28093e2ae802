"""Measures reading the ratings and building the client datasets, each against the slow way.

    python -m experiments.benchmarks.data_pipeline

Runs on what STATEFUL_TFF_DATA names, else on synthetic ratings of the size of ML-1M. Both ways
of a pair are timed in one run, and the ratio is what counts. Writes
experiments/results/data_pipeline.jsonl, one object a line.
"""

import statistics
import tempfile
import time

import pandas as pd

from experiments.record import Recorder

# isort: split
import tensorflow as tf

from stateful_tff.data import (
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


def measure_parsing(ratings) -> dict:
    """Returns the seconds of the chapter's parser and of pandas' Python engine on one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_movielens(ratings, folder) / "ratings.dat"
        fast = min(seconds(lambda: parse_ratings(file.read_bytes())) for _ in range(3))
        slow = seconds(lambda: pd.read_csv(file, sep="::", engine="python", header=None))
    return dict(name="parse", seconds=fast, slow_way="pandas' Python engine", slow_seconds=slow)


def measure_datasets(ratings, sample: int = 300) -> dict:
    """Returns the seconds to build every client's dataset, and with one table scan per user."""
    table = ratings.table

    def scan(user):
        rows = table[table["user"] == user]
        columns = (rows[["item"]].to_numpy("int64"), rows[["rating"]].to_numpy("float32"))
        return tf.data.Dataset.from_tensor_slices(columns).batch(5)

    fast = seconds(lambda: list(ClientDatasets(ratings).values()))
    users = range(0, ratings.num_users, max(1, ratings.num_users // sample))
    slow = statistics.mean(seconds(lambda u=u: scan(u)) for u in users) * ratings.num_users
    return dict(name="datasets", seconds=fast, slow_way="a scan per user", slow_seconds=slow)


if __name__ == "__main__":
    ratings = load_ratings("auto")
    if ratings.name == "synthetic":
        ratings = synthetic_ratings(num_users=6040, num_items=3706)
    print(ratings)
    recorder = Recorder("data_pipeline", ratings)
    for row in (measure_parsing(ratings), measure_datasets(ratings)):
        times = row["slow_seconds"] / row["seconds"]
        recorder.write(data=ratings.name, num_ratings=len(ratings.table), **row, times=times)
    recorder.finish()
