"""Schedules, the bookkeeping of visits, errors by group, and what mends a stale state."""

import importlib
from pathlib import Path

import attrs
import numpy as np
import pandas as pd
import pytest
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cohort import NUM_FACTORS, NUM_ITEMS, NUM_USERS, ratings_of, scattered

from stateful_tff.baselines import predict, score_with_intervals
from stateful_tff.cohort import CohortData, StackedRegistry, build_cohort_process, run_cohorts
from stateful_tff.data import ClientDatasets
from stateful_tff.frame import build_model_fn
from stateful_tff.participation import (
    VisitRegistry,
    aligned,
    build_schedule,
    by_activity,
    daily_cycle,
    decayed,
    draw_available,
    drift,
    error_by,
    long_absence,
    rmse_difference,
    rotation_between,
)
from stateful_tff.process import build_client_state_fn
from stateful_tff.recorded import results
from stateful_tff.simulation import sample_cohort

sgd = tff.learning.optimizers.build_sgdm
MODEL_FN = build_model_fn(NUM_ITEMS, NUM_FACTORS, biases=True, mean_rating=3.5, l2=0.05, seed=3)
STATE_FN = build_client_state_fn(MODEL_FN)


def shares(sample, num_clients, cohort_size, rounds=4000):
    """How often each client takes part, per round."""
    drawn = np.concatenate([sample(num_clients, cohort_size, r) for r in range(rounds)])
    return np.bincount(drawn, minlength=num_clients) / rounds


# Schedules


def test_chances_of_the_first_draw_follow_the_weights():
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    rng = np.random.default_rng(0)
    first = np.bincount([draw_available(weights, 1, rng)[0] for _ in range(8000)], minlength=4)
    np.testing.assert_allclose(first / 8000, weights / 8, atol=0.015)


def test_chances_of_the_second_draw_are_those_of_drawing_from_the_rest():
    weights = np.array([1.0, 2.0, 5.0])
    expected = [
        sum(weights[j] / 8 * weights[i] / (8 - weights[j]) for j in range(3) if j != i)
        for i in range(3)
    ]
    rng = np.random.default_rng(0)
    second = np.bincount([draw_available(weights, 2, rng)[1] for _ in range(8000)], minlength=3)
    np.testing.assert_allclose(second / 8000, expected, atol=0.02)


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.3, 1.0, 7.0]), min_size=1, max_size=12),
    size=st.integers(1, 14),
)
def test_a_draw_is_distinct_and_of_those_who_can_take_part(weights, size):
    drawn = draw_available(np.array(weights), size, np.random.default_rng(1))
    assert len(set(drawn)) == len(drawn) == min(size, np.count_nonzero(weights))
    assert all(weights[client] > 0 for client in drawn)


def test_without_conditions_all_clients_are_alike():
    np.testing.assert_allclose(shares(build_schedule(), 10, 3), 0.3, atol=0.03)


def test_round_and_seed_alone_decide_a_cohort():
    sample = build_schedule(by_activity(np.arange(1, 31)), drop_out=0.2)
    assert np.array_equal(sample(30, 8, 5, 1), sample(30, 8, 5, 1))
    assert not np.array_equal(sample(30, 8, 5, 1), sample(30, 8, 6, 1))
    assert not np.array_equal(sample(30, 8, 5, 1), sample(30, 8, 5, 2))


def test_active_clients_take_part_in_proportion_where_cohorts_are_small():
    counts = np.array([10, 20, 40, 130])
    np.testing.assert_allclose(
        shares(build_schedule(by_activity(counts)), 4, 1), counts / 200, atol=0.02
    )


def test_in_a_daily_cycle_clients_take_part_in_their_hours():
    hours = np.array([0.0, 6.0, 12.0, 22.0])
    sample = build_schedule(daily_cycle(hours, rounds_per_day=24, open_hours=8))
    for round_num in range(72):
        now = round_num % 24
        open_ = {c for c, h in enumerate(hours) if (now - h) % 24 < 8}
        if open_:
            assert set(sample(4, 4, round_num)) == open_
        else:
            with pytest.raises(ValueError, match="0 clients can take part, 4 are wanted"):
                sample(4, 4, round_num)


