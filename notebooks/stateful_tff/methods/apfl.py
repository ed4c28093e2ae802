"""APFL: a model of one's own, mixed with the shared one by a weight that is learned, too.

Source: Deng et al. 2020, "Adaptive Personalized Federated Learning", algorithm 1. Keeps a whole
model and the mixing weight; sends the change of the shared model. Both models move at each
batch, so the method is FedPer of a model that holds two networks. Differs: the mixing weight
moves at each batch, with the local optimizer's rate, and is clipped to its range where it is
used. Knows nothing of engines and stores.
"""

import attrs
import numpy as np
import tensorflow as tf

from ..checks import share
from ..models import FunctionalModel
from .fed_per import fed_per
from .method import Method


def apfl(epochs: int = 1) -> Method:
    """Returns APFL, for a model that `mixed` makes.

    Args:
        epochs: passes over a client's data.
    """
    return attrs.evolve(fed_per(epochs), name="APFL")


def mixed(model: FunctionalModel, mixing: float = 0.5) -> FunctionalModel:
    """Returns a model of two networks: the shared one, and its mixture with a private one.

    The shared one learns from its own loss. The private one, and the mixing weight, learn from
    the loss of the mixture, which is also the loss that is reported.

    Args:
        model: any model; its groups do not matter.
        mixing: alpha of the paper, where the mixing weight starts: 1 is the private model alone.
    """
    first, size = [*model.global_weights, *model.local_weights], len(model.global_weights)
    mixing = np.float32(share("mixing", mixing))

    def mixture(theirs, mine):
        *own, alpha = mine
        alpha += tf.stop_gradient(tf.clip_by_value(alpha, 0.0, 1.0) - alpha)
        pairs = zip(own, theirs, strict=True)
        weights = [alpha * v + (1 - alpha) * tf.stop_gradient(w) for v, w in pairs]
        return weights[:size], weights[size:]

    def example_losses(theirs, mine, x, y):
        alone = model.example_losses(theirs[:size], theirs[size:], x, y)
        personal = model.example_losses(*mixture(theirs, mine), x, y)
        return personal + alone - tf.stop_gradient(alone)

    changes = dict(
        global_weights=first, local_weights=[*first, mixing], example_losses=example_losses
    )
    if hasattr(model, "scores"):
        changes["scores"] = lambda theirs, mine, x: model.scores(*mixture(theirs, mine), x)
    return attrs.evolve(model, **changes)
