"""User-level differential privacy for any method: each client's change is clipped, the sum noised.

What a client keeps stays exact, so the guarantee is *joint*: it holds for everything that the
others and the server see. Sources: McMahan et al. 2018, "Learning Differentially Private
Recurrent Language Models", algorithm 1, with a fixed denominator; Kairouz et al. 2021, "Practical
and Private (Deep) Learning Without Sampling or Shuffling", for the tree; Andrew et al. 2021,
"Differentially Private Learning with Adaptive Clipping", algorithm 1; Feldman and Zrnic 2021,
"Individual Privacy Accounting via a Renyi Filter", for the budget. The training metrics are
summed without noise: they are for the eyes of an experiment, and no part of what is released.
Knows nothing of engines and stores.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import tensorflow as tf

from ..checks import finite_number, left_out_or, positive_number, share, valid, whole_number
from ..state import BroadcastMessage, ClientOutput, ClientState
from .method import Method

_ROOM = 1 - 1e-6  # for rounding, so that no clipped norm is above its bound


@attrs.frozen
class Privacy:
    """How much a client may change a sum, and how much noise the sum gets.

    Attributes:
        norm: the largest L2 norm of all that a client sends in a round.
        noise_multiplier: the noise's standard deviation is this times `norm`; 0 for none.
        cohort_size: what a sum is divided by: the expected number of clients in a round, a
            public number.
        seed: decides the noise, with the round's number: a round that is run twice, after a
            crash, releases the same numbers twice. Who knows it can subtract the noise, so
            draw it by `secrets.randbits(62)` and show it to nobody where privacy is meant.
        row_norm: the largest norm of each row of the tables, before `norm`; left out, any.
        tree: adds up rounds in trees of so many rounds, each with noise for its nodes (DP-FTRL);
            a client may take part once in a tree. Left out, each round has its own noise.
        budget: what a client may spend in zCDP, kept in its state; left out, no ledger is kept.
            A round costs a client `sent^2 / (2 (noise_multiplier norm)^2)`, in a tree so much
            for each of its levels; who cannot pay sends nothing and goes on for themselves.
        quantile: adapts `norm`, from this start, to that share of the clients' norms, and keeps
            it as the last of the server's weights; left out, `norm` is fixed.
    """

    norm: float = attrs.field(validator=valid(positive_number))
    noise_multiplier: float = attrs.field(validator=valid(finite_number, 0))
    cohort_size: float = attrs.field(validator=valid(positive_number))
    seed: int = attrs.field(validator=valid(whole_number, 0, 2**62 - 1), repr=False)
    row_norm: float | None = attrs.field(
        default=None, validator=valid(left_out_or(positive_number)), kw_only=True
    )
    tree: int | None = attrs.field(
        default=None, validator=valid(left_out_or(whole_number), 1, 2**30), kw_only=True
    )
    budget: float | None = attrs.field(
        default=None, validator=valid(left_out_or(positive_number)), kw_only=True
    )
    quantile: float | None = attrs.field(
        default=None, validator=valid(left_out_or(share)), kw_only=True
    )

    def __attrs_post_init__(self):
        """Refuses what does not go together."""
        if self.budget is not None and not self.noise_multiplier:
            raise ValueError("A budget is spent on noisy sums; give a noise_multiplier above zero.")
        if self.quantile is not None and (self.budget is not None or self.tree is not None):
            raise ValueError(
                "An adaptive norm changes what a round costs, so it goes with neither a budget nor "
                "a tree; leave quantile out, or both of these."
            )

    @property
    def std(self) -> float:
        """The standard deviation of the noise on each number of a sum, for a fixed norm."""
        return self.norm * self.noise_multiplier


def shrinking(square, norm):
    """Returns the factor, at most 1, that brings a change of a squared norm within `norm`."""
    return tf.minimum(1.0, _ROOM * norm * tf.math.rsqrt(tf.maximum(square, 1e-30)))


def clipped(delta, norm, row_norm=None) -> tuple:
    """Brings a client's change within its bounds.

    Args:
        delta: a list of tensors.
        norm: the largest norm of all of them together.
        row_norm: the largest norm of each row of the tables, if there is one.

    Returns:
        The change, a list; its squared norm; and a float32 scalar, 1/2 where the norm was within
        the bound before, else -1/2.

    Raises:
        ValueError: if rows are to be clipped, and the parts are no tables of the same rows.
    """
    if row_norm is not None:
        refuse_other_tables(delta)
        squares = sum(tf.reduce_sum(d**2, axis=range(1, d.shape.rank)) for d in delta)
        factors = shrinking(squares, row_norm)
        delta = [d * tf.reshape(factors, [-1] + [1] * (d.shape.rank - 1)) for d in delta]
    square = sum(tf.reduce_sum(part**2) for part in delta)
    factor = shrinking(square, norm)
    within = tf.cast(square <= norm**2, tf.float32) - 0.5
    return [part * factor for part in delta], square * factor**2, within


def refuse_other_tables(weights) -> None:
    """Refuses to clip rows where the weights are no tables of the same rows.

    Raises:
        ValueError: naming the shapes.
    """
    if len({tuple(weight.shape)[:1] for weight in weights} | {()}) > 2 or not weights[0].shape.rank:
        raise ValueError(
            "Rows are clipped where all that a client sends are tables of the same rows; this "
            f"method sends shapes {[list(weight.shape) for weight in weights]}. Leave row_norm out."
        )


@attrs.frozen
class Clipped:
    """A client update whose change is clipped, of weight 1, and paid for from the client's budget.

    Attributes:
        client_update: the update itself.
        privacy: the `Privacy`.
    """

    client_update: Callable
    privacy: Privacy

    def __call__(self, trainer, data, client_state: ClientState, server_message) -> ClientOutput:
        """Returns the update's `ClientOutput`, of bounded norm."""
        privacy, ledger = self.privacy, client_state.optimizer_state
        message, norm = privacy_message(server_message, privacy)
        if privacy.budget is not None:
            client_state = attrs.evolve(client_state, optimizer_state=())
        output = self.client_update(trainer, data, client_state, message)
        delta, square, within = clipped(output.weights_delta, norm, privacy.row_norm)
        state = output.client_state
        if privacy.budget is not None:
            pays, spent = paid(ledger[0], square, privacy)
            delta = [tf.where(pays, part, tf.zeros_like(part)) for part in delta]
            state = attrs.evolve(state, optimizer_state=[spent])
        delta += [] if privacy.quantile is None else [within]
        weight = tf.ones_like(output.client_weight)
        return ClientOutput(delta, weight, output.metrics, state)


