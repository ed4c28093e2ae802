"""The TFF model of chapter 3: its interface, its metrics, and one stock round by hand."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff.models import (
    INPUT_SPEC,
    MatrixFactorization,
    MatrixFactorizationModel,
    ModelFn,
    build_model_fn,
    matrix_factorization_model,
)

SIZES = [1, 23, 7, 60]
OPTIONS = dict(biases=True, mean_rating=3.5, l2=0.1, seed=4)


def client_arrays(num_items=12, sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, num_items, n), rng.integers(1, 6, n).astype(np.float32)) for n in sizes
    ]


def dataset(items, stars, batch_size=5):
    table = collections.OrderedDict(x=items[:, None].astype(np.int64), y=stars[:, None])
    return tf.data.Dataset.from_tensor_slices(table).batch(batch_size)


def weights_of(process, state):
    return [np.array(w) for w in process.get_model_weights(state).trainable]


def error_and_loss(weights, items, stars, l2=0.1, mean_rating=3.5):
    """The errors and the penalized loss per rating, in double precision."""
    q, b_item, p, b_user = (w.astype(np.float64) for w in weights)
    error = stars - (mean_rating + q[items] @ p[0] + b_item[items, 0] + b_user[0, 0])
    squares = (q[items] ** 2).sum(axis=1) + b_item[items, 0] ** 2
    return error, error**2 + l2 * (squares + (p**2).sum() + b_user[0, 0] ** 2)


def train_by_hand(weights, items, stars, rate, l2=0.1, batch_size=5):
    """One epoch of plain gradient descent on the penalized loss, in double precision."""
    q, b_item, p, b_user = (w.astype(np.float64) for w in weights)
    for start in range(0, len(items), batch_size):
        i = items[start : start + batch_size]
        e, _ = error_and_loss([q, b_item, p, b_user], i, stars[start : start + batch_size])
        step = 2 * rate / len(i)
        new_p = p + step * (e @ q[i] - l2 * len(i) * p)
        new_bias = b_user + step * (e.sum() - l2 * len(i) * b_user)
        q_step, b_step = np.zeros_like(q), np.zeros_like(b_item)
        np.add.at(q_step, i, step * (np.outer(e, p[0]) - l2 * q[i]))
        np.add.at(b_step, i, step * (e[:, None] - l2 * b_item[i]))
        q, b_item, p, b_user = q + q_step, b_item + b_step, new_p, new_bias
    return [q, b_item, p, b_user]


def test_has_every_member_of_the_interface_and_the_two_sides():
    model = build_model_fn(12, 3, **OPTIONS)()
    assert isinstance(model, tff.learning.models.VariableModel)
    for name in tff.learning.models.VariableModel.__abstractmethods__:
        assert getattr(model, name) is not None
    assert [tuple(v.shape) for v in model.global_model_variables] == [(12, 3), (12, 1)]
    assert [tuple(v.shape) for v in model.local_model_variables] == [(1, 3), (1, 1)]
    sides = model.global_model_variables + model.local_model_variables
    assert [v.ref() for v in model.trainable_variables] == [v.ref() for v in sides]
    assert model.non_trainable_variables == []
    assert not {v.ref() for v in model.local_variables} & {v.ref() for v in sides}
    assert model.input_spec == INPUT_SPEC
    assert model.metric_finalizers().keys() == model.report_local_unfinalized_metrics().keys()
    assert list(model.metric_finalizers()) == ["num_examples", "loss", "rmse", "accuracy"]


def test_input_spec_is_what_it_was_given():
    spec = collections.OrderedDict(
        x=tf.TensorSpec([5, 1], tf.int64), y=tf.TensorSpec([5, 1], tf.float32)
    )
    assert MatrixFactorizationModel(matrix_factorization_model(4, 2), spec).input_spec is spec


def test_predictions_measure_nothing_and_forward_pass_trains_nothing():
    model = build_model_fn(12, 3, **OPTIONS)()
    before = [v.numpy() for v in model.trainable_variables]
    model.predict_on_batch(np.array([[3], [4]]))
    assert all(v.numpy() == 0 for v in model.local_variables)
    model.forward_pass(next(iter(dataset(*client_arrays()[1]))))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert model.local_variables[0].numpy() == 5
    model.reset_metrics()
    assert all(v.numpy() == 0 for v in model.local_variables)


@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_forward_pass_equals_the_formula(options):
    model = build_model_fn(12, 3, **options)()
    items, stars = client_arrays()[3]
    weights = [v.numpy() for v in model.trainable_variables]
    if not options:
        weights = [weights[0], np.zeros((12, 1)), weights[1], np.zeros((1, 1))]
    settings = {} if options else dict(l2=0.0, mean_rating=0.0)
    output = model.forward_pass(collections.OrderedDict(x=items[:, None], y=stars[:, None]))
    error, loss = error_and_loss(weights, items, stars, **settings)
    np.testing.assert_allclose(output.loss, loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(output.predictions[:, 0], stars - error, rtol=1e-5)
    assert output.num_examples == len(items)


def test_the_penalty_does_not_pile_up_over_calls():
    model = build_model_fn(12, 3, **OPTIONS)()
    batch = next(iter(dataset(*client_arrays()[1])))
    losses = [float(model.forward_pass(batch).loss) for _ in range(3)]
    assert len(set(losses)) == 1
    assert losses[0] == float(model.forward_pass(batch, training=False).loss)


@pytest.mark.parametrize("sizes", [SIZES, [5], [0, 3, 0]])
def test_metrics_over_clients_equal_the_pooled_ones(sizes):
    clients = client_arrays(sizes=sizes)
    model_fn = build_model_fn(12, 3, **OPTIONS)
    evaluate = tff.learning.algorithms.build_fed_eval(model_fn)
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=s).astype(np.float32) for s in [(12, 3), (12, 1), (1, 3), (1, 1)]]
    state = evaluate.set_model_weights(
        evaluate.initialize(), tff.learning.models.ModelWeights(weights, [])
    )
    output = evaluate.next(state, [dataset(*client) for client in clients])
    metrics = output.metrics["client_work"]["eval"]["current_round_metrics"]

    error, loss = error_and_loss(weights, *(np.concatenate(a) for a in zip(*clients, strict=True)))
    assert metrics["num_examples"] == sum(sizes)
    np.testing.assert_allclose(metrics["loss"], loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["rmse"], np.sqrt(np.mean(error**2)), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(np.abs(error) <= 0.5), rtol=1e-6)


def test_metrics_without_any_rating_are_not_a_number():
    model = build_model_fn(12, 3)()
    finalizers = model.metric_finalizers()
    parts = model.report_local_unfinalized_metrics()
    assert finalizers["num_examples"](parts["num_examples"]) == 0
    for name in ("loss", "rmse", "accuracy"):
        assert np.isnan(finalizers[name](parts[name]))


def test_parts_of_the_metrics_may_be_split_anywhere():
    items, stars = client_arrays()[3]
    model_fn = build_model_fn(12, 3, seed=1)

    def parts(*datasets):
        model = model_fn()
        for one in datasets:
            for batch in one:
                model.forward_pass(batch)
        return model.report_local_unfinalized_metrics()

    whole = parts(dataset(items, stars))
    halves = [parts(dataset(items[s], stars[s])) for s in (slice(0, 17), slice(17, None))]
    summed = tf.nest.map_structure(lambda a, b: a + b, *halves)
    for one, other in zip(tf.nest.flatten(whole), tf.nest.flatten(summed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_stock_federated_averaging_equals_a_round_by_hand_and_forgets_the_clients():
    clients = client_arrays()
    process = tff.learning.algorithms.build_weighted_fed_avg(
        build_model_fn(12, 3, **OPTIONS),
        tff.learning.optimizers.build_sgdm(0.1),
        tff.learning.optimizers.build_sgdm(1.0),
    )
    assert "@CLIENTS" in str(process.next.type_signature.parameter)
    assert "@CLIENTS" not in str(process.next.type_signature.result)
    state = process.initialize()
    for _ in range(2):  # in the second round, too, every client starts from the server's weights
        start = weights_of(process, state)
        result = process.next(state, [dataset(*client) for client in clients])
        state = result.state
        trained = [train_by_hand(start, *client, rate=0.1) for client in clients]
        for received, *ours in zip(weights_of(process, state), *trained, strict=True):
            np.testing.assert_allclose(
                received, np.average(ours, axis=0, weights=SIZES), rtol=1e-4, atol=1e-5
            )
        metrics = result.metrics["client_work"]["train"]
        assert metrics["num_examples"] == sum(SIZES)
        vectors = np.concatenate([w[2] for w in trained])
        state_rows = np.concatenate([w.reshape(-1, 3) for w in weights_of(process, state)[::2]])
        assert np.abs(state_rows[:, None] - vectors).max(axis=2).min() > 1e-4


def test_a_model_made_before_tff_traced_one_is_replaced_by_a_new_one():
    model_fn = build_model_fn(12, 3, seed=1)
    before = model_fn()
    first = before.predict_on_batch(np.array([[2]])).numpy()
    tff.learning.algorithms.build_fed_eval(model_fn)
    after = model_fn()
    np.testing.assert_array_equal(after.predict_on_batch(np.array([[2]])), first)


@pytest.mark.parametrize(
    "arguments, error",
    [
        (dict(num_items=0), ValueError),
        (dict(num_items=3, num_factors=1.5), TypeError),
        (dict(num_items=3, l2=-1.0), ValueError),
        (dict(num_items=3, rank=7), TypeError),
    ],
)
def test_bad_arguments_are_refused_when_the_function_is_built(arguments, error):
    with pytest.raises(error):
        build_model_fn(**arguments)


def test_model_fn_builds_a_new_model_each_time():
    model_fn = build_model_fn(12, 3)
    one, other = model_fn(), model_fn()
    assert not {v.ref() for v in one.trainable_variables} & {
        v.ref() for v in other.trainable_variables
    }


def test_model_fn_is_a_value_that_knows_its_specification():
    model_fn = build_model_fn(12, 3, **OPTIONS)
    assert model_fn.spec == MatrixFactorization(12, 3, **OPTIONS)
    assert model_fn == ModelFn(model_fn.spec)


def test_models_refuse_a_keras_model_without_a_private_part():
    keras_model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[1])])
    with pytest.raises(ValueError, match="UserEmbedding"):
        MatrixFactorizationModel(keras_model, INPUT_SPEC)
