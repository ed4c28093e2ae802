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
from stateful_tff.engines.packing import PackedRatings, Shard, cut, shard_type, shards
from stateful_tff.methods import BOTH, LOCAL, Phase

cohorts = st.sets(st.integers(0, NUM_USERS - 1), min_size=1).map(sorted)


def assert_holds_what_clients_are_dealt(shard, clients, round_num, epochs):
    """Batch by batch, in all epochs, and slots that name the same rating in each of them."""
    begins = np.cumsum(shard.active) - shard.active
    assert (np.diff(shard.active) <= 0).all() and shard.sizes.min(initial=1) > 0
    assert sorted(shard.member) == list(range(len(shard.index)))
    for rank, client in enumerate(shard.index[shard.member]):
        batches = begins[shard.active > rank] + rank
        dealt = iter(clients.for_round([int(client)], round_num, epochs)[0].as_numpy_iterator())
        named = {}
        for epoch in range(epochs):
            for batch in batches:
                expected, size = next(dealt), shard.sizes[batch]
                items = shard.items[epoch, batch, :size]
                stars = shard.levels[shard.codes[epoch, batch, :size]]
                np.testing.assert_array_equal(items, expected["x"][:, 0])
                np.testing.assert_array_equal(stars, expected["y"][:, 0])
                if epochs > 1:
                    for slot, item in zip(shard.slots[epoch, batch, :size], items, strict=True):
                        assert named.setdefault(int(slot), int(item)) == item
        assert next(dealt, None) is None
        assert epochs == 1 or len(named) == clients.counts[client]


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


def test_clients_without_ratings_take_no_step():
    nothing = random_ratings(0).select(np.zeros(0, int))
    shard = PackedRatings(ClientDatasets(nothing, 4, shuffle_seed=1)).pack(np.array([3, 1]), 0, 2)
    assert shard.index.tolist() == [3, 1] and not shard.active.size
    assert shard.items.shape == (2, 0, 4)


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
