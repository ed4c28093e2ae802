"""The orders in which clients go through their examples, for a whole cohort at once.

Knows nothing of ratings, datasets, models and TFF.

Each order is what `np.random.default_rng([seed, client, round_num, epoch]).permutation(count)`
returns. Making a generator takes NumPy far longer than shuffling a client's few examples, and
most of that is hashing the four numbers; here the numbers of all clients are hashed together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from ..checks import array_of, num_passes, seed_number, whole_number

NEGATIVES = 2**32 - 1  # the stream that negatives are drawn from


def permutations(
    seed: int, clients: Sequence[int], counts: Sequence[int], round_num: int, epochs: int
) -> list[np.ndarray]:
    """Returns the orders of one round, client by client and, for each client, epoch by epoch.

    Args:
        seed: from 0.
        clients: client ids from 0, below 2**32; an order depends on its own client only.
        counts: the number of examples of each of these clients.
        round_num: the number of the round, from 0.
        epochs: passes over each client's examples.

    Returns:
        `len(clients) * epochs` arrays int64[count], each a permutation of 0, …, count - 1.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if one is too small, or clients and counts differ in number.
    """
    counts = array_of("counts", counts, whole=True, ndim=1)
    makers = generators(seed, clients, round_num, range(num_passes("epochs", epochs)))
    if len(counts) * epochs != len(makers) or counts.min(initial=0) < 0:
        raise ValueError("clients and counts must hold numbers from 0, as many of both.")
    return [
        rng.permutation(count) for rng, count in zip(makers, np.repeat(counts, epochs), strict=True)
    ]


def generators(
    seed: int, clients: Sequence[int], round_num: int, streams: Sequence[int]
) -> list[np.random.Generator]:
    """Returns the clients' own generators of one round, client by client and stream by stream.

    Each is in the state of `np.random.default_rng([seed, client, round_num, stream])`.

    Args:
        seed: from 0.
        clients: client ids from 0, below 2**32.
        round_num: the number of the round, from 0.
        streams: what a client draws for, whole numbers from 0, below 2**32: its orders take
            0, 1, … and `NEGATIVES` is for the negatives that it draws.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if one is too small or too large.
    """
    before = _words(seed_number("seed", seed))
    after = _words(whole_number("round_num", round_num, 0))
    clients = array_of("clients", clients, whole=True, ndim=1)
    streams = array_of("streams", streams, whole=True, ndim=1)
    for name, numbers in (("Client ids", clients), ("Streams", streams)):
        if not 0 <= numbers.min(initial=0) <= numbers.max(initial=0) < 2**32:
            raise ValueError(f"{name} are from 0 and below 2**32, and there is {numbers.max()}.")
    keys = np.empty((len(clients) * len(streams), len(before) + len(after) + 2), np.uint32)
    keys[:, : len(before)] = before
    keys[:, len(before)] = np.repeat(np.asarray(clients, np.uint32), len(streams))
    keys[:, len(before) + 1 : -1] = after
    keys[:, -1] = np.tile(np.asarray(streams, np.uint32), len(clients))
    return [np.random.Generator(np.random.PCG64(_Hashed(state))) for state in _hash(keys)]


class _Hashed(ISeedSequence):
    """Hands a bit generator a state that has been hashed already."""

    def __init__(self, state: np.ndarray):
        self._state = state

    def generate_state(self, n_words, dtype=np.uint32):
        """Returns the state, uint64[4], which is all that `PCG64` asks for."""
        return self._state


def _words(number: int) -> list[int]:
    """Cuts a number from 0 into words of 32 bits, lowest first, as `SeedSequence` does."""
    return [number >> shift & 0xFFFFFFFF for shift in range(0, max(number.bit_length(), 1), 32)]


def _hash(keys: np.ndarray) -> np.ndarray:
    """Hashes each row of uint32[n, words], 4 words or more, to uint64[n, 4].

    This is the hash of NumPy's `SeedSequence`, which O'Neill proposed in 2015 to replace the
    `seed_seq` of C++. A test compares the two.
    """
    constant = 0x43B0D7E5

    def hashed(values, factor):
        nonlocal constant
        values = values ^ np.uint32(constant)
        constant = constant * factor & 0xFFFFFFFF
        values = values * np.uint32(constant)
        return values ^ values >> 16

    def mixed(x, y):
        x = x * np.uint32(0xCA01F9DD) - y * np.uint32(0x4973F715)
        return x ^ x >> 16

    pool = [hashed(word, 0x931E8875) for word in keys.T[:4]]
    for source in range(4):
        for target in set(range(4)) - {source}:
            pool[target] = mixed(pool[target], hashed(pool[source], 0x931E8875))
    for word in keys.T[4:]:
        pool = [mixed(part, hashed(word, 0x931E8875)) for part in pool]
    constant = 0x8B51F9DD
    return np.stack([hashed(pool[i % 4], 0x58F38DED) for i in range(8)], axis=1).view(np.uint64)
