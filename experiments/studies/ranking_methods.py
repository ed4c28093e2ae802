"""Federated recommenders and marks in one place on one protocol, with equal tuning budgets.

    python -m experiments.studies.ranking_methods

Said before the runs: the primary endpoint is NDCG@10 over all items, of each federated method
minus popularity and minus iALS in one place, with paired intervals over users and the mean over
seeds. Every method gets the same number of trials, drawn at random from its ranges, the first one
in their middle; a trial is judged by NDCG@10 over all items on the validation choices of seed 0,
and so is the number of rounds, at a quarter, a half and all of the most, which are as many for all;
trials have every third user, and penalties that grow with the population are given for each user.
A best value within a fifth of an end of its range is recorded as lying at the edge. What is chosen
is trained on training and validation choices and tested once for each seed. Negatives are honest:
they are drawn from what is not in the data that the model trains on. 32 factors for everybody.

Secondary: information or cache? After the last round of seed 0 all states are lost, and clients
visit again, with the server as it is. What comes back after 1, 5 or 20 visits was a cache.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other choices, `--data`.
"""

import argparse
import functools
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes at a time, on two cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from experiments.record import Recorder

# isort: split
import attrs
import numpy as np
import tensorflow_federated as tff

from stateful_tff import data
from stateful_tff.engines.by_rows import build_rows_process
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.evaluation import in_one_place, lists, ranking
from stateful_tff.methods import Optimizers, sgd
from stateful_tff.methods.fcf import fcf
from stateful_tff.methods.fed_bpr import fed_bpr
from stateful_tff.methods.fed_mf import fed_mf
from stateful_tff.methods.fed_ncf import fed_ncf
from stateful_tff.methods.pfedrec import pfedrec
from stateful_tff.models import implicit
from stateful_tff.stores import MemoryStore
from stateful_tff.stores.contract import as_arrays
from stateful_tff.training import DivergenceError, UniformSampler, rounds

NAME, FACTORS, THREADS = "ranking_methods", 32, 1
ADAM = tff.learning.optimizers.build_adam
AGAIN = (1, 5, 20)  # visits after which lost states are looked at


@attrs.frozen
class Federated:
    """A method with its model, data and ranges.

    Attributes:
        ranges: by name the lowest and the highest value, drawn evenly in the logarithm.
        build: `(num_items, seed, **values) -> (method, model, optimizers)`.
        pairs, negatives: how the data are made.
    """

    ranges: dict
    build: Callable
    negatives: int = 4
    pairs: bool = False


class Run:
    """A federated method with everybody in each round.

    Args:
        way: a `Federated`.
        train: the choices to train on.
        seed: decides first weights, negatives and orders.
        values: the rates and penalties.
    """

    def __init__(self, way: Federated, train, seed: int, values: dict):
        """Builds the process."""
        method, model, optimizers = way.build(train.num_items, seed, **values)
        self.process = InThisProcess(build_rows_process(method, model, optimizers), THREADS)
        sampler = data.NegativeSampler(train, seed) if way.negatives else None
        self.clients = data.ImplicitDatasets(
            train, 256 if way.negatives else 4096, negatives=way.negatives, sampler=sampler,
            pairs=way.pairs, shuffle_seed=seed,
        )  # fmt: skip
        self.store, self.size = MemoryStore(self.process, train.num_users), train.num_users
        self.everyone = UniformSampler(train.num_users, train.num_users, seed)

    def scores(self, until: int) -> np.ndarray:
        """Returns everybody's scores after rounds up to a number."""
        for done in rounds(self.process, self.store, self.clients, self.everyone, until):
            self.store.commit(done)
        return _scored(self.weights, self.store.local_weights())

    @property
    def weights(self) -> list:
        """The server's weights."""
        return [np.asarray(weight) for weight in self.store.server_state.model_weights]

    def bytes(self) -> dict[str, int]:
        """Returns what a client keeps, and what it sends of weights, the mean over clients."""
        parts, _ = self.process.inputs(self.clients, np.arange(self.size), 0)
        table, *others = self.weights
        rows = sum((part["rows"] < len(table)).sum() for part in parts) / self.size
        kept = sum(weight[0].nbytes for weight in self.store.local_weights())
        sent = int(rows * table[0].nbytes + sum(weight.nbytes for weight in others))
        return dict(bytes_kept=kept, bytes_sent=sent)

    def rebuilt(self):
        """Yields visits and scores: all states are lost, and the server stays as it is."""
        fresh, server = MemoryStore(self.process, self.size), self.store.server_state
        for number in range(max(AGAIN)):
            parts, ids = self.process.inputs(
                self.clients, np.arange(self.size), int(server.round_num) + number
            )
            *_, states = self.process.next(server, parts, [fresh[some] for some in ids])
            for part in states:
                fresh.replace(as_arrays(part))
            if number + 1 in AGAIN:
                yield number + 1, _scored(self.weights, fresh.local_weights())


