"""The studies of personal methods: a trial is the method with its rates, and tuning is fair."""

import numpy as np
import pytest

from experiments import personal_arms as arms
from experiments.personal_arms import OFFLINE, POPULATIONS, WAYS, Run, Trial, Way
from experiments.studies import personal_methods
from stateful_tff import methods
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.stores import MemoryStore
from stateful_tff.training import rounds


@pytest.fixture(scope="module")
def run():
    """Two rounds of FedProx, whose process was traced for other rates, strength and weights."""
    return Run("FedProx", POPULATIONS["synthetic(1, 1)"], 3, Trial(0.2, 0.5, 1)).train(2)


def test_a_trial_is_the_method_with_its_rates(run):
    method, rates = methods.fed_prox(0.5, arms.EPOCHS), methods.sgd(1.0, 0.2, 0.2)
    process = InThisProcess(build_vectorized_process(method, run.model, rates))
    store = MemoryStore(process, arms.CLIENTS)
    for done in rounds(process, store, run.clients, run.sampler, 2):
        store.commit(done)
    first = run.model.global_weights + run.model.local_weights
    for found, expected, start in zip(
        run.server_weights, store.server_state.model_weights, first, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(found - start).max() > 1e-3


def test_bytes_are_those_of_the_types(run):
    size = 4 * (60 * 32 + 32 + 32 * 10 + 10)
    assert run.bytes() == {"down": size, "up": size, "state": 0}


def test_every_way_gets_as_many_trials_over_the_same_rates():
    for name in WAYS:
        drawn = arms.trials(name, 200)
        assert len(drawn) == 200 and drawn[:5] == arms.trials(name, 5)
        rates = [trial.rate for trial in drawn]
        assert 0.03 <= min(rates) < 0.04 and 0.5 < max(rates) <= 0.6


def test_new_clients_are_not_among_those_that_train(run):
    taken = np.concatenate([run.sampler(number) for number in range(50)])
    assert set(taken) == set(range(arms.SEEN)) and arms.SEEN + arms.NEW == arms.CLIENTS


def test_the_readers_method_is_one_more_line(monkeypatch):
    population = POPULATIONS["synthetic(1, 1)"]
    monkeypatch.setitem(WAYS, "mine", Way(lambda strength: methods.fed_per(arms.EPOCHS)))
    assert "mine" in personal_methods.ways_for(population)
    run = Run("mine", population, 3, arms.trials("mine", 1)[0])
    before = run.errors()
    after = run.train(6).errors()
    assert after.shape == (arms.SEEN,) and after.mean() < before.mean()
    assert run.bytes()["state"] == 4 * (32 * 10 + 10)


def test_every_population_has_its_network():
    for name in OFFLINE:
        population = POPULATIONS[name]
        network = arms.network_of(population.network, "head", 0)
        clients = population.draw(1)
        assert len(clients) == arms.CLIENTS
        for x, y in clients[:3]:
            scores = network.scores(network.global_weights, network.local_weights, x)
            assert scores.shape[:-1] == y.shape and 0 <= y.min() <= y.max() < scores.shape[-1]
    assert set(POPULATIONS) - set(OFFLINE) == {"FEMNIST"}
