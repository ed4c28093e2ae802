"""Reconstruction, what happens to states after a round, and intervals."""

import sys

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from test_cohort import NUM_FACTORS, NUM_ITEMS, NUM_USERS, close, ratings_of, scattered

from stateful_tff.baselines import (
    AveragedRegistry,
    ForgetfulRegistry,
    adapt,
    alternating_batches,
    build_reconstruction,
    build_reconstruction_model_fn,
    client_costs,
    fit_als,
    fit_sgd,
    fold_in,
    item_mean,
    reconstructing,
    run_fed_recon,
    sample_among,
    score_with_intervals,
)
from stateful_tff.cohort import (
    CohortData,
    StackedRegistry,
    build_cohort_process,
    run_cohorts,
    unstack,
)
from stateful_tff.data import (
    ClientDatasets,
    split_at_random,
    split_users,
    support_and_query,
    synthetic_ratings,
)
from stateful_tff.frame import build_model_fn
from stateful_tff.model import _uniform_initializers
from stateful_tff.process import build_client_state_fn, build_stateful_fed_avg, types_sent_to_server
from stateful_tff.recorded import ROOT, results
from stateful_tff.simulation import DivergenceError, biases_floor, sample_cohort, score

sgd = tff.learning.optimizers.build_sgdm
MEAN = 3.5


def model_of(biases=True, l2=0.05, mean_rating=MEAN, num_items=NUM_ITEMS):
    model_fn = build_model_fn(
        num_items, NUM_FACTORS, biases=biases, mean_rating=mean_rating, l2=l2, seed=3
    )
    return model_fn, build_client_state_fn(model_fn)


@pytest.fixture(scope="module")
def world():
    """Model, computations, and random users of whom some have no ratings."""
    model_fn, state_fn = model_of()
    clients = ClientDatasets(ratings_of(1, repeats=False), batch_size=4, shuffle_seed=1)
    return dict(
        model_fn=model_fn,
        state_fn=state_fn,
        clients=clients,
        data=CohortData(clients),
        process=build_cohort_process(model_fn, state_fn, sgd(0.7), sgd(0.1), sgd(0.05)),
        reconstruct=build_reconstruction(model_fn, state_fn, sgd(0.05)),
    )


def start_of(process, seed=0):
    rng, state = np.random.default_rng(seed), process.initialize()
    weights = [rng.normal(0, 0.3, np.shape(w)).astype(np.float32) for w in state.model_weights]
    return attrs.evolve(state, model_weights=weights)


@pytest.mark.parametrize("repeats", [False, True], ids=["once", "repeats"])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("biases", [True, False], ids=["biases", "plain"])
def test_reconstruction_is_the_process_of_chapter_4_with_frozen_items(repeats, epochs, biases):
    model_fn, state_fn = model_of(biases, l2=0.05 * biases, mean_rating=MEAN * biases)
    slow = build_stateful_fed_avg(model_fn, state_fn, sgd(1.0), sgd(0.0), sgd(0.05))
    reconstruct = build_reconstruction(model_fn, state_fn, sgd(0.05))
    clients = ClientDatasets(ratings_of(2, repeats), batch_size=4, shuffle_seed=1)
    registry, server = scattered(state_fn, NUM_USERS, 5), start_of(slow)
    cohort = range(NUM_USERS)
    *_, expected = slow.next(
        server, clients.for_round(cohort, 3, epochs), unstack([registry.stacked(cohort)])
    )
    shards = CohortData(clients).shards(cohort, 3, epochs, num_shards=2)
    actual = reconstruct(
        server.model_weights, shards, [registry.stacked(shard.index) for shard in shards]
    )
    expected = {int(state.index): state for state in expected}
    for state in unstack(actual):
        for a, e in zip(state.local_weights, expected[int(state.index)].local_weights, strict=True):
            close(a, e, least=0.1)


def test_reconstruction_sends_nothing_to_the_server(world):
    assert types_sent_to_server(world["reconstruct"]) == []
    assert types_sent_to_server(world["process"].next)


