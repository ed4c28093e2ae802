"""The training loop of chapter 5: who takes part, what a run keeps, and when it stops."""

import itertools

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from numpy_rounds import sgd
from store_runs import CLIENTS, PROCESS, assert_same, go_on, in_memory

from stateful_tff.data import ClientDatasets, split_by_time, synthetic_ratings
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.evaluation.metrics import score
from stateful_tff.methods import Method, Optimizers, keep_optimizer_state, stateful
from stateful_tff.models import MatrixFactorization, ModelFn
from stateful_tff.stores import MemoryStore
from stateful_tff.training import DivergenceError, Round, UniformSampler, rounds, sample_cohort


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


@pytest.mark.parametrize("size, round_num", [(2.0, 0), (True, 0), (2, 1.5)])
def test_numbers_of_a_cohort_are_whole(size, round_num):
    with pytest.raises(TypeError, match="must be a whole number"):
        sample_cohort(6, size, round_num)


def test_a_sampler_draws_from_a_number_or_from_ids():
    every, some = UniformSampler(50, 10, seed=1), UniformSampler(np.arange(100, 150), 10, seed=1)
    np.testing.assert_array_equal(every(3), sample_cohort(50, 10, 3, seed=1))
    np.testing.assert_array_equal(some(3), every(3) + 100)
    assert repr(every) == "UniformSampler(clients=50, cohort_size=10, seed=1)"


@pytest.mark.parametrize("stops", [[4], [1, 2, 4], [2, 2, 4]])
def test_a_continued_run_equals_one_that_was_never_stopped(stops):
    store = MemoryStore(PROCESS, CLIENTS)
    for until in stops:
        result = go_on(store, until)
    assert_same(result, in_memory(4))
    assert store.history.index.tolist() == [1, 2, 3, 4]
    assert (store.history["seconds"] >= store.history["preparation"]).all()


def test_the_body_of_the_loop_decides_when_to_stop():
    store, sampler = MemoryStore(PROCESS, CLIENTS), UniformSampler(CLIENTS, 8)
    for done in rounds(PROCESS, store, None, sampler, until=10):
        assert isinstance(done, Round) and store.round_num == done.round_num - 1
        done.metrics["mine"] = 10 * done.round_num
        store.commit(done)
        if done.round_num == 3:
            break
    assert store.round_num == 3 and store.history["mine"].tolist() == [10, 20, 30]


def test_a_round_that_was_not_committed_stops_the_run():
    store = MemoryStore(PROCESS, CLIENTS)
    with pytest.raises(RuntimeError, match="Round 1 was not committed; call store.commit"):
        for _ in rounds(PROCESS, store, None, UniformSampler(CLIENTS, 8), until=3):
            pass
    assert store.round_num == 0


@pytest.mark.parametrize(
    "cohort, error, sentence",
    [
        ([1, 1], ValueError, "Client 1 is named twice"),
        ([CLIENTS], ValueError, f"Client {CLIENTS} is unknown"),
        ([1.9], TypeError, "1.9 names nobody"),
        ([True], TypeError, "True and False name nobody"),
    ],
)
def test_what_a_sampler_draws_is_checked_before_the_round(cohort, error, sentence):
    store = MemoryStore(PROCESS, CLIENTS)
    with pytest.raises(error, match=sentence):
        next(rounds(PROCESS, store, None, lambda _: cohort, until=1))


@pytest.mark.parametrize("until", [1.5, True, "3"])
def test_the_number_of_rounds_is_whole(until):
    store = MemoryStore(PROCESS, CLIENTS)
    with pytest.raises(TypeError, match="until must be a whole number"):
        next(rounds(PROCESS, store, None, UniformSampler(CLIENTS, 8), until))


def test_a_run_does_not_go_on_with_another_sampler():
    store = MemoryStore(PROCESS, CLIENTS)
    go_on(store, 2)
    with pytest.raises(ValueError, match="This run began with sampler UniformSampler"):
        go_on(store, 4, seed=1)
    assert store.round_num == 2


