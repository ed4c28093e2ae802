"""Measures on ML-1M what participation does to kept state, and writes what chapter 9 prints.

    python -m experiments.studies.participation_and_staleness

Everything runs on the per-user time split. The server rate and all epochs are chosen on
validation ratings with seed 0; the models are then trained on train plus validation and judged on
the test ratings. At the end the first part runs once more, short and on synthetic data, so that a
test can repeat it. Takes about 10 minutes. With `--check` nothing is recorded: the short part and
a few runs on ML-1M are repeated and compared with what is recorded, to five places.
STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import functools
import multiprocessing
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor

import attrs
import numpy as np
import pandas as pd

from experiments.record import Check, Recorder

# isort: split
from stateful_tff.data import load_ratings, split_by_time, synthetic_ratings
from stateful_tff.evaluation.baselines import biases_baseline
from stateful_tff.evaluation.metrics import error_by, rmse_difference, score, score_with_intervals
from stateful_tff.evaluation.participation import ByActivity, DailyCycle, LongAbsence, Schedule
from stateful_tff.evaluation.staleness import aligned, decayed, drift, rotation_between
from stateful_tff.experiment import Experiment
from stateful_tff.methods import alternating, keep_local_weights, keep_nothing, stateful
from stateful_tff.stores.memory import stacked_rows
from stateful_tff.training import UniformSampler

NAME = "participation_and_staleness"
ROUNDS, DRAWS = 60, 300
SHARES = [1, 1 / 10, 1 / 33, 1 / 100, 1 / 1000]
METHODS = ("stateful", "hybrid", "stateless")
SERVER_RATES, EPOCHS, SERVE_EPOCHS = [1.0, 3.0], [1, 3], (3, 6)
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
# What `--check` and the short part use in place of a choice: epochs of a visit, and of serving.
CHOSEN = {"stateful": (0, 0), "hybrid": (3, 6), "stateless": (3, 6)}
SHORT = {"stateful": (0, 0), "hybrid": (1, 3), "stateless": (1, 3)}


@functools.cache
def parts(data, final):
    """Returns what to train on and what to judge on: test ratings in the end, else validation."""
    split = split_by_time(synthetic_ratings() if data == "synthetic" else load_ratings(data))
    return (split.train_and_validation, split.test) if final else (split.train, split.validation)


@functools.cache
def experiment(data, final, method, visit_epochs, rate, seed) -> Experiment:
    """Returns an experiment without a round; the runs are branches of it."""
    keep = keep_nothing if method == "stateless" else keep_local_weights
    value = alternating(visit_epochs, joint=True, keep=keep) if visit_epochs else stateful
    return Experiment(parts(data, final)[0], method=value, rates=(rate, 0.5, 0.05), seed=seed)


def sampler(train, name, clients, seed):
    """Returns a schedule by its name."""
    counts = np.diff(train.bounds)
    if name == "uniform":
        return UniformSampler(train.num_users, clients, seed)
    if name == "drop-outs":
        # Long training is broken off more often: from never to nine times in ten.
        lost = 0.9 * counts.argsort().argsort() / len(counts)
        return Schedule(train.num_users, clients, drop_out=lost, seed=seed)
    hours = train.table["timestamp"].to_numpy()[train.bounds[:-1]] % 86_400 / 3600
    conditions = {"by activity": ByActivity(counts), "daily cycle": DailyCycle(hours, 24)}
    return Schedule(train.num_users, clients, [conditions[name]], seed=seed)


def bounds(three):
    """Returns a value and its interval as fields of a result."""
    return dict(zip(("value", "low", "high"), three, strict=True))


def run_job(job) -> tuple:
    """Trains, in a process of its own or in this one.

    Args:
        job: data, final, method, visit_epochs, rate, seed, schedule, clients, rounds, and
            serve_epochs, the numbers of epochs to serve with.

    Returns:
        Predictions per number of epochs, visits, ages, and what the run was like.
    """
    names = ("data", "final", "method", "visit_epochs", "rate", "seed")
    train, judged = parts(job["data"], job["final"])
    start = time.perf_counter()
    built = experiment(*(job[name] for name in names))
    run = built.branch(sampler(train, job["schedule"], job["clients"], job["seed"]))
    run.train(job["rounds"])
    seconds = time.perf_counter() - start
    predicted = {epochs: run.predict(judged, run.serve(epochs)) for epochs in job["serve_epochs"]}
    visits, age = run.store.num_visits, run.store.age
    facts = {name: job[name] for name in ("rounds", "clients", "seed")} | dict(
        visits=float(visits.mean()), never=float(np.mean(visits == 0)),
        age=float(age[visits > 0].mean()), seconds=round(seconds, 1),
    )  # fmt: skip
    return predicted, visits, age, facts


def label(interval: pd.Interval) -> str:
    """Returns a half-open interval of whole numbers as a reader writes it."""
    first, last = int(interval.left) + 1, int(interval.right)
    return str(first) if first == last else f"{first} to {last}" if last < 1000 else f"{first}+"


def write_groups(metric, groups, predicted, judged, write, **shared):
    """Writes the RMSE of groups of clients."""
    for group, row in error_by(groups, predicted, judged).iterrows():
        write(
            metric=f"rmse by {metric}", group=label(group), members=int(row["clients"]),
            **row[["value", "low", "high"]], **shared,
        )  # fmt: skip


def compare(run, chosen, seeds, write, grouped=False, *, schedule="uniform", **given):
    """Runs all methods on one schedule, over seeds; writes errors and paired differences."""
    pairs = [(method, seed) for seed in seeds for method in chosen]
    jobs = [
        dict(method=method, visit_epochs=chosen[method][0], serve_epochs=[chosen[method][1]],
             seed=seed, schedule=schedule, final=True, **given)
        for method, seed in pairs
    ]  # fmt: skip
    _, judged = parts(given["data"], True)
    found = defaultdict(list)
    for (method, _), (predictions, visits, age, facts) in zip(
        pairs, run(run_job, jobs), strict=True
    ):
        (predicted,) = predictions.values()
        found[method].append(predicted)
        table = score_with_intervals(predicted, judged, draws=DRAWS).drop(index="user_accuracy")
        for metric, row in table.iterrows():
            write(method=method, metric=metric, **row, **facts)
        shared = dict(method=method, **{key: facts[key] for key in ("seed", "clients", "rounds")})
        for by, groups in {
            "age": pd.cut(np.where(visits > 0, age, -2), AGES),
            "age, one visit": pd.cut(np.where(visits == 1, age, -2), AGES),
            "visits": pd.cut(visits, VISITS),
        }.items():
            if grouped:
                write_groups(by, groups, predicted, judged, write, **shared)
    for one, other in (("stateful", "stateless"), ("hybrid", "stateless"), ("hybrid", "stateful")):
        three = rmse_difference(np.stack(found[one]), np.stack(found[other]), judged, DRAWS)
        write(
            method=f"{one} minus {other}", metric="rmse difference", seeds=len(seeds),
            clients=given["clients"], rounds=given["rounds"], **bounds(three),
        )  # fmt: skip


def choose(run, write, **given) -> tuple[float, dict]:
    """Returns the server rate and the epochs with the lowest validation RMSE, with seed 0."""
    jobs = [
        dict(
            method=method, visit_epochs=epochs, serve_epochs=SERVE_EPOCHS if epochs else (0,),
            rate=rate, seed=0, schedule="uniform", final=False, **given,
        )
        for rate in SERVER_RATES
        for method in METHODS
        for epochs in ([0] if method == "stateful" else EPOCHS)
    ]  # fmt: skip
    best = {}
    for job, (predictions, *_) in zip(jobs, run(run_job, jobs), strict=True):
        for epochs, predicted in predictions.items():
            value = score(predicted, parts(given["data"], False)[1])["rmse"]
            rate, method, visit_epochs = job["rate"], job["method"], job["visit_epochs"]
            tried = value, (visit_epochs, epochs)
            best[rate, method] = min(best.get((rate, method), (9.0,)), tried)
            write(
                method=method, metric="rmse", value=value, seed=0, server_rate=rate,
                clients=given["clients"], rounds=given["rounds"],
                visit_epochs=visit_epochs, serve_epochs=epochs,
            )  # fmt: skip
    rate = min(SERVER_RATES, key=lambda rate: sum(best[rate, method][0] for method in METHODS))
    return rate, {method: best[rate, method][1] for method in METHODS}


def remedies(run, first, away, old_items, given):
    """Yields what may help the clients who return: name, what it is given, their side, items."""
    store, clients = run.store, np.flatnonzero(away)
    states = store[range(store.num_clients)]
    yield "stored state as it is", None, run.local_weights(), store.server_state
    on_old = attrs.evolve(store.server_state, model_weights=old_items)
    yield "with the items of that day", None, run.local_weights(), on_old
    rotation = rotation_between(old_items[0], store.server_state.model_weights[0])
    turned = aligned(states, rotation)
    yield "aligned by a rotation", None, stacked_rows(turned.local_weights), store.server_state
    for half_life in given["decayed toward the prior"]:
        faded = decayed(states, first, store.round_num, half_life)
        local = stacked_rows(faded.local_weights)
        yield "decayed toward the prior", half_life, local, store.server_state
    rebuilt = stacked_rows(first.local_weights)
    starts = {"a few local steps": None, "many local steps": None, "reconstructed": rebuilt}
    for name, start in starts.items():
        for epochs in given[name]:
            local = run.serve(epochs, users=clients, start=start)
            yield name, epochs, local, store.server_state


def absence(job) -> tuple[list, dict[str, list]]:
    """One run in which a fifth of the clients is away, and one in which nobody is.

    Returns the results, and what each remedy was best given, judged when the clients return.
    """
    data, seed, rate, final, given = job
    train, judged = parts(data, final)
    away = np.random.default_rng([seed, 8]).random(train.num_users) < 0.2
    of_away = judged.select(away[judged.table["user"]])
    built, rows, best = experiment(data, final, "stateful", 0, rate, seed), [], {}
    first = built.store[range(train.num_users)]
    leaves = [LongAbsence(away, LEAVE, RETURN)]
    gone = built.branch(Schedule(train.num_users, COHORT, leaves, seed=seed))
    stayed = built.branch(Schedule(train.num_users, COHORT, seed=seed))
    for done in (LEAVE, *range(LEAVE + STEP, END + 1, STEP)):
        gone.train(done)
        stayed.train(done)
        state = gone.store.server_state
        if done == LEAVE:
            items = [np.array(weights) for weights in state.model_weights]
        if done == RETURN:
            visits = gone.store.num_visits
        shared = dict(seed=seed, clients=COHORT, rounds=done)
        tried = list(remedies(gone, first, away, items, given))
        if done > RETURN:
            tried = tried[:1]
        now = "never away", None, stayed.local_weights(), stayed.store.server_state
        for name, value, local, server_state in [*tried, now]:
            served = gone.branch()
            served.store.server_state = server_state
            predicted = served.predict(of_away, local)
            row = score_with_intervals(predicted, of_away).loc["rmse"]
            rows.append(dict(method=name, metric="rmse", given=value, **row, **shared))
            if done == RETURN:
                best[name] = min(best.get(name, (9.0, None)), (row["value"], value))
        for name, value in drift(items[0], state.model_weights[0]).items():
            rows.append(dict(method="stateful", metric=f"drift, {name}", value=value, **shared))
    since = pd.cut(np.where(away, gone.store.num_visits - visits, -2), VISITS)
    write_groups(
        "visits since return", since, gone.predict(judged), judged,
        lambda **row: rows.append(row), method="stateful", **shared,
    )  # fmt: skip
    return rows, {name: [value] for name, (_, value) in best.items()}


def short_rerun(write) -> None:
    """The first part on synthetic data, in this process: what the test repeats."""
    given = dict(data="synthetic", rate=3.0, clients=60, rounds=40)
    compare(map, SHORT, [0], write, **given)


def in_part(write, data, protocol, part, **more):
    """Returns a function that writes with the fields of a part filled in."""
    return functools.partial(write, data=data, protocol=protocol, part=part, **more)


def check() -> bool:
    """Repeats some runs with the recorded choices; tells whether the recorded values come out."""
    checked = Check(NAME)
    short_rerun(in_part(checked.write, "synthetic", "seen, time", "short"))
    given = dict(data="ml-1m", rate=3.0, rounds=ROUNDS, clients=60)
    shared = dict(server_rate=3.0, schedule="uniform")
    write = in_part(checked.write, "ml-1m", "seen, time", "rates", **shared)

    def one_seed(metric, **row):  # the recorded differences pool three
        if metric != "rmse difference":
            write(metric=metric, **row)

    compare(map, CHOSEN, [0], one_seed, grouped=True, **given)
    best = {row["method"]: [row["given"]] for row in checked.recorded
            if row["protocol"] == "seen, time" and row.get("given")}  # fmt: skip
    for row in absence(("ml-1m", 0, 3.0, True, best))[0]:
        in_part(checked.write, "ml-1m", "seen, time", "absence", server_rate=3.0)(**row)
    return checked.finish()


def main(data, seeds) -> None:
    """Runs everything, two runs at a time."""
    train, test = parts(data, True)
    recorder, hundredth = Recorder(NAME), train.num_users // 100
    final, validation = "seen, time", "seen, time, validation"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        given = dict(data=data, clients=hundredth, rounds=ROUNDS)
        write = in_part(recorder.write, data, validation, "methods")
        rate, chosen = choose(pool.map, write, **given)
        ((rows, best),) = pool.map(absence, [(data, 0, rate, False, GIVEN)])
        jobs = [(data, seed, rate, True, best) for seed in seeds]
        found = [(validation, rows), *((final, rows) for rows, _ in pool.map(absence, jobs))]
        for protocol, rows in found:
            for row in rows:
                in_part(recorder.write, data, protocol, "absence", server_rate=rate)(**row)
        baseline = biases_baseline(train, test)["rmse"]
        write = in_part(recorder.write, data, final, "floor")
        write(method="biases only", metric="rmse", value=baseline)

        def measure(part, schedule, clients, seeds, grouped=False):
            shared = dict(server_rate=rate, schedule=schedule)
            write = in_part(recorder.write, data, final, part, **shared)
            compare(
                pool.map, chosen, seeds, write, grouped,
                schedule=schedule, **given | dict(clients=clients, rate=rate),
            )  # fmt: skip

        for share in SHARES:
            # Without a draw, seeds differ in the first weights and the order of ratings alone.
            clients, some = (
                max(1, round(share * train.num_users)),
                seeds[: 1 if share == 1 else None],
            )
            measure("rates", "uniform", clients, some, grouped=share == 1 / 100)
        for name in ("by activity", "daily cycle", "drop-outs"):
            # More are drawn where many drop out, so that about as many come back.
            measure("schedules", name, round(hundredth / (0.55 if "drop" in name else 1)), seeds)
    short_rerun(in_part(recorder.write, "synthetic", final, "short"))
    recorder.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(not check())
    main(arguments.data, range(arguments.seeds))
