"""The exact solution of many clients' own side at once, block by block, by normal equations.

Knows nothing of methods, stores and TFF's placements.
"""

import numpy as np
import tensorflow as tf

from .compiled_once import compiled_once
from .packing import BLOCK
from .tensor_lists import new_list, put, stacked


@compiled_once
def normal_equations(width: int):
    """Returns the compiled sums of the normal equations, and the types of their arguments.

    Args:
        width: the length K of the vectors.
    """
    ratings = [None, BLOCK, None]

    def sums_of_blocks(vectors, at, targets, valid, block, num_steps, blocks):
        shapes = [(BLOCK, width, width), (BLOCK, width)]
        first = tf.concat([[True], tf.not_equal(block[1:], block[:-1])], axis=0)

        def step(t, sums, lists):
            seen, mine = tf.gather(vectors, at[t]), valid[t]
            own = seen * mine[:, :, None]
            added = [
                tf.matmul(own, seen, transpose_a=True),
                tf.linalg.matvec(own, targets[t], transpose_a=True),
            ]
            sums = [
                new + tf.where(first[t], 0.0, old) for new, old in zip(added, sums, strict=True)
            ]
            lists = [
                put(one, tf.gather(block, t), part) for one, part in zip(lists, sums, strict=True)
            ]
            return t + 1, sums, lists

        length = tf.size(blocks)
        *_, lists = tf.while_loop(
            lambda t, *_: t < num_steps,
            step,
            (0, [tf.zeros(shape) for shape in shapes], [new_list(length, s) for s in shapes]),
        )
        return [stacked(one, length, shape) for one, shape in zip(lists, shapes, strict=True)]

    return sums_of_blocks, [
        tf.TensorSpec([None, width]),
        tf.TensorSpec(ratings, tf.int32),
        tf.TensorSpec(ratings),
        tf.TensorSpec(ratings),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([None], tf.int32),
    ]


def solved_users(batches, rows, at, stars, users, l2: float):
    """Returns the users at the minimum of their losses, with the item rows frozen.

    Each user solves its ridge regression `(sum_j q_j q_j' + n l2 I) u = sum_j q_j r_j` over its
    n ratings; one without ratings stays as it is.

    Args:
        batches: `packed_steps.Batches`.
        rows: `packed_steps.Rows`, of the items.
        at: int32[s, 16, batch_size], each rating's row.
        stars: float32[s, 16, batch_size], the ratings without the model's constant.
        users: float32[blocks * 16, K], vectors and biases before.
        l2: the model's penalty, above zero.
    """
    shard, width = batches.shard, users.shape[1]
    targets = stars - tf.gather(rows.biases, at)
    squares, products = normal_equations(width)(
        rows.vectors, at, targets, batches.valid, shard.block, shard.steps, shard.last
    )
    some = tf.reshape(batches.num_examples, [-1, BLOCK]) > 0
    penalty = np.float32(l2) * tf.maximum(tf.reshape(batches.num_examples, [-1, BLOCK]), 1.0)
    squares = tf.where(some[..., None, None], squares, 0.0)
    squares += penalty[..., None, None] * tf.eye(width)
    solved = tf.linalg.cholesky_solve(tf.linalg.cholesky(squares), products[..., None])[..., 0]
    before = tf.reshape(users, [-1, BLOCK, width])
    return tf.reshape(tf.where(some[..., None], solved, before), [-1, width])
