"""Steps of TFF's optimizers on variables and tensors, dense or only for the rows in use.

Knows nothing of methods, engines and stores.
"""

from collections.abc import Callable

import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from ..checks import finite_number, positive_number, whole_number

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
        ValueError: if one cannot take a step, changes the kind of its state, or has a rate that
            is not finite.
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
            _refuse_unfit(name, optimizer)


def _refuse_unfit(name: str, optimizer: Optimizer) -> None:
    """Refuses an optimizer that does not keep its kind of state from step to step, by trying it.

    A round is a graph, and what it returns is what the next one takes.
    """
    with tf.Graph().as_default():
        weights = (tf.ones([2, 3]), tf.ones([2]))
        try:
            first = initial_state(optimizer, weights)
            own = with_own_rates(optimizer, first, weights)
            after = tf.nest.map_structure(
                tf.convert_to_tensor, optimizer.next(own, weights, weights)[0]
            )
            tf.nest.assert_same_structure(first, after)
            kinds = [[(p.dtype, p.shape) for p in tf.nest.flatten(s)] for s in (first, after)]
            cause, fits = None, kinds[0] == kinds[1]
        except Exception as error:
            cause, fits = error, False
        rates = optimizer.get_hparams(optimizer.initialize(specs(weights))) if fits else {}
    if not fits:
        raise ValueError(
            f"{name} is {type(optimizer).__name__.strip('_')}, whose state is of another kind "
            "after a step, and rounds need one kind; use another one of tff.learning.optimizers, "
            "such as build_sgdm(0.1) or build_adam(0.01)."
        ) from cause
    for rate, value in rates.items():
        if isinstance(value, float | np.floating):
            finite_number(f"The {rate} of {name}", value)


def sgd(server: float | Callable, client: float, local: float) -> Optimizers:
    """Returns plain SGD at the server, for the global and for the local weights.

    Args:
        server: the learning rate, or a function from the number of the round to it, such as
            `falling_to_zero` returns. A resumed run keeps the schedule that it began with.
        client: the learning rate of the global weights, at a client.
        local: the learning rate of a client's local weights.

    Raises:
        TypeError: if a rate is no number.
        ValueError: if it is not finite or negative.
    """

    def build(name, rate):
        if callable(rate):
            plain = tff.learning.optimizers.build_sgdm(1.0)
            return tff.learning.optimizers.schedule_learning_rate(plain, rate)
        return tff.learning.optimizers.build_sgdm(finite_number(f"The {name} rate", rate, 0))

    rates = {"server": server, "client": client, "local": local}
    return Optimizers(**{name: build(name, rate) for name, rate in rates.items()})


def falling_to_zero(rate: float, rounds: int) -> Callable:
    """Returns a learning rate that falls in a line from `rate` to zero over some rounds.

    Args:
        rate: where it starts.
        rounds: after how many rounds it is zero, and stays so.

    Returns:
        A function from the number of rounds done, an int tensor, to a float32 scalar.
    """
    rate, rounds = positive_number("rate", rate), whole_number("rounds", rounds, 1)

    def at(round_num):
        left = 1.0 - tf.cast(round_num, tf.float32) / np.float32(rounds)
        return np.float32(rate) * tf.maximum(left, 0.0)

    return at


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

    Raises:
        ValueError: if the optimizer has no learning rate that can be replaced, as with a schedule.
    """
    rates = optimizer.get_hparams(optimizer.initialize(specs(weights)))
    if rate is not None:
        if "learning_rate" not in rates:
            raise ValueError(
                f"The rate {rate} cannot take the place of the local optimizer's own, which "
                "follows a schedule; leave the rate out, or use an optimizer without schedule."
            )
        rates["learning_rate"] = np.float32(rate)
    return optimizer.set_hparams(state, tf.nest.map_structure(tf.convert_to_tensor, rates))


def plain_rate(
    name: str,
    optimizer: Optimizer,
    why: str = "the packed engine runs build_sgdm(rate) without momentum only",
    instead: str = "use the per-client or the vectorized engine",
) -> float:
    """Returns the learning rate of plain SGD.

    Args:
        name: of the optimizer, for the message.
        optimizer: the optimizer.
        why: why no other one will do, for the message.
        instead: what to do then.

    Raises:
        ValueError: if the optimizer is another one.
    """
    if not is_plain(optimizer):
        raise ValueError(f"{name} is not plain SGD, and {why}; {instead}.")
    return float(optimizer.initialize((tf.TensorSpec([2]),))["learning_rate"])


def is_plain(optimizer: Optimizer) -> bool:
    """Tells whether an optimizer is SGD without momentum and schedule."""
    if type(optimizer) is not type(tff.learning.optimizers.build_sgdm(0.1)):
        return False
    return list(optimizer.initialize((tf.TensorSpec([2]),))) == ["learning_rate"]


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


class SomeWeights(Optimizer):
    """Moves the weights that are trained by an optimizer, and the others by their change alone.

    The others are statistics, counters and frozen weights. Their gradient is zero at a client; at
    the server it is their mean change with the other sign, so statistics end at the mean of the
    clients' whatever the optimizer is. Counters are rounded.

    Args:
        inner: the optimizer.
        trained: for each weight whether it is trained; what comes after these is.
    """

    def __init__(self, inner: Optimizer, trained: tuple[bool, ...]):
        """See the class."""
        self.inner, self._trained = inner, trained

    def _split(self, weights) -> tuple[tuple, list[bool]]:
        trained = [*self._trained, *[True] * len(weights)][: len(weights)]
        return tuple(w for w, t in zip(weights, trained, strict=True) if t), trained

    def initialize(self, specs):
        """Returns the state of the optimizer of the trained weights."""
        return self.inner.initialize(self._split(tuple(specs))[0])

    def next(self, state, weights, gradients):
        """Takes a step; gradients may be of a wider type than their weights."""
        some, trained = self._split(weights)
        pull = self._split(gradients)[0]
        pull = tuple(tf.cast(g, w.dtype) for g, w in zip(pull, some, strict=True))
        state, moved = self.inner.next(state, some, pull)
        moved, after = iter(moved), []
        for weight, gradient, is_trained in zip(weights, gradients, trained, strict=True):
            whole = weight.dtype.is_integer and gradient.dtype.is_floating
            change = tf.cast(tf.round(gradient) if whole else gradient, weight.dtype)
            after.append(next(moved) if is_trained else weight - change)
        return state, tuple(after)

    def get_hparams(self, state):
        """Returns those of the optimizer."""
        return self.inner.get_hparams(state)

    def set_hparams(self, state, hparams):
        """Returns a state of the optimizer with other ones."""
        return self.inner.set_hparams(state, hparams)


def _leaves_untouched_rows(optimizer: Optimizer) -> bool:
    """Tells whether rows with a zero gradient can be left out of a step, by trying it."""
    optimizer = getattr(optimizer, "inner", optimizer)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight, gradient = tf.ones([2, 1]), tf.zeros([2, 1])
        state = optimizer.initialize(specs([weight]))
        if any(tf.convert_to_tensor(part).shape.rank for part in tf.nest.flatten(state)):
            return False  # it keeps a table: momentum, Adam and their kind
        _, (moved,) = optimizer.next(state, (weight,), (gradient,))
        return bool(session.run(tf.reduce_all(tf.equal(moved, weight))))
