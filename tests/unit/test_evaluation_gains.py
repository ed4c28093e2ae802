"""Gains of users, noise, traits, cold start and rankings, each against the long way."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, norm

from stateful_tff.data import DataError, Ratings, synthetic_ratings
from stateful_tff.evaluation.baselines import fit_biases
from stateful_tff.evaluation.cold_start import (
    cold_start,
    first_ratings,
    mean_start,
    prior_of,
    seen_and_unseen,
    serve_biases,
)
from stateful_tff.evaluation.gains import (
    by_trait,
    gains,
    gains_by_group,
    gains_in_halves,
    rmse_spread,
    shrunk_gains,
    split_half_noise,
    trait_effects,
    user_traits,
    worse_off,
)
from stateful_tff.evaluation.metrics import per_user
from stateful_tff.evaluation.ranking import (
    hit_rate_and_ndcg,
    leave_one_out,
    score_all,
    target_ranks,
)
from stateful_tff.models import MatrixFactorization
from stateful_tff.state import ClientState

RATINGS = synthetic_ratings(num_users=60, num_items=150, seed=3)
USERS = seen_and_unseen(RATINGS, seed=1)


def ids(ratings):
    return set(ratings.table["user"])


def of_user(ratings, user):
    return ratings.table[ratings.table["user"] == user]


def test_nobody_is_both_seen_and_unseen():
    assert ids(USERS.seen.train) == ids(USERS.seen.test)
    assert not ids(USERS.seen.train) & ids(USERS.unseen)
    tuning = seen_and_unseen(RATINGS, seed=1, tuning=True)
    assert not ids(USERS.unseen) & (ids(tuning.seen.train) | ids(tuning.unseen))
    assert not ids(tuning.unseen) & ids(tuning.seen.train)


# Gains


def test_a_gain_is_above_zero_where_the_error_is_smaller():
    test = USERS.seen.test
    truth = test.table["rating"].to_numpy(float)
    gain = gains(truth, truth - 1.5 * np.sign(truth - 3.1), test)
    assert (gain == 1.5).all() and worse_off(gain) == 0 and worse_off(-gain) == 1


@pytest.mark.parametrize("spread, center", [(0.0, 0.05), (0.2, 0.1), (0.5, -0.1)])
def test_noise_is_told_from_gains(spread, center):
    rng = np.random.default_rng(0)
    true = rng.normal(center, spread, 20_000)
    halves = np.stack([true + rng.normal(0, 0.3, len(true)) for _ in range(2)], axis=1)
    worse, again, found, truly = split_half_noise(halves)
    assert worse == pytest.approx(norm.cdf(0, center, np.hypot(spread, 0.3)), abs=0.01)
    assert found == pytest.approx(spread, abs=0.03)
    if spread:
        assert again > worse + 0.05
        assert truly == pytest.approx((true < 0).mean(), abs=0.02)
    else:
        assert again == pytest.approx(worse, abs=0.02)


@pytest.mark.parametrize("spread, center", [(0.0, 0.05), (0.2, 0.1), (0.5, -0.1)])
def test_shrunk_gains_are_the_expected_true_ones(spread, center):
    rng = np.random.default_rng(0)
    true = rng.normal(center, spread, 20_000)
    counts = rng.integers(2, 40, len(true))
    noise = np.sqrt(0.5 / counts)  # of the whole test; a half has twice the variance
    halves = true[:, None] + rng.normal(0, 2**0.5, (len(true), 2)) * noise[:, None]
    table = shrunk_gains(halves, counts)
    assert table.attrs["spread"] == pytest.approx(spread, abs=0.02)
    np.testing.assert_allclose(table["gain"], halves.mean(axis=1))
    np.testing.assert_allclose(table["noise"], noise, rtol=0.05)
    weight = spread**2 / (spread**2 + noise**2)
    expected = center + weight * (table["gain"] - center)
    np.testing.assert_allclose(table["shrunk"], expected, atol=0.03)
    left = table["shrunk"] - true
    assert np.mean(left**2) == pytest.approx(np.mean(table["left"] ** 2), abs=2e-3)
    if spread:
        assert np.mean(left**2) < 0.9 * np.mean((table["gain"] - true) ** 2)
        assert table["worse"].mean() == pytest.approx((true < 0).mean(), abs=0.02)
        sure = table["worse"] > 0.9
        assert (true[sure] < 0).mean() > 0.9


def test_without_a_spread_every_gain_is_the_mean():
    table = shrunk_gains(np.array([[0.2, -0.2], [-0.1, 0.1]]), [4, 4])
    assert table.attrs["spread"] == 0 and table["shrunk"].abs().max() < 1e-12
    with pytest.raises(ValueError, match="3 counts do not fit 2 users"):
        shrunk_gains(np.zeros((2, 2)), [1, 2, 3])
    with pytest.raises(ValueError, match="halves must hold two gains"):
        shrunk_gains(np.zeros((2, 3)), [1, 2])


def test_halves_are_dealt_out_in_turn():
    test = USERS.seen.test
    rng = np.random.default_rng(0)
    one, two = rng.uniform(1, 5, (2, len(test)))
    user = min(ids(test))
    rows = np.flatnonzero(test.table["user"] == user)
    stars = test.table["rating"].to_numpy()

    def rmse(predicted, at):
        return np.sqrt(np.mean((predicted[at] - stars[at]) ** 2))

    expected = [rmse(two, rows[k::2]) - rmse(one, rows[k::2]) for k in (0, 1)]
    np.testing.assert_allclose(gains_in_halves(one, two, test)[0], expected, rtol=1e-5)


def test_traits_are_those_of_the_training_ratings():
    train = USERS.seen.train
    traits = user_traits(train)
    user = max(ids(train))
    mine = of_user(train, user)
    counts = train.table["item"].value_counts()
    apart = []
    for row in mine.itertuples():
        others = train.table.query("item == @row.item and user != @user")["rating"]
        if len(others):
            apart.append(row.rating - others.mean())
    assert traits.loc[user, "ratings"] == len(mine)
    assert traits.loc[user, "popularity"] == pytest.approx(counts[mine["item"]].mean())
    assert traits.loc[user, "distance"] == pytest.approx(np.sqrt(np.mean(np.square(apart))))


def test_groups_gain_in_stars_and_in_percent():
    gain = pd.Series([0.1, 0.3, -0.1, 0.0], index=[3, 5, 7, 8])
    before = pd.Series(1.0, index=range(9)) * np.arange(9) / 5
    table = gains_by_group(gain, before, pd.Series(list("xxxaabcab"), index=range(9)))
    assert list(table.index) == ["a", "b"] and table["users"].tolist() == [2, 2]
    np.testing.assert_allclose(table["stars"], [0.0, 0.15], atol=1e-12)
    np.testing.assert_allclose(table["percent"], [0.0, 100 * 0.3 / 2.6], atol=1e-12)
    assert (table["percent low"] <= table["percent"]).all()
    with pytest.raises(ValueError, match="no users in any group"):
        gains_by_group(gain, before, pd.Series(np.nan, index=range(9)))


def test_groups_are_equal_and_effects_are_told_apart():
    rng = np.random.default_rng(0)
    first = rng.normal(size=1000)
    second = first + rng.normal(size=1000)  # goes along with the first, and has no effect
    traits = pd.DataFrame({"first": first, "second": second})
    gain = pd.Series(0.5 * traits["first"].rank(pct=True) + rng.normal(0, 0.05, 1000))
    table = by_trait(gain, traits)
    assert len(table) == 10 and (table["low"] <= table["value"]).all()
    assert table.query("trait == 'second'")["value"].is_monotonic_increasing  # so it seems
    effect = trait_effects(gain, traits)
    assert effect.loc["first", "low"] <= 0.5 <= effect.loc["first", "high"]
    assert effect.loc["second", "low"] <= 0 <= effect.loc["second", "high"]
    with pytest.raises(ValueError, match="3 users do not fill 5 groups"):
        by_trait(gain[:3], traits)


def test_the_spread_over_a_hundred_users():
    rmse = np.random.default_rng(0).permutation(np.arange(100.0))
    np.testing.assert_allclose(rmse_spread(rmse), [rmse.std(), 94.5, 4.5])


# Cold start


def test_new_users_are_the_same_at_every_count():
    supports, query = first_ratings(USERS.unseen, [0, 1, 5])
    assert len(supports[0]) == 0
    assert ids(supports[1]) == ids(supports[5]) == ids(query)
    for user in ids(query):
        of = [of_user(part, user) for part in (supports[1], supports[5], query)]
        assert [len(part) for part in of[:2]] == [1, 5] and len(of[2]) >= 10
        assert of[1]["timestamp"].max() <= of[2]["timestamp"].min()
        assert not set(of[1]["item"]) & set(of[2]["item"])
    with pytest.raises(DataError, match="No new user has 1010 ratings"):
        first_ratings(USERS.unseen, [1000])
    with pytest.raises(ValueError, match="There are no counts"):
        first_ratings(USERS.unseen, [])


def test_the_baseline_for_new_users_fits_one_number_each():
    train = USERS.seen.train
    serve, biases = serve_biases(train), fit_biases(train)
    supports, query = first_ratings(USERS.unseen, [0, 5])
    unadapted = biases.mean_rating + biases.items[query.table["item"]]
    np.testing.assert_allclose(serve(supports[0], query, 0), unadapted, rtol=1e-6)
    user = min(ids(query))
    mine = of_user(supports[5], user)
    bias = (mine["rating"] - biases.mean_rating - biases.items[mine["item"]]).sum() / (5 + 5)
    at = (query.table["user"] == user).to_numpy()
    np.testing.assert_allclose(serve(supports[5], query, 5)[at], unadapted[at] + bias, rtol=1e-6)


def test_cold_start_judges_each_new_user_at_each_count():
    counts, served = [0, 2], []

    def serve(support, query, count):
        served.append((len(support), count))
        return np.full(len(query), 3.0 + count / 10)

    table = cold_start(USERS.unseen, counts, serve)
    supports, query = first_ratings(USERS.unseen, counts)
    assert served == [(0, 0), (len(supports[2]), 2)]
    expected = per_user(np.full(len(query), 3.2), query)["rmse"]
    pd.testing.assert_series_equal(table[2], expected, check_names=False)


def test_the_mean_start_is_that_of_the_clients_that_took_part():
    rng = np.random.default_rng(0)
    local = [rng.normal(size=(6, 1, k)).astype(np.float32) for k in (3, 1)]
    visits = np.array([0, 2, 1, 0, 0, 5], np.int32)
    states = ClientState(np.arange(6, dtype=np.int32), local, (), visits, visits)
    new = [np.zeros((2, 1, k), np.float32) for k in (3, 1)]
    start = mean_start(states, ClientState(np.array([8, 9], np.int32), new))
    for found, part in zip(start.local_weights, local, strict=True):
        assert found.shape == (2, *part.shape[1:]) and found.dtype == np.float32
        np.testing.assert_allclose(found, np.tile(part[[1, 2, 5]].mean(axis=0), (2, 1, 1)))
    assert start.index.tolist() == [8, 9] and start.last_round == 0
    nobody = ClientState(np.arange(6), local, (), 0 * visits, 0 * visits)
    with pytest.raises(ValueError, match="None of these clients took part"):
        mean_start(nobody, start)


def test_a_prior_is_the_mean_and_covariance_of_the_users_who_count():
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(9, k)).astype(np.float32) for k in (3, 1)]
    prior, rows = prior_of(sides, [1, 4, 8]), np.column_stack(sides)[[1, 4, 8]]
    np.testing.assert_allclose(prior.mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(prior.covariance, np.cov(rows.T, bias=True), atol=1e-6)
    with pytest.raises(ValueError, match="Nobody has a side"):
        prior_of(sides, [])


def test_a_prior_is_fitted_as_the_normal_equations_say():
    rng = np.random.default_rng(0)
    model = MatrixFactorization(150, 3, biases=True, mean_rating=3.5)
    items = [rng.normal(size=(150, k)) for k in (3, 1)]
    prior = prior_of([rng.normal(size=(40, k)) for k in (3, 1)], range(40))
    support, _ = first_ratings(USERS.unseen, [5])
    support, user = support[5], min(ids(support[5]))
    sides = prior.fit(model, items, support, 0.7)
    mine = of_user(support, user)
    features = np.column_stack([items[0][mine["item"]], np.ones(len(mine))])
    rest = mine["rating"] - 3.5 - items[1][mine["item"], 0]
    precision = np.linalg.inv(prior.covariance)
    expected = np.linalg.solve(
        features.T @ features / 0.7 + precision,
        features.T @ rest / 0.7 + precision @ prior.mean,
    )
    found = np.concatenate([part[user] for part in sides])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    nobody = next(u for u in range(support.num_users) if u not in ids(support))
    np.testing.assert_allclose(np.concatenate([p[nobody] for p in sides]), prior.mean, rtol=1e-6)
    with pytest.raises(ValueError, match="noise must be above zero"):
        prior.fit(model, items, support, 0.0)
    with pytest.raises(ValueError, match=r"items must be vectors of the shape \[150, k\]"):
        prior.fit(model, items[:1], support, 0.7)
    with pytest.raises(ValueError, match="vectors of length 2, and the prior is of sides with 3"):
        prior.fit(model, [items[0][:, :2], items[1]], support, 0.7)


# Rankings


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 2), st.integers(1, 4))
def test_ties_count_as_the_mean_over_all_their_orders(others, own, cutoff):
    scores = np.array([[own, *others]], float)
    candidates = np.ones((1, len(others) + 1), bool)
    candidates[0, 0] = False
    hits, worth = [], []
    for order in itertools.permutations(range(len(others) + 1)):
        ranked = sorted(order, key=lambda i: -scores[0, i])  # a stable sort keeps the order
        rank = ranked.index(0)
        hits.append(rank < cutoff)
        worth.append((rank < cutoff) / np.log2(rank + 2))
    hit, ndcg = hit_rate_and_ndcg(*target_ranks(scores, np.array([0]), candidates), cutoff)
    assert hit[0] == pytest.approx(np.mean(hits))
    assert ndcg[0] == pytest.approx(np.mean(worth))


def test_a_score_that_compares_with_nothing_is_refused():
    with pytest.raises(ValueError, match="A score is NaN"):
        target_ranks(np.array([np.nan, 1.0]), np.array([0]), np.array([[False, True]]))


def test_the_last_movie_competes_with_what_the_user_never_rated():
    test = USERS.seen.test
    task = leave_one_out(RATINGS, test, seed=0, negatives=30)
    assert set(task.users) == ids(test)
    for row, user in enumerate(task.users):
        mine = of_user(RATINGS, user)
        assert task.target[row] == mine["item"].iloc[-1]
        assert not task.all[row][mine["item"]].any()
        assert task.all[row].sum() == RATINGS.num_items - len(mine)
    assert (task.sampled.sum(axis=1) == 30).all() and not (task.sampled & ~task.all).any()
    with pytest.raises(ValueError, match="too few to sample 140"):
        leave_one_out(RATINGS, test, negatives=140)
    with pytest.raises(ValueError, match="There are no test ratings"):
        leave_one_out(RATINGS, test.select([]))


def test_one_of_many_is_left_out_without_a_table_of_all():
    users, items = np.arange(40_000), np.arange(20_000)
    table = pd.DataFrame(dict(user=np.repeat(users[:30], 2), item=np.tile([3, 7], 30), rating=4.0))
    table["timestamp"] = np.tile([1, 2], 30)
    movies = pd.DataFrame(dict(movie_id=items, title="", genres=""))
    ratings = Ratings("wide", table, users, movies)
    task = leave_one_out(ratings, ratings, negatives=9)
    assert (task.target == 7).all() and task.drawn.shape == (30, 9)
    assert not np.isin(task.drawn, [3, 7]).any()
    part = task[10:12]
    assert np.array_equal(part.all, task.all[10:12])
    assert np.array_equal(part.sampled, task.sampled[10:12])
    with pytest.raises(TypeError, match="Some users are a slice"):
        task[3]


def test_sampling_is_hypergeometric():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=RATINGS.num_items)
    test, hits, expected = USERS.seen.test, [], []
    for seed in range(20):
        task = leave_one_out(RATINGS, test, seed, negatives=30)
        hits += hit_rate_and_ndcg(*target_ranks(scores, task.target, task.sampled))[0].tolist()
        above, _ = target_ranks(scores, task.target, task.all)
        expected += hypergeom.cdf(9, task.all.sum(axis=1), above, 30).tolist()
    assert np.mean(hits) == pytest.approx(np.mean(expected), abs=0.02)


@pytest.mark.parametrize("biases", [True, False])
def test_scores_order_movies_as_predictions_do(biases):
    rng = np.random.default_rng(0)
    widths = (4, 1) if biases else (4,)
    model = MatrixFactorization(150, 4, biases=biases, mean_rating=3.5)
    of_items, of_users = (
        [rng.normal(0, 0.3, (size, k)).astype(np.float32) for k in widths] for size in (150, 60)
    )
    users, items = np.array([3, 7]), np.arange(150)
    scores = score_all(model, of_items, of_users, users)
    assert scores.dtype == np.float32
    for row, user in enumerate(users):
        offset = model.predict(of_items, of_users, np.full(150, user), items) - scores[row]
        np.testing.assert_allclose(offset, offset[0], atol=1e-5)
    with pytest.raises(ValueError, match="Client 60 is unknown"):
        score_all(model, of_items, of_users, [60])
