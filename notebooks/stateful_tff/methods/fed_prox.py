"""FedProx: federated averaging whose clients are held back near the server's model.

Source: Li et al. 2020, "Federated Optimization in Heterogeneous Networks", equation 2 and
algorithm 2. Keeps nothing; sends the change of the whole model. Differs: a number of epochs in
place of a gamma-inexact minimum, and clients are drawn uniformly and count by their examples,
where the paper draws them by their examples. Knows nothing of engines and stores.
"""

from .method import Method
from .whole_model import checked_strength, shared, strength_at, toward


def fed_prox(mu: float = 0.1, epochs: int = 1) -> Method:
    """Returns FedProx.

    Args:
        mu: the strength of the pull toward the received weights; 0 is FedAvg. It may be a
            function of the number of the round.
        epochs: passes over a client's data.
    """
    mu = checked_strength("mu", mu)

    def pull(message):
        return toward(message.model_weights, strength_at(mu, message))

    return shared("FedProx", pull, epochs)
