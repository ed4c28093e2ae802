"""The clipping of many clients' changes at once, each client's by its own norm, before any sum.

A client reads an item in one rating of an epoch, so each of its ratings changes a row of its own.
Knows nothing of methods but what a client may send, and nothing of stores.
"""

from __future__ import annotations

import attrs
import tensorflow as tf

from ..methods.private import Privacy, paid, shrinking
from .packing import BLOCK


@attrs.frozen(eq=False)
class Limits:
    """What bounds the changes of a shard's clients.

    Attributes:
        privacy: the `Privacy`.
        norm: of the round, a number or a float32 scalar.
        spent: float32[n], what each client has spent, in the order of the states; or `None`.
        users_are_sent: whether the users' own changes are sent, too.
    """

    privacy: Privacy = attrs.field()
    norm = attrs.field()
    spent = attrs.field()
    users_are_sent: bool = attrs.field()


@attrs.frozen(eq=False)
class Limited:
    """By how much changes are shortened; clients in the order of `Shard.member`.

    Attributes:
        rows: float32[s, 16, batch_size], the factor of each rating's row.
        clients: float32[blocks * 16], the factor of each client; 0 for one that cannot pay.
        within: float32[blocks * 16], 1/2 where nothing had to be shortened to `norm`, else -1/2.
        spent: float32[blocks * 16], after the round; or `None`.
    """

    rows = attrs.field()
    clients = attrs.field()
    within = attrs.field()
    spent = attrs.field()

    def of_clients(self, in_order) -> Limited:
        """Returns the same with the clients in the order that `in_order` brings them in."""
        spent = None if self.spent is None else in_order(self.spent)
        ordered = in_order(self.clients), in_order(self.within), spent
        return Limited(self.rows, *ordered)


def limited(limits: Limits, batches, change, users) -> Limited:
    """Returns the factors of changes, the same as `methods.private.clipped` of each client.

    Args:
        limits: the `Limits`.
        batches: `packed_steps.Batches`.
        change: float32[s, 16, batch_size, K], each rating's change of its row, zero in padding.
        users: float32[blocks * 16, K], the users' own changes.
    """
    squares = tf.reduce_sum(change**2, axis=3)
    rows = tf.ones_like(squares)
    if limits.privacy.row_norm is not None:
        rows = shrinking(squares, limits.privacy.row_norm)
    of_batches = tf.reduce_sum(squares * rows**2, axis=2)
    count = tf.size(batches.shard.last)
    square = tf.math.unsorted_segment_sum(of_batches, batches.shard.block, count)
    square = tf.reshape(square, [-1])
    if limits.users_are_sent:
        square += tf.reduce_sum(users**2, axis=1)
    factor, spent = shrinking(square, limits.norm), None
    if limits.spent is not None:
        before = tf.gather(limits.spent, batches.shard.member)
        pays, spent = paid(before, square * factor**2, limits.privacy)
        factor = tf.where(pays, factor, 0.0)
    within = tf.cast(square <= limits.norm**2, tf.float32) - 0.5
    return Limited(rows, factor, within, spent)


def changes(batches, items, at, done, rate, spec) -> tf.Tensor:
    """Returns each rating's change of its row after a single epoch; see `limited`.

    Args:
        batches: `packed_steps.Batches`.
        items: `packed_steps.Rows` that the epoch began with.
        at: int32[s, 16, batch_size], each rating's row.
        done: the `packed_steps.Epoch`.
        rate: of plain SGD on the items.
        spec: the `MatrixFactorization`.
    """
    width = spec.num_factors
    users = tf.gather(done.trail, batches.before)[:, :, None, :width]
    change = done.errors[..., None] * users + spec.l2 * tf.gather(items.vectors, at)[..., :width]
    if spec.biases:
        biases = done.errors + spec.l2 * tf.gather(items.biases, at)
        change = tf.concat([change, biases[..., None]], axis=3)
    return -2 * rate * batches.share[..., None] * change


def changes_of_rows(batches, items, at, rows, spec) -> tf.Tensor:
    """Returns each rating's change of its row from its own moved row; see `limited`.

    Args:
        batches: `packed_steps.Batches`.
        items: `packed_steps.Rows` before.
        at: int32[s, 16, batch_size], each rating's row of `items`.
        rows: `packed_steps.Rows`, one for each rating.
        spec: the `MatrixFactorization`.
    """
    change = rows.vectors - tf.gather(items.vectors, tf.reshape(at, [-1]))
    change = change[:, : spec.num_factors]
    if spec.biases:
        biases = rows.biases - tf.gather(items.biases, tf.reshape(at, [-1]))
        change = tf.concat([change, biases[:, None]], axis=1)
    shape = [-1, BLOCK, tf.shape(at)[2], spec.num_factors + spec.biases]
    return tf.reshape(change, shape) * batches.valid[..., None]
