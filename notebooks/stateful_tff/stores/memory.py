"""The states of a population in memory, one row per client.

Knows nothing of models, methods or engines: it keeps what a round returns.
"""

import copy
import json

import numpy as np
import pandas as pd
import tensorflow as tf

from ..checks import client_id, client_ids
from ..interrupts import interrupts_held_back
from ..state import ClientState, ServerState
from .contract import (
    Contract,
    as_json,
    history_frame,
    metrics_as_json,
    refuse_another_plan,
    refuse_metrics_before,
)
from .touched import rows_of_all


class MemoryStore:
    """Keeps a run in memory: every client's state, the server's state and the history.

    `store[7]` is the state of client 7, and `store[[3, 1]]` one stacked state of two clients.
    A client that was never visited has the first state, under its own index. What `commit` keeps
    is there whole or not at all, also where it is interrupted. Of a large table in a client's
    state, such as an item table of its own, only the rows are kept that differ from the first one.

    Args:
        process: has `initialize()` for the first server state and `client_state_fn()` for the
            first client state.
        num_clients: the size of the population; ids run from 0 to `num_clients - 1`.

    Attributes:
        num_clients: the size of the population.
        server_state: the `ServerState` after the last committed round.

    Raises:
        TypeError: if the size is no whole number, or a state holds no numbers.
        ValueError: if nobody is in the population.
        MemoryError: if the population does not fit.
    """

    def __init__(self, process, num_clients: int):
        """See the class."""
        self._contract = contract = Contract(process, num_clients)
        self.num_clients = contract.num_clients
        self.server_state: ServerState = contract.server.packed(
            [part[0].copy() for part in contract.first_server]
        )
        self._rows = self._first_rows()
        self._history: list[dict] = []
        self._plan: dict | None = None

    def _first_rows(self) -> ClientState:
        """Returns the stacked first states of the population."""
        try:
            parts = [rows_of_all(p, self.num_clients) for p in self._contract.first_client]
        except (MemoryError, ValueError) as error:
            raise MemoryError(
                f"The states of {self.num_clients} clients do not fit into memory; take fewer, or "
                "keep them in an SqlStore."
            ) from error
        parts[0][:] = np.arange(self.num_clients)
        return self._contract.clients.packed(parts)

    def __getitem__(self, ids) -> ClientState:
        """Returns the state of one client, or the stacked states of several.

        Args:
            ids: an id, or a list of ids, each once.

        Raises:
            TypeError: if an id is no whole number.
            ValueError: if an id is not in the population or comes twice.
        """
        one = np.ndim(ids) == 0
        rows = client_id(ids, self.num_clients) if one else client_ids(ids, self.num_clients)
        return tf.nest.map_structure(lambda part: part[rows].copy(), self._rows)

    def commit(self, done) -> None:
        """Keeps a round: its clients' states, the server's state and its metrics, or nothing.

        Args:
            done: a `Round` of `stateful_tff.training`.

        Raises:
            TypeError: if it is no round, an id is no whole number, or a metric cannot be written
                as JSON.
            ValueError: if it does not follow on the last round, or its states are not those of
                its cohort, of its end, or of this model, or not finite.
        """
        checked = self._contract.checked(done)
        if checked.round_num != self.round_num + 1:
            raise ValueError(
                f"Round {checked.round_num} does not follow on round {self.round_num}, the last "
                "one committed; commit every round once, in order."
            )
        server_state = self._contract.server.packed([part[0].copy() for part in checked.server])
        row = json.loads(checked.metrics)
        with interrupts_held_back(for_good=True):
            self._put(checked.clients)
            self._history.append(row)
            self.server_state = server_state

    def _put(self, parts: list[np.ndarray]) -> None:
        """Puts the parts of states in their places."""
        for rows, part in zip(tf.nest.flatten(self._rows), parts, strict=True):
            rows[parts[0]] = part

    def replace(self, states: ClientState) -> None:
        """Puts other states of some clients in place of theirs, outside of a round.

        Args:
            states: a stacked `ClientState`, found by its `index`.

        Raises:
            TypeError: if an index is no whole number.
            ValueError: if an index is not in the population or comes twice, or the states are
                not of the kind that the store keeps.
        """
        parts = self._contract.checked_stack(states)
        with interrupts_held_back(for_good=True):
            self._put(parts)

    def copy(self) -> "MemoryStore":
        """Returns a copy, a run of its own: it may go on with another plan."""
        copied = copy.deepcopy(self)
        copied._plan = None
        return copied

    def add_metrics(self, metrics: dict) -> None:
        """Adds numbers to the history's last row, such as those of an evaluation.

        Args:
            metrics: names and numbers; a name that is there already gets the new number.

        Raises:
            TypeError: if a metric cannot be written as JSON.
            ValueError: if no round is committed yet.
        """
        refuse_metrics_before(self.round_num)
        self._history[-1] |= json.loads(metrics_as_json(metrics))

    @property
    def round_num(self) -> int:
        """The number of the last committed round; 0 at the start."""
        return int(self.server_state.round_num)

    @property
    def history(self) -> pd.DataFrame:
        """The metrics of all committed rounds, indexed by the round's number from 1."""
        return history_frame(self._history)

    @property
    def last_round(self) -> np.ndarray:
        """int32[num_clients]: each client's last round, from 1; 0 for never."""
        return self._rows.last_round.copy()

    @property
    def num_visits(self) -> np.ndarray:
        """int32[num_clients]: in how many rounds each client took part."""
        return self._rows.num_visits.copy()

    @property
    def age(self) -> np.ndarray:
        """int32[num_clients]: rounds since the last visit, 0 for the last round; -1 for never."""
        last = self._rows.last_round
        return np.where(last > 0, np.int32(self.round_num) - last, -1)

    @property
    def visited(self) -> np.ndarray:
        """int64[n]: the ids of the clients that took part in a round, in ascending order."""
        return np.flatnonzero(self._rows.num_visits)

    def local_weights(self) -> list[np.ndarray]:
        """Returns the local weights of the population, one row per client.

        Returns:
            One array per local weight. Row i belongs to client i; a weight of shape `[1, k]`
            becomes `[num_clients, k]`.
        """
        return stacked_rows(self._rows.local_weights)

    def keep_plan(self, plan: dict) -> None:
        """Keeps how the run is sampled and fed, and refuses to go on in another way.

        Args:
            plan: names and values that JSON can hold.

        Raises:
            TypeError: if the plan cannot be written as JSON.
            ValueError: if the run began with another plan.
        """
        plan = json.loads(as_json("plan", plan, allow_nan=False))
        refuse_another_plan(self._plan if self._plan is not None else plan, plan)
        self._plan = plan


def stacked_rows(local_weights) -> list[np.ndarray]:
    """Returns stacked local weights as one row per client: `[n, 1, k]` becomes `[n, k]`."""
    parts = (np.asarray(part) for part in tf.nest.flatten(local_weights))
    return [(p[:, 0] if p.ndim > 2 and p.shape[1] == 1 else p).copy() for p in parts]
