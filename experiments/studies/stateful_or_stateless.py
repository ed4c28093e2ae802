"""Every method of chapter 8 on the three protocols, on ML-1M.

    python -m experiments.studies.stateful_or_stateless [--only METHOD ...] [--seeds N] [--out NAME]

Stage one chooses everything that is to be chosen on validation ratings, with seed 0, and
records the curves. Stage two trains again on training and validation ratings and judges on the
test ratings, for every seed. Runs go two at a time. STATEFUL_TFF_DATA names the folder or the
zip of ML-1M; `--data synthetic` takes the synthetic ratings, for a trial. Takes about 45 minutes.
"""

import argparse
import dataclasses
import functools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two runs at a time on two cores

import numpy as np

from experiments.record import Recorder

# isort: split
import tensorflow_federated as tff

from stateful_tff import baselines
from stateful_tff.baselines import AveragedRegistry, ForgetfulRegistry
from stateful_tff.cohort import CohortData, StackedRegistry, build_cohort_process, run_cohorts
from stateful_tff.data import (
    ClientDatasets,
    load_ratings,
    split_at_random,
    split_by_time,
    split_users,
    support_and_query,
)
from stateful_tff.frame import build_model_fn
from stateful_tff.process import build_client_state_fn
from stateful_tff.simulation import DivergenceError

COHORT, BATCH = 100, 5
# At most so many passes over a user's support ratings at evaluation.
ADAPT_EPOCHS = {"seen, random": 4, "seen, time": 4, "unseen": 8}
PROTOCOLS = {
    "seen, random": split_at_random,
    "seen, time": lambda ratings, seed: split_by_time(ratings),
    "unseen": split_users,
}
MODELS = {
    "article": dict(num_factors=50, biases=False, l2=0.0),
    "biases": dict(num_factors=50, biases=True, l2=0.05),
    "biases, L2 0.02": dict(num_factors=50, biases=True, l2=0.02),
}


@dataclasses.dataclass(frozen=True)
class Federated:
    """How to train one way, for at most so many rounds."""

    model: str
    policy: str  # what becomes of a state: kept, rebuilt once, averaged, forgotten
    rounds: int
    server_rate: float = 1.0
    client_rate: float = 0.5
    local_rate: float = 0.05
    recon_rate: float = 0.1
    support_epochs: int = 1


@dataclasses.dataclass(frozen=True)
class Central:
    """How to fit with all ratings in one place."""

    fit: str
    options: tuple = ()


def als(factors, l2, shrink, sweeps=12):
    """One setting of alternating least squares."""
    options = dict(num_factors=factors, l2=l2, shrink=shrink, sweeps=sweeps)
    return Central("als", tuple(options.items()))


def sgd_fit(**options):
    """One setting of centralized SGD."""
    return Central("sgd", tuple(options.items()))


# Per method the settings to choose from. They are compared on one protocol, the random split
# or for FedRecon the unseen users; rounds and passes are chosen on each.
GRID = {
    "global mean": [Central("global mean")],
    "item mean": [Central("item mean", (("shrink", s),)) for s in (2.0, 5.0)],
    "biases only": [als(0, 0.0, shrink, 10) for shrink in (3.0, 6.0)],
    "centralized, ALS, 8 factors": [als(8, 0.02, 4.0), als(8, 0.03, 4.0), als(8, 0.04, 6.0)],
    "centralized, ALS, 50 factors": [als(50, l2, 2.0, 8) for l2 in (0.05, 0.06, 0.07)],
    "centralized, SGD": [
        sgd_fit(num_factors=50, l2=0.05, rate=rate, epochs=15, batch_size=1000)
        for rate in (0.01, 0.02, 0.04)
    ],
    "local only": [Federated("biases", "alone", rounds) for rounds in (2, 5, 15)],
    "FedAvg, users at the server": [
        Federated("biases", "averaged", 1000, server_rate=rate, local_rate=0.5)
        for rate in (6.0, 9.0)
    ],
    "FedRecon": [
        Federated("article", "forgotten", 500, local_rate=0.0, support_epochs=epochs)
        for epochs in (1, 4)
    ],
    "FedRecon, joint": [
        Federated("article", "forgotten", 500, local_rate=0.1, support_epochs=epochs)
        for epochs in (1, 4)
    ],
    "FedRecon, joint, biases and L2": [
        Federated(
            "biases, L2 0.02", "forgotten", 1000,
            server_rate=rate, local_rate=0.1, support_epochs=4,
        )
        for rate in (1.0, 2.0)
    ],
    "stateful": [Federated("article", "kept", 500, local_rate=0.1)],
    "stateful, biases and L2": [
        Federated("biases", "kept", 1000, server_rate=rate) for rate in (1.0, 2.0)
    ],
    "stateful, rebuilt at the first visit": [
        Federated("biases", "rebuilt once", 1000, server_rate=rate, support_epochs=4)
        for rate in (1.0, 2.0)
    ],
}  # fmt: skip
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
        self.support, self.judged = (
            support_and_query(held) if self.unseen else (self.training, held)
        )
        self.users = np.unique(self.training.table["user"])

    def packed(self, ratings) -> CohortData:
        """Returns ratings ready for rounds."""
        return CohortData(ClientDatasets(ratings, batch_size=BATCH, shuffle_seed=self.seed))