def test_reconstruction_refuses_momentum_and_other_models(world):
    with pytest.raises(ValueError, match="local_optimizer is not plain SGD"):
        build_reconstruction(world["model_fn"], world["state_fn"], sgd(0.1, momentum=0.9))
    other = model_of(biases=False)[1]
    with pytest.raises(ValueError, match="build both from one model_fn"):
        build_reconstruction(world["model_fn"], other, sgd(0.1))


def test_adapt_changes_only_the_clients_asked_and_leaves_the_registry(world):
    registry, server = scattered(world["state_fn"], NUM_USERS, 5), start_of(world["process"])
    before = registry.local_weights()
    counts = np.array([world["clients"].num_ratings(c) for c in world["clients"]])
    some = np.flatnonzero(counts > 0)[:4]
    adapted = adapt(world["reconstruct"], server, registry, world["data"], some, epochs=2)
    for old, same, new in zip(
        before, registry.local_weights(), adapted.local_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, same)
        moved = np.flatnonzero((old != new).any(axis=1))
        np.testing.assert_array_equal(moved, some)
    nobody = adapt(world["reconstruct"], server, registry, world["data"], [])
    np.testing.assert_array_equal(nobody.local_weights()[0], before[0])


@pytest.mark.parametrize("policy", ["forgotten", "averaged"])
def test_adapt_keeps_what_it_rebuilt_whatever_the_policy_of_training(world, policy):
    state_fn, server = world["state_fn"], start_of(world["process"])
    counts = np.array([world["clients"].num_ratings(c) for c in world["clients"]])
    registry = {
        "forgotten": lambda: ForgetfulRegistry(state_fn, NUM_USERS),
        "averaged": lambda: AveragedRegistry(state_fn, counts, 1.0),
    }[policy]()
    arguments = world["data"], range(NUM_USERS)
    adapted = adapt(world["reconstruct"], server, registry, *arguments)
    expected = adapt(world["reconstruct"], server, StackedRegistry(state_fn, NUM_USERS), *arguments)
    for same, right in zip(adapted.local_weights(), expected.local_weights(), strict=True):
        np.testing.assert_array_equal(same, right)
    assert np.abs(adapted.local_weights()[0] - registry.local_weights()[0]).max() > 0.01


def test_preparing_rebuilds_the_chosen_clients_in_the_order_of_the_round(world):
    registry, server = scattered(world["state_fn"], NUM_USERS, 5), start_of(world["process"])
    first = StackedRegistry(world["state_fn"], NUM_USERS)
    cohort, rebuilt = [7, 2, 11, 4, 9], [2, 9]
    # Other ratings than those of the round, so that the clients stand in another order.
    support = CohortData(ClientDatasets(ratings_of(8, False), batch_size=4, shuffle_seed=2))
    shards = world["data"].shards(cohort, 3, num_shards=2)
    states = [registry.stacked(shard.index) for shard in shards]
    prepare = reconstructing(
        world["reconstruct"], support, lambda ids: np.isin(ids, rebuilt), epochs=2, first=first
    )
    prepared = prepare(server, shards, states, 3)
    expected = adapt(world["reconstruct"], server, first, support, rebuilt, epochs=2, round_num=3)
    for shard, state, old in zip(shards, prepared, states, strict=True):
        np.testing.assert_array_equal(state.index, shard.index)
        for place, client in enumerate(shard.index):
            wanted = expected.stacked([client]) if client in rebuilt else old
            at = 0 if client in rebuilt else place
            for part, right in zip(state.local_weights, wanted.local_weights, strict=True):
                close(part[place], right[at])
    nobody = reconstructing(world["reconstruct"], support, lambda ids: np.zeros(len(ids), bool))
    assert nobody(server, shards, states, 3) is states


