"""Both groups of a model as one: what methods need that share, or keep, a whole model.

Such a method runs on the same two-group model as the others: the groups are split again before
each training. Knows nothing of engines and stores.
"""

from collections.abc import Callable
from functools import partial

import attrs
import tensorflow as tf

from ..checks import finite_number
from ..state import ClientOutput, ClientState
from .method import DataPass, Method, difference, keep_nothing
from .weighting import equal_weights


def whole_model(trainer) -> list:
    """Returns the model's first weights: the global ones and, after them, the local ones."""
    return [*trainer.global_weights, *trainer.local_weights]


def keep_whole_model(trainer) -> ClientState:
    """Returns the first state of a client that keeps a model of its own, as `local_weights`."""
    return attrs.evolve(keep_nothing(trainer), local_weights=whole_model(trainer))


def train_whole(trainer, data, weights, term: Callable | None = None) -> tuple:
    """Takes a step for each batch on a whole model.

    Args:
        trainer: takes the steps; its `client` and `local` optimizers move their groups.
        data: as the trainer takes it.
        weights: a whole model, a list.
        term: from the weights at a step to what is added to their gradients, both lists.

    Returns:
        The trained weights, a list, and the trainer's `Trained`.
    """
    size = len(trainer.global_weights)

    def adjust(gradients, at):
        flat = [g + t for g, t in zip(_joined(gradients), term(_joined(at)), strict=True)]
        return flat[:size], flat[size:]

    trained = trainer.train(
        data, weights[:size], weights[size:], adjust=None if term is None else adjust
    )
    return [*trained.global_weights, *trained.local_weights], trained


def _joined(groups) -> list:
    return [*groups[0], *groups[1]]


def toward(center, strength) -> Callable:
    """Returns the gradient of `strength / 2` times the squared distance from `center`."""
    return lambda weights: [strength * (w - c) for w, c in zip(weights, center, strict=True)]


not_negative = partial(finite_number, least=0)


def checked_strength(name: str, value, check: Callable = not_negative):
    """Returns the strength of a term: a number, or a function from the number of the round to it.

    Args:
        name: for the message.
        value: the strength.
        check: of a number.
    """
    return value if callable(value) else check(name, value)


def strength_at(strength, server_message):
    """Returns a strength in the round of a message."""
    return strength(server_message.round_num) if callable(strength) else strength


def shared(name: str, term_at: Callable | None = None, epochs: int = 1, **functions) -> Method:
    """Returns the method of clients that train the server's whole model and keep nothing.

    Args:
        name: for tables and messages.
        term_at: from the server's message to a term for `train_whole`.
        epochs: passes over a client's data.
        **functions: what else `Method` takes.
    """

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        received = server_message.model_weights
        term = None if term_at is None else term_at(server_message)
        weights, trained = train_whole(trainer, data, received, term)
        delta = difference(weights, received)
        return ClientOutput(delta, trained.num_examples, trained.metrics, client_state)

    functions = dict(passes=(DataPass("all", epochs),), server_weights_fn=whole_model) | functions
    return Method(name, keep_nothing, update, **functions)


def fed_avg_whole(epochs: int = 1) -> Method:
    """Returns federated averaging of a whole model (McMahan et al. 2017, algorithm 1).

    A client keeps nothing, sends the change of the whole model, and counts by its examples.

    Args:
        epochs: passes over a client's data, E of the paper.
    """
    return shared("FedAvg", epochs=epochs)


def reptile(epochs: int = 1) -> Method:
    """Returns Reptile with clients as tasks (Nichol et al. 2018, algorithm 2, batched).

    The outer step is the server's rate. It differs from FedAvg in that each client counts the
    same, and in how it is used: as a start that each client fine-tunes (Jiang et al. 2019).

    Args:
        epochs: passes over a client's data.
    """
    return attrs.evolve(equal_weights(fed_avg_whole(epochs)), name="Reptile")


def alone(epochs: int = 1) -> Method:
    """Returns training alone: a client keeps a whole model, and sends and receives nothing.

    Its type says so: the list of what it sends is empty. It is the baseline "local only", and,
    started from another model, fine-tuning.

    Args:
        epochs: passes over a client's data.
    """

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        weights, trained = train_whole(trainer, data, client_state.local_weights)
        state = attrs.evolve(client_state, local_weights=weights)
        return ClientOutput([], trained.num_examples, trained.metrics, state)

    passes = (DataPass("all", epochs),)
    return Method("alone", keep_whole_model, update, server_weights_fn=_nothing, passes=passes)


def _nothing(trainer) -> list:
    return []


def equally(trained) -> tf.Tensor:
    """Returns the weight of a client that counts like any other: 1 with data, 0 without."""
    return tf.sign(trained.num_examples)
