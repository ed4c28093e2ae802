"""Methods of federated learning, each a value: what clients and server do, and what is kept.

Knows nothing of engines and stores.
"""

from .fed_avg import fed_avg
from .fed_recon import fed_recon
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
from .phases import Phase, in_phases
from .stateful import alternating, first_visit, rebuilt_at_first_visit, stateful
from .touched_rows import touched_rows
from .trainers import BOTH, GLOBAL, LOCAL
from .weighting import equal_weights, weighted

__all__ = [
    "BOTH",
    "GLOBAL",
    "LOCAL",
    "DataPass",
    "Method",
    "Optimizers",
    "Phase",
    "alternating",
    "build_server_broadcast_message",
    "client_update",
    "equal_weights",
    "falling_to_zero",
    "fed_avg",
    "fed_recon",
    "first_visit",
    "in_phases",
    "keep_local_weights",
    "keep_nothing",
    "keep_optimizer_state",
    "local_only",
    "rebuilt_at_first_visit",
    "server_update",
    "sgd",
    "stateful",
    "touched_rows",
    "weighted",
]
