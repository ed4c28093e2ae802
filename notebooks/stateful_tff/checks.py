"""Checks of arguments, each in one place: numbers, seeds, arrays, client ids, and sizes.

Knows nothing of ratings, models, methods, engines or stores.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable

import numpy as np

LARGEST_TABLE = 2**29  # numbers that one array may hold, 2 or 4 GB


def shown(value) -> str:
    """Returns how a message shows a value: in one short line."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, float | np.floating):
        return repr(float(value))
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def cut_short(text: str, most: int = 300) -> str:
    """Returns a path or another long text for a message, cut where it is very long."""
    return text if len(text) <= most else f"{text[:most]}…"


def whole_number(name: str, value, least: int | None = None, most: int | None = None) -> int:
    """Returns a whole number as an `int`.

    Args:
        name: the argument's name, for the message.
        value: a Python or NumPy integer; `True` and 3.0 are none.
        least: the smallest value that makes sense, if there is one.
        most: the largest one, if there is one.

    Raises:
        TypeError: if the value is no whole number.
        ValueError: if it is below `least` or above `most`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {shown(value)}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, not {shown(value)}.")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, not {shown(value)}.")
    return int(value)


def num_passes(name: str, value) -> int:
    """Returns how often data are gone through, an `int` from 1; see `whole_number` for the errors.

    Over 100,000 passes are taken for a mistake.
    """
    return whole_number(name, value, 1, 100_000)


def seed_number(name: str, value) -> int:
    """Returns a seed, a whole number from 0, as an `int`; see `whole_number` for the errors."""
    return whole_number(name, value, 0)


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
        raise TypeError(f"{name} must be a number, not {shown(value)}.")
    if not -1e308 <= value <= 1e308 or not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {shown(value)}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least:g}, not {shown(value)}.")
    return float(value)


def positive_number(name: str, value) -> float:
    """Returns a finite number above zero as a `float`; see `finite_number` for the errors."""
    if finite_number(name, value) <= 0:
        raise ValueError(f"{name} must be above zero, got {shown(value)}.")
    return float(value)


def share(name: str, value) -> float:
    """Returns a number between 0 and 1, without the ends, as a `float`.

    Raises:
        TypeError: if the value is no number.
        ValueError: if it is not between 0 and 1.
    """
    if not 0 < finite_number(name, value) < 1:
        raise ValueError(f"{name} must be between 0 and 1, such as 0.95; got {shown(value)}.")
    return float(value)


def yes_or_no(name: str, value) -> bool:
    """Returns a truth value as a `bool`.

    Raises:
        TypeError: if the value is neither `True` nor `False`.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {shown(value)}.")
    return bool(value)


def one_of(name: str, value, known: Iterable[str]) -> str:
    """Returns a word that is among those that are known.

    Raises:
        ValueError: if it is not.
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        words = ", ".join(map(repr, known))
        raise ValueError(f"{name} must be one of {words}, not {shown(value)}.")
    return value


def called(name: str, value):
    """Returns a function, or whatever else can be called.

    Raises:
        TypeError: if the value cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {shown(value)}.")
    return value


def array_of(name: str, value, whole: bool = False, ndim: int | None = None) -> np.ndarray:
    """Returns numbers as an array: a list, a column, or an array of them.

    Args:
        name: the argument's name, for the message.
        value: whole or floating-point numbers; `True`, texts and objects are none.
        whole: whether the numbers must be whole by their dtype. An empty list is fine.
        ndim: how many axes there must be; left out, any number.

    Raises:
        TypeError: if the values are no such numbers.
        ValueError: if there are other axes, or rows of several lengths.
    """
    kind = "whole numbers" if whole else "numbers"
    if isinstance(value, str | bytes | dict | set | frozenset):
        raise TypeError(f"{name} must hold {kind}, not {shown(value)}.")
    try:
        values = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of several lengths, or what no array holds
        raise ValueError(f"{name} must hold {kind} in rows of one length.") from error
    if not values.size and values.dtype.kind == "f" and whole:
        values = values.astype(np.int64)
    if values.dtype.kind not in ("iu" if whole else "iuf"):
        raise TypeError(f"{name} must hold {kind}, not {values.dtype}.")
    if ndim is not None and values.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, and has the shape {list(values.shape)}.")
    return values


def finite_array(name: str, value, ndim: int | None = None) -> np.ndarray:
    """Returns finite numbers as an array; see `array_of` for the arguments and errors.

    Raises:
        ValueError: also if a number is not finite.
    """
    values = array_of(name, value, ndim=ndim)
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"{name} must be finite, and holds {values[tuple(where)]} at {where}.")
    return values


def table_size(what: str, *lengths: int) -> None:
    """Refuses a table that no usual machine holds, before anything is made of it.

    Args:
        what: what the table is, for the message.
        *lengths: of its axes.

    Raises:
        ValueError: if it has over `LARGEST_TABLE` numbers.
    """
    if math.prod(lengths) > LARGEST_TABLE:
        shape = " by ".join(map(str, lengths))
        raise ValueError(
            f"{what} would hold {shape} numbers, and at most {LARGEST_TABLE} fit; make it smaller."
        )


