"""Chapter 9: gains of users, luck, traits, cold start and rankings, each against the long way."""

import itertools
import sys
from collections import OrderedDict

import attrs
import numpy as np
import pandas as pd
import pytest
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, norm

from stateful_tff import personalization as p
from stateful_tff.data import ClientDatasets, DataError, synthetic_ratings
from stateful_tff.recorded import ROOT, results

RATINGS = synthetic_ratings(num_users=60, num_items=150, seed=3)
USERS = p.known_and_new(RATINGS, seed=1)


@pytest.fixture(scope="module")
def trained():
    """A recipe and what a few rounds made of it, with state and without."""
    recipe = p.build_recipe(USERS.known.train, num_factors=3)
    stateful = p.train_stateful(recipe, USERS.known.train, 6, 20)
    return recipe, stateful, p.train_stateless(recipe, USERS.known.train, 2, 10)


def ids(ratings):
    return set(ratings.table["user"])


def of_user(ratings, user):
    return ratings.table[ratings.table["user"] == user]


def test_nobody_is_both_known_and_new():
    assert ids(USERS.known.train) == ids(USERS.known.test)
    assert not ids(USERS.known.train) & ids(USERS.new)
    tuning = p.known_and_new(RATINGS, seed=1, tuning=True)
    assert not ids(USERS.new) & (ids(tuning.known.train) | ids(tuning.new))
    assert not ids(tuning.new) & ids(tuning.known.train)


def test_each_user_is_judged_alone():
    test = USERS.known.test
    predicted = np.random.default_rng(0).uniform(0, 6, len(test))
    table = p.per_user(predicted, test)
    for user, row in table.iterrows():
        mine = (test.table["user"] == user).to_numpy()
        error = np.clip(predicted[mine], 1, 5) - test.table["rating"][mine]
        assert row["ratings"] == mine.sum()
        assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        assert row["accuracy"] == pytest.approx((np.abs(error) <= 0.5).mean())
    with pytest.raises(ValueError, match="cannot be judged"):
        p.per_user(predicted[1:], test)


def test_a_gain_is_above_zero_where_the_error_is_smaller():
    test = USERS.known.test
    truth = test.table["rating"].to_numpy(float)
    gain = p.gains(truth, truth - 1.5 * np.sign(truth - 3.1), test)
    assert (gain == 1.5).all() and p.worse_off(gain) == 0 and p.worse_off(-gain) == 1


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [p.interval(rng.normal(size=60), draws=200)[1:] for _ in range(300)]
    held = np.mean([low <= 0 <= high for low, high in found])
    assert 0.90 <= held <= 0.985
    with pytest.raises(ValueError, match="no users"):
        p.interval([])


@pytest.mark.parametrize("spread, center", [(0.0, 0.05), (0.2, 0.1), (0.5, -0.1)])
def test_luck_is_told_from_gains(spread, center):
    rng = np.random.default_rng(0)
    true = rng.normal(center, spread, 20_000)
    halves = np.stack([true + rng.normal(0, 0.3, len(true)) for _ in range(2)], axis=1)
    worse, again, found, truly = p.luck(halves)
    assert worse == pytest.approx(norm.cdf(0, center, np.hypot(spread, 0.3)), abs=0.01)
    assert found == pytest.approx(spread, abs=0.03)
    if spread:
        assert again > worse + 0.05
        assert truly == pytest.approx((true < 0).mean(), abs=0.02)
    else:
        assert again == pytest.approx(worse, abs=0.02)


def test_halves_are_dealt_out_in_turn():
    test = USERS.known.test
    rng = np.random.default_rng(0)
    one, two = rng.uniform(1, 5, (2, len(test)))
    user = min(ids(test))
    rows = np.flatnonzero(test.table["user"] == user)
    stars = test.table["rating"].to_numpy()

    def rmse(predicted, at):
        return np.sqrt(np.mean((predicted[at] - stars[at]) ** 2))

    expected = [rmse(two, rows[k::2]) - rmse(one, rows[k::2]) for k in (0, 1)]
    np.testing.assert_allclose(p.gains_in_halves(one, two, test)[0], expected, rtol=1e-5)


def test_traits_are_those_of_the_training_ratings():
    train = USERS.known.train
    traits = p.user_traits(train)
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


