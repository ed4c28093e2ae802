"""Every method of chapter 8 on three protocols, on MovieLens-1M.

    python -m experiments.studies.stateful_or_stateless [--methods NAME ...] [--seeds N ...]

Stage one chooses everything that is to be chosen on validation ratings, with seed 0, and
records the curves. Stage two trains again on training and validation ratings and judges on the
test ratings, for every seed. Runs go two at a time. Takes about 45 minutes. With `--check`
nothing is recorded: stage two runs with the recorded choices, and its values are compared with
the recorded ones. STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M.
"""

import argparse
import functools
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two runs at a time on two cores

import attrs
import numpy as np

from experiments.record import RESULTS, Recorder, agree

# isort: split
from stateful_tff.data import (
    load_ratings,
    split_at_random,
    split_by_time,
    split_users,
    support_and_query,
)
from stateful_tff.evaluation.baselines import fit_biases, global_mean, item_mean
from stateful_tff.evaluation.centralized import fit_als, fit_sgd
from stateful_tff.evaluation.costs import client_costs
from stateful_tff.evaluation.metrics import score, score_with_intervals
from stateful_tff.experiment import Experiment
from stateful_tff.methods import (
    BOTH,
    Method,
    Phase,
    fed_avg,
    fed_recon,
    in_phases,
    rebuilt_at_first_visit,
    stateful,
)
from stateful_tff.training import DivergenceError

NAME, COHORT, BATCH = "stateful_or_stateless", 100, 5
PROTOCOLS = {
    "seen, random": split_at_random,
    "seen, time": lambda ratings, seed: split_by_time(ratings),
    "unseen": split_users,
}
# At most so many passes over a user's support ratings where users rebuild their side.
PASSES = {"seen, random": 4, "seen, time": 4, "unseen": 8}
MODELS = {
    "article": dict(biases=False, l2=0.0),
    "biases": dict(biases=True, l2=0.05),
    "biases, L2 0.02": dict(biases=True, l2=0.02),
}


@attrs.frozen
class Federated:
    """How to train one way, for at most so many rounds.

    Attributes:
        model: a name in `MODELS`.
        method: a `Method`, or a function from the number of users to one.
        rounds: at most so many; 0 for clients that train alone, once.
        rates: of the server, the items and the users.
        recon_rate: of the users where they rebuild their side to be served.
    """

    model: str
    method: Method
    rounds: int
    rates: tuple = (1.0, 0.5, 0.05)
    recon_rate: float = 0.1

    def method_for(self, num_users: int) -> Method:
        """Returns the method for a population."""
        return self.method if isinstance(self.method, Method) else self.method(num_users)

    @property
    def fields(self) -> dict:
        """What is recorded of the setting."""
        rates = zip(("server_rate", "client_rate", "local_rate"), self.rates, strict=True)
        epochs = getattr(self.method, "passes", [Phase()])[0].epochs
        return dict(
            model=self.model, l2=MODELS[self.model]["l2"], recon_rate=self.recon_rate,
            support_epochs=epochs, **dict(rates),
        )  # fmt: skip


@attrs.frozen
class Central:
    """How to fit with all ratings in one place.

    Attributes:
        fit: `(task, **options) -> predictions`.
        options: what is recorded of the setting.
    """

    fit: object
    options: dict = attrs.field(factory=dict)

    @property
    def fields(self) -> dict:
        """What is recorded of the setting."""
        return dict(fit=self.fit.__name__) | self.options


def means(task, **options):
    """Predicts the mean of all ratings, or with a penalty the mean of each movie."""
    mean = item_mean if options else global_mean
    return mean(task.training, task.judged, **options)


def biases_only(task, shrink):
    """Fits biases; new users are fitted to their support ratings."""
    fitted = fit_biases(task.training, shrink, users_first=True)
    return (fitted.fold_in(task.support, 0.0, shrink) if task.unseen else fitted).predict(
        task.judged
    )


def als(task, **options):
    """Fits factors by alternating least squares."""
    return folded(task, fit_als(task.training, seed=task.seed, **options), options["shrink"])


