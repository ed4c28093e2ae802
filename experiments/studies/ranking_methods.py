"""Federated recommenders and marks in one place on one protocol, with equal tuning budgets.

    python -m experiments.studies.ranking_methods

Said before the runs: the primary endpoint is NDCG@10 over all items, of each federated method
minus popularity and minus iALS in one place, with paired intervals over users and the mean over
seeds. Every method gets the same number of trials, drawn at random from its ranges, the first one
in their middle; a trial is judged by NDCG@10 over all items on the validation choices of seed 0,
and so is the number of rounds, at the same few moments for all. What is chosen is trained on
training and validation choices and tested once for each seed. Negatives are honest: they are
drawn from what is not in the data that the model trains on. 32 factors for everybody.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other choices, `--data`.
"""

import argparse
import time
from collections.abc import Callable

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
from stateful_tff.training import DivergenceError, UniformSampler, rounds

NAME, FACTORS = "ranking_methods", 32
ADAM = tff.learning.optimizers.build_adam


@attrs.frozen
class Federated:
    """A method with its model, data and ranges.

    Attributes:
        ranges: by name the lowest and the highest value, drawn evenly in the logarithm.
        build: `(num_items, seed, **values) -> (method, model, optimizers)`.
        pairs, negatives: how the data are made.
        most: the number of rounds; it is judged after a quarter, a half and all of them.
    """

    ranges: dict
    build: Callable
    negatives: int = 4
    pairs: bool = False
    most: int = 100

    def scores(self, train, seed: int, values: dict, ends):
        """Yields rounds, scores, and bytes: of a state, and of the weights that a client sends."""
        method, model, optimizers = self.build(train.num_items, seed, **values)
        process = InThisProcess(build_rows_process(method, model, optimizers))
        sampler = data.NegativeSampler(train, seed) if self.negatives else None
        clients = data.ImplicitDatasets(
            train, 256 if self.negatives else 4096, negatives=self.negatives, sampler=sampler,
            pairs=self.pairs, shuffle_seed=seed,
        )  # fmt: skip
        store = MemoryStore(process, train.num_users)
        everyone = UniformSampler(train.num_users, train.num_users, seed)
        parts, _ = process.inputs(clients, np.arange(train.num_users), 0)
        rows = sum((part["rows"] < train.num_items).sum() for part in parts) / train.num_users
        size = [0, 0]
        for done in rounds(process, store, clients, everyone, until=max(ends)):
            store.commit(done)
            if done.round_num in ends:
                weights = [np.asarray(w) for w in store.server_state.model_weights]
                size[0] = sum(weight[0].nbytes for weight in store.local_weights())
                size[1] = int(rows * weights[0][0].nbytes + sum(w.nbytes for w in weights[1:]))
                yield done.round_num, _scored(weights, store.local_weights()), size


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
        product = (table * user[number]) @ last[:k, 0]
        found[number] = product + tower @ last[k:, 0]
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
ALS = dict(weight=(0.02, 1.0), l2=(0.0003, 0.3))
FEDERATED = {
    "PFedRec, server's table": Federated(STEPS, _logistic(pfedrec)),
    "FedMF, cross entropy": Federated(STEPS, _logistic(fed_mf)),
    "BPR": Federated(STEPS, _bpr, negatives=4, pairs=True),
    "FedNCF": Federated(dict(items=(0.03, 3.0), score=(0.03, 3.0), server=(0.001, 0.1)), _ncf),
    "FCF, Adam": Federated(ALS | dict(server=(0.003, 0.3)), _fcf(False), negatives=0),
    "FCF, scaled": Federated(ALS | dict(server=(1.0, 1.0)), _fcf(True), negatives=0, most=40),
}


def _ials(train, seed, weight, l2):
    users, items = in_one_place.ials(train, FACTORS, weight=weight, l2=l2, seed=seed)
    return users @ items.T


