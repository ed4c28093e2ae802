"""Who gains from a personal side, who from keeping it, and what a newcomer can be given.

    python -m experiments.studies.who_gains

Two arms train on the same ratings with the same cohorts, first weights, penalty, rates and
rounds: clients *keep* their side from round to round, or *forget* it and rebuild it in three
passes, as the keeping ones also do. Both are served by the exact solution for their own ratings;
the kept sides are served as they are, too. "Biases only" has no vectors. A tenth of the users is
left out of training: the newcomers. The others' newest tenth of ratings is the test.

Said before the runs. The smallest effect of interest is .002 stars. Primary endpoints:
1. *Gain*: a user's RMSE under biases only minus that under the kept arm, mean over users; expected
   at .04 to .06 stars.
2. *State*: RMSE of kept minus forgotten, both served exactly; expected within .002.
3. *Evenness*: the gain of the tenth of users with the largest error of biases only on their
   training ratings minus that of the tenth with the smallest; expected above zero in stars, and
   not to be told from zero in percent.
4. *Rule*: a user is served by the personal side only where cross-validation on its own training
   ratings prefers it to biases only; RMSE of the rule minus always personal, expected within .002.
5. *Newcomers*: RMSE after ten ratings of a prior with mean and covariance of the kept sides
   minus a few passes from the first state; expected at -.004 to -.010.
Everything else is secondary; groups by gender, age and occupation have intervals that hold for
all groups of their kind together (Bonferroni).

What a way of serving is tuned by (passes, penalties, noise) is chosen with seed 0, eight trials for
each way and count, on validation users; none of them is in a later test. Rounds and rates are
those of the lever "equal weights, rate falls, 16 to 0" of `as_in_one_place`. Five seeds;
differences are paired over users, averaged over seeds. A short run on synthetic ratings is
recorded, too, for a test to repeat. Takes about 15 minutes on two cores. STATEFUL_TFF_DATA names
the folder or the zip of ML-1M.
"""

import argparse
import contextlib
import functools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from experiments.arms import TUNING_SEED, Arm, Recorder, Task, ratings_of

# isort: split
import attrs
import numpy as np
import pandas as pd

from experiments.record import data_checksum
from stateful_tff.data import load_users
from stateful_tff.evaluation.baselines import fit_biases
from stateful_tff.evaluation.bootstrap import interval
from stateful_tff.evaluation.cold_start import Prior, first_ratings, prior_of, seen_and_unseen
from stateful_tff.evaluation.gains import shrunk_gains, trait_effects, user_traits, worse_off
from stateful_tff.evaluation.own_ratings import cross_validated, serves_better
from stateful_tff.evaluation.paired import (
    mean_over_users,
    paired_difference,
    rmse_of_users,
    user_errors,
)
from stateful_tff.methods import alternating, equal_weights, keep_local_weights, keep_nothing

NAME = "who_gains"
L2, SHRINK = 0.03, 2.0  # of exact serving, as in `as_in_one_place`
TRIALS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
NOISE = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
WAYS = {  # of serving newcomers, and what is tried for each
    "biases only": TRIALS,
    "a few passes": TRIALS,
    "solved": TRIALS,
    "prior, mean and one variance": NOISE,
    "prior, mean and covariance": NOISE,
    "prior of solved sides": NOISE,
}
FULL = dict(
    setting=dict(server=16.0, falls=True, rounds=1000), counts=(0, 1, 2, 5, 10, 20, 50),
    draws=4000, tries=slice(None),
)  # fmt: skip
SHORT = dict(
    setting=dict(server=8.0, falls=True, rounds=100, cohort_size=50, num_factors=8),
    counts=(0, 1, 5, 10), draws=300, tries=slice(None, None, 3),
)  # fmt: skip
PAIRS = [("kept", "forgotten"), ("kept, as it is", "kept"), ("the rule", "kept"),
         ("kept", "biases only"), ("the rule", "biases only")]  # fmt: skip


