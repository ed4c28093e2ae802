"""What can be wrong with a store, in one sentence each.

Knows nothing of states, runs or tables.
"""

import contextlib
import json
import sqlite3

import sqlalchemy as sa


class StoreError(RuntimeError):
    """A store that cannot be used. One sentence says what is wrong, where, and how to fix it."""


# The first phrase that occurs in a database's message decides, so the special ones come first.
_ADVICE = {
    "disk is full": "the disk is full; make room",
    "No space left": "the disk is full; make room",
    "disk I/O error": "the disk refuses to write or read; look at its space, limits and health",
    "too big": "a state is larger than SQLite takes, a gigabyte; use PostgreSQL",
    "readonly database": "it can only be read; allow writing to the file and its folder",
    "Permission denied": "it can only be read; allow writing to the file and its folder",
    "Read-only file system": "it can only be read; allow writing to the file and its folder",
    "read-only transaction": "the server only lets you read; ask for the right to write",
    "unable to open": "it cannot be opened; look at the path and at the folder's permissions",
    "No such file": "it cannot be opened; look at the path and at the folder's permissions",
    "Is a directory": "it cannot be opened; that is a folder, so name a file in it",
    "is locked": "it is open already, here or in another process; close it there first",
    "temporarily unavailable": "it is open already, here or in another process; close it there "
    "first",
    "malformed": "it is damaged; go back to a backup",
    "not a database": "it is no SQLite file; choose another path",
    "already exists": "there is something of that name already; choose another",
    "File exists": "there is something of that name already; choose another",
    "password": "the server does not accept this user and password; look at both",
    "no pg_hba.conf entry": "the server does not let this user in from here; ask its administrator",
    "does not exist": "the server has no such database or user; create it, or look at the URL",
    "SSL": "the server and this machine do not agree on SSL; look at the URL's sslmode",
    "invalid connection option": "an option in the URL is unknown; remove it",
    "connect": "the database server does not answer; look at the URL and at the server",
}


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
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{doing} {where} failed: it is damaged; go back to a backup.") from error
    except (sa.exc.DBAPIError, sqlite3.Error, OSError) as error:
        lost = getattr(error, "connection_invalidated", False)
        text = str(getattr(error, "orig", error))
        first = text.splitlines()[0] if text else type(error).__name__
        advice = next((advice for phrase, advice in _ADVICE.items() if phrase in text), first)
        if lost:
            advice = "the connection to the server was lost; open the store again"
        raise StoreError(f"{doing} {where} failed: {advice}.") from error