def _scored(weights: list, local: list) -> np.ndarray:
    """Returns everybody's scores from the server's table and the clients' vectors."""
    table, user = weights[0], local[0]
    if len(weights) == 1:
        return user @ table.T
    matrices, (last, _) = weights[1:-2], weights[-2:]
    found = np.empty((len(user), len(table)), np.float32)
    k = table.shape[1]
    of_items = table @ matrices[0][:k]  # the first layer is linear in both vectors
    of_users = user @ matrices[0][k:] + matrices[1]
    for number in range(len(user)):
        tower = np.maximum(of_items + of_users[number], 0)
        for matrix, offset in zip(matrices[2::2], matrices[3::2], strict=True):
            tower = np.maximum(tower @ matrix + offset, 0)
        found[number] = table @ (user[number] * last[:k, 0]) + tower @ last[k:, 0]
    return found


def _logistic(method):
    def build(num_items, seed, items, score, stddev):
        model = implicit.logistic_factorization(num_items, FACTORS, item_stddev=stddev, seed=seed)
        return method(), model, sgd(1.0, items * num_items, score)

    return build


def _bpr(num_items, seed, items, score, stddev):
    model = implicit.pairwise_factorization(num_items, FACTORS, stddev=stddev, seed=seed)
    return fed_bpr(), model, sgd(1.0, items * num_items, score)


def _ncf(num_items, seed, items, score, server):
    model = implicit.neural_factorization(num_items, FACTORS, seed=seed)
    plain = sgd(1.0, items, score)
    return fed_ncf(), model, Optimizers(ADAM(server), plain.client, plain.local)


def _fcf(scaled):
    def build(num_items, seed, weight, l2, server):
        model = implicit.one_class_factorization(num_items, FACTORS, stddev=0.05, seed=seed)
        none = sgd(1.0, 0.0, 0.0)
        optimizer = none.server if scaled else ADAM(server)
        return fcf(weight, l2, scaled=scaled), model, Optimizers(optimizer, none.client, none.local)

    return build


STEPS = dict(items=(0.3, 30.0), score=(0.03, 3.0), stddev=(0.03, 1.0))
ALS = dict(weight=(0.05, 4.0), l2=(0.0003, 0.1))
FEDERATED = {
    "PFedRec, server's table": Federated(STEPS, _logistic(pfedrec)),
    "FedMF, cross entropy": Federated(STEPS, _logistic(fed_mf)),
    "BPR": Federated(STEPS, _bpr, negatives=1, pairs=True),
    "FedNCF": Federated(dict(items=(0.03, 3.0), score=(0.03, 3.0), server=(0.001, 0.1)), _ncf),
    "FCF, Adam": Federated(ALS | dict(server=(0.003, 0.3)), _fcf(False), negatives=0),
    "FCF, scaled": Federated(ALS | dict(server=(1.0, 1.0)), _fcf(True), negatives=0),
}


