"""The Keras model of chapter 2: shapes, sides, gradients, penalties, and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stateful_tff.models import (
    MatrixFactorization,
    UserEmbedding,
    build_keras_model,
    global_model_variables,
    local_model_variables,
    matrix_factorization_model,
)

OPTIONS = [
    {},
    dict(mean_rating=3.6),
    dict(biases=True),
    dict(biases=True, mean_rating=3.6, l2=0.05),
]


def randomized(model, seed=0):
    """Gives every variable of a model values far from its start, biases included."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def test_user_embedding_repeats_its_row_for_every_example():
    layer = UserEmbedding(3)
    rows = layer(tf.constant([[5], [0], [7]], tf.int64)).numpy()
    assert rows.shape == (3, 3)
    assert (rows == rows[0]).all()
    assert [tuple(w.shape) for w in layer.weights] == [(1, 3)]
    assert layer(tf.zeros([0, 1], tf.int64)).shape == (0, 3)


def test_user_embedding_survives_serialization():
    layer = UserEmbedding(4, initializer="zeros", name="UserEmbedding")
    again = UserEmbedding.from_config(layer.get_config())
    assert again.num_factors == 4
    assert again.name == "UserEmbedding"
    assert not again(np.zeros((2, 1))).numpy().any()


@pytest.mark.parametrize("options", OPTIONS)
def test_model_saved_to_a_file_predicts_and_trains_as_before(tmp_path, options):
    model = randomized(matrix_factorization_model(7, 3, **options))
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"UserEmbedding": UserEmbedding}
    )
    items = np.arange(7)[:, None]
    np.testing.assert_array_equal(again(items), model(items))
    np.testing.assert_array_equal(sum(again.losses), sum(model.losses))
    for side in (global_model_variables, local_model_variables):
        for one, other in zip(side(again), side(model), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.trainable


def test_all_ways_to_build_a_model_build_the_same():
    options = dict(biases=True, mean_rating=3.6, l2=0.05, seed=1)
    spec = MatrixFactorization(7, 3, **options)
    models = [build_keras_model(spec), spec.keras_model()]
    models.append(matrix_factorization_model(7, 3, **options))
    for model in models[1:]:
        assert [layer.name for layer in model.layers] == [layer.name for layer in models[0].layers]
        for one, other in zip(model.weights, models[0].weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len({id(model) for model in models}) == 3


@pytest.mark.parametrize("options", OPTIONS)
def test_the_two_sides_are_all_weights_and_in_the_agreed_order(options):
    model = matrix_factorization_model(7, 3, **options)
    global_side, local_side = global_model_variables(model), local_model_variables(model)
    with_bias = options.get("biases", False)
    assert [tuple(v.shape) for v in global_side] == [(7, 3), (7, 1)][: 1 + with_bias]
    assert [tuple(v.shape) for v in local_side] == [(1, 3), (1, 1)][: 1 + with_bias]
    assert {v.ref() for v in global_side + local_side} == {v.ref() for v in model.weights}
    assert all(v.dtype == tf.float32 and v.trainable for v in model.weights)
    names = {"ItemEmbedding", "UserEmbedding", "Item"} | (
        {"ItemBias", "UserBias"} if with_bias else set()
    )
    assert names <= {layer.name for layer in model.layers}


def test_sizes_for_movielens_1m():
    model = matrix_factorization_model(3706, 50)
    assert sum(4 * tf.size(v) for v in global_model_variables(model)) == 741_200
    assert sum(4 * tf.size(v) for v in local_model_variables(model)) == 200


def test_takes_ids_of_any_batch_size_and_returns_stars():
    model = matrix_factorization_model(7, 3)
    assert model.input_shape == (None, 1)
    assert model.inputs[0].dtype == tf.int64
    for size in (0, 1, 6):
        stars = model(np.arange(size)[:, None])
        assert stars.shape == (size, 1)
        assert stars.dtype == tf.float32


@pytest.mark.parametrize("options", OPTIONS)
def test_the_formula(options):
    model = randomized(matrix_factorization_model(7, 3, **options))
    (q, *item_bias), (p, *user_bias) = (
        [v.numpy() for v in side(model)] for side in (global_model_variables, local_model_variables)
    )
    expected = q @ p[0] + options.get("mean_rating", 0.0)
    if item_bias:
        expected += item_bias[0][:, 0] + user_bias[0][0, 0]
    np.testing.assert_allclose(model(np.arange(7)[:, None])[:, 0], expected, rtol=1e-5)


def test_untrained_model_with_biases_predicts_about_the_mean():
    model = matrix_factorization_model(50, 10, biases=True, mean_rating=3.58, seed=0)
    np.testing.assert_allclose(model(np.arange(50)[:, None]), 3.58, atol=0.03)


def test_seed_decides_the_start():
    def weights(seed):
        return [v.numpy() for v in matrix_factorization_model(9, 4, biases=True, seed=seed).weights]

    for one, other in zip(weights(3), weights(3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(weights(3)[0], weights(4)[0])
    assert not np.array_equal(weights(None)[0], weights(None)[0])
    item, user = weights(3)[:2]
    assert not np.isclose(item[0], user[0]).any(), "the two sides share their random numbers"
    assert max(np.abs(item).max(), np.abs(user).max()) <= 0.05


def test_seed_gives_the_same_start_inside_a_graph():
    expected = matrix_factorization_model(9, 4, seed=3).get_weights()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = matrix_factorization_model(9, 4, seed=3)
        session.run(tf.compat.v1.global_variables_initializer())
        inside = session.run(model.weights)
    for one, other in zip(inside, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 0.05, 1.5]))
def test_gradient_by_hand_equals_the_tape(seed, batch, l2):
    rng = np.random.default_rng(seed)
    model = randomized(matrix_factorization_model(6, 3, biases=True, mean_rating=3.5, l2=l2), seed)
    items, stars = rng.integers(0, 6, batch), rng.uniform(1, 5, batch).astype(np.float32)
    sides = global_model_variables(model) + local_model_variables(model)
    with tf.GradientTape() as tape:
        error = stars[:, None] - model(items[:, None])
        loss = tf.reduce_mean(error**2) + sum(model.losses)
    by_tape = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, sides)]

    q, b_item, p, b_user = (v.numpy().astype(np.float64) for v in sides)
    e = stars - (3.5 + q[items] @ p[0] + b_item[items, 0] + b_user[0, 0])
    by_hand = [np.zeros_like(w) for w in (q, b_item, p, b_user)]
    for i, e_b in zip(items, e, strict=True):
        by_hand[0][i] += 2 / batch * (-e_b * p[0] + l2 * q[i])
        by_hand[1][i] += 2 / batch * (-e_b + l2 * b_item[i])
        by_hand[2] += 2 / batch * (-e_b * q[i] + l2 * p)
        by_hand[3] += 2 / batch * (-e_b + l2 * b_user)
    for tape_gradient, hand_gradient in zip(by_tape, by_hand, strict=True):
        np.testing.assert_allclose(tape_gradient, hand_gradient, rtol=1e-4, atol=2e-5)
    expected_penalty = l2 * np.mean(
        (q[items] ** 2).sum(axis=1) + b_item[items, 0] ** 2 + (p**2).sum() + b_user[0, 0] ** 2
    )
    np.testing.assert_allclose(sum(model.losses), expected_penalty, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_item_gradients_are_sparse(options):
    model = matrix_factorization_model(1000, 3, **options)
    with tf.GradientTape() as tape:
        stars = model(np.array([[4], [9]]))
        loss = tf.reduce_mean(stars**2) + sum(model.losses)
    for gradient in tape.gradient(loss, global_model_variables(model)):
        assert isinstance(gradient, tf.IndexedSlices)
        assert set(gradient.indices.numpy()) == {4, 9}


def test_no_penalty_means_no_losses():
    model = matrix_factorization_model(5, 2, biases=True)
    model(np.array([[1]]))
    assert model.losses == []


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(num_items=0), ValueError, "num_items must be at least 1, not 0"),
        (dict(num_items=-3), ValueError, "num_items"),
        (dict(num_items=3.0), TypeError, "num_items must be a whole number, not 3.0"),
        (dict(num_items="3"), TypeError, "num_items"),
        (dict(num_items=True), TypeError, "num_items"),
        (dict(num_items=None), TypeError, "num_items"),
        (dict(num_factors=0), ValueError, "num_factors must be at least 1, not 0"),
        (dict(num_factors=-1), ValueError, "num_factors"),
        (dict(num_factors=2.5), TypeError, "num_factors"),
        (dict(l2=-0.1), ValueError, "l2 must not be negative"),
        (dict(l2=float("nan")), ValueError, "l2 must be finite"),
        (dict(l2="much"), TypeError, "l2 must be a number"),
        (dict(mean_rating=float("nan")), ValueError, "mean_rating must be finite"),
        (dict(mean_rating=float("inf")), ValueError, "mean_rating"),
        (dict(mean_rating=None), TypeError, "mean_rating"),
        (dict(seed=-1), ValueError, "seed"),
        (dict(seed=1.5), TypeError, "seed"),
        (dict(seed=True), TypeError, "seed"),
        (dict(biases=None), TypeError, "biases"),
        (dict(biases="no"), TypeError, "biases"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, error, words):
    with pytest.raises(error, match=words) as raised:
        matrix_factorization_model(**{"num_items": 5, "num_factors": 2, **arguments})
    assert str(raised.value).endswith(".")


