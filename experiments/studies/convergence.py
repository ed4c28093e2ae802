"""Trains to convergence on ML-1M and writes what chapter 6 prints.

    python -m experiments.studies.convergence

The rounds and the server rate of each way of averaging are chosen on validation ratings; the
model is then trained again on 90% of all ratings and judged on the rest, for three seeds.
Takes about 20 minutes. STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import time

from experiments.record import Recorder

# isort: split
import tensorflow_federated as tff

from stateful_tff.baselines import predict, score_with_intervals
from stateful_tff.cohort import (
    CohortData,
    StackedRegistry,
    build_cohort_process,
    run_cohorts,
)
from stateful_tff.data import ClientDatasets, load_ratings, split_at_random
from stateful_tff.frame import build_model_fn
from stateful_tff.process import build_client_state_fn
from stateful_tff.simulation import biases_floor, evaluate

COHORT, FACTORS, L2, CLIENT_RATE, LOCAL_RATE, BATCH = 100, 50, 0.05, 0.5, 0.05, 5
# Per way of averaging: the server rates to try, and for how many rounds.
TRIALS = {"all": ([1.0], 3000), "touched": ([0.3, 0.5], 2400)}


def train(ratings, judged, seed, average, server_rate, rounds, every):
    """One run. Returns server state, registry, history and the mean rating."""
    mean = float(ratings.table["rating"].mean())
    model_fn = build_model_fn(
        ratings.num_items, FACTORS, biases=True, mean_rating=mean, l2=L2, seed=seed
    )
    client_state_fn = build_client_state_fn(model_fn)
    sgd = tff.learning.optimizers.build_sgdm
    process = build_cohort_process(
        model_fn, client_state_fn, sgd(server_rate), sgd(CLIENT_RATE), sgd(LOCAL_RATE),
        average=average,
    )  # fmt: skip
    registry = StackedRegistry(client_state_fn, ratings.num_users)
    data = CohortData(ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=seed))

    def judge(state):
        return {"judged_rmse": evaluate(state, registry, judged, mean)["rmse"]}

    state, history = run_cohorts(
        process, registry, data, rounds, COHORT,
        seed=seed, evaluate_fn=judge, evaluate_every=every,
    )  # fmt: skip
    return state, registry, history, mean


def interval(state, registry, test, mean):
    """RMSE and its 95% interval by bootstrap over users."""
    scores = score_with_intervals(predict(state, registry, test, mean), test)
    return tuple(float(number) for number in scores.loc["rmse"])


def choose(split, average, recorder):
    """Returns the server rate and the rounds with the lowest validation RMSE, seed 0."""
    rates, rounds = TRIALS[average]
    best = []
    for rate in rates:
        *_, history, _ = train(split.train, split.validation, 0, average, rate, rounds, 100)
        curve = history["judged_rmse"].dropna()
        for done, value in curve.items():
            recorder.write(
                data=split.train.name, protocol="seen, random, validation",
                method=average, seed=0, metric="rmse", value=float(value),
                server_rate=rate, rounds=int(done),
                seconds=round(float(history["seconds"][:done].sum()), 1),
            )  # fmt: skip
        best.append((curve.min(), rate, int(curve.idxmin())))
    return min(best)[1:]


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    ratings = load_ratings("ml-1m")
    recorder = Recorder("convergence")
    split = split_at_random(ratings, seed=0)
    chosen = {average: choose(split, average, recorder) for average in TRIALS}
    for seed in range(seeds):
        split = split_at_random(ratings, seed=seed)
        training = split.train_and_validation
        shared = dict(data=ratings.name, protocol="seen, random 90/10", seed=seed, metric="rmse")
        recorder.write(
            **shared, method="biases only", value=biases_floor(training, split.test)["rmse"]
        )
        for average, (rate, rounds) in chosen.items():
            start = time.perf_counter()
            state, registry, _, mean = train(
                training, split.test, seed, average, rate, rounds, rounds
            )
            seconds = time.perf_counter() - start
            value, low, high = interval(state, registry, split.test, mean)
            recorder.write(
                **shared, method=average, value=value, low=low, high=high,
                server_rate=rate, rounds=rounds, seconds=round(seconds, 1),
            )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
