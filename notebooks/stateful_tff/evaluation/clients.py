"""Clients one by one: how often each one's model is wrong, who is worst off, who is harmed.

Knows nothing of methods, engines and stores: it takes weights and examples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from ..checks import finite_array
from ..models import Classifier
from .lists import paired_mean
from .paired import PairedDifference

SMALLEST_DIFFERENCE = 0.01  # of the error rate: one point; what is smaller is no difference


def error_rates(
    model: Classifier, global_weights: list, local_weights: list, examples: Sequence[tuple]
) -> np.ndarray:
    """Returns how often each client's model is wrong on the client's examples.

    Args:
        model: the classifier.
        global_weights, local_weights: arrays with a first axis of clients.
        examples: for each client a pair of inputs and classes; of sequences, each place counts.

    Returns:
        float64[num_clients], from 0 to 1.

    Raises:
        TypeError: if the model is no `Classifier`.
        ValueError: if the numbers of clients differ, or a client has no examples.
    """
    if not isinstance(model, Classifier):
        raise TypeError(f"model must be a Classifier, not {type(model).__name__}.")
    numbers = {len(weight) for weight in [*global_weights, *local_weights]} | {len(examples)}
    if len(numbers) > 1 or any(not len(x) for x, _ in examples):
        raise ValueError(
            f"Weights and examples are of {sorted(numbers)} clients; give both for the same ones, "
            "and at least one example for each."
        )
    scores, rates = _graph_of(model), []
    for client, (x, y) in enumerate(examples):
        mine = [[tf.constant(w[client]) for w in side] for side in (global_weights, local_weights)]
        rates.append(np.mean(scores(*mine, tf.constant(x)).numpy().argmax(axis=-1) != y))
    return np.array(rates)


@functools.lru_cache(maxsize=16)
def _graph_of(model: Classifier):
    return tf.function(model.scores, reduce_retracing=True)


def worst_tenth(errors: np.ndarray) -> float:
    """Returns the mean error rate of the tenth of the clients that are worst off.

    Args:
        errors: float[num_clients]; at least one client counts.
    """
    errors = _some("errors", errors)
    return float(np.sort(errors)[-max(len(errors) // 10, 1) :].mean())


def share_harmed(errors: np.ndarray, others: np.ndarray) -> float:
    """Returns the share of clients with more errors than they would have with another method.

    Args:
        errors: float[num_clients], of the method.
        others: the same of the other one.

    Raises:
        ValueError: if there are no clients, or the numbers differ.
    """
    errors, others = _some("errors", errors), _some("others", others)
    if errors.shape != others.shape:
        raise ValueError(f"{len(errors)} and {len(others)} clients make no pairs.")
    return float(np.mean(errors > others))


def paired_errors(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], draws: int = 1000, seed: int = 0
) -> PairedDifference:
    """Compares the mean error rates of two methods on the same clients and seeds.

    It is `paired_difference` for rates of clients, all of whom count the same: clients are drawn
    with replacement, each with its errors of all seeds.

    Args:
        first: one float[num_clients] for each seed, of one method.
        second: the same of the other.
        draws: how many populations to draw.
        seed: decides the draws.

    Returns:
        The first minus the second, below zero where the first is wrong less often. Its verdict
        calls less than `SMALLEST_DIFFERENCE` no difference.

    Raises:
        ValueError: if seeds or clients differ, or there are none.
    """
    gap = paired_mean(first, second, draws, seed)
    return PairedDifference(gap.value, gap.low, gap.high, gap.by_seed, SMALLEST_DIFFERENCE)


def _some(name: str, values) -> np.ndarray:
    values = finite_array(name, values, 1)
    if not len(values):
        raise ValueError(f"{name} is of no clients; give at least one.")
    return values
