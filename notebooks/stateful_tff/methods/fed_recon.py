"""Federated reconstruction: clients keep nothing and rebuild their local weights in each round.

Source: Singhal et al. 2021, "Federated Reconstruction: Partially Local Federated Learning",
algorithm 1. Knows nothing of engines and stores.
"""

from .method import Method, keep_nothing
from .phases import Phase, in_phases
from .trainers import BOTH, GLOBAL, LOCAL


def fed_recon(epochs: int = 1, joint: bool = False, split: bool = True) -> Method:
    """Returns federated reconstruction.

    Args:
        epochs: passes over the support examples, with the global weights frozen.
        joint: let the local weights move with the global ones in the pass over the query
            examples; the paper moves the global ones alone.
        split: rebuild on one half of a client's examples and train on the other, as the paper
            does; else both on all.
    """
    support, query = ("support", "query") if split else ("all", "all")
    return in_phases(
        "FedRecon",
        Phase(support, LOCAL, epochs),
        Phase(query, BOTH if joint else GLOBAL),
        client_state_fn=keep_nothing,
    )
