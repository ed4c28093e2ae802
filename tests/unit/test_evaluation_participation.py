"""Schedules, the age of states, and what helps where they are stale."""

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_ratings import NUM_FACTORS, NUM_ITEMS, NUM_USERS, random_ratings

from stateful_tff.evaluation.participation import (
    ByActivity,
    DailyCycle,
    LongAbsence,
    Schedule,
    draw_available,
)
from stateful_tff.evaluation.staleness import ages, aligned, decayed, drift, rotation_between
from stateful_tff.models import MatrixFactorization
from stateful_tff.state import ClientState


def shares(sampler, rounds=4000):
    """How often each client takes part, per round."""
    drawn = np.concatenate([sampler(r) for r in range(rounds)])
    return np.bincount(drawn, minlength=sampler.num_clients) / rounds


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
    np.testing.assert_allclose(shares(Schedule(10, 3)), 0.3, atol=0.03)


def test_round_and_seed_alone_decide_a_cohort():
    active = [ByActivity(np.arange(1, 31))]
    one, same, other = (Schedule(30, 8, active, drop_out=0.2, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one(5), same(5))
    assert not np.array_equal(one(5), one(6))
    assert not np.array_equal(one(5), other(5))


def test_active_clients_take_part_in_proportion_where_cohorts_are_small():
    counts = np.array([10, 20, 40, 130])
    np.testing.assert_allclose(
        shares(Schedule(4, 1, [ByActivity(counts)])), counts / 200, atol=0.02
    )


def test_in_a_daily_cycle_clients_take_part_in_their_hours():
    hours = np.array([0.0, 6.0, 12.0, 22.0])
    sampler = Schedule(4, 4, [DailyCycle(hours, rounds_per_day=24, open_hours=8)])
    for round_num in range(72):
        now = round_num % 24
        open_ = {c for c, h in enumerate(hours) if (now - h) % 24 < 8}
        if open_:
            assert set(sampler(round_num)) == open_
        else:
            with pytest.raises(ValueError, match="0 clients can take part, 4 are wanted"):
                sampler(round_num)


def test_who_is_away_comes_back():
    sampler = Schedule(6, 6, [LongAbsence(np.arange(6) < 2, 3, 5)])
    sizes = [len(set(sampler(r)) & {0, 1}) for r in range(8)]
    assert sizes == [2, 2, 2, 0, 0, 2, 2, 2]


def test_conditions_multiply_and_may_be_plain_functions():
    away = LongAbsence(np.arange(8) >= 4, 0, 100)
    sampler = Schedule(8, 8, [ByActivity(np.arange(1, 9)), away, lambda _: np.arange(8) > 0])
    assert all(set(sampler(r)) == {1, 2, 3} for r in range(20))


def test_drop_outs_are_lost_with_their_own_chance():
    chance = np.array([0.0, 0.5, 0.9] + [0.0] * 7)
    np.testing.assert_allclose(
        shares(Schedule(10, 5, drop_out=chance)), (1 - chance) / 2, atol=0.03
    )


def test_if_all_drop_out_one_stays():
    assert min(len(Schedule(20, 4, drop_out=0.99)(r)) for r in range(200)) == 1


@pytest.mark.parametrize("chance", [-0.1, 1.0, np.array([0.5, np.nan])])
def test_a_chance_that_is_none_is_refused(chance):
    with pytest.raises(ValueError, match="give chances from 0, below 1"):
        Schedule(2, 1, drop_out=chance)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0], [[1.0] * 3]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="give one from 0 for each client"):
        Schedule(3, 1, [lambda _: weights])(0)


