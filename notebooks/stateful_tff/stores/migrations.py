"""What a database of an older schema version needs to be one of the next version.

Knows nothing of the present tables and states: each step is fixed once it is published.
"""

import itertools
import json
import struct
import zlib
from collections.abc import Iterable

import sqlalchemy as sa

_TEXT_OF_1 = ("num_clients", "keep_states", "first_client_state")
_PACKAGES_OF_1 = ("tensorflow", "tensorflow-federated", "numpy")
_AT_ONCE = 10_000


def from_1_to_2(connection: sa.Connection) -> None:
    """Gives every client state the two numbers that it lacks, `last_round` and `num_visits`.

    Version 1, of the book's first edition, noted in which round a client's row was written, and
    that is its last round. How often a client took part stands nowhere. In a run that kept the
    states of earlier rounds it is the number of these. In any other run it is unknown, and a
    client that was visited at all counts as visited once.

    The bytes of a state stay as they are and the two numbers, int32, follow them. Its checksum
    is carried on over them from the one that was stored, so that a state which was damaged
    before is found to be damaged afterwards. The server's states do not change. What version 1
    noted of its loop (`plan`) has no meaning for the loop of today: the first loop that goes on
    with the run decides it.
    """
    add = "ALTER TABLE {} ADD COLUMN {} NOT NULL DEFAULT 0"
    for statement in (
        "ALTER TABLE stateful_clients RENAME round TO last_round",
        add.format("stateful_clients", "num_visits INTEGER"),
        add.format("stateful_runs", "num_visited BIGINT"),
        add.format("stateful_runs", "clients_crc32 BIGINT"),
        add.format("stateful_rounds", "crc32 BIGINT"),
        "UPDATE stateful_runs SET plan = NULL",
        "UPDATE stateful_clients SET num_visits = 1",
        "UPDATE stateful_clients SET num_visits = (SELECT count(*) FROM stateful_kept_states AS k "
        "WHERE k.run = stateful_clients.run AND k.client = stateful_clients.client) "
        "WHERE run IN (SELECT run FROM stateful_kept_states)",
    ):
        connection.execute(sa.text(statement))
    for run, about in connection.execute(sa.text("SELECT id, about FROM stateful_runs")).all():
        _client_states(connection, run)
        _kept_states(connection, run)
        _history(connection, run)
        connection.execute(
            sa.text(
                "UPDATE stateful_runs SET about = :about, "
                "num_visited = (SELECT count(*) FROM stateful_clients WHERE run = :run), "
                "clients_crc32 = (SELECT coalesce(sum(crc32), 0) FROM stateful_clients "
                "WHERE run = :run) WHERE id = :run"
            ),
            dict(run=run, about=json.dumps(_about(json.loads(about)))),
        )


def _longer(data: bytes, checksum: int, last_round: int, num_visits: int) -> dict:
    """Returns a state with two more numbers, and the checksum carried on over them."""
    more = struct.pack("<ii", last_round, num_visits)
    return dict(state=data + more, crc32=zlib.crc32(more, checksum))


def _about(about: dict) -> dict:
    """Returns what version 1 says of a run, in the words of version 2."""
    kinds = {key: kind for key, kind in about.items() if key.startswith(("server ", "client "))}
    known = {key: about[key] for key in (*_TEXT_OF_1, *_PACKAGES_OF_1) if key in about}
    settings = {key: about[key] for key in about if key not in kinds and key not in known}
    kinds |= {"client last_round[0]": "int32[]", "client num_visits[0]": "int32[]"}
    # Of the first client state there is only the checksum; both of its new numbers are zero.
    known["first_client_state"] = _longer(b"", about["first_client_state"], 0, 0)["crc32"]
    return known | kinds | {"settings": settings}


def _in_parts(connection: sa.Connection, query: str, run: int, *keys: str) -> Iterable[list]:
    """Yields the rows of a query in parts, each found by the keys after the last one's.

    The statement is run once for each part, since the rows change in between.
    """
    after = dict.fromkeys(keys, -1)
    while True:
        rows = connection.execute(sa.text(query), after | dict(run=run, n=_AT_ONCE)).all()
        if not rows:
            return
        yield rows
        after = dict(zip(keys, rows[-1], strict=False))