def sgd(task, **options):
    """Fits factors by SGD."""
    return folded(task, fit_sgd(task.training, seed=task.seed, **options), 2.0)


def folded(task, factors, shrink):
    """Predicts with factors; new users are fitted to their support ratings."""
    if task.unseen:
        factors = factors.fold_in(task.support, factors.model.l2, shrink)
    return factors.predict(task.judged)


# Per method the settings to choose from. They are compared on one protocol, the random split
# or for FedRecon the unseen users; rounds and passes are chosen on each.
GRID = {
    "global mean": [Central(means)],
    "item mean": [Central(means, dict(shrink=shrink)) for shrink in (2.0, 5.0)],
    "biases only": [Central(biases_only, dict(shrink=shrink)) for shrink in (3.0, 6.0)],
    "centralized, ALS, 8 factors": [
        Central(als, dict(num_factors=8, l2=l2, shrink=shrink, sweeps=12))
        for l2, shrink in ((0.02, 4.0), (0.03, 4.0), (0.04, 6.0))
    ],
    "centralized, ALS, 50 factors": [
        Central(als, dict(num_factors=50, l2=l2, shrink=2.0, sweeps=8)) for l2 in (0.05, 0.06, 0.07)
    ],
    "centralized, SGD": [
        Central(sgd, dict(num_factors=50, l2=0.05, rate=rate, epochs=15, batch_size=1000))
        for rate in (0.01, 0.02, 0.04)
    ],
    "local only": [
        Federated(
            "biases", in_phases("local only", Phase("all", BOTH, epochs)), 0, (0.0, 0.5, 0.05)
        )
        for epochs in (2, 5, 15)
    ],
    "FedAvg, users at the server": [
        Federated("biases", fed_avg, 1000, (rate, 0.5, 0.5)) for rate in (6.0, 9.0)
    ],
    "FedRecon": [
        Federated("article", fed_recon(epochs), 500, (1.0, 0.5, 0.1)) for epochs in (1, 4)
    ],
    "FedRecon, joint": [
        Federated("article", fed_recon(epochs, joint=True), 500, (1.0, 0.5, 0.1))
        for epochs in (1, 4)
    ],
    "FedRecon, joint, biases and L2": [
        Federated("biases, L2 0.02", fed_recon(4, joint=True), 1000, (rate, 0.5, 0.1))
        for rate in (1.0, 2.0)
    ],
    "stateful": [Federated("article", stateful, 500, (1.0, 0.5, 0.1))],
    "stateful, biases and L2": [
        Federated("biases", stateful, 1000, (rate, 0.5, 0.05)) for rate in (1.0, 2.0)
    ],
    "stateful, rebuilt at the first visit": [
        Federated("biases", rebuilt_at_first_visit(4, rate=0.1), 1000, (rate, 0.5, 0.05))
        for rate in (1.0, 2.0)
    ],
}
# The article's model with joint training is compared where reconstruction is at home.
LEFT_OUT = {("FedRecon, joint", protocol) for protocol in ("seen, random", "seen, time")}


class Task:
    """The data of one protocol and seed: what to train on, to adapt to and to be judged on."""

    def __init__(self, ratings, protocol: str, seed: int, final: bool):
        """Splits the ratings; the final task trains on validation ratings too."""
        split = PROTOCOLS[protocol](ratings, seed=seed)
        self.protocol, self.seed, self.unseen = protocol, seed, protocol == "unseen"
        self.training = split.train_and_validation if final else split.train
        held = split.test if final else split.validation
        both = support_and_query(held) if self.unseen else (self.training, held)
        self.support, self.judged = both