@pytest.mark.parametrize(
    "arguments, error, sentence",
    [
        ((3, 0), ValueError, "cohort_size must be at least 1"),
        ((3, 1.5), TypeError, "cohort_size must be a whole number"),
        ((3, 1, (), np.zeros(4)), ValueError, "shape .4. for 3 clients"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        Schedule(*arguments)


def test_schedules_are_shown_alike_only_if_they_draw_alike():
    """The store keeps what is shown, so that a run goes on with the sampler it began with."""

    def weekends(round_num):
        return np.ones(6)

    def make(counts, away):
        conditions = [ByActivity(counts), LongAbsence(away, 3, 5), weekends]
        return repr(Schedule(6, 2, conditions, drop_out=np.full(6, 0.1)))

    counts, away = np.arange(6), np.arange(6) < 2
    assert make(counts, away) == make(counts.copy(), away.copy())
    assert make(counts, away) != make(counts + 1, away) != make(counts + 1, ~away)
    assert "weekends" in make(counts, away) and "0x" not in make(counts, away)


# Stale states


def stacked(seed=0, last_round=None):
    """States of all clients, away from the common start."""
    rng = np.random.default_rng(seed)
    local = [rng.normal(0, 0.3, (NUM_USERS, 1, k)).astype(np.float32) for k in (NUM_FACTORS, 1)]
    last = np.zeros(NUM_USERS, np.int32) if last_round is None else np.asarray(last_round, np.int32)
    return ClientState(np.arange(NUM_USERS, dtype=np.int32), local, (), last, np.int32(last > 0))


@settings(max_examples=25, deadline=None)
@given(rounds=st.lists(st.sets(st.integers(0, NUM_USERS - 1), min_size=1), max_size=8))
def test_ages_follow_the_rounds_as_they_happen(rounds):
    last = np.zeros(NUM_USERS, int)
    for number, cohort in enumerate(rounds, 1):
        last[sorted(cohort)] = number
    found = ages(stacked(last_round=last), len(rounds))
    for client in range(NUM_USERS):
        took_part = [r for r, cohort in enumerate(rounds, 1) if client in cohort]
        assert found[client] == (len(rounds) - took_part[-1] if took_part else -1)


def test_a_state_from_the_future_is_refused():
    with pytest.raises(ValueError, match="Client 2 took part in round 9, but only 8 are done"):
        ages(stacked(last_round=[0, 1, 9] + [0] * (NUM_USERS - 3)), 8)


@pytest.mark.parametrize("stack_first", [False, True], ids=["one first state", "a stack of them"])
def test_states_fade_by_half_in_a_half_life_and_stay_as_old_as_they_were(stack_first):
    kept = stacked(1, [1, 3] + [0] * (NUM_USERS - 2))
    start = stacked(2)
    if not stack_first:
        start = attrs.evolve(start, local_weights=[part[5] for part in start.local_weights])
    faded = decayed(kept, start, round_num=3, half_life=2.0)
    for f, k, s in zip(faded.local_weights, kept.local_weights, start.local_weights, strict=True):
        s = np.broadcast_to(s, k.shape)
        np.testing.assert_allclose(f[0], s[0] + 0.5 * (k[0] - s[0]), rtol=1e-5)
        np.testing.assert_allclose(f[1:], k[1:], rtol=1e-5, atol=1e-7)
        assert f.dtype == np.float32
    np.testing.assert_array_equal(ages(faded, 3), [2, 0] + [-1] * (NUM_USERS - 2))
    np.testing.assert_array_equal(faded.num_visits, kept.num_visits)
    np.testing.assert_array_equal(faded.index, kept.index)
    with pytest.raises(ValueError, match="half_life must be above zero"):
        decayed(kept, start, 3, 0)


def random_rotation(rng, k):
    return np.linalg.qr(rng.normal(size=(k, k)))[0].astype(np.float32)


def test_alignment_undoes_a_rotation_of_the_items():
    rng = np.random.default_rng(0)
    ratings, states = random_ratings(4), stacked(5)
    model = MatrixFactorization(NUM_ITEMS, NUM_FACTORS, biases=True, mean_rating=3.5)
    bias = np.zeros((NUM_ITEMS, 1), np.float32)
    items = rng.normal(size=(NUM_ITEMS, NUM_FACTORS)).astype(np.float32)
    rotated = items @ random_rotation(rng, NUM_FACTORS)
    user, item = (ratings.table[c].to_numpy() for c in ("user", "item"))

    def predict(table, states):
        return model.predict([table, bias], [w[:, 0] for w in states.local_weights], user, item)

    wanted, stale = predict(items, states), predict(rotated, states)
    turned = aligned(states, rotation_between(items, rotated))
    assert np.abs(stale - wanted).max() > 0.1
    np.testing.assert_allclose(predict(rotated, turned), wanted, atol=1e-4)
    assert turned.last_round is states.last_round


def test_drift_tells_a_rotation_from_growth():
    rng = np.random.default_rng(0)
    old = rng.normal(size=(200, 4)).astype(np.float32)
    turned = drift(old, old @ random_rotation(rng, 4))
    assert turned["rotated"] == pytest.approx(1, abs=1e-4) and turned["moved"] > 0.1
    grown = drift(old, 2 * old)
    assert grown["rotated"] == pytest.approx(0, abs=1e-4)
    assert grown["moved"] == pytest.approx(0.5, abs=1e-5)
    assert drift(old, old) == {"moved": 0.0, "rotated": 0.0}
