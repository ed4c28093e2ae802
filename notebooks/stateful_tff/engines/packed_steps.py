"""The arithmetic of packed matrix factorization: the local steps of many clients side by side.

A batch of a client reads each of its item rows once in an epoch. So within an epoch all steps
read the rows that the epoch began with, and the rows move once, at its end. Knows nothing of
methods, stores and TFF's placements.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import numpy as np
import tensorflow as tf

from ..models import MatrixFactorization
from .packing import Shard


@attrs.frozen(eq=False)
class Rows:
    """Rows of items as the steps read them.

    Attributes:
        vectors: float32[R, K], item vectors, with a last column of ones where users have a bias.
        biases: float32[R], the items' biases; zeros in a model without.
    """

    vectors = attrs.field()
    biases = attrs.field()


def item_rows(weights, spec: MatrixFactorization) -> Rows:
    """Returns the model's global weights as rows."""
    if not spec.biases:
        return Rows(weights[0], tf.zeros([spec.num_items]))
    return Rows(tf.concat([weights[0], tf.ones_like(weights[1])], axis=1), weights[1][:, 0])


def user_rows(weights) -> tf.Tensor:
    """Returns the users' weights, each `[n, width]`, side by side: vectors, then the bias."""
    return tf.concat(weights, axis=1)


def separate(rows, spec: MatrixFactorization) -> list:
    """Takes vectors and biases apart again."""
    k = spec.num_factors
    return [rows[:, :k], rows[:, k:]] if spec.biases else [rows]


@attrs.frozen(eq=False)
class Batches:
    """What the steps of a shard have in common.

    Attributes:
        active: int32[steps], the clients in each step.
        owner: int32[m], each batch's client, in the order of the shard.
        before: int32[m], the row of the trail before each batch.
        last: int32[n], the row of the trail after each client's last batch.
        valid: float32[m, batch_size], a one for each real rating.
        share: float32[m, batch_size], one by the size of the batch for each real rating.
        num_clients: int32 scalar, n.
    """

    active = attrs.field()
    owner = attrs.field()
    before = attrs.field()
    last = attrs.field()
    valid = attrs.field()
    share = attrs.field()
    num_clients = attrs.field()


def batches_of(shard: Shard) -> Batches:
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
    return Batches(shard.active, owner, before, last, valid, share, clients)


def epoch(batches: Batches, rows: Rows, at, stars, users, user_rate, l2: float, move=None):
    """Takes the user steps of one epoch, with the item rows that the epoch began with.

    A step is `u <- (1 - 2 rate l2) u - 2 rate sum_j error_j q_j / size` for each client that has
    a batch, over the ratings j of the batch.

    Args:
        batches: made by `batches_of`.
        rows: the item rows.
        at: int32[m, batch_size], each rating's row.
        stars: float32[m, batch_size], the ratings without the model's constant.
        users: float32[n, K], vectors and biases.
        user_rate: of plain SGD; 0.0 freezes the users.
        l2: the model's penalty.
        move: `(vectors [c, batch_size, K], error / size, users, 1 / size) -> moved vectors`, for
            the ratings' own rows after the epoch; left out, none are kept.

    Returns:
        The trail of the users, float32[n + m, K]: as they came, then as each step left those who
        took part in it; the errors (prediction minus rating), float32[m, batch_size]; and the
        moved vectors, float32[m * batch_size, K], or `None`.
    """
    steps, width = tf.size(batches.active), users.shape[1]
    targets = stars - tf.gather(rows.biases, at)
    keep = np.float32(1 - 2 * user_rate * l2)
    per_step = [_split(part, batches.active) for part in (at, targets, batches.share)]

    def array(*element_shape):
        return tf.TensorArray(
            tf.float32, steps + 1, element_shape=[None, *element_shape], infer_shape=False
        )

    def step(t, users, trail, errors, moved):
        here, target, share = (part.read(t) for part in per_step)
        users = users[: tf.shape(here)[0]]
        seen = tf.gather(rows.vectors, here)
        error = tf.linalg.matvec(seen, users) - target
        pull = error * share
        if move is not None:
            moved = moved.write(t, move(seen, pull, users, share))
        if user_rate:
            gradient = tf.linalg.matvec(seen, pull, transpose_a=True)
            users = keep * users - np.float32(2 * user_rate) * gradient
        return t + 1, users, trail.write(t + 1, users), errors.write(t, error), moved

    size = batches.share.shape[1]
    start = (
        0, users, array(width).write(0, users), array(size).write(steps, targets[:0]),
        array(size, width).write(steps, tf.zeros([0, tf.shape(at)[1], width])),
    )  # fmt: skip
    *_, trail, errors, moved = tf.while_loop(
        lambda t, *_: t < steps,
        step,
        start,
        parallel_iterations=1,  # each step waits for the one before in any case
        shape_invariants=(
            tf.TensorShape([]), tf.TensorShape([None, width]), *[tf.TensorShape(None)] * 3
        ),
    )  # fmt: skip
    moved = tf.reshape(moved.concat(), [-1, width]) if move is not None else None
    return trail.concat(), errors.concat(), moved


