"""Packed ratings: each one once, in the order of chapter 1, and no batch for the short."""

import attrs
import numpy as np
import pytest
import tensorflow_federated as tff
from engine_rounds import rating_clients
from hypothesis import given, settings
from hypothesis import strategies as st
from random_ratings import NUM_USERS, random_ratings

from stateful_tff.data import ClientDatasets, DataError
from stateful_tff.engines import packing
from stateful_tff.engines.packing import (
    BLOCK,
    PackedRatings,
    Shard,
    cut,
    rounded_up,
    shard_type,
    shards,
)
from stateful_tff.methods import BOTH, LOCAL, Phase

cohorts = st.sets(st.integers(0, NUM_USERS - 1), min_size=1).map(sorted)


def assert_holds_what_clients_are_dealt(shard, clients, round_num, epochs):
    """Step by step, in all epochs, and slots that name the same rating in each of them."""
    count, width = len(shard.index), clients.batch_size
    assert len(shard.block) == len(shard.sizes) == shard.items.shape[1] >= shard.steps
    assert shard.items.shape == (epochs, len(shard.block), BLOCK, width)
    assert sorted(shard.member[:count]) == list(range(count)) and not shard.member[count:].any()
    assert (np.diff(clients.counts[shard.index[shard.member[:count]]]) <= 0).all()
    assert not shard.sizes[shard.steps :].any()
    held = 0
    for rank, row in enumerate(shard.member[:count]):
        client, (block, place) = shard.index[row], divmod(rank, BLOCK)
        steps = np.flatnonzero(shard.block[: shard.steps] == block)
        assert shard.last[block] == (steps[-1] if len(steps) else -1)
        steps = steps[: -(-clients.counts[client] // width)]
        held += shard.sizes[steps, place].sum()
        dealt = clients.for_round([int(client)], round_num, epochs)[0].as_numpy_iterator()
        named = {}
        for epoch in range(epochs):
            for step in steps:
                expected, size = next(dealt), shard.sizes[step, place]
                items = shard.items[epoch, step, place, :size]
                stars = shard.levels[shard.codes[epoch, step, place, :size]]
                np.testing.assert_array_equal(items, expected["x"][:, 0])
                np.testing.assert_array_equal(stars, expected["y"][:, 0])
                if shard.slots.size:
                    slots = shard.slots[epoch, step, place, :size]
                    for slot, item in zip(slots, items, strict=True):
                        assert named.setdefault(int(slot), int(item)) == item
        assert next(dealt, None) is None
        assert not shard.slots.size or len(named) == clients.counts[client]
    assert held == shard.sizes.sum() == clients.counts[shard.index].sum()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**70),
    batch_size=st.integers(1, 30),
    epochs=st.integers(1, 3),
    cohort=cohorts,
    round_num=st.integers(0, 2**33),
)
def test_a_shard_holds_what_each_client_is_dealt(seed, batch_size, epochs, cohort, round_num):
    clients = rating_clients(seed % 100, batch_size, seed)
    shard = PackedRatings(clients).pack(np.array(cohort), round_num, epochs)
    assert shard.index.tolist() == cohort
    assert_holds_what_clients_are_dealt(shard, clients, round_num, epochs)
    assert bool(shard.slots.size) == (epochs > 1 and clients.counts[cohort].any())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), count=st.integers(BLOCK, 5 * BLOCK), epochs=st.integers(1, 2))
