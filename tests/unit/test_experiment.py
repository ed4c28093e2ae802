"""Experiments put together: who took part and when, branches, serving, and the recorded studies."""

import functools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_federated as tff

from stateful_tff.data import ClientDatasets, synthetic_ratings
from stateful_tff.evaluation.client_evaluation import build_strategy, evaluate_client
from stateful_tff.evaluation.cold_start import first_ratings, seen_and_unseen
from stateful_tff.evaluation.metrics import per_user
from stateful_tff.evaluation.participation import ByActivity, LongAbsence, Schedule
from stateful_tff.evaluation.staleness import ages, aligned, decayed
from stateful_tff.experiment import Experiment
from stateful_tff.methods import alternating, keep_nothing, stateful
from stateful_tff.models import ModelFn
from stateful_tff.recorded import results
from stateful_tff.training import sample_cohort

RATINGS = synthetic_ratings(num_users=60, num_items=150, seed=3)
USERS = seen_and_unseen(RATINGS, seed=1)
TRAIN = USERS.seen.train
METHODS = {"stateful": stateful, "stateless": alternating(1, joint=True, keep=keep_nothing)}
ROOT = Path(__file__).parents[2]


@functools.cache
def started(method="stateful"):
    """An experiment without a round; tests take branches of it."""
    return Experiment(TRAIN, method=METHODS[method], num_factors=3, cohort_size=20)


@functools.cache
def trained():
    """A branch after a few rounds, which tests do not change."""
    run = started().branch()
    run.train(6)
    return run


def ids(ratings):
    return set(ratings.table["user"])


def unequal_schedule():
    activity = ByActivity(np.diff(RATINGS.bounds))
    return Schedule(60, 12, [activity, LongAbsence(np.arange(60) < 9, 2, 5)], drop_out=0.3, seed=5)


# Who took part, and when


@pytest.mark.parametrize("method", METHODS)
def test_visits_and_ages_are_right_for_every_method(method):
    """A method that keeps no weights still tells who came when."""
    schedule = unequal_schedule()
    run = started(method).branch(schedule)
    run.train(7)
    cohorts = [schedule(r) for r in range(7)]
    store = run.store
    np.testing.assert_array_equal(
        store.num_visits, np.bincount(np.concatenate(cohorts), minlength=60)
    )
    for client in range(60):
        took_part = [r for r, cohort in enumerate(cohorts, 1) if client in cohort]
        assert store.last_round[client] == (took_part[-1] if took_part else 0)
        assert store.age[client] == (7 - took_part[-1] if took_part else -1)
    np.testing.assert_array_equal(ages(store[range(60)], store.round_num), store.age)
    assert len(store.local_weights()) == (2 if method == "stateful" else 0)