def test_fed_recon_is_reconstruction_on_support_then_a_round_on_query(world):
    ratings = ratings_of(4, False)
    counts = np.diff(ratings.bounds)
    ratings = ratings.select(~ratings.table["user"].isin(np.flatnonzero(counts < 2)))
    support, query = (
        CohortData(ClientDatasets(part, batch_size=4, shuffle_seed=0))
        for part in support_and_query(ratings)
    )
    registry = ForgetfulRegistry(world["state_fn"], NUM_USERS)
    state, history = run_fed_recon(
        world["process"], world["reconstruct"], registry, support, query, 2, 6,
        support_epochs=3, sample_fn=sample_among(np.flatnonzero(counts > 1)),
    )  # fmt: skip
    assert registry.visited == [] and list(history.index) == [1, 2]

    by_hand = world["process"].initialize()
    for round_num in range(2):
        cohort = sample_among(np.flatnonzero(counts > 1))(NUM_USERS, 6, round_num)
        fresh = StackedRegistry(world["state_fn"], NUM_USERS)
        rebuilt = adapt(
            world["reconstruct"], by_hand, fresh, support, cohort, epochs=3, round_num=round_num
        )
        shards = query.shards(cohort, round_num)
        by_hand, metrics, _ = world["process"].next(
            by_hand, shards, [rebuilt.stacked(shard.index) for shard in shards]
        )
    for actual, expected in zip(state.model_weights, by_hand.model_weights, strict=True):
        close(actual, expected)
    assert history["loss"].iloc[-1] == pytest.approx(float(metrics["loss"]), rel=1e-5)


def test_fed_recon_that_diverges_stops_with_the_last_good_state(world):
    wild = build_cohort_process(world["model_fn"], world["state_fn"], sgd(1e4), sgd(5.0), sgd(0.0))
    registry = ForgetfulRegistry(world["state_fn"], NUM_USERS)
    with pytest.raises(DivergenceError, match="Round .* diverged") as caught:
        run_fed_recon(wild, world["reconstruct"], registry, world["data"], world["data"], 20, 10)
    assert all(np.isfinite(w).all() for w in caught.value.server_state.model_weights)


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
    ratings = ratings_of(1, False)
    table = score_with_intervals(np.full(len(ratings), 3.0), ratings, draws=50)
    assert np.isfinite(table.to_numpy()).all()


def dense_fed_avg(num_users, mean_rating):
    """TFF's own federated averaging of a model that holds the whole table of users."""
    item_start, user_start = _uniform_initializers(3)
    # One row for all users at the start, as client_state_fn gives every client the same.
    row = np.tile(user_start([1, NUM_FACTORS]).numpy(), [num_users, 1])

    def model_fn():
        user = tf.keras.Input([1], dtype=tf.int64)
        item = tf.keras.Input([1], dtype=tf.int64)
        flat = tf.keras.layers.Flatten()
        tables = [
            (item, NUM_ITEMS, NUM_FACTORS, item_start),
            (user, num_users, NUM_FACTORS, tf.constant_initializer(row)),
            (item, NUM_ITEMS, 1, "zeros"),
            (user, num_users, 1, "zeros"),
        ]
        q, p, b, a = (
            flat(tf.keras.layers.Embedding(size, width, start)(ids))
            for ids, size, width, start in tables
        )
        stars = tf.keras.layers.Dot(axes=1)([p, q]) + b + a + mean_rating
        model = tf.keras.Model([user, item], stars)
        spec = (
            (tf.TensorSpec([None, 1], tf.int64), tf.TensorSpec([None, 1], tf.int64)),
            tf.TensorSpec([None, 1], tf.float32),
        )
        return tff.learning.models.from_keras_model(
            model, tf.keras.losses.MeanSquaredError(), input_spec=spec
        )

    return tff.learning.algorithms.build_weighted_fed_avg(
        model_fn,
        client_optimizer_fn=sgd(0.1),
        server_optimizer_fn=sgd(2.0),
    )


