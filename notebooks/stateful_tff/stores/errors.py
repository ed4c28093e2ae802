"""What can be wrong with a store, in one sentence each.

Knows nothing of states, runs or tables.
"""

import contextlib
import json
import sqlite3

import sqlalchemy as sa


class StoreError(RuntimeError):
    """A store that cannot be used. One sentence says what is wrong, where, and how to fix it."""


_READ_ONLY = "it can only be read; allow writing to the file and its folder"
_CANNOT_OPEN = "it cannot be opened; look at the path and at the folder's permissions"
_OPEN_ALREADY = "it is open already, here or in another process; close it there first"
_NO_LOCKS = (
    "the file system has no locks, as on some network and cloud drives; put the store on a local "
    "disk, and copy backups from there"
)
_NAME_TAKEN = "there is something of that name already; choose another"
_SERVER_BUSY = "the server is starting or stopping; try again in a moment"
_SERVER_FULL = "the server has no connection left for you; close others, or try again later"
_UNKNOWN_THERE = "the server has no such database or user; create it, or look at the URL"
_ACCESS = "the server does not accept this user and password; look at both"
_SSL = "the server and this machine do not agree on SSL; look at the URL's sslmode"

# What a server says that answers, and says no. The first phrase that occurs decides.
_REFUSALS = {
    "password": _ACCESS,
    "authentication failed": _ACCESS,
    "no pg_hba.conf entry": "the server does not let this user in from here; ask its administrator",
    "pg_hba.conf rejects": "the server does not let this user in from here; ask its administrator",
    "is not permitted to log in": "the server does not let this user log in; ask its administrator",
    "does not exist": _UNKNOWN_THERE,
    "no such database": _UNKNOWN_THERE,
    "no such user": _UNKNOWN_THERE,
    "too many c": _SERVER_FULL,
    "connection slots": _SERVER_FULL,
    "no more connections": _SERVER_FULL,
    "starting up": _SERVER_BUSY,
    "shutting down": _SERVER_BUSY,
    "in recovery mode": _SERVER_BUSY,
    "not accepting": "the server does not let anybody into this database; ask its administrator",
    "permission denied": "the user may not use this database; ask its administrator",
    "SSL": _SSL,
}
# The same for all other messages of a database, and of the files of one.
_ADVICE = {
    "disk is full": "the disk is full; make room",
    "No space left": "the disk is full; make room",
    "quota exceeded": "the disk is full; make room",
    "No locks available": _NO_LOCKS,
    "Operation not supported": _NO_LOCKS,
    "Function not implemented": _NO_LOCKS,
    "disk I/O error": "the disk refuses to write or read; look at its space, limits and health",
    "Input/output error": "the disk refuses to write or read; look at its space, limits and health",
    "too big": "a state is larger than a database takes, a gigabyte",
    "readonly database": _READ_ONLY,
    "Permission denied": _READ_ONLY,
    "Operation not permitted": _READ_ONLY,
    "Read-only file system": _READ_ONLY,
    "read-only transaction": "the server only lets you read; ask for the right to write",
    "permission denied for": "the server does not let this user make tables or write there; "
    "GRANT it the right",
    "no schema has been selected": "the search_path of this user names no schema; create one, or "
    "set it",
    "statement timeout": "the server ended a statement that took too long; raise its "
    "statement_timeout",
    "unable to open": _CANNOT_OPEN,
    "No such file": _CANNOT_OPEN,
    "Not a directory": _CANNOT_OPEN,
    "name too long": "its name is too long for the disk; choose a shorter one",
    "Is a directory": "it cannot be opened; that is a folder, so name a file in it",
    "no regular file": "it cannot be opened; that is a device or a pipe, so name a file",
    "is locked": _OPEN_ALREADY,
    "temporarily unavailable": _OPEN_ALREADY,
    "malformed": "it is damaged; go back to a backup",
    "no such table": "it lacks a table, so it is damaged; go back to a backup",
    "no such column": "it lacks a column, so it is damaged; go back to a backup",
    "UndefinedTable": "it lacks a table, so it is damaged; go back to a backup",
    "UndefinedColumn": "it lacks a column, so it is damaged; go back to a backup",
    "not a database": "it is no SQLite file; choose another path",
    "already exists": _NAME_TAKEN,
    "File exists": _NAME_TAKEN,
    "SSL negotiation": "what answers there is no PostgreSQL server; look at host and port",
    "closed the connection unexpectedly": "what answers there hung up; look at host and port, and "
    "at the server's log",
    "SSL": _SSL,
    "root certificate": _SSL,
    "invalid connection option": "an option in the URL is unknown; remove it",
    "invalid URI query parameter": "an option in the URL is unknown; remove it",
    "no password supplied": _ACCESS,
    "failed to resolve host": "nobody knows the server's name; look at the host in the URL",
    "translate host name": "nobody knows the server's name; look at the host in the URL",
    "connect": "the database server does not answer; look at the URL and at the server",
}


def _advice(error: Exception) -> str:
    """Returns what is wrong, and how to fix it."""
    own = getattr(error, "orig", error)
    if getattr(error, "connection_invalidated", False):
        return "the connection to the server was lost; run this again once it answers"
    if (getattr(own, "sqlite_errorname", None) or "").endswith("LOCK"):
        return _NO_LOCKS
    text = f"{type(own).__name__} {own}"
    said = text.rpartition("FATAL:")
    for phrase, advice in (_REFUSALS if said[1] else _ADVICE).items():
        if phrase in said[2]:
            return advice
    words = said[2] if said[1] else str(own)
    first = words.strip().splitlines()[0].rstrip(".") if words.strip() else type(own).__name__
    return f"the server refuses: {first}" if said[1] else first


@contextlib.contextmanager
def explained(doing: str, where: str):
    """Turns the errors of a database, and of its files, into one sentence.

    Args:
        doing: what is being done, such as "Opening"; the sentence begins with it.
        where: which database, without any password.

    Raises:
        StoreError: in place of the database's error.
    """
    try:
        yield
    except (UnicodeDecodeError, json.JSONDecodeError, sa.exc.NoResultFound) as error:
        raise StoreError(f"{doing} {where} failed: it is damaged; go back to a backup.") from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StoreError(f"{doing} {where} failed: {_advice(error)}.") from error


@contextlib.contextmanager
def damage_explained(doing: str, where: str):
    """Turns the errors of what stumbles over rows of another kind than were written.

    Raises:
        StoreError: in their place.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise StoreError(f"{doing} {where} failed: it is damaged; go back to a backup.") from error
