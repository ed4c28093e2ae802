"""What controlled studies share: protocols, arms that differ in one thing, and paired results.

An arm says how to train and how to serve. Arms are run on the same splits, cohorts and first
weights, and compared by `evaluation.paired`. Knows nothing of what a study asks.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes at a time, on two cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from experiments.record import Recorder

# isort: split
import attrs
import numpy as np

from stateful_tff import data
from stateful_tff.evaluation.drift import drift
from stateful_tff.evaluation.metrics import per_user
from stateful_tff.evaluation.paired import UserErrors, paired_difference, user_errors
from stateful_tff.experiment import Experiment
from stateful_tff.methods import Method, falling_to_zero, stateful
from stateful_tff.training import DivergenceError

PROTOCOLS = {
    "seen, random": data.split_at_random,
    "seen, time": data.split_by_time,
    "unseen": data.split_users,
}


TUNING_SEED = 0  # settings were chosen on its validation ratings, which judge nothing final


class Task:
    """The data of one protocol and seed: what to train on, to adapt to and to be judged on.

    The validation ratings of seed 0 chose the settings. Where the test ratings of another seed
    hold some of them, those are left out: no setting is judged on what it was chosen on.

    Args:
        name: of the ratings, such as "ml-1m".
        protocol: a key of `PROTOCOLS`.
        seed: decides the split.
        final: whether to train on validation ratings, too, and to judge on the test ratings.
    """

    def __init__(self, name: str, protocol: str, seed: int, final: bool):
        """Splits the ratings."""
        ratings, make_split = ratings_of(name), PROTOCOLS[protocol]
        split = make_split(ratings, seed=seed)
        self.seed, self.unseen = seed, protocol == "unseen"
        self.training = split.train_and_validation if final else split.train
        held = split.validation
        if final:
            chosen_on = make_split(ratings, seed=TUNING_SEED).validation
            keys = "user" if self.unseen else ["user", "item"]
            known = split.test.table.set_index(keys).index.isin(
                chosen_on.table.set_index(keys).index
            )
            held = split.test.select(~known)
        both = data.support_and_query(held) if self.unseen else (self.training, held)
        self.support, self.judged = both


@functools.cache
def ratings_of(name: str):
    """The ratings, read once per process."""
    return data.load_ratings(name)


@attrs.frozen
class Arm:
    """One way to train and to serve; what is left out is the common setting.

    Attributes:
        method: the method.
        server: the server's rate.
        falls: whether it falls to zero in a line.
        client: the items' rate at a client.
        local: the users' rate.
        l2: the penalty per rating.
        num_factors: the length of the vectors.
        rounds: how many.
        cohort_size: clients a round.
        passes: local passes before serving, at the rate `local`; "solved" for the exact
            solution of the users' side, with `serve_l2` and `shrink`.
        serve_l2: the penalty per rating of that solution; left out, `l2`.
        shrink: its penalty per user.
        drift: reach and shrink of the drift that the device adds; left out, none.
    """

    method: Method = stateful
    server: float = 2.0
    falls: bool = False
    client: float = 0.5
    local: float = 0.05
    l2: float = 0.05
    num_factors: int = 50
    rounds: int = 1000
    cohort_size: int = 100
    passes: int | str = 0
    serve_l2: float | None = None
    shrink: float = 0.01
    drift: tuple[float, float] | None = None

    def trained_like(self) -> tuple:
        """Returns what decides the training; arms that differ in serving share it."""
        served = ("passes", "serve_l2", "shrink", "drift")
        fields = attrs.asdict(self, recurse=False).items()
        return tuple(value for name, value in fields if name not in served)

    def train(self, task: Task) -> Experiment:
        """Returns the experiment, trained."""
        server = falling_to_zero(self.server, self.rounds) if self.falls else self.server
        experiment = Experiment(
            task.training,
            method=self.method,
            rates=(server, self.client, self.local),
            l2=self.l2,
            num_factors=self.num_factors,
            cohort_size=self.cohort_size,
            seed=task.seed,
        )
        experiment.train(self.rounds)
        return experiment

    def predict(self, experiment: Experiment, task: Task) -> np.ndarray:
        """Returns the predictions of the judged ratings, served as the arm says."""
        if self.passes == "solved":
            local = experiment.solve(task.support, l2=self.serve_l2, shrink=self.shrink)
        else:
            local = experiment.local_weights()
            for done in range(self.passes):
                local = experiment.serve(1, task.support, start=local, round_num=done)
        return with_drift(lambda ratings: experiment.predict(ratings, local), task, self.drift)


def with_drift(predict: Callable, task: Task, setting: tuple[float, float] | None) -> np.ndarray:
    """Returns the predictions of the judged ratings, with the drift that a device would add.

    Args:
        predict: from ratings to predictions.
        task: the task.
        setting: reach and shrink, or `None` for no drift.
    """
    if setting is None:
        return predict(task.judged)
    residuals = task.support.table["rating"].to_numpy() - predict(task.support)
    return predict(task.judged) + drift(task.support, residuals, task.judged, *setting)


def run(task: tuple, arms: dict[str, Arm]) -> list[tuple]:
    """Trains arms that share their training once, and judges each.

    Args:
        task: the arguments of `Task`.
        arms: by name, all with one `trained_like()`.

    Returns:
        For each arm its name, its `UserErrors`, the mean RMSE over users, and the seconds of the
        training. Nothing for arms that diverge; that is printed.
    """
    task, start = Task(*task), time.perf_counter()
    try:
        experiment = next(iter(arms.values())).train(task)
    except DivergenceError as error:
        print(f"{', '.join(arms)}: {error}", flush=True)
        return []
    seconds, results = time.perf_counter() - start, []
    for name, arm in arms.items():
        predicted = arm.predict(experiment, task)
        of_users = float(per_user(predicted, task.judged)["rmse"].mean())
        results.append((name, user_errors(predicted, task.judged), of_users, seconds))
    return results


def run_all(
    name: str,
    protocol: str,
    seeds: Iterable[int],
    arms: dict[str, Arm],
    final: bool = True,
    others: dict[str, Callable[[Task], np.ndarray | dict]] | None = None,
    workers: int = 2,
) -> dict[str, list[tuple]]:
    """Runs all arms for all seeds, side by side in processes.

    Args:
        name: of the ratings.
        protocol: a key of `PROTOCOLS`.
        seeds: of splits, first weights, cohorts and orders.
        arms: by name.
        final: whether to judge on the test ratings.
        others: by name, functions from a task to predictions, or to several by name, defined in
            a module; for what is trained in one place.
        workers: processes at a time.

    Returns:
        By arm, for each seed the `UserErrors`, the mean RMSE over users, and the seconds.
    """
    alike: dict[tuple, dict[str, Arm]] = {}
    for key, arm in arms.items():
        alike.setdefault(arm.trained_like(), {})[key] = arm
    found = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = []
        for seed in seeds:
            task = name, protocol, seed, final
            calls += [(seed, pool.submit(run, task, group)) for group in alike.values()]
            calls += [(seed, pool.submit(_elsewhere, task, *one)) for one in (others or {}).items()]
        for _, call in sorted(calls, key=lambda pair: pair[0]):
            for key, *result in call.result():
                found.setdefault(key, []).append(tuple(result))
    return found


def _elsewhere(task: tuple, name: str, predict: Callable) -> list[tuple]:
    """Judges what a function predicts; see `run`."""
    task, start = Task(*task), time.perf_counter()
    predicted = predict(task)
    seconds = time.perf_counter() - start
    predicted = predicted if isinstance(predicted, dict) else {name: predicted}
    return [
        (key, user_errors(one, task.judged), float(per_user(one, task.judged)["rmse"].mean()),
         seconds)
        for key, one in predicted.items()
    ]  # fmt: skip


def errors(results: list[tuple]) -> list[UserErrors]:
    """Returns the errors of an arm, one for each seed."""
    return [result[0] for result in results]


def write_values(recorder: Recorder, found: dict[str, list[tuple]], seeds, **fields) -> None:
    """Records the RMSE of each arm that did not diverge: of each seed, and their mean."""
    for name, results in found.items():
        if len(results) < len(seeds):
            raise RuntimeError(f"The arm {name!r} diverged for some seeds; lower its rates.")
        values = [one.rmse for one in errors(results)]
        for seed, value, (_, of_users, seconds) in zip(seeds, values, results, strict=True):
            recorder.write(
                **fields, method=name, seed=seed, metric="rmse", value=value,
                user_rmse=of_users, seconds=round(seconds, 1),
            )  # fmt: skip
        recorder.write(**fields, method=name, metric="rmse, mean", value=float(np.mean(values)))


def write_difference(recorder: Recorder, found, first: str, second: str, **fields):
    """Records the paired difference of two arms, and returns it."""
    pair = paired_difference(errors(found[first]), errors(found[second]))
    recorder.write(
        **fields, method=first, minus=second, metric="rmse difference", value=pair.value,
        low=pair.low, high=pair.high, by_seed=[round(v, 5) for v in pair.by_seed],
        verdict=pair.verdict,
    )  # fmt: skip
    return pair