def _split(part, active) -> tf.TensorArray:
    """Returns the batches of each step, to be read in it."""
    array = tf.TensorArray(
        part.dtype, tf.size(active), element_shape=[None, *part.shape[1:]], infer_shape=False
    )
    return array.split(part, active)


@attrs.frozen(eq=False)
class Pass:
    """What the local steps on one shard result in.

    Attributes:
        users: float32[n, K], vectors and biases, in the order of the states.
        weighted_delta: the clients' weighted changes of the global weights, summed, a list; or
            `None` where the items are frozen.
        metrics: the model's unfinalized metrics, summed.
        weights: float32[n], each client's number of examples, in the order of the shard.
        batches: the `Batches`.
    """

    users = attrs.field()
    weighted_delta = attrs.field()
    metrics = attrs.field()
    weights = attrs.field()
    batches = attrs.field()


def local_steps(shard: Shard, weights, users, spec, item_rate, user_rate, epochs: int) -> Pass:
    """Takes the local steps of all clients of a shard; a rate of `None` freezes its group.

    Args:
        shard: the `Shard`.
        weights: the global weights, a list.
        users: float32[n, K], vectors and biases in the order of the states.
        spec: the `MatrixFactorization`.
        item_rate: of plain SGD on the items, or `None`.
        user_rate: of plain SGD on the users, or `None`.
        epochs: passes over the ratings, the first axis of the shard's.
    """
    batches, items = batches_of(shard), item_rows(weights, spec)
    own_rows = item_rate is not None and epochs > 1
    move = None
    if own_rows:
        column_rates = np.full(users.shape[1], 2 * item_rate, np.float32)
        column_rates[spec.num_factors :] = 0.0  # the column of ones does not move

        def move(seen, pull, users, share):
            change = (
                pull[:, :, None] * users[:, None] + np.float32(spec.l2) * share[:, :, None] * seen
            )
            return seen - column_rates * change

    in_order, rows, at, totals = tf.gather(users, shard.member), items, shard.items[0], None
    stars = tf.gather(shard.levels - np.float32(spec.mean_rating), tf.cast(shard.codes, tf.int32))
    client_weights = epochs * tf.math.unsorted_segment_sum(
        tf.cast(shard.sizes, tf.float32), batches.owner, batches.num_clients
    )
    for number in range(epochs):
        trail, errors, moved = epoch(
            batches, rows, at, stars[number], in_order, user_rate or 0.0, spec.l2, move
        )
        totals = _added(totals, _metric_sums(batches, rows, at, trail, errors, spec))
        in_order = tf.gather(trail, batches.last)
        if own_rows:
            rows = Rows(moved, _moved_biases(batches, rows, at, errors, item_rate, spec))
        if number + 1 < epochs:
            at = _rows_of_slots(shard, batches, number) if own_rows else shard.items[number + 1]
    if item_rate is None:
        delta = None
    elif epochs == 1:
        delta = _deltas(batches, items, at, trail, errors, client_weights, item_rate, spec)
    else:
        delta = _deltas_of_rows(batches, items, shard.items[-1], rows, client_weights, spec)
    users = tf.tensor_scatter_nd_update(users, shard.member[:, None], in_order)
    return Pass(users, delta, totals, client_weights, batches)


