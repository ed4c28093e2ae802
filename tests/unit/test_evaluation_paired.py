"""Paired differences over seeds: right values, coverage, and what is refused."""

import numpy as np
import pytest
from random_ratings import random_ratings

from stateful_tff.evaluation.metrics import rmse_difference
from stateful_tff.evaluation.paired import (
    SMALLEST_EFFECT,
    OverSeeds,
    PairedDifference,
    UserErrors,
    mean_over_users,
    paired_difference,
    rmse_of_users,
    user_errors,
)


def runs(rng, shift=0.0, users=200, seeds=3, own=0.3):
    """Errors of two methods on the same users, the first one `shift` worse in every rating."""
    hard = rng.gamma(4.0, 0.25, users)
    pairs = []
    for _ in range(seeds):
        count = rng.integers(1, 30, users)
        pair = []
        for more in (shift, 0.0):
            noise = rng.normal(size=users) * own * 0.1
            pair.append(UserErrors(count * (hard + more + noise) ** 2, count))
        pairs.append(pair)
    return zip(*pairs, strict=True)


def test_one_seed_is_the_difference_of_rmses():
    ratings = random_ratings(0)
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 5, (2, len(ratings)))
    found = paired_difference([user_errors(a, ratings)], [user_errors(b, ratings)])
    expected = rmse_difference(a, b, ratings)
    np.testing.assert_allclose((found.value, found.low, found.high), expected, rtol=1e-9)
    assert found.by_seed == (found.value,)
    assert user_errors(a, ratings).rmse - user_errors(b, ratings).rmse == pytest.approx(found.value)


def test_it_is_the_mean_over_seeds():
    first, second = runs(np.random.default_rng(1), shift=0.05)
    found = paired_difference(first, second)
    assert found.value == pytest.approx(np.mean(found.by_seed))
    expected = [a.rmse - b.rmse for a, b in zip(first, second, strict=True)]
    assert found.by_seed == pytest.approx(expected)
    assert 0.03 < found.low < found.value < found.high < 0.07
    assert found.verdict == "worse"
    swapped = paired_difference(second, first)
    assert swapped.value == pytest.approx(-found.value) and swapped.verdict == "better"


def test_the_interval_covers_a_difference_of_zero_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        first, second = runs(np.random.default_rng(seed), users=100, seeds=1)
        found = paired_difference(first, second, draws=200)
        covered += found.low <= 0 <= found.high
    assert 85 <= covered <= 100


def test_users_of_no_seed_do_not_count():
    first, second = runs(np.random.default_rng(2), shift=0.1)
    wider = [
        [UserErrors(np.append(one.squared, 0.0), np.append(one.count, 0)) for one in method]
        for method in (first, second)
    ]
    assert paired_difference(*wider) == paired_difference(first, second)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.001, 0.0015, "no difference"),
        (0.0001, 0.0019, "no difference"),
        (0.001, 0.005, "worse"),
        (-0.005, -0.001, "better"),
        (-0.003, 0.001, "undecided"),
    ],
)
def test_verdicts(low, high, verdict):
    assert SMALLEST_EFFECT == 0.002
    assert PairedDifference((low + high) / 2, low, high, ()).verdict == verdict


def test_what_makes_no_pairs_is_refused():
    first, second = (list(one) for one in runs(np.random.default_rng(3)))
    with pytest.raises(ValueError, match="3 and 2 seeds make no pairs"):
        paired_difference(first, second[:2])
    with pytest.raises(ValueError, match="0 and 0 seeds make no pairs"):
        paired_difference([], [])
    other = UserErrors(second[1].squared, second[1].count + 1)
    with pytest.raises(ValueError, match="In pair 1 the methods are judged on different"):
        paired_difference(first, [second[0], other, second[2]])


def test_how_much_a_difference_has_grown():
    first, second = (list(one) for one in runs(np.random.default_rng(4), shift=0.05))
    third, fourth = (list(one) for one in runs(np.random.default_rng(4), shift=0.02))
    grown = paired_difference(first, second, minus=(third, fourth))
    one, other = paired_difference(first, second), paired_difference(third, fourth)
    assert grown.value == pytest.approx(one.value - other.value)
    assert 0 < grown.low and grown.high - grown.low < one.high - one.low
    with pytest.raises(ValueError, match="3 and 3 and 3 and 2 seeds make no pairs"):
        paired_difference(first, second, minus=(third, fourth[:2]))


def test_the_mean_over_users_is_that_of_each_seed():
    first, second = runs(np.random.default_rng(1), shift=0.05)
    gain = rmse_of_users(second) - rmse_of_users(first)
    gain[0, :50] = np.nan  # whom the first seed does not judge
    found = mean_over_users(gain)
    assert found.by_seed == pytest.approx(np.nanmean(gain, axis=1))
    assert found.value == pytest.approx(np.mean(found.by_seed))
    assert found.low < -0.05 < found.high < 0


def test_relative_means_divide_sums_and_groups_share_their_draws():
    first, second = runs(np.random.default_rng(1), shift=0.05)
    before = rmse_of_users(second)
    gain = before - rmse_of_users(first)
    found = mean_over_users(gain, per=before)
    assert found.value == pytest.approx(np.mean(gain.sum(axis=1) / before.sum(axis=1)))
    half = np.arange(200) < 100
    apart = mean_over_users(gain, users=half, minus=~half)
    alone = [mean_over_users(gain, users=group).value for group in (half, ~half)]
    assert apart.value == pytest.approx(alone[0] - alone[1])
    assert mean_over_users(gain, users=half, minus=half) == OverSeeds(0, 0, 0, (0, 0, 0))


def test_the_interval_of_a_mean_covers_it():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        own = rng.normal(0.1, 1.0, 120)
        found = mean_over_users(own + rng.normal(0, 0.1, (3, 120)), draws=300)
        inside += found.low <= 0.1 <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_who_is_not_judged_has_no_error_and_a_group_of_nobody_no_mean():
    one = UserErrors(np.array([4.0, 0.0]), np.array([4, 0]))
    values = rmse_of_users([one])
    assert values[0, 0] == 1 and np.isnan(values[0, 1])
    with pytest.raises(ValueError, match="A group of 0 users has nobody to judge"):
        mean_over_users(values, users=np.array([False, True]))
    with pytest.raises(TypeError, match="users must be an array with True or False for each of 2"):
        mean_over_users(values, users=np.array([True]))