def test_numbers_of_numpy_are_welcome():
    model = matrix_factorization_model(
        np.int64(5), np.int32(2), biases=np.True_, mean_rating=np.float32(3.5), seed=np.int64(1)
    )
    assert len(model.weights) == 4


@pytest.mark.parametrize("count", [0, -1, 2.0])
def test_user_embedding_refuses_a_senseless_size(count):
    with pytest.raises((TypeError, ValueError), match="num_factors"):
        UserEmbedding(count)


def test_sides_of_another_model_are_refused_in_words():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[1], name="Only")])
    for side in (local_model_variables, global_model_variables):
        with pytest.raises(ValueError, match="Only"):
            side(model)


@pytest.mark.parametrize("options", OPTIONS)
def test_predict_equals_keras_for_every_user(options):
    spec = MatrixFactorization(7, 3, **options)
    models = [randomized(spec.keras_model(), seed) for seed in range(3)]
    global_weights = [v.numpy() for v in global_model_variables(models[0])]
    for model in models:
        for variable, value in zip(global_model_variables(model), global_weights, strict=True):
            variable.assign(value)
    local_weights = [
        np.concatenate(rows) for rows in zip(*map(local_model_variables, models), strict=True)
    ]
    user, item = (a.ravel() for a in np.indices((3, 7)))
    predicted = spec.predict(global_weights, local_weights, user, item)
    expected = np.concatenate([m(np.arange(7)[:, None])[:, 0] for m in models])
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)


