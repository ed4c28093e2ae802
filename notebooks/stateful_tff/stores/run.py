"""The rows of one run in a database: what is read together, and written together.

Knows nothing of what a state holds: it is bytes with a checksum here.
"""

import atexit
import contextlib
import json
import os
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ..checks import cut_short, shown
from ..interrupts import interrupts_held_back
from . import sessions
from .contract import refuse_another_plan, refuse_metrics_before
from .database import EMPTY_LOG, LOG, Database
from .errors import StoreError, damage_explained, explained
from .files import written_whole
from .schema import clients, kept_states, prepare, rounds, runs

_AT_ONCE = 10_000  # ids in one statement
# What the run's row notes of its other rows: number and sum of checksums, but for the number of
# rows in `rounds`, which is that of the last round.
_SUMS = ("num_visited", "clients_crc32", "num_kept", "kept_crc32", "rounds_crc32")
_SUMMED = (clients, kept_states, rounds)


class Run:
    """One run in a database, open and locked until `close`.

    Args:
        url: the path of an SQLite file, or an SQLAlchemy URL.
        name: the name of the run.
        about: what the run has to have in common with the one of this name in the database;
            under "settings" there is a dictionary of more.
        start: the first server state, as `as_bytes` returns it.

    Attributes:
        database: the open `Database`.

    Raises:
        StoreError: if the database cannot be used, is open already, is damaged, or holds
            another run under this name.
    """

    _open = weakref.WeakSet()

    def __init__(self, url: str | os.PathLike, name: str, about: dict, start: dict):
        """See the class."""
        self.name, self.database, self._id, self._session = name, None, 0, 0
        try:
            with interrupts_held_back():
                self.database = Database(url, name, sessions.refuse_another_log)
                self._begin(about, start)
                self._open.add(self)
        except BaseException:
            self.close()
            raise

    def _begin(self, about: dict, start: dict) -> None:
        """Finds or makes the run, and begins a session of it."""
        path = self.database.path
        with self.database.transaction("Opening") as connection:
            prepare(connection, self.database.where)
            with damage_explained("Opening", self.database.where):
                self._id = self._found(connection, about, start)
                self._refuse_missing_rows(connection)
        if path:
            self.database.outside("Opening", LOG)
        with self.database.transaction("Opening") as connection:
            self._session = sessions.begin(connection, self._id)
        if path:  # the file notes the session before anything is written in it
            self.database.outside("Opening", EMPTY_LOG)
            self.database.watch_log()

    def close(self) -> None:
        """Ends the session, and releases the run's lock for others."""
        with interrupts_held_back(for_good=True):
            self._open.discard(self)
            session, self._session = self._session, 0
            if self.database is None:  # it was not opened
                return
            is_whole = self.database.dialect != "sqlite" or not session
            if not is_whole:
                with contextlib.suppress(StoreError):
                    with self.database.transaction("Closing", closing=True) as connection:
                        sessions.end(connection, self._id, session)
                    is_whole = True
            self.database.close(keep_log=not is_whole)

    def __del__(self):
        """Closes a run that was lost before it was closed."""
        if getattr(self, "_session", 0):
            self.close()

    @classmethod
    def close_all(cls) -> None:
        """Closes what is open at the end of the process."""
        for run in list(cls._open):
            run.close()

    @contextlib.contextmanager
    def _writing(self, doing: str):
        """Yields the connection of a transaction that writes in this session."""
        with self.database.transaction(doing) as connection:
            sessions.note_write(connection, self._id, self._session, self.database.where)
            yield connection

    def _found(self, connection: sa.Connection, about: dict, start: dict) -> int:
        """Returns the key of the run of this name, which is a new one where there was none."""
        columns = runs.c.id, runs.c.about, runs.c.plan, runs.c.text_crc32
        query = sa.select(*columns).where(runs.c.name == self.name)
        found = connection.execute(query).first()
        if found is None:
            values = dict(name=self.name, about=json.dumps(about), round=0, **start)
            values |= dict.fromkeys(_SUMS, 0) | dict(text_crc32=_text_crc32(values["about"], None))
            return connection.scalar(runs.insert().values(values).returning(runs.c.id))
        if found.text_crc32 != _text_crc32(found.about, found.plan):
            raise StoreError(
                f"The settings or the plan of run {self.name!r} in {self.database.where} are not "
                "what was written: it is damaged; go back to a backup."
            )
        kept, here = json.loads(found.about), json.loads(json.dumps(about))
        kept, here = (both | both.pop("settings") for both in (kept, here))
        for key in kept | here:
            if kept.get(key) != here.get(key):
                raise StoreError(
                    f"The run {self.name!r} in {self.database.where} was made with {key} "
                    f"{kept.get(key)}, and this is {here.get(key)}; go on with what it was made "
                    "with, or take another name."
                )
        return found.id

    def _refuse_missing_rows(self, connection: sa.Connection) -> None:
        """Refuses a run some of whose rows are gone or from another time, as in half a copy."""
        noted = connection.execute(
            self._select(*(runs.c[name] for name in (*_SUMS[:4], "round", _SUMS[4])))
        ).one()
        tables = [_sums(connection, of, of.c.run == self._id) for of in _SUMMED]
        if tuple(noted) != tuple(number for sums in tables for number in sums):
            raise StoreError(
                f"The run {self.name!r} in {self.database.where} lacks rows, or has some of "
                "another time: it is damaged; go back to a backup."
            )

    def _select(self, *columns, of: sa.Table = runs) -> sa.Select:
        """Returns the query for columns of this run's rows in a table."""
        return sa.select(*columns).where((of.c.id if of is runs else of.c.run) == self._id)

    def _clients(self, ids: np.ndarray) -> Iterator[sa.ColumnElement]:
        """Yields conditions that find the rows of clients, in parts of a statement's size."""
        for some in np.split(ids, range(_AT_ONCE, len(ids), _AT_ONCE)):
            yield (clients.c.run == self._id) & clients.c.client.in_(some.tolist())

    def of_run(self, what: str, *columns: str) -> sa.Row:
        """Returns columns of the run's row; `what` they are, for the message."""
        with self.database.transaction(f"Reading {what} from") as connection:
            return connection.execute(self._select(*(runs.c[name] for name in columns))).one()

    def client_rows(self, ids: np.ndarray) -> list[sa.Row]:
        """Returns client, crc32, state, last_round and num_visits of clients, in any order.

        A client that was never visited has no row.
        """
        columns = ("client", "crc32", "state", "last_round", "num_visits")
        query = sa.select(*(clients.c[name] for name in columns))
        with self.database.transaction("Reading client states from") as connection:
            return [
                row
                for where in self._clients(ids)
                for row in connection.execute(query.where(where))
            ]

    def visits(self, column: str) -> list[sa.Row]:
        """Returns client and a column, last_round or num_visits, of all clients with a row."""
        with self.database.transaction("Reading visits from") as connection:
            query = self._select(clients.c.client, clients.c[column], of=clients)
            return connection.execute(query).all()

    def earlier_row(self, client: int, round_num: int) -> sa.Row | None:
        """Returns client, crc32 and state as they were after a round, if there is such a row."""
        columns = kept_states.c
        query = self._select(columns.client, columns.crc32, columns.state, of=kept_states)
        query = query.where(columns.client == client, columns.round <= round_num)
        with self.database.transaction("Reading an earlier state from") as connection:
            return connection.execute(query.order_by(columns.round.desc()).limit(1)).first()

    def history(self) -> list[dict]:
        """Returns the rows of the history, in order.

        Raises:
            StoreError: if one is missing or is not what was written.
        """
        query = self._select(rounds.c.round, rounds.c.crc32, rounds.c.metrics, of=rounds)
        with self.database.transaction("Reading the history from") as connection:
            found = connection.execute(query.order_by(rounds.c.round)).all()
        with damage_explained("Reading the history from", self.database.where):
            return [_metrics(number, row) for number, row in enumerate(found, start=1)]

    def add_metrics(self, metrics: str) -> None:
        """Adds metrics, JSON, to the history's row of the last round, in one transaction.

        Raises:
            ValueError: if there is no such round yet.
            StoreError: if the row is damaged or cannot be written.
        """
        with self._writing("Adding metrics to") as connection:
            round_num = connection.scalar(self._select(runs.c.round))
            refuse_metrics_before(round_num)
            query = self._select(rounds.c.round, rounds.c.crc32, rounds.c.metrics, of=rounds)
            row = connection.execute(query.where(rounds.c.round == round_num)).first()
            new = json.dumps(_metrics(round_num, row) | json.loads(metrics))
            where = rounds.c.run == self._id, rounds.c.round == round_num
            checksum = zlib.crc32(new.encode())
            change = rounds.update().where(*where)
            connection.execute(change.values(metrics=new, crc32=checksum))
            self._change(connection, rounds_crc32=checksum - row.crc32)

    def _change(self, connection: sa.Connection, **changes: int) -> None:
        """Adds to sums in the run's row."""
        new = {name: runs.c[name] + number for name, number in changes.items()}
        connection.execute(runs.update().where(runs.c.id == self._id).values(new))

    def keep_plan(self, plan: str) -> None:
        """Keeps a plan, JSON, or refuses it with a ValueError where another one is kept."""
        with self.database.transaction("Reading the plan from") as connection:
            kept, about = connection.execute(self._select(runs.c.plan, runs.c.about)).one()
        if kept is not None:
            refuse_another_plan(json.loads(kept), json.loads(plan))
            return
        new = dict(plan=plan, text_crc32=_text_crc32(about, plan))
        with self._writing("Writing the plan to") as connection:
            connection.execute(runs.update().where(runs.c.id == self._id).values(new))

    def write_round(
        self, round_num: int, server: dict, states: list[dict], metrics: str, keep_states: bool
    ) -> None:
        """Writes a round in one transaction.

        Args:
            round_num: its number.
            server: the new server state, as `as_bytes` returns it.
            states: for each client of the cohort the columns of table `clients`, but for `run`.
            metrics: the round's row of the history, JSON.
            keep_states: whether to keep the states beside those of earlier rounds.

        Raises:
            ValueError: if the round does not follow on the last one.
            StoreError: if it cannot be written. The database then holds what it held before.
        """
        ids = np.array([state["client"] for state in states], np.int64)
        states = [dict(run=self._id, round=round_num, **state) for state in states]
        history = dict(run=self._id, round=round_num, metrics=metrics)
        checksum, total = zlib.crc32(metrics.encode()), sum(state["crc32"] for state in states)
        with self._writing(f"Committing round {round_num} to") as connection:
            sums = [_sums(connection, clients, where) for where in self._clients(ids)]
            change = dict(
                num_visited=len(states) - sum(count for count, _ in sums),
                clients_crc32=total - sum(total for _, total in sums),
                rounds_crc32=checksum,
            )
            if keep_states:
                change |= dict(num_kept=len(states), kept_crc32=total)
            self._count_on(connection, round_num, change, server)
            if states:
                connection.execute(_upsert(connection.dialect.name), _columns(clients, states))
            if states and keep_states:
                connection.execute(kept_states.insert(), _columns(kept_states, states))
            connection.execute(rounds.insert(), history | dict(crc32=checksum))

    def _count_on(self, connection, round_num: int, change: dict, server: dict) -> None:
        """Writes the run's row of a new round, if the one before is the last one committed.

        The database decides that and no number in memory, so that a second driver which got
        around the lock cannot add its rounds to ours.
        """
        last = runs.c.id == self._id, runs.c.round == round_num - 1
        new = {name: runs.c[name] + number for name, number in change.items()}
        new = runs.update().where(*last).values(round=round_num, **new, **server)
        if connection.execute(new).rowcount != 1:
            committed = connection.scalar(self._select(runs.c.round))
            raise ValueError(
                f"Round {round_num} does not follow on round {committed}, the last one committed; "
                "commit every round once, in order."
            )

    def forget(self, client: int) -> None:
        """Deletes all rows of a client, also from the disk."""
        doing = f"Deleting client {client} from"
        with self._writing(doing) as connection:
            change = {}
            for table, names in ((clients, _SUMS[:2]), (kept_states, _SUMS[2:4])):
                wanted = (table.c.run == self._id) & (table.c.client == client)
                found = _sums(connection, table, wanted)
                change |= {name: -number for name, number in zip(names, found, strict=True)}
                connection.execute(table.delete().where(wanted))
            self._change(connection, **change)
        self.database.erase(doing, clients, kept_states)

    def backup(self, path: str | os.PathLike) -> None:
        """Writes a copy of an SQLite file, which is there whole or not at all.

        Args:
            path: where to; nothing may be there.

        Raises:
            TypeError: if it is no path.
            StoreError: if there is something, the disk refuses, or this is not SQLite.
        """
        if self.database.dialect != "sqlite":
            raise StoreError("Copy a PostgreSQL store with pg_dump.")
        if not isinstance(path, str | os.PathLike) or "\0" in str(path) or not str(path):
            raise TypeError(f"A backup goes to the path of a file, not {shown(path)}.")
        doing = f"Copying to {cut_short(str(path))} from"
        with explained(doing, self.database.where), written_whole(Path(path)) as new:
            self.database.outside(doing, "VACUUM INTO ?", str(new))
            sessions.become_a_copy(new)


