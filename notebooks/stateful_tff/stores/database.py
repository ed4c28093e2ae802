"""A way to an SQLite file or a PostgreSQL server: one run, locked, in whole transactions.

Knows nothing of states and rounds: it opens, locks, and reports faults in one sentence.
"""

import contextlib
import ctypes
import os
import sqlite3
import time
import urllib.parse
import weakref
from collections.abc import Callable

import sqlalchemy as sa

from ..interrupts import interrupts_held_back
from .errors import StoreError, explained
from .files import identity, log_of, make_owner_only, refuse_half_a_store
from .locks import FileLock
from .schema import lock_key
from .urls import database_url, shown

PRAGMAS = (
    "locking_mode = EXCLUSIVE",  # one process at a time
    "journal_mode = WAL",  # a commit is appended to a log, whole or not at all
    "synchronous = FULL",  # a commit waits for the disk
    "wal_autocheckpoint = 8000",  # the log goes into the file every 32 MB
    "secure_delete = ON",  # what is deleted is overwritten with zeros
)
LOG = f"PRAGMA {PRAGMAS[1]}"  # begun once there are tables, so that no file is only a log
EMPTY_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"  # what is in the log goes into the file
_SERVER = dict(connect_timeout=15, prepare_threshold=None)


class _Connection(sqlite3.Connection):
    """A connection whose end is one: an unfinished statement, as in the traceback of an interrupt,
    would keep it and its lock alive."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._cursors = weakref.WeakSet()

    def cursor(self, *arguments):
        cursor = super().cursor(*arguments)
        self._cursors.add(cursor)
        return cursor

    def close(self):
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def _engine(url: sa.URL) -> sa.Engine:
    """Returns SQLAlchemy's way to a database, with SQLite set to the careful side."""
    if url.get_backend_name() == "postgresql":
        given = {name: value for name, value in _SERVER.items() if name not in url.query}
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args=given)
    options = dict(timeout=1, factory=_Connection)
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection, _):
        connection.isolation_level = None  # we say where a transaction begins
        try:
            for pragma in PRAGMAS[:1] + PRAGMAS[2:]:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:
            # For a file that can only be read this is "disk I/O error"; a write tells the cause.
            with contextlib.closing(connection):
                connection.execute("PRAGMA locking_mode = NORMAL").fetchall()
                connection.execute("BEGIN")
                connection.execute("PRAGMA user_version = 0")
            raise

    @sa.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    return engine