def test_prediction_of_nothing_is_nothing():
    nobody = np.array([], np.int64)
    spec = MatrixFactorization(4, 2)
    assert spec.predict([np.ones((4, 2))], [np.ones((3, 2))], nobody, nobody).shape == (0,)


def test_a_specification_is_a_value_of_plain_numbers():
    spec = MatrixFactorization(np.int64(5), np.int32(2), mean_rating=np.float32(3.5))
    assert spec == MatrixFactorization(5, 2, mean_rating=3.5)
    assert type(spec.num_items) is int and type(spec.mean_rating) is float
    with pytest.raises(AttributeError):
        spec.num_items = 6


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (dict(user=[-1]), ValueError, "user holds the id -1, but ids run from 0 to 2"),
        (dict(user=[3]), ValueError, "user holds the id 3"),
        (dict(item=[-1]), ValueError, "item holds the id -1, but ids run from 0 to 3"),
        (dict(item=[4]), ValueError, "item holds the id 4"),
        (dict(item=[1.0]), TypeError, "item must hold whole numbers"),
        (dict(item=[1, 2]), ValueError, "one length"),
        (dict(user=[[1]], item=[[1]]), ValueError, "two lists"),
        (dict(local_weights=[np.ones((3, 5))]), ValueError, "do not fit"),
        (dict(local_weights=[np.ones((3, 2)), np.ones((3, 1))]), ValueError, "do not fit"),
        (dict(local_weights=[]), ValueError, "do not fit"),
        (dict(global_weights=[], local_weights=[]), ValueError, "do not fit"),
        (
            dict(
                global_weights=[np.ones((4, 2)), np.ones((4, 1))],
                local_weights=[np.ones((3, 2)), np.ones((2, 1))],
            ),
            ValueError,
            "do not fit",
        ),
        (dict(local_weights=[np.ones(2)]), ValueError, "do not fit"),
    ],
)
def test_predict_refuses_what_numpy_would_accept(changes, error, words):
    arguments = dict(
        global_weights=[np.ones((4, 2))], local_weights=[np.ones((3, 2))], user=[0], item=[0]
    )
    biases = len(changes.get("global_weights", [0])) == 2
    with pytest.raises(error, match=words):
        MatrixFactorization(4, 2, biases=biases).predict(**{**arguments, **changes})


@pytest.mark.parametrize("biases", [False, True])
def test_predict_refuses_weights_of_another_specification(biases):
    weights = [np.ones((4, 2)), np.ones((4, 1))], [np.ones((3, 2)), np.ones((3, 1))]
    if biases:  # a model with biases, and weights without
        weights = weights[0][:1], weights[1][:1]
    with pytest.raises(ValueError, match="global weights"):
        MatrixFactorization(4, 2, biases=biases).predict(*weights, [0], [0])


SPECS = {
    "plain": MatrixFactorization(7, 3, seed=1),
    "all": MatrixFactorization(7, 3, biases=True, mean_rating=3.5, l2=0.1, seed=2),
}
WAYS = {
    ".keras": lambda model, folder: saved_and_loaded(model, folder / "model.keras"),
    ".h5": lambda model, folder: saved_and_loaded(model, folder / "model.h5"),
    "folder": lambda model, folder: saved_and_loaded(model, folder / "model"),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "json": lambda model, folder: tf.keras.models.model_from_json(model.to_json()),
    "clone": lambda model, folder: tf.keras.models.clone_model(model),
}


def saved_and_loaded(model, path):
    model.save(path)
    return tf.keras.models.load_model(path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SPECS)
def test_a_copy_of_the_keras_model_is_the_same_model(name, way, tmp_path):
    model, items = SPECS[name].keras_model(), np.arange(7)[:, None]
    copied = WAYS[way](model, tmp_path)
    if way in ("json", "clone"):  # these copy the layers and not their weights
        copied.set_weights(model.get_weights())
    for side in (local_model_variables, global_model_variables):
        for own, other in zip(side(model), side(copied), strict=True):
            assert own is not other
            np.testing.assert_array_equal(own.numpy(), other.numpy())
    np.testing.assert_allclose(copied(items), model(items), rtol=1e-6)
    assert len(copied.losses) == len(model.losses)
    np.testing.assert_allclose(sum(copied.losses), sum(model.losses), rtol=1e-6)
