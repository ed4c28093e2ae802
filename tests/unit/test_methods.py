"""Methods: what is kept and sent, each against NumPy, across engines, and against TFF's own."""

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from engine_rounds import (
    BIASED,
    PLAIN,
    RATES,
    SGD,
    assert_same_results,
    away_from_start,
    close,
    one_round,
    rating_clients,
    scattered,
)
from random_ratings import NUM_FACTORS, NUM_ITEMS, NUM_USERS, random_ratings

from stateful_tff.data import ClientDatasets
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.round import types_sent_to_server
from stateful_tff.experiment import Experiment
from stateful_tff.methods import (
    BOTH,
    GLOBAL,
    LOCAL,
    Phase,
    alternating,
    fed_avg,
    fed_recon,
    in_phases,
    keep_nothing,
    keep_optimizer_state,
    local_only,
    rebuilt_at_first_visit,
    sgd,
    stateful,
)
from stateful_tff.methods.tff_fed_recon import alternating_batches, reconstruction_model_fn
from stateful_tff.methods.trainers import VariableTrainer
from stateful_tff.models import ModelFn
from stateful_tff.state import BroadcastMessage
from stateful_tff.training import UniformSampler

COHORT = [7, 2, 11, 4, 9, 0]
METHODS = [
    stateful,
    alternating(2),
    alternating(1, joint=True, keep=keep_nothing),
    rebuilt_at_first_visit(2, rate=0.2),
    fed_recon(3),
    fed_recon(2, joint=True, split=False),
    local_only(2),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=[m.name for m in METHODS])


def trainer():
    """A new one each time: Keras forgets models that are older than one made in a graph."""
    return VariableTrainer(ModelFn(BIASED)(), RATES)


def shapes(weights):
    return [list(weight.shape) for weight in weights]


# What is kept


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (stateful, [[1, NUM_FACTORS], [1, 1]]),
        (alternating(2), [[1, NUM_FACTORS], [1, 1]]),
        (rebuilt_at_first_visit(2), [[1, NUM_FACTORS], [1, 1]]),
        (fed_recon(), []),
        (fed_avg(NUM_USERS), []),
        (alternating(keep=keep_nothing), []),
    ],
)
def test_the_type_of_the_state_says_what_is_kept(method, kept):
    process = build_packed_process(method, BIASED, RATES)
    state_type = process.functions.client_work.type_signature.parameter[1]
    assert [list(part.shape)[1:] for part in state_type.local_weights] == kept
    assert shapes(process.client_state_fn().local_weights) == kept
    assert shapes(method.client_state_fn(trainer()).local_weights) == kept


def test_only_users_at_the_server_send_rows_of_users():
    def shapes_sent(method):
        process = build_process(method, ModelFn(BIASED), RATES)
        parts = [
            part for kind in types_sent_to_server(process.next) for part in kind.weighted_delta
        ]
        return [list(part.shape) for part in parts]

    items = [[NUM_ITEMS, NUM_FACTORS], [NUM_ITEMS, 1]]
    assert shapes_sent(stateful) == shapes_sent(fed_recon()) == items
    tables = [[NUM_USERS, 1, NUM_FACTORS], [NUM_USERS, 1, 1]]
    assert shapes_sent(fed_avg(NUM_USERS)) == items + tables


# Phases


def trained_by_hand(items, user, batches, moves, rates, spec):
    """Plain SGD on vectors and biases in NumPy, with gradients of one point for both sides."""
    (q, b), (p, a) = [w.copy() for w in items], [w.copy() for w in user]
    for batch in batches:
        x, y = batch["x"].numpy()[:, 0], batch["y"].numpy()[:, 0]
        error = q[x] @ p[0] + b[x, 0] + a[0, 0] + spec.mean_rating - y
        pull, decay = 2 * error / len(x), 2 * spec.l2 / len(x)
        steps = [(q, x, pull[:, None] * p + decay * q[x]), (b, x, pull[:, None] + decay * b[x])]
        own = [pull @ q[x] + decay * len(x) * p[0], pull.sum() + decay * len(x) * a[0]]
        if moves in (GLOBAL, BOTH):
            for table, rows, gradient in steps:
                np.add.at(table, rows, -rates[0] * gradient)
        if moves in (LOCAL, BOTH):
            p, a = p - rates[1] * own[0], a - rates[1] * own[1]
    return [q, b], [p, a]


