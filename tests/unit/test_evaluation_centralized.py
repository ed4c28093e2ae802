"""Centralized fits against their gradients, and what a visit costs."""

import functools
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from random_ratings import NUM_FACTORS, NUM_ITEMS, random_ratings

from stateful_tff.data import (
    ClientDatasets,
    split_at_random,
    split_users,
    support_and_query,
    synthetic_ratings,
)
from stateful_tff.evaluation.baselines import fit_biases, item_mean
from stateful_tff.evaluation.centralized import Factors, fit_als, fit_sgd
from stateful_tff.evaluation.client_evaluation import build_strategy, evaluate_client
from stateful_tff.evaluation.costs import client_costs, num_bytes
from stateful_tff.evaluation.metrics import per_user, score
from stateful_tff.models import MatrixFactorization, build_model_fn


def test_als_reaches_a_minimum():
    """At the minimum the gradient of squared error plus penalties vanishes on both sides."""
    train = random_ratings(3, num_users=40)
    factors = fit_als(train, 2, l2=0.05, shrink=1.0, sweeps=400)
    user, item, stars = (train.table[c].to_numpy() for c in ("user", "item", "rating"))
    error = factors.predict(train) - stars
    for ids, own, other, other_ids in (
        (user, factors.users, factors.items, item),
        (item, factors.items, factors.users, user),
    ):
        for part, seen in zip(own, [other[0][other_ids], np.ones((len(ids), 1))], strict=True):
            gradient = np.zeros(part.shape)
            np.add.at(gradient, ids, error[:, None] * seen)
            penalty = (0.05 * np.bincount(ids, minlength=len(part)) + 1.0)[:, None] * part
            assert np.abs(penalty).max() > 0.3
            np.testing.assert_allclose(gradient, -penalty, atol=0.01)


def test_als_is_biases_only_where_vectors_are_penalized_away():
    """Both alternate in the same order, so they agree sweep by sweep."""
    split = split_at_random(synthetic_ratings(num_users=60, num_items=80, seed=2))
    biases = fit_biases(split.train, 5.0, 12, l2=0.02, users_first=True)
    model = MatrixFactorization(80, 1, biases=True, mean_rating=biases.mean_rating)
    items = [np.zeros((80, 1), np.float32), biases.items[:, None].astype(np.float32)]
    folded = Factors(model, items, []).fold_in(split.train, 0.02, 5.0)
    again = biases.fold_in(split.train, 0.02, 5.0)
    np.testing.assert_allclose(folded.users[1][:, 0], again.users, atol=1e-5)
    np.testing.assert_array_equal(folded.users[0], 0.0)
    np.testing.assert_allclose(
        folded.predict(split.test), again.predict(split.test), rtol=1e-5, atol=1e-5
    )


def test_sgd_without_rate_decay_takes_the_step_of_the_loss():
    ratings = random_ratings(3)
    trained, start = (
        fit_sgd(ratings, 2, 0.1, rate, 1, len(ratings), seed=4) for rate in (0.01, 0.0)
    )
    mean = tf.constant(start.model.mean_rating)
    user, item, stars = (ratings.table[c].to_numpy() for c in ("user", "item", "rating"))
    weights = [tf.Variable(w) for w in (*start.items, *start.users)]
    with tf.GradientTape() as tape:
        q, b, p, a = (
            tf.gather(w, ids) for w, ids in zip(weights, (item, item, user, user), strict=True)
        )
        error = tf.reduce_sum(p * q, axis=1) + b[:, 0] + a[:, 0] + mean - stars
        squares = sum(tf.reduce_sum(part**2) for part in (q, b, p, a))
        loss = tf.reduce_sum(error**2) + 0.1 * squares
    for after, before, gradient in zip(
        (*trained.items, *trained.users), weights, tape.gradient(loss, weights), strict=True
    ):
        expected = before - 0.01 * tf.convert_to_tensor(gradient)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def test_fold_in_serves_new_users_and_leaves_the_items():
    split = split_users(synthetic_ratings())
    factors = fit_als(split.train, 4)
    support, query = support_and_query(split.test)
    folded = factors.fold_in(support, 0.05, 2.0)
    assert folded.items is factors.items
    served = score(folded.predict(query), query)["rmse"]
    assert served < score(factors.predict(query), query)["rmse"]
    assert served < score(item_mean(split.train, query), query)["rmse"]


