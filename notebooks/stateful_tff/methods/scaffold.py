"""SCAFFOLD: control variates that take a client's own direction out of its steps.

Source: Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", algorithm 1, option II, equations 3 to 5. A client keeps its control variate c_i, in
`optimizer_state`: it is a memory of the training, not a part of the model. The server's state
holds the model and its own control variate c, and so does what a client sends: two changes.
Clients count the same. Differs: a client without data counts for nothing. Knows nothing of
engines and stores.
"""

import attrs
import tensorflow as tf

from ..checks import whole_number
from ..state import ClientOutput, ClientState
from .method import DataPass, Method, difference, keep_nothing, server_update
from .optimizers import plain_rate
from .whole_model import equally, train_whole, whole_model


def zeros(trainer) -> list:
    """Returns zeros in the shapes of the whole model."""
    return [tf.zeros_like(w) for w in whole_model(trainer)]


def keep_zeros(trainer) -> ClientState:
    """Returns the first state of a client that keeps one array for each weight of the model."""
    return attrs.evolve(keep_nothing(trainer), optimizer_state=zeros(trainer))


def halves(weights: list) -> tuple[list, list]:
    """Returns the model's part of a list, and the other half."""
    return weights[: len(weights) // 2], weights[len(weights) // 2 :]


def scaffold(num_clients: int, epochs: int = 1) -> Method:
    """Returns SCAFFOLD, for plain SGD at the clients.

    Args:
        num_clients: the size of the population, N of the paper.
        epochs: passes over a client's data; with b batches, K of the paper is b * epochs.

    Raises:
        ValueError: when a process is built, if a client's optimizer is not plain SGD.
    """
    num_clients = whole_number("num_clients", num_clients, 1, 10**7)

    def update(trainer, data, client_state, server_message) -> ClientOutput:
        received, control = halves(server_message.model_weights)
        own = client_state.optimizer_state
        correction = difference(control, own)
        weights, trained = train_whole(trainer, data, received, lambda _: correction)
        delta = difference(weights, received)
        steps = tf.cast(trainer.num_steps(data), tf.float32)
        new = []
        for mine, gap, moved, rate in zip(own, correction, delta, _rates(trainer), strict=True):
            slope = -tf.math.divide_no_nan(moved, steps * rate)  # the mean gradient on the way
            new.append(tf.where(steps > 0, slope - gap, mine))  # c_i - c + slope
        state = attrs.evolve(client_state, optimizer_state=new)
        change = [*delta, *difference(new, own)]
        return ClientOutput(change, equally(trained), trained.metrics, state)

    def move(server_state, server_optimizer, weights_delta, total_weight):
        moved, change = halves(weights_delta)
        still = [tf.zeros_like(c) for c in change]
        after = server_update(server_state, server_optimizer, [*moved, *still], total_weight)
        weights, control = halves(after.model_weights)
        part = total_weight / num_clients  # |S| / N
        control = [c + part * d for c, d in zip(control, change, strict=True)]
        return attrs.evolve(after, model_weights=[*weights, *control])

    return Method(
        "SCAFFOLD",
        keep_zeros,
        update,
        move,
        server_weights_fn=lambda trainer: [*whole_model(trainer), *zeros(trainer)],
        passes=(DataPass("all", epochs),),
    )


def _rates(trainer) -> list[float]:
    """Returns the rate of each weight, that of its group."""
    both = trainer.optimizers
    why = "SCAFFOLD reads the mean gradient off where plain SGD ends", "use build_sgdm(rate)"
    shared = plain_rate("client_optimizer", getattr(both.client, "inner", both.client), *why)
    own = plain_rate("local_optimizer", getattr(both.local, "inner", both.local), *why)
    return [shared] * len(trainer.global_weights) + [own] * len(trainer.local_weights)
