"""Federated recommenders: each against a plain NumPy reference, and on every engine."""

import numpy as np
import pytest
import tensorflow as tf

from stateful_tff import data, methods, stores, training
from stateful_tff.engines.by_rows import build_rows_process, parts_of
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packing import PackedRatings
from stateful_tff.engines.per_client import build_process
from stateful_tff.evaluation import in_one_place
from stateful_tff.methods.fcf import fcf
from stateful_tff.methods.fed_bpr import fed_bpr
from stateful_tff.methods.fed_mf import fed_mf
from stateful_tff.methods.fed_ncf import fed_ncf
from stateful_tff.methods.fed_rap import fed_rap, fed_rap_rates
from stateful_tff.methods.pfedrec import SCORES, TABLE, pfedrec
from stateful_tff.models import implicit

NUM_USERS, NUM_ITEMS, K, ROUNDS = 30, 40, 4, 3


@pytest.fixture(scope="module")
def train():
    log = data.positives(data.synthetic_ratings(NUM_USERS, NUM_ITEMS, 3))
    return data.split_leave_one_out(log).train


@pytest.fixture(scope="module")
def clients(train):
    return data.ImplicitDatasets(
        train, 64, negatives=2, sampler=data.NegativeSampler(train, 4), shuffle_seed=5
    )


def run(process, clients, num_rounds=ROUNDS, cohort=12):
    """The store after some rounds."""
    process = InThisProcess(process)
    store = stores.MemoryStore(process, NUM_USERS)
    sampler = training.UniformSampler(NUM_USERS, cohort, 1)
    for done in training.rounds(process, store, clients, sampler, until=num_rounds):
        store.commit(done)
    return store


def cohorts(cohort=12):
    return [training.sample_cohort(NUM_USERS, cohort, r, 1) for r in range(ROUNDS)]


def batches(clients, user, round_num):
    """A client's batches of a round, as arrays: items and labels."""
    (dealt,) = clients.for_round([user], round_num)
    return [(b["x"].numpy(), b["y"].numpy()[:, 0]) for b in dealt]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def plain_pfedrec(model, clients, item_rate, score_rate):
    """Algorithm 1 of Zhang et al. 2023 in NumPy, in float64."""
    shared = model.global_weights[0].astype(float)
    own = {u: [w.astype(float) for w in model.local_weights] for u in range(NUM_USERS)}
    changes = {u: np.zeros_like(shared) for u in range(NUM_USERS)}
    for number, cohort in enumerate(cohorts()):
        tables = []
        for user in cohort:
            table, (vector, bias) = shared.copy(), own[user]
            for (x,), y in [(b.T, y) for b, y in batches(clients, user, number)]:
                error = (sigmoid(table[x] @ vector[0] + bias[0, 0]) - y) / len(x)
                vector = vector - score_rate * error @ table[x]
                bias = bias - score_rate * error.sum()
                error = (sigmoid(table[x] @ vector[0] + bias[0, 0]) - y) / len(x)
                np.subtract.at(table, x, item_rate * error[:, None] * vector)
            own[user], changes[user] = [vector, bias], table - shared
            tables.append(table)
        shared = np.mean(tables, axis=0)
    return shared, own, changes


def test_pfedrec_is_the_papers_algorithm(clients):
    model = implicit.logistic_factorization(NUM_ITEMS, K, seed=2)
    store = run(build_rows_process(pfedrec(TABLE), model, methods.sgd(1.0, 8.0, 0.1)), clients)
    shared, own, changes = plain_pfedrec(model, clients, 8.0, 0.1)
    np.testing.assert_allclose(store.server_state.model_weights[0], shared, atol=2e-5)
    vectors, biases, tables = store.local_weights()
    for user in range(NUM_USERS):
        np.testing.assert_allclose(vectors[user], own[user][0][0], atol=2e-5)
        np.testing.assert_allclose(biases[user], own[user][1][0], atol=2e-5)
        np.testing.assert_allclose(tables[user], changes[user], atol=2e-5)
    assert np.abs(shared - model.global_weights[0]).max() > 0.1


def test_scores_are_what_the_own_table_would_score(clients):
    model = implicit.logistic_factorization(NUM_ITEMS, K, seed=2)
    both = [
        run(build_rows_process(pfedrec(keeps), model, methods.sgd(1.0, 8.0, 0.1)), clients)
        for keeps in (TABLE, SCORES)
    ]
    vectors, _, tables = both[0].local_weights()
    np.testing.assert_allclose(
        both[1].local_weights()[2][..., 0], np.einsum("nik,nk->ni", tables, vectors), atol=2e-5
    )
    with pytest.raises(ValueError, match="keeps must be one of"):
        pfedrec("everything")


