"""FedNCF: private user vectors, and a neural network over users and items at the server.

Source: Perifanis and Efraimidis 2022, "Federated Neural Collaborative Filtering", section 4.
Knows nothing of engines and stores.
"""

from .method import Method
from .weighting import equal_weights


def fed_ncf() -> Method:
    """Returns FedNCF, for `models.implicit.neural_factorization`.

    What stays at the client is its vector; item table and towers are averaged.
    """
    return equal_weights(Method("FedNCF"))
