"""The arithmetic of packed matrix factorization: the local steps of many clients side by side.

A batch of a client reads each of its item rows once in an epoch. So within an epoch all steps
read the rows that the epoch began with, and the rows move once at its end. Knows nothing of
methods, stores and TFF's placements.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import numpy as np
import tensorflow as tf

from ..models import MatrixFactorization
from .packing import Shard


def join(weights, side: str):
    """Puts vectors and biases side by side: items as [q, b, 1], users as [p, 1, a]."""
    if len(weights) == 1:
        return weights[0]
    vectors, bias = weights
    one = tf.ones_like(bias)
    return tf.concat([vectors, bias, one] if side == "items" else [vectors, one, bias], axis=1)


def separate(joined, side: str, spec: MatrixFactorization) -> list:
    """Takes vectors and biases apart again."""
    if not spec.biases:
        return [joined]
    k = spec.num_factors
    bias = joined[:, k : k + 1] if side == "items" else joined[:, k + 1 :]
    return [joined[:, :k], bias]


def rates(rate: float, side: str, spec: MatrixFactorization) -> np.ndarray:
    """Returns the rate of each column; the column of ones does not move."""
    columns = np.full(spec.num_factors + 2 * spec.biases, rate, np.float32)
    if spec.biases:
        columns[-1 if side == "items" else -2] = 0.0
    return columns


@attrs.frozen(eq=False)
class Batches:
    """What the steps of a shard have in common.

    Attributes:
        spec: the model.
        rates: the learning rates of the columns of items and of users, float32[K] each.
        active: int32[steps], the clients in each step.
        owner: int32[m], each batch's client, in the order of the shard.
        before: int32[m], the row of the trail before each batch.
        last: int32[n], the row of the trail after each client's last batch.
        valid: float32[m, batch_size], a one for each real rating.
        share: float32[m, batch_size], one by the size of the batch for each real rating.
        num_clients: int32 scalar, n.
    """

    spec = attrs.field()
    rates = attrs.field()
    active = attrs.field()
    owner = attrs.field()
    before = attrs.field()
    last = attrs.field()
    valid = attrs.field()
    share = attrs.field()
    num_clients = attrs.field()


def batches_of(shard: Shard, spec: MatrixFactorization, column_rates) -> Batches:
    """Returns what the steps of a shard have in common."""
    clients, batch_size = tf.size(shard.index), tf.shape(shard.items)[2]
    begins = tf.cumsum(shard.active, exclusive=True)
    owner = tf.range(tf.size(shard.sizes)) - tf.repeat(begins, shard.active)
    rows = tf.concat([[0], clients + begins], axis=0)  # the trail's first row in each step
    before = tf.repeat(rows[:-1], shard.active) + owner
    number = tf.math.bincount(owner, minlength=clients, maxlength=clients)
    valid = tf.sequence_mask(shard.sizes, batch_size, tf.float32)
    share = valid / tf.cast(tf.maximum(shard.sizes, 1), tf.float32)[:, None]
    last = tf.gather(rows, number) + tf.range(clients)
    return Batches(
        spec, column_rates, shard.active, owner, before, last, valid, share, clients
    )  # fmt: skip


def weighted_rows(rows, columns, weights, num_rows, table):
    """Returns float32[num_rows, K]: for each row the weighted sum of the table's rows `columns`."""
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=tf.stack([rows, columns], axis=1),
        a_values=weights,
        a_shape=tf.cast(tf.stack([num_rows, tf.shape(table)[0]]), tf.int64),
        b=table,
    )