def plain_fed_rap(model, clients, rate, tables_rate, epochs, batch_decay, round_decay, apart, mu):
    """Algorithm 1 of Li et al. 2024 in NumPy, with the rates of the released code."""
    shared = model.global_weights[0].astype(float)
    own = {u: [w.astype(float) for w in model.local_weights] for u in range(NUM_USERS)}
    for number, cohort in enumerate(cohorts()):
        received = []
        for user in cohort:
            common, (vector, bias, table), step = shared.copy(), own[user], 0
            table = table.copy()
            (dealt,) = clients.for_round([user], number, epochs)
            for batch in dealt:
                x, y = batch["x"].numpy()[:, 0], batch["y"].numpy()[:, 0]
                now = rate * round_decay**number * batch_decay**step
                both = common[x] + table[x]
                error = (sigmoid(both @ vector[0] + bias[0, 0]) - y) / len(x)
                scale = len(x) * K
                push = 2 * apart * (table[x] - common[x]) / scale
                of_common = error[:, None] * vector + push + mu * np.sign(common[x]) / scale
                of_table = error[:, None] * vector - push
                vector = vector - now * error @ both
                bias = bias - now * error.sum()
                np.subtract.at(common, x, now * tables_rate * of_common)
                np.subtract.at(table, x, now * tables_rate * of_table)
                step += 1
            own[user] = [vector, bias, table]
            received.append(common)
        shared = np.mean(received, axis=0)
    return shared, own


def test_fed_rap_is_the_papers_algorithm(clients):
    model = implicit.two_table_factorization(NUM_ITEMS, K, seed=2)
    process = build_rows_process(fed_rap(2, 20.0, 0.9), model, fed_rap_rates(0.5, 0.8))
    store = run(process, clients)
    shared, own = plain_fed_rap(model, clients, 0.5, 20.0, 2, 0.8, 0.9, 0.1, 0.1)
    np.testing.assert_allclose(store.server_state.model_weights[0], shared, atol=2e-5)
    vectors, _, tables = store.local_weights()
    for user in range(NUM_USERS):
        np.testing.assert_allclose(vectors[user], own[user][0][0], atol=2e-5)
        np.testing.assert_allclose(tables[user], own[user][2], atol=2e-5)


def plain_fcf(items, log, rounds_done, weight, l2, power):
    """Federated implicit ALS in NumPy, in float64 (Ammad-ud-din et al. 2019)."""
    items, chosen = items.astype(float), in_one_place.choices(log).toarray().astype(float)
    for _ in range(rounds_done):
        users = np.zeros((log.num_users, items.shape[1]))
        for user, mine in enumerate(chosen):
            penalty = l2 * (mine.sum() + weight * len(items)) ** power
            left = weight * items.T @ items + (items.T * mine) @ items
            users[user] = np.linalg.solve(left + penalty * np.eye(items.shape[1]), items.T @ mine)
        count = chosen.sum(axis=0)
        penalty = l2 * (count + weight * len(chosen)) ** power
        error = chosen * (users @ items.T - 1) + weight * (users @ items.T)
        items = items - 0.01 * (error.T @ users + penalty[:, None] * items)
    return items, users


def test_fcf_is_the_papers_algorithm(train):
    model = implicit.one_class_factorization(NUM_ITEMS, K, stddev=0.5, seed=2)
    clients = data.ImplicitDatasets(train, 64, negatives=0)
    process = build_rows_process(fcf(0.2, 0.05, 0.5), model, methods.sgd(0.01, 0.0, 0.0))
    store = run(process, clients, cohort=NUM_USERS)
    items, users = plain_fcf(model.global_weights[0], train, ROUNDS, 0.2, 0.05, 0.5)
    np.testing.assert_allclose(store.server_state.model_weights[0], items, atol=1e-4)
    np.testing.assert_allclose(store.local_weights()[0], users, atol=1e-4)


