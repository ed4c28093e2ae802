"""What every store demands of a round, of metrics and of a plan: one check for all of them.

Knows nothing of where states are kept.
"""

import json

import attrs
import numpy as np
import pandas as pd
import tensorflow as tf

from ..checks import client_ids, shown, whole_number
from ..state import ClientState, ServerState
from .layout import Layout, not_finite


def as_arrays(state):
    """Returns a state, or any structure of tensors, with NumPy arrays in place of tensors."""
    return tf.nest.map_structure(np.asarray, state)


@attrs.frozen(eq=False)
class CheckedRound:
    """A round that a store may keep.

    Attributes:
        round_num: its number, from 1.
        server: the parts of the server's state, each with a first axis of 1.
        clients: the parts of the states of the cohort, the index first; the first axis is clients.
        metrics: the round's row of the history, as JSON.
    """

    round_num: int
    server: list[np.ndarray]
    clients: list[np.ndarray]
    metrics: str


class Contract:
    """The kinds of states that a run has, and the check of what is to be kept.

    Args:
        process: has `initialize()` and `client_state_fn()`.
        num_clients: the size of the population.

    Attributes:
        num_clients: the size of the population.
        server: the `Layout` of server states.
        clients: the `Layout` of client states.
        first_server: the parts of the first server state, each with a first axis of 1.
        first_client: the same of the state of a new client.

    Raises:
        TypeError: if the size is no whole number, or a state holds no numbers.
        ValueError: if nobody is in the population.
    """

    def __init__(self, process, num_clients: int):
        """See the class."""
        self.num_clients = whole_number("num_clients", num_clients, 1, 10**8)
        server, client = as_arrays(process.initialize()), as_arrays(process.client_state_fn())
        for state, kind in ((server, ServerState), (client, ClientState)):
            if not isinstance(state, kind):
                raise TypeError(
                    f"The process starts with a {type(state).__name__} where a store keeps a "
                    f"{kind.__name__}."
                )
        self.server, self.clients = Layout(server), Layout(client)
        self.first_server = self.server.parts(server, "the server")
        self.first_client = self.clients.parts(client, "a new client")

    def checked(self, done) -> CheckedRound:
        """Returns what there is to keep of a round, all of it checked.

        Args:
            done: a `Round` of `stateful_tff.training`; its `client_states` are states of one
                client each, or stacks of several.

        Raises:
            TypeError: if it is no round, an id is no whole number, or a metric is no number.
            ValueError: if its states are not those of its cohort, of its end, or of this model,
                or not finite.
        """
        names = ("round_num", "cohort", "server_state", "client_states", "metrics")
        if not all(hasattr(done, name) for name in names):
            raise TypeError(f"A store commits rounds, not a value of type {type(done).__name__}.")
        round_num = whole_number("round_num", done.round_num, 1)
        cohort = client_ids(done.cohort, self.num_clients)
        if not len(cohort):
            raise ValueError(
                f"Round {round_num} has no clients; commit rounds of at least one client."
            )
        server = self.server.parts(done.server_state, "the server")
        self._refuse_another_server_state(done.server_state, round_num)
        clients = self._client_parts(done.client_states)
        _refuse_others(cohort, clients[0])
        for parts in (server, clients):
            odd = not_finite(parts)
            if odd is not None:
                whose = "server" if parts is server else f"client {clients[0][odd]}"
                raise ValueError(
                    f"The state of the {whose} is not finite; nothing of round {round_num} was "
                    "kept. Lower the learning rates."
                )
        metrics = metrics_as_json(done.metrics, {"round": round_num})
        return CheckedRound(round_num, server, clients, metrics)

    def _refuse_another_server_state(self, state: ServerState, round_num: int) -> None:
        """Refuses a round whose server state is not the one that it ended with."""
        found = int(np.asarray(state.round_num))
        if found != round_num:
            raise ValueError(
                f"Round {round_num} has the server state of round {found}; commit a round with "
                "the state that it ended with."
            )

    def _client_parts(self, states) -> list[np.ndarray]:
        """Returns states of one client each, or stacks of several, as parts of one stack."""
        found = []
        for state in states:
            index = np.asarray(getattr(state, "index", None))
            owner = "clients" if index.ndim else f"client {index}"
            found.append(self.clients.parts(state, owner, stacked=index.ndim > 0))
        if not found:
            return [part[:0] for part in self.first_client]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def checked_stack(self, states: ClientState) -> list[np.ndarray]:
        """Returns the parts of stacked states, found by their index; see `checked`."""
        client_ids(np.atleast_1d(np.asarray(states.index)), self.num_clients)
        return self._client_parts([states])


def _refuse_others(asked: np.ndarray, returned: np.ndarray) -> None:
    """Refuses states of which one belongs to nobody of the cohort, comes twice or is missing."""
    asked, returned = np.sort(asked), np.sort(returned)
    if not np.array_equal(asked, returned):
        twice = returned[1:][np.diff(returned) == 0]
        odd = np.append(twice, np.setxor1d(asked, returned))[0]
        raise ValueError(
            f"Client {odd} was asked {np.sum(asked == odd)} times and returned "
            f"{np.sum(returned == odd)} states; nothing of the round was kept."
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


def metrics_as_json(metrics: dict, others: dict | None = None) -> str:
    """Returns metrics as JSON; see `as_json` for the errors.

    Args:
        metrics: names and numbers.
        others: what stands in the row beside them, and is no metric's name.
    """
    if isinstance(metrics, dict) and "round" in metrics:
        raise TypeError("A metric cannot be named round; that is the name of the history's index.")
    as_json("metrics", metrics)
    return as_json("metrics", (others or {}) | metrics)


def as_json(what: str, values: dict, **options) -> str:
    """Returns names and values as JSON; NumPy's numbers and arrays become plain ones.

    Raises:
        TypeError: if they are no dictionary by text, or a value cannot be written.
    """
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise TypeError(f"The {what} are a dictionary by name, not {shown(values)}.")
    try:
        return json.dumps(values, default=_plain, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"The {what} cannot be written as JSON ({error}); give texts, finite numbers, lists "
            "and dictionaries of these."
        ) from error


def _plain(value):
    """Returns the number or numbers in a value that JSON does not know."""
    value = np.asarray(value)
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{value.item()!r} is no number" if value.ndim == 0 else "not a number")
    return value.tolist()