def epoch(batches: Batches, table, rows, stars, users, keep_rows: bool):
    """Takes the user steps of one epoch, with the item rows that the epoch began with.

    Args:
        batches: made by `batches_of`.
        table: float32[R, K], joined item rows.
        rows: int32[m, batch_size], the row of the table for each rating.
        stars: float32[m, batch_size], the ratings.
        users: float32[n, K], joined user rows.
        keep_rows: whether to return each rating's own moved row.

    Returns:
        The trail of the users, float32[n + m, K]: as they came, then as each step left those who
        took part in it; the errors (prediction minus rating), float32[m * batch_size]; and the
        moved rows, float32[m * batch_size, K], or no rows.
    """
    spec, (item_rates, user_rates) = batches.spec, batches.rates
    steps, size, width = tf.size(batches.active), tf.shape(rows)[1], users.shape[1]
    rows, stars, share = (tf.reshape(part, [-1]) for part in (rows, stars, batches.share))
    owner = tf.repeat(batches.owner, size)
    keep_user = 1 - 2 * user_rates * np.float32(spec.l2)

    def arrays(*element_shape):
        return tf.TensorArray(
            tf.float32, steps + 1, element_shape=[None, *element_shape], infer_shape=False
        )

    def step(t, start, users, trail, errors, moved):
        count = batches.active[t]
        part = slice(start * size, (start + count) * size)
        users = users[:count]
        seen = tf.reshape(tf.gather(table, rows[part]), [-1, size, width])
        predicted = tf.reduce_sum(seen * users[:, None], axis=2) + np.float32(spec.mean_rating)
        error = tf.reshape(predicted, [-1]) - stars[part]
        pull = error * share[part]
        gradient = weighted_rows(owner[part], rows[part], pull, count, table)
        if keep_rows:
            change = tf.reshape(pull, [-1, size, 1]) * users[:, None]
            change += np.float32(spec.l2) * tf.reshape(share[part], [-1, size, 1]) * seen
            moved = moved.write(t, tf.reshape(seen - 2 * item_rates * change, [-1, width]))
        users = keep_user * users - 2 * user_rates * gradient
        return t + 1, start + count, users, trail.write(t + 1, users), errors.write(t, error), moved

    start = (0, 0, users, arrays(width).write(0, users), arrays().write(steps, tf.zeros([0])),
             arrays(width).write(steps, tf.zeros([0, width])))  # fmt: skip
    *_, trail, errors, moved = tf.while_loop(
        lambda t, *_: t < steps,
        step,
        start,
        parallel_iterations=1,  # each step waits for the one before in any case
        shape_invariants=(
            tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None, width]),
            *[tf.TensorShape(None)] * 3,
        ),
    )  # fmt: skip
    return trail.concat(), errors.concat(), moved.concat() if keep_rows else table[:0]


@attrs.frozen(eq=False)
class Pass:
    """What the local steps on one shard result in.

    Attributes:
        users: float32[n, K], joined user rows, in the order of the states.
        item_sums: float32[num_items, K], the clients' weighted changes of the items, summed; or
            `None` where the items are frozen.
        metrics: the model's unfinalized metrics, summed.
        weights: float32[n], each client's number of examples, in the order of the shard.
        batches: the `Batches`.
    """

    users = attrs.field()
    item_sums = attrs.field()
    metrics = attrs.field()
    weights = attrs.field()
    batches = attrs.field()


def local_steps(shard: Shard, items, users, spec, item_rate, user_rate, epochs: int) -> Pass:
    """Takes the local steps of all clients of a shard; a rate of `None` freezes its group.

    Args:
        shard: the `Shard`.
        items: float32[num_items, K], joined item rows.
        users: float32[n, K], joined user rows in the order of the states.
        spec: the `MatrixFactorization`.
        item_rate: of plain SGD on the items, or `None`.
        user_rate: of plain SGD on the users, or `None`.
        epochs: passes over the ratings, the first axis of the shard's.
    """
    column_rates = rates(item_rate or 0.0, "items", spec), rates(user_rate or 0.0, "users", spec)
    batches = batches_of(shard, spec, column_rates)
    in_order = tf.gather(users, shard.member)
    frozen, num_epochs = item_rate is None, epochs
    stars = tf.gather(shard.levels, tf.cast(shard.codes, tf.int32))
    weights = num_epochs * tf.math.unsorted_segment_sum(
        tf.cast(shard.sizes, tf.float32), batches.owner, batches.num_clients
    )
    table, rows, totals = items, shard.items[0], None
    for number in range(num_epochs):
        keep_rows = not frozen and num_epochs > 1
        trail, errors, moved = epoch(batches, table, rows, stars[number], in_order, keep_rows)
        squares = _squares(batches, table, rows, trail)
        totals = _added(totals, _metric_sums(batches, errors, squares, shard.sizes))
        in_order = tf.gather(trail, batches.last)
        if number + 1 < num_epochs:
            table, rows = (items, shard.items[number + 1])
            if keep_rows:
                table, rows = moved, _rows_of_slots(shard, batches, number)
    if frozen:
        item_sums = None
    elif num_epochs == 1:
        item_sums = _item_sums(batches, items, rows, trail, errors, weights)
    else:
        item_sums = _moved_sums(batches, items, shard.items[-1], moved, weights)
    users = tf.tensor_scatter_nd_update(users, shard.member[:, None], in_order)
    return Pass(users, item_sums, totals, weights, batches)


