"""A process in NumPy that starts at once, for what is to be measured or killed without TFF.

Knows nothing of models, methods, engines and stores.
"""

import time

import numpy as np

from stateful_tff.state import ClientState, ServerState


class StandIn:
    """A process in NumPy: it moves all states by random numbers that clients and round decide.

    Args:
        seconds: how long a round takes at least.
    """

    def __init__(self, seconds: float = 0.0):
        """See the class."""
        self._seconds = seconds

    def initialize(self) -> ServerState:
        """Returns the first server state: 60 items with 4 factors."""
        return ServerState([np.zeros((60, 4), np.float32)], (), np.int32(0))

    def client_state_fn(self) -> ClientState:
        """Returns the state of a new client."""
        weights = [np.zeros((1, 4), np.float32)]
        return ClientState(np.int32(-1), weights, (), np.int32(0), np.int32(0))

    def inputs(self, clients, cohort, round_num: int) -> tuple[list, list]:
        """Returns a seed for each client, in place of a dataset, and the clients' ids."""
        return [[int(client), round_num] for client in cohort], [int(client) for client in cohort]

    def next(self, server_state: ServerState, data, client_states) -> tuple:
        """Runs one round."""
        (items,), states = server_state.model_weights, []
        round_num = np.int32(server_state.round_num + 1)
        for seed, state in zip(data, client_states, strict=True):
            step = np.random.default_rng(seed).normal(size=items.shape).astype(np.float32)
            user = state.local_weights[0] / 2 + np.tanh(step[:1] @ items.T @ items) + step[1]
            items = 0.9 * items + step / 8
            items[:4] += user / 8
            visits = np.int32(state.num_visits + 1)
            states.append(ClientState(state.index, [user], (), round_num, visits))
        time.sleep(self._seconds)
        metrics = {"loss": float(np.square(items).mean()), "num_examples": len(states)}
        return ServerState([items], (), round_num), metrics, states