def arms(setting: dict) -> dict[str, Arm]:
    """Returns two arms that differ in what a client keeps."""
    return {
        name: Arm(
            method=equal_weights(alternating(3, joint=True, keep=keep)),
            passes="solved", serve_l2=L2, shrink=SHRINK, **setting,
        )
        for name, keep in (("kept", keep_local_weights), ("forgotten", keep_nothing))
    }  # fmt: skip


class SeenAndNew(Task):
    """Users who are trained on, judged on their newest ratings, and newcomers.

    Args:
        name: of the ratings.
        seed: decides who the newcomers are, and the training.
        final: train on validation ratings, too, and judge on the test ratings and test users.
    """

    def __init__(self, name: str, seed: int, final: bool):
        """Splits the ratings; users whom settings were chosen on are no newcomers."""
        ratings = ratings_of(name)
        users = seen_and_unseen(ratings, seed, tuning=not final)
        self.seed, self.unseen, seen = seed, False, users.seen
        self.training = seen.train_and_validation if final else seen.train
        self.support, self.judged = self.training, seen.test if final else seen.validation
        self.newcomers = users.unseen
        if final:
            chosen_on = seen_and_unseen(ratings, TUNING_SEED, tuning=True).unseen
            known = users.unseen.table["user"].isin(chosen_on.table["user"].unique())
            self.newcomers = users.unseen.select(~known)


def halves_of(predicted, judged) -> list:
    """Returns the errors by user: on all ratings, and on two halves, dealt out in turn."""
    turn = (np.arange(len(judged)) - judged.bounds[judged.table["user"]]) % 2
    rows = [turn >= 0, turn == 0, turn == 1]
    return [user_errors(np.asarray(predicted)[part], judged.select(part)) for part in rows]


