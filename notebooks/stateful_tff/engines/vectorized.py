"""Rounds of any small functional model, with one method's work vectorized over many clients.

Every client of a part has a whole copy of the global weights, so this is for models of which
many copies fit into memory. Knows nothing of the details of methods, and nothing of stores.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import tensorflow as tf

from ..checks import client_ids, num_passes
from ..data.orders import permutations
from ..methods.method import Method
from ..methods.optimizers import Optimizers
from ..methods.trainers import PaddedBatches
from ..models import FunctionalModel
from .packing import cut
from .passes import cohort_in_order, process_of_passes
from .round import FederatedProcess, sums_of


def build_vectorized_process(
    method: Method, model: FunctionalModel, optimizers: Optimizers
) -> FederatedProcess:
    """Builds the process of a method for a functional model, many clients at a time.

    Args:
        method: any method whose `client_update` is made of TensorFlow operations.
        model: a `FunctionalModel`.
        optimizers: of the server, the clients and their local weights.

    Returns:
        A process as `build_packed_process` returns. The data of a part are an OrderedDict of
        `index`, int32[n], the clients' ids in the order of their states, and `passes`, for each
        pass of the method the clients' `PaddedBatches`.

    Raises:
        TypeError: if the model is of another kind.
    """
    if not isinstance(model, FunctionalModel):
        raise TypeError(
            f"The vectorized engine runs FunctionalModel only, not {type(model).__name__}; "
            "functional_keras_model makes one of a Keras model, or use the per-client engine."
        )

    def work(trainer, data, client_state, message):
        inputs, results = (data["passes"], client_state), []

        def one_client(parts):  # a flat list, since a vectorized map cannot take attrs classes
            batches, state = tf.nest.pack_sequence_as(inputs, parts)
            batches = batches if len(method.passes) > 1 else batches[0]
            output = method.client_update(trainer, batches, state, message)
            results.append((sums_of(output), output.client_state))
            return tf.nest.flatten(results[-1])

        parts = tf.nest.flatten(inputs)
        parts = tf.vectorized_map(one_client, parts, fallback_to_while_loop=False)
        sums, states = tf.nest.pack_sequence_as(results[-1], parts)
        return tf.nest.map_structure(lambda part: tf.reduce_sum(part, axis=0), sums), states

    def inputs(clients, cohort, round_num):
        cohort = cohort_in_order(clients, cohort)
        parts = cut(cohort, clients.counts, 1 + (len(cohort) > 500))
        ids = [part.astype(np.int32) for part in parts]
        passes = [
            [pad(clients.part(one.data), part, round_num, one.epochs) for one in method.passes]
            for part in parts
        ]
        data = [OrderedDict(index=i, passes=p) for i, p in zip(ids, passes, strict=True)]
        return data, ids

    return process_of_passes(method, model, optimizers, work, inputs)


def pad(clients, cohort: np.ndarray, round_num: int, epochs: int) -> PaddedBatches:
    """Pads clients to the number of batches of the longest one.

    Args:
        clients: `ExampleDatasets` or `ClientDatasets`.
        cohort: int64[n], client ids.
        round_num: the number of the round, from 0.
        epochs: passes over each client's examples.

    Returns:
        `PaddedBatches` with a first axis of clients. Padding repeats a real example.
    """
    cohort = client_ids(cohort, clients.num_clients)
    epochs = num_passes("epochs", epochs)
    x, y, counts = clients.in_round(cohort, round_num)
    size, starts = clients.batch_size, np.cumsum(counts) - counts
    per_epoch = -(-counts // size)
    steps = epochs * int(per_epoch.max(initial=0))
    orders = permutations(clients.shuffle_seed, cohort, counts, round_num, epochs)
    source = np.zeros((len(cohort), steps * size), np.int64)
    sizes = np.zeros((len(cohort), steps), np.int32)
    for row, (count, start) in enumerate(zip(counts, starts, strict=True)):
        for number in range(epochs):
            first = number * per_epoch[row]
            rows = slice(first * size, first * size + count)
            source[row, rows] = start + orders[row * epochs + number]
            full = np.arange(per_epoch[row]) * size
            sizes[row, first : first + per_epoch[row]] = np.minimum(size, count - full)
    source = source.reshape(len(cohort), steps, size)
    return PaddedBatches(x[source], y[source], sizes)
