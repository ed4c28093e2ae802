"""Every method on every engine, in every store, on two models: equal, or refused in a sentence.

What is compared with is one client at a time, in this process, in memory. Each process is built
once; most of the running time is building.
"""

import contextlib
import functools
import re

import attrs
import numpy as np
import pytest
import tensorflow as tf
from engine_rounds import (
    BIASED,
    RATES,
    SGD,
    close,
    in_epochs,
    network,
    network_clients,
    rating_clients,
)
from random_ratings import NUM_USERS

from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.engines.workers import OverWorkers, start_workers
from stateful_tff.methods import (
    LOCAL,
    Phase,
    alternating,
    equal_weights,
    fed_avg,
    fed_recon,
    implicit_sum,
    in_phases,
    keep_nothing,
    keep_optimizer_state,
    local_only,
    rebuilt_at_first_visit,
    stateful,
    touched_rows,
)
from stateful_tff.models import ModelFn, functional_matrix_factorization
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.training import UniformSampler, rounds

KEEPING = "keeps the optimizer's state"
METHODS = {
    "stateful": stateful,
    "alternating": alternating(2),
    "FedRecon, split": fed_recon(),
    "FedRecon, all": fed_recon(epochs=2, split=False),
    "FedRecon, joint": fed_recon(joint=True),
    "rebuilt at first visit": rebuilt_at_first_visit(),
    "touched rows": touched_rows,
    "implicit sum": implicit_sum(BIASED.l2, 0.3),
    "FedAvg": fed_avg(NUM_USERS),
    "local only": local_only(2, "support"),
    "two epochs": in_epochs(2),
    "solved": in_phases(
        "solved", Phase("all", LOCAL, solve=True), Phase("all"), client_state_fn=keep_nothing
    ),
    "equal weights": equal_weights(stateful),
    KEEPING: attrs.evolve(stateful, client_state_fn=keep_optimizer_state),
}
MOMENTUM = attrs.evolve(RATES, local=SGD(0.05, momentum=0.9))
BUILDERS = {
    "per client": build_process,
    "packed": build_packed_process,
    "vectorized": build_vectorized_process,
}
# TFF's runtime and workers run the graphs that this process runs, so they are tried on methods
# that differ in the types of their data or states.
KINDS = ["stateful", "FedRecon, split", "rebuilt at first visit", "FedAvg", KEEPING]
# Building a vectorized process takes longest; these methods differ most on a table of items.
ON_TABLES = ["FedRecon, joint", "touched rows", "implicit sum"]
# Where the rounds of an engine run, and the methods that are tried there.
WAYS = {
    "factorization": {
        ("per client", "here"): METHODS,
        ("per client", "TFF"): KINDS,
        ("packed", "here"): METHODS,
        ("packed", "TFF"): KINDS,
        ("packed", "workers"): KINDS[:2],
        ("vectorized", "here"): ON_TABLES,
    },
    "network": {
        ("per client", "here"): METHODS,
        ("per client", "TFF"): KINDS[-1:],
        ("per client", "workers"): KINDS[:1],
        ("packed", "here"): METHODS,
        ("vectorized", "here"): METHODS,
        ("vectorized", "TFF"): KINDS[:1],
    },
}
CASES = [
    (method, model, *way)
    for method in METHODS
    for model, ways in WAYS.items()
    for way, tried in ways.items()
    if method in tried
]


def refusal(method, model, engine):
    """The sentence of a combination that is not supported, if it is none."""
    if engine == "packed" and model == "network":
        return "The packed engine runs MatrixFactorization only, not FunctionalModel; use"
    if method in ("touched rows", "implicit sum") and model == "network":
        return "Rows are counted where all global weights are tables .* Use another method"
    if engine == "packed" and method == KEEPING:
        return "local_optimizer is not plain SGD, .* use the per-client or the vectorized engine"
    return None


@functools.cache
def model_of(model, engine):
    if model == "network":
        return network()
    return functional_matrix_factorization(BIASED) if engine == "vectorized" else ModelFn(BIASED)


@functools.cache
def clients_of(model):
    return network_clients() if model == "network" else rating_clients()


@functools.cache
def process_of(method, model, engine):
    optimizers = MOMENTUM if method == KEEPING else RATES
    return BUILDERS[engine](METHODS[method], model_of(model, engine), optimizers)


@functools.cache
def here(method, model, engine):
    return InThisProcess(process_of(method, model, engine))


@functools.cache
def over(workers, method, model, engine):
    return OverWorkers(process_of(method, model, engine), workers)


@pytest.fixture(scope="module")
def workers():
    with start_workers(2) as two:
        yield two


@contextlib.contextmanager
def store_of(kind, process, folder):
    if kind == "memory":
        yield MemoryStore(process, NUM_USERS)
    else:
        with SqlStore(str(folder / "run.sqlite"), process, NUM_USERS) as store:
            yield store


def result(process, model, kind="memory", folder=None):
    """Two rounds; returns the server's state, everyone's states, and the history."""
    with store_of(kind, process, folder) as store:
        sampler = UniformSampler(NUM_USERS, 8, seed=1)
        for done in rounds(process, store, clients_of(model), sampler, until=2):
            store.commit(done)
        return store.server_state, store[range(NUM_USERS)], store.history


@functools.cache
def expected(method, model):
    return result(here(method, model, "per client"), model)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("method, model, engine, place", CASES)
def test_two_rounds_are_the_same_or_refused(
    method, model, engine, place, kind, workers, tmp_path
):  # fmt: skip
    if sentence := refusal(method, model, engine):
        with pytest.raises((TypeError, ValueError), match=sentence) as refused:
            process_of(method, model, engine)
        assert len(re.findall(r"\.(\s|$)", str(refused.value))) <= 2
        return
    if place == "here":
        process = here(method, model, engine)
    elif place == "TFF":
        process = process_of(method, model, engine)
    else:
        process = over(workers, method, model, engine)
    server, states, history = result(process, model, kind, tmp_path)
    same_server, same_states, same_history = expected(method, model)
    for a, e in zip(server.model_weights, same_server.model_weights, strict=True):
        close(a, e, least=0.1)
    assert int(server.round_num) == 2
    tf.nest.assert_same_structure(states, same_states)
    for a, e in zip(tf.nest.flatten(states), tf.nest.flatten(same_states), strict=True):
        close(a, e, least=0.1)
    for name in ("loss", "num_examples"):
        np.testing.assert_allclose(history[name], same_history[name], rtol=1e-5)


@pytest.mark.parametrize("model", WAYS)
def test_the_second_round_meets_clients_of_the_first(model):
    """Or the comparison above would not see what becomes of states."""
    visits = expected("stateful", model)[1].num_visits
    assert (visits == 2).sum() >= 3 and (visits == 0).any()