def test_a_run_on_a_schedule_repeats_and_can_be_continued():
    at_once, in_parts = (started().branch(unequal_schedule()) for _ in range(2))
    at_once.train(6)
    for until in (2, 6):
        in_parts.train(until)
    for a, b in zip(
        [*at_once.store.server_state.model_weights, *at_once.local_weights()],
        [*in_parts.store.server_state.model_weights, *in_parts.local_weights()],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(at_once.store.age, in_parts.store.age)


def test_the_default_sampler_and_an_empty_schedule_draw_as_many():
    assert len(sample_cohort(50, 7, 3, 1)) == len(Schedule(50, 7, seed=1)(3)) == 7


def test_new_users_never_take_part():
    assert set(trained().store.visited) <= ids(TRAIN)


# Branches


def test_a_branch_is_a_run_of_its_own_with_the_same_process():
    run, before = started().branch(), started().store.round_num
    run.train(1)
    other = run.branch(Schedule(60, 3))
    other.train(3)
    assert (started().store.round_num, run.store.round_num, other.store.round_num) == (before, 1, 3)
    assert other.process is run.process and other.store.num_visits.sum() == 20 + 2 * 3
    run.train(2)  # with the sampler that it began with
    assert run.store.num_visits.sum() == 2 * 20


def test_a_branch_until_the_absence_is_the_run_without_it():
    absence = LongAbsence(np.arange(60) < 20, 2, 4)
    stayed = started().branch(Schedule(60, 12))
    stayed.train(2)
    gone = stayed.branch(Schedule(60, 12, [absence]))
    alone = started().branch(Schedule(60, 12, [absence]))
    for run in (gone, alone):
        run.train(4)
    np.testing.assert_array_equal(gone.store.last_round, alone.store.last_round)
    assert gone.store.last_round[:20].max() <= 2


@pytest.mark.parametrize("change", [decayed, aligned])
def test_changed_states_are_as_old_as_they_were(change):
    """In the first edition ages [1, 1, 0, -1] came out as [0, 0, 0, 0], nobody unvisited."""
    run = trained().branch()
    before, everyone = run.store.age, range(60)
    assert before.min() == -1 and len(set(before)) > 2
    states = run.store[everyone]
    if change is decayed:
        changed = decayed(states, started().store[everyone], run.store.round_num, half_life=1.0)
    else:
        changed = aligned(states, np.eye(3, dtype=np.float32)[::-1])
    run.store.replace(changed)
    np.testing.assert_array_equal(run.store.age, before)
    np.testing.assert_array_equal(run.store.num_visits, trained().store.num_visits)
    assert not np.array_equal(run.local_weights()[0], trained().local_weights()[0])


# Serving


def test_without_ratings_everybody_keeps_the_start():
    run = trained()
    nothing = USERS.unseen.select(np.zeros(len(USERS.unseen), bool))
    start = [part + 1 for part in run.local_weights()]
    for mine, theirs in zip(run.serve(2, nothing, start=start), start, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_serving_changes_the_named_users_alone_and_no_store():
    run = trained()
    before, some = run.local_weights(), sorted(ids(TRAIN))[:4]
    served = run.serve(2, users=some)
    others = np.setdiff1d(range(60), some)
    for old, new, kept in zip(before, served, run.local_weights(), strict=True):
        np.testing.assert_array_equal(old[others], new[others])
        assert (old[some] != new[some]).any(axis=1).all()
        np.testing.assert_array_equal(old, kept)
    for old, new in zip(before, run.serve(0), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_method_that_keeps_nothing_is_served_from_the_first_weights():
    run = started("stateless").branch()
    run.train(2)
    for mine, first in zip(run.local_weights(), started().local_weights(), strict=True):
        np.testing.assert_array_equal(mine, first)


def test_tff_and_the_packed_way_agree_client_by_client():
    run, epochs = trained(), 3
    supports, query = first_ratings(USERS.unseen, [10])
    few = sorted(ids(query))[:3]
    evaluation = tff.learning.algorithms.build_personalization_eval_computation(
        ModelFn(run.model),
        OrderedDict(
            rebuild=build_strategy(
                "local_model_variables", tff.learning.optimizers.build_sgdm(0.05), query.scale
            )
        ),
        functools.partial(evaluate_client, scale=query.scale),
    )
    fitted = ClientDatasets(supports[10], 5, shuffle_seed=run.seed).for_round(few, 0, epochs)
    later = ClientDatasets(query, 5)
    datasets = [
        OrderedDict(train_data=mine.unbatch(), test_data=later[client].unbatch())
        for client, mine in zip(few, fitted, strict=True)
    ]
    first = started().local_weights()
    weights = [*run.store.server_state.model_weights, *(part[:1] for part in first)]
    found = evaluation(tff.learning.models.ModelWeights(weights, []), datasets)
    ours = run.predict(query, run.serve(epochs, supports[10], start=first))
    table = per_user(ours, query).loc[few]
    np.testing.assert_allclose(found["rebuild"]["rmse"], table["rmse"], rtol=1e-5)
    np.testing.assert_array_equal(found["rebuild"]["num_examples"], table["ratings"])


# The recorded studies


def study(name, monkeypatch):
    """Returns a study's module."""
    monkeypatch.syspath_prepend(str(ROOT))
    return __import__(f"experiments.studies.{name}", fromlist=[name])


def test_a_short_rerun_of_who_gains_agrees_within_its_intervals(monkeypatch):
    who_gains, rows = study("who_gains", monkeypatch), []
    who_gains.short_rerun(lambda **row: rows.append(row))
    recorded = results("who_gains")
    recorded = recorded[recorded["data"] == "synthetic"]
    names = "protocol method minus metric trait group ratings setting quantile".split()
    both = pd.DataFrame(rows).merge(recorded, on=names, suffixes=("", "_recorded"))
    assert len(both) == len(rows) == len(recorded)
    judged = both.dropna(subset=["low_recorded"])  # the others have no interval
    assert len(judged) > len(both) / 3
    inside = judged["value"].between(judged["low_recorded"] - 1e-5, judged["high_recorded"] + 1e-5)
    assert inside.all(), judged.loc[~inside, [*names, "value"]]
