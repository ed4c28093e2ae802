"""FedMF: private user vectors, an item table at the server, gradients of both at each batch.

Source: Chai et al. 2021, "Secure Federated Matrix Factorization", algorithm 1, without its
encryption. Knows nothing of engines and stores.
"""

from .method import Method
from .weighting import equal_weights


def fed_mf() -> Method:
    """Returns FedMF: the book's stateful method with equal weights.

    With `models.implicit.logistic_factorization` it has the loss that papers compare with, and
    with `pairwise_factorization` that of BPR.
    """
    return equal_weights(Method("FedMF"))