def privacy_message(message: BroadcastMessage, privacy: Privacy) -> tuple:
    """Returns the message as the method itself knows it, and the norm of the round."""
    if privacy.quantile is None:
        return message, privacy.norm
    *weights, norm = message.model_weights
    return BroadcastMessage(weights, message.round_num), norm


def paid(spent, square, privacy: Privacy) -> tuple:
    """Tells whether what is left pays for a change, and returns what is spent afterwards.

    Args:
        spent: float32, of one client or of several.
        square: the squared norm of what it would send.
        privacy: the `Privacy`.
    """
    levels = 1 if privacy.tree is None else privacy.tree.bit_length()
    after = spent + levels * square / (2 * privacy.std**2)
    pays = after <= privacy.budget
    return pays, tf.where(pays, after, spent)


@attrs.frozen
class Noised:
    """A server update from a noisy sum, divided by a public number of clients.

    Attributes:
        server_update: the update itself; it gets the noisy mean, and `cohort_size` as the total
            weight.
        privacy: the `Privacy`.
    """

    server_update: Callable
    privacy: Privacy

    def __call__(self, server_state, server_optimizer, weights_delta, total_weight):
        """Returns the server's state after the update."""
        privacy, delta = self.privacy, [part * total_weight for part in weights_delta]
        size, norm = privacy.cohort_size, privacy.norm
        if privacy.quantile is not None:
            *delta, within = delta
            norm = server_state.model_weights[-1]
        std = norm * noise_of_change(privacy)
        noises = [
            noise(privacy, server_state.round_num, number, part.shape)
            for number, part in enumerate(delta)
        ]
        mean = [(part + std * n) / size for part, n in zip(delta, noises, strict=True)]
        total = tf.constant(size, tf.float32)
        if privacy.quantile is None:
            return self.server_update(server_state, server_optimizer, mean, total)
        mean.append(tf.zeros_like(norm))
        after = self.server_update(server_state, server_optimizer, mean, total)
        if privacy.noise_multiplier:
            within += size / 20 * noise(privacy, server_state.round_num, len(delta), [])
        norm *= tf.exp(-0.2 * (within / size + 0.5 - privacy.quantile))
        return attrs.evolve(after, model_weights=[*after.model_weights[:-1], norm])


