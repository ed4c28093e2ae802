"""Every method of chapter 8 on three protocols, on MovieLens-1M.

    python -m experiments.studies.stateful_or_stateless [--methods NAME ...] [--seeds N ...]

Stage one chooses everything that is to be chosen on validation ratings, with seed 0, and
records the curves. Stage two trains again on training and validation ratings and judges on the
test ratings, for every seed. Runs go two at a time. Takes about 45 minutes. With `--check`
nothing is recorded: stage two runs with the recorded choices, and its values are compared with
the recorded ones. STATEFUL_TFF_DATA names the folder or the zip of MovieLens-1M.
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from experiments.arms import PROTOCOLS, Task
from experiments.record import RESULTS, Recorder, agree

# isort: split
from stateful_tff import methods
from stateful_tff.evaluation import baselines, centralized
from stateful_tff.evaluation.costs import client_costs
from stateful_tff.evaluation.metrics import score, score_with_intervals
from stateful_tff.experiment import Experiment
from stateful_tff.methods import fed_avg, fed_recon, rebuilt_at_first_visit, stateful
from stateful_tff.training import DivergenceError

NAME, COHORT, BATCH = "stateful_or_stateless", 100, 5
RECON_RATE = 0.1  # of users who rebuild their side to be served
# At most so many passes over a user's support ratings where users rebuild their side.
PASSES = {"seen, random": 4, "seen, time": 4, "unseen": 8}


# Settings: how to fit in one place, and how to train in rounds.


def central(fit, **options) -> dict:
    """A way to fit with all ratings in one place: `(task, **options) -> predictions`."""
    return dict(fit=fit, **options)


def in_rounds(method, *rates, rounds=1000, alone=False, **model) -> dict:
    """A way to train for at most so many rounds, with rates of server, items and users."""
    return dict(method=method, rates=rates, rounds=rounds, alone=alone, **model)


def alone(epochs: int) -> dict:
    """Clients train both sides on their own ratings, once, and the server never moves."""
    method = methods.in_phases("local only", methods.Phase("all", methods.BOTH, epochs))
    # A client on its own does not know the mean of all; it takes the middle of the scale.
    return in_rounds(method, 0.0, 0.5, 0.05, rounds=1, alone=True, mean_rating=3.0)


def global_mean(task):
    """Predicts the mean of all ratings."""
    return baselines.global_mean(task.training, task.judged)


def item_mean(task, shrink):
    """Predicts the mean of each movie."""
    return baselines.item_mean(task.training, task.judged, shrink)


def biases_only(task, shrink):
    """Fits biases; new users are fitted to their support ratings."""
    fitted = baselines.fit_biases(task.training, shrink, users_first=True)
    fitted = fitted.fold_in(task.support, 0.0, shrink) if task.unseen else fitted
    return fitted.predict(task.judged)


def als(task, **options):
    """Fits factors by alternating least squares."""
    factors = centralized.fit_als(task.training, seed=task.seed, **options)
    return folded(task, factors, options["shrink"])


def sgd(task, **options):
    """Fits factors by SGD."""
    return folded(task, centralized.fit_sgd(task.training, seed=task.seed, **options), 2.0)


def folded(task, factors, shrink):
    """Predicts with factors; new users are fitted to their support ratings."""
    if task.unseen:
        factors = factors.fold_in(task.support, factors.model.l2, shrink)
    return factors.predict(task.judged)


# Per method the settings to choose from. They are compared on one protocol, the random split
# or for FedRecon the unseen users; rounds and passes are chosen on each.
ARTICLE = dict(biases=False, l2=0.0, rounds=500)
GRID = {
    "global mean": [central(global_mean)],
    "item mean": [central(item_mean, shrink=shrink) for shrink in (2.0, 5.0)],
    "biases only": [central(biases_only, shrink=shrink) for shrink in (3.0, 6.0)],
    "centralized, ALS, 8 factors": [
        central(als, num_factors=8, l2=l2, shrink=shrink, sweeps=12)
        for l2, shrink in ((0.02, 4.0), (0.03, 4.0), (0.04, 6.0))
    ],
    "centralized, ALS, 50 factors": [
        central(als, num_factors=50, l2=l2, shrink=2.0, sweeps=8) for l2 in (0.05, 0.06, 0.07)
    ],
    "centralized, SGD": [
        central(sgd, num_factors=50, l2=0.05, rate=rate, epochs=15, batch_size=1000)
        for rate in (0.01, 0.02, 0.04)
    ],
    "local only": [alone(epochs) for epochs in (2, 5, 15)],
    "FedAvg, users at the server": [in_rounds(fed_avg, rate, 0.5, 0.5) for rate in (6.0, 9.0)],
    "FedRecon": [in_rounds(fed_recon(n), 1.0, 0.5, 0.1, **ARTICLE) for n in (1, 4)],
    "FedRecon, joint": [
        in_rounds(fed_recon(n, joint=True), 1.0, 0.5, 0.1, **ARTICLE) for n in (1, 4)
    ],
    "FedRecon, joint, biases and L2": [
        in_rounds(fed_recon(4, joint=True), rate, 0.5, 0.1, l2=0.02) for rate in (1.0, 2.0)
    ],
    "stateful": [in_rounds(stateful, 1.0, 0.5, 0.1, **ARTICLE)],
    "stateful, biases and L2": [in_rounds(stateful, rate, 0.5, 0.05) for rate in (1.0, 2.0)],
    "stateful, rebuilt at the first visit": [
        in_rounds(rebuilt_at_first_visit(4, RECON_RATE), rate, 0.5, 0.05) for rate in (1.0, 2.0)
    ],
}
# The article's model with joint training is compared where reconstruction is at home.
LEFT_OUT = {("FedRecon, joint", protocol) for protocol in ("seen, random", "seen, time")}


def fields(setting: dict) -> dict:
    """Returns what is recorded of a setting."""
    if "fit" in setting:
        return setting | dict(fit=setting["fit"].__name__)
    rates = dict(zip(("server_rate", "client_rate", "local_rate"), setting["rates"], strict=True))
    left_out = ("method", "rates", "rounds", "alone")
    return rates | {k: v for k, v in setting.items() if k not in left_out}


def build(setting: dict, task: Task) -> Experiment:
    """Returns the experiment of a setting."""
    options = {k: v for k, v in setting.items() if k not in ("rounds", "alone")}
    ratings = task.support if setting["alone"] else task.training
    if not isinstance(setting["method"], methods.Method):
        options["method"] = setting["method"](ratings.num_users)
    size = ratings.num_users if setting["alone"] else COHORT
    return Experiment(ratings, **options, cohort_size=size, batch_size=BATCH, seed=task.seed)


def holders(experiment: Experiment) -> tuple[bool, bool]:
    """Tells whether the clients keep the users' side, and whether the server does."""
    weights = experiment.store.server_state.model_weights
    return bool(experiment.store.local_weights()), len(weights) > 1 + experiment.biases


