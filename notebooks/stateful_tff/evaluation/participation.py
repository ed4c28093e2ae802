"""Who takes part and when: samplers for the training loop that do not draw uniformly.

Knows nothing of training, models, methods, engines and stores: a sampler returns client ids.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import attrs
import numpy as np

from ..checks import (
    array_of,
    called,
    finite_array,
    positive_number,
    seed_number,
    shown,
    whole_number,
)


def draw_available(weights: np.ndarray, cohort_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws clients one after the other with chances in proportion to their weights.

    The client with the smallest waiting time comes first; the times are exponential with the
    weights as rates (Efraimidis and Spirakis 2006).

    Args:
        weights: float[num_clients], not negative; 0 means that a client cannot take part.
        cohort_size: how many to draw. All who can take part, if they are fewer.
        rng: a NumPy generator.

    Returns:
        int64[<= cohort_size], distinct ids, in the order of the draw.

    Raises:
        TypeError: if the weights are no numbers, or the size is not whole.
        ValueError: if a weight is negative or not finite, or the size below one.
    """
    weights = _not_negative("weights", weights)
    cohort_size = whole_number("cohort_size", cohort_size, 1)
    available = np.flatnonzero(weights)
    waiting = rng.exponential(size=len(available)) / weights[available]
    return available[np.argsort(waiting)[:cohort_size]]


def _not_negative(name: str, values) -> np.ndarray:
    """Returns float64[n] after checking that there are numbers from 0."""
    values = finite_array(name, values, 1)
    if len(values) and values.min() < 0:
        raise ValueError(f"{name} must be at least 0, and holds {values.min()}.")
    return values.astype(float)


def _short(value) -> str:
    """Returns how a value is shown: of an array its kind, its shape and a checksum.

    So two schedules are shown alike only if they draw alike, also in another process.
    """
    if not np.ndim(value):
        return repr(value)
    value = np.ascontiguousarray(value)
    return f"{value.dtype}{list(value.shape)}:{zlib.crc32(value.tobytes()):08x}"


def _short_names(conditions) -> str:
    """Returns how conditions are shown: functions by their names, without memory addresses."""
    return f"[{', '.join(getattr(one, '__qualname__', None) or repr(one) for one in conditions)}]"


def _conditions(conditions) -> tuple:
    """Returns conditions after checking that each is a function."""
    if not isinstance(conditions, list | tuple):
        raise TypeError(f"conditions must be a list of functions, not {shown(conditions)}.")
    return tuple(called("A condition", one) for one in conditions)


@attrs.frozen(eq=False)
class ByActivity:
    """A condition of a `Schedule`: clients with more ratings take part more often.

    Attributes:
        num_ratings: float64[num_clients], the number of each client's ratings.
    """

    num_ratings: np.ndarray = attrs.field(
        converter=lambda n: _not_negative("num_ratings", n), repr=_short
    )

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the weights of a round, float64[num_clients]."""
        whole_number("round_num", round_num, 0)
        return self.num_ratings


@attrs.frozen(eq=False)
class DailyCycle:
    """A condition of a `Schedule`: a client can take part in some hours of each day only.

    Attributes:
        hours: float64[num_clients], when a client's time begins, from 0 to 24; round 0 is at 0.
        rounds_per_day: rounds from one midnight to the next.
        open_hours: how many hours a client's time lasts.
    """

    hours: np.ndarray = attrs.field(
        converter=lambda hours: _not_negative("hours", hours), repr=_short
    )
    rounds_per_day: float = attrs.field()
    open_hours: float = attrs.field(default=8.0)

    @rounds_per_day.validator
    def _check_rounds(self, attribute, value):
        positive_number("rounds_per_day", value)

    @open_hours.validator
    def _check_hours(self, attribute, value):
        if positive_number("open_hours", value) > 24 or self.hours.max(initial=0) > 24:
            raise ValueError("A day has 24 hours; give hours and open_hours from 0 to 24.")

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the weights of a round, float64[num_clients], 0 or 1."""
        since = (
            24 * whole_number("round_num", round_num, 0) / self.rounds_per_day - self.hours
        ) % 24
        return (since < self.open_hours).astype(float)


