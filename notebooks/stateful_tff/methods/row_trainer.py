"""Steps of a functional model on the rows of a table that a batch names.

Knows nothing of methods, engines and stores.
"""

import tensorflow as tf

from .optimizers import is_plain
from .trainers import FunctionalTrainer


class RowTrainer(FunctionalTrainer):
    """Trains as `FunctionalTrainer` does, and moves of a table only the rows that a batch names.

    That is the same step where the optimizer is plain SGD, whose step is a multiple of the
    gradient; with another one whole tables move. It cannot be vectorized over clients.
    """

    def take_step(self, optimizer, state, weights, gradients, is_real):
        """Takes a step; a batch that is padding has no gradient."""
        in_rows = [isinstance(gradient, tf.IndexedSlices) for gradient in gradients]
        if not any(in_rows) or not is_plain(optimizer):
            return super().take_step(optimizer, state, weights, gradients, is_real)
        whole = [
            tuple(value for value, row in zip(values, in_rows, strict=True) if not row)
            for values in (weights, gradients)
        ]
        state, moved = super().take_step(optimizer, state, *whole, is_real)
        moved, after = iter(moved), []
        for weight, gradient in zip(weights, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                change = -state["learning_rate"] * gradient.values
                after.append(tf.tensor_scatter_nd_add(weight, gradient.indices[:, None], change))
            else:
                after.append(next(moved))
        return state, tuple(after)

    def touched_rows(self, data, num_rows: int):
        """Returns a one for each row id in `x` of a batch, without a column for each row."""
        real = tf.sequence_mask(data.sizes, tf.shape(data.x)[1], tf.float32)
        rows = tf.reshape(tf.cast(data.x, tf.int64), [-1, 1])
        often = tf.reshape(real[:, :, None] * tf.ones_like(data.x, tf.float32), [-1])
        return tf.minimum(tf.scatter_nd(rows, often, tf.cast([num_rows], tf.int64)), 1.0)
