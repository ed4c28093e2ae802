"""The odd values that take the place of arguments, and which of them make sense as what.

Knows nothing of the calls.
"""

import datetime
import decimal
import fractions
import numbers
import pathlib
from collections.abc import Callable, Iterable

import attrs
import numpy as np
import pandas as pd

_MODULES = (datetime, decimal, fractions, np, pathlib, pd)
_NAMES = {module.__name__: module for module in _MODULES} | {"np": np, "pd": pd}
# Made for each call, since some of them are used up.
ODD: dict[str, Callable[[], object]] = {
    text.strip(): eval(f"lambda: {text.strip()}", _NAMES)
    for text in """
None; True; False; np.True_; 0; 1; 2; -1; -5; 1.0; 3.0; 1.9; 0.5; -0.5; 1e-30; 1e30; 1e308; -1e308
float("nan"); float("inf"); -float("inf"); np.float32("nan"); np.float32(0.5); np.float64(2.0)
np.int64(1); np.int32(2); np.uint8(3); np.int8(-1); np.array(1); np.array(0.5); 10**6; 10**9
2**31; 2**32; 2**63; 2**64; 10**30; 1j; decimal.Decimal("1"); fractions.Fraction(1, 2)
""; "x"; "5"; "nan"; "a\\0b"; "x" * 10_000; b"x"; []; (); {}; set(); [0]; [1.5]; [0, 1]; [1, 1]
[-1]; [True]; [None]; ["a"]; [[0, 1], [1, 0]]; {"a": 1}; {0, 1}; range(2); iter([0, 1])
np.array([]); np.zeros(0, np.int64); np.array([0, 1]); np.array([0.5, np.nan]); np.array(["a"])
np.ones((2, 3)); np.array([0, None]); pd.Series([1, 0], index=[1, 0]); pd.DataFrame({"a": [1]})
pd.NA; pd.NaT; datetime.date(2000, 1, 1); object(); int; len; pathlib.Path("x")
""".replace("\n", ";").split(";")
    if text.strip()
}


@attrs.frozen
class Kind:
    """What an argument is meant to be.

    Attributes:
        makes_sense: tells of an odd value whether the call may take it.
        is_object: whether it is a thing of the package, or a function: anything else in its
            place is a mistake of another order, and ordinary Python may say so.
    """

    makes_sense: Callable[[object], bool]
    is_object: bool = False


def is_whole(value, least=None, most=None) -> bool:
    """Tells whether a value is a whole number within bounds; `True` and 3.0 are none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        return False
    return (least is None or value >= least) and (most is None or value <= most)


def is_number(value, least=None, above=None, most=None, below=None) -> bool:
    """Tells whether a value is a finite number within bounds."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return False
    return (
        abs(value) < float("inf")
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )


def whole(least=None, most=None) -> Kind:
    """A whole number; also as a NumPy array without axes, which is one for Python."""
    return Kind(lambda v: is_whole(v[()] if isinstance(v, np.ndarray) else v, least, most))


def number(**bounds) -> Kind:
    """A finite number; also as a NumPy array without axes."""
    return Kind(
        lambda v: is_number(v[()] if isinstance(v, np.ndarray) and v.ndim == 0 else v, **bounds)
    )


def either(*kinds: Kind) -> Kind:
    """One of several kinds."""
    return Kind(lambda v: any(kind.makes_sense(v) for kind in kinds))


def array(*shapes, finite=True, whole=False, least=None, most=None) -> Kind:
    """Numbers in an array, a list or a column of one of these shapes; `...` is any length."""

    def makes_sense(value):
        try:
            values = np.asarray(value)
        except Exception:
            return False
        fits = any(
            len(shape) == values.ndim
            and all(a in (..., b) for a, b in zip(shape, values.shape, strict=True))
            for shape in shapes
        )
        if not fits or values.dtype.kind not in ("iu" if whole else "iuf"):
            return False
        if finite and not np.isfinite(values).all():
            return False
        return (least is None or (values >= least).all()) and (
            most is None or (values <= most).all()
        )

    return Kind(makes_sense)


def ids(num_clients: int, empty=True) -> Kind:
    """Client ids, each once."""

    def makes_sense(value):
        if isinstance(value, dict | str | bytes) or not isinstance(value, Iterable):
            return False
        try:
            values = list(value)
        except Exception:
            return False
        known = all(is_whole(v, 0, num_clients - 1) for v in values)
        return known and len({*values}) == len(values) and (empty or bool(values))

    return Kind(makes_sense)


def one_of(*texts) -> Kind:
    """One of a few texts."""
    return Kind(lambda v: isinstance(v, str) and v in texts)


NONE = Kind(lambda v: v is None)
FLAG = Kind(lambda v: isinstance(v, bool | np.bool_))
TEXT = Kind(lambda v: isinstance(v, str) and bool(v))
PATH = Kind(lambda v: isinstance(v, str | pathlib.Path))
ANYTHING = Kind(lambda v: True)
THING = Kind(lambda v: False, is_object=True)  # of the package
CALLED = Kind(callable, is_object=True)
COUNT, FROM_ZERO = whole(1), whole(0)
SEED = whole(0)
POSITIVE, NOT_NEGATIVE, SHARE = number(above=0), number(least=0), number(above=0, below=1)
