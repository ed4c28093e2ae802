"""FCF: implicit alternating least squares, whose user step is a ridge regression on the device.

Source: Ammad-ud-din et al. 2019, "Federated Collaborative Filtering" (arXiv 1901.09888), with the
penalties of Rendle et al. 2022 (arXiv 2110.14037). Knows nothing of engines and stores.
"""

import attrs
import tensorflow as tf

from ..checks import finite_number, positive_number, yes_or_no
from ..state import BroadcastMessage, ClientOutput
from .method import Method, keep_local_weights, server_update
from .touched_rows import one_table_size
from .trainers import NEITHER


@attrs.frozen
class RidgeUser:
    """A client update that solves for the user, and sends what the items' gradient is made of.

    With items y, the client's own set S of n items and the Gram matrix G of all items, the user is
    `x = (weight G + sum_S y y' + p I)^-1 sum_S y`, with `p = l2 (n + weight num_items)^power`.
    Its part of the gradient of item i is `(x'y_i - 1) x` for the items of S, and `weight x x' y_i`
    for all items. The second part needs no item at the client: `x x'` is enough.
    """

    weight: float
    l2: float
    power: float

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Returns a `ClientOutput`; `weights_delta` is described at `AllCells`."""
        items, gram, size = server_message.model_weights
        width, num_rows = items.shape[1], tf.shape(items)[0]
        mine = tf.ensure_shape(trainer.touched_rows(data, num_rows), items.shape[:1])[:, None]
        count = tf.reduce_sum(mine)
        penalty = self.l2 * (count + self.weight * size) ** self.power
        left = self.weight * gram + tf.matmul(items, mine * items, transpose_a=True)
        right = tf.matmul(items, mine, transpose_a=True)
        factor = tf.linalg.cholesky(left + penalty * tf.eye(width))
        user = tf.transpose(tf.linalg.cholesky_solve(factor, right))
        error = mine * (tf.matmul(items, user, transpose_b=True) - 1.0)
        outer = tf.matmul(user, user, transpose_a=True)
        done = trainer.train(data, [items], [user], moves=NEITHER)
        state = attrs.evolve(client_state, local_weights=[user])
        delta = [error * user, mine, outer, count * outer]
        return ClientOutput(delta, tf.sign(done.num_examples), done.metrics, state)


@attrs.frozen
class AllCells:
    """A server update that puts the items' gradient together.

    It gets the clients' means of `(x'y - 1) x` for each item that a client chose, of a one for
    each such item, of `x x'`, and of `n x x'`.

    Attributes:
        weight, l2, power: as in `fcf`.
        scaled: whether each item's gradient is multiplied by the inverse of its own curvature,
            with the mean of `x x'` over choices in place of that over the item's own clients.
    """

    weight: float
    l2: float
    power: float
    scaled: bool

    def __call__(self, server_state, server_optimizer, weights_delta, total_weight):
        """Moves the items by the server's optimizer; see `method.server_update`."""
        chosen, often, outer, of_choices = (part * total_weight for part in weights_delta)
        (items,) = server_state.model_weights
        penalty = self.l2 * (often + self.weight * total_weight) ** self.power
        gradient = chosen + self.weight * tf.matmul(items, outer) + penalty * items
        if self.scaled:
            mean = tf.math.divide_no_nan(of_choices, tf.reduce_sum(often))
            curvature = self.weight * outer + often[:, :, None] * mean
            curvature += (penalty + 1e-6)[:, :, None] * tf.eye(items.shape[1])
            gradient = tf.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        return server_update(server_state, server_optimizer, [-gradient], total_weight)


def with_gram_matrix(server_state) -> BroadcastMessage:
    """Sends the items, their Gram matrix, float32[k, k], and their number, float32."""
    (items,) = server_state.model_weights
    size = tf.constant(one_table_size([items]), tf.float32)
    gram = tf.matmul(items, items, transpose_a=True)
    return BroadcastMessage([items, gram, size], server_state.round_num)


def fcf(weight: float = 0.1, l2: float = 0.01, power: float = 1.0, scaled: bool = False) -> Method:
    """Returns federated implicit ALS, for `models.implicit.one_class_factorization`.

    Its clients have positives alone: `ImplicitDatasets(log, negatives=0)`. The user's vector is
    solved for at each visit, from nothing but items and data: the state holds it to serve.

    Args:
        weight: of what was not chosen; above zero.
        l2: the penalty; above zero.
        power: how it grows with the number of choices.
        scaled: whether the server scales each item's gradient by its curvature. Without it the
            server needs an optimizer such as Adam, as in the paper; with it, plain SGD of rate 1.
    """
    numbers = positive_number("weight", weight), positive_number("l2", l2)
    numbers += (finite_number("power", power, 0),)
    return Method(
        "FCF",
        keep_local_weights,
        RidgeUser(*numbers),
        AllCells(*numbers, yes_or_no("scaled", scaled)),
        with_gram_matrix,
    )