def fit_central(setting: Central, task: Task):
    """Returns predictions for the ratings to judge."""
    options = dict(setting.options)
    if setting.fit == "global mean":
        return np.full(len(task.judged), task.training.table["rating"].mean())
    if setting.fit == "item mean":
        return baselines.item_mean(task.training, task.judged, **options)
    fit = baselines.fit_als if setting.fit == "als" else baselines.fit_sgd
    factors = fit(task.training, seed=task.seed, **options)
    if task.unseen:
        shrink = options.get("shrink", 2.0)
        factors = baselines.fold_in(factors, task.support, options["l2"], shrink)
    return factors.predict(task.judged)


class Trainer:
    """Builds the computations of one setting on one task, trains and predicts."""

    def __init__(self, setting: Federated, task: Task):
        """Builds what the policy needs."""
        self.setting, self.task = setting, task
        options = MODELS[setting.model]
        # A client on its own does not know the mean of all; it takes the middle of the scale.
        mean = 3.0 if setting.policy == "alone" else float(task.training.table["rating"].mean())
        self.mean = mean if options["biases"] else 0.0
        model_fn = build_model_fn(
            task.training.num_items, mean_rating=self.mean, seed=task.seed, **options
        )
        state_fn = build_client_state_fn(model_fn)
        rate = tff.learning.optimizers.build_sgdm
        self.process = build_cohort_process(
            model_fn, state_fn, rate(setting.server_rate), rate(setting.client_rate),
            rate(setting.local_rate),
        )  # fmt: skip
        self.reconstruct = baselines.build_reconstruction(
            model_fn, state_fn, rate(setting.recon_rate)
        )
        population = task.training.num_users
        self.first = ForgetfulRegistry(state_fn, population)
        if setting.policy == "averaged":
            counts = np.diff(task.training.bounds)
            self.registry = AveragedRegistry(state_fn, counts, setting.server_rate)
        elif setting.policy == "forgotten":
            self.registry = self.first
        else:
            self.registry = StackedRegistry(state_fn, population)
        self.support = task.packed(task.support)

    def train(self, rounds: int, judge=None, every: int = 100):
        """Runs rounds. Returns the server state and the history."""
        setting, task = self.setting, self.task
        options = dict(
            sample_fn=baselines.sample_among(task.users), seed=task.seed,
            evaluate_fn=judge, evaluate_every=every,
        )  # fmt: skip
        if setting.policy == "forgotten":
            parts = [task.packed(part) for part in support_and_query(task.training)]
            return baselines.run_fed_recon(
                self.process, self.reconstruct, self.registry, *parts, rounds, COHORT,
                support_epochs=setting.support_epochs, **options,
            )  # fmt: skip
        data = task.packed(task.training)
        if setting.policy == "rebuilt once":
            options["prepare_fn"] = baselines.reconstructing(
                self.reconstruct, data, lambda ids: ~np.isin(ids, self.registry.visited),
                epochs=setting.support_epochs,
            )  # fmt: skip
        return run_cohorts(self.process, self.registry, data, rounds, COHORT, **options)

    def train_alone(self, epochs: int) -> np.ndarray:
        """Trains every client on its own ratings, without a server; returns predictions."""
        state, task = self.process.initialize(), self.task
        clients = np.unique(task.support.table["user"])
        shards = self.support.shards(clients, 0, epochs, num_shards=8)
        states = [self.registry.stacked(shard.index) for shard in shards]
        self.registry.update(clients, self.process.next(state, shards, states)[2])
        return baselines.predict(state, self.registry, task.judged, self.mean)

    @property
    def adapts(self) -> bool:
        """Whether users rebuild their side to be served."""
        return self.task.unseen or self.setting.policy == "forgotten"

    def predictions(self, state, epochs: int | None = None):
        """Yields pairs of passes over the support ratings and predictions."""
        epochs = ADAPT_EPOCHS[self.task.protocol] if epochs is None else epochs
        task, users = self.task, np.unique(self.task.support.table["user"])
        registry = self.first if self.adapts else self.registry
        if not self.adapts:
            yield 0, baselines.predict(state, registry, task.judged, self.mean)
            return
        for done in range(epochs):
            registry = baselines.adapt(
                self.reconstruct, state, registry, self.support, users, round_num=done
            )
            yield done + 1, baselines.predict(state, registry, task.judged, self.mean)