class Database:
    """A connection to a database, with one run in it that nobody else has open.

    A connection that is lost, to a server or by an interrupt, is made again by the next
    transaction, which takes the lock first. All belongs to the process that opened it, and not to
    its forks.

    Args:
        url: the path of an SQLite file, or an SQLAlchemy URL.
        run_name: the run to lock; in SQLite the whole file is locked.
        check: looks at the path of SQLite's file, which is locked, before anything is changed.

    Attributes:
        where: which database, as messages name it.
        dialect: "sqlite" or "postgresql".
        path: the path of SQLite's file; None for PostgreSQL.

    Raises:
        StoreError: if it cannot be opened or is open already.
    """

    _connected = weakref.WeakSet()

    def __init__(
        self,
        url: str | os.PathLike | sa.URL,
        run_name: str,
        check: Callable[[str], None],
    ):
        """See the class."""
        url = database_url(url)
        self.where, self.dialect, self._run_name = shown(url), url.get_backend_name(), run_name
        self.path, self._lock, self._files = None, None, {}
        self._connection, self._is_lost, self._process = None, False, os.getpid()
        try:
            with interrupts_held_back(), explained("Opening", self.where):
                if self.dialect == "sqlite":
                    self._lock_file(url)
                    check(self.path)
                self._engine = _engine(url)
                self._connect()
                self._connected.add(self)
        except BaseException:
            self._give_up()
            raise

    def _connect(self) -> None:
        """Connects, and takes the lock."""
        self._connection = self._engine.connect()
        if self.dialect == "postgresql":
            self._refuse_pooler()
            self._lock_run()
        elif self._is_lost:
            self.watch_log()

    def _lock_file(self, url: sa.URL) -> None:
        path = urllib.parse.urlsplit(url.database).path if "uri" in url.query else url.database
        self.path = os.path.realpath(path)
        self._lock = FileLock(self.path)
        if url.query.get("mode") != "ro":
            make_owner_only(self.path)
        refuse_half_a_store(self.path)
        self._files = {self.path: identity(self.path)}

    def _give_up(self) -> None:
        """Closes what could not be opened."""
        with interrupts_held_back(for_good=True):
            if self._lock is not None:
                self._lock.remove_if_new()
            self.close()

    def _refuse_pooler(self) -> None:
        """Refuses a pooler that shares a connection out between transactions: locks go astray.

        What serves us while we wait serves another connection, too.
        """
        query = sa.select(sa.func.pg_backend_pid())

        def served_by() -> int:
            with self._connection.begin():
                return self._connection.scalar(query)

        before, others = served_by(), []
        with contextlib.ExitStack() as stack, contextlib.suppress(sa.exc.OperationalError):
            other = stack.enter_context(self._connection.engine.connect())
            others.append(stack.enter_context(other.begin()).connection.scalar(query))
            if before in others or served_by() != before:
                raise StoreError(
                    f"Between you and {self.where} there is a pooler that shares connections out "
                    "by transaction, so that no lock holds; give the server's own address, or let "
                    "the pooler work by session."
                )

    def _lock_run(self) -> None:
        key = lock_key(f"run {self._run_name}")
        statement = sa.select(sa.func.pg_try_advisory_lock(key))
        for _ in range(20):  # the server notices a moment later that a driver is gone
            with self._connection.begin():
                if self._connection.scalar(statement):
                    return
            time.sleep(0.1)
        raise StoreError(
            f"The run {self._run_name!r} in {self.where} is open already, here or in another "
            "process; close it there first."
        )

    @contextlib.contextmanager
    def transaction(self, doing: str, *, closing: bool = False):
        """Keeps everything that is written inside, or nothing.

        Args:
            doing: what is being done, such as "Reading from", for the message.
            closing: whether it is the last one, which writes to a file that was moved as well.

        Yields:
            SQLAlchemy's connection.

        Raises:
            StoreError: if the database fails, or was closed.
        """
        with interrupts_held_back(), explained(doing, self.where):
            self._check_open(closing)
            try:
                with self._connection.begin():
                    yield self._connection
            except BaseException:
                left = self._connection
                if left is not None and (left.invalidated or left.in_transaction()):
                    self._lose()
                raise

    def _lose(self) -> None:
        """Lets go of a connection that was lost; the next transaction makes another."""
        with interrupts_held_back(for_good=True):
            connection, self._connection, self._is_lost = self._connection, None, True
            if connection is not None:
                with contextlib.suppress(sa.exc.SQLAlchemyError):
                    connection.close()

    def _check_open(self, closing: bool = False) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"{self.where} is open in the process that this one was forked from; open a store "
                "in the process that uses it."
            )
        if self._is_lost and not closing:
            try:
                self._connect()
                self._is_lost = False
            except BaseException:
                self._lose()
                raise
        if self._connection is None:
            raise StoreError(f"{self.where} was closed; open the store again.")
        for path, found in () if closing else self._files.items():
            if identity(path) != found:
                raise StoreError(
                    f"The file {path} was moved or removed while it was open; put it back and open "
                    "the store again."
                )

    def outside(self, doing: str, statement: str, *values) -> list:
        """Runs a statement of SQLite's that stands outside of transactions; returns its rows."""
        with interrupts_held_back(), explained(doing, self.where):
            self._check_open()
            driver = self._connection.connection.driver_connection
            return driver.execute(statement, values).fetchall()

    def watch_log(self) -> None:
        """Notes which file SQLite's log is, which from now on has to stay as well."""
        self._files[log_of(self.path)] = identity(log_of(self.path))

    def erase(self, doing: str, *tables: sa.Table) -> None:
        """Removes from the disk what was deleted from tables.

        SQLite overwrites what is deleted, so only its log has to be emptied; PostgreSQL writes
        the tables once more, in time that follows their size.
        """
        if self.dialect == "sqlite":
            self.outside(doing, EMPTY_LOG)
            return
        with explained(doing, self.where), self._connection.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in tables:
                connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")

    def close(self, *, keep_log: bool = False) -> None:
        """Releases the run's lock for others. What was not committed is dropped.

        Args:
            keep_log: whether an SQLite file is to have a log afterwards, be it an empty one.
        """
        connection, self._connection, self._is_lost = self._connection, None, False
        if self._process != os.getpid():  # the connection is the parent's
            return
        self._connected.discard(self)
        with contextlib.ExitStack() as at_the_end:
            if self._lock is not None:
                at_the_end.callback(self._lock.release)
            if keep_log:
                at_the_end.callback(self._make_log)
            if connection is not None:
                at_the_end.callback(connection.close)
                if self._files and identity(self.path) != self._files[self.path]:
                    # SQLite leaves a file that was moved as it is, and the rest in the log.
                    connection.connection.driver_connection.execute(EMPTY_LOG).fetchall()

    def _make_log(self) -> None:
        if identity(self.path) == self._files[self.path]:
            os.close(os.open(log_of(self.path), os.O_RDWR | os.O_CREAT, 0o600))

    @classmethod
    def leave_to_parent(cls) -> None:
        """Leaves all connections to the parent in a forked process.

        An end of theirs here would remove the log that the parent writes to, so they are kept for
        as long as the process lives.
        """
        for database in list(cls._connected):
            connection, database._connection = database._connection, None
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


os.register_at_fork(after_in_child=Database.leave_to_parent)
