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
from .compiled_once import compiled_once
from .packed_clip import changes, changes_of_rows, limited
from .packed_solve import solved_users
from .packing import BLOCK, Shard
from .tensor_lists import new_list, put, stacked


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
        shard: the `Shard`.
        valid: float32[s, 16, batch_size], a one for each real rating.
        share: float32[s, 16, batch_size], one by the size of the batch for each real rating.
        before: int32[s, 16], the row of the trail before each batch.
        num_examples: float32[blocks * 16], each client's ratings, in the order of `member`.
    """

    shard = attrs.field()
    valid = attrs.field()
    share = attrs.field()
    before = attrs.field()
    num_examples = attrs.field()


def batches_of(shard: Shard) -> Batches:
    """Returns what the steps of a shard have in common."""
    valid = tf.sequence_mask(shard.sizes, tf.shape(shard.items)[3], tf.float32)
    share = valid / tf.cast(tf.maximum(shard.sizes, 1), tf.float32)[:, :, None]
    steps, places = tf.range(tf.size(shard.block))[:, None], tf.range(BLOCK)[None]
    first = tf.concat([[True], tf.not_equal(shard.block[1:], shard.block[:-1])], axis=0)[:, None]
    start = shard.block[:, None] * BLOCK + places
    before = tf.where(first, start, tf.size(shard.member) + (steps - 1) * BLOCK + places)
    num_examples = tf.math.unsorted_segment_sum(
        tf.cast(shard.sizes, tf.float32), shard.block, tf.size(shard.last)
    )
    return Batches(shard, valid, share, before, tf.reshape(num_examples, [-1]))


@attrs.frozen(eq=False)
class Epoch:
    """What the steps of an epoch result in.

    Attributes:
        users: float32[blocks * 16, K], the users afterwards.
        trail: float32[blocks * 16 + s * 16, K]: the users before, then as each step left them.
        errors: float32[s, 16, batch_size], prediction minus rating.
        moved: float32[s * 16 * batch_size, K], the ratings' own moved vectors, or `None`.
    """

    users = attrs.field()
    trail = attrs.field()
    errors = attrs.field()
    moved = attrs.field()


@compiled_once
def steps_function(width: int, users_move: bool, rows_are_kept: bool):
    """Returns the compiled user steps of an epoch, and the types of their arguments.

    Args:
        width: the length K of the vectors.
        users_move: whether the users take steps, or are frozen.
        rows_are_kept: whether each rating's moved vector is returned, too.
    """
    ratings = [None, BLOCK, None]

    def steps(vectors, at, targets, share, block, num_steps, users, keep, rate, l2, item_rates):
        length, size = tf.shape(at)[0], tf.shape(at)[2]
        shapes = [(BLOCK, width), (BLOCK, size)] + [(BLOCK, size, width)] * rows_are_kept
        blocks = tf.reshape(users, [-1, BLOCK, width])
        first = tf.concat([[True], tf.not_equal(block[1:], block[:-1])], axis=0)

        def step(t, users, lists):
            users = tf.where(first[t], tf.gather(blocks, tf.gather(block, t)), users)
            seen, mine = tf.gather(vectors, at[t]), share[t]
            error = tf.linalg.matvec(seen, users) - targets[t]
            pull = error * mine
            results = [users, error]
            if rows_are_kept:
                change = pull[:, :, None] * users[:, None] + l2 * mine[:, :, None] * seen
                results.append(seen - item_rates * change)
            if users_move:
                gradient = tf.linalg.matvec(seen, pull, transpose_a=True)
                moved = keep * users - rate * gradient
                users = results[0] = tf.where(mine[:, :1] > 0, moved, users)
            lists = [put(one, t, part) for one, part in zip(lists, results, strict=True)]
            return t + 1, users, lists

        *_, lists = tf.while_loop(
            lambda t, *_: t < num_steps,
            step,
            (0, blocks[0], [new_list(length, shape) for shape in shapes]),
        )
        return [stacked(one, length, shape) for one, shape in zip(lists, shapes, strict=True)]

    numbers = [tf.TensorSpec([])] * 3
    return steps, [
        tf.TensorSpec([None, width]),
        tf.TensorSpec(ratings, tf.int32),
        tf.TensorSpec(ratings),
        tf.TensorSpec(ratings),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([None, width]),
        *numbers,
        tf.TensorSpec([width]),
    ]


def epoch(batches: Batches, rows: Rows, at, stars, users, user_rate, l2: float, item_rates=None):
    """Takes the user steps of one epoch, with the item rows that the epoch began with.

    A step is `u <- (1 - 2 rate l2) u - 2 rate sum_j error_j q_j / size` for each client that has
    a batch, over the ratings j of the batch.

    Args:
        batches: made by `batches_of`.
        rows: the item rows.
        at: int32[s, 16, batch_size], each rating's row.
        stars: float32[s, 16, batch_size], the ratings without the model's constant.
        users: float32[blocks * 16, K], vectors and biases.
        user_rate: of plain SGD; 0.0 freezes the users.
        l2: the model's penalty.
        item_rates: float32[K], rates of the columns of the ratings' own vectors, which move at
            the end of the epoch; left out, none are kept.

    Returns:
        The `Epoch`.
    """
    shard, width = batches.shard, users.shape[1]
    steps = steps_function(width, bool(user_rate), item_rates is not None)
    rates = [1 - 2 * user_rate * l2, 2 * user_rate, l2]
    columns = np.zeros(width, np.float32) if item_rates is None else 2 * item_rates
    targets = stars - tf.gather(rows.biases, at)
    after, errors, *moved = steps(
        *(rows.vectors, at, targets, batches.share, shard.block, shard.steps, users),
        *map(tf.constant, np.float32(rates)),
        tf.constant(columns),
    )
    last = tf.gather(after, tf.maximum(shard.last, 0))
    blocks = tf.reshape(users, [-1, BLOCK, width])
    ended = tf.reshape(tf.where(shard.last[:, None, None] >= 0, last, blocks), [-1, width])
    trail = tf.concat([users, tf.reshape(after, [-1, width])], axis=0)
    return Epoch(ended, trail, errors, tf.reshape(moved[0], [-1, width]) if moved else None)


@attrs.frozen(eq=False)
class Pass:
    """What the local steps on one shard result in.

    Attributes:
        users: float32[n, K], vectors and biases, in the order of the states.
        weighted_delta: the clients' weighted changes of the global weights, summed, a list; or
            `None` where the items are frozen.
        metrics: the model's unfinalized metrics, summed.
        weights: float32[n], each client's weight, in the order of the states.
        batches: the `Batches`.
        limited: the `packed_clip.Limited`, in the order of the states, or `None`.
    """

    users = attrs.field()
    weighted_delta = attrs.field()
    metrics = attrs.field()
    weights = attrs.field()
    batches = attrs.field()
    limited = attrs.field()


def local_steps(
    shard: Shard,
    weights,
    users,
    spec,
    item_rate,
    user_rate,
    epochs: int,
    weigh,
    solve=False,
    toward=None,
    limits=None,
) -> Pass:
    """Takes the local steps of all clients of a shard; a rate of `None` freezes its group.

    Args:
        shard: the `Shard`.
        weights: the global weights, a list.
        users: float32[n, K], vectors and biases in the order of the states.
        spec: the `MatrixFactorization`.
        item_rate: of plain SGD on the items, or `None`.
        user_rate: of plain SGD on the users, or `None`.
        epochs: passes over the ratings, the first axis of the shard's.
        weigh: from the clients' numbers of examples, float32[n], to their weights.
        solve: set the users to the minimum of their losses, in place of steps.
        toward: float32[n, K], what is added to each user in every prediction and takes no step;
            for a single epoch.
        limits: bounds the clients' changes, `packed_clip.Limits`; then clients weigh the same.
    """
    batches, items = batches_of(shard), item_rows(weights, spec)
    own_rows = item_rate is not None and epochs > 1
    item_rates = None
    if own_rows:
        item_rates = np.full(users.shape[1], item_rate, np.float32)
        item_rates[spec.num_factors :] = 0.0  # the column of ones does not move
    trained, rows, at, totals = tf.gather(users, shard.member), items, shard.items[0], None
    stars = tf.gather(shard.levels - np.float32(spec.mean_rating), tf.cast(shard.codes, tf.int32))
    if toward is not None:
        toward = tf.gather(toward, shard.member)
        stars -= _stars_of(batches, rows, at, toward)[None]
    for number in range(epochs):
        done = epoch(
            batches, rows, at, stars[number], trained, user_rate or 0.0, spec.l2, item_rates
        )
        if toward is not None:
            added = tf.concat([toward, _at_each_step(batches, toward)], axis=0)
            done = attrs.evolve(done, trail=done.trail + added)
        totals = _added(totals, _metric_sums(batches, rows, at, done, spec))
        trained = done.users
        if own_rows:
            rows = Rows(done.moved, _moved_biases(batches, rows, at, done.errors, item_rate, spec))
        if number + 1 < epochs:
            at = _rows_of_slots(shard, batches, number) if own_rows else shard.items[number + 1]
    if solve:
        trained = solved_users(batches, rows, at, stars[0], trained, spec.l2)
    client_weights, bound = weigh(epochs * batches.num_examples), None
    if limits is not None:
        if own_rows:
            change = changes_of_rows(batches, items, shard.items[-1], rows, spec)
        else:
            change = changes(batches, items, at, done, item_rate or 0.0, spec)
        bound = limited(limits, batches, change, trained - tf.gather(users, shard.member))
        client_weights, of_rows = bound.clients, bound.rows
        kept = dict(share=batches.share * of_rows, valid=batches.valid * of_rows)
        batches = attrs.evolve(batches, **kept)
    if item_rate is None:
        delta = None
    elif epochs == 1:
        delta = _deltas(batches, items, at, done, client_weights, item_rate, spec)
    else:
        delta = _deltas_of_rows(batches, items, shard.items[-1], rows, client_weights, spec)
    real = shard.member[: tf.size(shard.index)]
    users = tf.tensor_scatter_nd_update(users, real[:, None], trained[: tf.size(real)])

    def in_order(part):
        return tf.scatter_nd(real[:, None], part[: tf.size(real)], tf.shape(real))

    bound = None if bound is None else bound.of_clients(in_order)
    return Pass(users, delta, totals, in_order(client_weights), batches, bound)


def _at_each_step(batches: Batches, users):
    """Returns the users of each step's block, float32[s * 16, K]."""
    blocks = tf.reshape(users, [-1, BLOCK, users.shape[1]])
    return tf.reshape(tf.gather(blocks, batches.shard.block), [-1, users.shape[1]])


