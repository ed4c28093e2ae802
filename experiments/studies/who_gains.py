"""Measures users one by one, new users and rankings on ML-1M, and writes what chapter 10 prints.

    python -m experiments.studies.who_gains

Rounds, epochs and the weight of popularity are chosen with seed 0 on validation ratings and
validation users. Then, for three seeds, each way of training runs once, and everything is
measured on that. A short run on synthetic ratings is recorded, too, for a test to repeat.
Takes about 7 minutes. STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import copy
import time

import numpy as np

from experiments.record import Recorder

# isort: split
from stateful_tff.baselines import score_with_intervals
from stateful_tff.cohort import StackedRegistry
from stateful_tff.data import load_ratings, synthetic_ratings
from stateful_tff.personalization import (
    EVENNESS,
    LUCK,
    Answers,
    build_recipe,
    by_trait,
    cold_start,
    evenness,
    gains,
    gains_in_halves,
    hit_and_gain,
    interval,
    known_and_new,
    leave_one_out,
    luck,
    mean_start,
    per_user,
    places,
    pulls,
    rebuild,
    score_all,
    serve_biases,
    train_stateful,
    train_stateless,
    user_traits,
    worse_off,
)
from stateful_tff.simulation import fit_biases

COHORT, FACTORS, COUNTS = 100, 50, (0, 1, 2, 5, 10, 20, 50)
# Penalty and rate of the user side as chapter 8 chose them, and up to how many rounds ...
TRIALS = {
    "stateful": [(dict(l2=0.05, rate=0.05), 1000)],
    "stateless": [(dict(l2=0.02, rate=0.1), 750)],
}
# ... judged so often, epochs of rebuilding for known and new users, weights of popularity.
EVERY, SUPPORT_EPOCHS, EPOCHS = 250, 4, (2, 4, 8)
NEW_EPOCHS, WEIGHTS = (1, 3, 10, 30), (0.25, 0.5, 1.0, 2.0, 4.0)
# For the test: a few seconds on synthetic ratings.
SHORT = dict(
    rounds={"stateful": 100, "stateless": 60}, support_epochs=4, epochs=4, weight=1.0,
    recipes={"stateful": dict(l2=0.05, rate=0.05), "stateless": dict(l2=0.02, rate=0.1)},
    new_epochs=dict.fromkeys(("stateful", "stateless"), {0: 1, 1: 1, 5: 3, 10: 3}),
    cohort=50, factors=8, counts=(0, 1, 5, 10),
)  # fmt: skip
PAIRS = (
    ("stateful", "biases only"),
    ("stateless", "biases only"),
    ("stateful", "stateless"),
    ("stateful", "stateful items, rebuilt"),
)


def bounds(three):
    """A statistic and its interval as fields of a result."""
    return dict(zip(("value", "low", "high"), map(float, three), strict=True))


def measure(
    ratings, seed, write, *,
    recipes, rounds, support_epochs, epochs, new_epochs, weight, cohort, factors, counts,
):  # fmt: skip
    """Trains each way once and writes everything that is measured on it."""
    start = time.perf_counter()
    users = known_and_new(ratings, seed)
    train, test = users.known.train_and_validation, users.known.test
    recipes = {name: build_recipe(train, factors, seed, **given) for name, given in recipes.items()}
    stateful = train_stateful(recipes["stateful"], train, rounds["stateful"], cohort)
    stateless = train_stateless(
        recipes["stateless"], train, rounds["stateless"], cohort, support_epochs=support_epochs
    )
    shared = dict(data=ratings.name, seed=seed, seconds=round(time.perf_counter() - start, 1))

    def record(protocol, **fields):
        write(**shared, protocol=protocol, **fields)

    mean, of_user, of_item = fit_biases(train)
    predicted = {
        "biases only": mean + of_user[test.table["user"]] + of_item[test.table["item"]],
        "stateless": rebuild(recipes["stateless"], stateless, train, epochs).predict(test),
        "stateful items, rebuilt": rebuild(
            recipes["stateful"], stateful.server_state, train, epochs
        ).predict(test),
        "stateful": stateful.predict(test),
    }
    measure_known(record, predicted, user_traits(train), test, rounds, epochs)
    measure_new(record, recipes, users.new, train, stateful, stateless, counts, new_epochs)
    measure_ranking(record, ratings, train, test, stateful, of_item, weight, seed)


def measure_known(record, predicted, traits, test, rounds, epochs):
    """Users who come back: errors, how even they are, and gains."""
    for method, stars in predicted.items():
        given = dict(method=method, rounds=rounds.get(method.split()[0]), epochs=epochs)
        for metric, row in score_with_intervals(stars, test).iterrows():
            record("known users", metric=metric, **row, **given)
        for metric, three in zip(
            EVENNESS, interval(per_user(stars, test)["rmse"], evenness).T, strict=True
        ):
            record("known users", metric=metric, **bounds(three), **given)
    for method, floor in PAIRS:
        pair, stars = f"{method} over {floor}", (predicted[method], predicted[floor], test)
        gain = gains(*stars)
        given = dict(method=pair)
        by_luck = dict(zip(LUCK, interval(gains_in_halves(*stars), luck).T, strict=True))
        by_all = {"gain": interval(gain), "share worse": interval(gain, worse_off)}
        for metric, three in (by_all | by_luck).items():
            record("known users, gain", metric=metric, **bounds(three), **given)
        for q in np.round(np.arange(0.02, 0.99, 0.02), 2):
            value = float(np.quantile(gain, q))
            record(
                "known users, gain quantile", metric="gain", value=value, quantile=float(q), **given
            )
        for row in by_trait(gain, traits).to_dict("records"):
            worse = row.pop("worse")
            record("known users, gain by trait", metric="gain", **row, **given)
            record(
                "known users, worse by trait", metric="worse", value=worse,
                trait=row["trait"], group=row["group"], median=row["median"], **given,
            )  # fmt: skip
        for trait, row in pulls(gain, traits).iterrows():
            record("known users, pull", metric="gain", trait=trait, **row, **given)


def measure_new(record, recipes, new, train, stateful, stateless, counts, epochs):
    """Users who arrive, after so many ratings."""
    items, start = stateful.server_state, mean_start(recipes["stateful"], stateful)

    def server(name, state, start=None):
        return lambda support, query, count: rebuild(
            recipes[name], state, support, epochs[name][count], start
        ).predict(query)

    for method, serve in {
        "biases only": serve_biases(train),
        "stateless items": server("stateless", stateless),
        "stateful items": server("stateful", items),
        "stateful items, mean start": server("stateful", items, start),
    }.items():
        for protocol, some in (("new users", counts), ("new users, all", counts[:-2])):
            for count, rmse in cold_start(new, some, serve).items():
                tried = epochs.get(method.split()[0], {}).get(count)
                record(
                    protocol, method=method, metric="user_rmse", **bounds(interval(rmse)),
                    ratings=count, users=len(rmse), epochs=tried,
                )  # fmt: skip


def measure_ranking(record, ratings, train, test, stateful, of_item, weight, seed):
    """The last movie of each user, among all others and among 99."""
    task = leave_one_out(ratings, test, seed)
    seen = np.bincount(train.table["item"], minlength=ratings.num_items)
    stars, hits = score_all(stateful, task.users), {}
    count = float(np.median(task.all.sum(axis=1)))
    record("ranking, candidates", method="all", metric="movies", value=count)
    for method, scores in {
        "chance": 0 * of_item,
        "popularity": seen,
        "biases only": of_item,
        "stateful": stars,
        "stateful + log popularity": stars + np.float32(weight) * np.log1p(seen, dtype=np.float32),
    }.items():
        scores = np.broadcast_to(scores, stars.shape)
        given = dict(method=method, weight=weight if "log" in method else None)
        for candidates, among in (("all", task.all), ("99", task.sampled)):
            above, tied = places(scores, task.target, among)
            for metric, values in zip(("HR@10", "NDCG@10"), hit_and_gain(above, tied), strict=True):
                hits[method, candidates, metric] = values
                record(
                    "ranking", metric=metric, **bounds(interval(values)), candidates=candidates,
                    **given,
                )  # fmt: skip
            if candidates == "all":
                place = float(np.median(above + tied / 2)) + 1
                record("ranking, median place", metric="place", value=place, **given)
    for candidates in ("all", "99"):
        for metric in ("HR@10", "NDCG@10"):
            mixed, popular = (
                hits[method, candidates, metric]
                for method in ("stateful + log popularity", "popularity")
            )
            record(
                "ranking, mixture minus popularity", method="stateful + log popularity",
                metric=metric, **bounds(interval(mixed - popular)), candidates=candidates,
            )  # fmt: skip


class Choice:
    """The lowest validation error of a method so far, and what it was reached with."""

    def __init__(self, write, **shared):
        """Takes where to write every try."""
        self.write, self.shared, self.value, self.given, self.kept = write, shared, 9.0, {}, None

    def offer(self, value, kept=None, **given):
        """Writes a try, and keeps it if it is the best."""
        self.write(**self.shared, value=value, **given)
        if value < self.value:
            self.value, self.given, self.kept = value, given, copy.deepcopy(kept)


def choose(ratings, write):
    """Returns rounds, epochs and weight as `measure` takes them, chosen with seed 0."""
    users = known_and_new(ratings, 0, tuning=True)
    train, validation = users.known.train, users.known.validation
    shared = dict(data=ratings.name, seed=0)

    def choice(method, metric, **more):
        return Choice(write, **shared, protocol="validation", method=method, metric=metric, **more)

    def error(answers):
        scores = score_with_intervals(answers.predict(validation), validation, draws=2)
        return float(scores["value"]["rmse"])

    kept, forgot = choice("stateful", "rmse"), choice("stateless", "rmse")
    for given, rounds in TRIALS["stateful"]:
        recipe = build_recipe(train, FACTORS, **given)
        registry = StackedRegistry(recipe.client_state_fn, train.num_users)

        def judge(state, recipe=recipe, registry=registry, given=given):
            answers = Answers(state, registry, recipe.mean_rating)
            kept.offer(error(answers), answers, rounds=int(state.round_num), **given)
            return {}

        train_stateful(
            recipe, train, rounds, COHORT,
            registry=registry, evaluate_fn=judge, evaluate_every=EVERY,
        )  # fmt: skip
    for given, rounds in TRIALS["stateless"]:
        recipe = build_recipe(train, FACTORS, **given)

        def judge(state, recipe=recipe, given=given):
            for epochs in EPOCHS:
                value = error(rebuild(recipe, state, train, epochs))
                forgot.offer(value, state, rounds=int(state.round_num), epochs=epochs, **given)
            return {}

        train_stateless(
            recipe, train, rounds, COHORT,
            support_epochs=SUPPORT_EPOCHS, evaluate_fn=judge, evaluate_every=EVERY,
        )  # fmt: skip
    best = {"stateful": kept, "stateless": forgot}
    recipes = {m: {k: b.given[k] for k in ("l2", "rate")} for m, b in best.items()}
    states = {"stateful": kept.kept.server_state, "stateless": forgot.kept}
    new_epochs = {}
    for name, state in states.items():
        recipe = build_recipe(train, FACTORS, **recipes[name])
        tries = {n: choice(f"{name} items", "user_rmse", ratings=n) for n in COUNTS}
        for epochs in NEW_EPOCHS:
            served = cold_start(
                users.new, COUNTS,
                lambda s, q, n, r=recipe, state=state, e=epochs: rebuild(r, state, s, e).predict(q),
            )  # fmt: skip
            for count, rmse in served.mean().items():
                tries[count].offer(float(rmse), epochs=epochs)
        new_epochs[name] = {count: best.given["epochs"] for count, best in tries.items()}
    listed = choice("stateful + log popularity", "1 - NDCG@10")
    task = leave_one_out(ratings, validation)
    seen = np.bincount(train.table["item"], minlength=ratings.num_items).astype(np.float32)
    for weight in WEIGHTS:
        at = places(
            score_all(kept.kept, task.users) + weight * np.log1p(seen), task.target, task.all
        )
        listed.offer(1 - float(hit_and_gain(*at)[1].mean()), weight=weight)
    return dict(
        recipes=recipes,
        rounds={method: choice.given["rounds"] for method, choice in best.items()},
        support_epochs=SUPPORT_EPOCHS,
        epochs=forgot.given["epochs"],
        new_epochs=new_epochs,
        weight=listed.given["weight"],
    )


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    recorder = Recorder("who_gains")
    measure(synthetic_ratings(), 0, recorder.write, **SHORT)
    ratings = load_ratings("ml-1m")
    chosen = choose(ratings, recorder.write)
    for seed in range(seeds):
        measure(
            ratings, seed, recorder.write,
            cohort=COHORT, factors=FACTORS, counts=COUNTS, **chosen,
        )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
