"""Measures one round in many ways, all in one run on the same data, and prints the table.

    python -m experiments.benchmarks.cohort_speed [--outside PYTHON] [--quick]

Writes experiments/results/cohort_speed.jsonl, one object a line. PYTHON is the interpreter of
an environment with requirements.txt beside this file; without it the rows of Numba, JAX and
pfl-research are left out. STATEFUL_TFF_DATA names the folder or the zip of ML-1M. Takes about 8
minutes.
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
from stateful_tff.data import ClientDatasets, Ratings, load_ratings
from stateful_tff.data.orders import permutations
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.methods import BOTH, Phase, in_phases, sgd, stateful
from stateful_tff.models import (
    INPUT_SPEC,
    MatrixFactorization,
    ModelFn,
    global_model_variables,
    local_model_variables,
)
from stateful_tff.stores import MemoryStore
from stateful_tff.training import Round, sample_cohort

FACTORS, BATCH, L2, SERVER, CLIENT, LOCAL = 50, 5, 0.05, 1.0, 0.5, 0.05
OPTIMIZERS = sgd(SERVER, CLIENT, LOCAL)
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


def spec_of(ratings):
    """The model of all rows."""
    return MatrixFactorization(
        ratings.num_items, FACTORS, biases=True, l2=L2, seed=0,
        mean_rating=float(ratings.table["rating"].mean()),
    )  # fmt: skip


def packed(ratings, sizes, repeats, epochs=1, name="packed", here=True):
    """Rounds of the packed engine, in this process or on TFF's runtime.

    Returns the first store, the clients, and server states after a round by size.
    """
    method = in_phases("stateful", Phase("all", BOTH, epochs))
    process = build_packed_process(method, spec_of(ratings), OPTIMIZERS)
    process = InThisProcess(process) if here else process
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    store, written = (MemoryStore(process, ratings.num_users) for _ in range(2))
    results = {}
    for size in sizes:
        cohort = sample_cohort(ratings.num_users, size, 0)

        def prepare(cohort=cohort, size=size):
            sample_cohort(ratings.num_users, size, 0)
            data, ids = process.inputs(clients, cohort, 0)
            return data, [store[part] for part in ids]

        data, states = prepare()
        server, _, new_states = process.next(store.server_state, data, states)
        results[size] = server
        seconds = best(lambda d=data, c=states: process.next(store.server_state, d, c), repeats)
        done = Round(1, cohort, server, new_states, {}, 0.0, 0.0)

        def commit(done=done):
            written.server_state = store.server_state  # so that all rounds start alike
            written.commit(done)

        row(
            name, size, seconds, preparation=round(best(prepare, 3) + best(commit, 2), 5),
            ratings=int(clients.counts[cohort].sum()) * epochs,
            peak_rss_mb=peak_mb(), population=ratings.num_users, data=ratings.name,
        )  # fmt: skip
    session.end_workers()
    return store, clients, results


def per_client(ratings, sizes, whole=False, name="per client", here=False):
    """Rounds of chapter 4's process; the whole population in parts of 1,000 clients."""
    process = build_process(stateful, ModelFn(spec_of(ratings)), OPTIMIZERS)
    process = InThisProcess(process) if here else process
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    store, results = MemoryStore(process, ratings.num_users), {}

    def round_of(cohort):
        data, ids = process.inputs(clients, cohort, 0)
        states = [store[client] for client in ids]
        start = time.perf_counter()
        result = process.next(store.server_state, data, states)
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
    spec = spec_of(ratings)
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    cohort = sample_cohort(ratings.num_users, size, 0)
    datasets = clients.for_round(cohort, 0)

    def recon_model_fn():
        keras_model = spec.keras_model()
        return tff.learning.models.ReconstructionModel.from_keras_model_and_variables(
            keras_model=keras_model,
            global_trainable_variables=global_model_variables(keras_model),
            global_non_trainable_variables=[],
            local_trainable_variables=local_model_variables(keras_model),
            local_non_trainable_variables=[],
            input_spec=OrderedDict(INPUT_SPEC),
        )

    def fed_avg():
        return tff.learning.algorithms.build_weighted_fed_avg(
            ModelFn(spec), OPTIMIZERS.client, OPTIMIZERS.server
        )

    def fed_recon():
        return tff.learning.algorithms.build_fed_recon(
            recon_model_fn,
            loss_fn=tf.keras.losses.MeanSquaredError,
            metrics_fn=lambda: [],
            server_optimizer_fn=OPTIMIZERS.server,
            client_optimizer_fn=OPTIMIZERS.client,
            reconstruction_optimizer_fn=OPTIMIZERS.local,
        )

    for name, build in {"stock FedAvg": fed_avg, "stock FedRecon": fed_recon}.items():
        process = build()
        state = process.initialize()
        process.next(state, datasets[:1])
        seconds = best(lambda p=process, s=state: p.next(s, datasets), 2)
        row(name, size, seconds, peak_rss_mb=peak_mb(), data=ratings.name)
        session.end_workers()


