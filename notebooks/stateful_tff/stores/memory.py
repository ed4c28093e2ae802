"""The states of a population in memory, one row per client.

Knows nothing of models, methods or engines: it keeps what a round returns.
"""

import copy

import numpy as np
import pandas as pd
import tensorflow as tf

from ..checks import client_id, client_ids, whole_number
from ..state import ClientState, ServerState


def as_arrays(state):
    """Returns a state, or any structure of tensors, with NumPy arrays in place of tensors."""
    return tf.nest.map_structure(np.asarray, state)


def checked_states(done) -> ClientState:
    """Returns the client states of a round in one stack, if they are those of its cohort.

    Args:
        done: a `Round` of `stateful_tff.training`; its `client_states` are states of one client
            each, or stacks of several.

    Raises:
        ValueError: if nobody takes part, or a state belongs to nobody of the cohort, comes twice
            or is missing.
    """
    asked = np.sort(np.asarray(done.cohort))
    if not len(asked):
        raise ValueError(
            f"Round {done.round_num} has no clients; commit rounds of at least one client."
        )
    stacks = [
        state if np.ndim(state.index) else tf.nest.map_structure(lambda part: part[None], state)
        for state in map(as_arrays, done.client_states)
    ]
    returned = np.sort(np.concatenate([asked[:0], *(stack.index for stack in stacks)]))
    if not np.array_equal(asked, returned):
        twice = returned[1:][np.diff(returned) == 0]
        odd = np.append(twice, np.setxor1d(asked, returned))[0]
        raise ValueError(
            f"Client {odd} was asked {np.sum(asked == odd)} times and returned "
            f"{np.sum(returned == odd)} states; nothing of the round was kept."
        )
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *stacks)


def refuse_another_server_state(done) -> None:
    """Refuses a round whose server state is not the one that it ended with.

    Raises:
        ValueError: if the server's state has the number of another round.
    """
    found = int(np.asarray(done.server_state.round_num))
    if found != done.round_num:
        raise ValueError(
            f"Round {done.round_num} has the server state of round {found}; commit a round with "
            "the state that it ended with."
        )


def refuse_metrics_before(round_num: int) -> None:
    """Refuses to add metrics to the last committed round where there is none.

    Raises:
        ValueError: if the number of that round is 0.
    """
    if round_num == 0:
        raise ValueError("No round is committed yet; add metrics after the commit of their round.")


def history_frame(rows: list[dict]) -> pd.DataFrame:
    """Returns rows of a history as a table indexed by the round's number, from 1."""
    return pd.DataFrame(rows, columns=None if rows else ["round"]).set_index("round")


def refuse_another_plan(kept: dict, here: dict) -> None:
    """Refuses to go on with another plan than a run began with, naming the first difference.

    Raises:
        ValueError: if the two differ.
    """
    for key in kept | here:
        if kept.get(key) != here.get(key):
            raise ValueError(
                f"This run began with {key} {kept.get(key)} and cannot go on with "
                f"{here.get(key)}; use what it began with, or start another run."
            )


class MemoryStore:
    """Keeps a run in memory: every client's state, the server's state and the history.

    `store[7]` is the state of client 7, and `store[[3, 1]]` one stacked state of two clients.
    A client that was never visited has the first state, under its own index.

    Args:
        process: has `initialize()` for the first server state and `client_state_fn()` for the
            first client state.
        num_clients: the size of the population; ids run from 0 to `num_clients - 1`.

    Attributes:
        num_clients: the size of the population.
        server_state: the `ServerState` after the last committed round.
    """

    def __init__(self, process, num_clients: int):
        """See the class."""
        self.num_clients = whole_number("num_clients", num_clients, 1)
        self.server_state: ServerState = process.initialize()
        first = as_arrays(process.client_state_fn())
        self._rows = tf.nest.map_structure(
            lambda part: np.repeat(part[None], self.num_clients, axis=0), first
        )
        self._rows.index[:] = np.arange(self.num_clients)
        self._history: list[dict] = []
        self._plan: dict | None = None

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
            TypeError: if an id is no whole number.
            ValueError: if it does not follow on the last round, or its states are not those of
                its cohort, of its end, or of this model.
        """
        whole_number("round_num", done.round_num, 1)
        client_ids(done.cohort, self.num_clients)
        refuse_another_server_state(done)
        if done.round_num != self.round_num + 1:
            raise ValueError(
                f"Round {done.round_num} does not follow on round {self.round_num}, the last one "
                "committed; commit every round once, in order."
            )
        self.replace(checked_states(done))
        self.server_state = done.server_state
        self._history.append({"round": done.round_num} | done.metrics)

    def replace(self, states: ClientState) -> None:
        """Puts other states of some clients in place of theirs, outside of a round.

        Args:
            states: a stacked `ClientState`, found by its `index`.

        Raises:
            TypeError: if an index is no whole number.
            ValueError: if an index is not in the population or comes twice, or the states are
                not of the kind that the store keeps.
        """
        ids = client_ids(states.index, self.num_clients)
        tf.nest.assert_same_structure(self._rows, states)
        pairs = list(zip(tf.nest.flatten(self._rows), tf.nest.flatten(states), strict=True))
        for rows, part in pairs:
            if np.shape(part)[1:] != rows.shape[1:] or np.asarray(part).dtype != rows.dtype:
                raise ValueError(
                    f"A state holds {np.asarray(part).dtype}{list(np.shape(part)[1:])} where the "
                    f"store keeps {rows.dtype}{list(rows.shape[1:])}; it is of another model."
                )
        for rows, part in pairs:
            rows[ids] = part

    def copy(self) -> "MemoryStore":
        """Returns a copy, a run of its own: it may go on with another plan."""
        copied = copy.deepcopy(self)
        copied._plan = None
        return copied

    def add_metrics(self, metrics: dict) -> None:
        """Adds numbers to the history's last row, such as those of an evaluation.

        Raises:
            ValueError: if no round is committed yet.
        """
        refuse_metrics_before(self.round_num)
        self._history[-1] |= metrics

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
            ValueError: if the run began with another plan.
        """
        refuse_another_plan(self._plan if self._plan is not None else plan, plan)
        self._plan = plan


def stacked_rows(local_weights) -> list[np.ndarray]:
    """Returns stacked local weights as one row per client: `[n, 1, k]` becomes `[n, k]`."""
    parts = (np.asarray(part) for part in tf.nest.flatten(local_weights))
    return [(p[:, 0] if p.ndim > 2 and p.shape[1] == 1 else p).copy() for p in parts]
