"""The training loop of chapter 5: whose state is whose, and what a run keeps."""

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st

from stateful_tff.data import ClientDatasets, split_by_time, synthetic_ratings
from stateful_tff.frame import build_model_fn
from stateful_tff.process import ClientState, build_client_state_fn, build_stateful_fed_avg
from stateful_tff.simulation import (
    ClientRegistry,
    DivergenceError,
    biases_floor,
    evaluate,
    global_mean_floor,
    run_rounds,
    sample_cohort,
    score,
)

sgd = tff.learning.optimizers.build_sgdm


def new_registry(num_clients=6):
    return ClientRegistry(lambda: ClientState(-1, [np.zeros((1, 2), np.float32)]), num_clients)


def state_of(client, value):
    return ClientState(np.int32(client), [np.full((1, 2), value, np.float32)])


def values(registry):
    return registry.local_weights()[0][:, 0].tolist()


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_states_find_their_client_in_any_order(order, size):
    registry, cohort = new_registry(), sorted(order[:size])
    registry.update(cohort, [state_of(client, client + 1) for client in order[:size]])
    assert values(registry) == [c + 1 if c in cohort else 0 for c in range(6)]
    assert registry.visited == cohort
    assert [int(s.index) for s in registry.states(order)] == list(order)


@pytest.mark.parametrize(
    "returned, sentence",
    [
        ([(0, 1.0), (5, 1.0)], "came back for client 5, who was not asked"),
        ([(0, 1.0), (1, 1.0), (1, 2.0)], "Client 1 returned two states"),
        ([(0, 1.0)], "No state came back for client 1"),
        ([(0, 1.0), (1, np.nan)], "The state of client 1 is not finite"),
    ],
    ids=["unknown", "duplicate", "missing", "not finite"],
)
def test_results_that_do_not_add_up_are_refused_whole(returned, sentence):
    registry = new_registry()
    registry.update([0, 1], [state_of(0, 7.0), state_of(1, 8.0)])
    with pytest.raises(ValueError, match=sentence):
        registry.update([0, 1], [state_of(*pair) for pair in returned])
    assert values(registry)[:2] == [7.0, 8.0]


@pytest.mark.parametrize("client", [-1, 6])
def test_a_client_outside_the_population_is_refused(client):
    with pytest.raises(ValueError, match=f"Client {client} is unknown"):
        new_registry().states([0, client])


@pytest.mark.parametrize("cohort, sentence", [([1, 1], "twice"), ([9], "Client 9 is unknown")])
def test_a_cohort_that_is_none_is_refused_before_and_after_the_round(cohort, sentence):
    registry = new_registry()
    with pytest.raises(ValueError, match=sentence):
        registry.states(cohort)
    with pytest.raises(ValueError, match=sentence):
        registry.update(cohort, [state_of(client, 1.0) for client in cohort])
    assert registry.visited == []


def test_a_new_client_starts_with_the_first_state_under_its_own_id():
    (state,) = new_registry().states([4])
    assert int(state.index) == 4 and not state.local_weights[0].any()


def test_cohorts_are_decided_by_seed_and_round():
    draws = [sample_cohort(50, 10, r, seed=1) for r in range(5)]
    assert all(len(set(draw)) == 10 and 0 <= min(draw) and max(draw) < 50 for draw in draws)
    np.testing.assert_array_equal(draws[3], sample_cohort(50, 10, 3, seed=1))
    assert len({tuple(draw) for draw in draws}) == 5
    assert tuple(sample_cohort(50, 10, 3, seed=2)) != tuple(draws[3])


def test_every_client_has_the_same_chance():
    counts = np.bincount(np.concatenate([sample_cohort(20, 5, r) for r in range(2000)]))
    assert np.abs(counts / 2000 - 0.25).max() < 0.05


@pytest.mark.parametrize("size", [0, 7])
def test_a_cohort_that_cannot_be_drawn_is_refused(size):
    with pytest.raises(ValueError, match=f"A cohort of {size} cannot be drawn from 6 clients"):
        sample_cohort(6, size, 0)