def test_many_clients_stand_in_blocks_that_are_alike(seed, count, epochs):
    clients = ClientDatasets(random_ratings(seed, num_users=90), 3, shuffle_seed=seed)
    cohort = np.random.default_rng(seed).choice(90, count, replace=False)
    shard = PackedRatings(clients).pack(cohort, 2, epochs)
    assert_holds_what_clients_are_dealt(shard, clients, 2, epochs)
    assert len(shard.member) == len(shard.last) * BLOCK >= count
    batches = -(-clients.counts[np.sort(cohort)] // 3)
    longest = np.sort(batches)[::-1][::BLOCK]  # of each block
    assert shard.steps == longest.sum()


@pytest.mark.parametrize("most", [1, 2, 3, 5, 17, 100, 1000])
def test_lengths_are_rounded_up_to_few(most):
    rounded = [rounded_up(length) for length in range(1, most + 1)]
    assert all(length <= up for length, up in enumerate(rounded, 1))
    assert all(2 * up <= 3 * length + 2 for length, up in enumerate(rounded, 1))
    assert len(set(rounded)) <= 2 * np.log2(most) + 2


@pytest.mark.parametrize("num_parts", [1, 2, 3, 20])
def test_parts_hold_every_client_once_and_about_as_many_ratings(num_parts):
    clients, cohort = rating_clients(3), np.arange(NUM_USERS)
    parts = cut(cohort, clients.counts, num_parts)
    assert sorted(np.concatenate(parts)) == cohort.tolist() and len(parts) <= num_parts
    held = [clients.counts[part].sum() for part in parts]
    assert max(held) <= clients.counts.sum() / num_parts + clients.counts.max()
    longest = [clients.counts[part].max() for part in parts]
    assert longest == sorted(longest, reverse=True)


def test_a_round_has_a_shard_of_each_part_for_each_phase():
    clients, phases = rating_clients(3), [Phase("support", LOCAL, 2), Phase("query", BOTH)]
    packed = [PackedRatings(clients.part(phase.data)) for phase in phases]
    parts = shards(packed, phases, range(NUM_USERS), 5, 3)
    assert len(parts) == 3 and all(len(part) == 2 for part in parts)
    for support, query in parts:
        np.testing.assert_array_equal(support.index, query.index)
        assert_holds_what_clients_are_dealt(query, clients.part("query"), 5, 1)
        assert support.items.shape[0] == 2 and query.items.shape[0] == 1
        assert not support.slots.size  # nobody asks where a frozen row was last
    held = sum(support.sizes.sum() + query.sizes.sum() for support, query in parts)
    assert held == clients.counts.sum()


def test_a_shard_is_of_its_type():
    parts = PackedRatings(rating_clients()).pack(np.array([4, 9, 2]), 0, 2)
    for field, (name, kind) in zip(
        attrs.fields(Shard), tff.structure.iter_elements(shard_type()), strict=True
    ):
        value = getattr(parts, field.name)
        assert name == field.name and value.dtype == kind.dtype and value.ndim == len(kind.shape)
        assert all(m in (None, n) for m, n in zip(kind.shape, value.shape, strict=True))


def test_clients_without_ratings_take_no_step():
    nothing = random_ratings(0).select(np.zeros(0, int))
    shard = PackedRatings(ClientDatasets(nothing, 4, shuffle_seed=1)).pack(np.array([3, 1]), 0, 2)
    assert shard.index.tolist() == [3, 1] and shard.steps == 0 and not shard.sizes.any()
    assert shard.items.shape[0] == 2 and (shard.last == -1).all()


def test_more_kinds_of_ratings_than_a_byte_holds_are_refused():
    ratings = random_ratings(3, num_users=40)
    table = ratings.table.assign(rating=np.linspace(1, 5, len(ratings.table), dtype=np.float32))
    for kept, fits in ((table.iloc[:256], True), (table.iloc[:257], False)):
        clients = ClientDatasets(attrs.evolve(ratings, table=kept), 4, shuffle_seed=0)
        if fits:
            PackedRatings(clients)
        else:
            with pytest.raises(DataError, match="257 different values.*round them"):
                PackedRatings(clients)


def test_two_ratings_of_one_movie_are_refused_by_name():
    clients = ClientDatasets(random_ratings(3, repeats=True), 4, shuffle_seed=0)
    with pytest.raises(DataError, match=r"Client \d+ has two ratings of item \d+.*leave one out"):
        PackedRatings(clients)


def test_datasets_without_a_seed_are_refused():
    with pytest.raises(DataError, match="give ClientDatasets a shuffle_seed"):
        PackedRatings(ClientDatasets(random_ratings(0), 4))


@pytest.mark.parametrize(
    "cohort, error, message",
    [
        ([0, 99], ValueError, "99"),
        ([1, 2, 1], ValueError, "Client 1 .*twice"),
        ([], ValueError, "at least one"),
        ([0.5], TypeError, "0.5"),
        ([True], TypeError, "True"),
        ([1.9], TypeError, "1.9"),
    ],
)
def test_bad_cohorts_are_refused(cohort, error, message):
    with pytest.raises(error, match=message):
        shards([PackedRatings(rating_clients())], [Phase()], cohort, 0, 1)


@pytest.mark.parametrize("round_num, error", [(-1, ValueError), (0.5, TypeError)])
def test_bad_round_numbers_are_refused(round_num, error):
    with pytest.raises(error, match="round_num"):
        shards([PackedRatings(rating_clients())], [Phase()], [0], round_num, 1)


def test_a_bar_tells_of_packing_that_takes_over_two_seconds(monkeypatch):
    shown = []

    def noted(steps, what, delay):
        shown.append((what, len(steps), delay))
        return steps

    monkeypatch.setattr(packing, "progress", noted)
    clients = rating_clients()
    shards([PackedRatings(clients)], [Phase("all", BOTH)], range(NUM_USERS), 0, 3)
    assert shown == [("Packing ratings", 2, 2), ("Packing ratings", 3, 2)]
