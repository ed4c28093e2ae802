"""Lists of tensors of one shape, as loops fill them; compiled, each is one block of memory.

Knows nothing of ratings, models and methods.
"""

import tensorflow as tf


def new_list(length, shape):
    """Returns a list for so many tensors of one shape; compiled, it is one block of memory."""
    return tf.raw_ops.TensorListReserve(
        element_shape=tf.stack(shape), num_elements=length, element_dtype=tf.float32
    )


def put(one, index, value):
    """Returns the list with a value at an index."""
    return tf.raw_ops.TensorListSetItem(input_handle=one, index=index, item=value)


def stacked(one, length, shape):
    """Returns the values of a list in one tensor."""
    values = tf.raw_ops.TensorListStack(
        input_handle=one, element_shape=tf.stack(shape), element_dtype=tf.float32
    )
    return tf.reshape(values, tf.stack([length, *shape]))
