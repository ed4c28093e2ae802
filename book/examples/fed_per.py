"""FedPer: a body that all clients share, and a head of each client's own.

Source: Arivazhagan et al. 2019, "Federated Learning with Personalization
Layers", algorithms 1 and 2. Knows nothing of engines and stores.
"""

import attrs
import numpy as np
import tensorflow as tf

from stateful_tff.methods import DataPass, Method
from stateful_tff.models import FunctionalModel
from stateful_tff.state import ClientOutput


def two_layers(num_inputs: int, width: int, seed: int = 0) -> FunctionalModel:
    """Returns a network with a shared first layer and a private second one."""
    rng = np.random.default_rng(seed)

    def layer(n, m):
        scale = np.float32(n**-0.5)
        return [scale * rng.normal(size=(n, m)).astype("f"), np.zeros(m, "f")]

    x, y = tf.TensorSpec([None, num_inputs]), tf.TensorSpec([None, 1])
    body, head = layer(num_inputs, width), layer(width, 1)
    return FunctionalModel(body, head, example_losses, {"x": x, "y": y})


def example_losses(body, head, x, y):
    """Returns the squared error of each example, float32[batch]."""
    hidden = tf.nn.relu(x @ body[0] + body[1])
    return tf.reduce_sum((hidden @ head[0] + head[1] - y) ** 2, axis=1)


def client_update(trainer, data, client_state, server_message) -> ClientOutput:
    """Trains body and head together; only the body's change is sent."""
    body = server_message.model_weights
    trained = trainer.train(data, body, client_state.local_weights)
    pairs = zip(trained.global_weights, body, strict=True)
    state = attrs.evolve(client_state, local_weights=trained.local_weights)
    delta = [new - old for new, old in pairs]
    return ClientOutput(delta, trained.num_examples, trained.metrics, state)


def fed_per(epochs: int = 1) -> Method:
    """Returns FedPer with some passes over a client's data in each round."""
    passes = (DataPass("all", epochs),)
    return Method("FedPer", client_update=client_update, passes=passes)
