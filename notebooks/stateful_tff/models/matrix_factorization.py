"""Matrix factorization for one user in Keras: what everybody shares and what stays private.

Knows nothing of TFF, methods, engines and stores.
"""

from collections.abc import Sequence

import attrs
import numpy as np
import tensorflow as tf

from ..checks import finite_number, whole_number


class UserEmbedding(tf.keras.layers.Layer):
    """The private vector of one user, handed out once per example of the batch.

    An embedding of a single row: whatever the input is, the output is that row. The layer
    holds one weight of shape `[1, num_factors]`, float32.
    """

    def __init__(self, num_factors: int, initializer="uniform", **kwargs):
        """Remembers the size; the weight is made when the layer first sees an input.

        Args:
            num_factors: the length k of the vector.
            initializer: a Keras initializer, or the name of one.
            **kwargs: what every Keras layer takes, such as `name` or `activity_regularizer`.

        Raises:
            TypeError: if `num_factors` is not a whole number.
            ValueError: if `num_factors` is below 1.
        """
        super().__init__(**kwargs)
        self.num_factors = whole_number("num_factors", num_factors, 1)
        self.initializer = tf.keras.initializers.get(initializer)

    def build(self, input_shape):
        """Makes the weight."""
        self.embedding = self.add_weight(
            name="embedding", shape=(1, self.num_factors), initializer=self.initializer
        )
        super().build(input_shape)

    def call(self, inputs):
        """Returns the vector as float32 `[batch, num_factors]`; only the batch size is read."""
        return tf.broadcast_to(self.embedding, [tf.shape(inputs)[0], self.num_factors])

    def get_config(self):
        """Returns what a copy of the layer, or a saved model, is made from."""
        initializer = tf.keras.initializers.serialize(self.initializer)
        return super().get_config() | dict(num_factors=self.num_factors, initializer=initializer)


@attrs.frozen
class MatrixFactorization:
    """The matrix-factorization model of one user, as a specification that builds and predicts.

    The prediction for movie i is `mean_rating + item_bias[i] + user_bias + q[i] . p`, with the
    biases left out unless asked for (Koren, Bell and Volinsky 2009, equation 4).

    Attributes:
        num_items: how many movies there are; ids run from 0 to `num_items - 1`.
        num_factors: the length k of the item vectors q[i] and of the user vector p.
        biases: whether to add an item bias (global) and a user bias (local), both from zero.
        mean_rating: a constant that is added to every prediction, in stars.
        l2: weight of the squared length of all vectors and biases that a rating uses, averaged
            over the ratings of a batch; ends up in the Keras model's `losses`.
        seed: makes the initial weights reproducible; `None` draws new ones each time.

    Raises:
        TypeError: if an argument is of the wrong kind, such as a count that is no whole number.
        ValueError: if a count is below 1, `l2` or `seed` negative, or a number not finite.
    """

    num_items: int
    num_factors: int = 50
    biases: bool = attrs.field(default=False, kw_only=True)
    mean_rating: float = attrs.field(default=0.0, kw_only=True)
    l2: float = attrs.field(default=0.0, kw_only=True)
    seed: int | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self):
        """Checks every argument, and keeps plain Python numbers."""
        if not isinstance(self.biases, bool | np.bool_):
            raise TypeError(f"biases must be True or False, not {self.biases!r}.")
        if isinstance(self.l2, int | float) and self.l2 < 0:
            raise ValueError(f"l2 must not be negative, got {self.l2}: it would reward long vectors.")
        for name, value in (
            ("num_items", whole_number("num_items", self.num_items, 1)),
            ("num_factors", whole_number("num_factors", self.num_factors, 1)),
            ("mean_rating", finite_number("mean_rating", self.mean_rating)),
            ("l2", finite_number("l2", self.l2, 0)),
            ("seed", self.seed if self.seed is None else whole_number("seed", self.seed, 0)),
        ):
            object.__setattr__(self, name, value)

    def keras_model(self) -> tf.keras.Model:
        """Builds the model.

        Returns:
            An uncompiled model from movie ids, int64 `[batch, 1]`, to stars, float32 `[batch,
            1]`. Its layers are named Item, ItemEmbedding, UserEmbedding, and with biases
            ItemBias and UserBias.
        """
        item_start, user_start = _uniform_initializers(self.seed)
        item = tf.keras.Input(shape=[1], dtype=tf.int64, name="Item")

        def penalty():
            return tf.keras.regularizers.L2(self.l2) if self.l2 else None

        def item_table(width, start, name):
            table = tf.keras.layers.Embedding(
                self.num_items, width, start, activity_regularizer=penalty(), name=name
            )
            return tf.keras.layers.Flatten(name=f"Flatten{name}")(table(item))

        def user_row(width, start, name):
            return UserEmbedding(width, start, activity_regularizer=penalty(), name=name)(item)

        item_vector = item_table(self.num_factors, item_start, "ItemEmbedding")
        user_vector = user_row(self.num_factors, user_start, "UserEmbedding")
        stars = tf.keras.layers.Dot(axes=1, name="Dot")([user_vector, item_vector])
        if self.biases:
            item_bias = item_table(1, "zeros", "ItemBias")
            user_bias = user_row(1, "zeros", "UserBias")
            stars = tf.keras.layers.Add(name="Sum")([stars, item_bias, user_bias])
        if self.mean_rating:
            offset = self.mean_rating
            stars = tf.keras.layers.Rescaling(1.0, offset=offset, name="MeanRating")(stars)
        return tf.keras.Model(inputs=item, outputs=stars, name="MatrixFactorization")

    def predict(
        self,
        global_weights: Sequence[np.ndarray],
        local_weights: Sequence[np.ndarray],
        user: np.ndarray,
        item: np.ndarray,
    ) -> np.ndarray:
        """Predicts ratings of many users at once in NumPy, equal to the Keras models.

        Args:
            global_weights: item vectors `[num_items, k]` and, with biases, `[num_items, 1]`.
            local_weights: the users' vectors, stacked, `[num_users, k]` and, with biases,
                `[num_users, 1]`.
            user: n user ids, each a row of `local_weights`.
            item: n movie ids.

        Returns:
            n predicted ratings in stars, float32, not clipped to the scale.

        Raises:
            TypeError: if ids are not whole numbers.
            ValueError: if an id is out of range, or shapes do not go together.
        """
        num_items, num_users = _check_sides(global_weights, local_weights)
        user, item = _check_ids("user", user, num_users), _check_ids("item", item, num_items)
        if user.shape != item.shape or user.ndim != 1:
            raise ValueError(
                f"user and item must be two lists of one length, not {user.shape} and "
                f"{item.shape}."
            )
        if len(global_weights) != 1 + self.biases:
            raise ValueError(
                f"The model has {1 + self.biases} global weights, not {len(global_weights)}; "
                "predict with the specification that the weights were trained with."
            )
        vectors = np.asarray(global_weights[0])[item], np.asarray(local_weights[0])[user]
        stars = np.einsum("nk,nk->n", *vectors) + np.float32(self.mean_rating)
        if self.biases:
            stars += np.asarray(global_weights[1])[item, 0] + np.asarray(local_weights[1])[user, 0]
        return stars.astype(np.float32)


