"""How close federated training comes to training in one place, one lever at a time.

    python -m experiments.studies.as_in_one_place

Said before the runs: the primary endpoint is the paired difference of test RMSE between the arm
"federated" and "centralized SGD", on each protocol, over five seeds; the smallest effect of
interest is .002 stars. Every lever is judged on validation ratings, seed 0 of the random split;
the arm "federated" joins those that help. Every arm has the same data, factors, penalty, first
weights and cohorts unless its name says otherwise. The implicit sum has a penalty of its own, one
of two, and the drift a reach and a shrink, chosen on the validation ratings of each protocol.
Takes about an hour on two cores.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M; on other ratings, `--data`.
"""

import argparse
import time
from collections.abc import Iterable
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
from stateful_tff.methods import (
    BOTH,
    Phase,
    alternating,
    equal_weights,
    implicit_sum,
    in_phases,
    stateful,
)
from stateful_tff.methods import weighted as weighted_by

NAME = "as_in_one_place"
EQUAL = equal_weights(stateful)
SERVED = dict(passes="solved", serve_l2=0.03, shrink=2.0)

BASE = Arm(**SERVED)
FEDERATED = Arm(method=EQUAL, server=8.0, falls=True, local=0.025, rounds=2000, **SERVED)


def with_implicit_sum(l2: float) -> Arm:
    """Returns the arm with a second table, whose sum over a client's items pulls its vector."""
    method = equal_weights(implicit_sum(l2, 0.05))
    return Arm(method=method, server=14.0, falls=True, l2=l2, **SERVED)


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
    "drift": attrs.evolve(BASE, drift=(10.0, 5.0)),
    "implicit sum": attrs.evolve(BASE, method=implicit_sum(0.05, 0.02)),
    "equal weights, rate falls, 14 to 0, implicit sum": with_implicit_sum(0.055),
    "equal weights, rate falls, 14 to 0, implicit sum, as kept": attrs.evolve(
        with_implicit_sum(0.055), passes=0
    ),
    "equal weights, rate falls, 14 to 0, implicit sum and drift": attrs.evolve(
        with_implicit_sum(0.055), drift=(10.0, 5.0)
    ),
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
PENALTIES = (0.055, 0.065)  # of the implicit sum


def sgd_in_one_place(task: Task, drift) -> dict:
    """Plain SGD on all ratings in one place, with the same model; new users are fitted at the end.

    "Served exactly" fits everybody's side at the end, as the federated arm is served.
    """
    fitted = centralized.fit_sgd(
        task.training, num_factors=50, l2=0.05, rate=0.02, epochs=15, batch_size=1000,
        seed=task.seed,
    )  # fmt: skip
    plain = fitted.fold_in(task.support, 0.05, 2.0) if task.unseen else fitted
    served = fitted.fold_in(task.support, 0.03, 2.0)
    return {
        "centralized SGD": plain.predict(task.judged),
        "centralized SGD, served exactly": served.predict(task.judged),
        "centralized SGD, served exactly, and drift": with_drift(served.predict, task, drift),
    }


def implicit_sum_in_one_place(task: Task, l2, drift) -> dict:
    """The same with a second table, and with the penalty of the federated arm that has one."""
    fitted = centralized.fit_sgd(
        task.training, num_factors=50, l2=l2, rate=0.02, epochs=15, batch_size=1000,
        seed=task.seed, implicit=0.001,
    ).fold_in(task.support, 0.03, 2.0)  # fmt: skip
    return {
        "centralized SGD, implicit sum": fitted.predict(task.judged),
        "centralized SGD, implicit sum and drift": with_drift(fitted.predict, task, drift),
    }


def als_in_one_place(task: Task):
    """Alternating least squares on all ratings in one place."""
    fitted = centralized.fit_als(
        task.training, num_factors=50, l2=0.06, shrink=2.0, sweeps=8, seed=task.seed
    )
    return fitted.fold_in(task.support, 0.06, 2.0).predict(task.judged)


def best(found: dict, name: str, settings: Iterable):
    """Returns the setting whose arm has the lowest RMSE; one that diverged is infinitely bad."""

    def rmse(setting):
        results = found.get(name.format(setting))
        return results[0][0].rmse if results else float("inf")

    return min(settings, key=rmse)


def main() -> None:
    """Runs the levers on validation ratings, then the final arms on the test ratings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--protocols", nargs="*", default=["seen, random", "seen, time", "unseen"])
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
        both = {l2: with_implicit_sum(l2) for l2 in PENALTIES}
        tried = {f"drift {d}": attrs.evolve(FEDERATED, drift=d) for d in DRIFTS}
        tried |= {f"implicit sum, penalty {l2}": arm for l2, arm in both.items()}
        tried |= {
            f"implicit sum, penalty {l2}, drift {d}": attrs.evolve(arm, drift=d)
            for l2, arm in both.items()
            for d in DRIFTS
        }
        found = run_all(options.data, protocol, [0], tried, final=False)
        write_values(recorder, found, [0], **shared, protocol=f"{protocol}, validation")
        mood = best(found, "drift {}", DRIFTS)
        l2 = best(found, "implicit sum, penalty {}", PENALTIES)
        told = best(found, f"implicit sum, penalty {l2}, drift {{}}", DRIFTS)
        arms["federated and drift"] = attrs.evolve(FEDERATED, drift=mood)
        arms["federated, implicit sum"] = both[l2]
        arms["federated, implicit sum and drift"] = attrs.evolve(both[l2], drift=told)
        others = {
            "SGD": partial(sgd_in_one_place, drift=mood),
            "SGD, implicit sum": partial(implicit_sum_in_one_place, l2=l2, drift=told),
            "centralized ALS": als_in_one_place,
        }
        found = run_all(options.data, protocol, seeds, arms, others=others)
        for name in [name for name, results in found.items() if len(results) < len(seeds)]:
            recorder.write(**fields, method=name, metric="seeds that converged",
                           value=len(found.pop(name)))  # fmt: skip
        write_values(recorder, found, seeds, **fields)
        for first, second in [
            ("federated", "centralized SGD"),
            ("federated", "centralized SGD, served exactly"),
            ("federated", "centralized ALS"),
            ("federated", "base"),
            ("federated", "federated, as kept"),
            ("federated and drift", "federated"),
            ("federated and drift", "centralized SGD, served exactly, and drift"),
            ("federated, implicit sum", "federated"),
            ("federated, implicit sum", "centralized SGD, implicit sum"),
            ("federated, implicit sum and drift", "federated, implicit sum"),
            ("federated, implicit sum and drift", "federated and drift"),
            ("federated, implicit sum and drift", "centralized SGD, implicit sum and drift"),
        ]:
            if {first, second} <= found.keys():
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
