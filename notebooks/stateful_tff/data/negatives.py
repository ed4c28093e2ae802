"""Negatives: items that a client did not choose, drawn by the client itself, and honestly.

Knows nothing of models, methods, engines, stores and TFF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import numpy as np

from ..checks import array_of, called, client_ids, num_passes, seed_number, table_size, whole_number
from .orders import NEGATIVES, generators
from .ratings import DataError, Ratings

_EXPECTED = 40.0  # draws of held-out items that the check waits for


@attrs.frozen(eq=False)
class NegativeSampler:
    """Draws items that a client does not know, uniformly and with replacement.

    Every client draws with a generator of its own, from its id, the seed and the round alone.

    Args:
        known: what clients know: their training positives, and nothing that is held out to
            judge them by.
        seed: decides all draws.

    Raises:
        DataError: if a client knows every item.
    """

    known: Ratings
    seed: int = attrs.field(default=0, converter=lambda seed: seed_number("seed", seed))
    _shifted: np.ndarray = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self):
        """Sorts what is known, so that a number can be turned into an unknown item."""
        table, size = self.known.table, self.known.num_items
        user = table["user"].to_numpy()
        keys = np.sort(user.astype(np.int64) * size + table["item"].to_numpy())
        if (np.diff(self.known.bounds) >= size).any():
            user = self.known.user_ids[np.diff(self.known.bounds).argmax()]
            raise DataError(f"user {user} knows all {size} items; there is none left to draw.")
        # Of a user's known items, the one of rank r has item - r unknown ones before it.
        rank = np.arange(len(keys)) - np.repeat(self.known.bounds[:-1], np.diff(self.known.bounds))
        object.__setattr__(self, "_shifted", keys - user.astype(np.int64) * size - rank)

    def __call__(self, clients: np.ndarray, counts: np.ndarray, round_num: int) -> np.ndarray:
        """Draws for one round.

        Args:
            clients: int64[n], ids.
            counts: int64[n], how many items each of them draws.
            round_num: the number of the round, from 0.

        Returns:
            int64[sum of counts], the items, client after client.
        """
        clients, counts = _checked(clients, counts, self.known.num_users)
        bounds, size = self.known.bounds, self.known.num_items
        unknown = size - np.diff(bounds)[clients]
        makers = generators(self.seed, clients, round_num, [NEGATIVES])
        items = [np.zeros(0, np.int64)]
        for client, rng, most, count in zip(clients, makers, unknown, counts, strict=True):
            drawn = rng.integers(0, most, count)
            mine = self._shifted[bounds[client] : bounds[client + 1]]
            items.append(drawn + np.searchsorted(mine, drawn, "right"))
        return np.concatenate(items)


def _checked(clients, counts, num_clients: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and, for each, a number from 0."""
    clients = client_ids(clients, num_clients)
    counts = array_of("counts", counts, whole=True, ndim=1)
    if len(counts) != len(clients) or counts.min(initial=0) < 0:
        raise ValueError("counts must hold a number from 0 for each client.")
    return clients, counts


def times_drawn(sampler: Callable, clients: Iterable[int], counts, rounds: Iterable[int], size):
    """Counts how often each client draws each item.

    Args:
        sampler: such as a `NegativeSampler`.
        clients: int64[n], ids.
        counts: int64[n], how many items each draws in a round.
        rounds: numbers of rounds.
        size: the number of items.

    Returns:
        int32[n, size].
    """
    clients, counts = _checked(clients, counts, 2**32)
    size = whole_number("size", size, 1)
    table_size("The counts", len(clients), size)
    total, owner = np.zeros(len(clients) * size, np.int32), np.repeat(range(len(clients)), counts)
    for number in rounds:
        drawn = called("sampler", sampler)(clients, counts, number)
        if np.max(drawn, initial=0) >= size:
            raise ValueError(f"Item {np.max(drawn)} was drawn, and size is {size}; make it larger.")
        total += np.bincount(owner * size + drawn, minlength=len(total)).astype(np.int32)
    return total.reshape(len(clients), size)


def refuse_peeking(
    sampler: Callable, train: Ratings, held_out: Ratings, negatives: int = 4, rounds: int = 20
) -> float:
    """Refuses a sampler that treats held-out items otherwise than items that nobody chose.

    It looks at what is drawn and not at how, so it judges any sampler. Held-out items should be
    drawn as often as others that the client does not know; samplers that prefer popular items
    draw them more often. One that knows what is held out does not draw them.

    Args:
        sampler: called with ids, counts and the number of a round, it returns items.
        train: what the clients train on.
        held_out: what they are judged by.
        negatives: drawn for each training positive in a round.
        rounds: at most so many are tried; it stops as soon as the answer is sure.

    Returns:
        How often held-out items were drawn, by how often uniform draws would do.

    Raises:
        DataError: if that is below one half.
        ValueError: if there is too little data to tell.
    """
    negatives, rounds = num_passes("negatives", negatives), num_passes("rounds", rounds)
    size, counts = train.num_items, negatives * np.diff(train.bounds)
    users = np.flatnonzero(counts)
    held = held_out.table["user"].to_numpy(np.int64) * size + held_out.table["item"].to_numpy()
    chance = np.diff(held_out.bounds) / np.maximum(size - np.diff(train.bounds), 1)
    expected, found = 0.0, 0
    for number in range(rounds):
        drawn = called("sampler", sampler)(users, counts[users], number)
        owner = np.repeat(users, counts[users])
        found += int(np.isin(owner * size + drawn, held).sum())
        expected += float((chance * counts).sum())
        if expected >= _EXPECTED:
            break
    else:
        raise ValueError(
            f"In {rounds} rounds only {expected:.1f} draws of held-out items are expected, too few "
            "to tell whether a sampler avoids them; try more rounds."
        )
    if found < expected / 2:
        raise DataError(
            f"The sampler drew held-out items {found} times where {expected:.0f} are expected: it "
            "knows what it must not know. Give NegativeSampler the training ratings alone."
        )
    return found / expected