def test_who_is_away_comes_back():
    away = np.arange(6) < 2
    sample = build_schedule(long_absence(away, 3, 5))
    sizes = [len(set(sample(6, 6, r)) & {0, 1}) for r in range(8)]
    assert sizes == [2, 2, 2, 0, 0, 2, 2, 2]


def test_conditions_multiply():
    sample = build_schedule(by_activity(np.arange(1, 9)), long_absence(np.arange(8) >= 4, 0, 100))
    assert all(set(sample(8, 8, r)) == {0, 1, 2, 3} for r in range(20))


def test_drop_outs_are_lost_with_their_own_chance():
    chance = np.array([0.0, 0.5, 0.9] + [0.0] * 7)
    np.testing.assert_allclose(
        shares(build_schedule(drop_out=chance), 10, 5), (1 - chance) / 2, atol=0.03
    )


def test_if_all_drop_out_one_stays():
    sizes = [len(build_schedule(drop_out=0.99)(20, 4, r)) for r in range(200)]
    assert min(sizes) == 1


@pytest.mark.parametrize("chance", [-0.1, 1.0, np.array([0.5, np.nan])])
def test_a_chance_that_is_none_is_refused(chance):
    with pytest.raises(ValueError, match="give chances from 0, below 1"):
        build_schedule(drop_out=chance)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0], [[1.0] * 3]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="give one from 0 for each client"):
        build_schedule(lambda _: weights)(3, 1, 0)


def test_an_empty_cohort_is_refused():
    with pytest.raises(ValueError, match="Round 7 has no cohort: 3 clients can take part, 0"):
        build_schedule()(3, 0, 7)


# Bookkeeping


@settings(max_examples=25, deadline=None)
@given(rounds=st.lists(st.sets(st.integers(0, 5), min_size=1), max_size=8))
def test_visits_are_booked_as_they_happen(rounds):
    registry = VisitRegistry(STATE_FN, 6)
    for cohort in rounds:
        registry.update(cohort, [registry.stacked(sorted(cohort))])
    for client in range(6):
        took_part = [r for r, cohort in enumerate(rounds) if client in cohort]
        assert registry.visits[client] == len(took_part)
        assert registry.last_visit[client] == (took_part[-1] if took_part else -1)
        expected = len(rounds) - 1 - took_part[-1] if took_part else -1
        assert registry.age[client] == expected
    assert registry.visited == np.flatnonzero(registry.visits).tolist()


def test_a_round_that_is_refused_is_not_booked():
    registry = VisitRegistry(STATE_FN, 6)
    with pytest.raises(ValueError):
        registry.update([1, 2], [registry.stacked([1, 3])])
    assert registry.rounds == 0 and not registry.visits.any() and (registry.last_visit == -1).all()


@pytest.fixture(scope="module")
def trained():
    """Two runs with the same seeds on a schedule, one of them in two halves."""
    process = build_cohort_process(MODEL_FN, STATE_FN, sgd(0.7), sgd(0.1), sgd(0.05))
    data = CohortData(ClientDatasets(ratings_of(1, False), batch_size=4, shuffle_seed=1))
    counts = np.maximum([data.clients.num_ratings(c) for c in data.clients], 1)
    sample = build_schedule(by_activity(counts), drop_out=0.3)

    def run(parts):
        registry, state = VisitRegistry(STATE_FN, NUM_USERS), None
        for rounds in parts:
            state, _ = run_cohorts(
                process, registry, data, rounds, 4, server_state=state, sample_fn=sample, seed=5
            )
        return state, registry

    return run([6]), run([2, 4]), sample


