"""A fresh database of each kind, for the tests of stores."""

import pytest
import sqlalchemy as sa

from tools import postgres


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a database on a server of its own."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server):
    """The same, with nothing in it."""
    url = postgres_server.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A path or URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "run.sqlite")
    return request.getfixturevalue("postgres_url")
