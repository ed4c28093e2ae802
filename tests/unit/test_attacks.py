"""What an update gives away, against updates whose ratings are known; and a masked sum."""

import functools

import numpy as np
import pytest
from scipy import stats

from stateful_tff.evaluation import attacks, secure_sum


def update(seed, batch_size, l2, num_rated=40, num_items=60):
    """One epoch of plain SGD of one client, batch by batch, in NumPy; rates .3 and .1."""
    rng = np.random.default_rng(seed)
    items, biases = rng.normal(0, 0.3, (num_items, 4)), rng.normal(0, 0.3, (num_items, 1))
    user, own = rng.normal(0, 0.5, 4), rng.normal(0, 0.3)
    rated = rng.choice(num_items, num_rated, replace=False)
    stars = rng.integers(1, 6, num_rated).astype(float)
    delta = [np.zeros_like(items), np.zeros_like(biases)]
    for first in range(0, num_rated, batch_size):
        some = slice(first, first + batch_size)
        at, size = rated[some], len(rated[some])
        error = items[at] @ user + own + biases[at, 0] + 3.5 - stars[some]
        delta[0][at] = -0.6 / size * (error[:, None] * user + l2 * items[at])
        delta[1][at, 0] = -0.6 / size * (error + l2 * biases[at, 0])
        user = user - 0.2 * (items[at].T @ error / size + l2 * user)
        own -= 0.2 * (error.mean() + l2 * own)
    truth = np.full(num_items, np.nan)
    truth[rated] = stars
    return delta, [items, biases], truth


@pytest.mark.parametrize("batch_size, l2", [(40, 0.0), (40, 0.05), (5, 0.05)])
def test_one_update_gives_items_and_stars(batch_size, l2):
    right = []
    for seed in range(20):
        delta, received, truth = update(seed, batch_size, l2)
        np.testing.assert_array_equal(attacks.changed_rows(delta), ~np.isnan(truth))
        found = attacks.stars_of(delta, received, 3.5, 0.3, batch_size, l2)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(truth))
        right.append(np.nanmean(found == np.where(np.isnan(truth), np.nan, truth)) * 60 / 40)
    assert np.mean(right) > 0.9


def test_an_empty_update_gives_nothing():
    zeros = [np.zeros((5, 2)), np.zeros((5, 1))]
    assert not attacks.changed_rows(zeros).any()
    assert np.isnan(attacks.stars_of(zeros, zeros, 3.5, 0.3, 5)).all()


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
    pairs = scores[positive][:, None] - scores[~positive]
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    assert attacks.auc(scores, positive) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least one of each"):
        attacks.auc(scores, np.ones(50, bool))


def test_a_label_is_read_off_features_that_hold_it_and_no_others():
    rng = np.random.default_rng(1)
    labels = rng.random(300) < 0.5
    noise = rng.normal(size=(300, 30))
    telling = noise + 0.8 * labels[:, None] * (np.arange(30) < 5)
    assert attacks.auc(attacks.out_of_fold(telling, labels), labels) > 0.7
    blind = attacks.auc(attacks.out_of_fold(noise, labels), labels)
    assert blind == pytest.approx(0.5, abs=0.12)


def test_members_have_lower_losses():
    rng = np.random.default_rng(2)
    losses = rng.exponential(size=(2, 2000))
    assert attacks.membership(losses[0], losses[1]) == pytest.approx(0.5, abs=0.03)
    assert attacks.membership(losses[0], losses[1] / 2) == pytest.approx(2 / 3, abs=0.03)


def test_pseudo_items_hide_among_others():
    rng, rated = np.random.default_rng(3), np.arange(100) < 10
    mixed = attacks.with_pseudo_items(rated, 3, rng)
    assert mixed[rated].all() and mixed.sum() == 40
    assert attacks.with_pseudo_items(rated, 50, rng).all()
    np.testing.assert_array_equal(attacks.with_pseudo_items(rated, 0, rng), rated)


VALUES = np.random.default_rng(4).normal(0, 2, (4, 50))


@functools.cache
def masking():
    return secure_sum.Masking(4, 3, seed=9)


def sent(clients):
    return {c: masking().sent_by(c, secure_sum.to_integers(VALUES[c], 3.0, 4)) for c in clients}


@pytest.mark.parametrize("clients", [(0, 1, 2, 3), (0, 1, 3), (1, 2, 3)])
def test_masks_leave_the_sum_of_those_who_sent(clients):
    total = secure_sum.from_integers(masking().total(sent(clients)), 3.0, 4)
    np.testing.assert_allclose(total, np.clip(VALUES[list(clients)], -3, 3).sum(0), atol=1e-7)


def test_what_one_client_sends_is_uniform_and_too_few_uncover_nothing():
    zeros = np.zeros(20_000, np.uint32)
    found = masking().sent_by(0, zeros) / 2**32
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    with pytest.raises(ValueError, match="3 are needed"):
        masking().total(sent((0, 1)))


def test_any_three_shares_give_the_secret_and_two_do_not():
    shares = secure_sum.shares_of(12345, 5, 3, np.random.default_rng(0))
    assert secure_sum.secret_of(shares[:3]) == secure_sum.secret_of(shares[2:]) == 12345
    assert secure_sum.secret_of(shares[:2]) != 12345


def test_the_sum_of_the_largest_numbers_does_not_overflow():
    most = [secure_sum.to_integers(np.array([9.0, -9.0]), 3.0, 7) for _ in range(7)]
    np.testing.assert_allclose(secure_sum.from_integers(sum(most), 3.0, 7), [21, -21], atol=1e-6)