MARKS = {
    "popularity": (dict(newest=(0.05, 0.999)), lambda train, seed, newest: np.broadcast_to(
        in_one_place.popularity(train, newest), (train.num_users, train.num_items))),
    "item-kNN": (dict(neighbours=(20, 1000), shrink=(1.0, 300.0)),
                 lambda train, seed, neighbours, shrink: in_one_place.item_neighbours(
                     train, int(neighbours), shrink)),
    "EASE": (dict(l2=(10.0, 3000.0)), lambda train, seed, l2: in_one_place.ease(train, l2)),
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


def main() -> None:
    """Tunes every method with one budget, then tests it once for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m", help="or 'synthetic log'")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=None, help="the most of each method")
    parser.add_argument("--methods", nargs="+", default=[*MARKS, *FEDERATED])
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    if options.data == "synthetic log":
        log, best = data.synthetic_log(400, 300)
    else:
        log, best = data.positives(data.load_ratings(options.data)), None
    recorder, found = Recorder(options.out, log), {}
    fields = dict(data=log.name, protocol="leave one out", trials=options.trials)

    def runs(name, train, seed, values, ends):
        if name in MARKS:
            yield 0, MARKS[name][1](train, seed, **values), [0, 0]
        else:
            yield from FEDERATED[name].scores(train, seed, values, ends)

    for name in options.methods:
        start, tried = time.process_time(), []
        ranges = MARKS[name][0] if name in MARKS else FEDERATED[name].ranges
        most = 0 if name in MARKS else min(options.rounds or 10**6, FEDERATED[name].most)
        ends = sorted({max(most // 4, 1), max(most // 2, 1), most})
        split = data.split_leave_one_out(log, 0)
        judge = Judge(log, split.validation, split.train, 0)
        for values in drawn(ranges, options.trials):
            try:
                for done, scores, _ in runs(name, split.train, 0, values, ends):
                    tried.append((judge.ndcg(scores), done, values))
            except DivergenceError as error:
                print(f"{name}, {values}: {error}", flush=True)
        if not tried:
            raise RuntimeError(f"All trials of {name} diverged; lower its ranges.")
        chosen, done, values = max(tried, key=lambda one: one[0])
        recorder.write(
            **fields, method=name, seed=0, metric="validation NDCG@10 of all", value=chosen,
            rounds=done, settings={k: round(v, 5) for k, v in values.items()},
            cpu_seconds=time.process_time() - start,
        )  # fmt: skip
        for seed in range(options.seeds):
            split = data.split_leave_one_out(log, seed)
            final = split.train_and_validation
            judge = Judge(log, split.test, final, seed)
            *_, (_, scores, kept) = runs(name, final, seed, values, [done])
            _record(recorder, judge, found, scores, fields, name, seed, kept)
    for seed in range(options.seeds if best is not None else 0):
        split = data.split_leave_one_out(log, seed)
        judge = Judge(log, split.test, split.train_and_validation, seed)
        _record(recorder, judge, found, best, fields, "best possible", seed, [0, 0])
    for name in options.methods:
        for other in ("popularity", "iALS"):
            if name == other or other not in found:
                continue
            for metric in ("NDCG@10 of all", "HR@10 of all", "HR@10 of 99", "NDCG@10 of 99"):
                pair = lists.paired_mean(found[name][metric], found[other][metric])
                recorder.write(
                    **fields, method=name, minus=other, metric=f"{metric}, difference",
                    value=pair.value, low=pair.low, high=pair.high, verdict=pair.verdict,
                    by_seed=[round(one, 5) for one in pair.by_seed],
                )  # fmt: skip
    recorder.finish()


def _record(recorder, judge, found, scores, fields, name, seed, kept) -> None:
    """Records what one run is worth, and keeps it by user for the pairs."""
    for metric, values in judge.of_users(scores).items():
        found.setdefault(name, {}).setdefault(metric, []).append(values)
        value = float(values.mean())
        recorder.write(
            **fields,
            method=name,
            seed=seed,
            metric=metric,
            value=value,
            bytes_kept=kept[0],
            bytes_sent=kept[1],
        )
    for metric, value in judge.of_lists(scores).items():
        recorder.write(**fields, method=name, seed=seed, metric=metric, value=value)


if __name__ == "__main__":
    main()
