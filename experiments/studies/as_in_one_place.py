"""How close federated training comes to training in one place, one lever at a time.

    python -m experiments.studies.as_in_one_place

Said before the runs: the primary endpoint is the paired difference of test RMSE between the arm
"federated" and "centralized SGD", on each protocol, over five seeds; the smallest effect of
interest is .002 stars. Every lever is judged on validation ratings, seed 0 of the random split;
the arm "federated" joins those that help. Every arm has the same data, factors, penalty, first
weights and cohorts unless its name says otherwise. Takes about an hour on two cores.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other ratings, `--data`.
"""

import argparse
import time
from functools import partial

from experiments.arms import (
    Arm,
    Recorder,
    Task,
    ratings_of,
    run_all,
    with_drift,
    write_difference,
    write_values,
)

# isort: split
import attrs
import tensorflow as tf

from stateful_tff.evaluation import centralized
from stateful_tff.methods import BOTH, Phase, alternating, equal_weights, in_phases, stateful
from stateful_tff.methods import weighted as weighted_by

NAME = "as_in_one_place"
EQUAL = equal_weights(stateful)
SERVED = dict(passes="solved", serve_l2=0.03, shrink=2.0)

BASE = Arm(**SERVED)
FEDERATED = Arm(method=EQUAL, server=8.0, falls=True, local=0.025, rounds=2000, **SERVED)

# One thing at a time from the base, then together.
LEVERS = {
    "base, as kept": attrs.evolve(BASE, passes=0),
    "base": BASE,
    "rate falls, 4 to 0": attrs.evolve(BASE, server=4.0, falls=True),
    "square-root weights, rate 4": attrs.evolve(
        BASE, method=weighted_by(stateful, tf.sqrt), server=4.0
    ),
    "equal weights, rate 4": attrs.evolve(BASE, method=EQUAL, server=4.0),
    "equal weights, rate falls, 16 to 0": attrs.evolve(BASE, method=EQUAL, server=16.0, falls=True),
    "equal weights, rate falls, 16 to 0, as kept": attrs.evolve(
        BASE, method=EQUAL, server=16.0, falls=True, passes=0
    ),
    "all of them, 2,000 rounds": FEDERATED,
    "2,000 rounds alone": attrs.evolve(BASE, rounds=2000),
    "two local epochs, 500 rounds": attrs.evolve(
        BASE,
        method=equal_weights(in_phases("two epochs", Phase("all", BOTH, 2))),
        server=8.0, falls=True, local=0.03, rounds=500,
    ),
    "alternating": attrs.evolve(
        BASE, method=equal_weights(alternating()), server=16.0, falls=True
    ),
    "604 clients, 300 rounds": attrs.evolve(
        BASE, method=EQUAL, server=14.0, falls=True, rounds=300, cohort_size=604
    ),
    "20 factors": attrs.evolve(BASE, method=EQUAL, server=16.0, falls=True, num_factors=20),
    "100 factors": attrs.evolve(BASE, method=EQUAL, server=16.0, falls=True, num_factors=100),
}  # fmt: skip
FINAL = {
    "base, as kept": LEVERS["base, as kept"],
    "base": BASE,
    "federated": FEDERATED,
    "federated, as kept": attrs.evolve(FEDERATED, passes=0),
}
# What the device can add, from the times of its own ratings; chosen on validation ratings.
DRIFTS = [(reach, shrink) for reach in (5.0, 10.0, 30.0) for shrink in (5.0, 8.0)]


def fitted_by_sgd(task: Task):
    """Plain SGD on all ratings in one place, with the same model."""
    return centralized.fit_sgd(
        task.training, num_factors=50, l2=0.05, rate=0.02, epochs=15, batch_size=1000,
        seed=task.seed,
    )  # fmt: skip


def sgd_in_one_place(task: Task):
    """The predictions of SGD; new users are fitted to their support ratings."""
    fitted = fitted_by_sgd(task)
    return (fitted.fold_in(task.support, 0.05, 2.0) if task.unseen else fitted).predict(task.judged)


def sgd_served_exactly(task: Task, drift=None):
    """The same, with the users' side fitted exactly at the end, as the federated arm is served."""
    fitted = fitted_by_sgd(task).fold_in(task.support, 0.03, 2.0)
    return with_drift(fitted.predict, task, drift)


def als_in_one_place(task: Task):
    """Alternating least squares on all ratings in one place."""
    fitted = centralized.fit_als(
        task.training, num_factors=50, l2=0.06, shrink=2.0, sweeps=8, seed=task.seed
    )
    return fitted.fold_in(task.support, 0.06, 2.0).predict(task.judged)


OTHERS = {
    "centralized SGD": sgd_in_one_place,
    "centralized SGD, served exactly": sgd_served_exactly,
    "centralized ALS": als_in_one_place,
}


def main() -> None:
    """Runs the levers on validation ratings, then the final arms on the test ratings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--protocols", nargs="+", default=["seen, random", "seen, time", "unseen"])
    parser.add_argument("--out", default=NAME)
    parser.add_argument("--without-levers", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    recorder = Recorder(options.out, ratings_of(options.data))
    shared = dict(data=ratings_of(options.data).name)
    if not options.without_levers:
        fields = shared | dict(protocol="seen, random, validation")
        found = run_all(options.data, "seen, random", [0], LEVERS, final=False)
        write_values(recorder, found, [0], **fields)
        for name in LEVERS:
            if name != "base" and name in found:
                write_difference(recorder, found, name, "base", **fields)
    seeds = range(options.seeds)
    for protocol in options.protocols:
        fields = shared | dict(protocol=protocol)
        # A new user has no state to be served as kept.
        arms = {k: arm for k, arm in FINAL.items() if arm.passes != 0 or protocol != "unseen"}
        tried = {f"drift {d}": attrs.evolve(FEDERATED, drift=d) for d in DRIFTS}
        found = run_all(options.data, protocol, [0], tried, final=False)
        write_values(recorder, found, [0], **shared, protocol=f"{protocol}, validation")
        best = min(DRIFTS, key=lambda d: found[f"drift {d}"][0][0].rmse)
        arms["federated and drift"] = attrs.evolve(FEDERATED, drift=best)
        others = OTHERS | {
            "centralized SGD, served exactly, and drift": partial(sgd_served_exactly, drift=best)
        }
        found = run_all(options.data, protocol, seeds, arms, others=others)
        write_values(recorder, found, seeds, **fields)
        for first, second in [
            ("federated", "centralized SGD"),
            ("federated", "centralized SGD, served exactly"),
            ("federated", "centralized ALS"),
            ("federated", "base"),
            ("federated", "federated, as kept"),
            ("federated and drift", "federated"),
            ("federated and drift", "centralized SGD, served exactly, and drift"),
        ]:
            if second in found:
                write_difference(recorder, found, first, second, **fields)
    recorder.write(
        **shared,
        protocol="all",
        method="all",
        metric="seconds of the study",
        value=time.perf_counter() - start,
    )
    recorder.finish()


if __name__ == "__main__":
    main()
