"""Measures one round in many ways, all in one run on the same data, and prints the table.

    python -m experiments.benchmarks.cohort_speed [--outside PYTHON] [--quick]

Writes experiments/results/cohort_speed.jsonl, one object a line. PYTHON is the interpreter of
an environment with requirements.txt beside this file; without it the rows of Numba and pfl-research
are left out. STATEFUL_TFF_DATA names the folder or the zip of ML-1M. Takes about 7 minutes.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from experiments.record import Recorder

# isort: split
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff import session
from stateful_tff.cohort import (
    CohortData,
    StackedRegistry,
    build_cohort_process,
    unstack,
)
from stateful_tff.data import ClientDatasets, Ratings, load_ratings
from stateful_tff.frame import INPUT_SPEC, build_model_fn
from stateful_tff.model import (
    global_model_variables,
    local_model_variables,
    matrix_factorization_model,
)
from stateful_tff.process import build_client_state_fn, build_stateful_fed_avg
from stateful_tff.simulation import sample_cohort

FACTORS, BATCH, L2, SERVER, CLIENT, LOCAL = 50, 5, 0.05, 1.0, 0.5, 0.05
sgd = tff.learning.optimizers.build_sgdm
ROWS = []


def peak_mb() -> int:
    """The peak resident memory of this process plus that of its TFF worker, in MB."""
    total = 0
    for process in [psutil.Process(), *session.workers()]:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                total += int(line.split()[1])
    return round(total / 1024)


def best(function, repeats: int) -> float:
    """The seconds of the fastest of some calls."""
    gc.collect()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def row(name, clients, seconds, **more):
    """Notes a measurement and prints it."""
    fields = dict(name=name, clients=clients, seconds=round(seconds, 5))
    ROWS.append(fields | dict(clients_per_second=round(clients / seconds, 1)) | more)
    print(ROWS[-1], flush=True)


def model_of(ratings):
    """The model of all rows and the function for first states."""
    model_fn = build_model_fn(
        ratings.num_items, FACTORS, biases=True, l2=L2, seed=0,
        mean_rating=float(ratings.table["rating"].mean()),
    )  # fmt: skip
    return model_fn, build_client_state_fn(model_fn)


def vectorized(ratings, sizes, repeats, epochs=1, name="vectorized"):
    """Rounds of the process of chapter 6. Returns server states after a round, by size."""
    model_fn, state_fn = model_of(ratings)
    process = build_cohort_process(model_fn, state_fn, sgd(SERVER), sgd(CLIENT), sgd(LOCAL))
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    data, registry = CohortData(clients), StackedRegistry(state_fn, ratings.num_users)
    written = StackedRegistry(state_fn, ratings.num_users)  # so that all rounds start alike
    server, results = process.initialize(), {}
    for size in sizes:
        cohort = sample_cohort(ratings.num_users, size, 0)

        def prepare(cohort=cohort, size=size):
            sample_cohort(ratings.num_users, size, 0)
            shards = data.shards(cohort, 0, epochs)
            return shards, [registry.stacked(shard.index) for shard in shards]

        shards, states = prepare()
        results[size] = process.next(server, shards, states)
        seconds = best(lambda s=shards, c=states: process.next(server, s, c), repeats)
        preparation = best(prepare, 3) + best(
            lambda c=cohort, s=results[size][2]: written.update(c, s), 2
        )
        ratings_in_round = int(sum(shard.sizes.sum() for shard in shards))
        row(
            name, size, seconds, preparation=round(preparation, 5), ratings=ratings_in_round,
            peak_rss_mb=peak_mb(), population=ratings.num_users, data=ratings.name,
        )  # fmt: skip
    session.end_workers()
    return results, clients, state_fn


def per_client(ratings, sizes, whole=False, name="per client"):
    """Rounds of the process of chapter 4; the whole population in parts of 1,000 clients."""
    model_fn, state_fn = model_of(ratings)
    process = build_stateful_fed_avg(model_fn, state_fn, sgd(SERVER), sgd(CLIENT), sgd(LOCAL))
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    registry = StackedRegistry(state_fn, ratings.num_users)
    server, results = process.initialize(), {}

    def round_of(cohort):
        datasets, states = clients.for_round(cohort, 0), unstack([registry.stacked(cohort)])
        start = time.perf_counter()
        result = process.next(server, datasets, states)
        return result, time.perf_counter() - start

    round_of([0])
    for size in sizes:
        cohort = sample_cohort(ratings.num_users, size, 0)
        seconds = []
        for _ in range(2 if size <= 100 else 1):
            results[size], once = round_of(cohort)
            seconds.append(once)
        row(name, size, min(seconds), peak_rss_mb=peak_mb(), data=ratings.name)
    if whole:
        parts = np.array_split(sample_cohort(ratings.num_users, ratings.num_users, 0), 6)
        seconds = sum(round_of(part)[1] for part in parts)
        row(
            name, ratings.num_users, seconds, peak_rss_mb=peak_mb(), data=ratings.name,
            note="in 6 calls, since one call for all needs too much memory",
        )  # fmt: skip
    session.end_workers()
    return results


@contextlib.contextmanager
def split_operations():
    """Lets the workers started meanwhile split each operation over all cores, as is usual."""
    threads = os.environ.pop("TF_NUM_INTRAOP_THREADS")
    try:
        yield
    finally:
        os.environ["TF_NUM_INTRAOP_THREADS"] = threads


def stock(ratings, size):
    """Rounds of TFF's own algorithms on the same model and clients."""
    model_fn, _ = model_of(ratings)
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    cohort = sample_cohort(ratings.num_users, size, 0)
    datasets = clients.for_round(cohort, 0)

    def recon_model_fn():
        keras_model = matrix_factorization_model(
            ratings.num_items, FACTORS, biases=True, l2=L2, seed=0,
            mean_rating=float(ratings.table["rating"].mean()),
        )  # fmt: skip
        return tff.learning.models.ReconstructionModel.from_keras_model_and_variables(
            keras_model=keras_model,
            global_trainable_variables=global_model_variables(keras_model),
            global_non_trainable_variables=[],
            local_trainable_variables=local_model_variables(keras_model),
            local_non_trainable_variables=[],
            input_spec=OrderedDict(INPUT_SPEC),
        )

    def fed_avg():
        return tff.learning.algorithms.build_weighted_fed_avg(model_fn, sgd(CLIENT), sgd(SERVER))

    def fed_recon():
        return tff.learning.algorithms.build_fed_recon(
            recon_model_fn,
            loss_fn=tf.keras.losses.MeanSquaredError,
            metrics_fn=lambda: [],
            server_optimizer_fn=sgd(SERVER),
            client_optimizer_fn=sgd(CLIENT),
            reconstruction_optimizer_fn=sgd(LOCAL),
        )

    for name, build in {"stock FedAvg": fed_avg, "stock FedRecon": fed_recon}.items():
        process = build()
        state = process.initialize()
        process.next(state, datasets[:1])
        seconds = best(lambda p=process, s=state: p.next(s, datasets), 2)
        row(name, size, seconds, peak_rss_mb=peak_mb(), data=ratings.name)
        session.end_workers()


