"""Where the states of a run are kept: in memory, or in a database.

Knows nothing of models, methods or engines.
"""

from .errors import StoreError
from .memory import MemoryStore
from .sql import SqlStore

__all__ = ["MemoryStore", "SqlStore", "StoreError"]
