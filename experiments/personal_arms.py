"""What the studies of personal methods share: ways, tasks, trials without tracing, serving.

A *way* is a method with its model and how its clients are served. A process is traced once for
each way and network: rates and strengths travel in the server's state, so that a trial of
tuning and a seed cost rounds only. Knows nothing of what a study asks.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes at a time, on two cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import experiments.record  # noqa: F401  a clean start of TFF

# isort: split
import attrs
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff import data, methods, models
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.evaluation.clients import error_rates
from stateful_tff.evaluation.costs import num_bytes
from stateful_tff.methods import Method, Optimizers, predicting_weights
from stateful_tff.methods.trainers import FunctionalTrainer
from stateful_tff.stores import MemoryStore
from stateful_tff.training import DivergenceError, UniformSampler, rounds

CLIENTS, NEW, COHORT, BATCH, ROUNDS, EPOCHS = 50, 10, 10, 12, 40, 2
ITEMS = 100  # of the two tasks with ids
SEEN = CLIENTS - NEW
VISITS = ROUNDS * COHORT // SEEN


@attrs.frozen
class Population:
    """Where clients come from.

    Attributes:
        network: a key of `NETWORKS`.
        draw: from a seed to each client's pair of arrays.
    """

    network: str
    draw: Callable


NETWORKS = {
    "image": models.image_network,
    "normalized image": functools.partial(models.image_network, normalize=True),
    "large image": functools.partial(models.image_network, 28),
    "normalized large image": functools.partial(models.image_network, 28, normalize=True),
    "dense": functools.partial(models.dense_network, 60),
    "sequence": functools.partial(models.sequence_network, 8, 12),
    "factorization": lambda private, seed: models.factorization_network(ITEMS, seed=seed),
    "choice": lambda private, seed: models.choice_network(ITEMS, seed=seed),
}


def digits(skew: str, strength: float, per_client: int = 35) -> Callable:
    """Returns the function that deals digits by a seed.

    Clients are dealt one after the other, and the last ones get what is left; in random order,
    new clients are like the others.
    """

    def draw(seed):
        clients = data.digit_clients(CLIENTS, per_client, skew=skew, strength=strength, seed=seed)
        return [clients[i] for i in np.random.default_rng([seed, 7]).permutation(CLIENTS)]

    return draw


POPULATIONS = {
    "digits, label skew": Population("image", digits("labels", 0.5)),
    "digits, rotation": Population("image", digits("rotation", 1.0)),
    "digits, concept shift": Population("image", digits("concept", 1.0)),
    "synthetic(1, 1)": Population(
        "dense", lambda seed: data.synthetic_clients(1, 1, CLIENTS, per_client=35, seed=seed)
    ),
    "sequences": Population("sequence", lambda seed: data.sequence_clients(CLIENTS, seed=seed)),
    "ratings": Population(
        "factorization", lambda seed: data.rating_clients(CLIENTS, ITEMS, seed=seed)
    ),
    "choices": Population("choice", lambda seed: data.choice_clients(CLIENTS, ITEMS, seed=seed)),
    "FEMNIST": Population("large image", lambda seed: data.femnist_clients(CLIENTS, seed=seed)),
}
OFFLINE = [name for name in POPULATIONS if name != "FEMNIST"]  # what needs no network


@attrs.frozen
class Way:
    """One way to be personal.

    Attributes:
        method: from a strength, a function of the round's number, to the method.
        strength: the range in which the strength is tuned, on a logarithmic scale; the mixing
            weight of APFL; left out, there is none.
        model: from a network and a strength, to the model that is trained.
        to_network: from the model's global and local weights to those of the network, for new
            clients and fine-tuning.
        fine_tunes: whether seen clients fine-tune before they predict.
        private: the layers that are the clients' own; where x are ids, it is the user's vector.
        normalized: whether it is for networks with normalization, and for them alone.
        momentum: of the clients' private weights, whose optimizer then keeps its moments.
    """

    method: Callable
    strength: tuple[float, float] | None = None
    model: Callable = lambda network, strength: network
    to_network: Callable = lambda shared, own: (shared, own)
    fine_tunes: bool = False
    private: str = "head"
    normalized: bool = False
    momentum: float | None = None


# FedRep's head gets EPOCHS passes and its body one; here both get as many.
EQUAL_PASSES = methods.in_phases(
    "FedRep, equal passes",
    methods.Phase("all", methods.LOCAL, EPOCHS),
    methods.Phase("all", methods.GLOBAL, EPOCHS),
)
WAYS = {
    "local only": Way(lambda s: methods.alone(EPOCHS)),
    "FedAvg": Way(lambda s: methods.fed_avg_whole(EPOCHS)),
    "FedAvg, fine-tuned": Way(lambda s: methods.fed_avg_whole(EPOCHS), fine_tunes=True),
    "FedProx": Way(lambda s: methods.fed_prox(s, EPOCHS), (0.01, 1.0)),
    "SCAFFOLD": Way(lambda s: methods.scaffold(SEEN, EPOCHS)),
    "FedDyn": Way(lambda s: methods.fed_dyn(SEEN, s, EPOCHS), (0.03, 1.0)),
    "Per-FedAvg": Way(lambda s: methods.per_fed_avg(EPOCHS), fine_tunes=True),
    "Reptile": Way(lambda s: methods.reptile(EPOCHS), fine_tunes=True),
    "FedPer": Way(lambda s: methods.fed_per(EPOCHS)),
    "FedRep": Way(lambda s: methods.fed_rep(EPOCHS)),
    "FedRep, equal passes": Way(lambda s: EQUAL_PASSES),
    "LG-FedAvg": Way(
        lambda s: methods.lg_fed_avg(EPOCHS),
        model=lambda network, strength: models.exchanged(network),
        to_network=lambda shared, own: (own, shared),
    ),
    "Ditto": Way(lambda s: methods.ditto(s, EPOCHS), (0.03, 3.0)),
    "pFedMe": Way(lambda s: methods.pfedme(s, 0.5, EPOCHS), (0.2, 2.0)),
    "APFL": Way(
        lambda s: methods.apfl(EPOCHS),
        (0.2, 0.9),
        model=methods.mixed,
    ),
    "FedPer, momentum": Way(
        lambda s: attrs.evolve(
            methods.fed_per(EPOCHS), client_state_fn=methods.keep_optimizer_state
        ),
        momentum=0.9,
    ),
    "FedBN": Way(lambda s: methods.fed_bn(EPOCHS), private="normalization", normalized=True),
    "FedAvg, normalized": Way(lambda s: methods.fed_avg_whole(EPOCHS), normalized=True),
}


class Dials:
    """The rates and the strength while a graph is traced: rate, strength, server's rate."""

    now = None