@pytest.fixture(scope="module")
def split():
    return split_by_time(synthetic_ratings(num_users=40, num_items=60, seed=1))


def test_score_by_hand(split):
    test = split.test.select(np.arange(3))
    stars = test.table["rating"].to_numpy()
    predicted = stars + np.array([0.5, -0.6, 0.0])
    clipped = np.clip(predicted, 1, 5) - stars
    scores = score(predicted, test)
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(clipped**2)), abs=1e-6)
    assert scores["accuracy"] == pytest.approx(np.mean(np.abs(clipped) <= 0.5))
    assert score(stars + 100, test)["rmse"] == pytest.approx(np.sqrt(np.mean((5 - stars) ** 2)))
    with pytest.raises(ValueError, match="2 predictions cannot be judged on 3 ratings"):
        score(predicted[:2], test)


def test_user_rmse_counts_each_user_once(split):
    error = (split.test.table["user"].to_numpy() == 0).astype(np.float32)
    stars = split.test.table["rating"].to_numpy()
    predicted = np.where(stars >= 3, stars - error, stars + error)
    assert score(predicted, split.test)["user_rmse"] == pytest.approx(1 / 40, abs=1e-6)


def test_floors_against_a_direct_solution(split):
    """The alternating fit ends where one ridge regression on all biases ends."""
    train, test = split.train, split.test
    user, item = train.table["user"].to_numpy(), train.table["item"].to_numpy()
    stars = train.table["rating"].to_numpy().astype(float)
    design = np.zeros((len(train), train.num_users + train.num_items))
    design[np.arange(len(train)), user] = 1
    design[np.arange(len(train)), train.num_users + item] = 1
    ridge = design.T @ design + 5.0 * np.eye(design.shape[1])
    biases = np.linalg.solve(ridge, design.T @ (stars - stars.mean()))
    predicted = (
        stars.mean()
        + biases[test.table["user"]]
        + biases[train.num_users + test.table["item"].to_numpy()]
    )
    assert biases_floor(train, test, sweeps=200)["rmse"] == pytest.approx(
        score(predicted, test)["rmse"], abs=1e-4
    )
    assert biases_floor(train, test)["rmse"] < global_mean_floor(train, test)["rmse"]


def new_run(split, server_rate=1.0, client_rate=0.5, local_rate=0.05):
    model_fn = build_model_fn(60, 4, biases=True, mean_rating=3.6, l2=0.05, seed=0)
    client_state_fn = build_client_state_fn(model_fn)
    process = build_stateful_fed_avg(
        model_fn, client_state_fn, sgd(server_rate), sgd(client_rate), sgd(local_rate)
    )
    registry = ClientRegistry(client_state_fn, 40)
    return process, registry, ClientDatasets(split.train, batch_size=5, shuffle_seed=0)


def test_a_continued_run_equals_one_that_was_never_stopped(split):
    process, whole, clients = new_run(split)
    first_state = process.initialize()
    state, history = run_rounds(process, whole, clients, 4, 8, server_state=first_state)
    _, parts, _ = new_run(split)
    half, before = run_rounds(process, parts, clients, 2, 8, server_state=first_state)
    rest, after = run_rounds(process, parts, clients, 2, 8, server_state=half)
    for a, b in zip(tf.nest.flatten(state), tf.nest.flatten(rest), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.local_weights()[0], parts.local_weights()[0], atol=1e-6)
    assert [*before.index, *after.index] == [*history.index] == [1, 2, 3, 4]


def test_training_beats_the_untrained_model_and_records_its_history(split):
    process, registry, clients = new_run(split)
    untrained = process.initialize()
    before = evaluate(untrained, registry, split.test, 3.6)["rmse"]
    state, history = run_rounds(
        process,
        registry,
        clients,
        12,
        20,
        server_state=untrained,
        evaluate_fn=lambda s: {"test_rmse": evaluate(s, registry, split.test, 3.6)["rmse"]},
        evaluate_every=5,
    )
    assert evaluate(state, registry, split.test, 3.6)["rmse"] < before - 0.02
    assert history["test_rmse"].dropna().index.tolist() == [5, 10, 12]
    assert history["loss"].iloc[-3:].mean() < history["loss"].iloc[:3].mean()
    assert (history["seconds"] > 0).all()