def matrix_factorization_model(num_items: int, num_factors: int = 50, **kwargs) -> tf.keras.Model:
    """Builds the Keras model of `MatrixFactorization(num_items, num_factors, **kwargs)`."""
    return MatrixFactorization(num_items, num_factors, **kwargs).keras_model()


def local_model_variables(model: tf.keras.Model) -> list[tf.Variable]:
    """Returns the variables of one user: the user vector and, where there is one, the bias.

    Args:
        model: made by `MatrixFactorization.keras_model`.

    Returns:
        `[UserEmbedding]` or `[UserEmbedding, UserBias]`, float32 `[1, k]` and `[1, 1]`.

    Raises:
        ValueError: if the model has no layer UserEmbedding.
    """
    return _variables_of(model, ["UserEmbedding", "UserBias"])


def global_model_variables(model: tf.keras.Model) -> list[tf.Variable]:
    """Returns the variables that all users share: the item vectors and, where used, biases.

    Args:
        model: made by `MatrixFactorization.keras_model`.

    Returns:
        `[ItemEmbedding]` or `[ItemEmbedding, ItemBias]`, float32 `[num_items, k]` and
        `[num_items, 1]`.

    Raises:
        ValueError: if the model has no layer ItemEmbedding.
    """
    return _variables_of(model, ["ItemEmbedding", "ItemBias"])


def _uniform_initializers(seed: int | None) -> list[tf.keras.initializers.Initializer]:
    """Returns the initializers of the item and the user side, independent of each other."""
    if seed is None:
        return [tf.keras.initializers.RandomUniform() for _ in range(2)]
    seeds = np.random.SeedSequence(seed).generate_state(2)
    return [tf.keras.initializers.RandomUniform(seed=int(s) >> 1) for s in seeds]


def _variables_of(model: tf.keras.Model, names: Sequence[str]) -> list[tf.Variable]:
    """Returns the weights of those of the named layers that the model has, in that order."""
    layers = {layer.name: layer for layer in model.layers}
    if names[0] not in layers:
        raise ValueError(
            f"The model has no layer {names[0]!r}, only {sorted(layers)}; build it with "
            "MatrixFactorization."
        )
    return [weight for name in names if name in layers for weight in layers[name].weights]


def _check_ids(name: str, ids, rows: int) -> np.ndarray:
    """Returns ids as an array after checking that each names one of `rows` rows."""
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name} must hold whole numbers, not {ids.dtype}.")
    if ids.size and not 0 <= ids.min() <= ids.max() < rows:
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name} holds the id {worst}, but ids run from 0 to {rows - 1}.")
    return ids


def _check_sides(global_weights, local_weights) -> tuple[int, int]:
    """Returns the numbers of movies and users after checking that the shapes fit together."""
    of_items, of_users = ([np.shape(w) for w in side] for side in (global_weights, local_weights))
    widths = [shape[1:] for shape in of_items]
    for shapes in (of_items, of_users):
        if (
            len(shapes) not in (1, 2)
            or any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes)
            or [shape[1:] for shape in shapes] != widths
            or widths[1:] not in ([], [(1,)])
        ):
            raise ValueError(f"Global weights of shapes {of_items} do not fit local {of_users}.")
    return of_items[0][0], of_users[0][0]
