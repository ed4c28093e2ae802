"""A way to an SQLite file or a PostgreSQL server: one run, locked, in whole transactions.

Knows nothing of states and rounds: it opens, locks, and reports faults in one sentence.
"""

import contextlib
import fcntl
import os
import signal
import sqlite3
import threading
import time
import urllib.parse
import weakref
from pathlib import Path

import sqlalchemy as sa

from .errors import StoreError, explained
from .schema import lock_key

PRAGMAS = (
    "locking_mode = EXCLUSIVE",  # one process at a time
    "journal_mode = WAL",  # a commit is appended to a log, whole or not at all
    "synchronous = FULL",  # and waits for the disk
    "wal_autocheckpoint = 8000",  # the log goes into the file every 32 MB
    "secure_delete = ON",  # what is deleted is overwritten with zeros
)
_OPEN_ALREADY = "is open already, here or in another process; close it there first."
_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def database_url(url: str | os.PathLike | sa.URL) -> sa.URL:
    """Returns the URL of a database that a store can use.

    Args:
        url: the path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL.

    Raises:
        TypeError: if it is neither.
        StoreError: if it names another kind of database, or none that lasts.
    """
    if isinstance(url, os.PathLike):
        url = os.fspath(url)
    if isinstance(url, str) and "://" not in url:
        url = sa.URL.create("sqlite", database=url)
    if not isinstance(url, str | sa.URL):
        raise TypeError(f"A store needs a path or a URL, not {url!r}.")
    try:
        url = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # whose words could repeat a password
        url = None
    if url is None or "@" in (url.host or ""):
        raise StoreError(
            "The URL cannot be read; write it as postgresql://user:password@host/database, with "
            "%40, %3A and %2F for @, : and / in the password."
        )
    if url.drivername not in _DRIVERS:
        raise StoreError(
            f"{url.drivername} is neither SQLite nor PostgreSQL; give a URL of one of them."
        )
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite" and (
        not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"
    ):
        raise StoreError("SQLite in memory keeps nothing; give the path of a file.")
    return url


def shown(url: sa.URL) -> str:
    """Returns which database a URL names, without password and options."""
    if url.get_backend_name() == "sqlite":
        return url.database
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"


class FileLock:
    """A lock on a file, held by one open store at a time, and let go of by a kill.

    It is held on a file of its own beside it. SQLite's own lock is one of the process: it is
    gone as soon as anything else in the process reads the file and closes it again.

    Args:
        path: the file to lock; `path + ".lock"` is made beside it and stays there.

    Raises:
        OSError: if somebody holds the lock, or the file cannot be made.
    """

    _held = weakref.WeakSet()

    def __init__(self, path: str):
        """See the class."""
        self._descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise
        self._held.add(self)

    def release(self) -> None:
        """Lets go of the lock."""
        self._held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @classmethod
    def release_all(cls) -> None:
        """Lets go in a forked process, which would hold the locks for longer than its parent."""
        for lock in list(cls._held):
            lock.release()


os.register_at_fork(after_in_child=FileLock.release_all)


def _owner_only(path: str) -> None:
    """Makes an SQLite file that its owner alone can read; SQLite gives its logs the same rights.

    A file that holds something else than a database is left as it is.
    """
    if not os.path.exists(path):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with open(path, "rb") as file:
        if file.read(16) not in (b"", b"SQLite format 3\0"):
            return
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(OSError):  # there is none, or it is not ours
            mode = os.stat(name).st_mode & 0o777
            if mode & 0o077:
                os.chmod(name, mode & 0o700)


@contextlib.contextmanager
def interrupts_held_back():
    """Holds back Ctrl-C until what is inside is done; a second one gets through at once."""
    handler, held = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return

    def hold(*arguments):
        if held:
            handler(*arguments)
        held.append(arguments)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if len(held) == 1:
            handler(*held[0])


