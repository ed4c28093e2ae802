"""Averages each row of an item table over those clients that have data of it.

Source: after Ding et al. 2022 (FedSubAvg), who correct by the share of such clients in the
population; here it is the share in the cohort. Knows nothing of engines and stores.
"""

import attrs
import tensorflow as tf

from ..state import ClientOutput
from .method import Method, client_update, keep_local_weights, server_update


@attrs.frozen
class TouchedRows:
    """A client update that also tells the server which rows the client has data of."""

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Trains as `client_update` does; `weights_delta` ends with float32[num_rows, 1]."""
        output = client_update(trainer, data, client_state, server_message)
        num_rows = one_table_size(output.weights_delta)
        touched = tf.reshape(trainer.touched_rows(data, num_rows), [num_rows, 1])
        return attrs.evolve(output, weights_delta=[*output.weights_delta, touched])


def one_table_size(weights) -> int:
    """Returns the number of rows that all weights share.

    Raises:
        ValueError: if they are not tables of one number of rows.
    """
    sizes = {tuple(weight.shape)[:1] for weight in weights}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "Rows are counted where all global weights are tables with one row for each id in x; "
            f"this model has weights of {[list(weight.shape) for weight in weights]}. Use another "
            "method."
        )
    return int(sizes.pop()[0])


def update_touched_rows(server_state, server_optimizer, weights_delta, total_weight):
    """Divides each row's mean change by the share of clients that have data of it."""
    *deltas, share = weights_delta
    mean = [tf.math.divide_no_nan(delta, share) for delta in deltas]
    return server_update(server_state, server_optimizer, mean, total_weight)


touched_rows = Method("touched rows", keep_local_weights, TouchedRows(), update_touched_rows)
