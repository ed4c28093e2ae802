"""What can be read off an update: which items, which stars, whose; in plain NumPy.

The attacker is the server of the training loop, or who steals its log: it follows the protocol
and knows the model that it sent. Knows nothing of training, methods, engines and stores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from ..checks import finite_array, finite_number, positive_number, whole_number


def row_sizes(delta: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the length of each row's change, over all tables; float64[num_rows]."""
    squares = [np.square(np.asarray(part, float)).reshape(len(part), -1).sum(1) for part in delta]
    return np.sqrt(sum(squares))


def changed_rows(delta: Sequence[np.ndarray]) -> np.ndarray:
    """Returns which rows an update changes: the items that its client rated; bool[num_rows].

    Source: Lin et al. 2021, "FedRec: Federated Recommendation with Explicit Feedback".
    """
    return row_sizes(delta) > 0


def stars_of(
    delta: Sequence[np.ndarray],
    received: Sequence[np.ndarray],
    mean_rating: float,
    rate: float,
    batch_size: int,
    l2: float = 0.0,
    levels: Sequence[float] = (1, 2, 3, 4, 5),
) -> np.ndarray:
    """Reads the ratings off one update of a factorization with biases, trained by plain SGD.

    The change of an item's bias is `-2 rate (error + l2 b) / size`, which gives the error of its
    prediction, and the change of its vector then gives the user's vector. What stays unknown is
    the user's bias: one number, and of all of them it is that with which the ratings lie closest
    to levels. Two updates are needed without biases (Chai et al. 2021, "Secure Federated Matrix
    Factorization"). A client's last batch may be smaller, and is read as if it were full.

    Args:
        delta: the client's change of the item vectors, [m, k], and biases, [m, 1], one epoch.
        received: the vectors and biases that it started from.
        mean_rating: the model's constant.
        rate: of the items at a client.
        batch_size: ratings in a full batch.
        l2: the model's penalty.
        levels: the ratings that can be given.

    Returns:
        float64[m], a level for each changed row, NaN for the others.
    """
    (vectors, biases), (items, before) = (
        [np.asarray(part, float) for part in pair] for pair in (delta, received)
    )
    step = -2 * positive_number("rate", rate) / whole_number("batch_size", batch_size, 1)
    l2, levels = finite_number("l2", l2, 0), np.sort(finite_array("levels", levels, 1))
    changed = changed_rows(delta)
    if not changed.any():
        return np.full(len(items), np.nan)
    error = biases[changed] / step - l2 * before[changed]
    safe = np.where(np.abs(error) > 1e-6, error, np.inf)
    user = (vectors[changed] / step - l2 * items[changed]) / safe
    without_bias = (items[changed] * user).sum(1) + before[changed, 0] + mean_rating - error[:, 0]
    shifts = np.linspace(-2, 2, 401)
    gaps = np.abs(without_bias[:, None, None] + shifts[:, None] - levels).min(axis=2)
    cost = np.minimum(gaps, 0.25).mean(axis=0) + 1e-3 * np.abs(shifts)
    found = np.full(len(items), np.nan)
    guesses = without_bias + shifts[np.argmin(cost)]
    found[changed] = levels[np.abs(guesses[:, None] - levels).argmin(axis=1)]
    return found


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the chance that a positive has a higher score than a negative; ties count half.

    Args:
        scores: float[n].
        positive: bool[n], with both kinds in it.
    """
    scores, positive = finite_array("scores", scores, 1), np.asarray(positive, bool)
    count, others = positive.sum(), (~positive).sum()
    if not count or not others:
        raise ValueError("An AUC compares positives with negatives; give at least one of each.")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, l2: float = 1.0, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Scores people by a ridge regression that was fitted on others.

    It tells what features give away of a label, such as gender: `auc(scores, labels)`.

    Args:
        features: float[n, d]; columns are scaled to unit size.
        labels: bool[n].
        l2: the penalty, for each person.
        folds: in how many parts the people are dealt.
        seed: decides the parts.

    Returns:
        float64[n].
    """
    features, labels = finite_array("features", features, 2), np.asarray(labels, float)
    part = np.random.default_rng(seed).permutation(len(labels))
    part %= whole_number("folds", folds, 2, len(labels))
    scale = np.sqrt((features**2).mean(axis=0))
    rows = features / np.where(scale > 0, scale, 1)
    scores = np.zeros(len(labels))
    for number in range(folds):
        known, mean = part != number, rows[part != number].mean(axis=0)
        x, y = rows[known] - mean, labels[known] - labels[known].mean()
        gram = x @ x.T + positive_number("l2", l2) * len(y) * np.eye(len(y))
        scores[~known] = (rows[~known] - mean) @ (x.T @ np.linalg.solve(gram, y))
    return scores


def membership(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the AUC of telling members from others by their losses.

    Args:
        before: float[n], losses of ratings that the model was not trained on.
        after: float[m], losses of ratings that it was trained on; low ones speak for members.
    """
    before, after = finite_array("before", before, 1), finite_array("after", after, 1)
    member = np.arange(len(before) + len(after)) >= len(before)
    return auc(-np.concatenate([before, after]), member)


def with_pseudo_items(rated: np.ndarray, times: float, rng) -> np.ndarray:
    """Returns a client's rated items with others mixed in, drawn uniformly (Lin et al. 2021).

    Args:
        rated: bool[num_items].
        times: so many unrated items for each rated one, as far as there are any.
        rng: a NumPy generator.
    """
    rated = np.asarray(rated, bool)
    others = np.flatnonzero(~rated)
    size = min(int(round(finite_number("times", times, 0) * rated.sum())), len(others))
    mixed = rated.copy()
    mixed[rng.choice(others, size, replace=False)] = True
    return mixed
