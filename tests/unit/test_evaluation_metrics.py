"""Errors of predictions, their intervals, and the baselines, each against the long way."""

import attrs
import numpy as np
import pandas as pd
import pytest
from random_ratings import NUM_USERS, random_ratings

from stateful_tff.data import split_by_time, synthetic_ratings
from stateful_tff.evaluation.baselines import (
    biases_baseline,
    fit_biases,
    global_mean,
    global_mean_baseline,
    item_mean,
)
from stateful_tff.evaluation.bootstrap import bounds, interval, populations
from stateful_tff.evaluation.metrics import (
    clipped_errors,
    error_by,
    per_user,
    rmse_difference,
    rmse_of_runs,
    score,
    score_with_intervals,
)


@pytest.fixture(scope="module")
def split():
    return split_by_time(synthetic_ratings(num_users=40, num_items=60, seed=1))


def judged(seed=0):
    """Ratings, and predictions that are off by more for users with high ids."""
    ratings = random_ratings(4)
    rng = np.random.default_rng(seed)
    off = 0.1 + 0.05 * ratings.table["user"].to_numpy()
    return ratings, ratings.table["rating"].to_numpy() + rng.normal(0, off)


# Bootstrap


def test_an_interval_holds_the_truth_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(size=60), draws=200)[1:] for _ in range(300)]
    held = np.mean([low <= 0 <= high for low, high in found])
    assert 0.90 <= held <= 0.985


def test_populations_have_everybodys_size_and_the_true_one_is_first():
    often = populations(7, draws=50, seed=1)
    assert often.shape == (51, 7) and (often[0] == 1).all()
    assert (often.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(often, populations(7, 50, 1))
    assert not np.array_equal(often, populations(7, 50, 2))


def test_both_ways_to_draw_give_the_same_interval_up_to_chance():
    values = np.random.default_rng(0).normal(size=200)
    slow = interval(values, draws=4000)
    fast = bounds(populations(200, 4000) @ values / 200)
    assert fast[0] == pytest.approx(slow[0])
    np.testing.assert_allclose(fast[1:], slow[1:], atol=0.05 * (slow[2] - slow[1]))


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: interval([]), ValueError, "There are no users"),
        (lambda: populations(0), ValueError, "There are no users"),
        (lambda: interval([1.0], draws=0), ValueError, "draws must be at least 1"),
        (lambda: interval([1.0], draws=2.5), TypeError, "draws must be a whole number"),
        (lambda: bounds([1.0, 2.0], 95), ValueError, "level must be between 0 and 1"),
    ],
)
def test_bad_intervals_are_refused_in_words(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


# Errors


def test_score_by_hand(split):
    test = split.test.select(np.arange(3))
    stars = test.table["rating"].to_numpy()
    predicted = stars + np.array([0.5, -0.6, 0.0])
    clipped = np.clip(predicted, 1, 5) - stars
    scores = score(predicted, test)
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(clipped**2)), abs=1e-6)
    assert scores["accuracy"] == pytest.approx(np.mean(np.abs(clipped) <= 0.5))
    assert score(stars + 100, test)["rmse"] == pytest.approx(np.sqrt(np.mean((5 - stars) ** 2)))


def test_user_rmse_counts_each_user_once(split):
    error = (split.test.table["user"].to_numpy() == 0).astype(np.float32)
    stars = split.test.table["rating"].to_numpy()
    predicted = np.where(stars >= 3, stars - error, stars + error)
    assert score(predicted, split.test)["user_rmse"] == pytest.approx(1 / 40, abs=1e-6)


def test_each_user_is_judged_alone(split):
    test = split.test
    predicted = np.random.default_rng(0).uniform(0, 6, len(test))
    table = per_user(predicted, test)
    for user, row in table.iterrows():
        mine = (test.table["user"] == user).to_numpy()
        error = np.clip(predicted[mine], 1, 5) - test.table["rating"][mine]
        assert row["ratings"] == mine.sum()
        assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        assert row["accuracy"] == pytest.approx((np.abs(error) <= 0.5).mean())


def test_the_scale_is_one_to_five_or_what_the_ratings_need(split):
    few = split.test.select(split.test.table["rating"].to_numpy() == 3)
    assert split.test.scale == few.scale == (1.0, 5.0)
    halves = attrs.evolve(few, table=few.table.assign(rating=np.float32(0.5)))
    assert halves.scale == (0.5, 5.0)
    assert score(np.zeros(len(halves)), halves)["rmse"] == 0.0
    assert score(np.zeros(len(few)), few)["rmse"] == 2.0
    tens = attrs.evolve(few, table=few.table.assign(rating=np.float32(9)), scale=(1, 10))
    assert score(np.full(len(tens), 12.0), tens)["rmse"] == 1.0


