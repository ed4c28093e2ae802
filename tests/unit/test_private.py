"""Clipping and noise: nothing unclipped reaches a sum, on every engine, and the noise is normal."""

import functools

import attrs
import numpy as np
import pytest
import tensorflow as tf
from engine_rounds import BIASED, RATES, close, one_round, rating_clients, scattered
from random_ratings import NUM_USERS
from scipy import stats

from stateful_tff.engines.by_rows import build_rows_process
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.methods import (
    equal_weights,
    fed_avg,
    in_phases,
    keep_optimizer_state,
    sgd,
    stateful,
    touched_rows,
)
from stateful_tff.methods.phases import Phase
from stateful_tff.methods.private import Privacy, clipped, noise, private
from stateful_tff.models import ModelFn, functional_matrix_factorization
from stateful_tff.state import ServerState
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.training import UniformSampler, rounds

ONE_RATE = attrs.evolve(RATES, server=sgd(1.0, 1.0, 1.0).server)
FUNCTIONAL = functional_matrix_factorization(BIASED)
ENGINES = {
    "per client": (build_process, ModelFn(BIASED)),
    "packed": (build_packed_process, ModelFn(BIASED)),
    "vectorized": (build_vectorized_process, FUNCTIONAL),
    "by rows": (build_rows_process, FUNCTIONAL),
}
PLAIN = {
    "stateful": stateful,
    "two epochs": in_phases("stateful", Phase("all", epochs=2)),
    "users at the server": fed_avg(NUM_USERS),
}
WHERE = [(engine, "stateful", None) for engine in ENGINES]
WHERE += [("packed", "users at the server", None)]
WHERE += [("by rows", "stateful", 0.05), ("packed", "two epochs", 0.05)]
NORMS = {"stateful": 0.25, "users at the server": 0.25, "two epochs": 0.25}
COHORT = [2, 5, 8, 11]


@functools.cache
def process_of(engine, name, privacy):
    build, model = ENGINES[engine]
    method = equal_weights(PLAIN[name]) if privacy is None else private(PLAIN[name], privacy)
    return InThisProcess(build(method, model, ONE_RATE))


@functools.cache
def change(engine, name, privacy, cohort):
    """The server's change after one round from states away from the start, and the states."""
    process = process_of(engine, name, privacy)
    server, store = process.initialize(), scattered(process_of("packed", name, None), 3)
    own = MemoryStore(process, NUM_USERS)
    states = own[range(NUM_USERS)]
    local = store[range(NUM_USERS)].local_weights
    own.replace(attrs.evolve(states, local_weights=local))
    after, _, states = one_round(process, server, rating_clients(), list(cohort), own)
    pairs = zip(after.model_weights, server.model_weights, strict=True)
    return [np.asarray(a) - np.asarray(b) for a, b in pairs], states


def norm_of(parts):
    return np.sqrt(sum(np.sum(np.square(part, dtype=np.float64)) for part in parts))


def within(parts, norm, row_norm=None):
    """Plain NumPy: each row within its bound, then all of it."""
    if row_norm is not None:
        rows = np.sqrt(sum(np.sum(part**2, axis=1) for part in parts))
        parts = [p * np.minimum(1, row_norm / np.maximum(rows, 1e-12))[:, None] for p in parts]
    return [part * min(1, norm / max(norm_of(parts), 1e-12)) for part in parts]


@pytest.mark.parametrize("engine, name, row_norm", WHERE)
def test_nothing_unclipped_reaches_the_sum(engine, name, row_norm):
    alone = [change("packed", name, None, (client,))[0] for client in COHORT]
    sizes = [norm_of(parts) for parts in alone]
    norm = NORMS[name] if row_norm is None else 0.12
    assert max(sizes) > norm and (row_norm or min(sizes) < norm)
    privacy = Privacy(norm, 0, 1, seed=1, row_norm=row_norm)
    bounded = [within(parts, norm, row_norm) for parts in alone]
    for client, expected in zip(COHORT, bounded, strict=True):
        sent = change(engine, name, privacy, (client,))[0]
        assert norm_of(sent) <= norm * (1 + 1e-6)
        for a, e in zip(sent, expected, strict=True):
            close(a, e.astype(np.float32), least=0.1)
    total = change(engine, name, privacy, tuple(COHORT))[0]
    for a, *parts in zip(total, *bounded, strict=True):
        close(a, sum(parts).astype(np.float32), least=0.1)