class Spoiled:
    """The stand-in process, whose third round goes wrong in one of several ways."""

    initialize, client_state_fn, inputs = (
        PROCESS.initialize,
        PROCESS.client_state_fn,
        PROCESS.inputs,
    )

    def __init__(self, part):
        self.part = part

    def next(self, server_state, data, client_states):
        server, metrics, states = PROCESS.next(server_state, data, client_states)
        if server.round_num == 3:
            if self.part == "server":
                server.model_weights[0][5] = np.inf
            elif self.part == "client":
                states[2].local_weights[0][:] = np.nan
            else:
                metrics["loss"] = self.part
        return server, metrics, states


@pytest.mark.parametrize(
    "part, sentence",
    [
        ("server", "the server's state is not finite"),
        ("client", r"the state of client \d+ is not finite"),
        (np.nan, "the training loss is nan"),
        (1e9, "the training loss is 1e[+]09, over 100 times the first one"),
    ],
)
def test_divergence_stops_before_anything_of_the_round_is_kept(part, sentence):
    store, process = MemoryStore(PROCESS, CLIENTS), Spoiled(part)
    with pytest.raises(DivergenceError, match=f"^Round 3 diverged: {sentence}. Lower the learn"):
        for done in rounds(process, store, None, UniformSampler(CLIENTS, 8), until=5):
            store.commit(done)
    assert_same((store.server_state, store.history, store[range(CLIENTS)]), in_memory(2))


def test_the_first_loss_is_that_of_the_run_also_after_a_stop():
    store = MemoryStore(PROCESS, CLIENTS)
    go_on(store, 2)
    with pytest.raises(DivergenceError, match="over 100 times the first one"):
        for done in rounds(Spoiled(1e9), store, None, UniformSampler(CLIENTS, 8), until=5):
            store.commit(done)


NUM_USERS, NUM_ITEMS = 40, 60


@pytest.fixture(scope="module")
def split():
    return split_by_time(synthetic_ratings(num_users=NUM_USERS, num_items=NUM_ITEMS, seed=1))


@pytest.fixture(scope="module")
def clients(split):
    return ClientDatasets(split.train, batch_size=5, shuffle_seed=0)


MODEL = MatrixFactorization(NUM_ITEMS, 4, biases=True, mean_rating=3.6, l2=0.05, seed=0)


@pytest.fixture(scope="module")
def process():
    return InThisProcess(build_packed_process(stateful, MODEL, Optimizers(*map(sgd, RATES))))


RATES = 1.0, 0.5, 0.05


def trained(process, clients, until, cohort_size=8):
    store = MemoryStore(process, NUM_USERS)
    for done in rounds(process, store, clients, UniformSampler(NUM_USERS, cohort_size), until):
        store.commit(done)
    return store


def rmse(store, ratings):
    items = store.server_state.model_weights
    table = ratings.table
    predicted = MODEL.predict(items, store.local_weights(), table["user"], table["item"])
    return score(predicted, ratings)["rmse"]


def test_training_beats_the_untrained_model(split, clients, process):
    store = trained(process, clients, 12, 20)
    assert rmse(store, split.test) < rmse(trained(process, clients, 0), split.test) - 0.02
    loss = store.history["loss"]
    assert loss.iloc[-3:].mean() < loss.iloc[:3].mean()