def rmse(predicted, ratings) -> float:
    """RMSE with predictions clipped to the scale."""
    return float(np.sqrt(np.mean((np.clip(predicted, 1, 5) - ratings.table["rating"]) ** 2)))


@functools.cache
def ratings_of(name: str):
    """The ratings, read once per process."""
    return load_ratings(name)


def flat(setting) -> dict:
    """The fields of a setting as they are recorded."""
    fields = dataclasses.asdict(setting)
    return {k: v for k, v in fields.items() if k != "options"} | dict(fields.get("options", ()))


def choose(name: str, protocol: str, method: str, index: int, every: int) -> list[dict]:
    """Judges one setting on validation ratings, at several numbers of rounds and passes."""
    setting, task = GRID[method][index], Task(ratings_of(name), protocol, 0, final=False)
    shared = dict(
        data=name, protocol=f"{protocol}, validation", method=method, seed=0, metric="rmse"
    )
    shared |= {k: v for k, v in flat(setting).items() if k != "rounds"} | {"setting": index}
    start, rows = time.perf_counter(), []

    def note(value, **fields):
        seconds = round(time.perf_counter() - start, 1)
        rows.append(shared | dict(value=value, seconds=seconds) | fields)

    if isinstance(setting, Central):
        note(rmse(fit_central(setting, task), task.judged))
        return rows
    trainer = Trainer(setting, task)
    if setting.policy == "alone":
        note(rmse(trainer.train_alone(setting.rounds), task.judged), adapt_epochs=setting.rounds)
        return rows

    def judge(state):
        found = [(rmse(p, task.judged), passes) for passes, p in trainer.predictions(state)]
        value, passes = min(found)
        note(value, rounds=int(state.round_num), adapt_epochs=passes)
        return {"validation_rmse": value}

    try:
        # Rebuilding all users takes as long as a hundred rounds.
        slow = trainer.adapts and not task.unseen
        trainer.train(setting.rounds, judge, 250 if slow else every)
    except DivergenceError as error:
        note(None, failure=str(error), metric="rounds before it diverged")
        rows[-1]["value"] = float(len(error.history))
    return rows


def final(name: str, protocol: str, method: str, seed: int, chosen: dict) -> list[dict]:
    """Trains one chosen setting on 90% and judges it on the test ratings."""
    setting = GRID[method][chosen["setting"]]
    task = Task(ratings_of(name), protocol, seed, final=True)
    start, rounds = time.perf_counter(), chosen.get("rounds")
    if isinstance(setting, Central):
        predicted = fit_central(setting, task)
    elif setting.policy == "alone":
        predicted = Trainer(setting, task).train_alone(setting.rounds)
    else:
        trainer = Trainer(setting, task)
        state, _ = trainer.train(rounds)
        *_, (_, predicted) = trainer.predictions(state, max(chosen["adapt_epochs"], 1))
    seconds = round(time.perf_counter() - start, 1)
    shared = dict(data=name, protocol=protocol, method=method, seed=seed)
    shared |= {k: v for k, v in flat(setting).items() if k != "rounds"}
    shared |= dict(rounds=rounds, adapt_epochs=chosen.get("adapt_epochs"), seconds=seconds)
    scores = baselines.score_with_intervals(predicted, task.judged)
    return [
        shared | dict(metric=metric) | {k: float(v) for k, v in row.items()}
        for metric, row in scores.iterrows()
    ]