def seen_users(task: Task, arm: Arm, experiment) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the predictions of the judged ratings of seen users, in four ways, and the rule."""
    biases = fit_biases(task.training)
    own = cross_validated(lambda *parts: solved(experiment, *parts), task.training)
    alone = cross_validated(
        lambda part, held_out: biases.fold_in(part).predict(held_out), task.training
    )
    predicted = {
        "biases only": biases.predict(task.judged),
        "kept": arm.predict(experiment, task),
        "kept, as it is": attrs.evolve(arm, passes=0).predict(experiment, task),
    }
    personal = serves_better(own, alone, task.training)
    chosen = personal[task.judged.table["user"]]
    predicted["the rule"] = np.where(chosen, predicted["kept"], predicted["biases only"])
    return predicted, personal


def solved(experiment, support, query, shrink: float = SHRINK):
    """Serves by the exact solution for the support ratings."""
    return experiment.predict(query, experiment.solve(support, l2=L2, shrink=shrink))


def ways(task: Task, experiment) -> dict:
    """Returns by way a function from support, query and setting to predictions."""
    biases, start, kept = fit_biases(task.training), experiment.local_weights(), {}
    visited, items = experiment.store.visited, experiment.store.server_state.model_weights[:2]
    sides = {"kept": start, "solved": experiment.solve(l2=L2, shrink=SHRINK)}
    kept = {name: prior_of(side, visited) for name, side in sides.items()}
    mean, covariance = kept["kept"].mean, kept["kept"].covariance
    kept["one"] = Prior(mean, np.eye(len(mean)) * np.trace(covariance) / len(mean))

    def by(prior):
        def serve(support, query, noise):
            return experiment.predict(query, prior.fit(experiment.model, items, support, noise))

        return serve

    def passes(support, query, number):
        return experiment.predict(query, experiment.serve(int(number), support, start=start))

    serve = [
        lambda s, q, shrink: biases.fold_in(s, shrink=shrink).predict(q), passes,
        lambda s, q, shrink: solved(experiment, s, q, shrink), by(kept["one"]), by(kept["kept"]),
        by(kept["solved"]),
    ]  # fmt: skip
    return dict(zip(WAYS, serve, strict=True))


def new_users(task: Task, experiment, counts, settings) -> dict:
    """Returns by way, count and setting the errors of newcomers.

    Args:
        task: holds them.
        experiment: trained without them.
        counts: after how many ratings.
        settings: from way and count to what is tried.
    """
    supports, query = first_ratings(task.newcomers, counts)
    return {
        (way, count, one): user_errors(serve(support, query, one), query)
        for way, serve in ways(task, experiment).items()
        for count, support in supports.items()
        for one in settings(way, count)
    }


def run(task: tuple, name: str, arm: Arm, counts, chosen: dict | slice) -> dict:
    """Trains one arm and judges it; with trials in place of a choice, newcomers alone."""
    task, start, found = SeenAndNew(*task), time.perf_counter(), {}
    experiment = arm.train(task)
    found["seconds"] = time.perf_counter() - start
    if isinstance(chosen, slice):
        found["new"] = new_users(task, experiment, counts, lambda way, count: WAYS[way][chosen])
        return found
    predicted = {name: arm.predict(experiment, task)}
    if name == "kept":
        predicted, found["personal"] = seen_users(task, arm, experiment)
        found["new"] = new_users(task, experiment, counts, lambda *key: [chosen[key]])
        biases = fit_biases(task.training)
        found["trained"] = user_errors(biases.predict(task.training), task.training)
        found["traits"] = user_traits(task.training)
    found["seen"] = {way: halves_of(one, task.judged) for way, one in predicted.items()}
    return found


def choose(found: dict, write, **shared) -> dict:
    """Returns the best setting of each way and count, and records every trial."""
    best = {}
    for (way, count, setting), errors in found.items():
        write(
            **shared, protocol="new users, validation", method=way, ratings=count, setting=setting,
            metric="rmse", value=errors.rmse,
        )  # fmt: skip
        if (way, count) not in best or errors.rmse < best[way, count][0]:
            best[way, count] = errors.rmse, setting
    return {key: setting for key, (_, setting) in best.items()}


def one_value(statistic, **fields) -> dict:
    """Returns a statistic over seeds as fields of a result."""
    dots = [round(value, 5) for value in statistic.by_seed]
    return dict(
        value=statistic.value, low=statistic.low, high=statistic.high, by_seed=dots, **fields
    )


def with_interval(three) -> dict:
    """Returns a statistic with its interval as fields of a result."""
    return dict(zip(("value", "low", "high"), map(float, three), strict=True))


def write_seen(write, seen: dict[str, list]) -> None:
    """Records errors, paired differences, and gains, of users whom all arms trained on."""
    whole = {way: [run[0] for run in runs] for way, runs in seen.items()}
    for way, runs in whole.items():
        of_users = mean_over_users(rmse_of_users(runs))
        write(protocol="seen", method=way, metric="rmse", value=np.mean([r.rmse for r in runs]))
        write(protocol="seen", method=way, metric="user_rmse", **one_value(of_users))
    for first, second in PAIRS:
        pair = paired_difference(whole[first], whole[second])
        fields = dict(protocol="seen", method=first, minus=second)
        write(**fields, metric="rmse difference", **one_value(pair), verdict=pair.verdict)
        gain = rmse_of_users(whole[second]) - rmse_of_users(whole[first])
        write(**fields, metric="gain", **one_value(mean_over_users(gain)))
        worse = np.where(np.isnan(gain), np.nan, gain < 0)
        write(**fields, metric="share worse", **one_value(mean_over_users(worse)))


def write_rule(write, seen: dict[str, list], personal: list[np.ndarray]) -> None:
    """Records how many users the rule gives the personal side, and what both kinds would gain."""
    errors = {way: rmse_of_users([run[0] for run in seen[way]]) for way in ("kept", "biases only")}
    gain = errors["biases only"] - errors["kept"]
    known, personal = ~np.isnan(gain), np.array(personal)
    fields = dict(protocol="seen, rule", method="kept", minus="biases only")
    share = mean_over_users(np.where(known, personal, np.nan))
    write(**fields, metric="share personal", **one_value(share))
    for name, chosen in (("personal", personal), ("refused", ~personal)):
        value = mean_over_users(np.where(known & chosen, gain, np.nan))
        write(**fields, metric=f"gain of the {name}", **one_value(value))


def over_seeds(values: np.ndarray) -> np.ndarray:
    """Returns each user's mean over the seeds that judge the user; NaN where none does."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)