def test_groups_are_equal_and_pulls_are_told_apart():
    rng = np.random.default_rng(0)
    first = rng.normal(size=1000)
    second = first + rng.normal(size=1000)  # goes along with the first, and pulls nothing
    traits = pd.DataFrame({"first": first, "second": second})
    gain = pd.Series(0.5 * traits["first"].rank(pct=True) + rng.normal(0, 0.05, 1000))
    table = p.by_trait(gain, traits)
    assert len(table) == 10 and (table["low"] <= table["value"]).all()
    assert table.query("trait == 'second'")["value"].is_monotonic_increasing  # so it seems
    pull = p.pulls(gain, traits)
    assert pull.loc["first", "low"] <= 0.5 <= pull.loc["first", "high"]
    assert pull.loc["second", "low"] <= 0 <= pull.loc["second", "high"]


def test_evenness_of_a_hundred_users():
    rmse = np.random.default_rng(0).permutation(np.arange(100.0))
    np.testing.assert_allclose(p.evenness(rmse), [rmse.std(), 94.5, 4.5])


def test_new_users_are_the_same_at_every_count():
    supports, query = p.first_ratings(USERS.new, [0, 1, 5])
    assert len(supports[0]) == 0
    assert ids(supports[1]) == ids(supports[5]) == ids(query)
    for user in ids(query):
        of = [of_user(part, user) for part in (supports[1], supports[5], query)]
        assert [len(part) for part in of[:2]] == [1, 5] and len(of[2]) >= 10
        assert of[1]["timestamp"].max() <= of[2]["timestamp"].min()
        assert not set(of[1]["item"]) & set(of[2]["item"])
    with pytest.raises(DataError, match="No new user has 1010 ratings"):
        p.first_ratings(USERS.new, [1000])


def test_the_floor_for_new_users_fits_one_number_each():
    train = USERS.known.train
    serve = p.serve_biases(train)
    mean, _, of_item = p.fit_biases(train)
    supports, query = p.first_ratings(USERS.new, [0, 5])
    np.testing.assert_allclose(
        serve(supports[0], query, 0), mean + of_item[query.table["item"]], rtol=1e-6
    )
    user = min(ids(query))
    mine = of_user(supports[5], user)
    bias = (mine["rating"] - mean - of_item[mine["item"]]).sum() / (5 + 5)
    at = (query.table["user"] == user).to_numpy()
    np.testing.assert_allclose(
        serve(supports[5], query, 5)[at], mean + of_item[query.table["item"][at]] + bias, rtol=1e-6
    )


def test_without_ratings_everybody_keeps_the_state_at_the_start(trained):
    recipe, stateful, _ = trained
    nothing = USERS.new.select(np.zeros(len(USERS.new), bool))
    start = p.mean_start(recipe, stateful)
    kept = stateful.registry.local_weights()
    answers = p.rebuild(recipe, stateful.server_state, nothing, 2, start)
    for mine, theirs in zip(answers.registry.local_weights(), kept, strict=True):
        expected = theirs[stateful.registry.visited].mean(axis=0)
        np.testing.assert_allclose(mine, np.tile(expected, (len(mine), 1)), atol=1e-6)


def test_new_users_never_take_part(trained):
    _, stateful, _ = trained
    assert set(stateful.registry.visited) <= ids(USERS.known.train)


def test_tff_and_the_vectorized_way_agree_client_by_client(trained):
    recipe, stateful, stateless = trained
    supports, query = p.first_ratings(USERS.new, [10])
    few, epochs = sorted(ids(query))[:3], 3
    sgd = tff.learning.optimizers.build_sgdm(0.05)
    evaluation = tff.learning.algorithms.build_personalization_eval_computation(
        recipe.model_fn,
        OrderedDict(rebuild=p.build_strategy("local_model_variables", sgd)),
        p.judge,
    )
    fitted = ClientDatasets(supports[10], 5, shuffle_seed=recipe.seed).for_round(few, 0, epochs)
    later = ClientDatasets(query, 5)
    datasets = [
        OrderedDict(train_data=mine.unbatch(), test_data=later[client].unbatch())
        for client, mine in zip(few, fitted, strict=True)
    ]
    own = [np.asarray(w) for w in recipe.client_state_fn().local_weights]
    for state in (stateful.server_state, stateless):
        weights = tff.learning.models.ModelWeights([*state.model_weights, *own], [])
        found = evaluation(weights, datasets)
        ours = p.rebuild(recipe, state, supports[10], epochs).predict(query)
        table = p.per_user(ours, query).loc[few]
        np.testing.assert_allclose(found["rebuild"]["rmse"], table["rmse"], rtol=1e-5)
        np.testing.assert_array_equal(found["rebuild"]["num_examples"], table["ratings"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 2), st.integers(1, 4))
