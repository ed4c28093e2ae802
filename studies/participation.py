"""Measures on ML-1M what participation does to kept state, and writes what chapter 8 prints.

    python studies/participation.py

Everything runs on the per-user time split. The server rate and all epochs are chosen on
validation ratings with seed 0; the models are then trained on train plus validation and judged on
the test ratings. At the end the first part runs once more, short and on synthetic data, so that a
test can repeat it. STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import time
from collections import defaultdict

import attrs
import numpy as np
import pandas as pd

from study import Recorder

# isort: split
from stateful_tff.baselines import adapt, predict, score_with_intervals
from stateful_tff.data import load_ratings, split_by_time, synthetic_ratings
from stateful_tff.participation import (
    Method,
    Trial,
    aligned,
    build_schedule,
    by_activity,
    daily_cycle,
    decayed,
    drift,
    error_by,
    long_absence,
    rmse_difference,
    rotation_between,
    run_method,
    serve,
)
from stateful_tff.simulation import biases_floor, sample_cohort

ROUNDS = 120
SHARES = [1, 1 / 10, 1 / 33, 1 / 100, 1 / 1000]
SERVER_RATES, EPOCHS, SERVE_EPOCHS = [1.0, 3.0], [1, 3], [3, 6, 10]
GIVEN = {  # half-lives in rounds, and epochs
    "decayed toward the prior": [30, 100, 300, 1000, 3000],
    "a few local steps": [1],
    "many local steps": [3, 6, 10],
    "reconstructed": [3, 6, 10],
}
# The clients of the absence: away from LEAVE to RETURN; rounds of 100.
LEAVE, RETURN, END, STEP, COHORT = 150, 400, 500, 50, 100
AGES = pd.IntervalIndex.from_breaks([-1, 9, 29, 59, 119])
VISITS = pd.IntervalIndex.from_breaks([-1, 0, 1, 2, 3, 5, 1000])


def rmse(predicted, ratings) -> float:
    """The pooled RMSE alone."""
    error = np.clip(predicted, 1, 5) - ratings.table["rating"].to_numpy()
    return float(np.sqrt(np.mean(error**2)))


def metrics(predicted, ratings) -> list[dict]:
    """One row per metric, with its interval."""
    table = score_with_intervals(predicted, ratings, draws=500).drop(index="user_accuracy")
    return [{"metric": name} | row.to_dict() for name, row in table.iterrows()]


def measure(trial, method, test, cohort_size, rounds, sample_fn=sample_cohort):
    """Trains and serves. Returns predictions, state, registry, and what the run was like."""
    start = time.perf_counter()
    state, registry = run_method(method, trial, rounds, cohort_size, sample_fn=sample_fn)
    seconds = time.perf_counter() - start
    predicted = predict(state, serve(method, trial, state, registry), test, trial.mean_rating)
    visited = registry.visits > 0
    facts = dict(
        rounds=rounds, clients=cohort_size, seed=trial.seed,
        visits=float(registry.visits.mean()), never=float(1 - visited.mean()),
        age=float(registry.age[visited].mean()), seconds=round(seconds, 1),
    )  # fmt: skip
    return predicted, registry, facts


def groups_of(registry) -> dict[str, pd.Categorical]:
    """Ways to group clients by their bookkeeping."""
    age, visits = registry.age, registry.visits
    return {
        "age": pd.cut(np.where(visits > 0, age, -2), AGES),
        "age, one visit": pd.cut(np.where(visits == 1, age, -2), AGES),
        "visits": pd.cut(visits, VISITS),
    }


def label(interval: pd.Interval) -> str:
    """A half-open interval of whole numbers as a reader writes it."""
    first, last = int(interval.left) + 1, int(interval.right)
    return str(first) if first == last else f"{first} to {last}" if last < 1000 else f"{first}+"


def compare(trials, methods, test, clients, rounds, write, sample_fn=sample_cohort, grouped=False):
    """All methods on one schedule, over seeds: the errors and their paired differences."""
    said = defaultdict(list)
    for trial in trials:
        for name, method in methods.items():
            predicted, registry, facts = measure(trial, method, test, clients, rounds, sample_fn)
            said[name].append(predicted)
            for row in metrics(predicted, test):
                write(method=name, **row, **facts)
            for by, groups in groups_of(registry).items() if grouped else ():
                table = error_by(groups, predicted, test)
                for group, row in table.iterrows():
                    write(
                        method=name, metric=f"rmse by {by}", group=label(group), seed=trial.seed,
                        clients=clients, rounds=rounds, members=int(row["clients"]),
                        **row[["value", "low", "high"]],
                    )  # fmt: skip
    for one, other in (("stateful", "stateless"), ("hybrid", "stateless"), ("hybrid", "stateful")):
        value, low, high = rmse_difference(np.stack(said[one]), np.stack(said[other]), test)
        write(
            method=f"{one} minus {other}", metric="rmse difference", seeds=len(trials),
            clients=clients, rounds=rounds, value=value, low=low, high=high,
        )  # fmt: skip


def choose(split, write) -> tuple[float, dict[str, Method]]:
    """Returns the server rate and the methods with the lowest validation RMSE, at 1 in 100."""
    clients, best = split.train.num_users // 100, {}
    for rate in SERVER_RATES:
        trial = Trial(split.train, 0, rate)
        for name, keeps, visits in [
            ("stateful", True, [0]), ("hybrid", True, EPOCHS), ("stateless", False, EPOCHS)
        ]:  # fmt: skip
            for visit in visits:
                state, registry = run_method(Method(keeps, visit), trial, ROUNDS, clients)
                for epochs in SERVE_EPOCHS if visit else [0]:
                    method = Method(keeps, visit, epochs)
                    served = serve(method, trial, state, registry)
                    value = rmse(
                        predict(state, served, split.validation, trial.mean_rating),
                        split.validation,
                    )
                    write(
                        method=name, metric="rmse", value=value, seed=0, server_rate=rate,
                        clients=clients, rounds=ROUNDS, visit_epochs=visit, serve_epochs=epochs,
                    )  # fmt: skip
                    best[name, rate] = min(
                        best.get((name, rate), (9.0, None)), (value, method), key=lambda b: b[0]
                    )
    rate = min(SERVER_RATES, key=lambda r: sum(v[0] for (_, of), v in best.items() if of == r))
    return rate, {name: best[name, rate][1] for name in ("stateful", "hybrid", "stateless")}


def schedules(ratings, clients: int) -> dict[str, tuple]:
    """Name, cohort size and schedule; each brings back about as many clients per round."""
    counts = np.diff(ratings.bounds)
    first = ratings.bounds[:-1]
    hours = ratings.table["timestamp"].to_numpy()[first] % 86_400 / 3600
    lost = 0.9 * counts.argsort().argsort() / len(counts)  # long training is broken off more often
    return {
        "by activity": (clients, build_schedule(by_activity(counts))),
        "daily cycle": (clients, build_schedule(daily_cycle(hours, rounds_per_day=24))),
        "drop-outs": (round(clients / (1 - lost.mean())), build_schedule(drop_out=lost)),
    }


def mended(trial, state, registry, away, items, given):
    """Yields each mend's name, what it was given, and server state and registry to predict with."""
    clients = np.flatnonzero(away)

    def trained(start, epochs):
        return adapt(trial.reconstruct, state, start, trial.data, clients, epochs=epochs)

    yield "stored state as it is", None, state, registry
    yield "with the items of that day", None, attrs.evolve(state, model_weights=items), registry
    rotation = rotation_between(items[0], state.model_weights[0])
    yield "aligned by a rotation", None, state, aligned(registry, rotation)
    for half_life in given["decayed toward the prior"]:
        faded = decayed(registry, trial.first, half_life)
        yield "decayed toward the prior", half_life, state, faded
    for name, start in {
        "a few local steps": registry, "many local steps": registry, "reconstructed": trial.first
    }.items():  # fmt: skip
        for epochs in given[name]:
            yield name, epochs, state, trained(start, epochs)