def write_noise(write, seen: dict[str, list]) -> None:
    """Records what of the gains over biases only is left when noise is taken out.

    A user's gain is the mean over seeds, on each half of the test.
    """
    halves = [
        over_seeds(
            rmse_of_users([run[part] for run in seen["biases only"]])
            - rmse_of_users([run[part] for run in seen["kept"]])
        )
        for part in (1, 2)
    ]
    counts = np.max([run[0].count for run in seen["kept"]], axis=0)
    rows = np.column_stack([*halves, counts])
    rows = rows[~np.isnan(rows).any(axis=1)]
    fields = dict(protocol="seen, noise", method="kept", minus="biases only")

    def statistics(rows):
        one, two, count = rows.T
        table = shrunk_gains(rows[:, :2], count)
        guesses = pull(one, np.mean(one), table, count)
        errors = [np.mean((guess - two) ** 2) for guess in guesses]
        return np.array([
            table.attrs["spread"], worse_off(table["gain"]), worse_off(two),
            worse_off(two[one < 0]), table["worse"].mean(), (table["worse"] > 0.9).mean(),
            (table["worse"] < 0.1).mean(), errors[2] - errors[0], errors[2] - errors[1],
        ])  # fmt: skip

    names = (
        "spread", "worse", "worse, half", "worse again, half", "truly worse", "surely worse",
        "surely better", "squared error of shrunk minus raw", "squared error of shrunk minus mean",
    )  # fmt: skip
    for metric, three in zip(names, interval(rows, statistics).T, strict=True):
        write(**fields, metric=metric, **with_interval(three), users=len(rows))
    table = shrunk_gains(rows[:, :2], rows[:, 2])
    for metric in ("gain", "shrunk"):
        for q in np.round(np.arange(0.02, 0.99, 0.02), 2):
            write(
                **fields, metric=f"{metric}, quantile", quantile=float(q),
                value=float(np.quantile(table[metric], q)),
            )  # fmt: skip


def pull(half, center, table, counts):
    """Returns three guesses of the other half's gain: this half's, the mean, and it shrunk."""
    noise = 2 * np.mean(table["noise"] ** 2 * counts) / counts  # half the ratings, twice the noise
    true = table.attrs["spread"] ** 2
    kept = true / np.maximum(true + noise, np.finfo(float).tiny)
    return half, center, center + kept * (half - center)


def write_groups(write, seen, trained, traits, people, draws) -> None:
    """Records gains over biases only by group, in stars and as a share of the error before."""
    before = rmse_of_users([run[0] for run in seen["biases only"]])
    gain = before - rmse_of_users([run[0] for run in seen["kept"]])
    hard = over_seeds(rmse_of_users(trained))
    traits = pd.concat(traits).groupby(level=0).mean().reindex(range(len(hard)))
    labels = {
        f"fifth by {name}": pd.qcut(traits[name].rank(method="first"), 5, labels=False) + 1
        for name in traits
    }
    labels["tenth by error in training"] = pd.qcut(pd.Series(hard), 10, labels=False) + 1
    labels |= {} if people is None else {name: people[name] for name in people}
    measures = {"stars": (gain, None), "percent": (100 * gain, before)}
    for trait, label in labels.items():
        label = label.reset_index(drop=True)
        groups = (
            list(label.cat.categories) if hasattr(label, "cat") else sorted(set(label.dropna()))
        )
        level = 1 - 0.05 / len(groups)  # of all groups of a kind together
        for metric, (values, per) in measures.items():
            for group in groups:
                mine = (label == group).to_numpy()
                fields = dict(
                    protocol="seen, groups", method="kept", minus="biases only", metric=metric,
                    trait=trait, group=str(group if isinstance(group, str) else int(group)),
                    users=int(mine.sum()),
                )  # fmt: skip
                write(**fields, **one_value(mean_over_users(values, per=per, users=mine)))
                if people is None or trait not in people:
                    continue
                apart = mean_over_users(
                    values, per=per, users=mine, minus=~mine, draws=draws, level=level
                )
                write(**fields | {"metric": f"{metric}, minus others"}, **one_value(apart))
            ends = [(label == group).to_numpy() for group in (groups[-1], groups[0])]
            apart = mean_over_users(values, per=per, users=ends[0], minus=ends[1])
            write(
                protocol="seen, groups", method="kept", minus="biases only", trait=trait,
                metric=f"{metric}, last minus first", **one_value(apart),
            )  # fmt: skip
    mean = pd.Series(over_seeds(gain)).dropna()
    for metric, values in (("stars", mean), ("percent", 100 * mean / hard[mean.index])):
        for trait, three in trait_effects(values, traits).iterrows():
            write(
                protocol="seen, partial effects", method="kept", minus="biases only",
                metric=metric, trait=trait, **with_interval(three),
            )  # fmt: skip