def _ials(train, seed, weight, l2):
    users, items = in_one_place.ials(train, FACTORS, weight=weight, l2=l2, seed=seed)
    return users @ items.T


MARKS = {
    "popularity": (dict(newest=(0.05, 0.999)), lambda train, seed, newest: np.broadcast_to(
        in_one_place.popularity(train, newest), (train.num_users, train.num_items))),
    "item-kNN": (dict(neighbours=(20, 1000), shrink=(0.0002, 0.05)),
                 lambda train, seed, neighbours, shrink: in_one_place.item_neighbours(
                     train, int(neighbours), shrink * train.num_users)),
    "EASE": (dict(l2=(0.002, 0.5)), lambda train, seed, l2: in_one_place.ease(
        train, l2 * train.num_users)),
    "iALS": (ALS, _ials),
}  # fmt: skip


def drawn(ranges: dict, trials: int, seed: int = 0) -> list[dict]:
    """Draws settings, evenly in the logarithm; the first one is the middle of the ranges."""
    rng, found = np.random.default_rng(seed), []
    for trial in range(trials):
        share = rng.random(len(ranges)) if trial else np.full(len(ranges), 0.5)
        found.append({
            name: float(low * (high / low) ** at)
            for at, (name, (low, high)) in zip(share, ranges.items(), strict=True)
        })  # fmt: skip
    return found


class Judge:
    """The held-out choices of one part, and what lists are worth for them."""

    def __init__(self, log, held_out, train, seed: int):
        """Sets the task."""
        self.train, self.task = train, ranking.leave_one_out(log, held_out, seed)

    def ndcg(self, scores) -> float:
        """NDCG@10 over all items, the mean over users."""
        counts = ranking.target_ranks(scores, self.task.target, self.task.all)
        return float(ranking.hit_rate_and_ndcg(*counts)[1].mean())

    def of_users(self, scores) -> dict[str, np.ndarray]:
        """Every metric, for each user."""
        found = {}
        for name, among in (("all", self.task.all), ("99", self.task.sampled)):
            counts = ranking.target_ranks(scores, self.task.target, among)
            hit, gain = ranking.hit_rate_and_ndcg(*counts)
            found |= {f"HR@10 of {name}": hit, f"NDCG@10 of {name}": gain}
            if name == "all":
                found["recall@20 of all"] = ranking.hit_rate_and_ndcg(*counts, cutoff=20)[0]
        return found

    def of_lists(self, scores) -> dict[str, float]:
        """What the lists of ten show."""
        shown = lists.top_items(scores, self.task.all)
        return {
            "coverage": lists.coverage(shown, self.train.num_items),
            "popularity lift": lists.popularity_lift(shown, self.train),
        }


@functools.cache
def chosen_log(name: str):
    """Returns the choices, and the best scores where these are known."""
    if name == "synthetic log":
        return data.synthetic_log(400, 300)
    return data.positives(data.load_ratings(name)), None


