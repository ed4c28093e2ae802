"""Packs the ratings of many clients for a round, in blocks of clients that are alike.

Knows nothing of models, methods and stores.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import pandas as pd
import tensorflow_federated as tff

from ..checks import client_ids, cohort_ids, whole_number, yes_or_no
from ..data.orders import permutations
from ..data.ratings import DataError
from ..progress import progress

LARGEST_PART = 500_000  # ratings of a part, where each client keeps rows of its own
BLOCK = 16  # clients that take their steps side by side


@attrs.frozen(eq=False)
class Shard:
    """The ratings of n clients for one phase of a round, packed in blocks of 16 clients.

    The clients stand in descending order of their numbers of batches. Block after block, step t
    of a block holds batch t of each of its clients; so clients of one block are alike, and few
    batches of it are empty. Lengths are rounded up to few different ones, since each length is
    compiled once: `steps` tells how many steps are real.

    Attributes:
        index: int32[n], the clients' ids, in the order of their stacked states.
        member: int32[blocks * 16], each client's row in `index`; beyond n, zeros.
        steps: int32 scalar, the number of real steps.
        block: int32[s], the block that each step belongs to.
        last: int32[blocks], the last step of each block; -1 for a block without data.
        sizes: int32[s, 16], the number of ratings in each batch; 0 for an empty one.
        items: int32[epochs, s, 16, batch_size], movies; zeros where there is no rating.
        codes: uint8[epochs, s, 16, batch_size], ratings, as indices into `levels`.
        levels: float32[l], the distinct ratings in stars.
        slots: int32[epochs, s, 16, batch_size], which of the shard's ratings each one is, the
            same in every epoch; empty where there is one epoch.
    """

    index = attrs.field()
    member = attrs.field()
    steps = attrs.field()
    block = attrs.field()
    last = attrs.field()
    sizes = attrs.field()
    items = attrs.field()
    codes = attrs.field()
    levels = attrs.field()
    slots = attrs.field()


def shard_type() -> tff.Type:
    """Returns the type of a `Shard`, of any number of clients, batches and epochs."""

    def whole(*shape):
        return tff.TensorType(np.int32, shape)

    ratings = [None, None, BLOCK, None]
    kinds = dict(
        index=whole(None),
        member=whole(None),
        steps=whole(),
        block=whole(None),
        last=whole(None),
        sizes=whole(None, BLOCK),
        items=whole(*ratings),
        codes=tff.TensorType(np.uint8, ratings),
        levels=tff.TensorType(np.float32, [None]),
        slots=whole(*ratings),
    )
    return tff.StructWithPythonType(list(kinds.items()), Shard)


def rounded_up(length: int) -> int:
    """Returns the next power of two, or three quarters of it where that is enough."""
    power = 1 << max(whole_number("length", length, 0) - 1, 0).bit_length()
    return power * 3 // 4 if 4 <= power and length <= power * 3 // 4 else power


class PackedRatings:
    """The ratings of a population, ready to be packed into shards for any cohort.

    Args:
        clients: `ClientDatasets`; batch size and shuffle seed are theirs.

    Raises:
        DataError: if the datasets have no shuffle seed, other examples in each round, over 256
            different ratings, or a client with two ratings of one movie.
    """

    def __init__(self, clients):
        """Gathers ids and ratings in arrays, once."""
        if clients.shuffle_seed is None:
            raise DataError("Rounds shuffle ratings; give ClientDatasets a shuffle_seed.")
        if clients.differ_by_round:
            raise DataError(
                "These datasets have other examples in each round, and the packed engine packs "
                "them once; use the engine by rows."
            )
        self.batch_size, self.shuffle_seed = clients.batch_size, clients.shuffle_seed
        self.counts, self.starts = clients.counts, clients.starts
        self.items = clients.x[:, 0].astype(np.int32)
        for step in progress((self._find_levels, self._refuse_twice), "Packing ratings", delay=2):
            step(clients.y[:, 0])

    def _find_levels(self, stars: np.ndarray) -> None:
        """Finds the different ratings, and writes each as its place among them."""
        codes, levels = pd.factorize(stars)
        order = np.argsort(levels)
        self.levels = levels[order]
        if len(self.levels) > 256:
            raise DataError(
                f"The ratings take {len(self.levels)} different values, and a shard holds at "
                "most 256; round them, or use the per-client or the vectorized engine."
            )
        place = np.zeros(len(order), np.uint8)
        place[order] = np.arange(len(order))
        self.codes = place[codes]
        if not len(self.levels):
            self.levels = np.zeros(1, np.float32)  # padding has a level, too

    def _refuse_twice(self, _) -> None:
        """Refuses a client with two ratings of one movie."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        both = np.sort(owner * (np.int64(self.items.max(initial=0)) + 1) + self.items)
        twice = both[1:][both[1:] == both[:-1]]
        if len(twice):
            client, item = divmod(int(twice[0]), int(self.items.max()) + 1)
            raise DataError(
                f"Client {client} has two ratings of item {item}, and the packed engine takes "
                "each once; leave one out, or use the per-client or the vectorized engine."
            )

    def pack(
        self, index: np.ndarray, round_num: int, epochs: int = 1, keep_slots: bool = True
    ) -> Shard:
        """Packs the ratings of some clients.

        The ratings come in the order in which `ClientDatasets.for_round` deals them.

        Args:
            index: int[n], client ids, in the order of their stacked states.
            round_num: the number of the round, from 0.
            epochs: passes over each client's ratings.
            keep_slots: whether to tell which rating is which in later epochs.
        """
        size, index = self.batch_size, cohort_ids(index, len(self.counts))
        keep_slots = yes_or_no("keep_slots", keep_slots)
        order = np.argsort(-self.counts[index], kind="stable")
        clients = index[order]
        counts = self.counts[clients]
        batches = -(-counts // size)
        num_blocks = rounded_up(-(-len(index) // BLOCK))
        longest = np.zeros(num_blocks, np.int64)  # the steps of each block
        longest[: -(-len(index) // BLOCK)] = batches[::BLOCK]
        ends = np.cumsum(longest)
        length = rounded_up(ends[-1])

        # Where each rating of an epoch goes, client by client: its step, and its place in it.
        rank = np.repeat(np.arange(len(clients)), counts)
        begins = np.cumsum(counts) - counts
        turn = np.arange(len(rank)) - begins[rank]
        step = (ends - longest)[rank // BLOCK] + turn // size
        batch = step * BLOCK + rank % BLOCK
        target = batch * size + turn % size
        orders = permutations(self.shuffle_seed, clients, counts, round_num, epochs)
        full = (epochs, length, BLOCK, size)
        items, codes = np.zeros(full, np.int32), np.zeros(full, np.uint8)
        slots = np.zeros(full if keep_slots and epochs > 1 else (0, 0, BLOCK, size), np.int32)
        for epoch in range(epochs):
            dealt = np.concatenate([*orders[epoch::epochs], np.zeros(0, np.int64)])
            source = dealt + self.starts[clients][rank]
            items[epoch].ravel()[target] = self.items[source]
            codes[epoch].ravel()[target] = self.codes[source]
            if len(slots):
                slots[epoch].ravel()[target] = dealt + begins[rank]
        member = np.zeros(num_blocks * BLOCK, np.int32)
        member[: len(order)] = order
        block = np.repeat(np.arange(num_blocks), longest)
        return Shard(
            index.astype(np.int32),
            member,
            np.int32(ends[-1]),
            np.append(block, np.zeros(length - ends[-1], np.int64)).astype(np.int32),
            np.where(longest > 0, ends - 1, -1).astype(np.int32),
            np.bincount(batch, minlength=length * BLOCK).astype(np.int32).reshape(length, BLOCK),
            items,
            codes,
            self.levels,
            slots,
        )


def cut(cohort: np.ndarray, counts: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Sorts clients from long to short and cuts them into parts of about as many examples.

    Args:
        cohort: int[n], client ids.
        counts: int[num_clients], examples of each client of the population.
        num_parts: how many parts, or fewer.
    """
    cohort, num_parts = client_ids(cohort, len(counts)), whole_number("num_parts", num_parts, 1)
    num_parts = min(num_parts, len(cohort))
    cohort = cohort[np.argsort(-counts[cohort], kind="stable")]
    done = np.cumsum(counts[cohort])
    cuts = np.searchsorted(done, done[-1:].sum() * np.arange(1, num_parts) / num_parts, "right")
    return [part for part in np.split(cohort, cuts) if len(part)]


def shards(
    packed: Sequence[PackedRatings],
    phases: Sequence,
    cohort: Sequence[int],
    round_num: int,
    num_parts: int,
) -> list[list[Shard]]:
    """Packs the data of a cohort for one round.

    Args:
        packed: for each phase the ratings it trains on.
        phases: for each what `Phase` has: `epochs` and `moves`.
        cohort: client ids, each once.
        round_num: the number of the round, from 0.
        num_parts: into how many parts of about equally many ratings to cut.

    Returns:
        For each part a shard per phase. Long clients come first, so that clients of one part
        are alike.

    Raises:
        TypeError: if an id or a number is not whole.
        ValueError: if the cohort is empty, or an id unknown or there twice.
    """
    cohort = cohort_ids(cohort, len(packed[0].counts))
    round_num = whole_number("round_num", round_num, 0)
    parts = cut(cohort, packed[-1].counts, num_parts)
    return [
        [
            one.pack(index, round_num, phase.epochs, phase.moves != "local")
            for one, phase in zip(packed, phases, strict=True)
        ]
        for index in progress(parts, "Packing ratings", delay=2)
    ]