def outside(python, ratings, store, clients, sizes, results, kinds, epochs=1):
    """The same round compiled by Numba, in JAX and in pfl-research, in another environment."""
    q, b = (np.asarray(weight) for weight in store.server_state.model_weights)
    for size in sizes:
        cohort = np.sort(sample_cohort(ratings.num_users, size, 0))
        counts = clients.counts[cohort]
        orders = permutations(clients.shuffle_seed, cohort, counts, 0, epochs)
        order = np.stack([np.concatenate(orders[epoch::epochs]) for epoch in range(epochs)])
        rows = np.repeat(clients.starts[cohort], counts)
        rows = rows + (order[0] if epochs == 1 else _in_order(counts))
        local = store[cohort].local_weights
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "round.npz")
            np.savez(
                path, items=clients.x[rows, 0], stars=clients.y[rows, 0], order=order,
                q=q, b=b[:, 0], bounds=np.append(0, np.cumsum(counts)),
                p=local[0][:, 0], a=local[1][:, 0, 0], size=BATCH, l2=L2,
                client_rate=CLIENT, local_rate=LOCAL, mean=ratings.table["rating"].mean(),
            )  # fmt: skip
            for kind, (name, repeats) in kinds.items():
                run = subprocess.run(
                    [python, str(Path(__file__).with_name("outside.py")), kind, path, str(repeats)],
                    capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                if run.returncode:
                    print(f"{name} failed:\n{run.stderr[-2000:]}", file=sys.stderr)
                    continue
                found = json.loads(run.stdout.splitlines()[-1])
                table, expected = np.load(path + ".out.npy"), results[size].model_weights[0]
                moved = np.abs(np.asarray(expected) - q).max()
                difference = float(np.abs(table - expected).max() / moved)
                row(name, size, **found, difference=f"{difference:.1e}", data=ratings.name)


def _in_order(counts):
    """The stored order of each client's ratings, one client after the other."""
    begins = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(begins, counts)


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


LIMITS = {
    name: "compiled limit of two epochs (Numba)" if "2 epochs" in name else "compiled limit (Numba)"
    for name in ("packed", "packed, 2 epochs")
}


def ratios(rows):
    """Adds to each row how it compares with the per-client process and with the limit."""
    speed = {(r["name"], r["clients"]): r["clients_per_second"] for r in rows}
    for r in rows:
        if r["data"] == "random":
            continue
        slow = speed.get(("per client", r["clients"]))
        kind = LIMITS["packed, 2 epochs" if "epochs" in r["name"] else "packed"]
        limit = speed.get((kind, r["clients"]))
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
    store, clients, results = packed(ratings, curve, 9)
    if options.outside:
        kinds = {
            "numba": (LIMITS["packed"], 10),
            "jax": ("plain JAX, vectorized", 10),
            "pfl": ("pfl-research (NumPy)", 2),
        }
        outside(options.outside, ratings, store, clients, compared, results, kinds)
    _, _, twice = packed(ratings, compared[-1:], 3, epochs=2, name="packed, 2 epochs")
    if options.outside:
        kinds = {"numba_epochs": (LIMITS["packed, 2 epochs"], 5)}
        outside(options.outside, ratings, store, clients, compared[-1:], twice, kinds, epochs=2)
    packed(ratings, compared, 9, name="packed, TFF's runtime", here=False)
    slow = per_client(
        ratings, compared[: 1 if options.quick else 2], everyone > 1000 and not options.quick
    )
    for size, (server, *_) in slow.items():
        a, e = (np.asarray(r.model_weights[0]) for r in (results[size], server))
        print(f"{size} clients: largest difference of item weights {np.abs(a - e).max():.1e}")
    per_client(ratings, compared[:1], name="per client, in this process", here=True)
    stock(ratings, min(100, everyone))
    with split_operations():
        per_client(ratings, compared[:1], name="per client, operations split")
    for size in [10**4, 10**5] if options.quick else [10**4, 10**5, 10**6]:
        packed(population(size), [1000], 5, name="packed, synthetic population")
    ratios(ROWS)
    recorder = Recorder("cohort_speed")
    for one in ROWS:
        recorder.write(**one)
    recorder.finish()
    shown = [c for c in pd.DataFrame(ROWS) if c not in ("data", "note", "difference")]
    print(pd.DataFrame(ROWS)[shown].to_string(index=False))


if __name__ == "__main__":
    main()