@pytest.mark.parametrize("engine", ["per client", "packed"])
def test_every_engine_adds_the_same_noise_once(engine):
    privacy = Privacy(NORMS["stateful"], 2.0, 1, seed=1)
    noisy, states = change(engine, "stateful", privacy, tuple(COHORT))
    exact, same = change(engine, "stateful", attrs.evolve(privacy, noise_multiplier=0), (*COHORT,))
    for number, (a, e) in enumerate(zip(noisy, exact, strict=True)):
        close(a - e, privacy.std * noise(privacy, 0, number, a.shape).numpy(), least=1)
    for a, e in zip(states.local_weights, same.local_weights, strict=True):
        np.testing.assert_array_equal(a, e)  # what is kept is exact


def released(privacy, sums, round_num):
    """What the server adds to weights of zero, from known sums."""
    method = private(stateful, privacy)
    zeros = [tf.zeros_like(part) for part in sums]
    optimizer = ONE_RATE.server
    start = optimizer.initialize(tuple(tf.TensorSpec(z.shape) for z in zeros))
    state = ServerState(zeros, start, tf.constant(round_num))
    mean = [part / 4 for part in sums]
    return method.server_update(state, optimizer, mean, tf.constant(4.0)).model_weights


def test_a_known_sum_gets_normal_noise_of_the_stated_size():
    sums = [tf.fill([400, 20], 3.0), tf.fill([400, 1], -2.0)]
    privacy = Privacy(0.5, 1.5, 10, seed=7)
    draws = [released(privacy, sums, number) for number in range(3)]
    odd = [
        (10 * part.numpy() - total.numpy()) / 0.75
        for parts in draws
        for part, total in zip(parts, sums, strict=True)
    ]
    for part in odd:
        assert stats.kstest(part.ravel(), "norm").pvalue > 1e-3
        assert np.std(part) == pytest.approx(1, abs=0.1)
    big = [part.ravel() for part in odd[::2]]
    assert np.abs(np.corrcoef(big) - np.eye(3)).max() < 0.06  # from round to round
    assert abs(np.corrcoef(odd[0][:, 0], odd[1][:, 0])[0, 1]) < 0.2  # from part to part
    again = released(privacy, sums, 1)
    np.testing.assert_array_equal(again[0], draws[1][0])  # a repeated round says the same
    other = released(attrs.evolve(privacy, seed=8), sums, 1)
    assert abs(np.corrcoef(np.ravel(other[0]), np.ravel(again[0]))[0, 1]) < 0.06


def test_a_tree_sums_rounds_with_noise_for_each_binary_digit():
    privacy = Privacy(1.0, 1.0, 1, seed=5, tree=8)
    total, sizes = np.zeros(20_000), []
    for number in range(10):
        total = total + noise(privacy, number, 0, [20_000]).numpy()
        sizes.append(np.var(total))
    digits = [1, 1, 2, 1, 2, 2, 3, 1, 1 + 1, 1 + 1]  # the second tree adds to the first
    np.testing.assert_allclose(sizes, digits, rtol=0.05)


def test_an_adaptive_norm_goes_to_its_quantile_of_the_clients_norms():
    privacy = Privacy(5.0, 0, len(COHORT), seed=1, quantile=0.5)
    alone = sorted(norm_of(change("packed", "stateful", None, (c,))[0]) for c in COHORT)
    for engine in ("per client", "packed"):
        build, model = ENGINES[engine]
        still = sgd(0.0, 0.1, 0.0)
        process = InThisProcess(build(private(stateful, privacy), model, still))
        server, store = process.initialize(), scattered(process_of("packed", "stateful", None), 3)
        for number in range(60):
            server, _, _ = one_round(process, server, rating_clients(), COHORT, store)
            assert number or float(server.model_weights[-1]) == pytest.approx(5 * np.exp(-0.1))
        first, *_, last = alone
        assert first / 1.3 < float(server.model_weights[-1]) < last * 1.3