class DialedSgd(tff.learning.optimizers.Optimizer):
    """Plain SGD whose rate is one of the dials."""

    def __init__(self, dial: int):
        """Keeps which."""
        self._dial = dial

    def initialize(self, specs):
        """Returns no state."""
        return ()

    def next(self, state, weights, gradients):
        """Takes a step."""
        rate = tf.constant(0.0) if Dials.now is None else Dials.now[self._dial]
        moved = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
        return state, tuple(moved)

    def get_hparams(self, state):
        """Returns none."""
        return {}

    def set_hparams(self, state, hparams):
        """Returns the state."""
        return state


DIALED = Optimizers(DialedSgd(2), DialedSgd(0), DialedSgd(0))


def dialed(method: Method) -> Method:
    """Returns the method with three numbers, the dials, at the end of the server's weights."""

    def taken(holder):
        *weights, Dials.now = holder.model_weights
        return attrs.evolve(holder, model_weights=weights)

    def update(trainer, examples, client_state, message):
        output = method.client_update(trainer, examples, client_state, taken(message))
        delta = [*output.weights_delta, tf.zeros(3)]
        return attrs.evolve(output, weights_delta=delta)

    def move(server_state, optimizer, delta, total):
        after = method.server_update(taken(server_state), optimizer, delta[:-1], total)
        return attrs.evolve(after, model_weights=[*after.model_weights, Dials.now])

    def message(server_state):
        sent = method.build_server_broadcast_message(taken(server_state))
        return attrs.evolve(sent, model_weights=[*sent.model_weights, Dials.now])

    return attrs.evolve(
        method,
        client_update=update,
        server_update=move,
        build_server_broadcast_message=message,
        server_weights_fn=lambda trainer: [*method.server_weights_fn(trainer), tf.zeros(3)],
    )