def text(name: str, value) -> str:
    """Returns a text that is not empty.

    Raises:
        TypeError: if it is empty, or no text.
    """
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a text, not {shown(value)}.")
    return value


def listed(name: str, values, kind: type, least: int = 1) -> tuple:
    """Returns a list of one kind, with so many in it at least, as a tuple.

    Raises:
        TypeError: if it is no such list.
    """
    if not isinstance(values, list | tuple) or len(values) < least:
        raise TypeError(f"{name} must be a list with a {kind.__name__} in it, not {shown(values)}.")
    for one in values:
        if not isinstance(one, kind):
            raise TypeError(f"{name} must be a list of {kind.__name__}, and holds {shown(one)}.")
    return tuple(values)


def arrays(name: str, values) -> list:
    """Returns the arrays of a list, or what has their shapes and dtypes.

    Raises:
        TypeError: if it is no list of these.
    """
    if not isinstance(values, list | tuple):
        raise TypeError(f"{name} must be a list of arrays, not {shown(values)}.")
    for one in values:
        if not hasattr(one, "dtype") or not hasattr(one, "shape"):
            raise TypeError(f"{name} must be a list of arrays, and holds {shown(one)}.")
    return list(values)


def population(name: str, clients) -> int | np.ndarray:
    """Returns how many clients there are, as an `int`, or their ids, int64[n], each once.

    Raises:
        TypeError: if it is neither a whole number nor a list of these.
        ValueError: if there is no client, or an id is negative or comes twice.
    """
    if isinstance(clients, Iterable) and getattr(clients, "ndim", 1):
        ids = client_ids(clients, 2**31)
        whole_number(f"The length of {name}", len(ids), 1)
        return ids
    return whole_number(name, clients, 1)


def valid(check, *more):
    """Returns a validator for `attrs.field` that checks by one of these functions.

    Args:
        check: called with the attribute's name and value.
        *more: what it is called with after these.
    """
    return lambda _, attribute, value: check(attribute.name, value, *more)


def checked_fields(**validators):
    """Returns a `field_transformer` of attrs that gives fields their validators by name."""

    def transform(_, fields):
        return [field.evolve(validator=validators.get(field.name)) for field in fields]

    return transform


def left_out_or(check):
    """Returns a check that lets `None` pass."""
    return lambda name, value, *more: None if value is None else check(name, value, *more)


def client_ids(ids: Iterable[int], num_clients: int) -> np.ndarray:
    """Returns client ids as int64[n], in their order, after checking every one.

    Args:
        ids: whole numbers from 0 to `num_clients - 1`, each once.
        num_clients: the size of the population.

    Raises:
        TypeError: if an id is no whole number: 1.9 is not client 1.
        ValueError: if an id is outside of the population or comes twice.
    """
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | dict):
        _refuse_ids(ids)
    if hasattr(ids, "__array__"):  # a tensor or a column, too
        ids = np.asarray(ids)
        if ids.ndim != 1:
            _refuse_ids(ids)
    if not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu"):
        ids = list(ids)
        if set(map(type, ids)) != {int}:
            ids = [_id(value, ids) for value in ids]
        unknown = [value for value in ids if not 0 <= value < num_clients]
        ids = np.array(unknown[:1] or ids, object if unknown else np.int64)
    outside = ids[(ids < 0) | (ids >= num_clients)]
    if len(outside):
        raise ValueError(f"Client {outside[0]} is unknown: ids run from 0 to {num_clients - 1}.")
    ids = ids.astype(np.int64)
    order = np.sort(ids)
    twice = order[1:][order[1:] == order[:-1]]
    if len(twice):
        raise ValueError(f"Client {twice[0]} is named twice; name every client once.")
    return ids


def _id(value, ids) -> int:
    """Returns one of some ids as an `int`."""
    if isinstance(value, bool | np.bool_):
        raise TypeError("Client ids are whole numbers; True and False name nobody.")
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if is_list and getattr(value, "ndim", 1):
        _refuse_ids(ids)
    if hasattr(value, "__array__"):  # a tensor without axes
        value = np.asarray(value)[()]
    if not isinstance(value, numbers.Integral):
        raise TypeError(f"Client ids are whole numbers; {shown(value)} names nobody.")
    return int(value)


def _refuse_ids(ids):
    """Raises what is to be said of ids that are no flat list."""
    raise TypeError(f"Client ids are a flat list of whole numbers, not {shown(ids)}.")


def cohort_ids(cohort: Iterable[int], num_clients: int) -> np.ndarray:
    """Returns the ids of a cohort, with one at least; see `client_ids` for the other errors."""
    ids = client_ids(cohort, num_clients)
    if not len(ids):
        raise ValueError("A cohort is a list of client ids, with at least one in it.")
    return ids


def client_id(value: int, num_clients: int) -> int:
    """Returns the id of one client as an `int`; see `client_ids` for the errors."""
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if is_list and getattr(value, "ndim", 1):
        raise TypeError(f"One client's id is one whole number, not {shown(value)}.")
    return int(client_ids([value], num_clients)[0])
