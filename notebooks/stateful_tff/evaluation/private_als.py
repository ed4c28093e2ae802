"""Private alternating least squares: a few noisy sums for the items, exact users on their devices.

Every number that leaves a user goes through `Releases`: clipped by user, summed, noised, charged.
The users' vectors are private and exact, so privacy is joint: it holds for what all others see.
Source: after Chien et al. 2021, "Private Alternating Least Squares", algorithm 1. Differs: an
item's normal equations are not released, but the sums on their right alone; on their left stand
one second moment of all users and the item's noisy count. Sums are averaged over rounds, and an
item's vector is shrunk by its own noise, as in a factor analysis. It computes in one place what
clients and server would. Knows nothing of training, methods, engines and stores.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import scipy.sparse

from ..checks import positive_number, seed_number, valid, whole_number
from ..data import Ratings
from ..models.matrix_factorization import MatrixFactorization
from .accounting import DELTA, noise_multiplier_for
from .centralized import Factors

_IS_NUMBER, _IS_COUNT = valid(positive_number), valid(whole_number, 0)


class Releases:
    """The door through which sums over users leave, until the budget is used up.

    Args:
        epsilon: what all releases may cost together; infinity for no noise.
        seed: decides the noise.
        delta: the other number of the guarantee.

    Attributes:
        multipliers: the noise multiplier of each release so far.
        left: the share of the budget that is left, 1 at the start.
    """

    def __init__(self, epsilon: float, seed: int, delta: float = DELTA):
        """See the class."""
        self._noise = noise_multiplier_for(epsilon, 1, delta)
        self._rng = np.random.default_rng([seed_number("seed", seed), 15])
        self.multipliers, self.left = [], 1.0

    def sums(self, squares: np.ndarray, sums_of: Callable, norm: float, share: float) -> tuple:
        """Returns noisy sums over users, each user's part within a norm.

        Args:
            squares: float64[num_users], the squared norm of all that each would send.
            sums_of: from the users' factors, float64[num_users], at most 1, to the sums.
            norm: the largest norm of what a user sends.
            share: of the whole budget, in 1 / noise_multiplier^2.

        Returns:
            The sums, a list of arrays, and the standard deviation of their noise.

        Raises:
            ValueError: if less than that share is left.
        """
        if share > self.left + 1e-9:
            raise ValueError(
                f"A release for {share:.3g} of the budget was asked for, and {self.left:.3g} of it "
                "is left; let the shares add up to 1."
            )
        self.left -= share
        factors = np.minimum(1.0, norm / np.sqrt(np.maximum(squares, 1e-30)))
        self.multipliers.append(self._noise / share**0.5)
        std = norm * self.multipliers[-1]
        sums = [np.asarray(part, float) for part in sums_of(factors)]
        return [part + std * self._rng.normal(size=part.shape) for part in sums], std


@attrs.frozen
class PrivateALS:
    """How the budget is spent, and how strongly each side is shrunk.

    Attributes:
        num_factors: the length of the vectors.
        rounds: releases for the vectors; 0 leaves biases alone.
        norm: a user's parts are clipped to what so many ratings of a usual size send.
        mean: share of the budget for the mean rating.
        biases: shares for the items' biases; the first one is for their counts, too.
        memory: from round 1 / memory on, a round has this weight in the average of rounds.
        noise: the variance of a rating around its prediction, in stars^2.
        shrink: a user's bias is that of its ratings and so many more of zero.
        spread: the variance of an item's vector, before its users tell of it.
    """

    num_factors: int = attrs.field(default=6, validator=_IS_COUNT)
    rounds: int = attrs.field(default=6, validator=_IS_COUNT)
    norm: float = attrs.field(default=60.0, validator=_IS_NUMBER)
    mean: float = attrs.field(default=0.01, validator=_IS_NUMBER)
    biases: tuple[float, ...] = (0.3, 0.1)
    memory: float = attrs.field(default=0.34, validator=_IS_NUMBER)
    noise: float = attrs.field(default=0.75, validator=_IS_NUMBER)
    shrink: float = attrs.field(default=5.0, validator=_IS_NUMBER)
    spread: float = attrs.field(default=0.02, validator=_IS_NUMBER)

    def fit(self, train: Ratings, releases: Releases, features=None, seed: int = 0) -> Factors:
        """Returns the factors: items from the releases alone, users exact from their ratings.

        Args:
            train: the ratings, of a known scale and a public number of users.
            releases: the budget; what biases leave is spent on the vectors.
            features: public features of the items, float[num_items, d], from which their vectors
                start, such as genres; left out, they start at random.
            seed: of that start.
        """
        user, item, stars = (train.table[c].to_numpy() for c in ("user", "item", "rating"))
        sides = _Sides(user, item, stars.astype(float), train.num_users, train.num_items)
        mean = self._mean(sides, train.scale, releases)
        biases, counts = self._biases(sides, mean, releases)
        own = sides.means(sides.stars - mean - biases[item], self.shrink)
        rest = np.clip(sides.stars - mean - biases[item] - own[user], -3, 3)
        vectors = users = np.zeros((0, 0))
        if self.rounds and self.num_factors:
            start = self._start(features, counts, seed)
            vectors, users = self._vectors(sides, rest, counts, start, releases)
        size = max(vectors.shape[1], 1)
        if not vectors.size:
            vectors, users = np.zeros((sides.num_items, 1)), np.zeros((sides.num_users, 1))
        model = MatrixFactorization(sides.num_items, size, biases=True, mean_rating=mean)
        tables = [[vectors, biases[:, None]], [users, own[:, None]]]
        return Factors(model, *([np.float32(part) for part in side] for side in tables))

    def _mean(self, sides, scale, releases) -> float:
        """Returns the mean over users of their mean ratings."""
        middle, half = (scale[0] + scale[1]) / 2, (scale[1] - scale[0]) / 2
        means = sides.means(np.clip(sides.stars - middle, -half, half), 0.0)
        (total,), _ = releases.sums(means**2, lambda f: [f @ means], half, self.mean)
        return float(middle + np.clip(total / sides.num_users, -half, half))

    def _biases(self, sides, mean, releases) -> tuple:
        """Returns the items' biases and their noisy counts, at least 1."""
        biases, counts = np.zeros(sides.num_items), None
        for number, share in enumerate(self.biases):
            rest = sides.stars - mean - biases[sides.item]
            error = np.clip(rest - sides.means(rest, self.shrink)[sides.user], -2.5, 2.5)
            first = number == 0
            columns = [error, np.ones_like(error)] if first else [error]
            squares = sides.by_user(sum(column**2 for column in columns))
            norm = np.sqrt(self.norm * len(columns))
            (total, *count), std = releases.sums(
                squares,
                lambda f, some=columns: [sides.by_item(f[sides.user] * one) for one in some],
                norm,
                share,
            )
            if first:
                counts = np.maximum(count[0], 1.0)
            spread = 0.25 if first else 0.02
            noise = std**2 + self.noise * counts
            biases = biases + spread * counts * total / (spread * counts**2 + noise)
        return biases, counts

    def _start(self, features, counts, seed: int) -> np.ndarray:
        """Returns the vectors before the first round: directions of the features, or random."""
        shape = len(counts), self.num_factors
        random = np.random.default_rng([seed_number("seed", seed), 16]).normal(0, 0.1, shape)
        if features is None:
            return random
        share = counts / counts.sum()
        features = np.asarray(features, float) - share @ np.asarray(features, float)
        _, _, ways = np.linalg.svd(np.sqrt(share)[:, None] * features, full_matrices=False)
        found = features @ ways[: self.num_factors].T
        found *= 0.15 / np.sqrt(np.maximum(share @ found**2, 1e-12))
        random[:, : found.shape[1]] = found
        return random

    def _vectors(self, sides, rest, counts, vectors, releases) -> tuple:
        """Returns the items' vectors and the users', after the rounds."""
        k, share = self.num_factors, releases.left / self.rounds
        norm, unknown, mean = np.sqrt(self.norm * k), np.zeros(sides.num_items), None
        lengths, many = sides.by_user(rest**2), sides.counts
        popular = counts / counts.sum()
        for number in range(self.rounds):
            users, spread = sides.solved(vectors, unknown, rest, self.noise)
            second = np.einsum("uk,ul->ukl", users, users) + spread
            second *= (0.004 * many)[:, None, None]
            squares = lengths * (users**2).sum(1) + (second**2).sum((1, 2)) + (0.01 * many) ** 2
            (sums, moment, total), std = releases.sums(
                squares,
                lambda f, u=users, s=second: [
                    sides.by_item_and_factor(f, rest, u),
                    np.einsum("u,ukl->kl", f, s),
                    0.01 * (f @ many),
                ],
                norm,
                share,
            )
            seen = max(float(total) / 0.01, 1.0)
            moment = _positive(moment / (0.004 * seen), 0.05)
            w = max(1 / (number + 1), self.memory)  # variances add up in squares
            new = w * sums, w * popular * seen, w**2 * std**2
            old = mean or (0.0, 0.0, 0.0)
            old = (1 - w) * old[0], (1 - w) * old[1], (1 - w) ** 2 * old[2]
            mean = tuple(one + other for one, other in zip(new, old, strict=True))
            prior = self.spread * np.eye(k)
            if number:
                prior = (vectors.T * popular) @ vectors + (1e-4 + popular @ unknown) * np.eye(k)
            vectors, unknown = _shrunk(*mean, moment, prior, self.noise)
        return vectors, sides.solved(vectors, unknown, rest, self.noise)[0]