@pytest.mark.parametrize("judge", [score, per_user, score_with_intervals])
@pytest.mark.parametrize(
    "predicted, sentence",
    [
        ([3.0, 3.0], "2 predictions cannot be judged on 3 ratings"),
        ([3.0, np.nan, 3.0], "prediction for row 1 of the ratings is not a finite number"),
        (np.ones((1, 1, 3)), r"\(1, 1, 3\) predictions cannot"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(judge, predicted, sentence, split):
    with pytest.raises(ValueError, match=sentence):
        judge(predicted, split.test.select(np.arange(3)))
    with pytest.raises(ValueError, match="There are no ratings to judge"):
        judge([], split.test.select([]))


def test_intervals_agree_with_the_score_and_hold_what_they_promise():
    ratings = synthetic_ratings()
    rng = np.random.default_rng(0)
    predicted = rng.normal(3.6, 1.0, len(ratings))
    table = score_with_intervals(predicted, ratings, draws=300)
    for name, value in score(predicted, ratings).items():
        assert table.loc[name, "value"] == pytest.approx(value)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    # A slow bootstrap, one drawn population at a time.
    error = (np.clip(predicted, 1, 5) - ratings.table["rating"]) ** 2
    by_user = [part.to_numpy() for _, part in error.groupby(ratings.table["user"])]
    draws = [
        np.sqrt(
            np.concatenate([by_user[u] for u in rng.integers(0, len(by_user), len(by_user))]).mean()
        )
        for _ in range(300)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    width = high - low
    assert table.loc["rmse", "low"] == pytest.approx(low, abs=0.2 * width)
    assert table.loc["rmse", "high"] == pytest.approx(high, abs=0.2 * width)


def test_interval_of_users_without_ratings_leaves_them_out():
    ratings = random_ratings(1)
    table = score_with_intervals(np.full(len(ratings), 3.0), ratings, draws=50)
    assert np.isfinite(table.to_numpy()).all()


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
    with pytest.raises(ValueError, match="3 labels do not fit 14 clients"):
        error_by(groups[:3], predicted, ratings)


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
    with pytest.raises(ValueError, match="make no pairs"):
        rmse_difference(np.stack([worse, worse]), predicted, ratings)


def test_runs_are_pooled_by_their_squared_errors():
    ratings, one = judged(0)
    _, two = judged(1)
    zero = ratings.table["rating"].to_numpy()
    squares = [np.mean(clipped_errors(p, ratings) ** 2) for p in (one, two)]
    value, *_ = rmse_difference(np.stack([one, two]), np.stack([zero, zero]), ratings)
    assert value == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)
    np.testing.assert_allclose(rmse_of_runs(np.stack([one, two]), ratings), np.sqrt(squares))


# Baselines


def test_biases_against_a_direct_solution(split):
    """The alternating fit ends where one ridge regression on all biases ends, in either order."""
    train, test = split.train, split.test
    user, item = train.table["user"].to_numpy(), train.table["item"].to_numpy()
    stars = train.table["rating"].to_numpy().astype(float)
    design = np.zeros((len(train), train.num_users + train.num_items))
    design[np.arange(len(train)), user] = 1
    design[np.arange(len(train)), train.num_users + item] = 1
    ridge = design.T @ design + 5.0 * np.eye(design.shape[1])
    biases = np.linalg.solve(ridge, design.T @ (stars - stars.mean()))
    for users_first in (False, True):
        fitted = fit_biases(train, sweeps=1000, users_first=users_first)
        np.testing.assert_allclose(fitted.users, biases[: train.num_users], atol=1e-4)
        np.testing.assert_allclose(fitted.items, biases[train.num_users :], atol=1e-4)
    assert biases_baseline(train, test)["rmse"] < global_mean_baseline(train, test)["rmse"]
    assert biases_baseline(train, test) == score(fit_biases(train).predict(test), test)


def test_a_penalty_per_rating_adds_to_that_per_user(split):
    """At the optimum every bias is its mean residual, shrunk by both penalties."""
    train = split.train
    fitted = fit_biases(train, shrink=2.0, sweeps=400, l2=0.1)
    item, stars = train.table["item"].to_numpy(), train.table["rating"].to_numpy()
    user = train.table["user"].to_numpy()
    rest = stars - fitted.mean_rating - fitted.users[user]
    count = np.bincount(item, minlength=train.num_items)
    expected = np.bincount(item, rest, train.num_items) / (1.1 * count + 2.0)
    np.testing.assert_allclose(fitted.items, expected, atol=1e-5)


def test_item_mean_by_hand(split):
    train, test = split.train, split.test
    predicted, mean = item_mean(train, test, shrink=2.0), global_mean(train, test)[0]
    item = test.table["item"].iloc[0]
    stars = train.table["rating"][train.table["item"] == item]
    expected = (stars.sum() + 2.0 * mean) / (len(stars) + 2.0)
    assert predicted[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shrink", [0, -1.0, float("nan")])
def test_a_shrinkage_that_is_none_is_refused(shrink, split):
    with pytest.raises(ValueError, match="shrink must be"):
        fit_biases(split.train, shrink)
    with pytest.raises(ValueError, match="shrink must be"):
        item_mean(split.train, split.test, shrink)