@pytest.mark.parametrize(
    "fit, options, sentence",
    [
        (fit_als, dict(num_factors=0), "num_factors"),
        (fit_als, dict(num_factors=2, shrink=0.0), "shrink must be above zero"),
        (fit_als, dict(num_factors=2, sweeps=0), "sweeps must be at least 1"),
        (fit_sgd, dict(num_factors=2, epochs=0), "epochs must be at least 1"),
        (fit_sgd, dict(num_factors=2, l2=-1.0), "l2"),
    ],
)
def test_fits_that_make_no_sense_are_refused(fit, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(random_ratings(3), **options)


def test_a_visit_costs_what_weights_and_ratings_require():
    specs = [
        tf.TensorSpec(shape, tf.float32) for shape in ([NUM_ITEMS, NUM_FACTORS], [NUM_ITEMS, 1])
    ]
    own = [np.zeros((1, NUM_FACTORS), np.float32), np.zeros((1, 1), np.float32)]
    counts = np.array([1, 4, 5, 11])
    kept = client_costs(specs, own, counts, 5)
    items = 4 * NUM_ITEMS * (NUM_FACTORS + 1)
    assert num_bytes(specs) == items
    assert kept == {
        "bytes down": items,
        "bytes up": items,
        "bytes of private state": 4 * (NUM_FACTORS + 1),
        "client steps": (1 + 1 + 1 + 3) / 4,
    }
    rebuilt = client_costs(specs, own, counts, 5, keeps_state=False, support_epochs=3)
    assert rebuilt["client steps"] == (3 * (1 + 1 + 1 + 2) + 0 + 1 + 1 + 1) / 4
    assert rebuilt["bytes of private state"] == 0
    averaged = client_costs(specs, own, counts, 5, keeps_state=False, sends_user=True)
    assert averaged["bytes up"] == items + kept["bytes of private state"]
    with pytest.raises(ValueError, match="at least one rating"):
        client_costs(specs, own, [3, 0])


def rebuilt_by_hand(items, own, mean, rate, movies, stars, batch_size):
    """The local weights after SGD in the order of the ratings, with the items frozen."""
    (vectors, biases), (p, a) = items, (own[0][0].astype(float), float(own[1][0, 0]))
    for at in range(0, len(movies), batch_size):
        q, b = vectors[movies[at : at + batch_size]], biases[movies[at : at + batch_size], 0]
        error = q @ p + b + a + mean - stars[at : at + batch_size]
        p, a = p - 2 * rate * (error @ q) / len(error), a - 2 * rate * error.mean()
    return p, a


def test_tffs_personalization_rebuilds_and_judges_as_by_hand():
    ratings = random_ratings(4)
    support, query = support_and_query(
        ratings.select(np.diff(ratings.bounds)[ratings.table["user"]] > 1)
    )
    model_fn = build_model_fn(NUM_ITEMS, NUM_FACTORS, biases=True, mean_rating=3.5, seed=3)
    rng = np.random.default_rng(0)
    items = [rng.normal(0, 0.3, (NUM_ITEMS, k)).astype(np.float32) for k in (NUM_FACTORS, 1)]
    own = [rng.normal(0, 0.3, (1, k)).astype(np.float32) for k in (NUM_FACTORS, 1)]
    sgd = tff.learning.optimizers.build_sgdm(0.05)
    evaluation = tff.learning.algorithms.build_personalization_eval_computation(
        model_fn,
        OrderedDict(rebuild=build_strategy("local_model_variables", sgd, ratings.scale, 4)),
        functools.partial(evaluate_client, scale=ratings.scale),
    )
    users = sorted(set(query.table["user"]))[:3]
    fitted, later = (ClientDatasets(part, 5) for part in (support, query))
    datasets = [
        OrderedDict(train_data=fitted[c].unbatch(), test_data=later[c].unbatch()) for c in users
    ]
    found = evaluation(tff.learning.models.ModelWeights([*items, *own], []), datasets)
    vectors = np.zeros((ratings.num_users, NUM_FACTORS), np.float32)
    biases = np.zeros((ratings.num_users, 1), np.float32)
    for user in users:
        arrays = fitted.arrays(user)
        vectors[user], biases[user, 0] = rebuilt_by_hand(items, own, 3.5, 0.05, *arrays, 4)
    user, item = (query.table[c].to_numpy() for c in ("user", "item"))
    table = per_user(model_fn.spec.predict(items, [vectors, biases], user, item), query).loc[users]
    np.testing.assert_allclose(found["rebuild"]["rmse"], table["rmse"], rtol=1e-5)
    np.testing.assert_array_equal(found["rebuild"]["num_examples"], table["ratings"])
