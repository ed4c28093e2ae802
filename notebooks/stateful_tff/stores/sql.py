"""A run in a database: every client's state and the server's, one transaction per round.

Knows nothing of models, methods or engines: it keeps what a round returns.
"""

import importlib.metadata
import json
import os
import zlib

import numpy as np
import pandas as pd

from ..checks import client_id, client_ids, shown, whole_number
from ..interrupts import interrupts_held_back
from ..state import ClientState, ServerState
from .contract import Contract, as_json, history_frame, metrics_as_json
from .errors import StoreError, damage_explained
from .layout import Layout, as_bytes
from .memory import stacked_rows
from .run import Run

_PACKAGES = ("tensorflow", "tensorflow-federated", "numpy")
_MOST_BYTES = 10**9 - 10**6  # of a state: a row of SQLite or a field of PostgreSQL, less the rest


class SqlStore:
    """Keeps a run in SQLite or PostgreSQL, with the interface of `MemoryStore`.

    `store[7]` is the state of client 7, and `store[[3, 1]]` one stacked state of two clients.
    A run that is there already is open at its last committed round, so that going on with it is
    nothing special. What `commit` writes is there whole or not at all, whatever happens. One
    process at a time can have a run open; in SQLite, one process per file. Reading the states
    of a cohort and committing a round cost what the cohort costs, however large the population
    is. SQLite's files can be read and written by their owner only.

    Args:
        url: the path of an SQLite file, or an SQLAlchemy URL such as
            "postgresql://user@host/database".
        process: has `initialize()` for the first server state and `client_state_fn()` for the
            first client state.
        num_clients: the size of the population; ids run from 0 to `num_clients - 1`.
        name: the name of the run; a database can hold several.
        settings: what else makes this run what it is, such as learning rates and the data: a
            dictionary that JSON can hold. The run can only be opened again with the same.
        keep_states: whether to keep the client states of all earlier rounds, for `state_at`.

    Attributes:
        num_clients: the size of the population.
        name: the name of the run.
        keep_states: whether earlier states are kept.
        database: the open `Database`.

    Raises:
        TypeError: if the settings cannot be written as JSON, or a state holds no numbers.
        StoreError: if the database cannot be used, is open already, is damaged, or holds
            another run under this name.
    """

    def __init__(
        self,
        url: str | os.PathLike,
        process,
        num_clients: int,
        *,
        name: str = "run",
        settings: dict | None = None,
        keep_states: bool = False,
    ):
        """See the class."""
        if not isinstance(name, str) or not name or "\0" in name or not name.isprintable():
            raise TypeError(f"A run's name is a text of letters on one line, not {shown(name)}.")
        if not isinstance(keep_states, bool | np.bool_):
            raise TypeError(f"keep_states is True or False, not {shown(keep_states)}.")
        self.name, self.keep_states = name, bool(keep_states)
        self._contract = contract = Contract(process, num_clients)
        self.num_clients, self._layout = contract.num_clients, contract.clients
        for whose, layout in (("server", contract.server), ("client", contract.clients)):
            _refuse_too_large(whose, layout)
        self._first = contract.clients.rows(contract.first_client)
        about = self._about({} if settings is None else settings)
        start = as_bytes(contract.server.rows(contract.first_server))
        self._run = None
        try:  # an interrupt that was held back comes as the inner block ends
            with interrupts_held_back():
                self._run = Run(url, name, about, start)
                self.database = self._run.database
        except BaseException:
            if self._run is not None:
                self.close()
            raise

    def _about(self, settings: dict) -> dict:
        """Returns what a run has to have in common with the one that was begun."""
        return dict(
            num_clients=self.num_clients,
            keep_states=self.keep_states,
            **{f"server {part}": kind for part, kind in self._contract.server.kinds.items()},
            **{f"client {part}": kind for part, kind in self._layout.kinds.items()},
            first_client_state=zlib.crc32(self._first.tobytes()),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
            settings=json.loads(as_json("settings", settings, allow_nan=False)),
        )

    def __getitem__(self, ids) -> ClientState:
        """Returns the state of one client, or the stacked states of several.

        Args:
            ids: an id, or a list of ids, each once.

        Raises:
            TypeError: if an id is no whole number.
            ValueError: if an id is not in the population or comes twice.
            StoreError: if the store is damaged or cannot be read.
        """
        if np.ndim(ids) == 0:
            (row,) = self._rows_of(np.array([client_id(ids, self.num_clients)]))
            return self._layout.state(row)
        return self._layout.state(self._rows_of(client_ids(ids, self.num_clients)))

    def _rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Returns the states of clients as rows: the kept one, else the first state."""
        rows = self._first_rows(ids)
        index = {client: number for number, client in enumerate(ids.tolist())}
        with damage_explained("Reading client states from", self.database.where):
            for client, checksum, data, *visits in self._run.client_rows(ids):
                row = self._row_of(client, checksum, data)
                if [row["last_round[0]"], row["num_visits[0]"]] != visits:
                    raise StoreError(
                        f"The visits of client {client} are not those of its state: the store is "
                        "damaged; go back to a backup."
                    )
                rows[index[client]] = row
        return rows

    def _first_rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns the first states of clients as rows."""
        rows = np.repeat(self._first, len(ids))
        rows["index[0]"] = ids
        return rows

    def _row_of(self, client: int, checksum: int, data: bytes) -> np.void:
        """Returns the row that bytes hold, if they are this client's."""
        row = self._layout.read(data, checksum, f"client {client}")
        if row["index[0]"] != client:
            raise StoreError(
                f"The state of client {client} is that of client {row['index[0]']}: the store is "
                "damaged; go back to a backup."
            )
        return row

    def commit(self, done) -> None:
        """Writes a round: its clients' states, the server's state and its metrics, or nothing.

        Args:
            done: a `Round` of `stateful_tff.training`.

        Raises:
            TypeError: if it is no round, an id is no whole number, or a metric cannot be written
                as JSON.
            ValueError: if it does not follow on the last round, or its states are not those of
                its cohort, of its end, or of this model, or not finite.
            StoreError: if it cannot be written. The store then holds what it held before.
        """
        checked = self._contract.checked(done)
        states = [
            dict(
                client=int(row["index[0]"]),
                last_round=int(row["last_round[0]"]),
                num_visits=int(row["num_visits[0]"]),
                **as_bytes(row),
            )
            for row in self._layout.rows(checked.clients)
        ]
        server = as_bytes(self._contract.server.rows(checked.server))
        self._run.write_round(checked.round_num, server, states, checked.metrics, self.keep_states)

    def add_metrics(self, metrics: dict) -> None:
        """Adds numbers to the history's last row, such as those of an evaluation.

        They are written in a transaction of their own. A run that is killed before it has the
        round without them, and goes on after that round.

        Args:
            metrics: names and numbers; a name that is there already gets the new number.

        Raises:
            TypeError: if a metric cannot be written as JSON.
            ValueError: if no round is committed yet.
            StoreError: if it cannot be written, or the row is damaged.
        """
        self._run.add_metrics(metrics_as_json(metrics))

    @property
    def server_state(self) -> ServerState:
        """The `ServerState` after the last committed round, of NumPy arrays."""
        checksum, data = self._run.of_run("the server state", "crc32", "state")
        layout = self._contract.server
        return layout.state(layout.read(data, checksum, "the server"))

    @property
    def round_num(self) -> int:
        """The number of the last committed round; 0 at the start."""
        return self._run.of_run("the round", "round").round

    @property
    def history(self) -> pd.DataFrame:
        """The metrics of all committed rounds, indexed by the round's number from 1."""
        return history_frame(self._run.history())

    def _visits(self, column: str) -> np.ndarray:
        """Returns a number of each client's visits, int32[num_clients], 0 for no visit."""
        numbers, found = np.zeros(self.num_clients, np.int32), self._run.visits(column)
        with damage_explained("Reading visits from", self.database.where):
            ids, values = zip(*found, strict=True) if found else ((), ())
            numbers[client_ids(ids, self.num_clients)] = values
        return numbers

    @property
    def last_round(self) -> np.ndarray:
        """int32[num_clients]: each client's last round, from 1; 0 for never."""
        return self._visits("last_round")

    @property
    def num_visits(self) -> np.ndarray:
        """int32[num_clients]: in how many rounds each client took part."""
        return self._visits("num_visits")

    @property
    def age(self) -> np.ndarray:
        """int32[num_clients]: rounds since the last visit, 0 for the last round; -1 for never."""
        last = self.last_round
        return np.where(last > 0, np.int32(self.round_num) - last, -1)

    @property
    def visited(self) -> np.ndarray:
        """int64[n]: the ids of the clients that took part in a round, in ascending order."""
        return np.flatnonzero(self.num_visits)

    def local_weights(self) -> list[np.ndarray]:
        """Returns the local weights of the population, one row per client.

        Returns:
            One array per local weight. Row i belongs to client i; a weight of shape `[1, k]`
            becomes `[num_clients, k]`.
        """
        return stacked_rows(self[range(self.num_clients)].local_weights)

    def keep_plan(self, plan: dict) -> None:
        """Keeps how the run is sampled and fed, and refuses to go on in another way.

        Args:
            plan: names and values that JSON can hold.

        Raises:
            TypeError: if the plan cannot be written as JSON.
            ValueError: if the run began with another plan.
        """
        self._run.keep_plan(as_json("plan", plan, allow_nan=False))

    def state_at(self, client: int, round_num: int) -> ClientState:
        """Returns the state that a client had after a round, where `keep_states` is on.

        Args:
            client: the client's id.
            round_num: the number of the round, from 0 to the last one committed.

        Raises:
            TypeError: if one of them is no whole number.
            ValueError: if there is no such client or round, or the run does not keep earlier
                states.
        """
        client = client_id(client, self.num_clients)
        if not self.keep_states:
            raise ValueError("This run does not keep earlier states; make one with keep_states.")
        last = self.round_num
        if whole_number("round_num", round_num, 0) > last:
            raise ValueError(f"Round {round_num} is not among rounds 0 to {last}.")
        found = self._run.earlier_row(client, int(round_num))
        row = self._row_of(*found) if found else self._first_rows(np.array([client]))[0]
        return self._layout.state(row)

    def forget(self, client: int) -> None:
        """Deletes all states of a client for good; it is as if it was never visited.

        In SQLite the bytes are overwritten with zeros in the file, and its log is emptied.
        PostgreSQL writes the tables once more, in time that follows their size. Backups, the
        history's numbers and what the client taught the server stay.

        Args:
            client: the client's id.

        Raises:
            TypeError: if the id is no whole number.
            ValueError: if there is no such client.
        """
        self._run.forget(client_id(client, self.num_clients))

    def backup(self, path: str | os.PathLike) -> None:
        """Writes a copy of an SQLite store to a new file, which is there whole or not at all.

        Args:
            path: where to; nothing may be there.

        Raises:
            TypeError: if it is no path.
            StoreError: if there is something, the disk refuses, or the store is not SQLite's.
        """
        self._run.backup(path)

    def close(self) -> None:
        """Releases the run's lock for others. What was not committed is dropped."""
        self._run.close()

    def __enter__(self):
        """Returns the open store."""
        return self

    def __exit__(self, *_) -> None:
        """Closes it, also where an interrupt comes first."""
        try:
            self.close()
        except KeyboardInterrupt:
            self.close()
            raise


def _refuse_too_large(whose: str, layout: Layout) -> None:
    """Refuses states that no database takes, before there is a run that cannot go on."""
    if layout.size > _MOST_BYTES:
        raise StoreError(
            f"The state of the {whose} has {layout.size / 1e9:.1f} GB, and a database "
            "takes one of less than a gigabyte; make the model smaller, or keep the run in a "
            "MemoryStore."
        )
