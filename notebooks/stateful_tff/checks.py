"""Checks of arguments, each in one place: whole numbers, finite numbers and client ids.

Knows nothing of ratings, models, methods, engines or stores.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

import numpy as np


def whole_number(name: str, value, least: int | None = None) -> int:
    """Returns a whole number as an `int`.

    Args:
        name: the argument's name, for the message.
        value: a Python or NumPy integer; `True` and 3.0 are none.
        least: the smallest value that makes sense, if there is one.

    Raises:
        TypeError: if the value is no whole number.
        ValueError: if it is below `least`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return int(value)


def finite_number(name: str, value, least: float | None = None) -> float:
    """Returns a finite number as a `float`.

    Args:
        name: the argument's name, for the message.
        value: a Python or NumPy number; `True` is none.
        least: the smallest value that makes sense, if there is one.

    Raises:
        TypeError: if the value is no number.
        ValueError: if it is not finite or below `least`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least:g}, not {value}.")
    return float(value)


def positive_number(name: str, value) -> float:
    """Returns a finite number above zero as a `float`; see `finite_number` for the errors."""
    if finite_number(name, value) <= 0:
        raise ValueError(f"{name} must be above zero, got {value}.")
    return float(value)


def client_ids(ids: Iterable[int], num_clients: int) -> np.ndarray:
    """Returns client ids as int64[n], in their order, after checking every one.

    Args:
        ids: whole numbers from 0 to `num_clients - 1`, each once.
        num_clients: the size of the population.

    Raises:
        TypeError: if an id is no whole number: 1.9 is not client 1.
        ValueError: if an id is outside of the population or comes twice.
    """
    named = ids if isinstance(ids, np.ndarray) else list(ids)
    ids = np.asarray(named)
    if isinstance(named, list) and any(isinstance(value, bool | np.bool_) for value in named):
        raise TypeError("Client ids are whole numbers; True and False name nobody.")
    if ids.ndim != 1:
        raise TypeError(f"Client ids are a flat list of whole numbers, not of shape {ids.shape}.")
    if not len(ids):
        return ids.astype(np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"Client ids are whole numbers, not {ids.dtype}: {ids[0]!r} names nobody.")
    outside = ids[(ids < 0) | (ids >= num_clients)]
    if len(outside):
        raise ValueError(f"Client {outside[0]} is unknown: ids run from 0 to {num_clients - 1}.")
    ids = ids.astype(np.int64)
    order = np.sort(ids)
    twice = order[1:][order[1:] == order[:-1]]
    if len(twice):
        raise ValueError(f"Client {twice[0]} is named twice; name every client once.")
    return ids


def client_id(value: int, num_clients: int) -> int:
    """Returns the id of one client as an `int`; see `client_ids` for the errors."""
    if np.ndim(value):
        raise TypeError(f"One client's id is one whole number, not {value!r}.")
    return int(client_ids([value], num_clients)[0])