def noise_of_change(privacy: Privacy) -> float:
    """Returns the noise multiplier of the change itself.

    With an adaptive norm a part of the budget goes to counting who was within it: with the
    change's multiplier raised to `(z^-2 - (2 s)^-2)^-1/2`, where `s = cohort_size / 20` is the
    noise of the count, the two together are as private as one release with z.
    """
    z = privacy.noise_multiplier
    if privacy.quantile is None or not z:
        return z
    left = z**-2 - (privacy.cohort_size / 10) ** -2
    if left <= 0:
        raise ValueError(
            f"A cohort of {privacy.cohort_size} is too small to adapt the norm under a noise "
            f"multiplier of {z}: counting takes all there is. Take a cohort above {10 * z:.0f}, "
            "or a fixed norm."
        )
    return left**-0.5


def noise(privacy: Privacy, round_num, number: int, shape) -> tf.Tensor:
    """Returns the standard normal noise of a round, or the change of a tree's noise.

    In a tree of nodes with unit noise, the sum of the first t rounds has the noise of the nodes
    that the binary digits of t name, at most one for each digit. A round gets the difference of
    two such sums: what is added up over rounds has little noise. All of it follows from the seed,
    so no tree needs to be kept.

    Args:
        privacy: the `Privacy`.
        round_num: the number of rounds done before, an int32 scalar.
        number: of the part of the sum.
        shape: its shape.
    """
    if privacy.tree is None:
        return _normal(privacy.seed, [number, round_num], shape)
    turn, step = round_num // privacy.tree, round_num % privacy.tree
    total = tf.zeros(shape)
    for level in range(privacy.tree.bit_length()):
        for sign, first in ((1.0, step + 1), (-1.0, step)):
            node = tf.bitwise.right_shift(first, level)
            part = sign * tf.cast(node % 2, tf.float32)
            total += part * _normal(privacy.seed, [number, turn, level, node], shape)
    return total


def _normal(seed: int, stream: list, shape) -> tf.Tensor:
    """Returns the standard normal numbers of a stream, named by whole numbers."""
    key = tf.constant([seed % 2**31, seed // 2**31], tf.int32)
    for part in stream:
        key = tf.random.experimental.stateless_fold_in(key, part)
    return tf.random.stateless_normal(shape, key)


@attrs.frozen
class WithLedger:
    """The first state of a client that keeps a ledger of what it has spent, from zero.

    Attributes:
        client_state_fn: the method's own; its state keeps no optimizer's state.
    """

    client_state_fn: Callable

    def __call__(self, trainer) -> ClientState:
        """Returns the state; its `optimizer_state` is a list of one float32 scalar."""
        state = self.client_state_fn(trainer)
        if tf.nest.flatten(state.optimizer_state):
            raise ValueError(
                "The ledger is kept where this method keeps an optimizer's state; use a method "
                "that keeps local weights only, or leave the budget out."
            )
        return attrs.evolve(state, optimizer_state=[tf.constant(0.0)])


@attrs.frozen
class WithNorm:
    """The server's first weights and, after them, the norm that it adapts.

    Attributes:
        weights_fn: the method's own.
        norm: the first norm.
    """

    weights_fn: Callable
    norm: float

    def __call__(self, trainer) -> list:
        """Returns the weights."""
        return [*self.weights_fn(trainer), tf.constant(self.norm)]


@attrs.frozen
class MessageWithNorm:
    """A message that ends with the norm of the round.

    Attributes:
        message_fn: the method's own.
    """

    message_fn: Callable

    def __call__(self, server_state) -> BroadcastMessage:
        """Returns the message."""
        *weights, norm = server_state.model_weights
        message = self.message_fn(attrs.evolve(server_state, model_weights=weights))
        return BroadcastMessage([*message.model_weights, norm], message.round_num)


def private(method: Method, privacy: Privacy) -> Method:
    """Returns a method whose sums over clients are differentially private, by users.

    Every client counts the same. What a client keeps is its own, trained without noise.

    Args:
        method: any method; what it sends are floating-point numbers.
        privacy: bounds, noise and budget.
    """
    functions = dict(
        name=f"private {method.name}",
        client_update=Clipped(method.client_update, privacy),
        server_update=Noised(method.server_update, privacy),
    )
    if privacy.budget is not None:
        functions["client_state_fn"] = WithLedger(method.client_state_fn)
    if privacy.quantile is not None:
        noise_of_change(privacy)
        message_fn = MessageWithNorm(method.build_server_broadcast_message)
        functions["server_weights_fn"] = WithNorm(method.server_weights_fn, privacy.norm)
        functions["build_server_broadcast_message"] = message_fn
    return attrs.evolve(method, **functions)


def without_privacy(method: Method) -> tuple[Method, Privacy | None]:
    """Returns the method inside of a private one, and its `Privacy`; for others `None`."""
    update = method.client_update
    if not isinstance(update, Clipped):
        return method, None
    inner = attrs.evolve(method, client_update=update.client_update)
    return inner, update.privacy
