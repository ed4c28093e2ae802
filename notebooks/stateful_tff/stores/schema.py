"""The tables that runs lie in, and how a database comes to have them.

Knows nothing of states, models or rounds: a state is bytes here.
"""

import hashlib

import sqlalchemy as sa

from .errors import StoreError
from .migrations import MIGRATIONS

SCHEMA_VERSION = 3
_tables = sa.MetaData()
schema = sa.Table("stateful_schema", _tables, sa.Column("version", sa.Integer, primary_key=True))
runs = sa.Table(
    "stateful_runs",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, unique=True, nullable=False),
    sa.Column("about", sa.Text, nullable=False),  # the kinds of states, and the settings, as JSON
    sa.Column("plan", sa.Text),  # how rounds are sampled and fed, as JSON, from the first one on
    sa.Column("text_crc32", sa.BigInteger, nullable=False),  # of both
    sa.Column("round", sa.Integer, nullable=False),  # the last one committed
    sa.Column("num_visited", sa.BigInteger, nullable=False),  # rows in `clients`
    sa.Column("clients_crc32", sa.BigInteger, nullable=False),  # the sum of theirs
    sa.Column("num_kept", sa.BigInteger, nullable=False),  # rows in `kept_states`
    sa.Column("kept_crc32", sa.BigInteger, nullable=False),
    sa.Column("rounds_crc32", sa.BigInteger, nullable=False),
    sa.Column("crc32", sa.BigInteger, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),  # of the server
)


def _table(name: str, *keys: str, **others) -> sa.Table:
    """Returns a table of things that belong to a run, found by `keys` within it."""
    return sa.Table(
        f"stateful_{name}",
        _tables,
        sa.Column("run", sa.ForeignKey(runs.c.id), primary_key=True),
        *(sa.Column(key, sa.Integer, primary_key=True, autoincrement=False) for key in keys),
        *(sa.Column(name, kind, nullable=False) for name, kind in others.items()),
        sqlite_with_rowid=False,
    )


_state = dict(crc32=sa.BigInteger, state=sa.LargeBinary)
clients = _table("clients", "client", last_round=sa.Integer, num_visits=sa.Integer, **_state)
kept_states = _table("kept_states", "client", "round", **_state)
rounds = _table("rounds", "round", crc32=sa.BigInteger, metrics=sa.Text)
sessions = _table(
    "sessions",
    session=sa.BigInteger,  # a random number for the last opening of the run
    previous=sa.BigInteger,  # that of the opening before
    writes=sa.BigInteger,  # how often this one wrote
    is_open=sa.Integer,
)


def lock_key(text: str) -> int:
    """Returns the number, of 64 bits, by which PostgreSQL locks what a text names."""
    digest = hashlib.blake2b(f"stateful_tff {text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def prepare(connection: sa.Connection, where: str) -> None:
    """Makes the tables where there are none, and brings older ones up to date.

    Args:
        connection: within a transaction, so that all of this happens or nothing.
        where: which database, for the message.

    Raises:
        StoreError: if the tables are of a version that this book does not know.
    """
    if connection.dialect.name == "postgresql":  # several runs may be opened at once
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock_key("schema"))))
    if not sa.inspect(connection).has_table(schema.name):
        _tables.create_all(connection)
        connection.execute(schema.insert().values(version=SCHEMA_VERSION))
    version = connection.scalar(sa.select(schema.c.version))
    if version != SCHEMA_VERSION and version not in MIGRATIONS:
        raise StoreError(
            f"{where} has the store's schema version {version}; this book reads versions "
            f"{min(MIGRATIONS)} to {SCHEMA_VERSION}. Open it with the edition that wrote it."
        )
    while version != SCHEMA_VERSION:
        MIGRATIONS[version](connection)
        version += 1
        connection.execute(schema.update().values(version=version))
