"""Federated averaging of everything: the server holds a table of all clients' local weights.

Source: McMahan et al. 2017, algorithm 1, on the whole model. Knows nothing of engines and stores.
"""

import functools

import attrs
import tensorflow as tf

from ..checks import whole_number
from ..state import ClientOutput
from .method import Method, difference, keep_nothing


@attrs.frozen
class UsersAtServer:
    """A client update that takes the client's local weights from a table at the server.

    The message holds the global weights and, after them, one table [num_clients, ...] for each
    local weight. The client trains its own rows, and every change goes back to the server.
    """

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Trains as `client_update` does; `weights_delta` has the tables' changes, too."""
        tables = server_message.model_weights[-len(trainer.local_weights) :]
        received = server_message.model_weights[: -len(tables)]
        own = [tf.gather(table, client_state.index) for table in tables]
        trained = trainer.train(data, received, own)
        mine = tf.one_hot(client_state.index, tables[0].shape[0])
        rows = [
            tf.reshape(tf.cast(mine, new.dtype), [-1] + [1] * new.shape.rank) * new[None]
            for new in difference(trained.local_weights, own)
        ]
        delta = difference(trained.global_weights, received) + rows
        return ClientOutput(delta, trained.num_examples, trained.metrics, client_state)


def with_tables(trainer, num_clients: int) -> list:
    """Returns the first global weights and, for each local one, a table of all clients' rows."""
    tables = [tf.tile(w[None], [num_clients] + [1] * len(w.shape)) for w in trainer.local_weights]
    return [*trainer.global_weights, *tables]


def fed_avg(num_clients: int) -> Method:
    """Returns federated averaging with the users' table at the server.

    Args:
        num_clients: the size of the population, one row each.
    """
    num_clients = whole_number("num_clients", num_clients, 1, 10**7)
    return Method(
        "FedAvg, users at the server",
        keep_nothing,
        UsersAtServer(),
        server_weights_fn=functools.partial(with_tables, num_clients=num_clients),
    )
