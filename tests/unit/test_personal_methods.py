"""Each method of personalization against its paper in plain NumPy, on two engines, in two stores.

Two rounds with partial participation: the second meets clients of the first, and must find what
they kept.
"""

import functools

import numpy as np
import personal_numpy as papers
import pytest
import tensorflow as tf
from engine_rounds import RATES, SGD, network, network_clients

from stateful_tff import methods
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.round import types_sent_to_server
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.methods import Optimizers, predicting_weights
from stateful_tff.models import exchanged
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.training import UniformSampler, rounds

CLIENTS = network_clients()
POPULATION = CLIENTS.num_clients
NET = network()
MIXED = methods.mixed(NET, 0.4)
# The method, its model, and the paper.
METHODS = {
    "FedAvg": (methods.fed_avg_whole(2), NET, papers.FedAvg),
    "Reptile": (methods.reptile(2), NET, papers.Reptile),
    "FedProx": (methods.fed_prox(0.3), NET, papers.FedProx),
    "alone": (methods.alone(), NET, papers.Alone),
    "FedPer": (methods.fed_per(2), NET, papers.FedPer),
    "FedRep": (methods.fed_rep(2), NET, papers.FedRep),
    "LG-FedAvg": (methods.lg_fed_avg(), exchanged(NET), papers.LGFedAvg),
    "FedBN": (methods.fed_bn(), NET, papers.FedBN),
    "Ditto": (methods.ditto(0.4), NET, papers.Ditto),
    "pFedMe": (methods.pfedme(0.5, 0.8, 2), NET, papers.PFedMe),
    "APFL": (methods.apfl(), MIXED, papers.APFL),
    "SCAFFOLD": (methods.scaffold(POPULATION, 2), NET, papers.Scaffold),
    "FedDyn": (methods.fed_dyn(POPULATION, 0.3), NET, papers.FedDyn),
    "Per-FedAvg": (methods.per_fed_avg(), NET, papers.PerFedAvg),
}
BUILDERS = {"per client": build_process, "vectorized": build_vectorized_process}
SAMPLER = UniformSampler(POPULATION, 9, seed=1)


@functools.cache
def process_of(name, engine):
    method, model, _ = METHODS[name]
    return BUILDERS[engine](method, model, RATES)


@functools.cache
def paper_of(name):
    start = [np.float64(w) for w in [*NET.global_weights, *NET.local_weights]]
    reference = METHODS[name][2](start, POPULATION)
    for number in range(2):
        reference.round(CLIENTS, SAMPLER(number), number)
    return reference


def close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", BUILDERS)
@pytest.mark.parametrize("name", METHODS)
def test_two_rounds_are_those_of_the_paper(name, engine, tmp_path):
    process, paper = InThisProcess(process_of(name, engine)), paper_of(name)
    stores = [
        MemoryStore(process, POPULATION),
        SqlStore(str(tmp_path / "run.sqlite"), process, POPULATION),
    ]
    with stores[1]:
        for store in stores:
            for done in rounds(process, store, CLIENTS, SAMPLER, until=2):
                store.commit(done)
            close(store.server_state.model_weights, paper.server)
            states = store[range(POPULATION)]
            for client, expected in enumerate(paper.states):
                kept = [part[client] for part in states.local_weights]
                memory = [part[client] for part in tf.nest.flatten(states.optimizer_state)]
                close(kept, expected.get("local", []))
                close(memory, expected.get("memory", []))
            assert (states.num_visits == 2).sum() >= 3 and (states.num_visits == 0).any()


@pytest.mark.parametrize("name", METHODS)
def test_papers_differ_from_plain_averaging(name):
    """Or a reference could be right for a method that does nothing of its own."""
    if name in ("FedAvg", "alone", "LG-FedAvg"):
        return
    other = paper_of("FedPer" if name in ("FedRep", "FedBN") else "FedAvg")
    pairs = zip(paper_of(name).server, other.server)  # noqa: B905  some servers keep more
    assert max(np.abs(a - b).max() for a, b in pairs) > 1e-4


WHOLE = 3 * 4 + 4 + 4 + 1


@pytest.mark.parametrize(
    "name, sent, kept",
    [
        ("FedAvg", WHOLE, 0), ("alone", 0, WHOLE), ("FedPer", 16, 5), ("LG-FedAvg", 5, 16),
        ("Ditto", WHOLE, WHOLE), ("APFL", WHOLE, WHOLE + 1), ("SCAFFOLD", 2 * WHOLE, WHOLE),
        ("FedDyn", WHOLE, WHOLE),
    ],
)  # fmt: skip
def test_the_types_say_what_is_sent_and_kept(name, sent, kept):
    process = process_of(name, "per client")
    (kind,) = types_sent_to_server(process.next)
    deltas = [np.prod(part.shape) for part in kind.weighted_delta]
    assert sum(deltas) == sent
    state = process.client_state_fn()
    assert sum(map(np.size, tf.nest.flatten([state.local_weights, state.optimizer_state]))) == kept


def test_scaffold_refuses_what_is_not_plain_sgd():
    momentum = Optimizers(SGD(1.0), SGD(0.1, momentum=0.9), SGD(0.1))
    with pytest.raises(ValueError, match="client_optimizer is not plain SGD, and SCAFFOLD reads"):
        build_process(METHODS["SCAFFOLD"][0], NET, momentum)


def test_a_client_predicts_with_what_its_type_says():
    def weights(name):
        process = InThisProcess(process_of(name, "vectorized"))
        store = MemoryStore(process, POPULATION)
        for done in rounds(process, store, CLIENTS, SAMPLER, until=2):
            store.commit(done)
        states = store[range(POPULATION)]
        server = store.server_state.model_weights
        both = predicting_weights(METHODS[name][1], states, server)
        return both[0] + both[1], states, server, states.num_visits == 0

    whole, _, server, _ = weights("SCAFFOLD")
    close(whole, [np.repeat(w[None], POPULATION, 0) for w in map(np.asarray, server[:4])])
    whole, states, server, new = weights("Ditto")
    for own, kept, theirs in zip(whole, states.local_weights, server, strict=True):
        assert (own[~new] == kept[~new]).all() and (own[new] == np.asarray(theirs)).all()
    whole, states, server, _ = weights("FedPer")
    close(whole[2:], states.local_weights)
    close(whole[:2], [np.repeat(w[None], POPULATION, 0) for w in map(np.asarray, server)])
    whole, states, _, _ = weights("alone")
    close(whole, states.local_weights)