atexit.register(Run.close_all)


def _sums(connection: sa.Connection, of: sa.Table, where: sa.ColumnElement) -> tuple[int, int]:
    """Returns how many rows of a table are in question, and the sum of their checksums."""
    total = sa.func.coalesce(sa.func.sum(of.c.crc32), 0)
    count, total = connection.execute(sa.select(sa.func.count(), total).where(where)).one()
    return count, int(total)


def _text_crc32(about: str, plan: str | None) -> int:
    """Returns the checksum of what a run is, and of its plan."""
    return zlib.crc32((about + (plan or "")).encode())


def _metrics(number: int, row: sa.Row | None) -> dict:
    """Returns the metrics of a row of the history (round, crc32, metrics), if it is sound."""
    if row is None or row.round != number or zlib.crc32(row.metrics.encode()) != row.crc32:
        raise StoreError(
            f"Round {number} of the history is not what was written: the store is damaged; go "
            "back to a backup."
        )
    return json.loads(row.metrics)


def _columns(table: sa.Table, rows: list[dict]) -> list[dict]:
    """Returns rows with the columns of a table only."""
    return [{column.name: row[column.name] for column in table.c} for row in rows]


def _upsert(dialect: str):
    """Returns the statement that inserts a client's state or replaces it."""
    insert = dict(sqlite=sqlite, postgresql=postgresql)[dialect].insert(clients)
    new = {c.name: insert.excluded[c.name] for c in clients.c if not c.primary_key}
    return insert.on_conflict_do_update(index_elements=["run", "client"], set_=new)
