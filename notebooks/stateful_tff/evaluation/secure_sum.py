"""A sum of masked vectors, of which the server learns nothing else: the protocol in NumPy.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", section 4, for clients and a server that follow it. It shows what the secure sums of
TFF stand for, which are simulations. What makes it a toy: seeds are handed out here and not
agreed upon by keys, the masks come from no cryptographic generator, and nothing is signed.
Knows nothing of training, methods, engines and stores.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np

from ..checks import finite_array, positive_number, whole_number

PRIME = 2**61 - 1
BITS = 32  # sums are modulo 2**BITS


def to_integers(values: np.ndarray, largest: float, num_clients: int) -> np.ndarray:
    """Clips numbers and writes them as whole ones, so that their sum does not overflow.

    Args:
        values: float[...].
        largest: what they are clipped to, on both sides.
        num_clients: of whom the numbers are added up.

    Returns:
        uint32[...], negative numbers as two's complement.
    """
    values = finite_array("values", values)
    scale = _scale(largest, num_clients)
    return np.rint(np.clip(values, -largest, largest) * scale).astype(np.int64).astype(np.uint32)


def from_integers(total: np.ndarray, largest: float, num_clients: int) -> np.ndarray:
    """Returns the sum of the clipped numbers from the sum of whole ones; float64[...]."""
    return np.asarray(total, np.uint32).astype(np.int32) / _scale(largest, num_clients)


def _scale(largest: float, num_clients: int) -> float:
    """Returns what one unit is worth: the sum of all clients stays below half of the range."""
    most = whole_number("num_clients", num_clients, 1, 2**24)
    return np.floor((2 ** (BITS - 1) - 1) / most) / positive_number("largest", largest)


def shares_of(secret: int, num_shares: int, threshold: int, rng) -> list[tuple[int, int]]:
    """Deals a secret so that any `threshold` shares give it back, and fewer tell nothing.

    Source: Shamir 1979, "How to Share a Secret".

    Args:
        secret: from 0, below `PRIME`.
        num_shares: how many to deal.
        threshold: how many give it back.
        rng: a NumPy generator.
    """
    whole_number("secret", secret, 0, PRIME - 1)
    whole_number("threshold", threshold, 1, whole_number("num_shares", num_shares, 1))
    terms = [secret, *(int(t) for t in rng.integers(PRIME, size=threshold - 1))]
    return [
        (x, sum(term * pow(x, power, PRIME) for power, term in enumerate(terms)) % PRIME)
        for x in range(1, num_shares + 1)
    ]


def secret_of(shares: Iterable[tuple[int, int]]) -> int:
    """Returns the secret of enough shares: the value at 0 of the polynomial through them."""
    shares, total = list(shares), 0
    for x, y in shares:
        factor = 1
        for other, _ in shares:
            if other != x:
                factor = factor * other * pow(other - x, -1, PRIME) % PRIME
        total += y * factor
    return total % PRIME


def mask(seed: int, size: int) -> np.ndarray:
    """Returns the mask of a seed, uint32[size], uniform."""
    return np.random.default_rng(seed).integers(2**BITS, size=size, dtype=np.uint32)


@attrs.frozen(eq=False)
class Masking:
    """The seeds of some clients, and their shares: what the set-up of the protocol leaves.

    Each pair of clients has a seed, whose mask one adds and the other subtracts, and each client
    has one of its own. All seeds are dealt among all clients.

    Attributes:
        num_clients: at least 2.
        threshold: how many must stay to the end.
        seed: decides everything; in earnest nobody knows it.
    """

    num_clients: int = attrs.field()
    threshold: int = attrs.field()
    seed: int = attrs.field(default=0)
    pairs: dict = attrs.field(init=False, repr=False)
    own: list = attrs.field(init=False, repr=False)
    pair_shares: dict = attrs.field(init=False, repr=False)
    own_shares: list = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self):
        """Draws and deals the seeds."""
        n = whole_number("num_clients", self.num_clients, 2)
        least = whole_number("threshold", self.threshold, n // 2 + 1, n)
        rng = np.random.default_rng(self.seed)
        pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
        drawn = [int(s) for s in rng.integers(PRIME, size=len(pairs) + n)]
        both, own = dict(zip(pairs, drawn, strict=False)), drawn[len(pairs) :]
        for name, value in (
            ("pairs", both),
            ("own", own),
            ("pair_shares", {p: shares_of(s, n, least, rng) for p, s in both.items()}),
            ("own_shares", [shares_of(s, n, least, rng) for s in own]),
        ):
            object.__setattr__(self, name, value)

    def sent_by(self, client: int, values: np.ndarray) -> np.ndarray:
        """Returns what a client sends: its whole numbers with all of its masks, uint32[n]."""
        sent = values + mask(self.own[client], len(values))
        for (first, second), seed in self.pairs.items():
            if client == first:
                sent = sent + mask(seed, len(values))
            elif client == second:
                sent = sent - mask(seed, len(values))
        return sent

    def total(self, sent: dict[int, np.ndarray]) -> np.ndarray:
        """Takes the masks off the sum of those who sent, with shares from these alone.

        The shares are of the own seeds of who sent, and of the pairs' seeds of who did not. No
        client's two kinds are both asked for: they would uncover it.

        Args:
            sent: by client, what it sent.

        Returns:
            uint32[n], the sum of the senders' numbers.

        Raises:
            ValueError: if fewer sent than the threshold.
        """
        if len(sent) < self.threshold:
            raise ValueError(
                f"Only {len(sent)} of {self.num_clients} clients sent, and {self.threshold} are "
                "needed to take the masks off; ask for another round."
            )
        stayed = sorted(sent)[: self.threshold]
        total = sum(sent.values())
        for client in sent:
            seed = secret_of(self.own_shares[client][other] for other in stayed)
            total = total - mask(seed, len(total))
        for (first, second), shares in self.pair_shares.items():
            if (first in sent) != (second in sent):
                left = mask(secret_of(shares[other] for other in stayed), len(total))
                total = total - left if first in sent else total + left
        return total
