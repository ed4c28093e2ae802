"""One experiment: ratings, a model, a method and an engine put together once.

Knows nothing of the inner parts of the rooms it puts together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import attrs
import numpy as np
import pandas as pd

from .checks import (
    called,
    client_ids,
    finite_number,
    left_out_or,
    seed_number,
    shown,
    whole_number,
    yes_or_no,
)
from .data import ClientDatasets, Ratings
from .engines.in_process import InThisProcess
from .engines.packed import build_packed_process
from .evaluation.centralized import Factors, told_by_items
from .evaluation.metrics import score
from .methods import Method, local_only, sgd, stateful
from .methods.implicit_sum import ImplicitSum
from .methods.weighting import taken_apart
from .models import MatrixFactorization
from .state import ClientState
from .stores import MemoryStore
from .stores.contract import as_arrays
from .stores.memory import stacked_rows
from .training import Round, UniformSampler, rounds


@attrs.define(eq=False)
class Experiment:
    """Matrix factorization on ratings, trained by a method, served and scored.

    Attributes:
        ratings: the ratings to train on; users without any never take part.
        method: what clients and server do, and what a client keeps.
        num_factors: the length of the vectors.
        biases: whether the model has biases, and the mean rating as a constant.
        mean_rating: that constant; left out, the mean of `ratings`.
        l2: the weight of the L2 penalty.
        rates: learning rates of plain SGD at the server, for the items and for the users; that
            of the server may be a function of the number of the round.
        cohort_size: clients per round.
        batch_size: ratings per batch.
        seed: decides first weights, cohorts and the order of ratings.
        sampler: draws cohorts; left out, uniformly among the users with ratings.
        engine: builds the process, such as `build_packed_process`.
    """

    ratings: Ratings
    method: Method = attrs.field(default=stateful, kw_only=True)
    num_factors: int = attrs.field(default=50, kw_only=True)
    biases: bool = attrs.field(default=True, kw_only=True)
    mean_rating: float | None = attrs.field(default=None, kw_only=True)
    l2: float = attrs.field(default=0.05, kw_only=True)
    rates: tuple = attrs.field(default=(2.0, 0.5, 0.05), kw_only=True)
    cohort_size: int = attrs.field(default=100, kw_only=True)
    batch_size: int = attrs.field(default=5, kw_only=True)
    seed: int = attrs.field(default=0, kw_only=True)
    sampler: Callable[[int], np.ndarray] = attrs.field(kw_only=True)
    engine: Callable = attrs.field(default=build_packed_process, kw_only=True)
    model: MatrixFactorization = attrs.field(init=False)
    clients: ClientDatasets = attrs.field(init=False)
    process: InThisProcess = attrs.field(init=False)
    store: MemoryStore = attrs.field(init=False)
    _due: int | None = attrs.field(init=False, default=None, repr=False)  # to be evaluated
    _cache: dict = attrs.field(init=False, factory=dict, repr=False)

    @sampler.default
    def _uniform_sampler(self):
        users = self.ratings.table["user"].unique()
        size = min(whole_number("cohort_size", self.cohort_size, 1), len(users))
        return UniformSampler(users, size, self.seed)

    def __attrs_post_init__(self):
        """Builds the model, the clients' data, the process and an empty store."""
        self.biases, self.seed = yes_or_no("biases", self.biases), seed_number("seed", self.seed)
        if not isinstance(self.rates, list | tuple) or len(self.rates) != 3:
            raise TypeError(
                f"rates must be three numbers, of server, items and users, not {shown(self.rates)}."
            )
        mean = self.mean_rating
        if mean is None:
            mean = float(self.ratings.table["rating"].mean())
        self.model = MatrixFactorization(
            self.ratings.num_items,
            self.num_factors,
            biases=self.biases,
            mean_rating=mean if self.biases else 0.0,
            l2=self.l2,
            seed=self.seed,
        )
        self.clients = self._datasets(self.ratings)
        self.process = InThisProcess(self.engine(self.method, self.model, sgd(*self.rates)))
        self.store = MemoryStore(self.process, self.ratings.num_users)

    def _datasets(self, ratings: Ratings) -> ClientDatasets:
        return ClientDatasets(ratings, self.batch_size, shuffle_seed=self.seed)

    def hold(self, ratings: Ratings) -> None:
        """Lets the devices hold other ratings from now on, such as the newest ones only.

        Args:
            ratings: of the same users and items.

        Raises:
            ValueError: if they are of other numbers of users or items.
        """
        if (ratings.num_users, ratings.num_items) != (
            self.ratings.num_users,
            self.ratings.num_items,
        ):
            raise ValueError(
                f"The devices belong to {self.ratings.num_users} users with "
                f"{self.ratings.num_items} items, and these ratings are of {ratings.num_users} "
                f"with {ratings.num_items}; give ratings of the same ones."
            )
        self.ratings, self.clients = ratings, self._datasets(ratings)

    def rounds(self, until: int) -> Iterator[Round]:
        """Runs rounds for your own `for` loop, which commits them to `store`; see `training`."""
        return rounds(self.process, self.store, self.clients, self.sampler, until)

    def train(
        self, until: int, evaluate: Callable[[], dict] | None = None, every: int = 10
    ) -> pd.DataFrame:
        """Runs and commits rounds.

        Args:
            until: the number of rounds that the run has in the end.
            evaluate: called after every so many rounds and after the last; what it returns
                joins the history.
            every: after how many rounds.

        Returns:
            The history of all rounds.

        Raises:
            TypeError: if a number is not whole, or `evaluate` no function.
            ValueError: if a number is too small.
        """
        every = whole_number("every", every, 1)
        left_out_or(called)("evaluate", evaluate)

        def evaluate_if_due() -> None:
            if evaluate and self._due == self.store.round_num:
                self.store.add_metrics(evaluate())
                self._due = None

        evaluate_if_due()  # of the last round, where an interrupt came before it
        for done in self.rounds(until):
            is_due = done.round_num % every == 0 or done.round_num == until
            self._due = done.round_num if is_due else None
            self.store.commit(done)
            evaluate_if_due()
        return self.store.history

    def branch(self, sampler: Callable[[int], np.ndarray] | None = None) -> Experiment:
        """Returns a run of its own that goes on from here; both share what has been built.

        Args:
            sampler: draws its cohorts; left out, the same one.

        Raises:
            TypeError: if the sampler cannot be called.
        """
        left_out_or(called)("sampler", sampler)
        branch = copy.copy(self)
        branch.store = self.store.copy()
        if sampler is not None:
            branch.sampler = sampler
        return branch

    def local_weights(self) -> list[np.ndarray]:
        """Returns the users' side as the method holds it, one row per user.

        It is what the clients keep, or the tables at the server, or, where nothing is kept, the
        first weights. What a second table says of a user's own items is added.
        """
        kept, table = self.store.local_weights(), self._second_table()
        if table is not None:
            return [kept[0] + told_by_items(self.ratings, table), *kept[1:]]
        if kept:
            return kept
        tables = self.store.server_state.model_weights[1 + self.biases :]
        return stacked_rows(tables or self._first_states().local_weights)

    def _second_table(self) -> np.ndarray | None:
        """Returns what the items say of their raters, if the method has such a table."""
        if not isinstance(taken_apart(self.method)[0].client_update, ImplicitSum):
            return None
        return np.asarray(self.store.server_state.model_weights[-1])

    def _first_states(self) -> ClientState:
        """Returns the stacked first states of clients that keep their local weights."""
        everyone = np.arange(self.ratings.num_users)
        return MemoryStore(self._serving(1), len(everyone))[everyone]

    def _serving(self, epochs: int, rate: float | None = None) -> InThisProcess:
        """Returns the process that trains the users' side alone."""
        rates = *self.rates[:2], self.rates[2] if rate is None else rate
        if (epochs, rates) not in self._cache:
            process = build_packed_process(local_only(epochs), self.model, sgd(*rates))
            self._cache[epochs, rates] = InThisProcess(process)
        return self._cache[epochs, rates]

    def serve(
        self,
        epochs: int,
        ratings: Ratings | None = None,
        users: Iterable[int] | None = None,
        *,
        start: list[np.ndarray] | None = None,
        server_state=None,
        round_num: int = 0,
        rate: float | None = None,
    ) -> list[np.ndarray]:
        """Trains the users' side on their own ratings, with the items frozen.

        Args:
            epochs: passes over each user's ratings; 0 returns the start.
            ratings: what to train on; left out, the training ratings.
            users: whose side; left out, all users who have such ratings.
            start: where the users' side starts, one row per user; left out, `local_weights()`.
            server_state: holds the items; left out, that of the store.
            round_num: decides the order of the ratings.
            rate: the learning rate; left out, that of training.

        Returns:
            The users' side, one row per user; of users who were not trained, their start.

        Raises:
            TypeError, ValueError: if a number or an id makes no sense.
        """
        epochs = whole_number("epochs", epochs, 0, 100_000)
        rate = left_out_or(finite_number)("rate", rate, 0)
        round_num = whole_number("round_num", round_num, 0)
        local = [part.copy() for part in (self.local_weights() if start is None else start)]
        clients = self.clients if ratings is None else self._datasets(ratings)
        if users is None:
            users = np.flatnonzero(clients.counts)
        users = client_ids(users, clients.num_clients)
        if not epochs or not len(users):
            return local
        if self._second_table() is not None:
            raise ValueError(
                "Passes would pull the users to zero, not to what their items tell; use solve."
            )
        process = self._serving(epochs, rate)
        first = as_arrays(process.client_state_fn())
        items = self.store.server_state if server_state is None else server_state
        items = attrs.evolve(
            process.initialize(), model_weights=items.model_weights[: 1 + self.biases]
        )
        data, ids = process.inputs(clients, users, round_num)
        states = [
            attrs.evolve(
                first,
                index=part.astype(np.int32),
                local_weights=[rows[part][:, None] for rows in local],
                last_round=np.zeros(len(part), np.int32),
                num_visits=np.zeros(len(part), np.int32),
            )
            for part in ids
        ]
        for state in process.next(items, data, states)[2]:
            for rows, part in zip(local, stacked_rows(state.local_weights), strict=True):
                rows[np.asarray(state.index)] = part
        return local

    def solve(
        self, ratings: Ratings | None = None, *, l2: float | None = None, shrink: float = 0.01
    ) -> list[np.ndarray]:
        """Fits every user's side to its own ratings exactly, with the items frozen.

        It needs nothing that a client keeps: the items and the ratings decide it.

        Args:
            ratings: what to fit to; left out, the training ratings. A user without any gets
                zeros.
            l2: the penalty per rating; left out, the model's own.
            shrink: the penalty that does not grow with the number of ratings; above zero.

        Returns:
            The users' side, one row per user.
        """
        if not self.biases:
            raise ValueError("solve fits vectors and biases; give the experiment biases.")
        items = [np.asarray(w) for w in self.store.server_state.model_weights[:2]]
        factors = Factors(self.model, items, [], self._second_table())
        ratings = self.ratings if ratings is None else ratings
        return factors.fold_in(ratings, self.l2 if l2 is None else l2, shrink).users

    def predict(self, ratings: Ratings, local_weights: list | None = None) -> np.ndarray:
        """Predicts the rows of a table of ratings.

        Args:
            ratings: the ratings to predict.
            local_weights: the users' side; left out, `local_weights()`.

        Returns:
            float32[n] in stars, not clipped to the scale.
        """
        items = [np.asarray(w) for w in self.store.server_state.model_weights[: 1 + self.biases]]
        local = self.local_weights() if local_weights is None else local_weights
        user, item = (ratings.table[name].to_numpy() for name in ("user", "item"))
        return self.model.predict(items, local, user, item)

    def score(self, ratings: Ratings, local_weights: list | None = None) -> dict[str, float]:
        """Scores the predictions of a table of ratings; see `evaluation.metrics.score`."""
        return score(self.predict(ratings, local_weights), ratings)
