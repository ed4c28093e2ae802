"""Matrix factorization as a specification: checked once, it builds the Keras model and predicts.

Knows nothing of TFF, methods, engines and stores.
"""

from collections.abc import Sequence

import attrs
import numpy as np
import tensorflow as tf

from ..checks import (
    array_of,
    finite_number,
    seed_number,
    shown,
    table_size,
    whole_number,
    yes_or_no,
)
from .keras_model import build_keras_model


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
        if isinstance(self.l2, int | float) and self.l2 < 0:
            raise ValueError(
                f"l2 must not be negative, got {self.l2}: it would reward long vectors."
            )
        for name, value in (
            ("biases", yes_or_no("biases", self.biases)),
            ("num_items", whole_number("num_items", self.num_items, 1)),
            ("num_factors", whole_number("num_factors", self.num_factors, 1, 10_000)),
            ("mean_rating", finite_number("mean_rating", self.mean_rating)),
            ("l2", finite_number("l2", self.l2, 0)),
            ("seed", self.seed if self.seed is None else seed_number("seed", self.seed)),
        ):
            object.__setattr__(self, name, value)
        table_size("The item vectors", self.num_items, self.num_factors)

    def keras_model(self) -> tf.keras.Model:
        """Returns a new Keras model of one user, as `build_keras_model` builds it."""
        return build_keras_model(self)

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
        global_weights = [array_of("A global weight", w) for w in _listed(global_weights)]
        local_weights = [array_of("A local weight", w) for w in _listed(local_weights)]
        num_items, num_users = _check_sides(global_weights, local_weights)
        user, item = _check_ids("user", user, num_users), _check_ids("item", item, num_items)
        if user.shape != item.shape or user.ndim != 1:
            raise ValueError(
                f"user and item must be two lists of one length, not {user.shape} and {item.shape}."
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


def _listed(weights) -> list:
    """Returns weights in a list, if they come in one."""
    if not isinstance(weights, list | tuple):
        raise TypeError(f"Weights are a list of arrays, not {shown(weights)}.")
    return list(weights)


def _check_ids(name: str, ids, rows: int) -> np.ndarray:
    """Returns ids as an array after checking that each names one of `rows` rows."""
    ids = array_of(name, ids, whole=True)
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
