"""What decides the rounds of a run, in words that can be kept and compared.

Knows nothing of samplers, clients or stores.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import re
import zlib

import numpy as np


def shown_ids(ids) -> str:
    """Returns a number of clients, or how many ids there are and a checksum of them."""
    if np.ndim(ids) == 0:
        return str(ids)
    checksum = zlib.crc32(repr(np.asarray(ids).tolist()).encode())
    return f"{np.size(ids)} ids {checksum:08x}"


def described(sampler) -> str:
    """Returns what a sampler is, and the numbers that decide its draws.

    Args:
        sampler: an object whose `repr` tells its numbers, or whose attributes are them; or a
            function, whose numbers are constants, defaults, and variables from around it.
    """
    if isinstance(sampler, functools.partial):
        parts = [described(sampler.func), *map(_shown, sampler.args)]
        return _call("partial", parts, sampler.keywords)
    if inspect.ismethod(sampler):
        return f"{described(sampler.__self__)}.{sampler.__name__}"
    if inspect.isfunction(sampler):
        code, around = sampler.__code__, inspect.getclosurevars(sampler)
        constants = [value for value in code.co_consts if value != sampler.__doc__]
        constants = [_shown(value) for value in constants if _is_plain(value)]
        defaults = [_shown(value) for value in sampler.__defaults__ or ()]
        variables = {**around.globals, **around.nonlocals, **(sampler.__kwdefaults__ or {})}
        return _call(sampler.__qualname__, constants + defaults, variables)
    if type(sampler).__repr__ is object.__repr__:
        return _call(type(sampler).__qualname__, [], getattr(sampler, "__dict__", {}))
    return _shown(sampler)


def _call(name: str, parts: list[str], variables: dict) -> str:
    """Returns a name with values in brackets, as of a call."""
    named = [f"{key}={_shown(v)}" for key, v in sorted(variables.items()) if _is_plain(v)]
    return f"{name}({', '.join([*parts, *named])})"


def _is_plain(value) -> bool:
    """Says whether a value is a number, a text, or several of these."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, numbers.Number | str | np.bool_ | np.ndarray)


def _shown(value) -> str:
    """Returns a value as text that is the same in another process."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist() if value.size <= 10 else zlib.crc32(value.tobytes())
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