def _stars_of(batches: Batches, rows: Rows, at, users):
    """Returns each rating's product of item and user, float32[s, 16, batch_size]."""
    seen = tf.gather(rows.vectors, at)
    of_steps = tf.reshape(_at_each_step(batches, users), [-1, BLOCK, users.shape[1]])
    return tf.linalg.matvec(seen, of_steps)


def _rows_of_slots(shard: Shard, batches: Batches, number: int):
    """Returns where the next epoch finds its ratings' rows among those of epoch `number`."""
    real = tf.where(tf.reshape(batches.valid, [-1]) > 0)
    slots = tf.gather(tf.reshape(shard.slots[number], [-1]), real[:, 0])
    length = tf.maximum(tf.size(slots), 1)  # what is no rating looks at row 0
    rows = tf.scatter_nd(slots[:, None], tf.cast(real[:, 0], tf.int32), [length])
    return tf.gather(rows, shard.slots[number + 1])


def _moved_biases(batches: Batches, rows: Rows, at, errors, rate: float, spec):
    """Returns each rating's own item bias after an epoch, float32[s * 16 * batch_size]."""
    biases = tf.gather(rows.biases, at)
    moved = biases - np.float32(2 * rate) * batches.share * (errors + np.float32(spec.l2) * biases)
    return tf.reshape(moved if spec.biases else biases, [-1])


