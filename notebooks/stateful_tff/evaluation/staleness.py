"""States that grew old: how old they are, how far the items moved on, and two ways to help.

Knows nothing of methods, engines and stores: it takes stacked states and returns new ones.
"""

from __future__ import annotations

import attrs
import numpy as np
import scipy.linalg

from ..checks import finite_array, positive_number, whole_number
from ..state import ClientState


def ages(states: ClientState, round_num: int) -> np.ndarray:
    """Returns how many rounds ago clients took part, int64[n].

    Args:
        states: stacked states.
        round_num: how many rounds are done, `store.round_num`.

    Returns:
        0 for a client that took part in the last round, -1 for one that never did.

    Raises:
        TypeError: if `round_num` is no whole number.
        ValueError: if a client took part in a later round.
    """
    last = np.broadcast_to(states.last_round, np.shape(states.index)).astype(np.int64)
    if last.max(initial=0) > whole_number("round_num", round_num, 0):
        client = np.asarray(states.index)[last.argmax()]
        raise ValueError(
            f"Client {client} took part in round {last.max()}, but only {round_num} are done; give "
            "the store's round_num."
        )
    return np.where(last > 0, round_num - last, -1)


def decayed(
    states: ClientState, first: ClientState, round_num: int, half_life: float
) -> ClientState:
    """Returns states whose local weights have faded toward the first ones, by their age.

    A client keeps its id, its visits and its last round, so it is as old as it was.

    Args:
        states: stacked states.
        first: the state of a new client, or a stack of them, one for each of `states`.
        round_num: how many rounds are done, `store.round_num`.
        half_life: after how many rounds half of what was learned is left.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if `half_life` is not above zero, or as `ages` does.
    """
    age = np.maximum(ages(states, round_num), 0)
    left = np.float32(0.5) ** (age / positive_number("half_life", half_life))
    faded = []
    for kept, start in zip(states.local_weights, first.local_weights, strict=True):
        kept, start = np.asarray(kept), np.asarray(start)
        share = left.reshape(-1, *[1] * (kept.ndim - 1))
        faded.append((start + share * (kept - start)).astype(kept.dtype))
    return attrs.evolve(states, local_weights=faded)


def rotation_between(old_items: np.ndarray, new_items: np.ndarray) -> np.ndarray:
    """Finds the rotation that takes an old item matrix closest to a new one.

    Solves the orthogonal Procrustes problem (Schönemann 1966): the orthogonal R with the
    smallest squared distance between `old_items @ R` and `new_items`.

    Args:
        old_items: float32[num_items, k].
        new_items: float32[num_items, k].

    Returns:
        float32[k, k].

    Raises:
        ValueError: if the shapes differ or a number is not finite.
    """
    rotation, _ = scipy.linalg.orthogonal_procrustes(*_two_tables(old_items, new_items))
    return rotation.astype(np.float32)


def _two_tables(old_items, new_items) -> tuple[np.ndarray, np.ndarray]:
    """Returns two item matrices after checking that they are of one shape."""
    old, new = finite_array("old_items", old_items, 2), finite_array("new_items", new_items, 2)
    if old.shape != new.shape or not old.size:
        raise ValueError(
            f"old_items of shape {list(old.shape)} and new_items of shape {list(new.shape)} are "
            "not two matrices of one model."
        )
    return old, new


def aligned(states: ClientState, rotation: np.ndarray) -> ClientState:
    """Returns states whose vectors are rotated; the biases, and who is how old, stay.

    Args:
        states: stacked states of clients that last saw the old items; the vectors, `[n, 1, k]`,
            are the first of the local weights.
        rotation: from the old items to the new ones, float32[k, k].

    Raises:
        TypeError, ValueError: if the rotation is no matrix of the vectors' length.
    """
    vectors, *rest = states.local_weights
    rotation, width = finite_array("rotation", rotation, 2), np.shape(vectors)[-1]
    if rotation.shape != (width, width):
        raise ValueError(
            f"A rotation of shape {list(rotation.shape)} does not turn vectors of length {width}."
        )
    return attrs.evolve(states, local_weights=[np.asarray(vectors) @ rotation, *rest])


def drift(old_items: np.ndarray, new_items: np.ndarray) -> dict[str, float]:
    """Measures how far an item matrix has moved, and how much of that a rotation explains.

    Args:
        old_items: float32[num_items, k].
        new_items: float32[num_items, k].

    Returns:
        `moved`, the distance relative to the length of the new matrix, and `rotated`, the share
        of the squared distance that `rotation_between` takes away.

    Raises:
        ValueError: as `rotation_between` does.
    """
    old_items, new_items = _two_tables(old_items, new_items)
    moved = np.sum((new_items - old_items) ** 2)
    left = np.sum((new_items - old_items @ rotation_between(old_items, new_items)) ** 2)
    return {
        "moved": float(np.sqrt(moved / np.sum(new_items**2))),
        "rotated": float(1 - left / moved) if moved else 0.0,
    }
