"""Databases of older schema versions, opened by this one."""

import contextlib
import importlib.metadata
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from experiments import kill_and_resume
from stateful_tff.state import ClientState, ServerState
from stateful_tff.stores import SqlStore, StoreError
from stateful_tff.stores.schema import SCHEMA_VERSION
from stateful_tff.training import Round

VERSION_1, VERSION_2 = (
    (Path(__file__).parent / "data" / f"store_version_{number}.sql").read_text()
    for number in (1, 2)
)
SETTINGS = dict(rate=0.5)


class Process:
    """What the runs of version 1 were made with."""

    @staticmethod
    def initialize():
        zeros = np.zeros((3, 2), np.float32)
        return ServerState([zeros], (zeros,), np.int32(0))

    @staticmethod
    def client_state_fn():
        return state_of(-1, 0.5, 0, 0, 0)


def state_of(client, weight, momentum, last_round, num_visits):
    weight, momentum = (np.full((1, 2), value, np.float32) for value in (weight, momentum))
    visits = np.int32(last_round), np.int32(num_visits)
    return ClientState(np.int32(client), [weight], (momentum,), *visits)


@pytest.fixture
def old(url):
    """A database of version 1, with the packages of today."""
    return written(url, VERSION_1)


@pytest.fixture
def of_version_2(url):
    """The same runs, of version 2."""
    return written(url, VERSION_2)


def written(url, script):
    """Writes a database, with the packages of today, and returns its URL."""
    for package in ("tensorflow", "tensorflow-federated", "numpy"):
        now = f'"{package}": "{importlib.metadata.version(package)}"'
        script = re.sub(f'"{package}": "[^"]*"', now, script)
    if "://" not in url:
        with contextlib.closing(sqlite3.connect(url)) as connection:
            connection.executescript(script)
        return url
    script = script.replace(" BLOB ", " BYTEA ").replace(") WITHOUT ROWID", ")")
    script = re.sub("X'([0-9A-F]*)'", r"'\\x\1'", script).replace("id INTEGER", "id SERIAL")
    with kill_and_resume.engine_of(url).begin() as connection:
        connection.connection.driver_connection.execute(script)
        connection.exec_driver_sql("SELECT setval('stateful_runs_id_seq', 2)")
    return url


def open_store(url, name, **options):
    return SqlStore(url, Process, 5, name=name, settings=SETTINGS, **options)


def round_4(clients, num_visits):
    states = [state_of(c, 10 * c + 4, -4, 4, n) for c, n in zip(clients, num_visits, strict=True)]
    weights = np.full((3, 2), 4, np.float32)
    server = ServerState([weights], (-weights,), np.int32(4))
    return Round(4, np.array(clients), server, states, {"loss": 0.25}, 0.5, 0.25)


@pytest.mark.parametrize("name, visits", [("plain", [1, 1, 0, 1, 0]), ("kept", [2, 1, 0, 3, 0])])
def test_a_run_of_version_1_is_whole_and_goes_on(old, name, visits):
    with open_store(old, name, keep_states=name == "kept") as store:
        assert store.round_num == 3
        assert store.server_state.model_weights[0].tolist() == [[3, 3]] * 3
        assert store.server_state.optimizer_state[0].tolist() == [[-3, -3]] * 3
        assert store.history["loss"].tolist() == [1, 1 / 2, 1 / 3]
        assert store.last_round.tolist() == [3, 2, 0, 3, 0]
        assert store.num_visits.tolist() == visits
        assert store.age.tolist() == [0, 1, -1, 0, -1]
        assert store.visited.tolist() == [0, 1, 3]
        states = store[range(5)]
        assert states.index.tolist() == [0, 1, 2, 3, 4]
        assert states.local_weights[0][:, 0, 0].tolist() == [3, 12, 0.5, 33, 0.5]
        assert states.optimizer_state[0][:, 0, 0].tolist() == [-3, -2, 0, -3, 0]
        assert states.last_round.tolist() == [3, 2, 0, 3, 0]
        assert states.num_visits.tolist() == visits
        store.keep_plan(dict(sampler="another"))  # a plan of version 1 binds nobody
        store.commit(round_4([3, 2], [visits[3] + 1, 1]))
    with open_store(old, name, keep_states=name == "kept") as store:
        assert store.round_num == len(store.history) == 4
        assert store.num_visits.tolist() == [*visits[:2], 1, visits[3] + 1, 0]
        assert store[3].local_weights[0].tolist() == [[34, 34]]