def _sums_per_item(item, weights, spec):
    """Returns float32[num_items]: the sum of the weights of each item's ratings."""
    return tf.raw_ops.Bincount(arr=item, size=spec.num_items, weights=weights)


def weighted_rows(rows, columns, weights, num_rows, table):
    """Returns float32[num_rows, K]: for each row the weighted sum of the table's `columns`."""
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=tf.stack([rows, columns], axis=1),
        a_values=weights,
        a_shape=tf.cast(tf.stack([num_rows, tf.shape(table)[0]]), tf.int64),
        b=table,
    )


def _of_ratings(batches: Batches, client_weights):
    """Returns each batch's client's weight, float32[s, 16, 1]."""
    blocks = tf.reshape(client_weights, [-1, BLOCK])
    return tf.gather(blocks, batches.shard.block)[:, :, None]


def _deltas(batches: Batches, items: Rows, at, done: Epoch, client_weights, rate, spec) -> list:
    """Returns the weighted sums of the clients' changes of the items after a single epoch."""
    size = tf.shape(at)[2]
    item, users = tf.reshape(at, [-1]), tf.repeat(tf.reshape(batches.before, [-1]), size)
    share = batches.share * _of_ratings(batches, client_weights)
    share, pull = tf.reshape(share, [-1]), tf.reshape(share * done.errors, [-1])
    often = np.float32(spec.l2) * _sums_per_item(item, share, spec)
    vectors = weighted_rows(item, users, pull, spec.num_items, done.trail)
    vectors += often[:, None] * items.vectors
    factor = np.float32(-2 * rate)
    if not spec.biases:
        return [factor * vectors]
    biases = _sums_per_item(item, pull, spec) + often * items.biases
    return [factor * vectors[:, :-1], factor * biases[:, None]]