def test_scaled_fcf_comes_to_what_als_finds_in_one_place(train):
    model = implicit.one_class_factorization(NUM_ITEMS, K, stddev=0.05, seed=0)
    clients = data.ImplicitDatasets(train, 64, negatives=0)
    process = build_rows_process(fcf(0.2, 0.1, scaled=True), model, methods.sgd(1.0, 0.0, 0.0))
    store = run(process, clients, 40, cohort=NUM_USERS)
    users, items = in_one_place.ials(train, K, weight=0.2, l2=0.1, sweeps=40)
    chosen = in_one_place.choices(train).toarray()

    def loss(users, items):
        predicted = users @ items.T
        cells = (chosen * (predicted - 1) ** 2).sum() + 0.2 * (predicted**2).sum()
        for side, counts in ((users, chosen.sum(axis=1)), (items, chosen.sum(axis=0))):
            others = chosen.size / len(side)
            cells += (0.1 * (counts + 0.2 * others) * (side**2).sum(axis=1)).sum()
        return cells

    found = loss(store.local_weights()[0], np.asarray(store.server_state.model_weights[0]))
    start = loss(np.zeros((NUM_USERS, K)), model.global_weights[0])
    assert abs(found - loss(users, items)) < 0.02 * (start - loss(users, items))


def plain_bpr(model, clients, rate):
    """Stochastic gradient descent on -log sigmoid of the difference of scores."""
    shared = model.global_weights[0].astype(float)
    own = {u: model.local_weights[0][0].astype(float) for u in range(NUM_USERS)}
    for number, cohort in enumerate(cohorts()):
        tables = []
        for user in cohort:
            table = shared.copy()
            for x, _ in batches(clients, user, number):
                apart = table[x[:, 0]] - table[x[:, 1]]
                pull = -sigmoid(-(apart @ own[user])) / len(x)
                change = rate * pull[:, None] * own[user]
                own[user] = own[user] - rate * pull @ apart
                np.subtract.at(table, x[:, 0], change)
                np.add.at(table, x[:, 1], change)
            tables.append(table)
        shared = np.mean(tables, axis=0)
    return shared, own


def test_bpr_is_the_papers_algorithm(train):
    sampler = data.NegativeSampler(train, 4)
    clients = data.ImplicitDatasets(train, 64, negatives=1, sampler=sampler, pairs=True)
    model = implicit.pairwise_factorization(NUM_ITEMS, K, stddev=0.5, seed=2)
    store = run(build_rows_process(fed_bpr(), model, methods.sgd(1.0, 2.0, 2.0)), clients)
    shared, own = plain_bpr(model, clients, 2.0)
    np.testing.assert_allclose(store.server_state.model_weights[0], shared, atol=2e-5)
    for user in range(NUM_USERS):
        np.testing.assert_allclose(store.local_weights()[0][user], own[user], atol=2e-5)


def plain_step_of_mf(model, clients, user, item_rate, rate):
    """One visit of FedMF: both sides move from the same point."""
    table, (vector, bias) = model.global_weights[0].astype(float), model.local_weights
    vector, bias = vector[0].astype(float), bias[0, 0]
    for x, y in batches(clients, user, 0):
        rows = table[x[:, 0]]
        error = (sigmoid(rows @ vector + bias) - y) / len(x)
        change = item_rate * error[:, None] * vector
        vector, bias = vector - rate * error @ rows, bias - rate * error.sum()
        np.subtract.at(table, x[:, 0], change)
    return table, vector, bias


def test_fed_mf_is_plain_gradient_descent(clients):
    model = implicit.logistic_factorization(NUM_ITEMS, K, seed=2)
    store = run(build_rows_process(fed_mf(), model, methods.sgd(1.0, 3.0, 0.5)), clients, 1, 1)
    (user,) = store.visited
    table, vector, bias = plain_step_of_mf(model, clients, user, 3.0, 0.5)
    np.testing.assert_allclose(store.server_state.model_weights[0], table, atol=2e-5)
    np.testing.assert_allclose(store.local_weights()[0][user], vector, atol=2e-5)
    np.testing.assert_allclose(store.local_weights()[1][user], bias, atol=2e-5)


def test_the_towers_of_fed_ncf_are_what_they_say():
    model = implicit.neural_factorization(NUM_ITEMS, K, (5,), stddev=1.0, seed=2)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in model.global_weights]
    table, matrix, offset, last, bias = weights
    user, x = rng.normal(size=(1, K)).astype(np.float32), np.array([[3], [9], [3]])
    y = np.float32([[1], [0], [0]])
    logits = []
    for item in x[:, 0]:
        hidden = np.maximum(np.concatenate([table[item], user[0]]) @ matrix + offset, 0)
        logits.append((np.concatenate([table[item] * user[0], hidden]) @ last + bias)[0])
    found = model.example_losses(weights, [user], x, y)
    p = sigmoid(np.array(logits))
    np.testing.assert_allclose(found, -np.log(np.where(y[:, 0] > 0, p, 1 - p)), rtol=1e-4)


