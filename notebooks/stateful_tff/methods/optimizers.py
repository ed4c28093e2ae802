"""Steps of TFF's optimizers on variables and tensors, dense or only for the rows in use.

Knows nothing of methods, engines and stores.
"""

import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

Optimizer = tff.learning.optimizers.Optimizer


@attrs.frozen
class Optimizers:
    """The three optimizers of a round, each made by `tff.learning.optimizers`.

    Attributes:
        server: moves the global weights at the server, once per round.
        client: moves a client's copy of the global weights, once per batch; it starts afresh in
            each round.
        local: moves a client's local weights, once per batch.

    Raises:
        TypeError: if one is not an optimizer of TFF's.
    """

    server: Optimizer = attrs.field()
    client: Optimizer = attrs.field()
    local: Optimizer = attrs.field()

    def __attrs_post_init__(self):
        """Checks the kinds."""
        for kind in ("server", "client", "local"):
            name, optimizer = f"{kind}_optimizer", getattr(self, kind)
            if not isinstance(optimizer, Optimizer):
                raise TypeError(
                    f"{name} must be an optimizer of tff.learning.optimizers, such as "
                    f"build_sgdm(0.1), not {type(optimizer).__name__}."
                )


def sgd(server: float, client: float, local: float) -> Optimizers:
    """Returns plain SGD at the server, for the global and for the local weights."""
    return Optimizers(*map(tff.learning.optimizers.build_sgdm, (server, client, local)))


def specs(weights) -> tuple[tf.TensorSpec, ...]:
    """Returns the shapes and dtypes of variables or tensors."""
    return tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in weights)


def initial_state(optimizer: Optimizer, weights):
    """Returns the first state of an optimizer of these weights, in tensors."""
    return tf.nest.map_structure(tf.convert_to_tensor, optimizer.initialize(specs(weights)))


def with_own_rates(optimizer: Optimizer, state, weights, rate: float | None = None):
    """Returns an optimizer's state with the optimizer's own rates: rates belong to the process.

    Args:
        optimizer: the optimizer.
        state: its state.
        weights: what it moves.
        rate: a learning rate in place of the optimizer's own.
    """
    rates = optimizer.get_hparams(optimizer.initialize(specs(weights)))
    if rate is not None:
        rates["learning_rate"] = np.float32(rate)
    return optimizer.set_hparams(state, tf.nest.map_structure(tf.convert_to_tensor, rates))


def plain_rate(name: str, optimizer: Optimizer) -> float:
    """Returns the learning rate of plain SGD.

    Raises:
        ValueError: if the optimizer is another one, with `name` in the message.
    """
    plain = tff.learning.optimizers.build_sgdm(0.1)
    state = optimizer.initialize((tf.TensorSpec([2]),))
    rate = state.get("learning_rate") if isinstance(state, dict) else None
    if type(optimizer) is not type(plain) or len(state) != 1 or rate is None:
        raise ValueError(
            f"{name} is not plain SGD, and the packed engine runs build_sgdm(rate) without "
            "momentum only; use the per-client or the vectorized engine."
        )
    return float(rate)


def step_in_place(optimizer: Optimizer, state, variables, gradients):
    """Moves variables by one step and returns the optimizer's new state.

    Where a zero gradient leaves a row as it is, as in plain SGD, only the rows that a sparse
    gradient names are read and written.

    Args:
        optimizer: the optimizer.
        state: its state.
        variables: a list of `tf.Variable`.
        gradients: one for each, dense or `tf.IndexedSlices`; `None` leaves its variable as it is.
    """
    row_wise = _leaves_untouched_rows(optimizer)
    rows, weights, dense = [], [], []
    for variable, gradient in zip(variables, gradients, strict=True):
        if row_wise and isinstance(gradient, tf.IndexedSlices):
            touched, index = tf.unique(gradient.indices)
            rows.append(touched)
            weights.append(tf.gather(variable, touched))
            summed = tf.math.unsorted_segment_sum(gradient.values, index, tf.size(touched))
            dense.append(summed)
        else:
            rows.append(None)
            weights.append(variable.read_value())
            zero = gradient is None
            dense.append(tf.zeros_like(variable) if zero else tf.convert_to_tensor(gradient))
    state, moved = optimizer.next(state, tuple(weights), tuple(dense))
    for variable, gradient, touched, weight in zip(variables, gradients, rows, moved, strict=True):
        if touched is not None:
            variable.scatter_update(tf.IndexedSlices(weight, touched))
        elif gradient is not None:
            variable.assign(weight)
    return state


def _leaves_untouched_rows(optimizer: Optimizer) -> bool:
    """Tells whether rows with a zero gradient can be left out of a step, by trying it."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight, gradient = tf.ones([2, 1]), tf.zeros([2, 1])
        state = optimizer.initialize(specs([weight]))
        if any(tf.convert_to_tensor(part).shape.rank for part in tf.nest.flatten(state)):
            return False  # it keeps a table: momentum, Adam and their kind
        _, (moved,) = optimizer.next(state, (weight,), (gradient,))
        return bool(session.run(tf.reduce_all(tf.equal(moved, weight))))
