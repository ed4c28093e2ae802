"""Methods whose clients keep their local weights: at once, in turn, or rebuilt at the first visit.

Knows nothing of engines and stores.
"""

import tensorflow as tf

from .method import Method, keep_local_weights
from .phases import Phase, in_phases
from .trainers import BOTH, GLOBAL, LOCAL

# Both groups move at each batch: FedSim (Pillutla et al. 2022, algorithm 2), FedPer (Arivazhagan
# et al. 2019), and algorithm 4.1 of this book.
stateful = in_phases("stateful", Phase("all", BOTH))


def alternating(local_epochs: int = 1, joint: bool = False, *, keep=keep_local_weights) -> Method:
    """Returns the method whose clients first train their own weights, with the global ones frozen.

    It is FedAlt (Pillutla et al. 2022, algorithm 1), and FedRep (Collins et al. 2021) with one
    epoch on the global weights.

    Args:
        local_epochs: passes over the client's data with the global weights frozen.
        joint: let both groups move in the last pass, not the global one alone.
        keep: what the client keeps from round to round.
    """
    return in_phases(
        "alternating",
        Phase("all", LOCAL, local_epochs),
        Phase("all", BOTH if joint else GLOBAL),
        client_state_fn=keep,
    )


def first_visit(client_state):
    """Tells whether a client takes part for the first time."""
    return tf.equal(client_state.num_visits, 0)


def rebuilt_at_first_visit(epochs: int = 2) -> Method:
    """Returns the stateful method whose newcomers fit their own weights before anything else.

    Args:
        epochs: passes of a newcomer with the global weights frozen.
    """
    return in_phases(
        "rebuilt at first visit", Phase("all", LOCAL, epochs, first_visit), Phase("all", BOTH)
    )
