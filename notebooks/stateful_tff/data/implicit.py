"""Implicit feedback: who chose what, without stars; its splits, and its examples of a round.

Knows nothing of models, methods, engines, stores and TFF.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pandas as pd

from ..checks import (
    called,
    finite_number,
    left_out_or,
    seed_number,
    table_size,
    whole_number,
    yes_or_no,
)
from .clients import DatasetsByClient
from .ratings import DataError, Ratings
from .splits import Split, in_three, refuse_users, split_by_part
from .tables import read_table


def positives(ratings: Ratings, least: float | None = None) -> Ratings:
    """Returns ratings as choices: every one is worth 1.

    Args:
        ratings: the ratings.
        least: only ratings of at least so many stars count; left out, all do.

    Raises:
        DataError: if none is left.
    """
    if least is not None:
        least = finite_number("least", least)
        ratings = ratings.select(ratings.table["rating"].to_numpy() >= least)
    if not len(ratings):
        raise DataError(f"{ratings.name} has no rating of at least {least}; take a lower limit.")
    return attrs.evolve(ratings, table=ratings.table.assign(rating=np.float32(1)), scale=(0, 1))


def read_log(source, user, item, time=None, *, name: str = "log") -> Ratings:
    """Reads any log of choices: who, what and, optionally, when.

    Args:
        source: a DataFrame or a file, as `read_table` takes it.
        user: the column of user ids.
        item: the column of item ids.
        time: the column of times; without it, no split by time can be made.
        name: what to call the log.

    Returns:
        `Ratings` that are all 1. Of a user's several choices of an item the first one stays.

    Raises:
        DataError: as `read_table` does.
    """
    if not isinstance(source, pd.DataFrame):
        keys = [column for column in (user, item, time) if column is not None]
        header = None if all(isinstance(key, int) for key in keys) else "infer"
        try:
            source = pd.read_csv(source, sep=None, engine="python", header=header)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"The log {source} cannot be read: {error}") from error
    for column in (user, item, *([] if time is None else [time])):
        if column not in source.columns:
            raise DataError(f"The log has no column {column!r}; it has {list(source.columns)}.")
    table = source if time is None else source.sort_values(time, kind="stable")
    table = table.drop_duplicates([user, item]).assign(**{"chosen once": np.float32(1)})
    return positives(read_table(table, user, item, "chosen once", time, name=name))


def split_leave_one_out(log: Ratings, seed: int = 0) -> Split:
    """Holds out each user's newest choice to test, and the one before for validation.

    Of choices of one time none is the newer: a hash of user, item and seed decides, so neither
    ids nor the order in a file do.

    Args:
        log: at least three choices of each user who has any.
        seed: decides ties.

    Raises:
        DataError: if a user has fewer, or all choices of each user bear one time.
    """
    counts = np.diff(log.bounds)
    refuse_users("choices", log, (counts > 0) & (counts < 3))
    log.check_times()
    order, part = log.in_time(seed_number("seed", seed)), np.zeros(len(log), np.int8)
    ends = log.bounds[1:][counts > 0]
    part[order[ends - 1]], part[order[ends - 2]] = 2, 1
    return split_by_part(log, part)


def split_at_time(
    log: Ratings, train: float = 0.8, validation: float = 0.1, seed: int = 0
) -> Split:
    """Splits at two moments that are the same for everybody, so nobody trains on the future.

    Args:
        log: the choices.
        train: share of all choices before the first moment, rounded down.
        validation: share of those between the two.
        seed: decides the order of choices of one time, on whichever side of a moment they fall.

    Raises:
        DataError: if there are too few choices for three parts, or all bear one time.
    """
    time = log.table["timestamp"].to_numpy()
    parts = in_three("choices", len(log), train, validation)
    if time.min() == time.max():
        raise DataError("All choices bear one time; take split_at_random.")
    ties = np.random.default_rng(seed_number("seed", seed)).random(len(log))
    part = np.empty(len(log), np.int8)
    part[np.lexsort((ties, time))] = parts
    return split_by_part(log, part)


class ImplicitDatasets(DatasetsByClient):
    """One dataset per user of items and labels; a round's negatives are drawn in that round.

    A batch is `OrderedDict(x=int64[?, 1], y=float32[?, 1])` of items and labels, 1 for chosen and
    0 for drawn; with `pairs` it is `x=int64[?, 2]`, a chosen item beside a drawn one, and y is 1.

    Args:
        log: the training positives.
        batch_size: examples per batch.
        negatives: drawn for each positive, in each round; 0 for positives alone.
        sampler: draws them, such as `NegativeSampler(log)`; needed unless `negatives` is 0.
        pairs: whether each example is a pair.
        shuffle_seed: decides every order of `for_round`.

    Attributes:
        counts: int64[num_clients], the number of positives of each client.

    Raises:
        TypeError: if a number is not whole, or the sampler no function.
        ValueError: if one is too small, or what is to draw is missing.
    """

    def __init__(
        self,
        log: Ratings,
        batch_size: int = 256,
        *,
        negatives: int = 4,
        sampler: Callable | None = None,
        pairs: bool = False,
        shuffle_seed: int | None = 0,
    ):
        """See the class."""
        self.negatives = whole_number("negatives", negatives, 0, 10_000)
        self.pairs = yes_or_no("pairs", pairs)
        self.sampler = left_out_or(called)("sampler", sampler)
        if self.negatives and self.sampler is None or self.pairs and not self.negatives:
            raise ValueError("Negatives need a sampler, and pairs need negatives; give both.")
        items = log.table["item"].to_numpy(np.int64)[:, None]
        items = np.repeat(items, 2, axis=1) if self.pairs else items
        ones = np.ones((len(items), 1), np.float32)
        super().__init__(items, ones, np.diff(log.bounds), batch_size, shuffle_seed)

    @property
    def differ_by_round(self) -> bool:
        """Whether negatives are drawn."""
        return self.negatives > 0

    @property
    def round_counts(self) -> np.ndarray:
        """int64[num_clients], the number of examples of each client in a round."""
        return self.counts * (self.negatives if self.pairs else 1 + self.negatives)

    def in_round(self, client_ids: np.ndarray, round_num: int) -> tuple:
        """Returns the examples of some clients in a round; see `DatasetsByClient`.

        A client's positives come first, then what it drew, or each positive with its pairs.
        """
        x, y, counts = super().in_round(client_ids, round_num)
        if not self.negatives:
            return x, y, counts
        drawn = self.sampler(client_ids, counts * self.negatives, round_num)
        if self.pairs:
            chosen = np.repeat(x[:, 0], self.negatives)
            ones = np.ones((len(drawn), 1), np.float32)
            return np.stack([chosen, drawn], axis=1), ones, counts * self.negatives
        total = counts * (1 + self.negatives)
        turn = np.arange(total.sum()) - np.repeat(np.cumsum(total) - total, total)
        chosen = turn < np.repeat(counts, total)
        items = np.empty((len(turn), 1), np.int64)
        items[chosen], items[~chosen, 0] = x, drawn
        return items, chosen[:, None].astype(np.float32), total

    def part(self, name: str) -> DatasetsByClient:
        """Returns these datasets for "all"; there are no halves of what each round draws.

        Raises:
            ValueError: for another name.
        """
        if not isinstance(name, str) or name != "all":
            raise ValueError("Implicit datasets have no halves; take a method that uses 'all'.")
        return self


def synthetic_log(
    num_users: int = 400, num_items: int = 300, seed: int = 0, *, num_factors: int = 4
) -> tuple[Ratings, np.ndarray]:
    """Draws choices whose best ranking is known.

    User u chooses item i with a chance that grows with `popularity_i + p_u . q_i`. Each user
    draws items one after the other in proportion to the exponential of that, without
    replacement, and chose them in random order; so no ranking finds a held-out choice more often
    than the one by these sums.

    Args:
        num_users: number of users.
        num_items: number of items, from 100.
        seed: decides everything that is drawn.
        num_factors: rank of the taste, from 1 to 100.

    Returns:
        The choices, 15 to 60 of each user, and the sums, float32[num_users, num_items].
    """
    num_users, num_items = (
        whole_number("num_users", num_users, 1, 100_000),
        whole_number("num_items", num_items, 100, 10_000),
    )
    num_factors = whole_number("num_factors", num_factors, 1, 100)
    table_size("The choices", num_users, num_items)
    rng = np.random.default_rng(seed_number("seed", seed))
    users, items = (rng.normal(size=(size, num_factors)) for size in (num_users, num_items))
    sums = rng.normal(0, 1, num_items) + 2 * num_factors**-0.5 * users @ items.T
    order = np.argsort(-(sums + rng.gumbel(size=sums.shape)), axis=1)
    counts = rng.integers(15, 61, num_users)
    chosen = [rng.permutation(row[:count]) for row, count in zip(order, counts, strict=True)]
    table = pd.DataFrame(
        dict(user=np.repeat(range(num_users), counts), item=np.concatenate(chosen))
    )
    table["time"] = np.concatenate([np.arange(count) for count in counts])
    missing = np.setdiff1d(range(num_items), table["item"])  # nobody's choice: no row, no column
    log = read_log(table, "user", "item", "time", name="synthetic log")
    return log, np.delete(sums, missing, axis=1).astype(np.float32)
