"""What a client's own items say about its taste, learned in a second table beside the item table.

Koren 2008, "Factorization Meets the Neighborhood" (SVD++, equation 15): the user vector is
`p + n^-1/2 sum_j y_j` over the n items that the client has rated. The client adds the sum up from
its own items; only updates of the table y leave it. Knows nothing of engines and stores.
"""

from __future__ import annotations

import attrs
import numpy as np
import tensorflow as tf

from ..checks import finite_number, positive_number
from ..state import ClientOutput
from .method import Method, difference
from .touched_rows import one_table_size


@attrs.frozen
class ImplicitSum:
    """A client update whose user vector starts from, and is pulled to, a sum of its own items.

    With e the whole vector and s the sum, the loss of a rating is that of the model with the
    penalty `l2 |e - s|^2` in place of `l2 |e|^2`. In a visit s stays; `p = e - s` is what the
    client keeps. At the end y takes one step down the penalty for each batch.

    Attributes:
        l2: the model's penalty.
        rate: of y.
    """

    l2: float
    rate: float

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Trains as `client_update` does; `weights_delta` ends with the change of y."""
        *received, table = server_message.model_weights
        p, *bias = client_state.local_weights
        num_rows = one_table_size(server_message.model_weights)
        mine = tf.ensure_shape(trainer.touched_rows(data, num_rows), [num_rows])[:, None]
        share = tf.math.divide_no_nan(mine, tf.sqrt(tf.reduce_sum(mine)))
        told = tf.matmul(share, table, transpose_a=True)

        def pulled(gradients, weights):
            of_items, (of_vector, *others) = gradients
            return of_items, (of_vector - 2 * np.float32(self.l2) * told, *others)

        trained = trainer.train(data, received, [p + told, *bias], adjust=pulled)
        e, *bias = trained.local_weights
        steps = tf.cast(trainer.num_steps(data), tf.float32)
        change = self.change(share, steps, e - told)
        delta = [*difference(trained.global_weights, received), change]
        state = attrs.evolve(client_state, local_weights=[e - told, *bias])
        return ClientOutput(delta, trained.num_examples, trained.metrics, state)

    def change(self, share, steps, p):
        """Returns how y moves: the same vector for each of the client's items."""
        return np.float32(2 * self.rate * self.l2) * steps * share * p


def with_second_table(trainer) -> list:
    """Returns the first global weights, and y, which starts at zero."""
    return [*trainer.global_weights, tf.zeros_like(trainer.global_weights[0])]


def implicit_sum(l2: float, rate: float) -> Method:
    """Returns the stateful method with a second table of what an item says about its raters.

    Args:
        l2: the penalty of the model it is used with; above zero.
        rate: the learning rate of the second table.
    """
    update = ImplicitSum(positive_number("l2", l2), finite_number("rate", rate, 0))
    return Method("implicit sum", client_update=update, server_weights_fn=with_second_table)
