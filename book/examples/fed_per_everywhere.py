"""Trains FedPer on every engine that takes it, and compares the results."""

import numpy as np
from fed_per import fed_per, two_layers

from stateful_tff.data import ExampleDatasets
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.methods import sgd
from stateful_tff.stores import MemoryStore
from stateful_tff.training import UniformSampler, rounds


def examples(client: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a client's points: one slope for all, an offset of its own."""
    x = np.random.default_rng(client).normal(size=(10 + client, 3))
    return x.astype("f"), (x[:, :1] + client - 3).astype("f")


def train(process, until: int = 20) -> MemoryStore:
    """Returns a store after some rounds of four of the six clients."""
    store = MemoryStore(process, clients.num_clients)
    sampler = UniformSampler(clients.num_clients, 4)
    for done in rounds(process, store, clients, sampler, until):
        store.commit(done)
    return store


clients = ExampleDatasets(map(examples, range(6)), 5, shuffle_seed=0)
parts = fed_per(epochs=2), two_layers(3, 8), sgd(1.0, 0.05, 0.05)
per_client = build_process(*parts)
stores = {
    "TFF, one client at a time": train(per_client),
    "the same graphs in this process": train(InThisProcess(per_client)),
    "many clients at once": train(InThisProcess(build_vectorized_process(*parts))),
}
for name, store in stores.items():
    loss = store.history["loss"]
    print(f"{name:32} loss {loss.iloc[0]:.3f} to {loss.iloc[-1]:.3f}")
