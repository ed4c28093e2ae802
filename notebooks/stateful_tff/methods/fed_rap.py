"""FedRAP: a common item table, and beside it a private one that stays with the client.

Source: Li et al. 2024, "Federated Recommendation with Additive Personalization" (ICLR),
algorithm 1. Knows nothing of engines and stores.
"""

from collections.abc import Callable

import attrs
import tensorflow as tf
import tensorflow_federated as tff

from ..checks import finite_number, positive_number
from ..state import ClientOutput
from .method import DataPass, Method, difference, keep_local_weights
from .optimizers import Optimizers
from .trainers import BOTH
from .weighting import equal_weights


@attrs.frozen
class TwoTables:
    """A client update that moves score function, private and common table at each batch.

    Attributes:
        table_rate: of both tables, in rates of the score function.
        round_decay: by which all rates shrink in each round.
    """

    table_rate: float
    round_decay: float

    def __call__(self, trainer, data, client_state, server_message) -> ClientOutput:
        """Returns a `ClientOutput`, as `method.client_update` does."""
        received, own = server_message.model_weights, client_state.local_weights
        decay = self.round_decay ** tf.cast(server_message.round_num, tf.float32)

        def adjust(gradients, weights):
            of_items, (vector, bias, table) = gradients
            fast = self.table_rate * decay
            own_side = decay * vector, decay * bias, fast * table
            return type(gradients)((type(of_items)([fast * g for g in of_items]), own_side))

        trained = trainer.train(data, received, own, moves=BOTH, adjust=adjust)
        delta = difference(trained.global_weights, received)
        state = attrs.evolve(client_state, local_weights=trained.local_weights)
        return ClientOutput(delta, trained.num_examples, trained.metrics, state)


def fed_rap(epochs: int = 10, table_rate: float = 2000.0, round_decay: float = 0.97) -> Method:
    """Returns FedRAP, for `models.implicit.two_table_factorization`.

    Args:
        epochs: local passes; the released code stops earlier where the loss stands still.
        table_rate: the rate of both tables, in rates of the score function.
        round_decay: by which all rates shrink from round to round.
    """
    table_rate = positive_number("table_rate", table_rate)
    update = TwoTables(table_rate, positive_number("round_decay", round_decay))
    passes = (DataPass(epochs=epochs),)
    return equal_weights(Method("FedRAP", keep_local_weights, update, passes=passes))


def falling_by_batch(rate: float, decay: float) -> Callable:
    """Returns a rate that shrinks from batch to batch: from the number of steps to a float32."""
    rate, decay = positive_number("rate", rate), positive_number("decay", decay)
    return lambda step: rate * decay ** tf.cast(step, tf.float32)


def fed_rap_rates(rate: float = 0.5, batch_decay: float = 0.95, server: float = 1.0) -> Optimizers:
    """Returns FedRAP's optimizers: plain SGD whose rate shrinks at each batch of a visit.

    Args:
        rate: of the score function.
        batch_decay: by which the rates shrink from batch to batch.
        server: the server's rate; 1.0 takes the mean of the clients' tables.
    """
    plain, schedule = tff.learning.optimizers.build_sgdm(1.0), falling_by_batch(rate, batch_decay)
    falling = tff.learning.optimizers.schedule_learning_rate(plain, schedule)
    server = tff.learning.optimizers.build_sgdm(finite_number("server", server, 0))
    return Optimizers(server, falling, falling)