def _client_states(connection: sa.Connection, run: int) -> None:
    """Lengthens the last states of a run's clients."""
    query = (
        "SELECT client, last_round, num_visits, crc32, state FROM stateful_clients "
        "WHERE run = :run AND client > :client ORDER BY client LIMIT :n"
    )
    update = sa.text(
        "UPDATE stateful_clients SET crc32 = :crc32, state = :state "
        "WHERE run = :run AND client = :client"
    )
    for rows in _in_parts(connection, query, run, "client"):
        connection.execute(
            update,
            [
                dict(run=run, client=client) | _longer(bytes(data), checksum, last_round, visits)
                for client, last_round, visits, checksum, data in rows
            ],
        )


def _kept_states(connection: sa.Connection, run: int) -> None:
    """Lengthens the earlier states of a run's clients, which come in the order of their rounds."""
    query = (
        "SELECT client, round, crc32, state FROM stateful_kept_states WHERE run = :run "
        "AND (client > :client OR (client = :client AND round > :round)) "
        "ORDER BY client, round LIMIT :n"
    )
    update = sa.text(
        "UPDATE stateful_kept_states SET crc32 = :crc32, state = :state "
        "WHERE run = :run AND client = :client AND round = :round"
    )
    client_before, visits = None, itertools.count(1)
    for rows in _in_parts(connection, query, run, "client", "round"):
        new = []
        for client, round_num, checksum, data in rows:
            if client != client_before:
                client_before, visits = client, itertools.count(1)
            state = _longer(bytes(data), checksum, round_num, next(visits))
            new.append(dict(run=run, client=client, round=round_num) | state)
        connection.execute(update, new)


def _history(connection: sa.Connection, run: int) -> None:
    """Gives every row of the history a checksum."""
    query = "SELECT round, metrics FROM stateful_rounds WHERE run = :run"
    rows = connection.execute(sa.text(query), dict(run=run)).all()
    update = "UPDATE stateful_rounds SET crc32 = :crc32 WHERE run = :run AND round = :round"
    if rows:
        connection.execute(
            sa.text(update),
            [dict(run=run, round=r, crc32=zlib.crc32(metrics.encode())) for r, metrics in rows],
        )


def from_2_to_3(connection: sa.Connection) -> None:
    """Notes sums over all rows of a run, and makes the table of the openings of runs.

    Version 2 noted of a sampler that is a function only its name, and of ids only their number.
    So its plans are dropped, and the first loop that goes on with the run decides it.
    """
    add = "ALTER TABLE stateful_runs ADD COLUMN {} BIGINT NOT NULL DEFAULT 0"
    for column in ("text_crc32", "num_kept", "kept_crc32", "rounds_crc32"):
        connection.execute(sa.text(add.format(column)))
    connection.execute(
        sa.text(
            "CREATE TABLE stateful_sessions (run INTEGER NOT NULL REFERENCES stateful_runs (id), "
            "session BIGINT NOT NULL, previous BIGINT NOT NULL, writes BIGINT NOT NULL, "
            "is_open INTEGER NOT NULL, PRIMARY KEY (run))"
            + (" WITHOUT ROWID" if connection.dialect.name == "sqlite" else "")
        )
    )
    sums = (
        "num_kept = (SELECT count(*) FROM stateful_kept_states WHERE run = :run), "
        "kept_crc32 = (SELECT coalesce(sum(crc32), 0) FROM stateful_kept_states WHERE run = :run), "
        "rounds_crc32 = (SELECT coalesce(sum(crc32), 0) FROM stateful_rounds WHERE run = :run)"
    )
    new = f"UPDATE stateful_runs SET plan = NULL, text_crc32 = :crc32, {sums} WHERE id = :run"
    for run, about in connection.execute(sa.text("SELECT id, about FROM stateful_runs")).all():
        connection.execute(sa.text(new), dict(run=run, crc32=zlib.crc32(about.encode())))


# The step from each older version to the next.
MIGRATIONS = {1: from_1_to_2, 2: from_2_to_3}