def predictions(experiment: Experiment, task: Task, passes: int):
    """Yields pairs of passes over the support ratings and predictions."""
    local = experiment.local_weights()
    if experiment.ratings is task.support and any(holders(experiment)):
        yield 0, experiment.predict(task.judged, local)
        return
    for done in range(passes):
        local = experiment.serve(1, task.support, start=local, round_num=done, rate=RECON_RATE)
        yield done + 1, experiment.predict(task.judged, local)


def choose(name: str, protocol: str, method: str, index: int, every: int) -> list[dict]:
    """Judges one setting on validation ratings, at several numbers of rounds and passes."""
    setting, task = GRID[method][index], Task(name, protocol, 0, final=False)
    start, rows = time.perf_counter(), []

    def note(value, metric="rmse", **more):
        seconds = round(time.perf_counter() - start, 1)
        rows.append(dict(
            data=name, protocol=f"{protocol}, validation", method=method, seed=0, metric=metric,
            value=value, setting=index, **fields(setting), **more, seconds=seconds,
        ))  # fmt: skip
        return {"judged": value}

    if "fit" in setting:
        note(score(setting["fit"](task, **options_of(setting)), task.judged)["rmse"])
        return rows
    experiment = build(setting, task)
    # Rebuilding all users takes as long as a hundred rounds.
    slow = experiment.ratings is task.support and not any(holders(experiment))

    def judge():
        tried = predictions(experiment, task, PASSES[protocol])
        value, passes = min((score(p, task.judged)["rmse"], passes) for passes, p in tried)
        return note(value, rounds=experiment.store.round_num, adapt_epochs=passes)

    try:
        experiment.train(setting["rounds"], judge, every=250 if slow else every)
    except DivergenceError as error:
        done = float(experiment.store.round_num)
        note(done, metric="rounds before it diverged", failure=str(error))
    return rows


def options_of(setting: dict) -> dict:
    """Returns the options of a fit."""
    return {k: v for k, v in setting.items() if k != "fit"}