def outside(python, ratings, clients, state_fn, sizes, results):
    """The same round compiled by Numba and in pfl-research, in another environment."""
    model_fn, _ = model_of(ratings)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = model_fn()
        session.run(tf.compat.v1.global_variables_initializer())
        q, b = session.run([v.read_value() for v in model.global_model_variables])
    registry = StackedRegistry(state_fn, ratings.num_users)
    for size in sizes:
        cohort = np.sort(sample_cohort(ratings.num_users, size, 0))
        dealt = [list(d.as_numpy_iterator()) for d in clients.for_round(cohort, 0)]
        items, stars = (
            [np.concatenate([batch[key][:, 0] for batch in batches]) for batches in dealt]
            for key in "xy"
        )
        local = registry.stacked(cohort).local_weights
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "round.npz")
            np.savez(
                path, items=np.concatenate(items), stars=np.concatenate(stars), q=q, b=b[:, 0],
                bounds=np.append(0, np.cumsum([len(part) for part in items])),
                p=local[0][:, 0], a=local[1][:, 0, 0], size=BATCH, l2=L2,
                client_rate=CLIENT, local_rate=LOCAL, mean=ratings.table["rating"].mean(),
            )  # fmt: skip
            names = {"numba": ("compiled limit (Numba)", 10), "pfl": ("pfl-research (NumPy)", 2)}
            for kind, (name, repeats) in names.items():
                run = subprocess.run(
                    [python, str(Path(__file__).with_name("outside.py")), kind, path, str(repeats)],
                    capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                if run.returncode:
                    print(f"{name} failed:\n{run.stderr[-2000:]}", file=sys.stderr)
                    continue
                found = json.loads(run.stdout.splitlines()[-1])
                table, expected = np.load(path + ".out.npy"), results[size][0].model_weights[0]
                moved = np.abs(np.asarray(expected) - q).max()
                difference = float(np.abs(table - expected).max() / moved)
                row(name, size, **found, difference=difference, data=ratings.name)


def population(num_users, each=10, num_items=1000):
    """Random ratings of a synthetic population, the same number by each user."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, num_items, (num_users, 1))
    table = pd.DataFrame(
        {
            "user": np.repeat(np.arange(num_users, dtype=np.int32), each),
            "item": ((first + 7 * np.arange(each)) % num_items).astype(np.int32).ravel(),
            "rating": rng.integers(1, 6, num_users * each).astype(np.float32),
            "timestamp": np.zeros(num_users * each, np.int64),
        }
    )
    items = pd.DataFrame({"movie_id": range(num_items), "title": "", "genres": ""})
    return Ratings("random", table, np.arange(num_users), items)


def ratios(rows):
    """Adds to each row how it compares with the per-client process and with the limit."""
    speed = {(r["name"], r["clients"]): r["clients_per_second"] for r in rows}
    for r in rows:
        if r["data"] == "random":
            continue
        slow = speed.get(("per client", r["clients"]))
        limit = speed.get(("compiled limit (Numba)", r["clients"]))
        r["times_per_client_process"] = slow and round(r["clients_per_second"] / slow, 2)
        r["times_limit"] = limit and round(limit / r["clients_per_second"], 2)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outside", help="a Python with requirements.txt of this folder")
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    options = parser.parse_args()
    ratings = load_ratings(options.data)
    everyone = ratings.num_users
    compared = [n for n in (100, 1000, everyone) if n <= everyone]
    curve = sorted({n for n in (10, 30, 100, 300, 1000, 3000, everyone) if n <= everyone})
    results, clients, state_fn = vectorized(ratings, curve, 9)
    if options.outside:
        outside(options.outside, ratings, clients, state_fn, compared, results)
    slow = per_client(
        ratings, compared[: 1 if options.quick else 2], everyone > 1000 and not options.quick
    )
    for size, (server, *_) in slow.items():
        a, e = (np.asarray(r.model_weights[0]) for r in (results[size][0], server))
        print(f"{size} clients: largest difference of item weights {np.abs(a - e).max():.1e}")
    stock(ratings, min(100, everyone))
    with split_operations():
        vectorized(ratings, [compared[0], everyone], 9, name="vectorized, operations split")
        per_client(ratings, compared[:1], name="per client, operations split")
    vectorized(ratings, [compared[-1]], 3, epochs=2, name="vectorized, 2 epochs")
    for size in [10**4, 10**5] if options.quick else [10**4, 10**5, 10**6]:
        vectorized(population(size), [1000], 5, name="vectorized, synthetic population")
    ratios(ROWS)
    recorder = Recorder("cohort_speed")
    for row in ROWS:
        recorder.write(**row)
    recorder.finish()
    shown = [c for c in pd.DataFrame(ROWS) if c not in ("data", "note", "difference")]
    print(pd.DataFrame(ROWS)[shown].to_string(index=False))


if __name__ == "__main__":
    main()
