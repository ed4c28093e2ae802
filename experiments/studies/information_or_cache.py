"""Is a client's state information or a cache? One thing changed at a time.

    python -m experiments.studies.information_or_cache

Said before the runs. Smallest effect of interest: .002 stars of RMSE. Primary endpoints:
1. *Waterfall* (random 90/10): the steps from FedRecon's recipe to the stateful method; keeping
   the state is expected to be worth less than .002 once data, penalty and serving are equal.
2. *Passes* (random 90/10): kept minus forgotten at equal passes; expected to go to zero with
   passes before training or before serving, and to be within .002 where either is exact.
3. *Windows* (time split): kept minus forgotten where a device holds only the newest ratings;
   expected to favour the kept state the more, the shorter the window, and to vanish where the
   device holds all.
4. *Participation*: the same difference at cohorts of 30 and 300 and equally many visits.
All arms share data, first weights, cohorts, penalty, rates and rounds. Five seeds. Takes about
50 minutes on two cores. STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M.
"""

import argparse
import time

from experiments.arms import (
    Arm,
    Recorder,
    Task,
    ratings_of,
    run_all,
    write_difference,
    write_values,
)

# isort: split
import attrs
import numpy as np

from stateful_tff.methods import (
    BOTH,
    LOCAL,
    Phase,
    fed_recon,
    in_phases,
    keep_local_weights,
    keep_nothing,
    stateful,
)

NAME = "information_or_cache"
SOLVED = "solved"
PERIODS = 10
WINDOWS = (1, 2, 5, PERIODS)
COHORTS = (30, 300)  # beside 100, which the part on passes has


def visit(passes: int | str, keep: bool):
    """The method of clients that first fit their own side, then train both.

    Args:
        passes: over their ratings with the items frozen; "solved" for the exact solution.
        keep: whether they keep their side from round to round.
    """
    phases = [Phase("all", BOTH)]
    if passes == SOLVED:
        phases.insert(0, Phase("all", LOCAL, solve=True))
    elif passes:
        phases.insert(0, Phase("all", LOCAL, passes))
    name = f"{'kept' if keep else 'forgotten'}, {passes} passes"
    return in_phases(name, *phases, client_state_fn=keep_local_weights if keep else keep_nothing)


RECIPE = Arm(method=fed_recon(4, joint=True), local=0.1, l2=0.02, passes=4)
# Each step changes one thing of the arm before it.
STEPS = {
    "FedRecon's recipe": {},
    "served exactly": dict(passes=SOLVED),
    "all ratings in place of a half": dict(method=fed_recon(4, joint=True, split=False)),
    "penalty .05 in place of .02": dict(l2=0.05),
    "users' rate .05 in place of .1": dict(local=0.05),
    "the state is kept": dict(method=visit(4, keep=True)),
    "no passes before training": dict(method=stateful),
    "served as kept": dict(passes=0),
}


def waterfall() -> dict[str, Arm]:
    """The arms of the waterfall, in order."""
    arms, arm = {}, RECIPE
    for name, change in STEPS.items():
        arm = attrs.evolve(arm, **change)
        arms[name] = arm
    return arms


def grid(visits=(0, 3, SOLVED), served=(0, 1, 6, SOLVED), **setting) -> dict[str, Arm]:
    """Kept and forgotten state, by passes in a visit and passes before serving."""
    arms = {}
    for keep in (True, False):
        for before in visits:
            for after in served:
                name = f"{before} passes in a visit, {after} before serving"
                arm = Arm(method=visit(before, keep), passes=after, **setting)
                arms[f"{'kept' if keep else 'forgotten'}, {name}"] = arm
    return arms