@every_method
@pytest.mark.parametrize("visits", [0, 3])
def test_a_visit_is_its_phases_one_after_the_other(method, visits):
    clients, rng = rating_clients(), np.random.default_rng(0)
    client = int(np.argmax(clients.counts))
    items = [
        rng.normal(0, 0.3, s).astype(np.float32) for s in ([NUM_ITEMS, NUM_FACTORS], [NUM_ITEMS, 1])
    ]
    user = [rng.normal(0, 0.3, [1, k]).astype(np.float32) for k in (NUM_FACTORS, 1)]
    data = [clients.part(p.data).for_round([client], 1, p.epochs)[0] for p in method.passes]
    state = method.client_state_fn(trainer())
    keeps = len(state.local_weights) > 0
    state = attrs.evolve(state, local_weights=user if keeps else [], num_visits=tf.constant(visits))
    output = method.client_update(
        trainer(),
        data if len(data) > 1 else data[0],
        state,
        BroadcastMessage(items, tf.constant(1)),
    )

    own = user if keeps else [w.numpy() for w in trainer().local_weights]
    expected = items, own
    for phase, part in zip(method.passes, data, strict=True):
        if phase.when is None or visits == 0:
            rates = 0.1, phase.rate or 0.05
            expected = trained_by_hand(*expected, list(part), phase.moves, rates, BIASED)
    for delta, before, after in zip(output.weights_delta, items, expected[0], strict=True):
        np.testing.assert_allclose(delta, after - before, atol=1e-5)
    for actual, after in zip(output.client_state.local_weights, expected[1], strict=keeps):
        np.testing.assert_allclose(actual, after, atol=1e-5)
    assert len(output.client_state.local_weights) == 2 * keeps
    assert float(output.client_weight) == sum(len(batch["x"]) for batch in data[-1])


@every_method
def test_the_packed_engine_takes_the_same_phases(method):
    slow = InThisProcess(build_process(method, ModelFn(BIASED), RATES))
    fast = InThisProcess(build_packed_process(method, BIASED, RATES))
    clients, server = rating_clients(), away_from_start(slow, 2)
    store = scattered(slow, 5)
    states = store[COHORT[:3]]
    store.replace(attrs.evolve(states, num_visits=states.num_visits + 1))
    slow_result, fast_result = (
        one_round(process, server, clients, COHORT, store, 3) for process in (slow, fast)
    )
    assert_same_results(fast_result, slow_result, server)


def test_a_phase_of_its_own_rate_keeps_what_an_optimizer_remembers():
    momentum = attrs.evolve(RATES, local=SGD(0.05, momentum=0.9))
    model = VariableTrainer(ModelFn(PLAIN)(), momentum)
    data = rating_clients().for_round([3], 0)[0]

    def after(*phases):
        method = in_phases("m", *phases, client_state_fn=keep_optimizer_state)
        state = method.client_state_fn(model)
        message = BroadcastMessage(model.global_weights, tf.constant(0))
        passes = [data] * len(phases) if len(phases) > 1 else data
        return method.client_update(model, passes, state, message).client_state

    slow, fast = after(Phase(rate=0.001)), after(Phase(rate=0.1))
    assert np.abs(slow.local_weights[0] - fast.local_weights[0]).max() > 1e-3
    twice = after(Phase(rate=0.1), Phase())
    assert tf.nest.flatten(twice.optimizer_state) and int(twice.num_visits) == 0


def test_phases_are_checked():
    with pytest.raises(ValueError, match="data"):
        Phase("test")
    with pytest.raises(ValueError, match="moves"):
        Phase("all", "nothing")


def test_newcomers_alone_are_rebuilt():
    process = InThisProcess(build_packed_process(rebuilt_at_first_visit(3), BIASED, RATES))
    joint = InThisProcess(build_packed_process(stateful, BIASED, RATES))
    clients, store = rating_clients(), scattered(process, 5)
    server, states = away_from_start(process, 2), store[range(NUM_USERS)]
    visits = np.arange(NUM_USERS, dtype=np.int32) % 2
    store.replace(attrs.evolve(states, num_visits=visits))
    with_phase, without = (
        one_round(p, server, clients, range(NUM_USERS), store)[2] for p in (process, joint)
    )
    moved = np.abs(with_phase.local_weights[0] - without.local_weights[0]).max(axis=(1, 2)) > 1e-4
    np.testing.assert_array_equal(moved, (visits == 0) & (clients.counts > 0))


# Users at the server


def kept_and_at_server(rates, rounds, **options):
    """Two experiments of the same cohorts, with the users at the clients and at the server."""
    options = (
        dict(num_factors=NUM_FACTORS, batch_size=4, cohort_size=6, seed=3, rates=rates) | options
    )
    ratings = random_ratings(6)
    found = [
        Experiment(ratings, method=method, **options) for method in (stateful, fed_avg(NUM_USERS))
    ]
    for experiment in found:
        experiment.train(rounds)
    return found