class Run:
    """One federated setting on one task, ready to train."""

    def __init__(self, setting: Federated, task: Task):
        """Puts the experiment together."""
        self.setting, self.task, self.alone = setting, task, setting.rounds == 0
        ratings = task.support if self.alone else task.training
        self.experiment = Experiment(
            ratings,
            method=setting.method_for(ratings.num_users),
            # A client on its own does not know the mean of all; it takes the scale's middle.
            mean_rating=3.0 if self.alone else None,
            cohort_size=ratings.num_users if self.alone else COHORT,
            rates=setting.rates, batch_size=BATCH, seed=task.seed, **MODELS[setting.model],
        )  # fmt: skip
        weights = self.experiment.store.server_state.model_weights
        self.num_global = 1 + self.experiment.biases
        self.keeps = bool(self.experiment.store.local_weights())
        self.sends_users = len(weights) > self.num_global
        self.rebuilds = not (self.keeps or self.sends_users)

    def predictions(self, passes: int):
        """Yields pairs of passes over the support ratings and predictions."""
        experiment, task = self.experiment, self.task
        local = experiment.local_weights()
        if self.alone or not (task.unseen or self.rebuilds):
            yield 0, experiment.predict(task.judged, local)
            return
        for done in range(passes):
            local = experiment.serve(
                1, task.support, start=local, round_num=done, rate=self.setting.recon_rate
            )
            yield done + 1, experiment.predict(task.judged, local)

    def costs(self) -> dict[str, float]:
        """Returns what a visit of a client costs."""
        experiment = self.experiment
        counts = experiment.clients.counts
        return client_costs(
            experiment.store.server_state.model_weights[: self.num_global],
            [rows[:1] for rows in experiment.local_weights()],
            counts[counts > 0], BATCH,
            keeps_state=self.keeps,
            sends_user=self.sends_users,
            support_epochs=self.setting.fields["support_epochs"] if self.rebuilds else 0,
        )  # fmt: skip


@functools.cache
def ratings_of(name: str):
    """The ratings, read once per process."""
    return load_ratings(name)


def choose(name: str, protocol: str, method: str, index: int, every: int) -> list[dict]:
    """Judges one setting on validation ratings, at several numbers of rounds and passes."""
    setting, task = GRID[method][index], Task(ratings_of(name), protocol, 0, final=False)
    shared = dict(
        data=name, protocol=f"{protocol}, validation", method=method, seed=0, metric="rmse",
        setting=index, **setting.fields,
    )  # fmt: skip
    start, rows = time.perf_counter(), []

    def note(predictions, **fields):
        found = [(score(p, task.judged)["rmse"], passes) for passes, p in predictions]
        value, passes = min(found)
        seconds = round(time.perf_counter() - start, 1)
        rows.append(shared | dict(value=value, adapt_epochs=passes, seconds=seconds) | fields)
        return {"validation_rmse": value}

    if isinstance(setting, Central):
        note([(None, setting.fit(task, **setting.options))])
        return rows
    run = Run(setting, task)
    experiment, passes = run.experiment, PASSES[protocol]
    if run.alone:
        experiment.train(1)
        note(run.predictions(0), adapt_epochs=setting.fields["support_epochs"])
        return rows
    try:
        experiment.train(
            setting.rounds,
            lambda: note(run.predictions(passes), rounds=experiment.store.round_num),
            # Rebuilding all users takes as long as a hundred rounds.
            every=250 if run.rebuilds and not task.unseen else every,
        )
    except DivergenceError as error:
        done = experiment.store.round_num
        metric = "rounds before it diverged"
        rows.append(shared | dict(value=float(done), failure=str(error), metric=metric))
    return rows


def final(name: str, protocol: str, method: str, seed: int, chosen: dict) -> list[dict]:
    """Trains one chosen setting on 90% and judges it on the test ratings."""
    setting, task = (
        GRID[method][chosen["setting"]],
        Task(ratings_of(name), protocol, seed, final=True),
    )
    start, passes = time.perf_counter(), chosen.get("adapt_epochs")
    if isinstance(setting, Central):
        predicted = setting.fit(task, **setting.options)
    else:
        run = Run(setting, task)
        run.experiment.train(1 if run.alone else chosen["rounds"])
        *_, (_, predicted) = run.predictions(passes)
    seconds = round(time.perf_counter() - start, 1)
    shared = dict(data=name, protocol=protocol, method=method, seed=seed, **setting.fields)
    shared |= dict(rounds=chosen.get("rounds"), adapt_epochs=passes, seconds=seconds)
    scores = score_with_intervals(predicted, task.judged)
    return [
        shared | dict(metric=metric) | {k: float(v) for k, v in row.items()}
        for metric, row in scores.iterrows()
    ]