def absence(trial, judged, write, given) -> dict[str, list]:
    """One run in which a fifth of the clients is away, and one in which nobody is.

    Returns what each mend was best given, judged when the clients return.
    """
    away = np.random.default_rng([trial.seed, 8]).random(trial.data.num_clients) < 0.2
    of_away = judged.select(away[judged.table["user"]])
    runs = {
        "gone": build_schedule(long_absence(away, LEAVE, RETURN)), "stayed": build_schedule()
    }  # fmt: skip
    now, best = dict.fromkeys(runs), {}
    for done in (LEAVE, *range(LEAVE + STEP, END + 1, STEP)):
        for name, schedule in runs.items():
            rounds = LEAVE if done == LEAVE else STEP
            now[name] = run_method(
                Method(True), trial, rounds, COHORT, start=now[name], sample_fn=schedule
            )
        state, registry = now["gone"]
        if done == LEAVE:
            items = [np.array(weights) for weights in state.model_weights]
        if done == RETURN:
            visits = registry.visits.copy()
        shared = dict(seed=trial.seed, clients=COHORT, rounds=done)
        if done <= RETURN:
            mends = list(mended(trial, state, registry, away, items, given))
        else:
            mends = [("stored state as it is", None, state, registry)]
        for name, value, *model in [*mends, ("never away", None, *now["stayed"])]:
            predicted = predict(*model, of_away, trial.mean_rating)
            row = score_with_intervals(predicted, of_away).loc["rmse"]
            write(method=name, metric="rmse", given=value, **row, **shared)
            if done == RETURN:
                best[name] = min(best.get(name, (9.0, None)), (row["value"], value))
        for name, value in drift(items[0], state.model_weights[0]).items():
            write(method="stateful", metric=f"drift, {name}", value=value, **shared)
    since = pd.cut(np.where(away, registry.visits - visits, -2), VISITS)
    predicted = predict(state, registry, judged, trial.mean_rating)
    for group, row in error_by(since, predicted, judged).iterrows():
        write(
            method="stateful", metric="rmse by visits since return", group=label(group),
            members=int(row["clients"]), **row[["value", "low", "high"]], **shared,
        )  # fmt: skip
    return {name: [value] for name, (_, value) in best.items()}