def test_the_engines_run_through_the_same_loop(clients, process):
    optimizers = Optimizers(*map(sgd, RATES))
    one_by_one = build_process(stateful, ModelFn(MODEL), optimizers)
    stores = [trained(p, clients, 3) for p in (one_by_one, process)]
    for a, b in zip(*(store.local_weights() for store in stores), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert stores[0].num_visits.tolist() == stores[1].num_visits.tolist()


def test_results_in_another_order_change_nothing(clients, process):
    """A process whose clients answer in any order trains the same model."""
    rng = np.random.default_rng(0)

    class AnyOrder:
        initialize, inputs = process.initialize, staticmethod(process.inputs)
        client_state_fn = staticmethod(process.client_state_fn)

        @staticmethod
        def next(server_state, data, client_states):
            server_state, metrics, (states,) = process.next(server_state, data, client_states)
            order = rng.permutation(len(states.index))
            parts = np.array_split(order, 3)
            return (
                server_state,
                metrics,
                [
                    tf.nest.map_structure(lambda part, own=own: part.numpy()[own], states)
                    for own in parts
                ],
            )

    straight, shuffled = trained(process, clients, 3), trained(AnyOrder, clients, 3)
    for a, b in zip(straight.local_weights(), shuffled.local_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_wild_rates_diverge_and_what_was_good_is_kept(clients):
    wild = InThisProcess(build_packed_process(stateful, MODEL, Optimizers(*map(sgd, (10, 5, 0.5)))))
    store = MemoryStore(wild, NUM_USERS)
    with pytest.raises(DivergenceError, match=r"Round \d+ diverged: .* Lower the"):
        for done in rounds(wild, store, clients, UniformSampler(NUM_USERS, 8), until=50):
            store.commit(done)
    assert len(store.history) == store.round_num < 50
    parts = [*store.server_state.model_weights, *store.local_weights()]
    assert all(np.isfinite(part).all() for part in parts)


def test_a_cohort_without_data_is_no_divergence(split, process):
    nobody = ClientDatasets(split.train.select([]), batch_size=5, shuffle_seed=0)
    store = trained(process, nobody, 2, 4)
    for before, after in zip(
        process.initialize().model_weights, store.server_state.model_weights, strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert store.history["num_examples"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "local", [sgd(0.05, momentum=0.9), tff.learning.optimizers.build_adam(0.01)]
)
def test_the_store_keeps_the_state_of_a_local_optimizer(clients, local):
    method = Method("keeps its optimizer", keep_optimizer_state)
    process = build_process(method, ModelFn(MODEL), Optimizers(sgd(1.0), sgd(0.5), local))
    store = trained(InThisProcess(process), clients, 2, 30)
    twice = np.flatnonzero(store.num_visits == 2)
    assert len(twice) and np.abs(store[twice].optimizer_state["accumulator"][0]).max() > 0


def test_predictions_use_each_client_s_own_state(split, process):
    store = MemoryStore(process, NUM_USERS)
    generous = attrs.evolve(
        store[[3]],
        local_weights=[np.zeros((1, 1, 4), np.float32), np.ones((1, 1, 1), np.float32)],
    )
    of_client = split.test.select((split.test.table["user"] == 3).to_numpy())
    others = split.test.select((split.test.table["user"] != 3).to_numpy())
    before = rmse(store, of_client), rmse(store, others)
    store.replace(generous)
    assert rmse(store, of_client) != before[0] and rmse(store, others) == before[1]
    items = np.asarray(store.server_state.model_weights[1])[of_client.table["item"], 0]
    assert rmse(store, of_client) == pytest.approx(score(3.6 + 1 + items, of_client)["rmse"])


def test_a_plan_is_what_decides_the_rounds(clients):
    """Ids, sizes and seeds of samplers and data are in it, and nothing of what a round costs."""
    plans = []

    class Store:
        round_num, history, num_clients = 0, MemoryStore(PROCESS, 1).history, 40

        def keep_plan(self, plan):
            plans.append(plan)

    for seed, size in itertools.product((0, 1), (5, 6)):
        list(rounds(PROCESS, Store(), clients, UniformSampler(40, size, seed), until=0))
    assert len({repr(plan) for plan in plans}) == 4
    assert plans[0] == {
        "sampler": "UniformSampler(clients=40, cohort_size=5, seed=0)",
        "batch_size": 5,
        "shuffle_seed": 0,
        "num_clients": 40,
    }
