"""Local weights trained alone, with the global ones frozen: how a client is served.

Knows nothing of engines and stores.
"""

from .method import Method
from .phases import Phase, in_phases
from .trainers import LOCAL


def local_only(epochs: int = 1, data: str = "all") -> Method:
    """Returns the method that trains nothing but a client's local weights.

    Args:
        epochs: passes over the data.
        data: "all", "support" or "query".
    """
    return in_phases("local only", Phase(data, LOCAL, epochs))
