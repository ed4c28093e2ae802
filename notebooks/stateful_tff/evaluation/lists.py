"""What lists are worth beside hits: how much of the catalogue they show, and how popular it is.

Knows nothing of models, methods and engines: a list is made of scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checks import array_of, listed, whole_number
from ..data import Ratings
from .bootstrap import bounds, populations
from .paired import OverSeeds


def top_items(scores: np.ndarray, candidates: np.ndarray, cutoff: int = 10) -> np.ndarray:
    """Returns each user's list: the items with the highest scores among the candidates.

    Args:
        scores: float[n, num_items], higher is better, or one row for all users.
        candidates: bool[n, num_items], at least `cutoff` for each user.
        cutoff: the length of the list.

    Returns:
        int64[n, cutoff], the best first; equal scores in the order of a fixed random key.

    Raises:
        TypeError: if `cutoff` is no whole number.
        ValueError: if the shapes do not go together, or a user has too few candidates.
    """
    candidates, scores = np.asarray(candidates), array_of("scores", scores)
    if (
        candidates.dtype != bool
        or candidates.ndim != 2
        or scores.shape not in (candidates.shape, candidates.shape[1:])
    ):
        raise ValueError(
            f"Scores of shape {list(scores.shape)} do not go with candidates {candidates.dtype}"
            f"{list(candidates.shape)}; give bool[n, num_items]."
        )
    size = candidates.shape[1]
    cutoff = whole_number("cutoff", cutoff, 1, max(size, 1))
    if candidates.sum(axis=1).min(initial=size) < cutoff:
        raise ValueError(f"A user has fewer than {cutoff} candidates; make the lists shorter.")
    order = np.random.default_rng(0).permutation(size)
    masked = np.where(candidates, scores, -np.inf)[:, order]
    best = np.argpartition(-masked, cutoff - 1, axis=1)[:, :cutoff]
    best = np.sort(best, axis=1)
    ranked = np.argsort(-np.take_along_axis(masked, best, axis=1), axis=1, kind="stable")
    return order[np.take_along_axis(best, ranked, axis=1)]


def coverage(lists: np.ndarray, num_items: int) -> float:
    """Returns the share of the items that stand in somebody's list.

    Args:
        lists: int[n, cutoff], as `top_items` returns them.
        num_items: the size of the catalogue.
    """
    shown, num_items = np.unique(_lists(lists)), whole_number("num_items", num_items, 1)
    if shown.max(initial=0) >= num_items:
        raise ValueError(f"A list holds item {shown.max()}, and there are {num_items}.")
    return len(shown) / num_items


def popularity_lift(lists: np.ndarray, train: Ratings) -> float:
    """Returns how often listed items were chosen, by how often the items that people chose were.

    It is 1 where lists are as popular as what people choose, and above where they are more so.

    Args:
        lists: int[n, cutoff], as `top_items` returns them.
        train: what was chosen.
    """
    lists = _lists(lists)
    count = np.bincount(train.table["item"], minlength=train.num_items).astype(float)
    if not len(train) or lists.max(initial=0) >= train.num_items:
        raise ValueError("train must hold choices, of all items that the lists show.")
    return float(count[lists].mean() / (count**2).sum() * count.sum())


def _lists(lists) -> np.ndarray:
    """Returns checked lists."""
    lists = array_of("lists", lists, whole=True, ndim=2)
    if lists.min(initial=0) < 0 or not lists.size:
        raise ValueError("lists must hold at least one list of items, which count from 0.")
    return lists


class PairedMean(OverSeeds):
    """The mean of one method minus that of another, over users; more is better."""

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "undecided"."""
        if self.low > 0 or self.high < 0:
            return "better" if self.value > 0 else "worse"
        return "undecided"


def paired_mean(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedMean:
    """Compares two methods on the same users and seeds, as `paired.paired_difference` does.

    Args:
        first: of one method, what each user gets, such as a hit: float[n] for each seed.
        second: of the other, for the same seeds and users.
        draws: how many populations to draw.
        seed: decides the draws.
        level: the share of the drawn populations that lie in the interval.

    Raises:
        TypeError: if a number is of the wrong kind.
        ValueError: if the methods do not share seeds and users.
    """
    pair = [listed(name, one, np.ndarray) for name, one in (("first", first), ("second", second))]
    shapes = {array_of("values", one, ndim=1).shape for method in pair for one in method}
    if len(pair[0]) != len(pair[1]) or len(shapes) != 1:
        raise ValueError("Two methods make pairs on the same seeds and users; give both the same.")
    by_seed = np.array(pair[0], float) - np.array(pair[1], float)
    often = populations(by_seed.shape[1], draws, seed)
    value, low, high = map(float, bounds(often @ by_seed.mean(axis=0) / by_seed.shape[1], level))
    return PairedMean(value, low, high, tuple(map(float, by_seed.mean(axis=1))))
