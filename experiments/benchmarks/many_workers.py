"""Measures where the time of a round over several workers goes, and prints the table.

    python -m experiments.benchmarks.many_workers [--check]

Writes experiments/results/many_workers.jsonl, one object a line. Each worker is kept to one core,
in turn. STATEFUL_TFF_DATA names the folder or the zip of ML-1M. Takes about 2 minutes. With
--check it runs two rounds of each kind on a small synthetic set and writes nothing.
"""

import argparse
import os
import time

from experiments.record import Recorder

# isort: split
import numpy as np
import pandas as pd
import tensorflow_federated as tff

from stateful_tff import session
from stateful_tff.data import ClientDatasets, load_ratings, synthetic_ratings
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.workers import OverWorkers, Workers, start_workers
from stateful_tff.methods import sgd, stateful
from stateful_tff.models import MatrixFactorization, ModelFn
from stateful_tff.stores import MemoryStore
from stateful_tff.training import sample_cohort

FACTORS, BATCH = 50, 5
KINDS = ["serialization", "sending", "work", "fetching"]
SIZES = ["mb_out", "mb_in"]


def take_costs(workers: Workers) -> pd.DataFrame:
    """Returns what was done since the last question, and starts to count again.

    Args:
        workers: the workers to ask about.

    Returns:
        One row per worker. In seconds: `sending` values and computations, `work`, `fetching`
        results, and `serialization`, all the rest of the time, which Python spends on packing
        and unpacking. In megabytes of 10^6 bytes: `mb_out` and `mb_in`.
    """
    rows = []
    for worker in workers.workers:
        row = dict.fromkeys(KINDS + SIZES, 0.0)
        for call in worker.traffic:
            if call.kind == "Run":
                row["serialization"] += call.seconds
                continue
            row[{"CreateCall": "work", "Compute": "fetching"}.get(call.kind, "sending")] += (
                call.seconds
            )
            row["serialization"] -= call.seconds
            row["mb_out"] += call.sent / 1e6
            row["mb_in"] += call.received / 1e6
        worker.traffic.clear()
        rows.append({"worker": worker.name} | row)
    return pd.DataFrame(rows).set_index("worker")


def fastest_round(process, arguments, workers, repeats: int) -> dict:
    """The fastest of some rounds: its seconds, the driver's own, and the workers' mean costs."""
    state, rows = process.initialize(), []
    for _ in range(repeats):
        before = time.process_time()
        inputs = arguments()
        if workers:
            take_costs(workers)
        start, own = time.perf_counter(), time.process_time()
        process.next(state, *inputs)
        row = dict(seconds=time.perf_counter() - start, driver_cpu=time.process_time() - own)
        row["preparation_cpu"] = own - before
        if workers:
            costs = take_costs(workers)
            row |= costs[KINDS].mean().to_dict() | costs[SIZES].sum().to_dict()
        rows.append(row)
    return min(rows[1:], key=lambda row: row["seconds"])


def rate_of_transfer(workers, megabytes: int) -> dict:
    """Megabytes per second to a worker that only gives them back, and from it."""
    values = np.random.default_rng(0).normal(size=megabytes * 125_000)

    @tff.tensorflow.computation(tff.TensorType(np.float64, values.shape))
    def echo(x):
        return x

    (worker,), rows = workers.workers, []
    for _ in range(3):
        worker.traffic.clear()
        workers.run([(echo, values)])
        sent = max(call.seconds for call in worker.traffic if call.kind == "CreateValue")
        fetched = sum(call.seconds for call in worker.traffic if call.kind == "Compute")
        rows.append((sent, fetched))
    sent, fetched = (min(part) for part in zip(*rows, strict=True))
    return dict(mb_per_second_out=megabytes / sent, mb_per_second_in=megabytes / fetched)


def main(check: bool) -> None:
    """Measures, prints and, but for a check, records."""
    ratings = synthetic_ratings() if check else load_ratings("ml-1m")
    repeats, megabytes = (2, 8) if check else (7, 80)
    spec = MatrixFactorization(
        ratings.num_items, FACTORS, biases=True, l2=0.05, seed=0,
        mean_rating=float(ratings.table["rating"].mean()),
    )  # fmt: skip
    optimizers = sgd(1.0, 0.5, 0.05)
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    processes = {
        "packed": build_packed_process(stateful, spec, optimizers),
        "per client": build_process(stateful, ModelFn(spec), optimizers),
    }
    stores = {name: MemoryStore(one, ratings.num_users) for name, one in processes.items()}
    recorder, cores = None if check else Recorder("many_workers", ratings), os.cpu_count()

    def write(**fields):
        print(fields) if check else recorder.write(**fields, cores=cores)

    def measure(name, size, workers):
        cohort, store = sample_cohort(ratings.num_users, size, 0), stores[name]
        process = OverWorkers(processes[name], workers) if workers else processes[name]

        def arguments():
            data, ids = process.inputs(clients, cohort, 0)
            return data, [store[some] for some in ids]

        row = dict(name=name, clients=size, workers=len(workers) if workers else 0)
        write(**row, **fastest_round(process, arguments, workers, repeats))

    sizes = (20, ratings.num_users, 5) if check else (1000, ratings.num_users, 100)
    work = list(zip(("packed", "packed", "per client"), sizes, strict=True))
    for name, size in work:
        measure(name, size, None)
    session.end_workers()
    for number in (1, 2, 4):
        with start_workers(number, pin=True, ready_within=60) as workers:
            if number == 1:
                write(name="echo", workers=1, **rate_of_transfer(workers, megabytes))
            for name, size in work:
                measure(name, size, workers)
    if recorder:
        recorder.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="a short run that records nothing")
    main(parser.parse_args().check)
