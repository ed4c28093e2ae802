"""Marks in one place and what lists are worth, against plain NumPy."""

import numpy as np
import pandas as pd
import pytest

from stateful_tff import data
from stateful_tff.evaluation import in_one_place, lists, ranking


@pytest.fixture(scope="module")
def log():
    return data.positives(data.synthetic_ratings(80, 40, 3))


@pytest.fixture(scope="module")
def chosen(log):
    table = np.zeros((log.num_users, log.num_items))
    table[log.table["user"], log.table["item"]] = 1
    return table


def test_choices_are_ones(log, chosen):
    assert (in_one_place.choices(log).toarray() == chosen).all()


def test_popularity_counts_the_newest_share(log, chosen):
    assert (in_one_place.popularity(log) == chosen.sum(axis=0)).all()
    newest = log.table.sort_values("timestamp", kind="stable").tail(round(len(log) * 0.25))
    counted = np.bincount(newest["item"], minlength=log.num_items)
    assert (in_one_place.popularity(log, 0.25) == counted).all()


def test_neighbours_by_hand(log, chosen):
    near = np.zeros((log.num_items, log.num_items))
    for i in range(log.num_items):
        for j in range(log.num_items):
            if i != j:
                a, b = chosen[:, i], chosen[:, j]
                near[i, j] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 3)
    for j in range(log.num_items):  # of each item only its five nearest count, and ties with them
        near[near[:, j] < np.sort(near[:, j])[-5] - 1e-6, j] = 0
    np.testing.assert_allclose(in_one_place.item_neighbours(log, 5, 3.0), chosen @ near, rtol=1e-4)


def test_ease_predicts_each_item_from_the_others(log, chosen):
    found = in_one_place.ease(log, 20.0)
    for item in (0, 7, 39):
        others = np.delete(chosen, item, axis=1)
        left = others.T @ others + 20 * np.eye(others.shape[1])
        weights = np.linalg.solve(left, others.T @ chosen[:, item])
        np.testing.assert_allclose(found[:, item], others @ weights, atol=1e-4)


def test_ials_ends_where_its_loss_has_no_slope(log, chosen):
    weight, l2, power = 0.2, 0.05, 0.7
    users, items = in_one_place.ials(log, 3, weight=weight, l2=l2, power=power, sweeps=60)
    users, items = users.astype(float), items.astype(float)
    error = chosen * (users @ items.T - 1) + weight * users @ items.T
    for own, other, pull, counts in (
        (users, items, error, chosen.sum(axis=1)),
        (items, users, error.T, chosen.sum(axis=0)),
    ):
        penalty = l2 * (counts + weight * len(other)) ** power
        slope = pull @ other + penalty[:, None] * own
        assert np.abs(slope).max() < 5e-3 * np.abs(pull @ other).max()


def test_lists_are_the_best_candidates():
    rng = np.random.default_rng(0)
    scores, candidates = rng.normal(size=(20, 30)), rng.random((20, 30)) < 0.7
    found = lists.top_items(scores, candidates, 5)
    for user in range(20):
        order = np.argsort(-np.where(candidates[user], scores[user], -np.inf))
        assert found[user].tolist() == order[:5].tolist()
    with pytest.raises(ValueError, match="fewer than 28 candidates"):
        lists.top_items(scores, candidates, 28)


def test_equal_scores_do_not_favour_low_ids():
    shown = lists.top_items(np.zeros(1000), np.ones((1, 1000), bool), 10)
    assert shown.max() > 100


def test_coverage_and_lift():
    log = data.read_log(pd.DataFrame(dict(u=[1, 2, 3, 1], i=[0, 0, 0, 1])), "u", "i")
    shown = np.array([[0], [0], [1]])
    assert lists.coverage(shown, 4) == 0.5
    # Lists show items chosen 3, 3 and 1 times; a choice is of an item chosen 2.5 times on average.
    assert lists.popularity_lift(shown, log) == pytest.approx((7 / 3) / 2.5)


def test_paired_means_are_of_users():
    rng = np.random.default_rng(0)
    second = [rng.random(500) for _ in range(3)]
    first = [one + 0.1 + rng.normal(0, 0.1, 500) for one in second]
    pair = lists.paired_mean(first, second)
    by_seed = [float((a - b).mean()) for a, b in zip(first, second, strict=True)]
    assert pair.by_seed == pytest.approx(by_seed) and pair.value == pytest.approx(np.mean(by_seed))
    spread = np.std(np.mean(first, axis=0) - np.mean(second, axis=0)) / 500**0.5
    assert pair.high - pair.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert pair.verdict == "better" and lists.paired_mean(second, first).verdict == "worse"
    assert lists.paired_mean(first, first).verdict == "undecided"
    with pytest.raises(ValueError, match="same seeds and users"):
        lists.paired_mean(first, second[:2])


def test_nothing_ranks_better_than_what_the_choices_were_drawn_from():
    log, best = data.synthetic_log(300, 120, 1)
    split = data.split_leave_one_out(log)
    task = ranking.leave_one_out(log, split.test, negatives=50)

    def hits(scores):
        counts = ranking.target_ranks(scores, task.target, task.all)
        return ranking.hit_rate_and_ndcg(*counts)[0].mean()

    users, items = in_one_place.ials(split.train, 8)
    popular = hits(in_one_place.popularity(split.train))
    assert popular < hits(users @ items.T) < hits(best)