def _deltas_of_rows(batches: Batches, items: Rows, last_items, rows: Rows, client_weights, spec):
    """Returns the weighted sums of the clients' changes of the items from their own rows."""
    item = tf.reshape(last_items, [-1])
    weight = tf.reshape(batches.valid * _of_ratings(batches, client_weights), [-1])
    often = _sums_per_item(item, weight, spec)
    total = weighted_rows(item, tf.range(tf.size(item)), weight, spec.num_items, rows.vectors)
    vectors = total - often[:, None] * items.vectors
    if not spec.biases:
        return [vectors]
    biases = _sums_per_item(item, weight * rows.biases, spec) - often * items.biases
    return [vectors[:, :-1], biases[:, None]]


def _metric_sums(batches: Batches, rows: Rows, at, done: Epoch, spec) -> OrderedDict:
    """Returns the unfinalized metrics of `models.frame`, summed over an epoch of a shard."""
    count = tf.math.count_nonzero(batches.valid)
    squared = tf.reduce_sum(batches.valid * done.errors**2)
    close = tf.math.count_nonzero((tf.abs(done.errors) <= 0.5) & (batches.valid > 0))
    loss = squared
    if spec.l2:
        lengths = tf.reduce_sum(rows.vectors**2, axis=1) - float(spec.biases) + rows.biases**2
        of_users = tf.gather(tf.reduce_sum(done.trail**2, axis=1), batches.before)[:, :, None]
        squares = tf.reduce_sum(batches.valid * (tf.gather(lengths, at) + of_users))
        loss += np.float32(spec.l2) * squares
    return OrderedDict(
        num_examples=[count], loss=[loss, count], rmse=[squared, count], accuracy=[close, count]
    )


def _added(totals, sums):
    """Returns two structures of sums, added up."""
    return sums if totals is None else tf.nest.map_structure(tf.add, totals, sums)