def test_users_at_the_server_move_as_a_table_averaged_by_hand():
    kept, at_server = kept_and_at_server((2.0, 0.1, 0.1), 1)
    cohort, first = kept.sampler(0), kept.serve(0, start=Experiment(
        kept.ratings, num_factors=NUM_FACTORS, seed=3).local_weights())  # fmt: skip
    counts = kept.clients.counts[cohort]
    share = (2.0 * counts / counts.sum())[:, None]
    for before, new, table in zip(
        first, kept.local_weights(), at_server.local_weights(), strict=True
    ):
        expected = before.copy()
        expected[cohort] += share * (new - before)[cohort]
        np.testing.assert_allclose(table, expected, atol=1e-6)
        assert np.abs(table - before).max() > 1e-3
    for same, items in zip(
        kept.store.server_state.model_weights, at_server.store.server_state.model_weights[:2],
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(items, same, atol=1e-6)


def dense_fed_avg(experiment):
    """TFF's own federated averaging of a model that holds the whole table of users."""
    spec = experiment.model
    items, tables = (
        [np.asarray(w) for w in part]
        for part in (
            experiment.store.server_state.model_weights[:2],
            experiment.local_weights(),
        )
    )

    def model_fn():
        user, item = (tf.keras.Input([1], dtype=tf.int64) for _ in range(2))

        def rows(ids, table):
            start = tf.constant_initializer(table)
            return tf.keras.layers.Flatten()(tf.keras.layers.Embedding(*table.shape, start)(ids))

        q, b, p, a = (
            rows(i, w) for i, w in zip((item, item, user, user), items + tables, strict=True)
        )
        stars = tf.keras.layers.Dot(axes=1)([p, q]) + b + a + spec.mean_rating
        kind = (tf.TensorSpec([None, 1], tf.int64),) * 2, tf.TensorSpec([None, 1], tf.float32)
        return tff.learning.models.from_keras_model(
            tf.keras.Model([user, item], stars), tf.keras.losses.MeanSquaredError(), input_spec=kind
        )

    return tff.learning.algorithms.build_weighted_fed_avg(
        model_fn, client_optimizer_fn=SGD(0.1), server_optimizer_fn=SGD(2.0)
    )


def test_users_at_the_server_are_tffs_federated_averaging():
    fresh = kept_and_at_server((2.0, 0.1, 0.1), 0, l2=0.0)[1]
    stock = dense_fed_avg(fresh)
    expected = stock.initialize()
    for round_num in range(3):
        cohort = fresh.sampler(round_num)
        datasets = [
            data.map(
                lambda batch, c=int(c): ((c * tf.ones_like(batch["x"]), batch["x"]), batch["y"])
            )
            for c, data in zip(cohort, fresh.clients.for_round(cohort, round_num), strict=True)
        ]
        expected = stock.next(expected, datasets).state
    fresh.train(3)
    by_shape = {np.shape(w): w for w in stock.get_model_weights(expected).trainable}
    for weights in [*fresh.store.server_state.model_weights[:2], *fresh.local_weights()]:
        close(weights, by_shape[np.shape(weights)])


# Federated reconstruction


@pytest.mark.parametrize("biases", [True, False], ids=["biases", "plain"])
def test_fed_recon_agrees_with_tff(biases):
    ratings = random_ratings(4)
    counts = np.diff(ratings.bounds)
    experiment = Experiment(
        ratings,
        method=fed_recon(),
        num_factors=NUM_FACTORS,
        biases=biases,
        l2=0.0,
        rates=(1.0, 0.3, 0.1),
        batch_size=3,
        seed=3,
        sampler=UniformSampler(np.flatnonzero(counts > 1), 6),
    )
    stock = tff.learning.algorithms.build_fed_recon(
        reconstruction_model_fn(experiment.model),
        loss_fn=tf.keras.losses.MeanSquaredError,
        metrics_fn=lambda: [tf.keras.metrics.RootMeanSquaredError("rmse")],
        server_optimizer_fn=SGD(1.0),
        client_optimizer_fn=SGD(0.3),
        reconstruction_optimizer_fn=SGD(0.1),
    )
    expected, errors = stock.initialize(), []
    for round_num in range(3):
        cohort = experiment.sampler(round_num)
        batches = alternating_batches(experiment.clients, cohort, round_num)
        expected, metrics = stock.next(expected, batches)
        errors.append(metrics["client_work"]["train"]["rmse"])
    history = experiment.train(3)
    trained = stock.get_model_weights(expected).trainable
    for ours, theirs in zip(experiment.store.server_state.model_weights, trained, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(history["rmse"], errors, rtol=1e-4)


def test_batches_take_turns_between_the_halves():
    clients = ClientDatasets(random_ratings(4), 3, shuffle_seed=0)
    cohort = [int(np.argmax(clients.counts)), int(np.flatnonzero(clients.counts > 1)[0])]
    for client, data in zip(cohort, alternating_batches(clients, cohort, 2), strict=True):
        batches = [batch["x"].numpy() for batch in data]
        for turn, name in enumerate(("support", "query")):
            mine = np.concatenate(batches[turn::2])[:, 0]
            assert set(mine) == set(clients.part(name).arrays(client)[0])


def test_a_penalty_that_tff_would_drop_is_refused():
    with pytest.raises(ValueError, match="never sees the model's penalty"):
        reconstruction_model_fn(BIASED)


# Serving


def items_of(experiment, seed=1):
    """A server state with other items than the first."""
    return away_from_start(experiment.process, seed)


@pytest.mark.parametrize(
    "method", [stateful, fed_recon(), fed_avg(NUM_USERS)], ids=lambda m: m.name
)
def test_serving_trains_users_alone_with_any_method(method):
    options = dict(num_factors=NUM_FACTORS, batch_size=4, rates=(1.0, 0.3, 0.05), seed=3)
    experiment = Experiment(random_ratings(1), method=method, **options)
    other = Experiment(random_ratings(1), **options)
    state, start = items_of(other), other.local_weights()
    some = np.flatnonzero(experiment.clients.counts)[:4]
    served = experiment.serve(2, users=some, start=start, server_state=state, round_num=3)
    items = [np.asarray(w) for w in state.model_weights]
    for client in some:
        (data,) = experiment.clients.for_round([client], 3, 2)
        own = [w[client][None] for w in start]
        _, own = trained_by_hand(items, own, list(data), LOCAL, (0.0, 0.05), experiment.model)
        for rows, expected in zip(served, own, strict=True):
            np.testing.assert_allclose(rows[client], expected[0], atol=1e-5)
    others = np.setdiff1d(np.arange(NUM_USERS), some)
    for rows, before in zip(served, start, strict=True):
        np.testing.assert_array_equal(rows[others], before[others])
    for rows, same in zip(experiment.local_weights(), other.local_weights(), strict=True):
        np.testing.assert_array_equal(rows, same)  # serving leaves the run alone


def test_serving_may_have_a_rate_of_its_own():
    ratings = random_ratings(1)
    one = Experiment(ratings, num_factors=NUM_FACTORS, rates=(1.0, 0.3, 0.05), seed=3)
    two = Experiment(ratings, num_factors=NUM_FACTORS, rates=(1.0, 0.3, 0.2), seed=3)
    for mine, theirs in zip(one.serve(1, rate=0.2), two.serve(1), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert np.abs(one.serve(1)[0] - two.serve(1)[0]).max() > 1e-3


def test_the_constant_of_the_model_can_be_given():
    ratings = random_ratings(1)
    assert Experiment(ratings, mean_rating=3.0).model.mean_rating == 3.0
    assert Experiment(ratings, mean_rating=3.0, biases=False, l2=0.0).model.mean_rating == 0.0
    mean = float(ratings.table["rating"].mean())
    assert Experiment(ratings).model.mean_rating == pytest.approx(mean)
    assert sgd(1.0, 0.1, 0.1).server is not None


# What the studies share


@pytest.mark.parametrize("protocol", ["seen, random", "seen, time", "unseen"])
def test_no_study_judges_settings_on_the_ratings_that_chose_them(protocol):
    from experiments.arms import PROTOCOLS, Task, ratings_of

    tuning = PROTOCOLS[protocol](ratings_of("synthetic"), seed=0).validation.table
    for seed in (0, 1):
        task, split = Task("synthetic", protocol, seed, True), PROTOCOLS[protocol]
        test = split(ratings_of("synthetic"), seed=seed).test.table
        names = ["user"] if protocol == "unseen" else ["user", "item"]
        rows = {tuple(row) for row in task.judged.table[names].to_numpy()}
        assert rows and not rows & {tuple(row) for row in tuning[names].to_numpy()}
        assert rows <= {tuple(row) for row in test[names].to_numpy()}


def test_arms_share_a_training_and_differ_in_serving():
    from experiments.arms import Arm, Task, run

    arms = {str(n): Arm(num_factors=4, rounds=20, passes=n) for n in (0, 2, "solved")}
    found = {name: errors for name, errors, *_ in run(("synthetic", "seen, random", 1, True), arms)}
    task = Task("synthetic", "seen, random", 1, True)
    alone = Experiment(task.training, num_factors=4, l2=0.05, seed=1)
    alone.train(20)
    assert found["0"].rmse == pytest.approx(alone.score(task.judged)["rmse"], abs=1e-6)
    solved = alone.score(task.judged, alone.solve())["rmse"]
    assert found["solved"].rmse == pytest.approx(solved, abs=1e-6)
    assert len({round(errors.rmse, 6) for errors in found.values()}) == 3