def test_ties_count_as_the_mean_over_all_their_orders(others, own, cutoff):
    scores = np.array([[own, *others]], float)
    candidates = np.ones((1, len(others) + 1), bool)
    candidates[0, 0] = False
    hits, worth = [], []
    for order in itertools.permutations(range(len(others) + 1)):
        ranked = sorted(order, key=lambda i: -scores[0, i])  # a stable sort keeps the order
        place = ranked.index(0)
        hits.append(place < cutoff)
        worth.append((place < cutoff) / np.log2(place + 2))
    hit, gain = p.hit_and_gain(*p.places(scores, np.array([0]), candidates), cutoff)
    assert hit[0] == pytest.approx(np.mean(hits))
    assert gain[0] == pytest.approx(np.mean(worth))


def test_the_last_movie_competes_with_what_the_user_never_rated():
    test = USERS.known.test
    task = p.leave_one_out(RATINGS, test, seed=0, negatives=30)
    assert set(task.users) == ids(test)
    for row, user in enumerate(task.users):
        mine = of_user(RATINGS, user)
        assert task.target[row] == mine["item"].iloc[-1]
        assert not task.all[row][mine["item"]].any()
        assert task.all[row].sum() == RATINGS.num_items - len(mine)
    assert (task.sampled.sum(axis=1) == 30).all() and not (task.sampled & ~task.all).any()
    with pytest.raises(ValueError, match="too few to sample 140"):
        p.leave_one_out(RATINGS, test, negatives=140)


def test_sampling_is_hypergeometric():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=RATINGS.num_items)
    test, hits, expected = USERS.known.test, [], []
    for seed in range(20):
        task = p.leave_one_out(RATINGS, test, seed, negatives=30)
        wide = np.broadcast_to(scores, task.all.shape)
        hits += p.hit_and_gain(*p.places(wide, task.target, task.sampled))[0].tolist()
        above, _ = p.places(wide, task.target, task.all)
        expected += hypergeom.cdf(9, task.all.sum(axis=1), above, 30).tolist()
    assert np.mean(hits) == pytest.approx(np.mean(expected), abs=0.02)


def test_scores_order_movies_as_predictions_do(trained):
    _, stateful, _ = trained
    users = np.array([3, 7])
    items = np.arange(RATINGS.num_items)
    scores = p.score_all(stateful, users)
    for row, user in enumerate(users):
        table = pd.DataFrame({"user": np.full(len(items), user, np.int32), "item": items})
        predicted = stateful.predict(attrs.evolve(RATINGS, table=table))
        offset = predicted - scores[row]
        np.testing.assert_allclose(offset, offset[0], atol=1e-5)


def test_a_short_rerun_of_the_study_agrees_within_its_intervals():
    sys.path.insert(0, str(ROOT / "studies"))
    try:
        import personalization as study
    finally:
        sys.path.pop(0)
    rows = []
    study.measure(synthetic_ratings(), 0, lambda **row: rows.append(row), **study.SHORT)
    recorded = results("who_gains")
    recorded = recorded[recorded["data"] == "synthetic"]
    names = ["protocol", "method", "metric", "trait", "group", "ratings", "candidates", "quantile"]
    both = pd.DataFrame(rows).merge(recorded, on=names, suffixes=("", "_recorded"))
    assert len(both) == len(rows) == len(recorded)
    judged = both.dropna(subset=["low_recorded"])  # the others have no interval
    assert len(judged) > len(both) / 3
    inside = judged["value"].between(judged["low_recorded"] - 1e-5, judged["high_recorded"] + 1e-5)
    assert inside.all(), judged.loc[~inside, [*names, "value"]]
