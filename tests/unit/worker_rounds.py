"""Rounds that the tests of workers run: the processes, their data, and what to do in mid-round."""

import time

import numpy as np
import tensorflow as tf

from stateful_tff.data import ClientDatasets, synthetic_ratings
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.per_client import build_process
from stateful_tff.methods import sgd, stateful
from stateful_tff.models import MatrixFactorization, ModelFn
from stateful_tff.stores import MemoryStore
from stateful_tff.training import UniformSampler, rounds

NUM_CLIENTS = 30
RATINGS = synthetic_ratings(num_users=NUM_CLIENTS, num_items=40, seed=0)
CLIENTS = ClientDatasets(RATINGS, batch_size=5, shuffle_seed=0)
SPEC = MatrixFactorization(
    RATINGS.num_items, 4, biases=True, mean_rating=3.5, l2=0.05, seed=3
)  # fmt: skip
OPTIMIZERS = sgd(0.7, 0.1, 0.05)
PER_CLIENT = build_process(stateful, ModelFn(SPEC), OPTIMIZERS)
PACKED = build_packed_process(stateful, SPEC, OPTIMIZERS)
LOCAL = InThisProcess(PER_CLIENT)  # the same rounds without any worker
QUICK = dict(answer_within=3.0, ready_within=30.0)
LONG = 25  # epochs of a round that takes long enough to disturb it


def difference(one, other):
    """The largest difference of two structures of arrays."""
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, float) - np.asarray(b)))) for a, b in pairs)


def first_states(cohort):
    """The states of clients that were never visited."""
    store = MemoryStore(LOCAL, NUM_CLIENTS)
    return [store[int(client)] for client in cohort]


def round_of(process, server_state, cohort=NUM_CLIENTS, epochs=1):
    """What one per-client round returns, from the first states of a cohort."""
    cohort = range(cohort) if isinstance(cohort, int) else cohort
    return process.next(server_state, CLIENTS.for_round(cohort, 0, epochs), first_states(cohort))


def train(process, store, until, cohort_size=12, seed=0):
    """Trains on a store, and returns it."""
    sampler = UniformSampler(NUM_CLIENTS, cohort_size, seed)
    for done in rounds(process, store, CLIENTS, sampler, until):
        store.commit(done)
    return store


def when_at_work(worker, action):
    """Acts once, as soon as the worker has been called to work and before its answer is awaited."""
    channel, wait = worker.channel, worker.channel.wait

    def act_first(call):
        if channel.calling == "CreateCall":
            channel.wait = wait
            action()
        return wait(call)

    channel.wait = act_first


def ready_again(workers, within=20):
    """Waits until all workers have answered."""
    end = time.monotonic() + within
    while not all([worker.is_ready for worker in workers.workers]):
        assert time.monotonic() < end, "not all workers came back in time"
        time.sleep(0.05)
