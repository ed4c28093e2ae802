"""Rounds in which a client gets, trains and returns those rows of a table that its data name.

A client that chose 100 of 3,706 items has no use for the others. It trains a small table of the
rows that it touches, and the sum over clients is made of these rows alone. It runs any method of
a functional model whose x are row numbers. Knows nothing of the details of methods, and nothing
of stores.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from ..data.orders import permutations
from ..methods.method import Method
from ..methods.optimizers import Optimizers
from ..methods.row_trainer import RowTrainer
from ..methods.trainers import PaddedBatches
from ..models import FunctionalModel
from .compiled_once import compiled_once
from .packing import rounded_up
from .passes import cohort_in_order, process_of_passes
from .round import FederatedProcess, sums_of

_LARGEST_PART = 1_000  # clients of one part


@attrs.frozen
class OneClient:
    """The work of one client, with tables of any number of rows.

    Attributes:
        method, model, optimizers: what decides it.
        inputs: the containers of passes, client state and message.
        kinds: the `tf.TensorSpec` of each tensor in these, in order.
    """

    method = attrs.field()
    model = attrs.field()
    optimizers = attrs.field()
    inputs = attrs.field(eq=False)
    kinds = attrs.field(eq=False)

    def __call__(self, *parts) -> tuple:
        """Returns what the client sends, and its new state."""
        passes, state, message = tf.nest.pack_sequence_as(self.inputs, parts)
        trainer = RowTrainer(self.model, self.optimizers)
        data = passes if len(passes) > 1 else passes[0]
        output = self.method.client_update(trainer, data, state, message)
        return sums_of(output), output.client_state


@compiled_once
def client_function(one: OneClient):
    """Returns the compiled work of one client, and the types of its arguments."""
    return one, one.kinds


def build_rows_process(
    method: Method, model: FunctionalModel, optimizers: Optimizers
) -> FederatedProcess:
    """Builds the process of a method in which clients work on the rows that they touch.

    Args:
        method: any method whose `client_update` is made of TensorFlow operations, sends no change
            of rows that its data do not name, and does the same to all of these rows in its
            state: it keeps them, or multiplies them by a number, such as zero.
        model: a `FunctionalModel` with `num_rows`.
        optimizers: of the server, the clients and their local weights; those of clients must
            leave rows with a zero gradient as they are, as plain SGD does.

    Returns:
        A process as `build_packed_process` returns. The data of a part are an OrderedDict of
        `index`, int32[n]; `rows`, int32[n, m], the rows that each client touches, filled up with
        `num_rows`; and `passes`, for each pass of the method the clients' `PaddedBatches`, whose
        x point into these rows.

    Raises:
        TypeError: if the model is of another kind, or its x are not row numbers.
    """
    if not isinstance(model, FunctionalModel) or model.num_rows is None:
        raise TypeError(
            "The engine by rows runs a FunctionalModel with num_rows, whose x are row numbers, not "
            f"{type(model).__name__}; use the vectorized or the per-client engine."
        )
    size = model.num_rows

    def work(trainer, data, client_state, message):
        return _work_of_a_part(method, model, optimizers, data, client_state, message)

    def inputs(clients, cohort, round_num):
        cohort = cohort_in_order(clients, cohort)
        data = parts_of(clients, cohort, round_num, method.passes, size)
        return data, [part["index"] for part in data]

    rows = {"rows": tff.TensorType(np.int32, [None, None])}
    return process_of_passes(method, model, optimizers, work, inputs, rows)


def _work_of_a_part(method, model, optimizers, data, client_state, message) -> tuple:
    """Lets the clients of a part work one after the other, each on its rows."""
    stacked, shared = tf.nest.flatten((data["passes"], client_state)), tf.nest.flatten(message)
    are_tables = [one.shape.rank > 2 and one.shape[1] == model.num_rows for one in stacked]
    are_tables += [one.shape.rank > 1 and one.shape[0] == model.num_rows for one in shared]
    shapes = [one.shape[1:] for one in stacked] + [one.shape for one in shared]
    kinds = [
        tf.TensorSpec([None, *shape[1:]] if table else shape, one.dtype)
        for table, shape, one in zip(are_tables, shapes, stacked + shared, strict=True)
    ]
    shared = [
        _with_a_spare_row(one) if table else one
        for table, one in zip(are_tables[len(stacked) :], shared, strict=True)
    ]
    inputs = tf.nest.map_structure(lambda _: 0, (data["passes"], client_state, message))
    one_client = client_function(OneClient(method, model, optimizers, inputs, kinds))
    sums, states = map(tf.nest.flatten, one_client.structured_outputs)
    start = [
        tf.zeros([model.num_rows + 1 if part.shape.rank and part.shape[0] is None else n
                  for n in part.shape[:1]] + part.shape[1:].as_list(), part.dtype)
        for part in sums
    ]  # fmt: skip
    count = tf.size(data["index"])
    arrays = [tf.TensorArray(part.dtype, count, infer_shape=False) for part in states]
    before = tf.nest.flatten(client_state)

    def step(i, totals, arrays):
        rows = data["rows"][i]
        mine = [one[i] for one in stacked]
        values = [
            tf.gather(_with_a_spare_row(one, 1) if number < len(mine) else one, rows)
            if table
            else one
            for number, (table, one) in enumerate(zip(are_tables, mine + shared, strict=True))
        ]
        sent, new = map(tf.nest.flatten, one_client(*values))
        totals = [
            tf.tensor_scatter_nd_add(total, rows[:, None], part)
            if _is_table(kind)
            else total + part
            for kind, total, part in zip(sums, totals, sent, strict=True)
        ]
        for number, (kind, part) in enumerate(zip(states, new, strict=True)):
            if _is_table(kind):
                old = _with_a_spare_row(before[number][i]) * part[-1]
                part = tf.tensor_scatter_nd_update(old, rows[:, None], part)[:-1]
            arrays[number] = arrays[number].write(i, part)
        return i + 1, totals, arrays

    _, totals, arrays = tf.while_loop(
        lambda i, *_: i < count, step, (tf.constant(0), start, arrays)
    )
    totals = [one[:-1] if _is_table(kind) else one for kind, one in zip(sums, totals, strict=True)]
    new = [
        tf.ensure_shape(array.stack(), one.shape) for array, one in zip(arrays, before, strict=True)
    ]
    return tuple(map(tf.nest.pack_sequence_as, one_client.structured_outputs, (totals, new)))


def _is_table(part) -> bool:
    """Tells whether a client's result has rows for those that it touches."""
    return bool(part.shape.rank) and part.shape[0] is None