BUDGET = Privacy(0.05, 1.0, 8, seed=3, budget=1.1)  # at most two rounds at the full norm


@functools.cache
def with_ledger(engine):
    build, model = ENGINES[engine]
    return InThisProcess(build(private(stateful, BUDGET), model, RATES))


def run(process, store, until, kept=None):
    """Runs rounds; with `kept`, stops after that many are committed, in the middle of the next."""
    sampler = UniformSampler(NUM_USERS, 8, seed=1)
    spent = []
    for done in rounds(process, store, rating_clients(), sampler, until=until):
        if done.round_num - 1 == kept:
            return spent
        store.commit(done)
        spent.append(store[range(NUM_USERS)].optimizer_state[0])
    return spent


@pytest.mark.parametrize("engine", ["per client", "packed"])
def test_a_ledger_counts_what_was_sent_and_never_exceeds_its_budget(engine):
    store = MemoryStore(with_ledger(engine), NUM_USERS)
    spent = run(with_ledger(engine), store, 8)
    full = 1 / 2  # a change of the full norm, at a noise multiplier of 1
    visits = store.num_visits
    has_data = rating_clients().counts > 5
    np.testing.assert_allclose(
        spent[-1][has_data], full * np.minimum(visits, 2)[has_data], rtol=1e-4
    )
    assert (visits[has_data] > 2).any()
    assert max(np.max(row) for row in spent) <= 1.1
    assert all((after >= before).all() for before, after in zip(spent, spent[1:], strict=False))


def test_who_cannot_pay_sends_nothing_and_still_trains(engine="packed"):
    process = with_ledger(engine)
    server, store = process.initialize(), MemoryStore(process, NUM_USERS)
    states = store[range(NUM_USERS)]
    used_up = attrs.evolve(states, optimizer_state=[np.full(NUM_USERS, 1.1, np.float32)])
    store.replace(used_up)
    after, _, new = one_round(process, server, rating_clients(), COHORT, store)
    for number, (a, b) in enumerate(zip(after.model_weights, server.model_weights, strict=True)):
        noisy = 0.7 * 0.05 / 8 * noise(BUDGET, 0, number, b.shape).numpy()
        close(np.asarray(a) - np.asarray(b), noisy, least=0.1)
    np.testing.assert_array_equal(new.optimizer_state[0], np.full(4, 1.1, np.float32))
    assert np.abs(new.local_weights[0] - states.local_weights[0][COHORT]).max() > 1e-4


def test_a_crash_neither_loses_nor_repeats_what_was_spent(tmp_path):
    process = with_ledger("packed")
    whole = MemoryStore(process, NUM_USERS)
    run(process, whole, 4)
    path = str(tmp_path / "run.sqlite")
    with SqlStore(path, process, NUM_USERS) as store:
        run(process, store, 4, kept=2)
    with SqlStore(path, process, NUM_USERS) as store:
        assert store.round_num == 2
        run(process, store, 4)
        states, server = store[range(NUM_USERS)], store.server_state
    same = whole[range(NUM_USERS)]
    np.testing.assert_array_equal(states.optimizer_state[0], same.optimizer_state[0])
    for a, e in zip(server.model_weights, whole.server_state.model_weights, strict=True):
        np.testing.assert_array_equal(a, e)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="give a noise_multiplier above zero"):
        Privacy(1.0, 0, 10, 1, budget=1.0)
    with pytest.raises(ValueError, match="leave quantile out"):
        Privacy(1.0, 1.0, 10, 1, budget=1.0, quantile=0.5)
    with pytest.raises(ValueError, match="too small to adapt the norm"):
        private(stateful, Privacy(1.0, 1.0, 5, 1, quantile=0.5))
    with pytest.raises(ValueError, match="leave the budget out"):
        keeping = attrs.evolve(stateful, client_state_fn=keep_optimizer_state)
        build_process(private(keeping, BUDGET), ModelFn(BIASED), RATES)
    with pytest.raises(ValueError, match="does not clip all that"):
        build_packed_process(private(touched_rows, BUDGET), ModelFn(BIASED), RATES)
    with pytest.raises(ValueError, match="Rows are clipped"):
        clipped([tf.ones([2, 3]), tf.ones([4])], 1.0, 1.0)