@pytest.mark.parametrize("name", ["plain", "kept"])
def test_a_run_of_version_2_is_whole_and_goes_on(of_version_2, name):
    options = dict(keep_states=name == "kept")
    with open_store(of_version_2, name, **options) as store:
        assert store.round_num == len(store.history) == 3
        assert store.server_state.model_weights[0].tolist() == [[3, 3]] * 3
        assert store.num_visits.tolist() == [2, 1, 0, 3, 0]
        assert store[range(5)].local_weights[0][:, 0, 0].tolist() == [3, 12, 0.5, 33, 0.5]
        if name == "kept":
            assert [int(store.state_at(3, r).num_visits) for r in range(4)] == [0, 1, 2, 3]
        store.keep_plan(dict(sampler="another(seed=0)"))  # what version 2 noted says too little
        store.commit(round_4([3, 2], [4, 1]))
        store.forget(0)
    with open_store(of_version_2, name, **options) as store:
        assert store.round_num == len(store.history) == 4
        assert store.num_visits.tolist() == [0, 1, 1, 4, 0]


@pytest.mark.parametrize("table", ["clients", "kept_states", "rounds"])
def test_what_a_run_of_version_2_lost_is_told_of_afterwards(of_version_2, table):
    open_store(of_version_2, "plain").close()
    with kill_and_resume.engine_of(of_version_2).begin() as connection:
        order = "client" if table == "clients" else "round"
        connection.exec_driver_sql(f"DELETE FROM stateful_{table} WHERE run = 2 AND {order} = 3")
    with pytest.raises(StoreError, match="lacks rows"):
        open_store(of_version_2, "kept", keep_states=True)
    open_store(of_version_2, "plain").close()


def test_earlier_states_of_version_1_know_how_often_their_client_had_been_visited(old):
    with open_store(old, "kept", keep_states=True) as store:
        states = [store.state_at(3, round_num) for round_num in range(4)]
        assert [int(state.num_visits) for state in states] == [0, 1, 2, 3]
        assert [int(state.last_round) for state in states] == [0, 1, 2, 3]
        assert [float(state.local_weights[0][0, 0]) for state in states] == [0.5, 31, 32, 33]
        assert int(store.state_at(0, 2).last_round) == 1


def test_a_run_of_version_1_with_other_settings_is_refused_and_a_new_one_is_not(old):
    with pytest.raises(StoreError, match="made with rate 0.5, and this is 0.1"):
        SqlStore(old, Process, 5, name="plain", settings=dict(rate=0.1))
    with open_store(old, "new") as store:
        assert store.round_num == 0


def test_a_state_that_was_damaged_in_version_1_is_damaged_afterwards(old):
    with kill_and_resume.engine_of(old).begin() as connection:
        connection.exec_driver_sql(
            "UPDATE stateful_clients SET state = (SELECT state FROM stateful_clients "
            "WHERE run = 1 AND client = 3) WHERE run = 1 AND client = 1"
        )
    with open_store(old, "plain") as store:
        with pytest.raises(StoreError, match="state of client 1 is not what was written"):
            store[1]
        assert store[3].local_weights[0].tolist() == [[33, 33]]


def test_a_migration_that_fails_leaves_version_1_as_it_was(old, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("stateful_tff.stores.migrations._history", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_store(old, "plain")
    with kill_and_resume.engine_of(old).connect() as connection:
        count = "SELECT count(*) FROM stateful_clients WHERE round > 0"
        assert connection.exec_driver_sql(count).scalar() == 6
        assert connection.exec_driver_sql("SELECT version FROM stateful_schema").scalar() == 1
    with open_store(old, "plain") as store:
        assert store.round_num == 3
    with kill_and_resume.engine_of(old).connect() as connection:
        version = connection.exec_driver_sql("SELECT version FROM stateful_schema").scalar()
        assert version == SCHEMA_VERSION == 3


def test_large_tables_are_migrated_in_parts(old, monkeypatch):
    monkeypatch.setattr("stateful_tff.stores.migrations._AT_ONCE", 2)
    with open_store(old, "kept", keep_states=True) as store:
        assert store.num_visits.tolist() == [2, 1, 0, 3, 0]
        assert [int(store.state_at(3, r).num_visits) for r in range(4)] == [0, 1, 2, 3]
