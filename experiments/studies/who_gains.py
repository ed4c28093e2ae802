"""Measures users one by one, new users and rankings on ML-1M, and writes what chapter 10 prints.

    python -m experiments.studies.who_gains

Rounds, epochs and the weight of popularity are chosen with seed 0 on validation ratings and
validation users. Then, for three seeds, each way of training runs once, and everything is
measured on that. A short run on synthetic ratings is recorded, too, for a test to repeat.
Takes about 7 minutes. With `--check` nothing is recorded: the short run is repeated and compared
with what is recorded, to five places, and with `--check --seeds 1` seed 0 on ML-1M as well.
STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import sys
import time

import numpy as np

from experiments.record import Check, Recorder

# isort: split
from stateful_tff.data import load_ratings, synthetic_ratings
from stateful_tff.evaluation.baselines import fit_biases
from stateful_tff.evaluation.bootstrap import interval
from stateful_tff.evaluation.cold_start import cold_start, mean_start, seen_and_unseen, serve_biases
from stateful_tff.evaluation.gains import (
    RMSE_SPREAD,
    SPLIT_HALF_NOISE,
    by_trait,
    gains,
    gains_in_halves,
    rmse_spread,
    split_half_noise,
    trait_effects,
    user_traits,
    worse_off,
)
from stateful_tff.evaluation.metrics import per_user, score_with_intervals
from stateful_tff.evaluation.ranking import (
    hit_rate_and_ndcg,
    leave_one_out,
    score_all,
    target_ranks,
)
from stateful_tff.experiment import Experiment
from stateful_tff.methods import fed_recon, stateful
from stateful_tff.stores.memory import stacked_rows

NAME = "who_gains"
FULL = dict(cohort=100, factors=50, counts=(0, 1, 2, 5, 10, 20, 50))
# The penalty and the rate of the users' side that chapter 8 trains each method with, ...
GIVEN = {"stateful": dict(l2=0.05, rate=0.05), "stateless": dict(l2=0.02, rate=0.1)}
METHODS = {"stateful": stateful, "stateless": fed_recon(4, joint=True)}
# ... and what is tried: rounds, epochs of rebuilding seen and new users, weights of popularity.
ROUNDS = {"stateful": (250, 500, 750, 1000), "stateless": (250, 500, 750)}
EPOCHS, NEW_EPOCHS, WEIGHTS = (2, 4, 8), (1, 3, 10, 30), (0.25, 0.5, 1.0, 2.0, 4.0)
# For the test: a few seconds on synthetic ratings.
SHORT = dict(
    rounds={"stateful": 100, "stateless": 60}, epochs=4, weight=1.0,
    new_epochs=dict.fromkeys(GIVEN, {0: 1, 1: 1, 5: 3, 10: 3}),
    cohort=50, factors=8, counts=(0, 1, 5, 10),
)  # fmt: skip
PAIRS = (
    ("stateful", "biases only"),
    ("stateless", "biases only"),
    ("stateful", "stateless"),
    ("stateful", "stateful items, rebuilt"),
)


def bounds(three):
    """Returns a statistic and its interval as fields of a result."""
    return dict(zip(("value", "low", "high"), map(float, three), strict=True))


def experiments(train, seed, cohort, factors) -> dict[str, Experiment]:
    """Returns an experiment of each method, and what users start from in all of them."""
    built = {
        name: Experiment(
            train, method=METHODS[name], num_factors=factors, l2=given["l2"],
            rates=(2.0, 0.5, given["rate"]), cohort_size=cohort, seed=seed,
        )
        for name, given in GIVEN.items()
    }  # fmt: skip
    return built, built["stateful"].local_weights()


def measure(ratings, seed, write, *, rounds, epochs, new_epochs, weight, cohort, factors, counts):
    """Trains each way once and writes everything that is measured on it."""
    start = time.perf_counter()
    users = seen_and_unseen(ratings, seed)
    train, test = users.seen.train_and_validation, users.seen.test
    runs, first = experiments(train, seed, cohort, factors)
    for name, run in runs.items():
        run.train(rounds[name])
    kept, forgot = runs["stateful"], runs["stateless"]
    shared = dict(data=ratings.name, seed=seed, seconds=round(time.perf_counter() - start, 1))

    def record(protocol, **fields):
        write(**shared, protocol=protocol, **fields)

    biases = fit_biases(train)
    predicted = {
        "biases only": biases.predict(test),
        "stateless": forgot.predict(test, forgot.serve(epochs)),
        "stateful items, rebuilt": kept.predict(test, kept.serve(epochs, start=first)),
        "stateful": kept.predict(test),
    }
    measure_seen(record, predicted, user_traits(train), test, rounds, epochs)
    measure_new(record, runs, first, users.unseen, train, counts, new_epochs)
    measure_ranking(record, ratings, train, test, kept, biases.items, weight, seed)


def measure_seen(record, predicted, traits, test, rounds, epochs):
    """Users who come back: errors, how even they are, and gains."""
    for method, stars in predicted.items():
        given = dict(method=method, rounds=rounds.get(method.split()[0]), epochs=epochs)
        for metric, row in score_with_intervals(stars, test).iterrows():
            record("known users", metric=metric, **row, **given)
        spread = interval(per_user(stars, test)["rmse"], rmse_spread)
        for metric, three in zip(RMSE_SPREAD, spread.T, strict=True):
            record("known users", metric=metric, **bounds(three), **given)
    for method, baseline in PAIRS:
        pair, stars = f"{method} over {baseline}", (predicted[method], predicted[baseline], test)
        gain, given = gains(*stars), dict(method=pair)
        noise = interval(gains_in_halves(*stars), split_half_noise)
        found = {"gain": interval(gain), "share worse": interval(gain, worse_off)}
        for metric, three in (found | dict(zip(SPLIT_HALF_NOISE, noise.T, strict=True))).items():
            record("known users, gain", metric=metric, **bounds(three), **given)
        given["metric"] = "gain"
        for q in np.round(np.arange(0.02, 0.99, 0.02), 2):
            value = float(np.quantile(gain, q))
            record("known users, gain quantile", value=value, quantile=float(q), **given)
        for row in by_trait(gain, traits).to_dict("records"):
            worse = row.pop("worse")
            record("known users, gain by trait", **row, **given)
            group = {key: row[key] for key in ("trait", "group", "median")}
            record(
                "known users, worse by trait", value=worse, **group, **given | {"metric": "worse"}
            )
        for trait, row in trait_effects(gain, traits).iterrows():
            record("known users, pull", trait=trait, **row, **given)


def measure_new(record, runs, first, unseen, train, counts, epochs):
    """Users who arrive, after so many ratings."""
    store = runs["stateful"].store
    everyone = store[range(store.num_clients)]
    mean = stacked_rows(mean_start(everyone, everyone).local_weights)

    def server(name, start):
        def serve(support, query, count):
            local = runs[name].serve(epochs[name][count], support, start=start)
            return runs[name].predict(query, local)

        return serve

    for method, serve in {
        "biases only": serve_biases(train),
        "stateless items": server("stateless", first),
        "stateful items": server("stateful", first),
        "stateful items, mean start": server("stateful", mean),
    }.items():
        for protocol, some in (("new users", counts), ("new users, all", counts[:-2])):
            for count, rmse in cold_start(unseen, some, serve).items():
                tried = epochs.get(method.split()[0], {}).get(count)
                record(
                    protocol, method=method, metric="user_rmse", **bounds(interval(rmse)),
                    ratings=count, users=len(rmse), epochs=tried,
                )  # fmt: skip


def stars_of(run, task):
    """Returns what a run predicts for every movie, for the users of a ranking task."""
    weights = run.store.server_state.model_weights
    return score_all(run.model, weights, run.local_weights(), task.users)


def measure_ranking(record, ratings, train, test, kept, of_item, weight, seed):
    """The last movie of each user, among all others and among 99."""
    task = leave_one_out(ratings, test, seed)
    seen = np.bincount(train.table["item"], minlength=ratings.num_items)
    stars, mixture, hits = stars_of(kept, task), "stateful + log popularity", {}
    count = float(np.median(task.all.sum(axis=1)))
    record("ranking, candidates", method="all", metric="movies", value=count)
    for method, scores in {
        "chance": 0 * of_item,
        "popularity": seen,
        "biases only": of_item,
        "stateful": stars,
        mixture: stars + np.float32(weight) * np.log1p(seen, dtype=np.float32),
    }.items():
        given = dict(method=method, weight=weight if method == mixture else None)
        for candidates, among in (("all", task.all), ("99", task.sampled)):
            above, tied = target_ranks(scores, task.target, among)
            found = zip(("HR@10", "NDCG@10"), hit_rate_and_ndcg(above, tied), strict=True)
            for metric, values in found:
                hits[method, candidates, metric] = values
                three = bounds(interval(values))
                record("ranking", metric=metric, **three, candidates=candidates, **given)
            if candidates == "all":
                rank = float(np.median(above + tied / 2)) + 1
                record("ranking, median place", metric="place", value=rank, **given)
    for candidates in ("all", "99"):
        for metric in ("HR@10", "NDCG@10"):
            ahead = hits[mixture, candidates, metric] - hits["popularity", candidates, metric]
            three = bounds(interval(ahead))
            record(
                "ranking, mixture minus popularity", method=mixture,
                metric=metric, **three, candidates=candidates,
            )  # fmt: skip


class Choice:
    """The lowest validation error so far, and what it was reached with.

    Args:
        write: takes the fields of a result.
        **shared: fields of every result.
    """

    def __init__(self, write, **shared):
        """See the class."""
        self.write, self.shared, self.value, self.given, self.kept = write, shared, 9.0, {}, None

    def offer(self, value, kept=None, **given):
        """Writes a try, and keeps it if it is the best."""
        self.write(**self.shared, value=value, **given)
        if value < self.value:
            self.value, self.given, self.kept = value, given, kept


def choose(ratings, write) -> dict:
    """Returns rounds, epochs and weight as `measure` takes them, chosen with seed 0."""
    users = seen_and_unseen(ratings, 0, tuning=True)
    train, validation = users.seen.train, users.seen.validation
    runs, first = experiments(train, 0, FULL["cohort"], FULL["factors"])
    shared = dict(data=ratings.name, seed=0, protocol="validation")
    best, new_epochs = {}, {}
    for name, run in runs.items():
        best[name] = Choice(write, **shared, method=name, metric="rmse")
        for rounds in ROUNDS[name]:
            run.train(rounds)
            for epochs in EPOCHS if name == "stateless" else [None]:
                value = run.score(validation, run.serve(epochs) if epochs else None)["rmse"]
                given = dict(rounds=rounds, **{"epochs": epochs} if epochs else {}, **GIVEN[name])
                best[name].offer(value, run.branch(), **given)
        chosen = best[name].kept
        tries = {
            count: Choice(
                write, **shared, method=f"{name} items", metric="user_rmse", ratings=count
            )
            for count in FULL["counts"]
        }
        for epochs in NEW_EPOCHS:
            served = cold_start(
                users.unseen, FULL["counts"],
                lambda s, q, n, run=chosen, e=epochs: run.predict(q, run.serve(e, s, start=first)),
            )  # fmt: skip
            for count, rmse in served.mean().items():
                tries[count].offer(float(rmse), epochs=epochs)
        new_epochs[name] = {count: tried.given["epochs"] for count, tried in tries.items()}
    listed = Choice(write, **shared, method="stateful + log popularity", metric="1 - NDCG@10")
    task = leave_one_out(ratings, validation)
    seen = np.bincount(train.table["item"], minlength=ratings.num_items).astype(np.float32)
    stars = stars_of(best["stateful"].kept, task)
    for weight in WEIGHTS:
        at = target_ranks(stars + weight * np.log1p(seen), task.target, task.all)
        listed.offer(1 - float(hit_rate_and_ndcg(*at)[1].mean()), weight=weight)
    return dict(
        rounds={name: choice.given["rounds"] for name, choice in best.items()},
        epochs=best["stateless"].given["epochs"],
        new_epochs=new_epochs,
        weight=listed.given["weight"],
    )


def recorded_choice(rows) -> dict:
    """Returns what `choose` returned when the results were recorded."""
    tried = [row for row in rows if row["protocol"] == "validation"]

    def best(key, **fields):
        same = [row for row in tried if all(row.get(f) == v for f, v in fields.items())]
        return min(same, key=lambda row: row["value"])[key]

    return dict(
        rounds={name: best("rounds", method=name, metric="rmse") for name in GIVEN},
        epochs=best("epochs", method="stateless", metric="rmse"),
        new_epochs={
            name: {n: best("epochs", method=f"{name} items", ratings=n) for n in FULL["counts"]}
            for name in GIVEN
        },
        weight=best("weight", metric="1 - NDCG@10"),
    )


def check(seeds) -> bool:
    """Repeats runs with the recorded choices; tells whether the recorded values come out."""
    checked = Check(NAME)
    measure(synthetic_ratings(), 0, checked.write, **SHORT)
    for seed in seeds:
        chosen = recorded_choice(checked.recorded)
        measure(load_ratings("ml-1m"), seed, checked.write, **FULL, **chosen)
    return checked.finish()


def main(seeds) -> None:
    """Runs everything."""
    recorder = Recorder(NAME)
    measure(synthetic_ratings(), 0, recorder.write, **SHORT)
    ratings = load_ratings("ml-1m")
    chosen = choose(ratings, recorder.write)
    for seed in seeds:
        measure(ratings, seed, recorder.write, **FULL, **chosen)
    recorder.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, help="how many; 3, and none with --check")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    options = parser.parse_args()
    if options.check:
        sys.exit(not check(range(options.seeds or 0)))
    main(range(3 if options.seeds is None else options.seeds))
