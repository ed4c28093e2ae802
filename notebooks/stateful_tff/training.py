"""The one loop of training: who takes part, what a round returns, and when it has diverged.

Knows nothing of models, methods, engines and stores but what a round needs of them.
"""

import time
from collections.abc import Callable, Iterator

import attrs
import numpy as np
import tensorflow as tf

from .checks import client_ids, whole_number
from .progress import progress
from .state import ServerState


def sample_cohort(num_clients: int, cohort_size: int, round_num: int, seed: int = 0) -> np.ndarray:
    """Draws the clients of a round, uniformly and without replacement.

    Args:
        num_clients: the size of the population; ids run from 0 to `num_clients - 1`.
        cohort_size: how many take part.
        round_num: the number of the round, from 0.
        seed: decides all draws.

    Returns:
        int64[cohort_size], the ids, in random order.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if the population is smaller than the cohort, or the cohort empty.
    """
    if not 1 <= whole_number("cohort_size", cohort_size) <= num_clients:
        raise ValueError(
            f"A cohort of {cohort_size} cannot be drawn from {num_clients} clients; choose a "
            f"size from 1 to {num_clients}."
        )
    rng = np.random.default_rng([seed, whole_number("round_num", round_num, 0)])
    return rng.choice(num_clients, cohort_size, replace=False)


@attrs.frozen(eq=False)
class UniformSampler:
    """Draws the same number of clients in each round, uniformly.

    Attributes:
        clients: the number of clients, or the ids to draw from, int[n].
        cohort_size: how many take part.
        seed: decides all draws.
    """

    clients = attrs.field(
        repr=lambda clients: str(np.size(clients) if np.ndim(clients) else clients)
    )
    cohort_size = attrs.field()
    seed = attrs.field(default=0)

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the ids of a round, int64[cohort_size]; `round_num` counts from 0."""
        if np.ndim(self.clients) == 0:
            return sample_cohort(int(self.clients), self.cohort_size, round_num, self.seed)
        drawn = sample_cohort(len(self.clients), self.cohort_size, round_num, self.seed)
        return np.asarray(self.clients)[drawn]


@attrs.define(eq=False)
class Round:
    """What a round returned, to be judged, printed, and committed to a store.

    Attributes:
        round_num: its number, from 1.
        cohort: int64[n], the ids of the clients that were asked.
        server_state: the new `ServerState`.
        client_states: the new states, one for each client or stacked, in any order.
        metrics: the model's metrics over all examples of the cohort, and what you add to them;
            they become the round's row of the history.
        seconds: how long the round took.
        preparation: the seconds of these for data and states.
    """

    round_num: int
    cohort: np.ndarray
    server_state: ServerState
    client_states: list
    metrics: dict
    seconds: float
    preparation: float


class DivergenceError(ArithmeticError):
    """Training went out of bounds. The store still holds what it held before that round."""


def rounds(
    process, store, clients, sampler: Callable[[int], np.ndarray], until: int
) -> Iterator[Round]:
    """Runs rounds, one for each step of your own `for` loop, whose body commits them.

    A store that holds rounds already goes on after its last one.

    Args:
        process: has `next(server_state, data, client_states)` and `inputs(clients, cohort,
            round_num)`, as every engine of `stateful_tff.engines` does.
        store: has `store[ids]`, `commit(done)`, `server_state`, `round_num` and `history`.
        clients: the training data of the population, `ClientDatasets` or `ExampleDatasets`.
        sampler: called with the number of a round, from 0, it returns the ids of its clients.
        until: the number of rounds that the run has in the end.

    Yields:
        The `Round`, before the store has it. Commit it with `store.commit(done)`.

    Raises:
        DivergenceError: if a round's result is not finite, or its loss over 100 times that of
            the first round.
        RuntimeError: if you left a round uncommitted.
        TypeError: if the sampler draws what is no client id.
        ValueError: if it draws an unknown client or one twice, or the store's run began with
            another sampler or other data.
    """
    store.keep_plan(_plan(sampler, clients))
    history = store.history
    first_loss = float(history["loss"].iloc[0]) if len(history) else None
    for round_num in progress(range(store.round_num, whole_number("until", until, 0)), "rounds"):
        start = time.perf_counter()
        cohort = client_ids(sampler(round_num), store.num_clients)
        data, ids = process.inputs(clients, cohort, round_num)
        states = [store[some] for some in ids]
        prepared = time.perf_counter()
        server_state, metrics, states = process.next(store.server_state, data, states)
        metrics = {name: np.asarray(value).item() for name, value in metrics.items()}
        fault = _fault(metrics, server_state, states, first_loss)
        if fault:
            raise DivergenceError(
                f"Round {round_num + 1} diverged: {fault}. Lower the learning rates."
            )
        first_loss = metrics["loss"] if first_loss is None else first_loss
        seconds = time.perf_counter() - start
        timed = {"seconds": seconds, "preparation": prepared - start}
        yield Round(round_num + 1, cohort, server_state, states, metrics | timed, **timed)
        if store.round_num != round_num + 1:
            raise RuntimeError(
                f"Round {round_num + 1} was not committed; call store.commit(done) at the end "
                "of the loop's body."
            )


def _plan(sampler, clients) -> dict:
    """Returns what decides the rounds of a run apart from its process."""
    plan = {"sampler": getattr(sampler, "__qualname__", None) or repr(sampler)}
    names = ("batch_size", "shuffle_seed", "num_clients")
    return plan | {name: getattr(clients, name) for name in names if hasattr(clients, name)}


def _fault(metrics, server_state, states, first_loss) -> str | None:
    """Returns what is wrong with the result of a round, if anything is."""
    if not all(np.isfinite(part).all() for part in tf.nest.flatten(server_state)):
        return "the server's state is not finite"
    for state in states:
        clients = np.atleast_1d(state.index)
        for part in tf.nest.flatten(state):
            sound = np.isfinite(part).reshape(len(clients), -1).all(axis=1)
            if not sound.all():
                return f"the state of client {clients[~sound][0]} is not finite"
    loss = metrics["loss"]
    if metrics["num_examples"] and not np.isfinite(loss):
        return f"the training loss is {loss}"
    if first_loss is not None and loss > 100 * first_loss:
        return f"the training loss is {loss:.3g}, over 100 times that of the first round"
    return None
