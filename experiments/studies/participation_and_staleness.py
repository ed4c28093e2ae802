"""Measures on ML-1M what participation does to kept state, and writes what chapter 9 prints.

    python -m experiments.studies.participation_and_staleness

Everything runs on the per-user time split. The server rate and all epochs are chosen on
validation ratings with seed 0; the models are then trained on train plus validation and judged on
the test ratings. At the end the first part runs once more, short and on synthetic data, so that a
test can repeat it. STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import functools
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor

import attrs
import numpy as np
import pandas as pd

from experiments.record import Recorder

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

ROUNDS, DRAWS = 60, 300
SHARES = [1, 1 / 10, 1 / 33, 1 / 100, 1 / 1000]
SERVER_RATES, EPOCHS, SERVE_EPOCHS = [1.0, 3.0], [1, 3], [3, 6]
GIVEN = {  # half-lives in rounds, and epochs
    "decayed toward the prior": [30, 100, 300, 1000],
    "a few local steps": [1],
    "many local steps": [3, 6],
    "reconstructed": [3, 6],
}
# The clients of the absence: away from LEAVE to RETURN; rounds of 100.
LEAVE, RETURN, END, STEP, COHORT = 100, 250, 300, 50, 100
AGES = pd.IntervalIndex.from_breaks([-1, 4, 14, 29, 59])
VISITS = pd.IntervalIndex.from_breaks([-1, 0, 1, 2, 3, 5, 1000])


def rmse(predicted, ratings) -> float:
    """The pooled RMSE alone."""
    error = np.clip(predicted, 1, 5) - ratings.table["rating"].to_numpy()
    return float(np.sqrt(np.mean(error**2)))


def metrics(predicted, ratings) -> list[dict]:
    """One row per metric, with its interval."""
    table = score_with_intervals(predicted, ratings, draws=DRAWS).drop(index="user_accuracy")
    return [{"metric": name} | row.to_dict() for name, row in table.iterrows()]


@functools.cache
def world(data, seed, rate, final):
    """A trial, schedules, and what to judge on: validation, or test with all else to train on."""
    split = split_by_time(synthetic_ratings() if data == "synthetic" else load_ratings(data))
    train = split.train_and_validation if final else split.train
    judged = split.test if final else split.validation
    return Trial(train, seed, rate), schedules(train), judged


@attrs.frozen
class Job:
    """One run: what to train how, in a process of its own or in this one."""

    data: str
    method: Method
    seed: int
    rate: float
    clients: int
    rounds: int
    schedule: str = "uniform"
    final: bool = True
    serve_epochs: tuple = ()  # also try these

    def __call__(self):
        """Returns predictions per number of epochs, visits, ages, and what the run was like."""
        trial, sample_fns, judged = world(self.data, self.seed, self.rate, self.final)
        start = time.perf_counter()
        state, registry = run_method(
            self.method, trial, self.rounds, self.clients,
            sample_fn=sample_fns[self.schedule],
        )  # fmt: skip
        seconds = time.perf_counter() - start
        predicted = {
            epochs: predict(
                state,
                serve(attrs.evolve(self.method, serve_epochs=epochs), trial, state, registry),
                judged,
                trial.mean_rating,
            )
            for epochs in self.serve_epochs or [self.method.serve_epochs]
        }
        visited = registry.visits > 0
        facts = dict(
            rounds=self.rounds, clients=self.clients, seed=self.seed,
            visits=float(registry.visits.mean()), never=float(1 - visited.mean()),
            age=float(registry.age[visited].mean()), seconds=round(seconds, 1),
        )  # fmt: skip
        return predicted, registry.visits, registry.age, facts


def call(job):
    """Runs a job; a pool of processes needs a function to do so."""
    return job()


def groups_of(visits, age) -> dict[str, pd.Categorical]:
    """Ways to group clients by their bookkeeping."""
    return {
        "age": pd.cut(np.where(visits > 0, age, -2), AGES),
        "age, one visit": pd.cut(np.where(visits == 1, age, -2), AGES),
        "visits": pd.cut(visits, VISITS),
    }


def label(interval: pd.Interval) -> str:
    """A half-open interval of whole numbers as a reader writes it."""
    first, last = int(interval.left) + 1, int(interval.right)
    return str(first) if first == last else f"{first} to {last}" if last < 1000 else f"{first}+"


def compare(run, judged, methods, seeds, write, grouped=False, **given):
    """All methods on one schedule, over seeds: the errors and their paired differences."""
    pairs = [(name, seed) for seed in seeds for name in methods]
    jobs = [Job(method=methods[name], seed=seed, **given) for name, seed in pairs]
    said = defaultdict(list)
    for (name, _), (predictions, visits, age, facts) in zip(pairs, run(call, jobs), strict=True):
        (predicted,) = predictions.values()
        said[name].append(predicted)
        for row in metrics(predicted, judged):
            write(method=name, **row, **facts)
        for by, groups in groups_of(visits, age).items() if grouped else ():
            for group, row in error_by(groups, predicted, judged).iterrows():
                write(
                    method=name, metric=f"rmse by {by}", group=label(group),
                    members=int(row["clients"]), **row[["value", "low", "high"]],
                    **{key: facts[key] for key in ("seed", "clients", "rounds")},
                )  # fmt: skip
    for one, other in (("stateful", "stateless"), ("hybrid", "stateless"), ("hybrid", "stateful")):
        value, low, high = rmse_difference(
            np.stack(said[one]), np.stack(said[other]), judged, DRAWS
        )
        write(
            method=f"{one} minus {other}", metric="rmse difference", seeds=len(seeds),
            clients=given["clients"], rounds=given["rounds"], value=value, low=low, high=high,
        )  # fmt: skip


def choose(run, validation, write, **given) -> tuple[float, dict[str, Method]]:
    """Returns the server rate and the methods with the lowest validation RMSE, with seed 0."""
    ways = [
        (name, Method(name != "stateless", visit), rate)
        for rate in SERVER_RATES
        for name in ("stateful", "hybrid", "stateless")
        for visit in ([0] if name == "stateful" else EPOCHS)
    ]
    jobs = [
        Job(
            method=method,
            seed=0,
            rate=rate,
            final=False,
            serve_epochs=tuple(SERVE_EPOCHS) if method.visit_epochs else (0,),
            **given,
        )  # fmt: skip
        for _, method, rate in ways
    ]
    tried = []
    for (name, method, rate), (predictions, *_) in zip(ways, run(call, jobs), strict=True):
        for epochs, predicted in predictions.items():
            value = rmse(predicted, validation)
            tried.append((value, name, rate, attrs.evolve(method, serve_epochs=epochs)))
            write(
                method=name, metric="rmse", value=value, seed=0, server_rate=rate,
                clients=given["clients"], rounds=given["rounds"],
                visit_epochs=method.visit_epochs, serve_epochs=epochs,
            )  # fmt: skip

    def best(name, rate):
        return min((t for t in tried if t[1:3] == (name, rate)), key=lambda t: t[0])

    names = ("stateful", "hybrid", "stateless")
    rate = min(SERVER_RATES, key=lambda rate: sum(best(name, rate)[0] for name in names))
    return rate, {name: best(name, rate)[3] for name in names}


def schedules(ratings) -> dict:
    """Schedules by name."""
    counts = np.diff(ratings.bounds)
    hours = ratings.table["timestamp"].to_numpy()[ratings.bounds[:-1]] % 86_400 / 3600
    return {
        "uniform": sample_cohort,
        "by activity": build_schedule(by_activity(counts)),
        "daily cycle": build_schedule(daily_cycle(hours, rounds_per_day=24)),
        # Long training is broken off more often: from never to nine times in ten.
        "drop-outs": build_schedule(drop_out=0.9 * counts.argsort().argsort() / len(counts)),
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


def absence(job) -> tuple[list, dict[str, list]]:
    """One run in which a fifth of the clients is away, and one in which nobody is.

    Returns the results, and what each mend was best given, judged when the clients return.
    """
    data, seed, rate, final, given = job
    trial, _, judged = world(data, seed, rate, final)
    rows, best = [], {}
    away = np.random.default_rng([trial.seed, 8]).random(trial.data.num_clients) < 0.2
    of_away = judged.select(away[judged.table["user"]])
    runs = {
        "gone": build_schedule(long_absence(away, LEAVE, RETURN)), "stayed": build_schedule()
    }  # fmt: skip
    now = dict.fromkeys(runs)
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
            rows.append(dict(method=name, metric="rmse", given=value, **row, **shared))
            if done == RETURN:
                best[name] = min(best.get(name, (9.0, None)), (row["value"], value))
        for name, value in drift(items[0], state.model_weights[0]).items():
            rows.append(dict(method="stateful", metric=f"drift, {name}", value=value, **shared))
    since = pd.cut(np.where(away, registry.visits - visits, -2), VISITS)
    predicted = predict(state, registry, judged, trial.mean_rating)
    for group, row in error_by(since, predicted, judged).iterrows():
        rows.append(
            dict(
                method="stateful", metric="rmse by visits since return", group=label(group),
                members=int(row["clients"]), **row[["value", "low", "high"]], **shared,
            )
        )  # fmt: skip
    return rows, {name: [value] for name, (_, value) in best.items()}


def short_rerun(write) -> None:
    """The first part on synthetic data, in this process: what the test repeats."""
    methods = {
        "stateful": Method(True), "hybrid": Method(True, 1, 3), "stateless": Method(False, 1, 3)
    }  # fmt: skip
    given = dict(data="synthetic", rate=3.0, clients=60, rounds=40)
    *_, judged = world("synthetic", 0, 3.0, True)
    compare(map, judged, methods, [0], write, **given)


def main() -> None:
    """Runs everything, two runs at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="ml-1m")
    options = parser.parse_args()
    data, seeds = options.data, range(options.seeds)
    ratings = synthetic_ratings() if data == "synthetic" else load_ratings(data)
    split, recorder = split_by_time(ratings), Recorder("participation_and_staleness")
    hundredth = ratings.num_users // 100

    def writer(protocol, **fixed):
        return lambda **fields: recorder.write(data=data, protocol=protocol, **fixed, **fields)

    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        validation = "seen, time, validation"
        given = dict(data=data, clients=hundredth, rounds=ROUNDS)
        rate, methods = choose(
            pool.map, split.validation, writer(validation, part="methods"), **given
        )
        ((rows, mends),) = pool.map(absence, [(data, 0, rate, False, GIVEN)])
        jobs = [(data, seed, rate, True, mends) for seed in seeds]
        parts = [(validation, rows), *(("seen, time", rows) for rows, _ in pool.map(absence, jobs))]
        for protocol, rows in parts:
            write = writer(protocol, part="absence", server_rate=rate)
            for row in rows:
                write(**row)
        write = writer("seen, time", part="floor", method="biases only", metric="rmse")
        write(value=biases_floor(split.train_and_validation, split.test)["rmse"])
        for share in SHARES:
            # Without a draw, seeds differ in the first weights and the order of ratings alone.
            write = writer("seen, time", part="rates", server_rate=rate, schedule="uniform")
            given["clients"] = max(1, round(share * ratings.num_users))
            compare(
                pool.map, split.test, methods, seeds[:1] if share == 1 else seeds, write,
                grouped=share == 1 / 100, rate=rate, **given,
            )  # fmt: skip
        for name in list(schedules(ratings))[1:]:
            # More are drawn where many drop out, so that about as many come back.
            given["clients"] = round(hundredth / (0.55 if name == "drop-outs" else 1))
            write = writer("seen, time", part="schedules", server_rate=rate, schedule=name)
            compare(
                pool.map, split.test, methods, seeds, write,
                rate=rate, schedule=name, **given,
            )  # fmt: skip
    short_rerun(
        lambda **f: recorder.write(data="synthetic", protocol="seen, time", part="short", **f)
    )
    recorder.finish()


if __name__ == "__main__":
    main()