def test_results_in_another_order_change_nothing(split):
    """A process whose clients answer in any order trains the same model."""
    process, straight, clients = new_run(split)
    _, shuffled, _ = new_run(split)
    rng = np.random.default_rng(0)

    class AnyOrder:
        initialize = process.initialize

        @staticmethod
        def next(server_state, datasets, client_states):
            server_state, metrics, states = process.next(server_state, datasets, client_states)
            return server_state, metrics, [states[i] for i in rng.permutation(len(states))]

    start = process.initialize()
    run_rounds(process, straight, clients, 3, 8, server_state=start)
    run_rounds(AnyOrder, shuffled, clients, 3, 8, server_state=start)
    np.testing.assert_allclose(
        straight.local_weights()[0], shuffled.local_weights()[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "local", [sgd(0.05, momentum=0.9), tff.learning.optimizers.build_adam(0.01)]
)
def test_the_registry_keeps_the_state_of_a_local_optimizer(split, local):
    model_fn = build_model_fn(60, 4, biases=True, mean_rating=3.6, l2=0.05, seed=0)
    client_state_fn = build_client_state_fn(model_fn, local)
    process = build_stateful_fed_avg(model_fn, client_state_fn, sgd(1.0), sgd(0.5), local)
    registry = ClientRegistry(client_state_fn, 40)
    clients = ClientDatasets(split.train, batch_size=5, shuffle_seed=0)
    run_rounds(process, registry, clients, 2, 30)
    twice = set(sample_cohort(40, 30, 0)) & set(sample_cohort(40, 30, 1))
    (state,) = registry.states([min(twice)])
    assert np.abs(state.optimizer_state["accumulator"][0]).max() > 0


def test_divergence_stops_with_a_sentence_and_keeps_what_was_good(split):
    process, registry, clients = new_run(split, 10.0, 5.0, 0.5)
    with pytest.raises(DivergenceError, match=r"Round \d+ diverged: .* Lower the") as caught:
        run_rounds(process, registry, clients, 20, 8)
    rounds = len(caught.value.history)
    assert int(caught.value.server_state.round_num) == rounds < 20
    assert all(np.isfinite(w).all() for w in caught.value.server_state.model_weights)
    assert all(np.isfinite(w).all() for w in registry.local_weights())


def test_a_cohort_without_data_is_no_divergence(split):
    process, registry, _ = new_run(split)
    nobody = ClientDatasets(split.train.select([]), batch_size=5, shuffle_seed=0)
    start = process.initialize()
    state, history = run_rounds(process, registry, nobody, 2, 4, server_state=start)
    np.testing.assert_array_equal(state.model_weights[0], start.model_weights[0])
    assert history["num_examples"].tolist() == [0, 0]


def test_evaluate_uses_each_client_s_own_state(split):
    process, registry, _ = new_run(split)
    state = process.initialize()
    generous = attrs.evolve(
        registry.states([3])[0],
        local_weights=[np.zeros((1, 4), np.float32), np.ones((1, 1), np.float32)],
    )
    before = evaluate(state, registry, split.test, 3.0)
    registry.update([3], [generous])
    of_client = split.test.select((split.test.table["user"] == 3).to_numpy())
    others = split.test.select((split.test.table["user"] != 3).to_numpy())
    items = np.asarray(state.model_weights[1])[of_client.table["item"], 0]
    assert evaluate(state, registry, of_client, 3.0) == pytest.approx(
        score(3.0 + 1.0 + items, of_client)
    )
    _, untouched, _ = new_run(split)
    assert evaluate(state, registry, others, 3.0) == evaluate(state, untouched, others, 3.0)
    assert evaluate(state, registry, split.test, 3.0) != before
