"""Ditto: a model of one's own, trained toward the shared one.

Source: Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization",
algorithm 1, with FedAvg as the solver of the shared model. Keeps a whole model; sends the change
of the shared one. Differs: passes over all of the data in place of single batches.
Knows nothing of engines and stores.
"""

import attrs

from ..state import ClientOutput
from .method import DataPass, Method, difference
from .whole_model import (
    checked_strength,
    keep_whole_model,
    strength_at,
    toward,
    train_whole,
    whole_model,
)


def ditto(strength: float = 0.1, epochs: int = 1) -> Method:
    """Returns Ditto.

    Args:
        strength: lambda of the paper, the pull of the client's model toward the received one; 0
            trains alone beside FedAvg. It may be a function of the number of the round.
        epochs: passes over a client's data, for both models.
    """
    strength = checked_strength("strength", strength)

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        received = server_message.model_weights
        weights, trained = train_whole(trainer, data, received)
        pull = toward(received, strength_at(strength, server_message))
        own, _ = train_whole(trainer, data, client_state.local_weights, pull)
        state = attrs.evolve(client_state, local_weights=own)
        delta = difference(weights, received)
        return ClientOutput(delta, trained.num_examples, trained.metrics, state)

    passes = (DataPass("all", epochs),)
    return Method("Ditto", keep_whole_model, update, server_weights_fn=whole_model, passes=passes)