def _rows_of_slots(shard: Shard, batches: Batches, number: int):
    """Returns where the next epoch finds its ratings' rows among those of epoch `number`."""
    real = tf.where(tf.reshape(batches.valid, [-1]) > 0)
    slots = tf.gather(tf.reshape(shard.slots[number], [-1]), real[:, 0])
    rows = tf.scatter_nd(slots[:, None], tf.cast(real[:, 0], tf.int32), [tf.size(slots)])
    return tf.gather(rows, shard.slots[number + 1])


def _moved_biases(batches: Batches, rows: Rows, at, errors, rate: float, spec):
    """Returns each rating's own item bias after an epoch, float32[m * batch_size]."""
    biases = tf.gather(rows.biases, at)
    moved = biases - np.float32(2 * rate) * batches.share * (errors + np.float32(spec.l2) * biases)
    return tf.reshape(moved if spec.biases else biases, [-1])


def _sums_per_item(item, weights, spec):
    """Returns float32[num_items]: the sum of the weights of each item's ratings."""
    return tf.raw_ops.Bincount(arr=item, size=spec.num_items, weights=weights)


def _weighted_rows(rows, columns, weights, num_rows, table):
    """Returns float32[num_rows, K]: for each row the weighted sum of the table's `columns`."""
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=tf.stack([rows, columns], axis=1),
        a_values=weights,
        a_shape=tf.cast(tf.stack([num_rows, tf.shape(table)[0]]), tf.int64),
        b=table,
    )


def _deltas(batches: Batches, items: Rows, at, trail, errors, client_weights, rate, spec) -> list:
    """Returns the weighted sums of the clients' changes of the items after a single epoch."""
    item, users = tf.reshape(at, [-1]), tf.repeat(batches.before, tf.shape(at)[1])
    share = batches.share * tf.gather(client_weights, batches.owner)[:, None]
    share, pull = tf.reshape(share, [-1]), tf.reshape(share * errors, [-1])
    often = np.float32(spec.l2) * _sums_per_item(item, share, spec)
    vectors = (
        _weighted_rows(item, users, pull, spec.num_items, trail) + often[:, None] * items.vectors
    )
    factor = np.float32(-2 * rate)
    if not spec.biases:
        return [factor * vectors]
    biases = _sums_per_item(item, pull, spec) + often * items.biases
    return [factor * vectors[:, :-1], factor * biases[:, None]]


def _deltas_of_rows(batches: Batches, items: Rows, last_items, rows: Rows, client_weights, spec):
    """Returns the weighted sums of the clients' changes of the items from their own rows."""
    item = tf.reshape(last_items, [-1])
    weight = tf.reshape(batches.valid * tf.gather(client_weights, batches.owner)[:, None], [-1])
    often = _sums_per_item(item, weight, spec)
    total = _weighted_rows(item, tf.range(tf.size(item)), weight, spec.num_items, rows.vectors)
    vectors = total - often[:, None] * items.vectors
    if not spec.biases:
        return [vectors]
    biases = _sums_per_item(item, weight * rows.biases, spec) - often * items.biases
    return [vectors[:, :-1], biases[:, None]]


def _metric_sums(batches: Batches, rows: Rows, at, trail, errors, spec) -> OrderedDict:
    """Returns the unfinalized metrics of `models.frame`, summed over an epoch of a shard."""
    count = tf.math.count_nonzero(batches.valid)
    squared = tf.reduce_sum(batches.valid * errors**2)
    close = tf.math.count_nonzero((tf.abs(errors) <= 0.5) & (batches.valid > 0))
    loss = squared
    if spec.l2:
        lengths = tf.reduce_sum(rows.vectors**2, axis=1) - float(spec.biases) + rows.biases**2
        of_users = tf.gather(tf.reduce_sum(trail**2, axis=1), batches.before)[:, None]
        squares = tf.reduce_sum(batches.valid * (tf.gather(lengths, at) + of_users))
        loss += np.float32(spec.l2) * squares
    return OrderedDict(
        num_examples=[count], loss=[loss, count], rmse=[squared, count], accuracy=[close, count]
    )


def _added(totals, sums):
    """Returns two structures of sums, added up."""
    return sums if totals is None else tf.nest.map_structure(tf.add, totals, sums)
