"""The rows of one run in a database: what is read together, and written together.

Knows nothing of what a state holds: it is bytes with a checksum here.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from .database import Database
from .errors import StoreError
from .memory import refuse_another_plan, refuse_metrics_before
from .schema import clients, kept_states, prepare, rounds, runs

_AT_ONCE = 10_000  # ids in one statement


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

    def __init__(self, url: str | os.PathLike, name: str, about: dict, start: dict):
        """See the class."""
        self.name, self.database = name, Database(url, name)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.database.close)
            with self.database.transaction("Opening") as connection:
                prepare(connection, self.database.where)
                self._id = self._found(connection, about, start)
                self._refuse_missing_rows(connection)
            on_error.pop_all()

    def _found(self, connection: sa.Connection, about: dict, start: dict) -> int:
        """Returns the key of the run of this name, which is a new one where there was none."""
        query = sa.select(runs.c.id, runs.c.about).where(runs.c.name == self.name)
        found = connection.execute(query).first()
        if found is None:
            values = dict(name=self.name, about=json.dumps(about), **start)
            values |= dict(round=0, num_visited=0, clients_crc32=0)
            return connection.scalar(runs.insert().values(values).returning(runs.c.id))
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
            self._select(runs.c.round, runs.c.num_visited, runs.c.clients_crc32)
        ).one()
        history = self._select(sa.func.count(), of=rounds)
        found = connection.scalar(history), *_sums(connection, clients.c.run == self._id)
        if tuple(noted) != found:
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
        return [_metrics(number, row) for number, row in enumerate(found, start=1)]

    def add_metrics(self, metrics: str) -> None:
        """Adds metrics, JSON, to the history's row of the last round, in one transaction.

        Raises:
            ValueError: if there is no such round yet.
            StoreError: if the row is damaged or cannot be written.
        """
        with self.database.transaction("Adding metrics to") as connection:
            round_num = connection.scalar(self._select(runs.c.round))
            refuse_metrics_before(round_num)
            query = self._select(rounds.c.round, rounds.c.crc32, rounds.c.metrics, of=rounds)
            row = connection.execute(query.where(rounds.c.round == round_num)).first()
            new = json.dumps(_metrics(round_num, row) | json.loads(metrics))
            where = rounds.c.run == self._id, rounds.c.round == round_num
            change = rounds.update().where(*where)
            connection.execute(change.values(metrics=new, crc32=zlib.crc32(new.encode())))

    def keep_plan(self, plan: str) -> None:
        """Keeps a plan, JSON, or refuses it with a ValueError where another one is kept."""
        with self.database.transaction("Writing the plan to") as connection:
            kept = connection.scalar(self._select(runs.c.plan))
            if kept is None:
                connection.execute(runs.update().where(runs.c.id == self._id).values(plan=plan))
            else:
                refuse_another_plan(json.loads(kept), json.loads(plan))

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
        with self.database.transaction(f"Committing round {round_num} to") as connection:
            sums = [_sums(connection, where) for where in self._clients(ids)]
            change = dict(
                num_visited=len(states) - sum(count for count, _ in sums),
                clients_crc32=sum(s["crc32"] for s in states) - sum(total for _, total in sums),
            )
            self._count_on(connection, round_num, change, server)
            if states:
                connection.execute(_upsert(connection.dialect.name), _columns(clients, states))
            if states and keep_states:
                connection.execute(kept_states.insert(), _columns(kept_states, states))
            checksum = zlib.crc32(metrics.encode())
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
        with self.database.transaction(doing) as connection:
            (where,) = self._clients(np.array([client]))
            count, total = _sums(connection, where)
            new = dict(
                num_visited=runs.c.num_visited - count, clients_crc32=runs.c.clients_crc32 - total
            )
            connection.execute(runs.update().where(runs.c.id == self._id).values(new))
            for table in (clients, kept_states):
                wanted = table.c.run == self._id, table.c.client == client
                connection.execute(table.delete().where(*wanted))
        self.database.erase(doing, clients, kept_states)


def _sums(connection: sa.Connection, where: sa.ColumnElement) -> tuple[int, int]:
    """Returns how many clients have a row, of those in question, and the sum of the checksums."""
    total = sa.func.coalesce(sa.func.sum(clients.c.crc32), 0)
    count, total = connection.execute(sa.select(sa.func.count(), total).where(where)).one()
    return count, int(total)


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
