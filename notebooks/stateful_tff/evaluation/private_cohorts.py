"""Cohorts as a privacy accountant assumes them: Poisson samples, or everyone once in a while.

Knows nothing of training, models, methods, engines and stores: a sampler returns client ids.
"""

from __future__ import annotations

import attrs
import numpy as np

from ..checks import seed_number, share, valid, whole_number

_IS_COUNT = valid(whole_number, 1, 2**31 - 1)


@attrs.frozen
class PoissonSampler:
    """Lets each client take part in a round with the same chance, independent of the others.

    This is what `accounting.epsilon_of_poisson` assumes. The cohorts are of different sizes.

    Attributes:
        num_clients: the size of the population; ids run from 0.
        rate: the chance.
        seed: decides all draws; who knows it knows who took part, and the accountant's gain from
            sampling is lost.
    """

    num_clients: int = attrs.field(validator=_IS_COUNT)
    rate: float = attrs.field(validator=valid(share))
    seed: int = attrs.field(default=0, validator=valid(seed_number))

    def __attrs_post_init__(self):
        """Refuses a chance that would leave rounds without anybody."""
        if self.num_clients * self.rate < 20:
            raise ValueError(
                f"A rate of {self.rate} of {self.num_clients} clients may draw an empty cohort, "
                "and drawing again is no Poisson sampling; let at least 20 be expected."
            )

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the ids of a round, counted from 0; int64[n], in random order."""
        rng = np.random.default_rng([self.seed, whole_number("round_num", round_num, 0)])
        return rng.permutation(np.flatnonzero(rng.random(self.num_clients) < self.rate))


@attrs.frozen
class OnceInATurn:
    """Deals the population into the cohorts of a turn, so that each client takes part once.

    This is what `accounting.epsilon_of_tree` assumes, with a tree for each turn. The order is
    new in each turn; cohorts differ in size by at most one.

    Attributes:
        num_clients: the size of the population; ids run from 0.
        rounds: of a turn, at most `num_clients`.
        seed: decides the order.
    """

    num_clients: int = attrs.field(validator=_IS_COUNT)
    rounds: int = attrs.field(validator=_IS_COUNT)
    seed: int = attrs.field(default=0, validator=valid(seed_number))

    def __attrs_post_init__(self):
        """Refuses more rounds than clients."""
        whole_number("rounds", self.rounds, 1, self.num_clients)

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the ids of a round, counted from 0; int64[n]."""
        turn, number = divmod(whole_number("round_num", round_num, 0), self.rounds)
        order = np.random.default_rng([self.seed, turn]).permutation(self.num_clients)
        return np.array_split(order, self.rounds)[number]