def every_third_user(log):
    """Returns the choices of every third user, of all items."""
    table = log.table[log.table["user"] % 3 == 0]
    return attrs.evolve(log, table=table.assign(user=table["user"] // 3).reset_index(drop=True),
                        user_ids=log.user_ids[::3])  # fmt: skip


def study(name: str, options) -> dict:
    """Tunes one method and tests it once for each seed.

    Returns:
        `rows`, what to record, and `users`, by metric an array of all users for each seed.
    """
    log, best = chosen_log(options.data)
    start, tried, rows, users = time.process_time(), [], [], {}
    ranges = {"best possible": {}} | {n: r for n, (r, _) in MARKS.items()}
    ranges = ranges[name] if name in ranges else FEDERATED[name].ranges
    ends = sorted({max(options.rounds // 4, 1), max(options.rounds // 2, 1), options.rounds})

    def scored(train, seed, values, ends):
        if name == "best possible":
            yield 0, best if train.num_users == len(best) else best[::3], None
        elif name in MARKS:
            yield 0, MARKS[name][1](train, seed, **values), None
        else:
            run = Run(FEDERATED[name], train, seed, values)
            yield from ((end, run.scores(end), run) for end in ends)

    some = every_third_user(log)
    split = data.split_leave_one_out(some, 0)
    judge = Judge(some, split.validation, split.train, 0)
    for values in drawn(ranges, options.trials):
        try:
            for done, scores, _ in scored(split.train, 0, values, ends):
                tried.append((judge.ndcg(scores), done, values))
        except DivergenceError as error:
            print(f"{name}, {values}: {error}", flush=True)
    if not tried:
        raise RuntimeError(f"All trials of {name} diverged; lower its ranges.")
    found, done, values = max(tried, key=lambda one: one[0])
    edges = [k for k, (low, high) in ranges.items() if low < high and not (
        low * 1.2 < values[k] < high / 1.2)]  # fmt: skip
    rows.append(
        dict(
            seed=0, metric="validation NDCG@10 of all", value=found, rounds=done, at_edge=edges,
            settings={k: round(v, 5) for k, v in values.items()},
            cpu_seconds=time.process_time() - start,
        )
    )  # fmt: skip
    for seed in range(options.seeds):
        split = data.split_leave_one_out(log, seed)
        final = split.train_and_validation
        judge = Judge(log, split.test, final, seed)
        ((_, scores, run),) = scored(final, seed, values, [done])
        spent = run.bytes() if run else dict(bytes_kept=0, bytes_sent=0)
        of_users = judge.of_users(scores)
        for metric, each in of_users.items():
            users.setdefault(metric, []).append(each)
            rows.append(dict(seed=seed, metric=metric, value=float(each.mean()), **spent))
        rows += [
            dict(seed=seed, metric=metric, value=value)
            for metric, value in judge.of_lists(scores).items()
        ]
        if run and not seed:
            for visits, again in run.rebuilt():
                for metric, each in judge.of_users(again).items():
                    pair = lists.paired_mean([each], [of_users[metric]])
                    rows.append(
                        dict(
                            seed=seed, state="lost", visits=visits, minus="kept",
                            metric=f"{metric}, difference", value=pair.value, low=pair.low,
                            high=pair.high, verdict=pair.verdict,
                        )
                    )  # fmt: skip
    rows.append(dict(metric="CPU seconds", value=time.process_time() - start))
    return dict(rows=rows, users=users)


def main() -> None:
    """Studies every method, several at a time, and compares them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m", help="or 'synthetic log'")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=30, help="the most of each method")
    parser.add_argument("--methods", nargs="+", default=[*FEDERATED, *MARKS])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default=NAME)
    options, start = parser.parse_args(), time.perf_counter()
    log, best = chosen_log(options.data)
    names = options.methods + ["best possible"] * (best is not None)
    recorder = Recorder(options.out, log)
    fields = dict(data=log.name, protocol="leave one out", trials=options.trials)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        calls = {name: pool.submit(study, name, options) for name in names}
        found = {name: call.result() for name, call in calls.items()}
    for name in names:
        for row in found[name]["rows"]:
            recorder.write(**fields, method=name, **row)
    for name in names:
        for other in ("popularity", "iALS"):
            if name == other or other not in found:
                continue
            for metric in ("NDCG@10 of all", "HR@10 of all", "HR@10 of 99", "NDCG@10 of 99"):
                pair = lists.paired_mean(
                    found[name]["users"][metric], found[other]["users"][metric]
                )
                recorder.write(
                    **fields, method=name, minus=other, metric=f"{metric}, difference",
                    value=pair.value, low=pair.low, high=pair.high, verdict=pair.verdict,
                    by_seed=[round(one, 5) for one in pair.by_seed],
                )  # fmt: skip
    recorder.write(
        **fields, method="all", metric="seconds of the study", workers=options.workers,
        value=time.perf_counter() - start,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