def _engine(url: sa.URL) -> sa.Engine:
    """Returns SQLAlchemy's way to a database, with SQLite set to the careful side."""
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, poolclass=sa.NullPool)
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=dict(timeout=1))

    @sa.event.listens_for(engine, "connect")
    def prepare(connection, _):
        connection.isolation_level = None  # we say where a transaction begins
        try:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").fetchall()
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

    A connection that is lost is not made again in silence, since the lock went with it: the
    database is closed then.

    Args:
        url: the path of an SQLite file, or an SQLAlchemy URL.
        run_name: the run to lock; in SQLite the whole file is locked.

    Attributes:
        where: which database, as messages name it.
        dialect: "sqlite" or "postgresql".

    Raises:
        StoreError: if it cannot be opened or is open already.
    """

    def __init__(self, url: str | os.PathLike | sa.URL, run_name: str):
        """See the class."""
        url = database_url(url)
        self.where, self.dialect = shown(url), url.get_backend_name()
        self._url, self._connection, self._lock, self._file = url, None, None, None
        with contextlib.ExitStack() as on_error, interrupts_held_back():
            on_error.callback(self.close)
            with explained("Opening", self.where):
                if self.dialect == "sqlite":
                    self._lock_file()
                self._connection = _engine(url).connect()
                if self.dialect == "sqlite":
                    self._file = _identity(self._path)
                else:
                    self._lock_run(run_name)
            on_error.pop_all()

    @property
    def _path(self) -> str:
        """The path of SQLite's file."""
        if "uri" in self._url.query:
            return urllib.parse.urlsplit(self._url.database).path
        return self._url.database

    def _lock_file(self) -> None:
        self._lock = FileLock(os.path.realpath(self._path))
        if self._url.query.get("mode") != "ro":
            _owner_only(self._path)

    def _lock_run(self, run_name: str) -> None:
        statement = sa.select(sa.func.pg_try_advisory_lock(lock_key(f"run {run_name}")))
        for _ in range(20):  # the server notices a moment later that a driver is gone
            with self._connection.begin():
                if self._connection.scalar(statement):
                    return
            time.sleep(0.1)
        raise StoreError(f"The run {run_name!r} in {self.where} {_OPEN_ALREADY}")

    @contextlib.contextmanager
    def transaction(self, doing: str):
        """Keeps everything that is written inside, or nothing.

        Args:
            doing: what is being done, such as "Reading from", for the message.

        Yields:
            SQLAlchemy's connection.

        Raises:
            StoreError: if the database fails, or was closed.
        """
        with interrupts_held_back(), explained(doing, self.where):
            self._check_open()
            try:
                with self._connection.begin():
                    yield self._connection
            except BaseException:
                if self._connection is not None and self._connection.invalidated:
                    self.close()
                raise

    def _check_open(self) -> None:
        if self._connection is None:
            raise StoreError(f"{self.where} was closed; open the store again.")
        if self._file and _identity(self._path) != self._file:
            raise StoreError(
                f"The file {self.where} was moved or removed while it was open; put it back and "
                "open the store again."
            )

    def outside(self, doing: str, statement: str, *values) -> list:
        """Runs a statement of SQLite's that stands outside of transactions; returns its rows."""
        with interrupts_held_back(), explained(doing, self.where):
            self._check_open()
            driver = self._connection.connection.driver_connection
            return driver.execute(statement, values).fetchall()

    def erase(self, doing: str, *tables: sa.Table) -> None:
        """Removes from the disk what was deleted from tables.

        SQLite overwrites what is deleted, so only its log has to be emptied; PostgreSQL writes
        the tables once more, in time that follows their size.
        """
        if self.dialect == "sqlite":
            self.outside(doing, "PRAGMA wal_checkpoint(TRUNCATE)")
            return
        with explained(doing, self.where), self._connection.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in tables:
                connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")

    def backup(self, path: str | os.PathLike) -> None:
        """Writes a copy of an SQLite file, which is there whole or not at all.

        Args:
            path: where to; nothing may be there.

        Raises:
            StoreError: if there is something, the disk refuses, or this is not SQLite.
        """
        if self.dialect != "sqlite":
            raise StoreError("Copy a PostgreSQL store with pg_dump.")
        path = Path(path)
        doing, new = f"Copying to {path} from", path.with_name(f"{path.name}.{os.getpid()}.new")
        with explained(doing, self.where):
            if path.exists():
                raise FileExistsError("File exists")
            try:
                os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
                self.outside(doing, "VACUUM INTO ?", str(new))
                _sync(new)
                os.rename(new, path)
                _sync(path.parent)
            finally:
                new.unlink(missing_ok=True)

    def close(self) -> None:
        """Releases the run's lock for others. What was not committed is dropped."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()


def _identity(path: str) -> tuple[int, int]:
    """Returns what tells a file from any other, whatever its name."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _sync(path: Path) -> None:
    """Waits until the disk has a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
