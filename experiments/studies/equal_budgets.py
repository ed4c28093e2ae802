"""The methods of the literature on one model, each with the same budget for its settings.

    python -m experiments.studies.equal_budgets

Every method gets the same twelve settings, drawn at random from the same ranges, and is judged
with each of them on the validation ratings of seed 0, served by the exact solution. Its best
setting then trains on the rest for five seeds and is judged on test ratings, once served exactly
and once, where a client has a side of its own, as it was kept.

Said before the runs. Primary endpoint: the paired difference of each method to "FedSim, served
exactly" on the random split; the smallest effect of interest is .002 stars. Expected: no
difference among the methods that train on all ratings, whether they keep a state or not; worse
are FedRecon with half the ratings and averaging users at the server.
Takes about 40 minutes on two cores. STATEFUL_TFF_DATA names the folder or the zip of ML-1M.
"""

import argparse
import time

from experiments.arms import (
    Arm,
    Recorder,
    Task,
    errors,
    ratings_of,
    run_all,
    write_difference,
    write_values,
)

# isort: split
import attrs
import numpy as np

from stateful_tff.evaluation.baselines import fit_biases
from stateful_tff.methods import (
    GLOBAL,
    LOCAL,
    Phase,
    alternating,
    equal_weights,
    fed_avg,
    fed_recon,
    in_phases,
    keep_nothing,
    stateful,
    touched_rows,
)

NAME = "equal_budgets"
TRIALS = 12
# Ranges, the same for all methods; rates and penalties are drawn evenly on a log scale.
SERVER, LOCAL_RATE, L2 = (1.0, 32.0), (0.01, 0.2), (0.02, 0.1)


def methods(num_users: int) -> dict:
    """Returns the methods by the names of the literature, and whether a client has a side."""
    als = in_phases(
        "federated ALS",
        Phase("all", LOCAL, solve=True),
        Phase("all", GLOBAL),
        client_state_fn=keep_nothing,
    )
    return {
        "FedSim": (stateful, True),
        "FedAlt": (alternating(), True),
        "touched rows": (touched_rows, True),
        "FedRecon, half the ratings": (fed_recon(3), False),
        "FedRecon, all ratings": (fed_recon(3, split=False), False),
        "federated ALS": (als, False),
        "FedAvg, users at the server": (fed_avg(num_users), True),
    }


def settings(trials: int) -> list[dict]:
    """Returns the settings that every method is tried with."""
    rng = np.random.default_rng(0)

    def between(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return [
        dict(
            server=between(*SERVER),
            local=between(*LOCAL_RATE),
            l2=between(*L2),
            falls=bool(rng.integers(2)),
            equal=bool(rng.integers(2)),
        )
        for _ in range(trials)
    ]


def arm(method, equal: bool, **setting) -> Arm:
    """Returns an arm of a method, served by the exact solution."""
    method = equal_weights(method) if equal else method
    return Arm(method=method, passes="solved", shrink=2.0, **setting)


def biases_only(task: Task) -> np.ndarray:
    """The predictions of the mean, the movies' and the users' biases."""
    fitted = fit_biases(task.training)
    return (fitted.fold_in(task.support) if task.unseen else fitted).predict(task.judged)


def main() -> None:
    """Tunes each method on validation ratings, and judges it on test ratings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    start, seeds = time.perf_counter(), range(options.seeds)
    ratings = ratings_of(options.data)
    recorder = Recorder(options.out, ratings)
    shared = dict(data=ratings.name)
    tried, best = settings(options.trials), {}
    for name, (method, keeps) in methods(ratings.num_users).items():
        arms = {
            f"{name}, trial {n}": arm(method, rounds=options.rounds, **setting)
            for n, setting in enumerate(tried)
        }
        found = run_all(options.data, "seen, random", [0], arms, final=False)
        rmse = [errors(found[key])[0].rmse if key in found else float("inf") for key in arms]
        for setting, value in zip(tried, rmse, strict=True):
            recorder.write(
                **shared, protocol="seen, random, validation", method=name, metric="rmse",
                value=value if np.isfinite(value) else None, diverged=not np.isfinite(value),
                **setting,
            )  # fmt: skip
        chosen = arms[f"{name}, trial {int(np.argmin(rmse))}"]
        best[f"{name}, served exactly"] = chosen
        if keeps:
            best[f"{name}, as kept"] = attrs.evolve(chosen, passes=0)
    fields = shared | dict(protocol="seen, random")
    others = {"biases only": biases_only}
    found = run_all(options.data, "seen, random", seeds, best, others=others)
    found = {name: results for name, results in found.items() if len(results) == options.seeds}
    for name in best.keys() - found.keys():  # said by `run_all`, and in the results
        recorder.write(**fields, method=name, metric="rmse", value=None, diverged=True)
    write_values(recorder, found, seeds, **fields)
    for name in found:
        if name != "FedSim, served exactly":
            write_difference(recorder, found, name, "FedSim, served exactly", **fields)
    recorder.write(
        **shared, protocol="all", method="all", metric="seconds of the study",
        value=time.perf_counter() - start,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