def test_averaged_states_are_federated_averaging_with_a_table_of_users():
    model_fn, state_fn = model_of(l2=0.0)
    clients = ClientDatasets(ratings_of(6, False), batch_size=4, shuffle_seed=1)
    counts = np.array([clients.num_ratings(c) for c in clients])
    registry = AveragedRegistry(state_fn, counts, server_rate=2.0)
    process = build_cohort_process(model_fn, state_fn, sgd(2.0), sgd(0.1), sgd(0.1))
    state, _ = run_cohorts(process, registry, CohortData(clients), 3, 6)

    stock = dense_fed_avg(NUM_USERS, MEAN)
    expected = stock.initialize()
    for round_num in range(3):
        cohort = sample_cohort(NUM_USERS, 6, round_num)
        datasets = [
            data.map(
                lambda batch, c=int(c): ((c * tf.ones_like(batch["x"]), batch["x"]), batch["y"])
            )
            for c, data in zip(cohort, clients.for_round(cohort, round_num), strict=True)
        ]
        expected = stock.next(expected, datasets).state
    trained = stock.get_model_weights(expected).trainable
    by_shape = {np.shape(w): w for w in trained}
    for weights in [*state.model_weights, *registry.local_weights()]:
        close(weights, by_shape[np.shape(weights)])
    first = StackedRegistry(state_fn, NUM_USERS).local_weights()[0]
    assert np.abs(registry.local_weights()[0] - first).max() > 1e-3


@pytest.mark.parametrize("biases", [True, False], ids=["biases", "plain"])
def test_fed_recon_agrees_with_tff(biases):
    options = dict(biases=biases, mean_rating=MEAN * biases, seed=3)
    ratings = ratings_of(4, False)
    counts = np.diff(ratings.bounds)
    ratings = ratings.select(~ratings.table["user"].isin(np.flatnonzero(counts < 2)))
    cohort_of = sample_among(np.flatnonzero(counts > 1))
    datasets = [
        ClientDatasets(part, batch_size=3, shuffle_seed=0) for part in support_and_query(ratings)
    ]
    rates = dict(client_optimizer_fn=sgd(0.3), reconstruction_optimizer_fn=sgd(0.1))
    stock = tff.learning.algorithms.build_fed_recon(
        build_reconstruction_model_fn(NUM_ITEMS, NUM_FACTORS, **options),
        loss_fn=tf.keras.losses.MeanSquaredError,
        metrics_fn=lambda: [tf.keras.metrics.RootMeanSquaredError("rmse")],
        server_optimizer_fn=sgd(1.0),
        **rates,
    )
    expected = stock.initialize()
    errors = []
    for round_num in range(3):
        batches = alternating_batches(*datasets, cohort_of(NUM_USERS, 6, round_num), round_num)
        expected, metrics = stock.next(expected, batches)
        errors.append(metrics["client_work"]["train"]["rmse"])

    model_fn, state_fn = model_of(biases, l2=0.0, mean_rating=MEAN * biases)
    state, history = run_fed_recon(
        build_cohort_process(model_fn, state_fn, sgd(1.0), sgd(0.3), sgd(0.0)),
        build_reconstruction(model_fn, state_fn, sgd(0.1)),
        ForgetfulRegistry(state_fn, NUM_USERS),
        *map(CohortData, datasets),
        3,
        6,
        sample_fn=cohort_of,
    )
    for a, e in zip(state.model_weights, stock.get_model_weights(expected).trainable, strict=True):
        close(a, e)
    np.testing.assert_allclose(history["rmse"], errors, rtol=1e-4)


def test_a_penalty_that_fed_recon_would_drop_is_refused():
    with pytest.raises(ValueError, match="never sees the model's penalty"):
        build_reconstruction_model_fn(NUM_ITEMS, l2=0.1)


