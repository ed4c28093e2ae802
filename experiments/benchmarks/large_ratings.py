"""Measures loading, splitting and packing ratings of ML-32M's shape, with made-up content.

    python -m experiments.benchmarks.large_ratings

Writes 32,000,204 ratings of 84,431 movies by 200,948 users as ML-32M's files are written, reads
them back, makes every split, and packs everybody's training ratings into shards, once. Prints
the seconds and the peak memory of each step, and their total, and exits with 1 if that is over
60 seconds or 6 GB. Needs 1 GB of disk for the time it takes, about two minutes. `--scale 0.01`
takes that share of the users, and judges nothing.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from stateful_tff.data import (
    ClientDatasets,
    read_movielens,
    split_at_random,
    split_by_time,
    split_users,
    support_and_query,
)
from stateful_tff.engines.packing import LARGEST_PART, PackedRatings, cut

USERS, RATINGS, MOST, MOVIES = 200_948, 32_000_204, 33_332, 84_431  # the last one is a prime
LIMITS = 60.0, 6_000.0  # seconds and MB


def draw_counts(rng, num_users: int, num_ratings: int) -> np.ndarray:
    """Draws how many ratings each user has, 20 or more, with this sum."""
    weight = rng.lognormal(0, 1.25, num_users)
    counts = 20 + (weight / weight.sum() * (num_ratings - 20 * num_users)).astype(np.int64)
    counts = np.minimum(counts, MOST)
    lacking = num_ratings - counts.sum()
    counts += lacking // num_users
    counts[: lacking % num_users] += 1
    return counts


def write(folder: Path, share: float) -> None:
    """Writes ratings.csv, sorted by user and movie, and movies.csv."""
    rng = np.random.default_rng(0)
    num_users = int(USERS * share)
    counts = draw_counts(rng, num_users, int(RATINGS * share))
    user = np.repeat(np.arange(num_users, dtype=np.int32), counts)
    place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Steps of one length around a circle of a prime number of movies meet none twice.
    start, step = rng.integers(0, MOVIES, num_users), rng.integers(1, MOVIES, num_users)
    movie = (start[user] + step[user] * place) % MOVIES
    begun = rng.integers(823_000_000, 1_690_000_000, num_users)
    seconds = begun[user] + rng.integers(0, 12, len(user)) + place * 5 // 10 * 10
    order = np.argsort(user.astype(np.int64) * MOVIES + movie)
    stars = rng.choice(np.arange(1, 11, dtype=np.float32) / 2, len(user))
    columns = dict(userId=user[order] + 1, movieId=movie[order] * 3 + 1, rating=stars)
    table = pa.table(columns | {"timestamp": seconds[order]})
    options = pyarrow.csv.WriteOptions(quoting_style="none", include_header=False)
    with open(folder / "ratings.csv", "wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        pyarrow.csv.write_csv(table, file, options)
    lines = (f"{m * 3 + 1},Film {m} (2000),Drama\n" for m in range(MOVIES))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(lines), "UTF-8")


def reset_peak() -> None:
    """Lets Linux begin the peak memory of this process afresh."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Returns the peak memory of this process since then, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def pack_everybody(packed: PackedRatings) -> int:
    """Packs a round of all clients, part after part, and returns how many ratings that are."""
    everybody, total = np.flatnonzero(packed.counts), 0
    for index in cut(everybody, packed.counts, -(-len(packed.items) // LARGEST_PART)):
        total += int(packed.pack(index, 0).sizes.sum())
    return total


def measure(folder: Path) -> tuple[float, float]:
    """Runs the steps, prints each, and returns the seconds in all and the highest peak."""
    kept, total, highest = {}, 0.0, 0.0
    steps = {
        "read_movielens": lambda: read_movielens(folder),
        "split_by_time": lambda: split_by_time(kept["read_movielens"]),
        "split_at_random": lambda: len(split_at_random(kept["read_movielens"]).test),
        "split_users": lambda: len(split_users(kept["read_movielens"]).test),
        "support_and_query": lambda: len(support_and_query(kept["read_movielens"])[0]),
        "train_and_validation": lambda: len(kept["split_by_time"].train_and_validation),
        "ClientDatasets": lambda: ClientDatasets(kept.pop("split_by_time").train, shuffle_seed=0),
        "PackedRatings": lambda: PackedRatings(kept.pop("ClientDatasets")),
        "pack everybody": lambda: pack_everybody(kept["PackedRatings"]),
    }
    for name, work in steps.items():
        reset_peak()
        start, busy = time.perf_counter(), time.process_time()
        kept[name] = work()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        peak = peak_mb()
        print(f"{name:<22}{seconds:6.1f} s {busy:6.1f} s of CPU {peak:8,.0f} MB", flush=True)
        total, highest = total + seconds, max(highest, peak)
    print(kept["read_movielens"], f"scale {kept['read_movielens'].scale}", sep="; ")
    return total, highest


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the users")
    share = parser.parse_args().scale
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), share)
        total, highest = measure(Path(folder))
    print(f"{'in all':<22}{total:6.1f} s {highest:24,.0f} MB")
    sys.exit(share == 1 and (total > LIMITS[0] or highest > LIMITS[1]))
