"""Which opening of a run wrote last, so that files and drivers that do not belong together meet.

Knows nothing of states: it counts what is written.

A session is one opening of a run, known by a random number. It is noted with every write: a
driver that got around the lock finds another's number there and stops. In SQLite it also tells
whether a file and its log belong together, since each holds the number.
"""

import contextlib
import os
import secrets
import sqlite3

import sqlalchemy as sa

from .errors import StoreError
from .files import alone, log_of, with_log
from .schema import sessions

_COLUMNS = ("run", "session", "previous", "writes", "is_open")
_QUERY = f"SELECT {', '.join(_COLUMNS)} FROM {sessions.name}"


def refuse_another_log(path: str) -> None:
    """Refuses an SQLite file whose log is gone, or is that of another time.

    A session that has written nothing yet may be in the log alone: it was killed while it opened.
    Neither is changed, so that the file is still there for what the sentence says.

    Raises:
        StoreError: if the two do not belong together.
    """
    file = _by_run(alone(path, _QUERY))
    if not os.path.exists(log_of(path)) and any(is_open for *_, is_open in file.values()):
        raise StoreError(
            f"{path} is a copy from while it was open, without its log {log_of(path)}; copy both "
            "files, or make a backup."
        )
    rows = with_log(path, _QUERY) if os.path.exists(log_of(path)) else None
    if rows is None:  # there is no log, or what is wrong is told by opening
        return
    both = _by_run(rows)
    for run in both | file:
        session, previous, writes, _ = both.get(run, (0, None, 1, 0))
        before, _, written, _ = file.get(run, (0, 0, 0, 0))
        if not (session == before and written <= writes or (previous == before and not writes)):
            raise StoreError(
                f"{path} and its log {log_of(path)} are of different times, as after a backup was "
                "put back over a run that was killed: remove the log to go on with the file alone."
            )


def _by_run(rows: list[tuple] | None) -> dict[int, tuple]:
    return {row[0]: row[1:] for row in rows or ()}


def begin(connection: sa.Connection, run: int) -> int:
    """Begins a session of a run; returns its number, which is never 0."""
    mine = sessions.c.run == run
    session = secrets.randbits(62) + 1
    new = dict(session=session, previous=sessions.c.session, writes=0, is_open=1)
    if connection.execute(sessions.update().where(mine).values(new)).rowcount == 0:
        connection.execute(sessions.insert().values(run=run, **new | dict(previous=0)))
    return session


def note_write(connection: sa.Connection, run: int, session: int, where: str) -> None:
    """Notes in a transaction that this session writes.

    Raises:
        StoreError: if another session of the run began since.
    """
    mine = sessions.c.run == run, sessions.c.session == session
    counted = sessions.update().where(*mine).values(writes=sessions.c.writes + 1)
    if connection.execute(counted).rowcount != 1:
        raise StoreError(
            f"The run in {where} was opened elsewhere since; go on there, or open it again here."
        )


def end(connection: sa.Connection, run: int, session: int) -> None:
    """Ends a session: from here on the file needs no log."""
    mine = sessions.c.run == run, sessions.c.session == session
    connection.execute(sessions.update().where(*mine).values(is_open=0))


def become_a_copy(path: str) -> None:
    """Makes the sessions of a copy its own, so that it cannot be taken for the file it is of."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        numbers = "session = ?, previous = 0, writes = 0, is_open = 0"
        connection.execute(f"UPDATE {sessions.name} SET {numbers}", (secrets.randbits(62) + 1,))
