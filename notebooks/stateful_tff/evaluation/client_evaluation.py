"""Evaluation inside TFF: what `build_personalization_eval_computation` needs from the book.

Knows nothing of methods, engines and stores.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from ..checks import finite_array, one_of, shown, whole_number

GROUPS = ("local_model_variables", "global_model_variables", "trainable_variables")


@tf.function
def evaluate_client(model, dataset, scale) -> OrderedDict:
    """Judges a model on a client's ratings.

    Args:
        model: a TFF `VariableModel` that predicts stars, float32 `[batch, 1]`.
        dataset: the client's ratings, unbatched, an element `OrderedDict(x=..., y=...)`.
        scale: the lowest and the highest rating, in stars, to which predictions are clipped;
            `Ratings.scale` has them.

    Returns:
        `num_examples`, int64, and `rmse` in stars, float32; NaN without ratings.
    """
    count, squares = tf.constant(0, tf.int64), tf.constant(0.0)
    for batch in dataset.batch(100):
        error = tf.clip_by_value(model.predict_on_batch(batch["x"]), *scale) - batch["y"]
        count += tf.size(error, tf.int64)
        squares += tf.reduce_sum(error**2)
    return OrderedDict(num_examples=count, rmse=tf.sqrt(squares / tf.cast(count, tf.float32)))


def build_strategy(
    group: str, optimizer, scale: tuple[float, float], batch_size: int = 5
) -> Callable[[], Callable]:
    """Returns a strategy for `build_personalization_eval_computation`: adapt, then evaluate.

    Args:
        group: the variables to train: "local_model_variables" to rebuild the user side with
            frozen items, "trainable_variables" to fine-tune the items, too.
        optimizer: a `tff.learning.optimizers` optimizer, which takes a step per batch, in the
            order of the training data.
        scale: as for `evaluate_client`.
        batch_size: ratings per step.

    Raises:
        TypeError: if `batch_size` is no whole number, or `optimizer` none of TFF's.
        ValueError: if it is below one, or there is no such group.
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    one_of("group", group, GROUPS)
    if finite_array("scale", scale, 1).shape != (2,) or scale[0] >= scale[1]:
        raise ValueError(f"scale must be the lowest and the highest rating, not {shown(scale)}.")
    if not isinstance(optimizer, tff.learning.optimizers.Optimizer):
        raise TypeError(
            "optimizer must be an optimizer of tff.learning.optimizers, such as build_sgdm(0.1), "
            f"not {type(optimizer).__name__}."
        )

    def build():
        @tf.function
        def adapt_and_evaluate(model, train_data, test_data):
            variables = tuple(getattr(model, group))
            specs = tuple(tf.TensorSpec(v.shape, v.dtype) for v in variables)
            state = tf.nest.map_structure(tf.convert_to_tensor, optimizer.initialize(specs))
            for batch in train_data.batch(batch_size):
                with tf.GradientTape() as tape:
                    loss = model.forward_pass(batch).loss
                gradients = tape.gradient(loss, variables)
                gradients = tuple(tf.convert_to_tensor(gradient) for gradient in gradients)
                weights = tuple(variable.read_value() for variable in variables)
                state, moved = optimizer.next(state, weights, gradients)
                for variable, weight in zip(variables, moved, strict=True):
                    variable.assign(weight)
            return evaluate_client(model, test_data, scale)

        return adapt_and_evaluate

    return build
