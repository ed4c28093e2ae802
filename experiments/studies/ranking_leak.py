"""What a sampler that knows the held-out items is worth: a counter, PFedRec, FedRAP.

    python -m experiments.studies.ranking_leak

Said before the runs: the primary endpoint is HR@10 among 99 sampled items after the last round of
PFedRec with its clients' own item tables, negatives as released minus honest negatives, with a
paired interval over users. *As released*: training negatives are drawn from the items that the
user never chose, held-out ones among what they chose. *Honest*: from the items that are not in
the user's training data. Everything else is the same: PFedRec of 32 factors, all clients in each
round, batches of 256, 4 negatives for each positive, rates .1 (score function) and 29,648 (items),
leave-one-out, no choice of a round. One seed, which decides splits, ties, negatives and first
weights. STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other ratings, `--data`.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes at a time, on two cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from experiments.record import Recorder

# isort: split
import attrs
import numpy as np

from stateful_tff import data
from stateful_tff.engines.by_rows import build_rows_process
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.evaluation import lists, ranking
from stateful_tff.methods import sgd
from stateful_tff.methods.fed_rap import fed_rap, fed_rap_rates
from stateful_tff.methods.pfedrec import SCORES, pfedrec
from stateful_tff.models import implicit
from stateful_tff.stores import MemoryStore
from stateful_tff.training import UniformSampler, rounds

NAME, THREADS = "ranking_leak", 1
SHOWN = (1, 2, 3, 4, 5, 10, 20, 30, 50, 70, 100)
RELEASED, HONEST = "as released", "honest"


class Task:
    """The split of one seed, who competes with each test item, and both samplers."""

    def __init__(self, log, seed: int):
        """Splits the log."""
        self.log, self.seed, self.split = log, seed, data.split_leave_one_out(log, seed)
        self.judged = ranking.leave_one_out(log, self.split.test, seed)
        self.samplers = {
            RELEASED: data.NegativeSampler(log, seed),
            HONEST: data.NegativeSampler(self.split.train, seed),
        }

    def hits(self, scores) -> tuple[np.ndarray, np.ndarray]:
        """Returns HR@10 and NDCG@10 of every user among the sampled items."""
        counts = ranking.target_ranks(scores, self.judged.target, self.judged.sampled)
        return ranking.hit_rate_and_ndcg(*counts)


def counter(task: Task, negatives: str):
    """Yields after each round the scores of a counter that learns nothing: minus the draws."""
    users, size = np.arange(task.log.num_users), task.log.num_items
    counts = 4 * np.diff(task.split.train.bounds)
    drawn, number = 0, 0
    while True:
        drawn = drawn + data.times_drawn(task.samplers[negatives], users, counts, [number], size)
        number += 1
        yield {"counter": -np.float32(drawn)}


def pfedrec_run(task: Task, negatives: str):
    """Yields after each round the scores of PFedRec, with own tables and with the server's."""
    log, train, sampler = task.log, task.split.train, task.samplers[negatives]
    model = implicit.logistic_factorization(log.num_items, 32, seed=task.seed)
    rates = sgd(1.0, 0.1 * log.num_items * 80, 0.1)
    process = InThisProcess(build_rows_process(pfedrec(SCORES), model, rates), THREADS)
    clients = data.ImplicitDatasets(train, 256, sampler=sampler, shuffle_seed=task.seed)
    store = MemoryStore(process, log.num_users)
    everyone = UniformSampler(log.num_users, log.num_users, task.seed)
    for done in rounds(process, store, clients, everyone, until=10_000):
        received = np.asarray(store.server_state.model_weights[0])
        store.commit(done)
        vector, _, change = store.local_weights()
        yield {
            "PFedRec, own item table": vector @ received.T + change[..., 0],
            "PFedRec, server's table and own score function": vector
            @ np.asarray(store.server_state.model_weights[0]).T,
        }


def fed_rap_run(task: Task, negatives: str):
    """Yields after each round the scores of FedRAP: private table plus the server's."""
    log, train, sampler = task.log, task.split.train, task.samplers[negatives]
    model = implicit.two_table_factorization(log.num_items, 32, seed=task.seed)
    process = InThisProcess(build_rows_process(fed_rap(), model, fed_rap_rates()), THREADS)
    clients = data.ImplicitDatasets(train, 2048, sampler=sampler, shuffle_seed=task.seed)
    store = MemoryStore(process, log.num_users)
    everyone = UniformSampler(log.num_users, log.num_users, task.seed)
    for done in rounds(process, store, clients, everyone, until=10_000):
        store.commit(done)
        vector, _, own = store.local_weights()
        common = np.asarray(store.server_state.model_weights[0])
        yield {"FedRAP": vector @ common.T + np.einsum("nik,nk->ni", own, vector)}


RUNS = {"counter": (counter, 100), "PFedRec": (pfedrec_run, 100), "FedRAP": (fed_rap_run, 30)}


def users_of(log, count: int):
    """Returns the choices of the first users."""
    table = log.table[log.table["user"] < count]
    return attrs.evolve(log, table=table, user_ids=log.user_ids[:count])


def side(name: str, kind: str, some, last: int) -> tuple[dict, float]:
    """Runs a method with one kind of negatives.

    Returns:
        By round, method and metric what each user gets, and the seconds of CPU.
    """
    task, start, found = Task(some, 0), time.process_time(), {}
    for number, scores in zip(range(1, last + 1), RUNS[name][0](task, kind), strict=False):
        if number in SHOWN or number == last:
            hits = {method: task.hits(each) for method, each in scores.items()}
            found[number] = {
                method: dict(zip(("HR@10 of 99", "NDCG@10 of 99"), both, strict=True))
                for method, both in hits.items()
            }
    return found, time.process_time() - start


def main() -> None:
    """Runs each method both ways side by side, and records the curve over rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--rounds", type=int, default=None, help="the most of each run")
    parser.add_argument("--users", type=int, default=1510, help="of FedRAP, whose states are large")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    log = data.positives(data.load_ratings(options.data))
    recorder = Recorder(options.out, log, keep=lambda row: row["run"] not in options.runs)
    context, calls = multiprocessing.get_context("spawn"), {}
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        for name in options.runs:
            few = name == "FedRAP" and options.users < log.num_users
            some, most = users_of(log, options.users) if few else log, RUNS[name][1]
            last = min(options.rounds or most, most)
            calls[name] = (
                some,
                [pool.submit(side, name, kind, some, last) for kind in (RELEASED, HONEST)],
            )
        for name, (some, pair) in calls.items():
            (released, seconds), (honest, more) = (call.result() for call in pair)
            fields = dict(data=log.name, protocol="leave one out", run=name, users=some.num_users)
            fields |= dict(seed=0, cpu_seconds=seconds + more)
            for number, methods in released.items():
                for method, metrics in methods.items():
                    write(recorder, fields | dict(rounds=number, method=method),
                          {RELEASED: metrics, HONEST: honest[number][method]})  # fmt: skip
    recorder.finish()


def write(recorder: Recorder, fields: dict, sides: dict) -> None:
    """Records one method after some rounds: both kinds of negatives, and their difference."""
    for metric in sides[HONEST]:
        for kind, metrics in sides.items():
            value = float(metrics[metric].mean())
            recorder.write(**fields, negatives=kind, metric=metric, value=value)
        pair = lists.paired_mean([sides[RELEASED][metric]], [sides[HONEST][metric]])
        recorder.write(
            **fields, negatives=f"{RELEASED} minus {HONEST}", metric=f"{metric}, difference",
            value=pair.value, low=pair.low, high=pair.high,
        )  # fmt: skip


if __name__ == "__main__":
    main()