def write_new(write, new: list[dict], chosen: dict) -> None:
    """Records the errors of newcomers by way and count, and their paired differences."""
    found = {}
    for one in new:
        for (way, count, _), errors in one.items():
            found.setdefault((way, count), []).append(errors)
    prior = "prior, mean and covariance"
    others = [way for way in WAYS if way not in (prior, "biases only")]
    pairs = [(way, "biases only") for way in WAYS if way != "biases only"]
    for (way, count), runs in found.items():
        write(
            protocol="new users", method=way, ratings=count, metric="rmse",
            value=np.mean([r.rmse for r in runs]), setting=chosen[way, count],
            users=round(np.mean([(r.count > 0).sum() for r in runs])),
        )  # fmt: skip
    for count in sorted({count for _, count in found}):
        for first, second in pairs + [(prior, way) for way in others]:
            pair = paired_difference(found[first, count], found[second, count])
            write(
                protocol="new users", method=first, minus=second, ratings=count,
                metric="rmse difference", **one_value(pair), verdict=pair.verdict,
            )  # fmt: skip


@contextlib.contextmanager
def pool(workers: int):
    """Gives a function that calls another in some process, or here, and returns its result's."""
    if not workers:
        yield lambda function, *arguments: functools.partial(function, *arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as processes:
        yield lambda *call: processes.submit(*call).result


def measure(name, seeds, write, *, setting, counts, draws, tries, workers=2) -> None:
    """Chooses on validation users, trains both arms for every seed, and records everything."""
    ratings, start = ratings_of(name), time.perf_counter()
    shared = dict(data=ratings.name, data_checksum=data_checksum(ratings))

    def record(**fields):
        write(**shared, **{k: float(v) if k == "value" else v for k, v in fields.items()})

    both, final = arms(setting), [(name, seed, True) for seed in seeds]
    with pool(workers) as submit:
        forgotten = [
            submit(run, task, "forgotten", both["forgotten"], counts, {}) for task in final
        ]
        tried = run((name, TUNING_SEED, False), "kept", both["kept"], counts, tries)
        chosen = choose(tried["new"], record)
        kept = [submit(run, task, "kept", both["kept"], counts, chosen) for task in final]
        kept, forgotten = ([result() for result in calls] for calls in (kept, forgotten))
    seen = {way: [one["seen"][way] for one in kept] for way in kept[0]["seen"]}
    seen["forgotten"] = [one["seen"]["forgotten"] for one in forgotten]
    people = load_users(ratings) if ratings.name == "ml-1m" else None
    write_seen(record, seen)
    write_rule(record, seen, [one["personal"] for one in kept])
    write_noise(record, seen)
    traits = [one["traits"] for one in kept]
    write_groups(record, seen, [one["trained"] for one in kept], traits, people, draws)
    write_new(record, [one["new"] for one in kept], chosen)
    if people is not None:
        record(
            protocol="all", method="all", metric="seconds of the study",
            value=time.perf_counter() - start,
        )  # fmt: skip


def short_rerun(write) -> None:
    """Repeats the short run on synthetic ratings, in a minute."""
    measure("synthetic", range(2), write, workers=0, **SHORT)


def main(seeds: int, name: str, out: str) -> None:
    """Runs everything and records it."""
    recorder = Recorder(out)
    short_rerun(recorder.write)
    measure(name, range(seeds), recorder.write, **FULL)
    recorder.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--out", default=NAME)
    options = parser.parse_args()
    main(options.seeds, options.data, options.out)
