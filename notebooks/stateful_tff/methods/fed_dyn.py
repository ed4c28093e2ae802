"""FedDyn: each client's loss is corrected so that all agree on where the mean is lowest.

Source: Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", algorithm 1. A
client keeps the gradient of its loss where it last ended, in `optimizer_state`; the server's
state holds the model and h. A client sends the change of the model alone. Clients count the
same. Differs: passes over the data in place of the exact minimum. Knows nothing of engines and
stores.
"""

import attrs
import tensorflow as tf

from ..checks import positive_number, whole_number
from ..state import BroadcastMessage, ClientOutput
from .method import DataPass, Method, difference, server_update
from .scaffold import halves, keep_zeros, zeros
from .whole_model import (
    checked_strength,
    equally,
    strength_at,
    toward,
    train_whole,
    whole_model,
)


def fed_dyn(num_clients: int, strength: float = 0.1, epochs: int = 1) -> Method:
    """Returns FedDyn; the server's rate of the paper is 1.

    Args:
        num_clients: the size of the population, m of the paper.
        strength: alpha of the paper; above zero. It may be a function of the number of the round.
        epochs: passes over a client's data.
    """
    num_clients = whole_number("num_clients", num_clients, 1, 10**7)
    strength = checked_strength("strength", strength, positive_number)

    def message(server_state) -> BroadcastMessage:
        return BroadcastMessage(halves(server_state.model_weights)[0], server_state.round_num)

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        received, own = server_message.model_weights, client_state.optimizer_state
        alpha = strength_at(strength, server_message)
        pull = toward(received, alpha)
        weights, trained = train_whole(trainer, data, received, lambda w: difference(pull(w), own))
        delta = difference(weights, received)
        gradient = [g - alpha * d for g, d in zip(own, delta, strict=True)]
        state = attrs.evolve(client_state, optimizer_state=gradient)
        return ClientOutput(delta, equally(trained), trained.metrics, state)

    def move(server_state, server_optimizer, weights_delta, total_weight):
        weights, h = halves(server_state.model_weights)
        alpha, part = strength_at(strength, server_state), total_weight / num_clients
        h = [old - alpha * part * d for old, d in zip(h, weights_delta, strict=True)]
        change = [d - old / alpha for d, old in zip(weights_delta, h, strict=True)]
        still = [tf.zeros_like(old) for old in h]
        after = server_update(server_state, server_optimizer, [*change, *still], total_weight)
        return attrs.evolve(after, model_weights=[*halves(after.model_weights)[0], *h])

    return Method(
        "FedDyn",
        keep_zeros,
        update,
        move,
        message,
        server_weights_fn=lambda trainer: [*whole_model(trainer), *zeros(trainer)],
        passes=(DataPass("all", epochs),),
    )