def _with_a_spare_row(table, value: int = 0):
    """Returns a table with one more row, which stands for those that a client does not touch."""
    paddings = [[0, 1]] + [[0, 0]] * (table.shape.rank - 1)
    return tf.pad(table, paddings, constant_values=tf.cast(value, table.dtype))


def parts_of(clients, cohort: np.ndarray, round_num: int, passes, num_rows: int) -> list:
    """Returns the data of a round, in parts of clients with about as many examples.

    Args:
        clients: `ExampleDatasets`, `ImplicitDatasets` or their kind.
        cohort: int64[n], client ids.
        round_num: the number of the round, from 0.
        passes: those of the method.
        num_rows: of the tables; x are numbers below it.
    """
    sources = [clients.part(one.data) for one in passes]
    drawn = [one.in_round(cohort, round_num) for one in sources]
    epochs = [one.epochs for one in passes]
    counts = np.stack([counts for _, _, counts in drawn])
    size = clients.batch_size
    width = _rounded_up(np.minimum(counts, size))  # of a batch; only short clients have narrow ones
    width = np.minimum(np.maximum(width, 1), size)
    steps = _rounded_up(-(-counts // size) * np.array(epochs)[:, None])
    keys, which = np.unique(np.concatenate([steps, width]).T, axis=0, return_inverse=True)
    parts = []
    for number in range(len(keys))[::-1]:  # long clients first
        members = np.flatnonzero(which.ravel() == number)
        for some in np.split(members, range(_LARGEST_PART, len(members), _LARGEST_PART)):
            shapes = keys[number].reshape(2, len(passes)).T
            padded = [
                _padded(clients, cohort, round_num, some, *one)
                for one in zip(drawn, epochs, shapes, strict=True)
            ]
            rows = _in_rows(padded, num_rows, counts[:, some])
            parts.append(OrderedDict(index=cohort[some].astype(np.int32), rows=rows, passes=padded))
    return parts


def _rounded_up(lengths: np.ndarray) -> np.ndarray:
    """Rounds each length up, so that there are few shapes to compile for."""
    return np.vectorize(rounded_up, otypes=[np.int64])(lengths)


def _padded(clients, cohort, round_num, some, drawn, epochs, shape) -> PaddedBatches:
    """Deals the examples of some clients of a cohort into batches of one shape."""
    (x, y, counts), (steps, width), size = drawn, shape, clients.batch_size
    starts = (np.cumsum(counts) - counts)[some]
    counts = counts[some]
    orders = permutations(clients.shuffle_seed, cohort[some], counts, round_num, epochs)
    length = np.repeat(counts, epochs)  # of each client's each epoch
    source = np.concatenate([*orders, np.zeros(0, np.int64)]) + np.repeat(starts, counts * epochs)
    turn = np.arange(len(source)) - np.repeat(np.cumsum(length) - length, length)
    first = np.arange(epochs) * -(-counts // size)[:, None] + np.arange(len(some))[:, None] * steps
    batch = np.repeat(first.ravel(), length) + turn // size
    target = batch * width + turn % size
    inputs = np.zeros((len(some) * steps * width, *x.shape[1:]), x.dtype)
    labels = np.zeros((len(some) * steps * width, *y.shape[1:]), y.dtype)
    inputs[target], labels[target] = x[source], y[source]
    sizes = np.bincount(batch, minlength=len(some) * steps).astype(np.int32)
    full = len(some), steps, width
    return PaddedBatches(
        inputs.reshape(*full, *x.shape[1:]), labels.reshape(*full, *y.shape[1:]),
        sizes.reshape(full[:2]),
    )  # fmt: skip


def _in_rows(padded: list, num_rows: int, counts: np.ndarray) -> np.ndarray:
    """Lets x point into the rows that each client touches, and returns these rows.

    Args:
        padded: for each pass the clients' `PaddedBatches`; their x are replaced.
        num_rows: of the whole tables.
        counts: int64[passes, n].

    Returns:
        int32[n, m], in ascending order, filled up with `num_rows`, at least once.
    """
    n = counts.shape[1]
    touched = np.zeros((n, num_rows), bool)
    for one in padded:
        real = np.arange(one.x.shape[2]) < one.sizes[:, :, None]
        client = np.broadcast_to(np.arange(n)[:, None, None], real.shape)[real]
        touched[client[:, None], one.x[real].reshape(len(client), -1)] = True
    place = np.cumsum(touched, axis=1, dtype=np.int32) - 1
    most = sum(int(np.prod(one.x.shape[1:])) for one in padded)
    rows = np.full((n, min(most, num_rows) + 1), num_rows, np.int32)
    client, row = np.nonzero(touched)
    rows[client, place[client, row]] = row
    for number, one in enumerate(padded):
        shape = one.x.shape
        local = np.take_along_axis(place, one.x.reshape(n, -1), axis=1)
        local = np.maximum(local, 0).reshape(shape).astype(one.x.dtype)
        padded[number] = attrs.evolve(one, x=local)
    return rows