def costs(name: str, protocol: str, method: str, chosen: dict) -> list[dict]:
    """Says what a visit of a client costs with the chosen setting."""
    setting = GRID[method][chosen["setting"]]
    if isinstance(setting, Central) or not setting.rounds:
        return []
    found = Run(setting, Task(ratings_of(name), protocol, 0, final=True)).costs()
    shared = dict(data=name, protocol=protocol, method=method)
    return [shared | dict(metric=metric, value=float(value)) for metric, value in found.items()]


def short_runs() -> list[dict]:
    """Two runs of seconds on synthetic data, for a test to repeat: a baseline and a training."""
    trained = dict(setting=0, rounds=40, adapt_epochs=3)
    return [
        *final("synthetic", "unseen", "biases only", 0, dict(setting=0)),
        *final("synthetic", "unseen", "stateful, biases and L2", 0, trained),
    ]


def home(method: str, protocols: list[str]) -> str:
    """Returns the protocol on which the settings of a method are compared."""
    place = "unseen" if method.startswith("FedRecon") else "seen, random"
    return place if place in protocols else protocols[0]


def lowest(rows: list[dict]) -> dict:
    """Returns the row with the lowest validation RMSE, by protocol and method."""
    best = {}
    for row in rows:
        key = row["protocol"].removesuffix(", validation"), row["method"]
        if row["metric"] == "rmse" and row["value"] < best.get(key, {"value": np.inf})["value"]:
            best[key] = row
    return best


def check(args) -> bool:
    """Repeats stage two with the recorded choices; tells whether the recorded values come out."""
    lines = (RESULTS / f"{NAME}.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["data"] == args.data]
    best = lowest([row for row in rows if row["protocol"].endswith(", validation")])
    asked = [
        (args.data, protocol, method, seed, chosen)
        for (protocol, method), chosen in best.items()
        if protocol in args.protocols and method in args.methods
        for seed in args.seeds
    ]
    again = (row for call in asked for row in final(*call))
    return all([agree(row, rows) for row in again])


def record(args) -> None:
    """Runs both stages and records them."""
    recorder, start = Recorder(args.out), time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:

        def run(function, calls) -> list[dict]:
            """Runs calls in the pool and records what they return, in the order of the calls."""
            rows = []
            for future in [pool.submit(function, *call) for call in calls]:
                for row in future.result():
                    recorder.write(**{k: v for k, v in row.items() if v is not None})
                    rows.append(row)
            return rows

        homes = {method: home(method, args.protocols) for method in args.methods}
        best = lowest(run(choose, [
            (args.data, protocol, method, index, args.every)
            for method, protocol in homes.items()
            for index in range(len(GRID[method]))
        ]))  # fmt: skip
        best |= lowest(run(choose, [
            (args.data, protocol, method, best[place, method]["setting"], args.every)
            for method, place in homes.items()
            for protocol in args.protocols
            if protocol != place and (method, protocol) not in LEFT_OUT
        ]))  # fmt: skip
        run(final, [(args.data, *key, seed, best[key]) for seed in args.seeds for key in best])
        run(costs, [(args.data, *key, best[key]) for key in best])
        run(short_runs, [()])
    recorder.write(
        data=args.data, protocol="all", method="all", metric="seconds of the study",
        value=time.perf_counter() - start,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m", help="ml-1m or synthetic")
    parser.add_argument("--methods", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=list(PROTOCOLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=100, help="rounds between validations")
    parser.add_argument("--out", default=NAME, help="the results' name")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    arguments = parser.parse_args()
    sys.exit(not check(arguments) if arguments.check else record(arguments))
