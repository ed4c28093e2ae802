"""Private alternating least squares: nothing leaves but what is clipped, noised and charged."""

import attrs
import numpy as np
import pandas as pd
import pytest

from stateful_tff.data import Ratings
from stateful_tff.evaluation import accounting
from stateful_tff.evaluation.private_als import PrivateALS, Releases

SETTINGS = PrivateALS(num_factors=2, rounds=3, norm=8.0)


def ratings(seed=0, num_users=300, num_items=30, each=12, of=None):
    """Ratings of two hidden factors and biases; `of` keeps one user's alone."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), each)
    item = np.concatenate([rng.choice(num_items, each, replace=False) for _ in range(num_users)])
    tastes, kinds = rng.normal(size=(num_users, 2)), rng.normal(size=(num_items, 2))
    exact = 3.5 + 0.4 * rng.normal(size=num_items)[item] + 0.6 * (tastes[user] * kinds[item]).sum(1)
    stars = np.clip(np.rint(exact + 0.3 * rng.normal(size=len(user))), 1, 5)
    table = pd.DataFrame({"user": user, "item": item, "rating": stars, "timestamp": 0})
    table = table.astype({"user": np.int32, "item": np.int32, "rating": np.float32})
    table["timestamp"] = np.arange(len(table))
    items = pd.DataFrame({"movie_id": range(num_items), "title": "", "genres": ""})
    whole = Ratings("test", table, np.arange(num_users), items)
    return whole if of is None else whole.select(user == of)


class Watched(Releases):
    """A door that writes down what it lets through, before the noise."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def sums(self, squares, sums_of, norm, share):
        def watched(factors):
            parts = sums_of(factors)
            size = np.sqrt(sum(np.sum(np.square(part)) for part in parts))
            self.seen.append((size, norm, np.sqrt(np.sum(squares * factors**2))))
            return parts

        return super().sums(squares, watched, norm, share)


@pytest.mark.parametrize("user", [0, 7, 123])
def test_no_user_alone_sends_more_than_the_norm(user):
    for norm in (8.0, 0.5):
        door = Watched(np.inf, 0)
        attrs.evolve(SETTINGS, norm=norm).fit(ratings(of=user), door)
        assert len(door.seen) == 1 + 2 + 3
        for size, most, told in door.seen:
            assert 0 < size <= most * (1 + 1e-9)
            assert size == pytest.approx(told, rel=1e-9)  # what is clipped is what is sent


def test_the_releases_cost_the_epsilon_that_was_given():
    door = Releases(4.0, seed=1)
    SETTINGS.fit(ratings(), door)
    assert door.left == pytest.approx(0, abs=1e-9)
    together = sum(z**-2 for z in door.multipliers) ** -0.5
    assert 3.98 < accounting.epsilon_of_gaussians(together) <= 4.0
    with pytest.raises(ValueError, match="let the shares add up to 1"):
        door.sums(np.ones(2), lambda factors: [factors], 1.0, 0.01)


def test_the_noise_of_a_sum_is_as_large_as_its_multiplier_says():
    door, drawn = Releases(2.0, seed=3), []
    for _ in range(4):
        (total,), std = door.sums(np.full(5, 4.0), lambda f: [np.full(5000, f.sum())], 1.0, 0.25)
        assert std == pytest.approx(door.multipliers[-1])
        assert std == pytest.approx(2 * accounting.noise_multiplier_for(2.0))
        drawn.append((total - 2.5) / std)  # five users of norm 2, each halved
    np.testing.assert_allclose(np.std(drawn, axis=1), 1, atol=0.04)
    np.testing.assert_allclose(np.mean(drawn, axis=1), 0, atol=0.06)


def test_without_noise_it_learns_and_under_noise_it_still_beats_biases():
    whole = ratings(num_users=1000)
    held = np.arange(len(whole)) % 6 == 0
    train, test = whole.select(~held), whole.select(held)
    truth = test.table["rating"].to_numpy()

    def rmse(epsilon, **settings):
        found = attrs.evolve(SETTINGS, **settings).fit(train, Releases(epsilon, 5))
        return np.sqrt(np.mean((np.clip(found.predict(test), 1, 5) - truth) ** 2))

    biases = dict(rounds=0, biases=(0.99,))
    exact, alone = rmse(np.inf, rounds=6), rmse(np.inf, **biases)
    assert exact < alone - 0.03
    noisy = rmse(16.0, rounds=6)
    assert noisy < rmse(16.0, **biases) - 0.03
    assert noisy < rmse(0.5, rounds=6) - 0.03


def test_the_items_depend_on_a_user_through_the_releases_alone():
    """The same releases give the same items, whatever the ratings are."""

    class Fixed(Releases):
        def sums(self, squares, sums_of, norm, share):
            shapes = [np.shape(part) for part in sums_of(np.ones(len(squares)))]
            rng = np.random.default_rng(len(self.multipliers))
            self.left -= share
            self.multipliers.append(share)
            return [10 * rng.random(shape) for shape in shapes], 1.0

    first, second = (SETTINGS.fit(ratings(seed), Fixed(np.inf, 0)) for seed in (0, 1))
    for a, b in zip(first.items, second.items, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first.users[1] - second.users[1]).max() > 0.1
    assert first.model.mean_rating == second.model.mean_rating
