"""The recorded cost of privacy: each epsilon follows from its noise, and factors beat biases."""

import numpy as np
import pytest

from stateful_tff import recorded
from stateful_tff.evaluation.accounting import epsilon_of_gaussians

TABLE = recorded.results("privacy")
RUNS = TABLE[TABLE["metric"] == "rmse"]
PRIVATE = RUNS[RUNS["epsilon"] != "none"]


def test_every_epsilon_is_what_the_recorded_noise_costs():
    assert len(PRIVATE) == 5 * 3 * 5  # epsilons, arms, seeds
    costs = {}
    for epsilon, multipliers in zip(PRIVATE["epsilon"], PRIVATE["multipliers"], strict=True):
        together = sum(z**-2 for z in multipliers) ** -0.5
        costs.setdefault(float(epsilon), set()).add(round(together, 3))
    assert sorted(costs) == [1, 2, 4, 8, 16]
    for epsilon, found in costs.items():
        assert max(found) - min(found) <= 0.002
        assert epsilon_of_gaussians(min(found)) == pytest.approx(epsilon, rel=0.01)


def test_the_means_are_those_of_the_seeds():
    means = TABLE[TABLE["metric"] == "rmse, mean"]
    for row in means.itertuples():
        same = RUNS[(RUNS["epsilon"] == row.epsilon) & (RUNS["method"] == row.method)]
        assert same["value"].mean() == pytest.approx(row.value, abs=2e-5)


@pytest.mark.parametrize("epsilon, most", [(8.0, 0.92), (16.0, 0.90)])
def test_factors_reach_further_than_the_best_private_biases(epsilon, most):
    pairs = TABLE[(TABLE["metric"] == "rmse difference") & (TABLE["epsilon"] == epsilon)]
    assert len(pairs) == 2 and (pairs["high"] < 0).all()
    means = TABLE[(TABLE["metric"] == "rmse, mean") & (TABLE["epsilon"] == epsilon)]
    assert (means[means["method"] != "biases"]["value"] <= most).all()
    assert np.all(pairs["high"] - pairs["low"] < 0.01)
