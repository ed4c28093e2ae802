"""The implicit sum: a round against the same one in NumPy, what is served and what is refused."""

import numpy as np
import pytest
from engine_rounds import (
    BIASED,
    PLAIN,
    RATES,
    assert_same_results,
    away_from_start,
    close,
    one_round,
    rating_clients,
    scattered,
)
from random_ratings import NUM_USERS

from stateful_tff.data import synthetic_ratings
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.evaluation.centralized import fit_sgd, told_by_items
from stateful_tff.experiment import Experiment
from stateful_tff.methods import equal_weights, implicit_sum
from stateful_tff.models import ModelFn

RATE = 0.3
METHOD = implicit_sum(BIASED.l2, RATE)
COHORT = np.random.default_rng(0).choice(NUM_USERS, 9, replace=False)


def in_numpy(server, clients, store):
    """One round in float64, client by client and batch by batch."""
    items, biases, table = (np.asarray(w, np.float64) for w in server.model_weights)
    total, mean, kept = 0, [np.zeros_like(w) for w in (items, biases, table)], {}
    for client in COHORT:
        q, b = items.copy(), biases.copy()
        p, a = (np.asarray(w, np.float64)[0] for w in store[int(client)].local_weights)
        batches = list(clients.for_round([client], 3)[0].as_numpy_iterator())
        mine = np.concatenate([batch["x"][:, 0] for batch in batches] or [np.zeros(0, int)])
        told = table[mine].sum(axis=0) / np.sqrt(max(len(mine), 1))
        for batch in batches:
            i, n = batch["x"][:, 0], len(batch["x"])
            e = p + told
            error = BIASED.mean_rating + q[i] @ e + b[i, 0] + a - batch["y"][:, 0]
            step = 2 / n * (error[:, None] * e + BIASED.l2 * q[i])
            p = p - 0.05 * 2 / n * (error @ q[i] + n * BIASED.l2 * p)
            a = a - 0.05 * 2 / n * (error.sum() + n * BIASED.l2 * a)
            b[i, 0] -= 0.1 * 2 / n * (error + BIASED.l2 * b[i, 0])
            q[i] -= 0.1 * step
        change = np.zeros_like(table)
        change[mine] = 2 * RATE * BIASED.l2 * len(batches) * p / np.sqrt(max(len(mine), 1))
        for part, moved in zip(mean, (q - items, b - biases, change), strict=True):
            part += len(mine) * moved
        total, kept[client] = total + len(mine), (p, a)
    after = [w + 0.7 * m / total for w, m in zip((items, biases, table), mean, strict=True)]
    return after, kept


@pytest.fixture(scope="module")
def processes():
    builders = [(build_process, ModelFn(BIASED)), (build_packed_process, BIASED)]
    return [InThisProcess(build(METHOD, model, RATES)) for build, model in builders]


def test_a_round_is_that_of_numpy_on_both_engines(processes):
    clients = rating_clients(2)
    store, server = scattered(processes[0], 1), away_from_start(processes[0], 1)
    expected, kept = in_numpy(server, clients, store)
    slow, fast = (one_round(one, server, clients, COHORT, store, 3) for one in processes)
    assert_same_results(fast, slow, server)
    for actual, right, before in zip(
        fast[0].model_weights, expected, server.model_weights, strict=True
    ):
        close(np.asarray(actual) - before, (right - before).astype(np.float32), least=0.1)
    for row, client in enumerate(sorted(COHORT)):
        for actual, right in zip(fast[2].local_weights, kept[client], strict=True):
            close(actual[row, 0], np.float32(right), least=0.1)


def test_a_client_without_ratings_moves_nothing(processes):
    clients = rating_clients(2)
    (nobody,) = np.flatnonzero(clients.counts == 0)[:1]
    store, server = scattered(processes[1], 1), away_from_start(processes[1], 1)
    after, _, states = one_round(processes[1], server, clients, [nobody], store)
    for new, old in zip(after.model_weights, server.model_weights, strict=True):
        np.testing.assert_array_equal(new, old)
    close(states.local_weights[0][0], np.asarray(store[int(nobody)].local_weights[0]))


def test_the_penalty_of_method_and_model_must_agree():
    with pytest.raises(ValueError, match="pulls with the penalty 0.05 and the model has 0; give"):
        build_packed_process(METHOD, PLAIN, RATES)


@pytest.fixture(scope="module")
def trained():
    ratings = synthetic_ratings(num_users=60, num_items=40, seed=1)
    method = equal_weights(implicit_sum(0.05, 0.2))
    experiment = Experiment(ratings, method=method, num_factors=3, cohort_size=20)
    experiment.train(5)
    return experiment


def test_what_is_served_is_the_minimum_of_the_pulled_loss(trained):
    ratings = trained.ratings
    items, biases, table = map(np.asarray, trained.store.server_state.model_weights)
    assert np.abs(table).max() > 0
    told = told_by_items(ratings, table)
    user, item, stars = (ratings.table[c].to_numpy() for c in ("user", "item", "rating"))
    one = int(user[0])
    mine = item[user == one]
    np.testing.assert_allclose(told[one], table[mine].sum(axis=0) / len(mine) ** 0.5, rtol=1e-5)
    vectors, own_bias = trained.solve(shrink=2.0)
    error = trained.predict(ratings, [vectors, own_bias])[user == one] - stars[user == one]
    pull = (len(mine) * 0.05 + 2.0) * (vectors[one] - told[one])
    np.testing.assert_allclose(error @ items[mine] + pull, 0, atol=1e-3)


def test_a_side_as_it_is_has_what_the_items_tell(trained):
    told = told_by_items(trained.ratings, trained.store.server_state.model_weights[-1])
    kept = trained.store.local_weights()
    np.testing.assert_allclose(trained.local_weights()[0], kept[0] + told, rtol=1e-6)
    with pytest.raises(ValueError, match="use solve"):
        trained.serve(1)


def test_a_table_in_one_place_lowers_the_pulled_penalty():
    ratings = synthetic_ratings(num_users=60, num_items=40, seed=1)
    how = dict(num_factors=3, l2=0.05, rate=0.02, epochs=5, batch_size=50)
    plain, told = (fit_sgd(ratings, **how, implicit=rate) for rate in (0.0, 0.01))
    assert plain.implicit is None and np.abs(told.implicit).max() > 0
    distances = told.users[0] - told_by_items(ratings, told.implicit)
    assert (distances**2).sum() < (told.users[0] ** 2).sum()