def run(pool, function, calls, recorder, **fields) -> list[list[dict]]:
    """Runs calls in the pool and records what they return, in the order of the calls."""
    results = []
    for future in [pool.submit(function, *call) for call in calls]:
        results.append(future.result())
        for row in results[-1]:
            recorder.write(**{k: v for k, v in (row | fields).items() if v is not None})
    return results


def home(method: str, protocols: list[str]) -> str:
    """Returns the protocol on which the settings of a method are compared."""
    place = "unseen" if method.startswith("FedRecon") else "seen, random"
    return place if place in protocols else protocols[0]


def lowest(results: list[list[dict]]) -> dict:
    """Returns the row with the lowest validation RMSE, by protocol and method."""
    best = {}
    for row in (row for rows in results for row in rows if row["metric"] == "rmse"):
        key = row["protocol"].removesuffix(", validation"), row["method"]
        if key not in best or row["value"] < best[key]["value"]:
            best[key] = row
    return best


def costs(name: str, protocol: str, method: str, chosen: dict) -> list[dict]:
    """Says what a visit of a client costs with the chosen setting."""
    setting = GRID[method][chosen["setting"]]
    if isinstance(setting, Central) or setting.policy == "alone":
        return []
    task = Task(ratings_of(name), protocol, 0, final=True)
    model_fn = build_model_fn(task.training.num_items, **MODELS[setting.model])
    forgets = setting.policy == "forgotten"
    found = baselines.client_costs(
        model_fn, np.diff(task.training.bounds)[task.users], BATCH,
        keeps_state=setting.policy in ("kept", "rebuilt once"),
        sends_user=setting.policy == "averaged",
        support_epochs=setting.support_epochs * forgets,
    )  # fmt: skip
    shared = dict(data=name, protocol=protocol, method=method)
    return [shared | dict(metric=metric, value=float(value)) for metric, value in found.items()]


def short_runs() -> list[dict]:
    """Two runs of seconds on synthetic data, for a test to repeat: a floor and a training."""
    trained = dict(setting=0, rounds=40, adapt_epochs=3)
    return [
        *final("synthetic", "unseen", "biases only", 0, dict(setting=0)),
        *final("synthetic", "unseen", "stateful, biases and L2", 0, trained),
    ]


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m", help="ml-1m or synthetic")
    parser.add_argument("--only", nargs="*", default=list(GRID), help="methods to run")
    parser.add_argument("--protocols", nargs="*", default=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=100, help="rounds between validations")
    parser.add_argument("--out", default="stateful_or_stateless")
    args = parser.parse_args()
    recorder, start = Recorder(args.out), time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        homes = [(home(method, args.protocols), method) for method in args.only]
        trials = [
            (args.data, protocol, method, index, args.every)
            for protocol, method in homes
            for index in range(len(GRID[method]))
        ]
        best = lowest(run(pool, choose, trials, recorder))
        trials = [
            (args.data, protocol, method, best[place, method]["setting"], args.every)
            for place, method in homes
            for protocol in args.protocols
            if protocol != place and (method, protocol) not in LEFT_OUT
        ]
        best |= lowest(run(pool, choose, trials, recorder))
        calls = [(args.data, *key, seed, best[key]) for seed in range(args.seeds) for key in best]
        run(pool, final, calls, recorder)
        run(pool, costs, [(args.data, *key, best[key]) for key in best], recorder)
        run(pool, short_runs, [()], recorder)
    recorder.write(
        data=args.data, protocol="all", method="all", metric="seconds of the study",
        value=time.perf_counter() - start,
    )  # fmt: skip
    recorder.finish()


if __name__ == "__main__":
    main()
