"""Small networks whose layers have names: any of them may be the clients' own.

Knows nothing of methods, engines and stores.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import tensorflow as tf

from ..checks import one_of, seed_number, shown, table_size, text, whole_number
from .functional import FunctionalModel


@attrs.frozen(eq=False)
class Classifier(FunctionalModel):
    """A `FunctionalModel` that also says what it predicts.

    Attributes:
        scores: called with the two lists of weights and `x`, it returns a score for each class,
            float32[batch, ..., classes]; the largest one is the prediction.
    """

    scores: Callable = attrs.field(kw_only=True)


def classifier(
    layers: Mapping[str, list],
    scores: Callable,
    private: Sequence[str],
    input_spec: Mapping[str, tf.TensorSpec],
    losses: Callable = tf.nn.sparse_softmax_cross_entropy_with_logits,
) -> Classifier:
    """Returns a classifier whose layers are divided between the server and the clients.

    Args:
        layers: for each name the first weights of a layer, a list of float32 arrays.
        scores: called with the layers, a dict of lists, `x`, and a list that takes further
            losses of each example, it returns the scores. A further loss is for weights that
            have one of their own, such as statistics; it does not count in the loss that is
            reported.
        private: the names of the layers that are the clients' own; at least one, and not all.
        input_spec: of `x` and `y`, which holds classes, whole numbers from 0.
        losses: from classes and scores to the loss of each; left out, the cross entropy.

    Raises:
        TypeError: if `private` lists no names.
        ValueError: if it names no layer, or a layer that is not there, or all.
    """
    if isinstance(private, str) or not isinstance(private, Sequence):
        raise TypeError(f"private must list names of layers, not {shown(private)}.")
    private = [one_of("Each of private", text("A layer", name), layers) for name in private]
    if not 0 < len(set(private)) < len(layers):
        raise ValueError(
            f"private names {len(set(private))} of {len(layers)} layers; some must be the "
            "clients' own, and some must be shared."
        )
    sides = [[n for n in layers if n not in private], [n for n in layers if n in private]]

    def joined(*weights) -> dict:
        return {
            name: [next(values) for _ in layers[name]]
            for names, values in zip(sides, map(iter, weights), strict=True)
            for name in names
        }

    def example_losses(global_weights, local_weights, x, y):
        further = []
        each = losses(y, scores(joined(global_weights, local_weights), x, further))
        mean = tf.reduce_mean(tf.reshape(each, [tf.shape(each)[0], -1]), axis=1)
        return mean + sum(extra - tf.stop_gradient(extra) for extra in further)

    return Classifier(
        *([weight for name in names for weight in layers[name]] for names in sides),
        example_losses,
        OrderedDict(x=input_spec["x"], y=input_spec["y"]),
        scores=lambda g, own, x: scores(joined(g, own), x, []),
    )


def dense(rng, num_inputs: int, num_outputs: int) -> list:
    """Returns the first weights of a dense layer: a matrix, and zeros."""
    table_size("A layer", num_inputs, num_outputs)
    scale = np.sqrt(2 / num_inputs)
    matrix = rng.normal(0, scale, (num_inputs, num_outputs)).astype(np.float32)
    return [matrix, np.zeros(num_outputs, np.float32)]


def normalization(size: int) -> list:
    """Returns the first weights of `normalized`: scale, shift, mean and variance."""
    return [np.full(size, value, np.float32) for value in (1, 0, 0, 1)]


def normalized(values, layer: list, losses: list, epsilon: float = 0.01):
    """Normalizes each channel by running statistics, which steps of SGD keep up to date.

    Batch normalization (Ioffe and Szegedy 2015) lets an example's loss depend on the others of
    its batch. Here mean and variance are weights. Each has a loss of its own, half the squared
    distance to what it sees, so that one step of SGD with rate r is the running average
    `mean + r * (batch mean - mean)`.

    Args:
        values: float32[batch, ..., channels].
        layer: scale, shift, mean and variance, each float32[channels].
        losses: takes the statistics' own loss, float32[batch].
        epsilon: added to the variance.
    """
    scale, shift, mean, variance = layer
    seen, center = tf.stop_gradient(values), tf.stop_gradient(mean)
    distance = (seen - mean) ** 2 + ((seen - center) ** 2 - variance) ** 2
    places = tf.reshape(distance / 2, [tf.shape(distance)[0], -1, distance.shape[-1]])
    losses.append(tf.reduce_sum(tf.reduce_mean(places, axis=1), axis=-1))
    spread = tf.sqrt(tf.nn.relu(tf.stop_gradient(variance)) + epsilon)
    return scale * (values - center) / spread + shift


def image_network(
    side: int = 8,
    num_classes: int = 10,
    *,
    filters: int = 8,
    width: int = 32,
    private: Sequence[str] = ("head",),
    normalize: bool = False,
    seed: int = 0,
) -> Classifier:
    """Returns a network for small grey images: 3 x 3 filters, a hidden layer, a head.

    Args:
        side: the images' height and width in pixels, an even number; `x` is float32[batch,
            side * side], `y` int64[batch].
        num_classes: how many classes there are.
        filters: how many filters.
        width: of the hidden layer.
        private: the clients' own layers, of "filters", "normalization", "hidden" and "head".
        normalize: whether each filter's outputs are `normalized`.
        seed: decides the first weights.
    """
    side, rng = whole_number("side", side, 4), _generator(seed)
    whole_number("num_classes", num_classes, 2)
    filters, width = whole_number("filters", filters, 1), whole_number("width", width, 1)
    inside = side - 2
    pooled = inside // 2
    layers = {"filters": dense(rng, 9, filters)}
    if normalize:
        layers["normalization"] = normalization(filters)
    layers["hidden"] = dense(rng, pooled * pooled * filters, width)
    layers["head"] = dense(rng, width, num_classes)

    def scores(layers, x, losses):
        image = tf.reshape(x, [-1, side, side])
        shifted = [image[:, i : i + inside, j : j + inside] for i in range(3) for j in range(3)]
        values = _affine(tf.stack(shifted, axis=-1), layers["filters"])
        if normalize:
            values = normalized(values, layers["normalization"], losses)
        values = tf.nn.relu(values)[:, : 2 * pooled, : 2 * pooled]
        values = tf.reshape(values, [-1, pooled, 2, pooled, 2, filters])
        values = tf.reshape(tf.reduce_mean(values, axis=[2, 4]), [-1, pooled * pooled * filters])
        return _affine(tf.nn.relu(_affine(values, layers["hidden"])), layers["head"])

    spec = dict(x=tf.TensorSpec([None, side * side]), y=tf.TensorSpec([None], tf.int64))
    return classifier(layers, scores, private, spec)


def dense_network(
    num_inputs: int,
    num_classes: int = 10,
    *,
    width: int = 32,
    private: Sequence[str] = ("head",),
    seed: int = 0,
) -> Classifier:
    """Returns a network of two dense layers.

    Args:
        num_inputs: the length of an example; `x` is float32[batch, num_inputs], `y`
            int64[batch].
        num_classes: how many classes there are.
        width: of the hidden layer.
        private: the clients' own layer, "hidden" or "head".
        seed: decides the first weights.
    """
    rng = _generator(seed)
    width = whole_number("width", width, 1)
    layers = {
        "hidden": dense(rng, whole_number("num_inputs", num_inputs, 1), width),
        "head": dense(rng, width, whole_number("num_classes", num_classes, 2)),
    }

    def scores(layers, x, losses):
        return _affine(tf.nn.relu(_affine(x, layers["hidden"])), layers["head"])

    spec = dict(x=tf.TensorSpec([None, num_inputs]), y=tf.TensorSpec([None], tf.int64))
    return classifier(layers, scores, private, spec)


def sequence_network(
    num_symbols: int,
    length: int,
    *,
    width: int = 16,
    private: Sequence[str] = ("head",),
    seed: int = 0,
) -> Classifier:
    """Returns a recurrent network (Elman 1990) that predicts the next symbol at each place.

    Args:
        num_symbols: the size of the alphabet.
        length: of the sequences; `x` and `y` are int64[batch, length], y the symbols that
            follow those of x.
        width: of the state that is handed from place to place.
        private: the clients' own layers, of "symbols", "recurrent" and "head".
        seed: decides the first weights.
    """
    rng = _generator(seed)
    num_symbols = whole_number("num_symbols", num_symbols, 2)
    length, width = whole_number("length", length, 1), whole_number("width", width, 1)
    layers = {
        "symbols": dense(rng, num_symbols, width)[:1],
        "recurrent": dense(rng, width, width),
        "head": dense(rng, width, num_symbols),
    }
    layers["recurrent"][0] *= np.float32(0.5)

    def scores(layers, x, losses):
        inputs = tf.one_hot(x, num_symbols) @ layers["symbols"][0]
        states = [tf.tanh(inputs[:, 0])]
        for place in range(1, length):
            states.append(tf.tanh(inputs[:, place] + _affine(states[-1], layers["recurrent"])))
        return _affine(tf.stack(states, axis=1), layers["head"])

    spec = tf.TensorSpec([None, length], tf.int64)
    return classifier(layers, scores, private, dict(x=spec, y=spec))


def factorization_network(
    num_items: int,
    num_stars: int = 5,
    num_factors: int = 8,
    *,
    private: Sequence[str] = ("user",),
    seed: int = 0,
) -> Classifier:
    """Returns the factorization of chapter 2 as a classifier: the nearest number of stars.

    The loss is the squared error in stars, and so the score of a class is minus its squared
    distance to `(num_stars + 1) / 2 + b_i + b_u + q_i . p_u`.

    Args:
        num_items: how many items there are; `x` is int64[batch], their ids.
        num_stars: the highest rating; `y` is int64[batch], from 0 for one star.
        num_factors: the length of the vectors.
        private: the clients' own layer, "items" or "user".
        seed: decides the first weights.
    """
    num_items, rng = whole_number("num_items", num_items, 1), _generator(seed)
    num_stars = whole_number("num_stars", num_stars, 2, 1_000)
    num_factors = whole_number("num_factors", num_factors, 1, 10_000)
    layers = {
        "items": _small(rng, (num_items, num_factors + 1)),
        "user": _small(rng, (num_factors + 1,)),
    }

    def scores(layers, x, losses):
        items, (user,) = tf.gather(layers["items"][0], x), layers["user"]
        stars = (num_stars - 1) / 2 + tf.linalg.matvec(items[:, 1:], user[1:])
        stars += items[:, 0] + user[0]
        return -((stars[:, None] - tf.range(num_stars, dtype=tf.float32)) ** 2)

    def squared_errors(y, scores):
        return -tf.reduce_sum(tf.one_hot(y, num_stars) * scores, axis=1)

    spec = tf.TensorSpec([None], tf.int64)
    return classifier(layers, scores, private, dict(x=spec, y=spec), squared_errors)


def choice_network(
    num_items: int,
    num_factors: int = 8,
    *,
    width: int = 16,
    private: Sequence[str] = ("user",),
    seed: int = 0,
) -> Classifier:
    """Returns the network of FedNCF with one hidden layer: was this item chosen, yes or no?

    It is `implicit.neural_factorization` with scores for two classes, of which the first is zero.

    Args:
        num_items: how many items there are; `x` is int64[batch], their ids, `y` 0 or 1.
        num_factors: the length of the vectors.
        width: of the hidden layer.
        private: the clients' own layers, of "items", "tower", "head" and "user".
        seed: decides the first weights.
    """
    num_items, rng = whole_number("num_items", num_items, 1), _generator(seed)
    k, width = whole_number("num_factors", num_factors, 1, 10_000), whole_number("width", width, 1)
    layers = {
        "items": _small(rng, (num_items, k)),
        "tower": dense(rng, 2 * k, width),
        "head": dense(rng, k + width, 1),
        "user": _small(rng, (k,)),
    }

    def scores(layers, x, losses):
        items, (user,) = tf.gather(layers["items"][0], x), layers["user"]
        pair = tf.concat([items, tf.zeros_like(items) + user], axis=1)
        tower = tf.nn.relu(_affine(pair, layers["tower"]))
        logits = _affine(tf.concat([items * user, tower], axis=1), layers["head"])
        return tf.concat([tf.zeros_like(logits), logits], axis=1)

    spec = tf.TensorSpec([None], tf.int64)
    return classifier(layers, scores, private, dict(x=spec, y=spec))


def _generator(seed: int):
    return np.random.default_rng(seed_number("seed", seed))


def _small(rng, shape: tuple) -> list[np.ndarray]:
    """Returns the first weights of a table or a vector, a list of one."""
    table_size("A table", *shape)
    return [rng.normal(0, 0.1, shape).astype(np.float32)]


def _affine(values, layer: list):
    """Returns a dense layer's outputs for each row of the last axis, whatever stands before it."""
    flat = tf.reshape(values, [-1, values.shape[-1]]) @ layer[0] + layer[1]
    return tf.reshape(flat, tf.concat([tf.shape(values)[:-1], [layer[0].shape[-1]]], axis=0))


def exchanged(model: FunctionalModel) -> FunctionalModel:
    """Returns the same model with its groups exchanged: what was shared is private.

    Args:
        model: any functional model; where its last layers are local, its first ones are now.
    """
    changes = dict(
        global_weights=model.local_weights,
        local_weights=model.global_weights,
        example_losses=lambda g, own, x, y: model.example_losses(own, g, x, y),
    )
    if isinstance(model, Classifier):
        changes["scores"] = lambda g, own, x: model.scores(own, g, x)
    return attrs.evolve(model, **changes)