@attrs.frozen
class Trial:
    """One setting of a way.

    Attributes:
        rate: of the clients' SGD.
        strength: of the method's term; 0 where there is none.
        tuning: passes of fine-tuning before predicting.
    """

    rate: float = 0.1
    strength: float = 0.1
    tuning: int = 5


def trials(name: str, number: int) -> list[Trial]:
    """Draws settings at random, the same ones for every population."""
    rng, way = np.random.default_rng(zlib.crc32(name.encode())), WAYS[name]
    low, high = np.log(way.strength or (1, 1))
    return [
        Trial(
            rate=float(np.exp(rng.uniform(np.log(0.03), np.log(0.6)))),
            strength=float(np.exp(rng.uniform(low, high))),
            tuning=int(rng.choice([1, 3, 10])),
        )
        for _ in range(number)
    ]


@functools.cache
def network_of(network: str, private: str, seed: int):
    """Returns a network with the first weights of a seed."""
    return NETWORKS[network](private=[private], seed=seed)


@functools.cache
def model_of(name: str, network: str):
    """Returns the model of a way, whose graphs serve for the first weights of all seeds."""
    return WAYS[name].model(network_of(network, WAYS[name].private, 0), 0.5)


@functools.cache
def process_of(name: str, network: str, rate: float | None = None):
    """Returns a way's process, traced once or once for a rate, its functions and optimizers."""
    way, Dials.now = WAYS[name], None
    method = way.method(lambda round_num: Dials.now[1])
    model = model_of(name, network)
    optimizers = DIALED
    if rate is not None:
        sgd = tff.learning.optimizers.build_sgdm(rate)
        own = tff.learning.optimizers.build_sgdm(rate, way.momentum)
        optimizers = attrs.evolve(DIALED, client=sgd, local=own)
    process = build_vectorized_process(dialed(method), model, optimizers)
    return InThisProcess(process), process.functions, optimizers


