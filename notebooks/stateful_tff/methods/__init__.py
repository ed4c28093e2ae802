"""Methods of federated learning, each a value: what clients and server do, and what is kept.

Knows nothing of engines and stores.
"""

from .apfl import apfl, mixed
from .ditto import ditto
from .fed_avg import fed_avg
from .fed_dyn import fed_dyn
from .fed_per import fed_bn, fed_per, fed_rep, lg_fed_avg
from .fed_prox import fed_prox
from .fed_recon import fed_recon
from .fine_tuning import predicting_weights
from .implicit_sum import implicit_sum
from .local_only import local_only
from .method import (
    DataPass,
    Method,
    build_server_broadcast_message,
    client_update,
    keep_local_weights,
    keep_nothing,
    keep_optimizer_state,
    server_update,
)
from .optimizers import Optimizers, falling_to_zero, sgd
from .per_fed_avg import per_fed_avg
from .pfedme import pfedme
from .phases import Phase, in_phases
from .scaffold import scaffold
from .stateful import alternating, first_visit, rebuilt_at_first_visit, stateful
from .touched_rows import touched_rows
from .trainers import BOTH, GLOBAL, LOCAL
from .weighting import equal_weights, weighted
from .whole_model import alone, fed_avg_whole, keep_whole_model, reptile

__all__ = [
    "BOTH",
    "GLOBAL",
    "LOCAL",
    "DataPass",
    "Method",
    "Optimizers",
    "Phase",
    "alone",
    "alternating",
    "apfl",
    "build_server_broadcast_message",
    "client_update",
    "ditto",
    "equal_weights",
    "falling_to_zero",
    "fed_avg",
    "fed_avg_whole",
    "fed_bn",
    "fed_dyn",
    "fed_per",
    "fed_prox",
    "fed_recon",
    "fed_rep",
    "first_visit",
    "implicit_sum",
    "in_phases",
    "keep_local_weights",
    "keep_nothing",
    "keep_optimizer_state",
    "keep_whole_model",
    "lg_fed_avg",
    "local_only",
    "mixed",
    "per_fed_avg",
    "pfedme",
    "predicting_weights",
    "rebuilt_at_first_visit",
    "reptile",
    "scaffold",
    "server_update",
    "sgd",
    "stateful",
    "touched_rows",
    "weighted",
]
