"""A method as a value: what a client and the server do at each point of a round.

Knows nothing of engines and stores.
"""

from collections.abc import Callable, Sequence

import attrs
import tensorflow as tf

from ..state import BroadcastMessage, ClientOutput, ClientState, ServerState
from .optimizers import initial_state, specs, with_own_rates


def keep_local_weights(trainer) -> ClientState:
    """Returns the first state of a client that keeps its local weights.

    Args:
        trainer: holds the first weights of the model; see `stateful_tff.methods.trainers`.
    """
    return ClientState(tf.constant(-1), trainer.local_weights, (), tf.constant(0), tf.constant(0))


def keep_optimizer_state(trainer) -> ClientState:
    """Returns the first state of a client that keeps its local optimizer's state, too."""
    state = initial_state(trainer.optimizers.local, trainer.local_weights)
    return attrs.evolve(keep_local_weights(trainer), optimizer_state=state)


def keep_nothing(trainer) -> ClientState:
    """Returns the state of a client that keeps no weights: its type has none."""
    return attrs.evolve(keep_local_weights(trainer), local_weights=[])


def build_server_broadcast_message(server_state: ServerState) -> BroadcastMessage:
    """Selects from the server's state what the clients need.

    Args:
        server_state: the state at the start of the round.

    Returns:
        The message that every client of the cohort receives.
    """
    return BroadcastMessage(server_state.model_weights, server_state.round_num)


def client_update(trainer, data, client_state: ClientState, server_message) -> ClientOutput:
    """Trains one client's copy of the global weights, and its own local weights, on its data.

    Both groups move at each batch, from gradients taken at the same point (FedSim of Pillutla et
    al. 2022; FedPer of Arivazhagan et al. 2019).

    Args:
        trainer: takes the local steps; see `stateful_tff.methods.trainers`.
        data: the client's batches.
        client_state: the client's `ClientState`.
        server_message: the server's `BroadcastMessage`.

    Returns:
        The client's `ClientOutput`. A client without data returns zeros with weight zero, and
        its weights as they were.
    """
    received = server_message.model_weights
    trained = trainer.train(
        data, received, client_state.local_weights, optimizer_state=client_state.optimizer_state
    )
    return ClientOutput(
        difference(trained.global_weights, received),
        trained.num_examples,
        trained.metrics,
        attrs.evolve(
            client_state,
            local_weights=trained.local_weights,
            optimizer_state=trained.optimizer_state,
        ),
    )


def server_update(
    server_state: ServerState, server_optimizer, weights_delta, total_weight
) -> ServerState:
    """Moves the global weights by the mean of the clients' updates.

    Args:
        server_state: the state at the start of the round.
        server_optimizer: takes the step; the negative mean update is its gradient.
        weights_delta: the weighted mean of the clients' `weights_delta`.
        total_weight: the sum of the clients' weights, a float32 scalar. Where it is zero
            nobody had data, and everything but the round number stays as it was.

    Returns:
        The state at the start of the next round.
    """
    weights = tuple(server_state.model_weights)
    state = with_own_rates(server_optimizer, server_state.optimizer_state, weights)
    moved = server_optimizer.next(state, weights, tuple(-delta for delta in weights_delta))
    new_state, new_weights = tf.nest.map_structure(
        lambda new, old: tf.where(total_weight > 0, new, old), moved, (state, weights)
    )
    return ServerState(list(new_weights), new_state, server_state.round_num + 1)


@attrs.frozen
class DataPass:
    """Passes over one of a client's data sets in a round.

    Attributes:
        data: "all", or a half of a client's examples dealt out in turn: "support" or "query".
        epochs: how many passes.
    """

    data: str = "all"
    epochs: int = 1


def global_weights(trainer) -> list:
    """Returns what the server starts from: the model's first global weights."""
    return trainer.global_weights


@attrs.frozen
class Method:
    """What a client and the server do at each point of a round, and what a client keeps.

    Attributes:
        name: for tables and messages.
        client_state_fn: `(trainer) -> ClientState`, the first state; its type is what is kept.
        client_update: `(trainer, data, client_state, server_message) -> ClientOutput`.
        server_update: `(server_state, server_optimizer, weights_delta, total_weight) ->
            ServerState`.
        build_server_broadcast_message: `(server_state) -> BroadcastMessage`.
        server_weights_fn: `(trainer) -> weights`, what the server starts from.
        passes: what data `client_update` gets: for one pass its batches, for several a sequence
            of batches.
    """

    name: str
    client_state_fn: Callable = keep_local_weights
    client_update: Callable = client_update
    server_update: Callable = server_update
    build_server_broadcast_message: Callable = build_server_broadcast_message
    server_weights_fn: Callable = global_weights
    passes: Sequence = (DataPass(),)

    def first_server_state(self, trainer, server_optimizer) -> ServerState:
        """Returns the state of the server before the first round."""
        weights = tf.nest.map_structure(tf.convert_to_tensor, self.server_weights_fn(trainer))
        optimizer_state = server_optimizer.initialize(specs(tf.nest.flatten(weights)))
        return ServerState(weights, optimizer_state, tf.constant(0))


def difference(new, old) -> list:
    """Returns new minus old weights, one by one."""
    return [after - before for after, before in zip(new, old, strict=True)]