def plain_ncf(model, clients, rate, user_rate):
    """FedNCF in NumPy, in float64: table, one hidden layer and last layer are averaged."""
    shared = [w.astype(float) for w in model.global_weights]
    own = {u: model.local_weights[0][0].astype(float) for u in range(NUM_USERS)}
    for number, cohort in enumerate(cohorts()):
        received = []
        for client in cohort:
            weights, user = [w.copy() for w in shared], own[client]
            for (x,), y in [(b.T, y) for b, y in batches(clients, client, number)]:
                table, matrix, offset, last, bias = weights
                items, ones = table[x], np.ones((len(x), 1))
                pair = np.hstack([items, ones * user])
                before = pair @ matrix + offset
                both = np.hstack([items * user, np.maximum(before, 0)])
                error = ((sigmoid((both @ last)[:, 0] + bias[0]) - y) / len(x))[:, None]
                of_both = error @ last.T
                of_before = of_both[:, K:] * (before > 0)
                of_pair = of_before @ matrix.T
                of_items, of_table = of_both[:, :K] * user + of_pair[:, :K], np.zeros_like(table)
                np.add.at(of_table, x, of_items)
                of_user = (of_both[:, :K] * items + of_pair[:, K:]).sum(axis=0)
                gradients = [of_table, pair.T @ of_before, of_before.sum(axis=0)]
                gradients += [both.T @ error, error.sum(axis=0)]
                weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
                user = user - user_rate * of_user
            own[client] = user
            received.append(weights)
        shared = [np.mean(parts, axis=0) for parts in zip(*received, strict=True)]
    return shared, own


def test_fed_ncf_is_the_papers_algorithm(clients):
    model = implicit.neural_factorization(NUM_ITEMS, K, (5,), stddev=0.5, seed=2)
    store = run(build_rows_process(fed_ncf(), model, methods.sgd(1.0, 0.5, 0.3)), clients)
    shared, own = plain_ncf(model, clients, 0.5, 0.3)
    for found, expected, first in zip(
        store.server_state.model_weights, shared, model.global_weights, strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert np.abs(expected - first).max() > 1e-2
    for user in range(NUM_USERS):
        np.testing.assert_allclose(store.local_weights()[0][user], own[user], atol=2e-5)


@pytest.mark.parametrize("kept", ["table", "nothing"])
def test_rows_make_no_difference(clients, kept):
    model, rates = implicit.logistic_factorization(NUM_ITEMS, K, seed=2), methods.sgd(1.0, 8.0, 0.1)
    both = [
        run(build(pfedrec(kept), model, rates), clients)
        for build in (build_rows_process, build_process)
    ]
    for some, other in zip(
        [*both[0].server_state.model_weights, *both[0].local_weights()],
        [*both[1].server_state.model_weights, *both[1].local_weights()],
        strict=True,
    ):
        np.testing.assert_allclose(some, other, atol=2e-5)
    np.testing.assert_allclose(both[0].history["loss"], both[1].history["loss"], rtol=1e-5)
    assert (both[0].history["num_examples"] == both[1].history["num_examples"]).all()


def test_a_part_holds_the_rows_that_its_clients_touch(clients):
    cohort = np.array([3, 7, 1, 12])
    parts = parts_of(clients, cohort, 1, [methods.DataPass(epochs=2)], NUM_ITEMS)
    assert sorted(np.concatenate([p["index"] for p in parts])) == sorted(cohort)
    for part in parts:
        (padded,) = part["passes"]
        for place, user in enumerate(part["index"]):
            rows, size = part["rows"][place], padded.sizes[place]
            found = [rows[padded.x[place, t, :n, 0]] for t, n in enumerate(size) if n]
            (dealt,) = clients.for_round([user], 1, 2)
            assert [f.tolist() for f in found] == [b["x"].numpy()[:, 0].tolist() for b in dealt]
            real = rows[rows < NUM_ITEMS]
            assert (np.diff(real) > 0).all() and set(real) == set(np.concatenate(found))
            assert rows[-1] == NUM_ITEMS


def test_the_packed_engine_refuses_data_of_each_round(train, clients):
    with pytest.raises(data.DataError, match="use the engine by rows"):
        PackedRatings(clients)
    assert PackedRatings(data.ImplicitDatasets(train, negatives=0)).batch_size == 256


def test_the_engine_by_rows_refuses_what_names_no_rows():
    with pytest.raises(TypeError, match="x are row numbers"):
        build_rows_process(methods.stateful, tf.keras.Sequential(), methods.sgd(1.0, 1.0, 1.0))