def test_als_without_factors_is_biases_only_and_reaches_a_minimum():
    ratings = synthetic_ratings()
    split = split_at_random(ratings)
    floor = biases_floor(split.train, split.test, shrink=5.0)["rmse"]
    factors = fit_als(split.train, 0, l2=0.0, shrink=5.0, sweeps=10)
    assert score(factors.predict(split.test), split.test)["rmse"] == pytest.approx(floor, abs=1e-4)

    # At the minimum the gradient of squared error plus penalties vanishes on both sides.
    train = ratings_of(3, False, num_users=40)
    factors = fit_als(train, 2, l2=0.05, shrink=1.0, sweeps=400)
    user, item, stars = (train.table[c].to_numpy() for c in ("user", "item", "rating"))
    error = factors.predict(train) - stars
    for ids, own, other, other_ids in (
        (user, factors.users, factors.items, item),
        (item, factors.items, factors.users, user),
    ):
        for part, seen in zip(own, [other[0][other_ids], np.ones((len(ids), 1))], strict=True):
            slope = np.zeros(part.shape)
            np.add.at(slope, ids, error[:, None] * seen)
            penalty = (0.05 * np.bincount(ids, minlength=len(part)) + 1.0)[:, None] * part
            assert np.abs(penalty).max() > 0.3
            np.testing.assert_allclose(slope, -penalty, atol=0.01)


def test_sgd_without_rate_decay_takes_the_step_of_the_loss():
    ratings = ratings_of(3, False)
    trained, start = (
        fit_sgd(ratings, 2, 0.1, rate, 1, len(ratings), seed=4) for rate in (0.01, 0.0)
    )
    mean = tf.constant(start.mean_rating)
    user, item, stars = (ratings.table[c].to_numpy() for c in ("user", "item", "rating"))
    weights = [tf.Variable(w) for w in (*start.items, *start.users)]
    with tf.GradientTape() as tape:
        q, b, p, a = (
            tf.gather(w, ids) for w, ids in zip(weights, (item, item, user, user), strict=True)
        )
        error = tf.reduce_sum(p * q, axis=1) + b[:, 0] + a[:, 0] + mean - stars
        squares = sum(tf.reduce_sum(part**2) for part in (q, b, p, a))
        loss = tf.reduce_sum(error**2) + 0.1 * squares
    for after, before, slope in zip(
        (*trained.items, *trained.users), weights, tape.gradient(loss, weights), strict=True
    ):
        close(after, before - 0.01 * tf.convert_to_tensor(slope))


def test_fold_in_serves_new_users_and_leaves_the_items():
    ratings = synthetic_ratings()
    split = split_users(ratings)
    factors = fit_als(split.train, 4)
    support, query = support_and_query(split.test)
    folded = fold_in(factors, support, 0.05, 2.0)
    assert folded.items is factors.items
    served = score(folded.predict(query), query)["rmse"]
    assert served < score(factors.predict(query), query)["rmse"]
    assert served < score(item_mean(split.train, query), query)["rmse"]


def test_a_visit_costs_what_the_model_and_the_ratings_say():
    model_fn, _ = model_of()
    counts = np.array([1, 4, 5, 11])
    kept = client_costs(model_fn, counts, 5)
    items = 4 * NUM_ITEMS * (NUM_FACTORS + 1)
    assert kept == {
        "bytes down": items,
        "bytes up": items,
        "bytes of private state": 4 * (NUM_FACTORS + 1),
        "client steps": (1 + 1 + 1 + 3) / 4,
    }
    rebuilt = client_costs(model_fn, counts, 5, keeps_state=False, support_epochs=3)
    assert rebuilt["client steps"] == (3 * (1 + 1 + 1 + 2) + 0 + 1 + 1 + 1) / 4
    assert rebuilt["bytes of private state"] == 0
    averaged = client_costs(model_fn, counts, 5, keeps_state=False, sends_user=True)
    assert averaged["bytes up"] == items + kept["bytes of private state"]


def test_a_short_rerun_of_the_study_agrees_within_its_interval():
    sys.path.insert(0, str(ROOT / "studies"))
    try:
        import stateful_or_stateless as study
    finally:
        sys.path.pop(0)
    recorded = results("stateful_or_stateless")
    recorded = recorded[recorded["data"] == "synthetic"].set_index(["method", "metric"])
    rows = study.short_runs()
    assert {(row["method"], row["metric"]) for row in rows} == set(recorded.index)
    for row in rows:
        expected = recorded.loc[row["method"], row["metric"]]
        assert expected["low"] <= row["value"] <= expected["high"]
