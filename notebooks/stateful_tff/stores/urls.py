"""Which database a path or a URL names, and how messages show it: never with a secret.

Knows nothing of connections, locks or tables.
"""

import os
import re

import sqlalchemy as sa

from ..checks import cut_short
from .errors import StoreError

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_UNREADABLE = (
    "The URL cannot be read; write it as postgresql://user:password@host/database, with %40, %3A "
    "and %2F for @, : and / in the password."
)
# What looks like a way to a server, and would otherwise be taken for the name of a file.
_SCHEME = r"^\s*(postgres|psql|mysql|mariadb|mssql|oracle|jdbc|sqlite)[\w+]*\s*:"
_NO_PATH = re.compile(
    _SCHEME + r"|:[^/\\]*@|//[^/]*@|\b(password|passwd|pwd)\s*="
    r"|(^|\s)(host|hostaddr|dbname|user|port|service)\s*=.*\s\w+\s*=",
    re.IGNORECASE,
)


def database_url(url: str | os.PathLike | sa.URL) -> sa.URL:
    """Returns the URL of a database that a store can use.

    Args:
        url: the path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL.

    Raises:
        TypeError: if it is neither.
        StoreError: if it names another kind of database, or none that lasts.
    """
    if isinstance(url, os.PathLike):
        path = os.fspath(url)
        if isinstance(path, str) and re.search(_SCHEME, path, re.IGNORECASE):
            raise StoreError(_UNREADABLE)
        url = sa.URL.create("sqlite", database=path) if isinstance(path, str) else path
    elif isinstance(url, str) and "://" not in url:
        if _NO_PATH.search(url):
            raise StoreError(_UNREADABLE)
        url = sa.URL.create("sqlite", database=url)
    if not isinstance(url, str | sa.URL):
        raise TypeError(f"A store needs a path or a URL, not a value of type {type(url).__name__}.")
    try:
        odd = isinstance(url, str) and url.count("@") > 1
        url = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # whose words could repeat a password
        odd = True
    if odd or "@" in (url.host or ""):
        raise StoreError(_UNREADABLE)
    if url.drivername not in _DRIVERS:
        raise StoreError(
            f"{url.drivername} is neither SQLite nor PostgreSQL; give a URL of one of them."
        )
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "postgresql":
        return url
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        raise StoreError("SQLite in memory keeps nothing; give the path of a file.")
    if "\0" in url.database:
        raise StoreError("The path of a store has a NUL character in it; take it out.")
    return url


def shown(url: sa.URL) -> str:
    """Returns which database a URL names, without password and options."""
    if url.get_backend_name() == "sqlite":
        return cut_short(url.database)
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"
