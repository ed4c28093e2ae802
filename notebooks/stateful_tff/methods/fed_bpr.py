"""BPR with private user vectors: pairs of a chosen and a drawn item, at the client.

Source: Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback", figure 4;
federated as in Anelli et al. 2021, "FedeRank". Knows nothing of engines and stores.
"""

from .method import Method
from .weighting import equal_weights


def fed_bpr() -> Method:
    """Returns federated BPR, for `models.implicit.pairwise_factorization` and data in pairs."""
    return equal_weights(Method("federated BPR"))
