"""The sparse step: what it moves, and which optimizers may take it."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff.methods.optimizers import initial_state, step_in_place

optimizers = tff.learning.optimizers


def moved(optimizer, dense, monkeypatch=None):
    table = tf.Variable(tf.random.stateless_normal([9, 3], [1, 2]))
    named = tf.constant([3, 7, 3], tf.int64)
    gradient = tf.IndexedSlices(tf.reshape(tf.range(9.0), [3, 3]), named, [9, 3])
    if dense:
        gradient = tf.convert_to_tensor(gradient)
    whole = []
    if monkeypatch is not None:
        monkeypatch.setattr(type(table), "assign", lambda *a, **k: whole.append(True))
    step_in_place(optimizer, initial_state(optimizer, [table]), [table], [gradient])
    return table.numpy(), bool(whole)


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.build_sgdm(0.1), optimizers.build_sgdm(0.1, 0.9), optimizers.build_adam(0.1)],
)
def test_a_sparse_gradient_moves_what_a_dense_one_does(optimizer):
    np.testing.assert_allclose(moved(optimizer, False)[0], moved(optimizer, True)[0], rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer, sparse",
    [
        (optimizers.build_sgdm(0.1), True),
        (optimizers.build_sgdm(0.1, 0.9), False),
        (optimizers.build_adam(0.1), False),
        (optimizers.build_adagrad(0.1), False),
    ],
)
def test_only_plain_sgd_leaves_the_rest_of_the_table_unwritten(optimizer, sparse, monkeypatch):
    assert moved(optimizer, False, monkeypatch)[1] != sparse
