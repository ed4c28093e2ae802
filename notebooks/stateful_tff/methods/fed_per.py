"""FedPer, FedRep, LG-FedAvg, FedBN: a part of the model is private, and four ways to choose it.

Which part is the model's affair: its local weights. `models.regrouped` chooses them. Sources:
Arivazhagan et al. 2019 (FedPer), algorithms 1 and 2; Collins et al. 2021 (FedRep), algorithm 1;
Liang et al. 2020 (LG-FedAvg), section 3; Li et al. 2021 (FedBN), algorithm 1. All keep the
local weights and send the change of the global ones. Differs: clients count by their examples
also in FedRep; LG-FedAvg has one loss, without auxiliary tasks; and see `models.networks` on
normalization. Knows nothing of engines and stores.
"""

import attrs

from .method import Method
from .phases import Phase, in_phases
from .stateful import alternating
from .trainers import BOTH


def fed_per(epochs: int = 1) -> Method:
    """Returns FedPer, of a model whose last layers are local: both parts move at each batch.

    Args:
        epochs: passes over a client's data.
    """
    return in_phases("FedPer", Phase("all", BOTH, epochs))


def fed_rep(epochs: int = 1) -> Method:
    """Returns FedRep, of a model whose last layers are local: these first, then one body epoch.

    Args:
        epochs: passes in which the local layers move alone.
    """
    return attrs.evolve(alternating(epochs), name="FedRep")


def lg_fed_avg(epochs: int = 1) -> Method:
    """Returns LG-FedAvg: FedPer of a model whose *first* layers are local.

    Args:
        epochs: passes over a client's data.
    """
    return attrs.evolve(fed_per(epochs), name="LG-FedAvg")


def fed_bn(epochs: int = 1) -> Method:
    """Returns FedBN: FedPer of a model whose normalization is local, with its statistics.

    Args:
        epochs: passes over a client's data.
    """
    return attrs.evolve(fed_per(epochs), name="FedBN")
