"""Why the arm that forgets does better in chapter 10: one change at a time, on the same task.

    python -m experiments.studies.why_forgetting_helps

Both arms are those of `who_gains`: three passes with the items frozen, one in which both sides
move, equal weights, a server rate that falls from 16 to 0 over 1,000 rounds; one keeps its side,
the other forgets it. Split by time, served exactly, three seeds.

Said before the runs. The guess: forgetting is early stopping. A side that starts anew fits its
ratings less closely, so the items that train with it overfit less. Primary endpoint: kept minus
forgotten on test ratings under each change, minus the same without it. If the guess is right it
falls with more passes in a visit (12), with a larger penalty (.08) and with fewer rounds (300),
and the kept arm is ahead on its own training ratings. A constant rate (4) should not take it
away. The smallest effect of interest is .002 stars. Takes about ten minutes on two cores.
STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from experiments.arms import Arm, Recorder, Task, ratings_of

# isort: split
import attrs

from stateful_tff.evaluation.paired import paired_difference, user_errors
from stateful_tff.methods import alternating, equal_weights, keep_local_weights, keep_nothing

NAME, PROTOCOL = "why_forgetting_helps", "seen, time"
KEEPS = {"kept": keep_local_weights, "forgotten": keep_nothing}
BASE = Arm(server=16.0, falls=True, passes="solved", serve_l2=0.03, shrink=2.0)
CHANGES = {  # passes in a visit, and the arm
    "as in chapter 10": (3, BASE),
    "12 passes in a visit": (12, BASE),
    "penalty .08": (3, attrs.evolve(BASE, l2=0.08)),
    "300 rounds": (3, attrs.evolve(BASE, rounds=300)),
    "constant rate 4": (3, attrs.evolve(BASE, server=4.0, falls=False)),
}


def errors_of(name: str, seed: int, change: str, keeps: str) -> dict:
    """Trains one arm; returns its errors on test ratings and on its own training ratings."""
    task = Task(name, PROTOCOL, seed, final=True)
    passes, arm = CHANGES[change]
    method = equal_weights(alternating(passes, joint=True, keep=KEEPS[keeps]))
    experiment = attrs.evolve(arm, method=method).train(task)
    local = experiment.solve(task.support, l2=arm.serve_l2, shrink=arm.shrink)
    return {
        part: user_errors(experiment.predict(ratings, local), ratings)
        for part, ratings in (("test", task.judged), ("training", task.training))
    }


def main() -> None:
    """Trains both arms under each change, and records kept minus forgotten."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--changes", nargs="+", default=[*CHANGES], choices=[*CHANGES])
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    start, seeds = time.perf_counter(), range(options.seeds)
    ratings = ratings_of(options.data)
    recorder = Recorder(options.out, ratings)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = {
            (change, keeps, seed): pool.submit(errors_of, options.data, seed, change, keeps)
            for seed in seeds
            for change in options.changes
            for keeps in KEEPS
        }
        found = {key: call.result() for key, call in calls.items()}
    for change in options.changes:
        for part in ("test", "training"):
            pair, base = (
                [[found[one, keeps, seed][part] for seed in seeds] for keeps in KEEPS]
                for one in (change, options.changes[0])
            )
            for metric, gap in [
                ("rmse difference", paired_difference(*pair)),
                ("growth of the difference", paired_difference(*pair, minus=base)),
            ]:
                recorder.write(
                    data=ratings.name, protocol=f"{PROTOCOL}, {part}", method="kept",
                    minus="forgotten", change=change, metric=metric, value=gap.value,
                    low=gap.low, high=gap.high, by_seed=[round(v, 5) for v in gap.by_seed],
                    verdict=gap.verdict, kept=sum(run.rmse for run in pair[0]) / len(seeds),
                    forgotten=sum(run.rmse for run in pair[1]) / len(seeds),
                )  # fmt: skip
    recorder.write(
        data=ratings.name, protocol="all", method="all", metric="seconds of the study",
        value=time.perf_counter() - start,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