@attrs.frozen
class InPeriods(Arm):
    """An arm whose ratings arrive over time, and whose devices hold only the newest ones.

    Attributes:
        window: how many tenths of a user's ratings the device holds, the newest ones that have
            arrived.
    """

    window: int = PERIODS

    def on_device(self, ratings, period: int):
        """Returns what the devices hold in a period, counted from 1."""
        counts = np.diff(ratings.bounds)
        user = ratings.table["user"].to_numpy()
        index = np.arange(len(ratings)) - ratings.bounds[user]
        # The tenth in which each rating arrives, from 1.
        arrival = index * PERIODS // counts[user] + 1
        return ratings.select((arrival <= period) & (arrival > period - self.window))

    def train(self, task: Task):
        """Trains period after period, equally many rounds in each."""
        first = attrs.evolve(self, rounds=0, window=self.window)
        held = [self.on_device(task.training, period) for period in range(1, PERIODS + 1)]
        experiment = super(InPeriods, first).train(task)
        for period, ratings in enumerate(held, 1):
            experiment.hold(ratings)
            experiment.train(self.rounds * period // PERIODS)
        task.support = held[-1]
        return experiment


def windows(rounds: int) -> dict[str, Arm]:
    """Kept and forgotten state where devices hold only the newest tenths of their ratings."""
    return {
        f"{name}, window {window}, {after} before serving": InPeriods(
            method=visit(before, keep), passes=after, window=window, cohort_size=300, rounds=rounds
        )
        for window in WINDOWS
        for name, before, keep in (
            ("kept", 0, True), ("kept, 3 passes", 3, True),
            ("forgotten, 3 passes", 3, False), ("forgotten, solved", SOLVED, False),
        )
        for after in ((0, 6, SOLVED) if keep else (3, 6, SOLVED))
    }  # fmt: skip


def main() -> None:
    """Runs the parts that are asked for, and records them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1000)
    parts = ["waterfall", "passes", "windows", "participation"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    start, seeds = time.perf_counter(), range(options.seeds)
    recorder = Recorder(
        options.out,
        ratings_of(options.data),
        keep=lambda row: row["part"] not in options.parts and row["method"] != "all",
    )
    data = ratings_of(options.data).name

    def study(part, protocol, arms, pairs, **more):
        fields = dict(data=data, part=part, protocol=protocol, **more)
        found = run_all(options.data, protocol, seeds, arms)
        write_values(recorder, found, seeds, **fields)
        for first, second in pairs:
            write_difference(recorder, found, first, second, **fields)

    if "waterfall" in options.parts:
        arms = {k: attrs.evolve(arm, rounds=options.rounds) for k, arm in waterfall().items()}
        names = list(arms)
        pairs = list(zip(names[1:], names[:-1], strict=True)) + [(names[-1], names[0])]
        study("waterfall", "seen, random", arms, pairs)
    if "passes" in options.parts:
        arms = grid(rounds=options.rounds)
        pairs = [(name, name.replace("kept", "forgotten")) for name in arms if "kept" in name]
        study("passes", "seen, random", arms, pairs)
    if "windows" in options.parts:
        arms = windows(options.rounds)
        best = [
            (
                f"kept, window {w}, 0 before serving",
                f"forgotten, {how}, window {w}, {after} before serving",
            )
            for w in WINDOWS
            for how in ("3 passes", "solved")
            for after in (3, 6, SOLVED)
        ]
        own = [
            (f"kept, window {w}, 0 before serving", f"kept, window {w}, {after} before serving")
            for w in WINDOWS
            for after in (6, SOLVED)
        ]
        study("windows", "seen, time", arms, best + own)
    if "participation" in options.parts:
        for cohort in COHORTS:
            rounds = options.rounds * 100 // cohort
            arms = grid((0, 3), (0, 6, SOLVED), cohort_size=cohort, rounds=rounds)
            pairs = [(name, name.replace("kept", "forgotten")) for name in arms if "kept" in name]
            study("participation", "seen, random", arms, pairs, cohort_size=cohort)
    recorder.write(
        data=data, part=", ".join(options.parts), protocol="all", method="all",
        metric="seconds of the study", value=time.perf_counter() - start,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
