"""Trains to convergence on MovieLens-1M and writes what chapter 6 prints.

    python -m experiments.studies.convergence

The rounds and the server rate of each way of averaging are chosen on validation ratings; the
model is then trained again on 90% of all ratings and judged on the rest, for three seeds.
Takes about 20 minutes. With `--check` nothing is recorded: the models are trained with the
recorded choices, and compared with the recorded values. STATEFUL_TFF_DATA names the folder or
the zip of MovieLens-1M.
"""

import argparse
import json
import sys
import time

from experiments.record import RESULTS, Recorder, agree

# isort: split
from stateful_tff.data import load_ratings, split_at_random
from stateful_tff.evaluation.baselines import biases_baseline
from stateful_tff.evaluation.metrics import score_with_intervals
from stateful_tff.experiment import Experiment
from stateful_tff.methods import stateful, touched_rows

NAME, CLIENT_RATE, LOCAL_RATE = "convergence", 0.5, 0.05
METHODS = {"all": stateful, "touched": touched_rows}
# Per way of averaging: the server rates to try, and for how many rounds.
TRIALS = {"all": ([1.0], 3000), "touched": ([0.3, 0.5], 2400)}


def experiment(ratings, average: str, server_rate: float, seed: int) -> Experiment:
    """Returns what is trained: 50 factors with biases and L2 0.05, 100 clients a round."""
    rates = server_rate, CLIENT_RATE, LOCAL_RATE
    return Experiment(ratings, method=METHODS[average], rates=rates, seed=seed)


def choose(split, average: str, recorder) -> tuple[float, int]:
    """Returns the server rate and the rounds with the lowest validation RMSE, seed 0."""
    rates, rounds = TRIALS[average]
    best = []
    for rate in rates:
        e = experiment(split.train, average, rate, 0)
        history = e.train(
            rounds, lambda e=e: {"judged": e.score(split.validation)["rmse"]}, every=100
        )
        curve = history["judged"].dropna()
        for done, value in curve.items():
            recorder.write(
                data=split.train.name, protocol="seen, random, validation",
                method=average, seed=0, metric="rmse", value=float(value),
                server_rate=rate, rounds=int(done),
                seconds=round(float(history["seconds"][:done].sum()), 1),
            )  # fmt: skip
        best.append((curve.min(), rate, int(curve.idxmin())))
    return min(best)[1:]


def final(ratings, seed: int, chosen: dict):
    """Yields the results of a seed: biases only, then each way of averaging."""
    split = split_at_random(ratings, seed=seed)
    training, test = split.train_and_validation, split.test
    shared = dict(data=ratings.name, protocol="seen, random 90/10", seed=seed, metric="rmse")
    yield shared | dict(method="biases only", value=biases_baseline(training, test)["rmse"])
    for average, (rate, rounds) in chosen.items():
        start, e = time.perf_counter(), experiment(training, average, rate, seed)
        e.train(rounds)
        seconds = time.perf_counter() - start
        scores = score_with_intervals(e.predict(test), test).loc["rmse"].astype(float)
        yield shared | dict(method=average, **scores, server_rate=rate, rounds=rounds,
                            seconds=round(seconds, 1))  # fmt: skip


def check(ratings, seeds: list[int], methods: list[str]) -> bool:
    """Repeats the final runs with the recorded choices; tells whether their values come out."""
    lines = (RESULTS / f"{NAME}.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "validation" not in row["protocol"]]
    chosen = {r["method"]: (r["server_rate"], r["rounds"]) for r in rows if r["method"] in methods}
    return all([agree(row, rows) for seed in seeds for row in final(ratings, seed, chosen)])


def record(ratings, seeds: list[int], methods: list[str]) -> None:
    """Runs everything and records it."""
    recorder = Recorder(NAME, ratings)
    split = split_at_random(ratings, seed=0)
    chosen = {average: choose(split, average, recorder) for average in methods}
    for seed in seeds:
        for row in final(ratings, seed, chosen):
            recorder.write(**row)
    recorder.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(TRIALS), choices=list(TRIALS))
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    arguments = parser.parse_args()
    run = check if arguments.check else record
    sys.exit(run(load_ratings("ml-1m"), arguments.seeds, arguments.methods) is False)