def final(name: str, protocol: str, method: str, seed: int, chosen: dict) -> list[dict]:
    """Trains one chosen setting on 90% and judges it on the test ratings."""
    setting, task = GRID[method][chosen["setting"]], Task(name, protocol, seed, final=True)
    start, passes = time.perf_counter(), chosen.get("adapt_epochs", 0)
    rounds = 1 if setting.get("alone") else chosen.get("rounds")
    if "fit" in setting:
        predicted = setting["fit"](task, **options_of(setting))
    else:
        experiment = build(setting, task)
        experiment.train(rounds)
        *_, (_, predicted) = predictions(experiment, task, passes)
    shared = dict(data=name, protocol=protocol, method=method, seed=seed, **fields(setting))
    shared |= dict(rounds=rounds, adapt_epochs=passes, seconds=time.perf_counter() - start)
    table = score_with_intervals(predicted, task.judged).astype(float)
    return [shared | dict(metric=metric, **row) for metric, row in table.iterrows()]


def costs(name: str, protocol: str, method: str, chosen: dict) -> list[dict]:
    """Returns what a visit of a client costs with the chosen setting."""
    setting = GRID[method][chosen["setting"]]
    if setting.get("alone", True):
        return []
    experiment = build(setting, Task(name, protocol, 0, final=True))
    counts, (keeps, sends) = experiment.clients.counts, holders(experiment)
    found = client_costs(
        experiment.store.server_state.model_weights[: 1 + experiment.biases],
        [rows[:1] for rows in experiment.local_weights()],
        counts[counts > 0],
        BATCH,
        keeps_state=keeps,
        sends_user=sends,
        support_epochs=0 if keeps or sends else experiment.method.passes[0].epochs,
    )
    shared = dict(data=name, protocol=protocol, method=method)
    return [shared | dict(metric=metric, value=float(value)) for metric, value in found.items()]


def short_runs() -> list[dict]:
    """Two runs of seconds on synthetic data, for a test to repeat: a baseline and a training."""
    trained = dict(setting=0, rounds=40, adapt_epochs=3)
    return [
        *final("synthetic", "unseen", "biases only", 0, dict(setting=0)),
        *final("synthetic", "unseen", "stateful, biases and L2", 0, trained),
    ]


def lowest(rows: list[dict]) -> dict:
    """Returns the row with the lowest validation RMSE, by protocol and method."""
    best = {}
    for row in sorted(rows, key=lambda row: row["value"]):
        if row["metric"] == "rmse":
            best.setdefault((row["protocol"].removesuffix(", validation"), row["method"]), row)
    return best


def check(args) -> bool:
    """Repeats stage two with the recorded choices; tells whether the recorded values come out."""
    lines = (RESULTS / f"{NAME}.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["data"] == args.data]
    best = lowest([row for row in rows if row["protocol"].endswith(", validation")])
    again = (
        row
        for (protocol, method), chosen in best.items()
        if protocol in args.protocols and method in args.methods
        for seed in args.seeds
        for row in final(args.data, protocol, method, seed, chosen)
    )
    return all([agree(row, rows) for row in again])


def record(args) -> None:
    """Runs both stages and records them."""
    recorder, start = Recorder(args.out), time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:

        def run(function, calls) -> list[dict]:
            """Runs calls in the pool and records what they return, in the order of the calls."""
            rows = []
            for future in [pool.submit(function, *call) for call in calls]:
                rows += future.result()
                for row in future.result():
                    recorder.write(**{k: v for k, v in row.items() if v is not None})
            return rows

        def trials(keys, settings) -> list[tuple]:
            return [(args.data, *key, index, args.every) for key in keys for index in settings(key)]

        first = {name: "unseen" if name.startswith("FedRecon") else "seen, random" for name in GRID}
        homes = [
            (first[method] if first[method] in args.protocols else args.protocols[0], method)
            for method in args.methods
        ]
        best = lowest(run(choose, trials(homes, lambda key: range(len(GRID[key[1]])))))
        index = {method: best[home, method]["setting"] for home, method in homes}
        others = [(p, m) for m in args.methods for p in args.protocols]
        others = [key for key in others if key not in homes and key[::-1] not in LEFT_OUT]
        best |= lowest(run(choose, trials(others, lambda key: [index[key[1]]])))
        run(final, [(args.data, *key, seed, best[key]) for seed in args.seeds for key in best])
        run(costs, [(args.data, *key, best[key]) for key in best])
        run(short_runs, [()])
    shared = dict(data=args.data, protocol="all", method="all")
    recorder.write(**shared, metric="seconds of the study", value=time.perf_counter() - start)
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