def test_a_run_on_a_schedule_repeats_and_can_be_continued(trained):
    (state, registry), (again, continued), sample = trained
    for a, b in zip(state.model_weights, again.model_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(registry.visits, continued.visits)
    np.testing.assert_array_equal(registry.age, continued.age)
    drawn = np.concatenate([sample(NUM_USERS, 4, r, 5) for r in range(6)])
    np.testing.assert_array_equal(registry.visits, np.bincount(drawn, minlength=NUM_USERS))


# Errors by group


def judged(seed=0):
    """Ratings, and predictions that are off by more for users with high ids."""
    ratings = ratings_of(4, False)
    rng = np.random.default_rng(seed)
    off = 0.1 + 0.05 * ratings.table["user"].to_numpy()
    return ratings, ratings.table["rating"].to_numpy() + rng.normal(0, off)


def test_error_by_group_is_the_error_of_the_groups_ratings():
    ratings, predicted = judged()
    groups = np.where(np.arange(NUM_USERS) < 5, "low", "high")
    table = error_by(groups, predicted, ratings)
    for group in ("low", "high"):
        mask = groups[ratings.table["user"]] == group
        expected = score_with_intervals(predicted[mask], ratings.select(mask)).loc["rmse"]
        np.testing.assert_allclose(
            table.loc[group, ["value", "low", "high"]].astype(float), expected
        )
        assert table.loc[group, "ratings"] == mask.sum()
    assert table.loc["low", "value"] < table.loc["high", "value"]
    assert table["clients"].sum() == ratings.table["user"].nunique()


def test_clients_without_a_label_are_left_out():
    ratings, predicted = judged()
    groups = pd.cut(np.arange(NUM_USERS), [-1, 3, 6])
    table = error_by(groups, predicted, ratings)
    assert table["ratings"].sum() == (ratings.table["user"] <= 6).sum()
    assert list(table.index) == list(groups.categories)


def test_difference_is_paired_by_user():
    ratings, predicted = judged()
    worse = predicted + 0.05 * np.sign(predicted - ratings.table["rating"].to_numpy())
    value, low, high = rmse_difference(worse, predicted, ratings)
    a, b = (score_with_intervals(p, ratings).loc["rmse"] for p in (worse, predicted))
    assert value == pytest.approx(a["value"] - b["value"])
    assert 0 < low <= value <= high
    assert high - low < 0.5 * (b["high"] - b["low"])
    assert rmse_difference(predicted, predicted, ratings) == (0, 0, 0)


def test_runs_are_pooled_by_their_squared_errors():
    ratings, one = judged(0)
    _, two = judged(1)
    zero = ratings.table["rating"].to_numpy()
    squares = [np.mean((np.clip(p, 1, 5) - zero) ** 2) for p in (one, two)]
    value, *_ = rmse_difference(np.stack([one, two]), np.stack([zero, zero]), ratings)
    assert value == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)


# Mends


def test_states_fade_by_half_in_a_half_life():
    registry, first = VisitRegistry(STATE_FN, 4), StackedRegistry(STATE_FN, 4)
    for cohort in ([0, 1], [1], [1]):  # in the end client 0 has age 2, client 1 age 0
        states = registry.stacked(cohort)
        moved = [weights + 1 for weights in states.local_weights]
        registry.update(cohort, [attrs.evolve(states, local_weights=moved)])
    kept, start = registry.stacked(range(4)), first.stacked(range(4))
    faded = decayed(registry, first, half_life=2.0).stacked(range(4))
    for f, k, s in zip(faded.local_weights, kept.local_weights, start.local_weights, strict=True):
        np.testing.assert_allclose(f[0], s[0] + 0.5 * (k[0] - s[0]), rtol=1e-6)
        np.testing.assert_array_equal(f[1], k[1])
        np.testing.assert_array_equal(f[2:], s[2:])


def random_rotation(rng, k):
    return np.linalg.qr(rng.normal(size=(k, k)))[0].astype(np.float32)


