"""Measures where the time of a round over several workers goes, and prints the table.

    python -m experiments.benchmarks.many_workers

Writes experiments/results/many_workers.jsonl, one object a line. Each worker is kept to one core,
in turn. STATEFUL_TFF_DATA names the folder or the zip of ML-1M. Takes about 2 minutes.
"""

import os
import time

import numpy as np

from experiments.record import Recorder

# isort: split
import tensorflow_federated as tff

from stateful_tff import session
from stateful_tff.cohort import CohortData, StackedRegistry, build_cohort_process
from stateful_tff.data import ClientDatasets, load_ratings
from stateful_tff.frame import build_model_fn
from stateful_tff.process import build_client_state_fn, build_stateful_fed_avg
from stateful_tff.simulation import ClientRegistry, sample_cohort
from stateful_tff.workers import ProcessOverWorkers, start_workers, take_costs

FACTORS, BATCH, REPEATS = 50, 5, 7
sgd = tff.learning.optimizers.build_sgdm


def fastest_round(process, arguments, workers) -> dict:
    """The fastest of some rounds: its seconds, the driver's own, and the workers' mean costs."""
    state, rows = process.initialize(), []
    for _ in range(REPEATS):
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
            row |= costs[["serialization", "sending", "work", "fetching"]].mean().to_dict()
            row |= costs[["mb_out", "mb_in"]].sum().to_dict()
        rows.append(row)
    return min(rows[1:], key=lambda row: row["seconds"])


def rate_of_transfer(workers, megabytes: int = 80) -> dict:
    """Bytes per second to a worker that only gives them back, and from it."""
    values = np.random.default_rng(0).normal(size=megabytes * 125_000)

    @tff.tensorflow.computation(tff.TensorType(np.float64, values.shape))
    def echo(x):
        return x

    (worker,), rows = workers.workers, []
    for _ in range(3):
        worker.traffic.clear()
        worker.run(echo, values)
        sent = max(seconds for name, _, seconds, *_ in worker.traffic if name == "CreateValue")
        fetched = sum(seconds for name, _, seconds, *_ in worker.traffic if name == "Compute")
        rows.append((sent, fetched))
    sent, fetched = (min(part) for part in zip(*rows, strict=True))
    return dict(mb_per_second_out=megabytes / sent, mb_per_second_in=megabytes / fetched)


def main() -> None:
    """Measures, prints and records."""
    ratings = load_ratings("ml-1m")
    model_fn = build_model_fn(
        ratings.num_items, FACTORS, biases=True, l2=0.05, seed=0,
        mean_rating=float(ratings.table["rating"].mean()),
    )  # fmt: skip
    state_fn = build_client_state_fn(model_fn)
    parts = model_fn, state_fn, sgd(1.0), sgd(0.5), sgd(0.05)
    clients = ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=0)
    data, stacked = CohortData(clients), StackedRegistry(state_fn, ratings.num_users)
    registry = ClientRegistry(state_fn, ratings.num_users)
    processes = {
        "vectorized": build_cohort_process(*parts),
        "per client": build_stateful_fed_avg(*parts),
    }
    recorder = Recorder("many_workers", ratings)
    cores = len(os.sched_getaffinity(0))

    def measure(name, size, workers):
        cohort, count = sample_cohort(ratings.num_users, size, 0), len(workers) if workers else 2
        process = processes[name]
        if workers:
            process = ProcessOverWorkers(process, workers)

        def arguments():
            if name == "per client":
                return clients.for_round(cohort, 0), registry.states(cohort)
            shards = data.shards(cohort, 0, num_shards=count)
            return shards, [stacked.stacked(shard.index) for shard in shards]

        row = dict(name=name, clients=size, workers=len(workers) if workers else 0)
        row |= fastest_round(process, arguments, workers)
        recorder.write(**row, cores=cores)

    work = [("vectorized", 1000), ("vectorized", ratings.num_users), ("per client", 100)]
    for name, size in work:
        measure(name, size, None)
    session.end_workers()
    for number in (1, 2, 4):
        with start_workers(number, pin=True, ready_within=60) as workers:
            if number == 1:
                recorder.write(name="echo", workers=1, **rate_of_transfer(workers), cores=cores)
            for name, size in work:
                measure(name, size, workers)
    recorder.finish()


if __name__ == "__main__":
    main()
