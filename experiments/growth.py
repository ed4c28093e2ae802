"""What a long session costs: memory, descriptors and threads over rounds, builds and starts.

Usage: python -m experiments.growth [--rounds N] [--builds N] [--starts N] [--record]

Each part repeats one thing in one Python and looks at it in between: `rounds` trains on, `builds`
builds a process and runs one round of it, `starts` starts a worker and ends it, `renewals` lets
TFF's own worker end and start again. Counts that are flat from the first look to the last, and a
memory that levels off, mean that a session can last. `--record` writes the results, and
draws them.

Knows nothing of what is learned: the data are small and synthetic.
"""

import argparse
import gc
import json
import time

from experiments.record import RESULTS, Recorder  # isort: skip  it comes before TFF

import matplotlib.pyplot as plt
import numpy as np
import psutil
import tensorflow_federated as tff

from stateful_tff import plots, session
from stateful_tff.data import ClientDatasets, synthetic_ratings
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.workers import start_workers
from stateful_tff.methods import sgd, stateful
from stateful_tff.models import MatrixFactorization, ModelFn
from stateful_tff.stores import MemoryStore
from stateful_tff.training import UniformSampler, rounds

LOOKS = 5
WARM_UP = 10  # repetitions before the first look
NUM_CLIENTS, NUM_ITEMS, COHORT = 40, 60, 8
SPEC = MatrixFactorization(NUM_ITEMS, 8, biases=True, mean_rating=3.5, seed=0)
CLIENTS = ClientDatasets(
    synthetic_ratings(NUM_CLIENTS, NUM_ITEMS, seed=0), batch_size=5, shuffle_seed=0
)


def look() -> dict:
    """Returns what this Python and its workers hold now."""
    gc.collect()
    driver = psutil.Process()
    return dict(
        driver_mb=round(driver.memory_info().rss / 2**20, 1),
        worker_mb=round(sum(w.memory_info().rss for w in session.workers()) / 2**20, 1),
        descriptors=driver.num_fds(),
        threads=driver.num_threads(),
    )


def per_client():
    """Builds the process of one client at a time, which TFF's own worker runs."""
    return build_process(stateful, ModelFn(SPEC), sgd(0.7, 0.1, 0.05))


def packed():
    """Builds the process of packed clients, which this Python runs."""
    return InThisProcess(build_packed_process(stateful, SPEC, sgd(0.7, 0.1, 0.05)))


def train(process, until: int) -> MemoryStore:
    """Trains from the start."""
    store = MemoryStore(process, NUM_CLIENTS)
    for done in rounds(process, store, CLIENTS, UniformSampler(NUM_CLIENTS, COHORT, 0), until):
        store.commit(done)
    return store


def training(process):
    """Returns what trains for one more round at each call."""
    store, sampler = MemoryStore(process, NUM_CLIENTS), UniformSampler(NUM_CLIENTS, COHORT, 0)

    def step():
        for done in rounds(process, store, CLIENTS, sampler, store.round_num + 1):
            store.commit(done)

    return step


def start_and_end() -> None:
    """Starts a worker, lets it compute, and ends it."""
    with start_workers(1) as one:
        assert one.run([(ADD_ONE, 1.0)]) == [2.0]


def renew() -> None:
    """Computes on TFF's own worker and ends it."""
    assert MEAN([1.0, 3.0]) == 2.0
    assert session.end_workers() == 1
    time.sleep(0.3)  # a thread of gRPC looks five times a second whether it is still needed


@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def MEAN(values):
    """Needs TFF's runtime."""
    return tff.federated_mean(values)


ADD_ONE = tff.tensorflow.computation(lambda x: x + 1.0, np.float32)


def parts(counts):
    """Yields each part: its name, what it repeats, and how often."""
    yield "rounds, per client", training(per_client()), counts.rounds
    yield "rounds, packed", training(packed()), counts.rounds
    yield "builds, per client", lambda: train(per_client(), 1), counts.builds
    yield "builds, packed", lambda: train(packed(), 1), counts.builds
    yield "starts", start_and_end, counts.starts
    yield "renewals", renew, counts.renewals


def measure(name: str, repeat, count: int) -> list[dict]:
    """Repeats something and looks in between; the first look comes after a warm-up."""
    warm_up = min(WARM_UP, count // 5)
    at, found, start = np.linspace(warm_up, count, LOOKS).astype(int), [], time.perf_counter()
    for done in range(count + 1):
        if done in at:
            seconds = time.perf_counter() - start
            found.append(dict(part=name, repetitions=done, seconds=seconds, **look()))
        if done < count:
            repeat()
    return found


def draw(rows: list[dict]) -> None:
    """Draws what is recorded to results/growth.svg: for each count a panel, each part a line."""
    counts = dict(driver_mb="driver, MB", worker_mb="workers, MB")
    counts |= dict(descriptors="descriptors", threads="threads")
    plots.use_style()
    figure, panels = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
    names = list(dict.fromkeys(row["part"] for row in rows))
    for panel, (key, label) in zip(panels, counts.items(), strict=True):
        for name, marker in zip(names, "osD^vP", strict=False):
            mine = [row for row in rows if row["part"] == name]
            shares = [row["repetitions"] / mine[-1]["repetitions"] for row in mine]
            panel.plot(shares, [row[key] for row in mine], marker=marker, ms=4, label=name)
        panel.set(title=label, xlabel="share of the repetitions", ylim=(0, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(RESULTS / "growth.svg", metadata={"Date": None})


def main() -> None:
    """Measures all parts, and prints how much each has grown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--builds", type=int, default=100)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--renewals", type=int, default=20)
    parser.add_argument("--only", default="", help="the parts whose names begin so")
    parser.add_argument("--record", action="store_true")
    counts = parser.parse_args()
    recorder = None
    if counts.record:
        recorder = Recorder("growth", keep=lambda row: not row["part"].startswith(counts.only))
    line = "{:20} {:>6} {:>10} {:>10} {:>12} {:>8}".format
    print(line("part", "number", "driver MB", "worker MB", "descriptors", "threads"))
    for name, repeat, count in parts(counts):
        if not name.startswith(counts.only):
            continue
        for row in measure(name, repeat, count):
            if recorder:
                recorder.write(**row)
            print(line(*(row[k] for k in row if k != "seconds")), flush=True)
    if recorder:
        recorder.finish()
        draw([json.loads(line) for line in (RESULTS / "growth.jsonl").open(encoding="utf-8")])


if __name__ == "__main__":
    main()
