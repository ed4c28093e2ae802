"""Drift read from a client's own residuals: right values, who is left alone, what is refused."""

import numpy as np
import pytest
from random_ratings import random_ratings

from stateful_tff.evaluation.drift import drift


def split(ratings):
    held = np.arange(len(ratings)) % 5 == 4
    return ratings.select(~held), ratings.select(held)


def plain(support, residuals, judged, reach, shrink):
    """The same, rating by rating."""
    values = []
    for _, row in judged.table.iterrows():
        own = np.flatnonzero(support.table["user"] == row["user"])
        before = (support.table["timestamp"].to_numpy()[own] <= row["timestamp"]).sum()
        weights = [np.exp(-abs(place + 0.5 - before) / reach) for place in range(len(own))]
        top = sum(w * residuals[i] for w, i in zip(weights, own, strict=True))
        values.append(top / (sum(weights) + shrink))
    return values


def test_it_is_the_shrunk_mean_of_what_lies_near():
    support, judged = split(random_ratings(0))
    residuals = np.random.default_rng(0).normal(size=len(support))
    found = drift(support, residuals, judged, 3.0, 2.0)
    np.testing.assert_allclose(found, plain(support, residuals, judged, 3.0, 2.0))


def test_it_finds_a_mood_that_was_put_in():
    support, judged = split(random_ratings(1))

    def mood(ratings):
        return np.where(ratings.table["user"] % 2 == 0, 0.5, -0.5)

    found = drift(support, mood(support), judged, 5.0, 1e-9)
    np.testing.assert_allclose(found, mood(judged), atol=1e-6)


def test_users_without_support_are_left_alone():
    ratings = random_ratings(2)
    nobody = ratings.select(np.zeros(len(ratings), bool))
    assert not drift(nobody, np.zeros(0), ratings, 5.0, 5.0).any()


@pytest.mark.parametrize(("reach", "shrink"), [(0.0, 1.0), (1.0, 0.0), (np.nan, 1.0), (-1, 1)])
def test_numbers_that_make_no_sense_are_refused(reach, shrink):
    support, judged = split(random_ratings(0))
    with pytest.raises(ValueError, match="reach|shrink"):
        drift(support, np.zeros(len(support)), judged, reach, shrink)


def test_one_residual_for_each_rating():
    support, judged = split(random_ratings(0))
    with pytest.raises(ValueError, match="residuals do not fit"):
        drift(support, np.zeros(3), judged, 1.0, 1.0)