def test_alignment_undoes_a_rotation_of_the_items():
    rng = np.random.default_rng(0)
    ratings, registry = ratings_of(4, False), scattered(STATE_FN, NUM_USERS, 5)
    process = build_cohort_process(MODEL_FN, STATE_FN, sgd(1.0), sgd(0.1), sgd(0.05))
    _, bias = process.initialize().model_weights
    items = rng.normal(size=(NUM_ITEMS, NUM_FACTORS)).astype(np.float32)
    rotated = items @ random_rotation(rng, NUM_FACTORS)
    before, after = (
        attrs.evolve(process.initialize(), model_weights=[table, bias])
        for table in (items, rotated)
    )
    wanted = predict(before, registry, ratings, 3.5)
    stale = predict(after, registry, ratings, 3.5)
    rotation = rotation_between(items, rotated)
    mended = predict(after, aligned(registry, rotation), ratings, 3.5)
    assert np.abs(stale - wanted).max() > 0.1
    np.testing.assert_allclose(mended, wanted, atol=1e-4)


def test_drift_tells_a_rotation_from_growth():
    rng = np.random.default_rng(0)
    old = rng.normal(size=(200, 4)).astype(np.float32)
    turned = drift(old, old @ random_rotation(rng, 4))
    assert turned["rotated"] == pytest.approx(1, abs=1e-4) and turned["moved"] > 0.1
    grown = drift(old, 2 * old)
    assert grown["rotated"] == pytest.approx(0, abs=1e-4)
    assert grown["moved"] == pytest.approx(0.5, abs=1e-5)
    assert drift(old, old) == {"moved": 0.0, "rotated": 0.0}


def test_the_default_of_the_loop_and_an_empty_schedule_have_one_signature():
    assert len(sample_cohort(50, 7, 3, 1)) == len(build_schedule()(50, 7, 3, 1)) == 7


# The recorded study

STUDIES = Path(__file__).parents[2] / "experiments" / "studies"


@pytest.fixture(scope="module")
def recorded():
    return results("participation_and_staleness")


def test_a_short_rerun_agrees_with_what_is_recorded(recorded, monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    rows = []
    importlib.import_module("experiments.studies.participation_and_staleness").short_rerun(lambda **fields: rows.append(fields))
    keys = ["method", "metric"]
    expected = recorded[recorded["part"] == "short"].set_index(keys)
    again = pd.DataFrame(rows).set_index(keys)["value"]
    assert set(again.index) == set(expected.index) and len(again) == len(expected)
    for key, value in again.items():
        assert expected.loc[key, "low"] <= value <= expected.loc[key, "high"], key


def test_what_the_chapter_observes_holds_in_what_is_recorded(recorded):
    final = recorded[(recorded["data"] == "ml-1m") & (recorded["protocol"] == "seen, time")]
    rates = final[final["part"] == "rates"]
    gaps = rates[rates["metric"] == "rmse difference"].set_index(["method", "clients"])
    used_as_it_is = gaps.loc["stateful minus stateless"].sort_index()
    assert used_as_it_is["low"].iloc[0] > 0 and used_as_it_is["value"].is_monotonic_decreasing
    start = gaps.loc["hybrid minus stateless"].sort_index()
    assert (start["low"] <= 0).all() and start["high"].iloc[-1] < 0

    groups = rates.groupby(["metric", "group", "method"], sort=False)["value"].mean()
    excess = groups.xs("stateful", level="method") - groups.xs("stateless", level="method")
    aged = excess["rmse by age, one visit"].iloc[-1] - excess["rmse by age, one visit"].iloc[0]
    unvisited = excess["rmse by visits", "0"] - excess["rmse by visits", "1"]
    assert 0 < aged < unvisited / 3
    start = groups.xs("hybrid", level="method") - groups.xs("stateless", level="method")
    assert start.max() < 0.001

    away = final[final["part"] == "absence"]
    back = away.loc[away["method"] == "reconstructed", "rounds"].max()
    rmse = away[(away["rounds"] == back) & (away["metric"] == "rmse")]
    rmse = rmse.groupby("method")["value"].mean()
    stored = rmse["stored state as it is"]
    assert away.loc[away["metric"] == "drift, rotated", "value"].max() < 0.02
    assert abs(rmse["aligned by a rotation"] - stored) < 0.001
    assert rmse["with the items of that day"] > stored > rmse["a few local steps"]
    assert abs(rmse["reconstructed"] - rmse["many local steps"]) < 0.001