@attrs.frozen(eq=False)
class LongAbsence:
    """A condition of a `Schedule`: some clients take no part for many rounds, then return.

    Attributes:
        away: bool[num_clients], who is away.
        first: the first round without them.
        last: the first round with them again.
    """

    away: np.ndarray = attrs.field(converter=np.asarray, repr=_short)
    first: int = attrs.field(converter=lambda n: whole_number("first", n, 0))
    last: int = attrs.field(converter=lambda n: whole_number("last", n, 0))

    @away.validator
    def _check_away(self, attribute, value):
        if value.dtype != bool or value.ndim != 1:
            raise TypeError(f"away must say True or False of each client, not {shown(value)}.")

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the weights of a round, float64[num_clients], 0 or 1."""
        whole_number("round_num", round_num, 0)
        return 1.0 - (self.away & (self.first <= round_num < self.last))


@attrs.frozen(eq=False)
class Schedule:
    """A sampler for the training loop, made of what decides who can take part.

    Attributes:
        num_clients: the size of the population; ids run from 0 to `num_clients - 1`.
        cohort_size: how many to draw per round; all who can take part, if they are fewer.
        conditions: `ByActivity`, `DailyCycle`, `LongAbsence`, or functions. Each takes the number
            of a round, from 0, and returns float[num_clients], not negative. A client's chance is
            in proportion to the product; without any condition, all clients are alike.
        drop_out: the chance that a drawn client does not come back from the round, below 1, for
            all or one for each client. If all of a cohort drop out, one stays: the client that
            came closest to finishing.
        seed: decides all draws.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if a number is too small, or a chance outside of 0 to 1.
    """

    num_clients: int = attrs.field(converter=lambda n: whole_number("num_clients", n, 1, 10**8))
    cohort_size: int = attrs.field(converter=lambda n: whole_number("cohort_size", n, 1))
    conditions: tuple[Callable[[int], np.ndarray], ...] = attrs.field(
        default=(), converter=_conditions, repr=_short_names
    )
    drop_out: float | np.ndarray = attrs.field(default=0.0, repr=_short)
    seed: int = attrs.field(default=0, converter=lambda n: seed_number("seed", n))

    @drop_out.validator
    def _check_chances(self, attribute, value):
        chances = array_of("drop_out", value)
        if chances.shape not in ((), (self.num_clients,)):
            raise ValueError(
                f"drop_out has shape {list(chances.shape)} for {self.num_clients} clients; give "
                "one chance for all or one for each."
            )
        if not np.all((0 <= chances) & (chances < 1)):
            raise ValueError(
                "drop_out holds a chance outside of 0 to 1; give chances from 0, below 1."
            )

    def __call__(self, round_num: int) -> np.ndarray:
        """Returns the ids of a round, int64[<= cohort_size], distinct; `round_num` is from 0.

        Raises:
            ValueError: if a condition's weights make no sense, or nobody can take part.
        """
        rng = np.random.default_rng([self.seed, whole_number("round_num", round_num, 0)])
        weights = np.ones(self.num_clients)
        for condition in self.conditions:
            weights = weights * self._checked(condition(round_num))
        if not weights.any():
            raise ValueError(
                f"Round {round_num} has no cohort: 0 clients can take part, {self.cohort_size} "
                "are wanted; let at least one take part."
            )
        cohort = draw_available(weights, self.cohort_size, rng)
        margin = rng.random(len(cohort)) - np.broadcast_to(self.drop_out, self.num_clients)[cohort]
        return cohort[(margin >= 0) | (margin == margin.max())]

    def _checked(self, weights) -> np.ndarray:
        """Returns a condition's weights of a round after checking them."""
        weights = np.asarray(weights)
        weights = array_of("A condition", weights * 1.0 if weights.dtype == bool else weights)
        if weights.shape != (self.num_clients,):
            raise ValueError(
                f"A condition returned weights of shape {list(weights.shape)} for "
                f"{self.num_clients} clients; give one from 0 for each client."
            )
        if not np.all((weights >= 0) & np.isfinite(weights)):
            raise ValueError(
                "A condition returned a negative or infinite weight; give one from 0 for each "
                "client."
            )
        return weights
