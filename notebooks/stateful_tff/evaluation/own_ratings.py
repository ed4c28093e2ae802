"""What a device can find out from its own ratings: whether the personal side serves it better.

Knows nothing of models, methods, engines and stores: serving a user is a function that predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..checks import called, whole_number
from ..data import Ratings
from .paired import user_errors


def cross_validated(
    serve: Callable[[Ratings, Ratings], np.ndarray], support: Ratings, folds: int = 5
) -> np.ndarray:
    """Predicts each rating of a device from the device's other ratings.

    Each user's ratings are dealt out into folds in turn; each fold is predicted by a side that
    was fitted to the other folds (Stone 1974).

    Args:
        serve: `serve(part, held_out)` fits users to the ratings of `part` and returns a prediction
            in stars for each row of `held_out.table`.
        support: the ratings that the devices have.
        folds: how many; a user with fewer ratings than folds has some empty ones.

    Returns:
        float64[len(support)], in stars.

    Raises:
        TypeError: if `folds` is no whole number, or `serve` no function.
        ValueError: if `folds` is below two.
    """
    called("serve", serve)
    folds = whole_number("folds", folds, 2)
    turn = (np.arange(len(support)) - support.bounds[support.table["user"]]) % folds
    predicted = np.empty(len(support))
    for fold in range(min(folds, int(turn.max(initial=-1)) + 1)):
        held_out = turn == fold
        predicted[held_out] = serve(support.select(~held_out), support.select(held_out))
    return predicted


def serves_better(personal: np.ndarray, baseline: np.ndarray, support: Ratings) -> np.ndarray:
    """Returns which users the personal side serves better than a baseline, by their own ratings.

    Args:
        personal: cross-validated predictions of the support ratings, in stars.
        baseline: those of the baseline.
        support: the ratings that the devices have.

    Returns:
        bool[num_users]; `False` without ratings, and where both are as good.

    Raises:
        ValueError: as `metrics.clipped_errors` does.
    """
    ours, theirs = (user_errors(one, support) for one in (personal, baseline))
    return ours.squared < theirs.squared