class _Sides:
    """Ratings with the sums that both sides take over them."""

    def __init__(self, user, item, stars, num_users: int, num_items: int):
        self.user, self.item, self.stars = user, item, stars
        self.num_users, self.num_items = num_users, num_items
        self.counts = np.bincount(user, minlength=num_users).astype(float)
        self._bounds = np.searchsorted(user, np.arange(num_users + 1))

    def by_user(self, values) -> np.ndarray:
        return np.bincount(self.user, values, self.num_users)

    def by_item(self, values) -> np.ndarray:
        return np.bincount(self.item, values, self.num_items)

    def means(self, values, shrink: float) -> np.ndarray:
        """Each user's mean, as if there were so many more values of zero."""
        return self.by_user(values) / np.maximum(self.counts + shrink, 1e-9)

    def _table(self, values):
        shape = self.num_users, self.num_items
        return scipy.sparse.csr_matrix((values, (self.user, self.item)), shape)

    def by_item_and_factor(self, factors, values, users) -> np.ndarray:
        """Per item the sum of value times the user's vector, each user shortened by its factor."""
        return self._table(values).T @ (factors[:, None] * users)

    def solved(self, vectors, unknown, values, noise: float) -> tuple:
        """The users' vectors with a standard normal prior, and the covariances of what is left."""
        k = vectors.shape[1]
        left = np.empty((self.num_users, k, k))
        for one in range(self.num_users):
            own = vectors[self.item[self._bounds[one] : self._bounds[one + 1]]]
            left[one] = own.T @ own
        left += (self.by_user(unknown[self.item]) + noise)[:, None, None] * np.eye(k)
        spread = np.linalg.inv(left)
        return np.einsum("ukl,ul->uk", spread, self._table(values) @ vectors), noise * spread


def _positive(moment: np.ndarray, least: float) -> np.ndarray:
    """Returns a noisy second moment without what noise has made of it."""
    values, ways = np.linalg.eigh((moment + moment.T) / 2)
    return (ways * np.maximum(values, least)) @ ways.T


def _shrunk(sums, counts, variance, moment, prior, noise: float) -> tuple:
    """Returns items' vectors given noisy sums, and the mean variance that is left of each.

    A sum is `n M v` with the ratings' own noise, `n M noise`, and the released one.

    Args:
        sums: float64[num_items, k].
        counts: float64[num_items], n.
        variance: of the released noise on each number.
        moment: float64[k, k], M.
        prior: float64[k, k], the covariance of the vectors.
        noise: the variance of a rating.
    """
    left = counts[:, None, None] * moment
    total = left @ prior @ left + noise * left + variance * np.eye(len(prior))
    gain = prior @ left @ np.linalg.inv(total)
    rest = prior - gain @ left @ prior
    return np.einsum("jkl,jl->jk", gain, sums), np.trace(rest, axis1=1, axis2=2) / len(prior)
