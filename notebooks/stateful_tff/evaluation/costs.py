"""What one visit costs a client: bytes down, bytes up, bytes it keeps, and steps it computes.

Knows nothing of models, methods, engines and stores: it counts from the shapes of weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..checks import array_of, arrays, whole_number, yes_or_no


def num_bytes(weights: Iterable) -> int:
    """Returns how many bytes dense weights take: arrays, tensors, variables, or their specs.

    Raises:
        TypeError: if they are not listed, or one has no shape and dtype.
    """
    total = 0
    for weight in arrays("weights", weights):
        dtype = getattr(weight.dtype, "as_numpy_dtype", weight.dtype)
        total += int(np.prod(weight.shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return total


def client_costs(
    global_weights: Iterable,
    local_weights: Iterable,
    counts: np.ndarray,
    batch_size: int = 5,
    *,
    keeps_state: bool = True,
    sends_user: bool = False,
    support_epochs: int = 0,
) -> dict[str, float]:
    """Returns what one visit of one client costs, with dense tables.

    Args:
        global_weights: the global weights, or anything of their shapes and dtypes.
        local_weights: those of one client, such as `[1, k]` and `[1, 1]`.
        counts: int[num_clients], the clients' numbers of ratings, at least one.
        batch_size: ratings per batch.
        keeps_state: whether the client keeps its local weights.
        sends_user: whether its row of the user table goes down and up too.
        support_epochs: passes over support before one over query; 0 trains on all ratings.

    Returns:
        `bytes down`, `bytes up`, `bytes of private state`, and `client steps`, the mean number
        of batches.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if `batch_size` or a count is below one, there are no counts, or
            `support_epochs` is negative.
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    counts = array_of("counts", counts, whole=True, ndim=1)
    keeps_state = yes_or_no("keeps_state", keeps_state)
    sends_user = yes_or_no("sends_user", sends_user)
    if not counts.size or counts.min() < 1:
        raise ValueError("counts must hold at least one rating for each of one client or more.")
    shared, own = num_bytes(global_weights), num_bytes(local_weights)
    steps = -(-counts // batch_size)
    if whole_number("support_epochs", support_epochs, 0, 100_000):
        halves = -(-counts // 2), counts // 2
        on_support, on_query = (-(-half // batch_size) for half in halves)
        steps = support_epochs * on_support + on_query
    sent = shared + own * sends_user
    return {
        "bytes down": sent,
        "bytes up": sent,
        "bytes of private state": own * keeps_state,
        "client steps": float(np.mean(steps)),
    }