def short_rerun(write) -> None:
    """The first part on synthetic data: what the test repeats."""
    split = split_by_time(synthetic_ratings())
    methods = {
        "stateful": Method(True), "hybrid": Method(True, 1, 3), "stateless": Method(False, 1, 3)
    }  # fmt: skip
    trial = Trial(split.train_and_validation, seed=0, num_factors=10)
    compare([trial], methods, split.test, 60, 40, write)


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    ratings = load_ratings("ml-1m")
    split, recorder = split_by_time(ratings), Recorder("08_participation_and_staleness")
    training, hundredth = split.train_and_validation, ratings.num_users // 100

    def writer(protocol, **fixed):
        def write(**fields):
            recorder.write(data=ratings.name, protocol=protocol, **fixed, **fields)

        return write

    rate, methods = choose(split, writer("seen, time, validation", part="methods"))
    given = absence(
        Trial(split.train, 0, rate), split.validation,
        writer("seen, time, validation", part="absence"), GIVEN,
    )  # fmt: skip
    trials = [Trial(training, seed, rate) for seed in range(seeds)]
    test = split.test
    write = writer("seen, time", part="floor", method="biases only", metric="rmse")
    write(value=biases_floor(training, test)["rmse"])
    for share in SHARES:
        # Without a draw, seeds differ in the first weights and the order of ratings alone.
        write = writer("seen, time", part="rates", server_rate=rate, schedule="uniform")
        few = trials[:1] if share == 1 else trials
        clients = max(1, round(share * ratings.num_users))
        compare(few, methods, test, clients, ROUNDS, write, grouped=clients == hundredth)
    for name, (clients, sample_fn) in schedules(ratings, hundredth).items():
        write = writer("seen, time", part="schedules", server_rate=rate, schedule=name)
        compare(trials, methods, test, clients, ROUNDS, write, sample_fn)
    for trial in trials:
        write = writer("seen, time", part="absence", server_rate=rate)
        absence(trial, test, write, given)
    short_rerun(
        lambda **f: recorder.write(data="synthetic", protocol="seen, time", part="short", **f)
    )
    recorder.finish()


if __name__ == "__main__":
    main()
