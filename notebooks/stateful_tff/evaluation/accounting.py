"""What a private run costs: epsilon from noise, cohorts and rounds, by `dp_accounting`.

All of it is by users: two populations are neighbours where one has a client more. The noise
multiplier is the noise's standard deviation over the largest norm that a client may send.
Knows nothing of training, methods, engines and stores.
"""

from __future__ import annotations

import functools

import dp_accounting
import numpy as np
from dp_accounting import pld, rdp

from ..checks import positive_number, share, whole_number

DELTA = 1e-5


def epsilon_of_gaussians(noise_multiplier: float, rounds: int = 1, delta: float = DELTA) -> float:
    """Returns epsilon of rounds in which everybody takes part.

    T sums with Gaussian noise z are as private as one with z / sqrt(T) (Balle and Wang 2018).

    Args:
        noise_multiplier: z, above zero; one for all rounds.
        rounds: T.
        delta: the other number of the guarantee.
    """
    noise = positive_number("noise_multiplier", noise_multiplier)
    noise /= whole_number("rounds", rounds, 1) ** 0.5
    return _epsilon(pld.PLDAccountant, dp_accounting.GaussianDpEvent(noise), delta)


def epsilon_of_poisson(
    noise_multiplier: float, rate: float, rounds: int, delta: float = DELTA
) -> float:
    """Returns epsilon of rounds for which each client is drawn with the same chance.

    It is the accountant's for `PoissonSampler`, and for nothing else: cohorts of one size, or in
    a fixed order, are no Poisson samples.

    Args:
        noise_multiplier: above zero.
        rate: the chance of a client in a round, between 0 and 1.
        rounds: how many.
        delta: the other number of the guarantee.
    """
    noise = positive_number("noise_multiplier", noise_multiplier)
    one = dp_accounting.PoissonSampledDpEvent(
        share("rate", rate), dp_accounting.GaussianDpEvent(noise)
    )
    event = dp_accounting.SelfComposedDpEvent(one, whole_number("rounds", rounds, 1))
    return _epsilon(rdp.RdpAccountant, event, delta)


def epsilon_of_tree(
    noise_multiplier: float, rounds: int, turns: int = 1, delta: float = DELTA
) -> float:
    """Returns epsilon of sums over trees, in each of which a client takes part once.

    Source: Kairouz et al. 2021, "Practical and Private (Deep) Learning Without Sampling or
    Shuffling", appendix D. No chance is needed: any order of the clients will do.

    Args:
        noise_multiplier: that of a node, above zero.
        rounds: of a tree.
        turns: how many trees.
        delta: the other number of the guarantee.
    """
    noise = positive_number("noise_multiplier", noise_multiplier)
    tree = dp_accounting.SingleEpochTreeAggregationDpEvent(noise, whole_number("rounds", rounds, 1))
    event = dp_accounting.SelfComposedDpEvent(tree, whole_number("turns", turns, 1))
    return _epsilon(functools.partial(rdp.RdpAccountant, **_REPLACING), event, delta)


_REPLACING = dict(
    neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL  # a client by nobody
)


def epsilon_of_ledger(spent: float, delta: float = DELTA) -> float:
    """Returns epsilon of what a client's ledger says is spent, in zCDP.

    A ledger adds up `sent^2 / (2 std^2)`; what is spent in all, over rounds that depend on each
    other, is as private as one sum with a noise multiplier of `1 / sqrt(2 spent)` (Feldman and
    Zrnic 2021), here by Renyi divergences.

    Args:
        spent: from 0; an individual's own number, which it keeps to itself.
        delta: the other number of the guarantee.
    """
    if spent == 0:
        return 0.0
    noise = (2 * positive_number("spent", spent)) ** -0.5
    return _epsilon(rdp.RdpAccountant, dp_accounting.GaussianDpEvent(noise), delta)


def noise_multiplier_for(epsilon: float, rounds: int = 1, delta: float = DELTA) -> float:
    """Returns the least noise multiplier for rounds in which everybody takes part.

    Args:
        epsilon: what the rounds may cost in all, above zero; infinity for no noise.
        rounds: how many.
        delta: the other number of the guarantee.
    """
    if epsilon == np.inf:
        return 0.0
    both = pld.common.DifferentialPrivacyParameters(
        positive_number("epsilon", epsilon), share("delta", delta)
    )
    loss = pld.privacy_loss_mechanism.GaussianPrivacyLoss.from_privacy_guarantee(both)
    return float(loss.standard_deviation * whole_number("rounds", rounds, 1) ** 0.5)


def _epsilon(accountant, event, delta: float) -> float:
    """Returns epsilon of an event."""
    return float(accountant().compose(event).get_epsilon(share("delta", delta)))