class Run:
    """A way, trained on a population.

    Args:
        name: a key of `WAYS`.
        population: a `Population`.
        seed: decides clients, splits, first weights, cohorts and orders.
        trial: the setting.
        cohort: clients a round.
    """

    def __init__(self, name, population, seed, trial, cohort=COHORT):
        """Draws the data, and starts."""
        self.way, self.seed, self.trial = WAYS[name], seed, trial
        self.network_name = population.network
        if self.way.normalized:
            self.network_name = f"normalized {population.network}"
        self.network = network_of(self.network_name, self.way.private, seed)
        self.model = self.way.model(self.network, trial.strength)
        self._judge = model_of(name, self.network_name)
        self.train_examples, self.test = data.split_examples(population.draw(seed), 0.6, seed)
        self.clients = data.ExampleDatasets(self.train_examples, BATCH, shuffle_seed=seed)
        baked = trial.rate if name == "SCAFFOLD" or self.way.momentum else None
        self.process, self._functions, optimizers = process_of(name, self.network_name, baked)
        self.sampler = UniformSampler(SEEN, cohort, seed)
        method = self.way.method(0.1)
        self.store = self._store(self.process, method, self.model, CLIENTS, optimizers)

    def _store(self, process, method, model, size, optimizers=None) -> MemoryStore:
        """Returns a store that starts from the first weights of the seed, with the dials set."""
        store, trainer = MemoryStore(process, size), FunctionalTrainer(model, optimizers or DIALED)
        knobs = np.array([self.trial.rate, self.trial.strength, 1.0], np.float32)
        weights = [np.asarray(w) for w in method.server_weights_fn(trainer)]
        store.server_state = attrs.evolve(store.server_state, model_weights=[*weights, knobs])
        first = tf.nest.map_structure(np.asarray, method.client_state_fn(trainer))
        states = tf.nest.map_structure(lambda part: np.repeat(part[None], size, axis=0), first)
        store.replace(attrs.evolve(states, index=np.arange(size, dtype=np.int32)))
        return store

    def train(self, until: int = ROUNDS) -> Run:
        """Runs rounds up to a number."""
        for done in rounds(self.process, self.store, self.clients, self.sampler, until):
            self.store.commit(done)
        return self

    @property
    def server_weights(self) -> list:
        """The server's weights without the dials."""
        return [np.asarray(w) for w in self.store.server_state.model_weights[:-1]]

    def errors(self) -> np.ndarray:
        """Returns the error rates of the seen clients, served as the way says."""
        ids = np.arange(SEEN)
        weights = predicting_weights(self.model, self.store[ids], self.server_weights)
        if not self.way.fine_tunes:
            return error_rates(self._judge, *weights, self.test[:SEEN])
        return self.fine_tuned(ids, sum(weights, []), self.trial.tuning)

    def errors_of_new(self) -> np.ndarray:
        """Returns those of clients that were never trained, after fine-tuning on their data.

        They start from the server's weights, with first weights where the server has none, and
        take as many passes as are best for fine-tuning; alone, as many as the others had.
        """
        ids, server = np.arange(SEEN, CLIENTS), self.server_weights
        if not server:
            return self.fine_tuned(ids, self.store[ids].local_weights, EPOCHS * VISITS)
        whole = len(server) >= len(self.network.global_weights + self.network.local_weights)
        empty = attrs.evolve(self.store[ids], local_weights=[])
        weights = predicting_weights(self.network if whole else self.model, empty, server)
        return self.fine_tuned(ids, sum(self.way.to_network(*weights), []), self.trial.tuning)

    def fine_tuned(self, ids, start: list, passes: int) -> np.ndarray:
        """Returns the error rates of clients after passes over their data, from a start."""
        process = alone(self.network_name, self.way.private)
        examples = [self.train_examples[i] for i in ids]
        clients = data.ExampleDatasets(examples, BATCH, shuffle_seed=self.seed)
        store = self._store(process, methods.alone(), self.network, len(ids))
        store.replace(attrs.evolve(store[range(len(ids))], local_weights=start))
        everyone = lambda round_num: np.arange(len(ids))  # noqa: E731
        for done in rounds(process, store, clients, everyone, passes):
            store.commit(done)
        own, size = store[range(len(ids))].local_weights, len(self.network.global_weights)
        return error_rates(
            network_of(self.network_name, self.way.private, 0),
            own[:size], own[size:], [self.test[i] for i in ids],
        )  # fmt: skip

    def bytes(self) -> dict[str, int]:
        """Returns what a visit sends and what a client keeps, in bytes."""
        state, functions = self.store[0], self._functions
        knobs = 12
        message = functions.message.type_signature.result["model_weights"]
        sums = functions.client_work.type_signature.result[0]["weighted_delta"]
        down, up = (
            sum(int(np.prod(part.shape)) * 4 for _, part in tff.structure.iter_elements(kind))
            for kind in (message, sums)
        )
        kept = tf.nest.flatten([state.local_weights, state.optimizer_state])
        return {"down": down - knobs, "up": up - knobs, "state": num_bytes(kept)}


@functools.cache
def alone(network: str, private: str):
    """Returns the process of training alone, for fine-tuning."""
    model, Dials.now = network_of(network, private, 0), None
    return InThisProcess(build_vectorized_process(dialed(methods.alone()), model, DIALED))


def tuned(name: str, population: Population, number: int, seed: int = 1000) -> Trial:
    """Returns the best of some trials, on a population of its own that no result is from."""

    def judged(trial):
        try:
            return float(Run(name, population, seed, trial).train().errors().mean())
        except DivergenceError:
            return 1.0

    return min(trials(name, number), key=judged)
