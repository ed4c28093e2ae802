"""How much error a private state gathers with its age, at converged items and against a control.

    python -m experiments.studies.age_of_state

All clients train until the items have converged: 1,000 rounds of equal weights, with a server
rate that falls to zero. Then half of the clients, the *away* group, make one more visit, all in
the same round, and stay away; so the age of their states is exact. The others go on for 500
rounds at a constant rate. At ages 0 to 500 the away group is judged on its test ratings with the
state it kept and the items of that moment. The control is the same users' exact solution for the
same items, which needs no state. The others, never away, are judged in the same ways.

Said before the runs. Primary endpoint: the excess of the kept state over the control at age 500
minus the excess at age 0, of the same users, over 20 seeds (random 90/10); the smallest effect of
interest is .002 stars. Expected: above zero at converged items, smaller at a tenth of the rate,
zero where the items are frozen, and gone after a few passes before serving. (A trial of one seed
went against the first expectation, which stays as it was written.) Axes, three seeds each: a
constant rate from the start, cohort 30 and 300, 8 factors, penalty .02. A second control tries to
break the result: the exact solution at the penalties that serve best. Takes about 25 minutes on
two cores. STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M.
"""

import argparse
import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from experiments.arms import Arm, Recorder, Task, ratings_of

# isort: split
import attrs
import numpy as np
import tensorflow as tf

from stateful_tff.data import Ratings
from stateful_tff.evaluation.paired import UserErrors, paired_difference, user_errors
from stateful_tff.experiment import Experiment
from stateful_tff.methods import equal_weights, falling_to_zero, stateful
from stateful_tff.training import UniformSampler

NAME = "age_of_state"
AGES = (0, 1, 5, 20, 50, 100, 200, 500)
PASSES = (0, 6)  # before serving
GROUPS = ("away", "never away")
# The exact solution at the penalty of training, which is what the state caches, and at the
# penalties that serve best in the study `as_in_one_place`.
CONTROLS = {"solved": {}, "solved, as served": dict(l2=0.03, shrink=2.0)}


CONVERGED = Arm(method=equal_weights(stateful), server=16.0, falls=True)


@attrs.frozen
class Setting:
    """What is varied.

    Attributes:
        arm: how all clients train at first.
        later: the server's rate after the away group has left; 0 freezes the items.
    """

    arm: Arm = CONVERGED
    later: float = 4.0


def but(later: float = 4.0, **changes) -> Setting:
    """Returns the primary setting with some of its values changed."""
    return Setting(attrs.evolve(CONVERGED, **changes), later)


SETTINGS = {
    "primary": Setting(),
    "items frozen": but(later=0.0),
    "a tenth of the rate": but(later=0.4),
    "constant rate": Setting(Arm(), later=2.0),
    "cohort 30": but(cohort_size=30, rounds=3000),
    "cohort 300": but(cohort_size=300, rounds=400),
    "8 factors": but(num_factors=8),
    "penalty .02": but(l2=0.02),
}
SEEDS = {"primary": 20}  # three of the others


class Cohorts:
    """Draws as all did at first; then the away group visits once, then the others alone.

    Args:
        users: those who have ratings.
        away: those of them who leave.
        arm: how many make a cohort, and after how many rounds they leave.
        seed: decides the draws.
    """

    def __init__(self, users, away, arm: Arm, seed: int):
        """See the class."""
        self._away, self._rounds = away, arm.rounds
        others = np.setdiff1d(users, away)
        self._before = UniformSampler(users, arm.cohort_size, seed)
        self._after = UniformSampler(others, min(arm.cohort_size, len(others)), seed)

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the cohort of a round."""
        if round_num < self._rounds:
            return self._before(round_num)
        return self._away if round_num == self._rounds else self._after(round_num)


def of_users(ratings: Ratings, users) -> Ratings:
    """Returns the ratings of some users."""
    return ratings.select(ratings.table["user"].isin(users).to_numpy())


def run(name: str, setting: Setting, seed: int) -> dict[tuple, UserErrors]:
    """Returns the errors by group, age and way of serving, for one seed."""
    task = Task(name, "seen, random", seed, final=True)
    users = np.unique(task.training.table["user"])
    away = np.sort(np.random.default_rng(seed).permutation(users)[: len(users) // 2])
    arm = setting.arm
    schedule = _then_constant(arm, setting.later)
    experiment = Experiment(
        task.training, method=arm.method, rates=(schedule, arm.client, arm.local), l2=arm.l2,
        num_factors=arm.num_factors, cohort_size=arm.cohort_size, seed=seed,
        sampler=Cohorts(users, away, arm, seed),
    )  # fmt: skip
    groups = {"away": away, "never away": np.setdiff1d(users, away)}
    judged = {group: of_users(task.judged, members) for group, members in groups.items()}
    found = {}
    for age in AGES:
        experiment.train(arm.rounds + 1 + age)
        kept = experiment.local_weights()
        ways = {name: experiment.solve(**how) for name, how in CONTROLS.items()}
        ways |= {n: experiment.serve(n, start=kept, round_num=age) if n else kept for n in PASSES}
        for way, local in ways.items():
            for group, ratings in judged.items():
                found[group, age, way] = user_errors(experiment.predict(ratings, local), ratings)
    return found


def _then_constant(arm: Arm, later: float):
    """Returns the server's rate: the arm's, until the away group has left; then a constant one."""

    def at(round_num):
        first = falling_to_zero(arm.server, arm.rounds)(round_num) if arm.falls else arm.server
        return tf.where(round_num <= arm.rounds, np.float32(1) * first, np.float32(later))

    return at


def main() -> None:
    """Runs the settings and records errors, excesses and their growth with age."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, help="at most so many")
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    start = time.perf_counter()
    recorder = Recorder(
        options.out, ratings_of(options.data),
        keep=lambda row: row.get("setting") not in options.settings,
    )  # fmt: skip
    data = ratings_of(options.data).name
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = {}
        for name in options.settings:
            seeds = min(SEEDS.get(name, 3), options.seeds or 99)
            calls[name] = [pool.submit(run, options.data, SETTINGS[name], s) for s in range(seeds)]
        for name, futures in calls.items():
            runs = [future.result() for future in futures]
            shared = dict(
                data=data, protocol="seen, random 90/10", method="stateful", setting=name,
                seeds=len(runs),
            )  # fmt: skip
            record(recorder, runs, shared)
    recorder.write(
        data=data,
        protocol="all",
        method="all",
        metric="seconds of the study",
        value=time.perf_counter() - start,
    )
    recorder.finish()


def record(recorder: Recorder, runs: list[dict], shared: dict) -> None:
    """Records the excess over each control at each age, and its growth since age 0."""

    def of(group, age, way):
        return [one[group, age, way] for one in runs]

    for group, control, passes in itertools.product(GROUPS, CONTROLS, PASSES):
        fields = shared | dict(group=group, control=control, passes=passes)
        start = of(group, 0, passes), of(group, 0, control)
        for age in AGES:
            kept, solved = of(group, age, passes), of(group, age, control)
            excess = paired_difference(kept, solved)
            growth = paired_difference(kept, solved, minus=start)
            for metric, pair in (("excess", excess), ("growth since age 0", growth)):
                recorder.write(
                    **fields, age=age, metric=metric, value=pair.value, low=pair.low,
                    high=pair.high, by_seed=[round(v, 5) for v in pair.by_seed],
                    verdict=pair.verdict, rmse=float(np.mean([one.rmse for one in kept])),
                    rmse_control=float(np.mean([one.rmse for one in solved])),
                )  # fmt: skip


if __name__ == "__main__":
    main()
