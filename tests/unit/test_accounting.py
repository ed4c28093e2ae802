"""What privacy costs, against closed forms, and cohorts as the accountants assume them."""

import numpy as np
import pytest
from scipy import optimize, stats

from stateful_tff.evaluation import accounting
from stateful_tff.evaluation.private_cohorts import OnceInATurn, PoissonSampler


def of_one_gaussian(noise, delta):
    """Balle and Wang 2018, theorem 8."""

    def excess(epsilon):
        first = stats.norm.cdf(0.5 / noise - epsilon * noise)
        return first - np.exp(epsilon) * stats.norm.cdf(-0.5 / noise - epsilon * noise) - delta

    return optimize.brentq(excess, 0, 500)


@pytest.mark.parametrize("noise, rounds", [(1.0, 1), (2.0, 4), (3.0, 30), (0.5, 1)])
def test_everybody_in_every_round_costs_what_one_gaussian_does(noise, rounds):
    expected = of_one_gaussian(noise / rounds**0.5, 1e-5)
    assert accounting.epsilon_of_gaussians(noise, rounds) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("epsilon, rounds", [(1, 1), (8, 10), (16, 3)])
def test_the_noise_for_an_epsilon_costs_that_epsilon(epsilon, rounds):
    noise = accounting.noise_multiplier_for(epsilon, rounds)
    assert epsilon * 0.99 < accounting.epsilon_of_gaussians(noise, rounds) <= epsilon
    assert accounting.noise_multiplier_for(np.inf) == 0


def test_poisson_sampling_is_worth_what_the_facts_say():
    """100 of 6,040 clients in 1,800 rounds, as measured before; never more than everybody."""
    found = [accounting.epsilon_of_poisson(z, 100 / 6040, 1800) for z in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(found, [30.6, 4.7, 1.6], atol=0.06)
    assert accounting.epsilon_of_poisson(1.0, 0.999, 4) == pytest.approx(
        accounting.epsilon_of_gaussians(1.0, 4), rel=0.1
    )


def test_a_tree_costs_as_many_gaussians_as_it_has_levels():
    for rounds, levels in ((1, 1), (2, 2), (7, 3), (8, 4), (60, 6)):
        found = accounting.epsilon_of_tree(3.0, rounds, turns=2)
        assert found == pytest.approx(accounting.epsilon_of_ledger(levels * 2 / 18), rel=1e-6)


def test_a_ledger_costs_what_its_rounds_do():
    assert accounting.epsilon_of_ledger(0) == 0
    spent = 5 / (2 * 4.0**2)  # five rounds at the full norm
    exact = accounting.epsilon_of_gaussians(4.0, 5)
    assert exact < accounting.epsilon_of_ledger(spent) < 1.2 * exact


def test_a_poisson_sample_draws_each_client_with_its_chance():
    sampler = PoissonSampler(1000, 0.05, seed=3)
    drawn = [sampler(number) for number in range(400)]
    counts = np.bincount(np.concatenate(drawn), minlength=1000)
    assert stats.chisquare(counts).pvalue > 1e-3
    sizes = np.array([len(cohort) for cohort in drawn])
    assert np.mean(sizes) == pytest.approx(50, abs=1.5)
    assert np.var(sizes) == pytest.approx(1000 * 0.05 * 0.95, rel=0.25)
    np.testing.assert_array_equal(sampler(7), drawn[7])
    with pytest.raises(ValueError, match="let at least 20 be expected"):
        PoissonSampler(100, 0.1)


def test_in_a_turn_everybody_takes_part_once():
    sampler = OnceInATurn(50, 7, seed=2)
    turns = [np.concatenate([sampler(t * 7 + n) for n in range(7)]) for t in range(2)]
    for turn in turns:
        np.testing.assert_array_equal(np.sort(turn), np.arange(50))
    assert (turns[0] != turns[1]).any()
    assert {len(sampler(n)) for n in range(7)} == {7, 8}
    with pytest.raises(ValueError, match="rounds"):
        OnceInATurn(5, 7)