def _rows_of_slots(shard: Shard, batches: Batches, number: int):
    """Returns where the next epoch finds its ratings' rows among those of epoch `number`."""
    real = tf.where(tf.reshape(batches.valid, [-1]) > 0)
    slots = tf.gather(tf.reshape(shard.slots[number], [-1]), real[:, 0])
    rows = tf.scatter_nd(slots[:, None], tf.cast(real[:, 0], tf.int32), [tf.size(slots)])
    return tf.gather(rows, shard.slots[number + 1])


def _squares(batches: Batches, table, rows, trail):
    """Returns the sum of squares of all rows that the ratings of an epoch use, ones left out."""
    if not batches.spec.l2:
        return tf.constant(0.0)
    valid = tf.reshape(batches.valid, [-1])
    often = tf.raw_ops.Bincount(
        arr=tf.reshape(rows, [-1]), size=tf.shape(table)[0], weights=valid
    )
    squares = tf.tensordot(often, tf.reduce_sum(table**2, axis=1), 1)
    of_users = tf.gather(tf.reduce_sum(trail**2, axis=1), batches.before)
    squares += tf.tensordot(tf.reduce_sum(batches.valid, axis=1), of_users, 1)
    return squares - 2.0 * batches.spec.biases * tf.reduce_sum(valid)


def _item_sums(batches: Batches, items, rows, trail, errors, weights):
    """Returns the weighted sum of the clients' item changes after a single epoch."""
    spec, size = batches.spec, tf.shape(rows)[1]
    item = tf.reshape(rows, [-1])
    pull = tf.reshape(batches.share * tf.gather(weights, batches.owner)[:, None], [-1])
    users = tf.repeat(batches.before, size)
    gradient = weighted_rows(item, users, pull * errors, spec.num_items, trail)
    of_item = tf.raw_ops.Bincount(arr=item, size=spec.num_items, weights=pull)
    gradient += np.float32(spec.l2) * of_item[:, None] * items
    return -2 * batches.rates[0] * gradient


def _moved_sums(batches: Batches, items, last_items, moved, weights):
    """Returns the weighted sum of the clients' item changes from their own moved rows."""
    item = tf.reshape(last_items, [-1])
    weight = tf.reshape(batches.valid * tf.gather(weights, batches.owner)[:, None], [-1])
    num_items = batches.spec.num_items
    total = weighted_rows(item, tf.range(tf.size(item)), weight, num_items, moved)
    return total - tf.raw_ops.Bincount(arr=item, size=num_items, weights=weight)[:, None] * items


def _metric_sums(batches: Batches, errors, squares, sizes) -> OrderedDict:
    """Returns the unfinalized metrics of `models.frame`, summed over an epoch of a shard."""
    valid = tf.reshape(batches.valid, [-1])
    count = tf.reduce_sum(tf.cast(sizes, tf.int64))
    squared = tf.reduce_sum(valid * errors**2)
    close = tf.math.count_nonzero((tf.abs(errors) <= 0.5) & (valid > 0))
    loss = squared + np.float32(batches.spec.l2) * squares
    return OrderedDict(
        num_examples=[count], loss=[loss, count], rmse=[squared, count], accuracy=[close, count]
    )


def _added(totals, sums):
    """Returns two structures of sums, added up."""
    return sums if totals is None else tf.nest.map_structure(tf.add, totals, sums)
