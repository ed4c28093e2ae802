"""Ratings and examples: read, drawn, split, and dealt out as one dataset per client.

Knows nothing of models, methods, engines, stores and TFF.
"""

from .clients import ClientDatasets, DatasetsByClient, ExampleDatasets
from .grouplens import download
from .movielens import load_ratings, read_movielens, write_movielens
from .orders import permutations
from .parsing import parse_movies, parse_ratings
from .ratings import DataError, Ratings, index_ratings
from .splits import (
    Split,
    split_at_random,
    split_by_time,
    split_users,
    support_and_query,
)
from .synthetic import synthetic_ratings
from .tables import read_table

__all__ = [
    "ClientDatasets",
    "DataError",
    "DatasetsByClient",
    "ExampleDatasets",
    "Ratings",
    "Split",
    "download",
    "index_ratings",
    "load_ratings",
    "parse_movies",
    "parse_ratings",
    "permutations",
    "read_movielens",
    "read_table",
    "split_at_random",
    "split_by_time",
    "split_users",
    "support_and_query",
    "synthetic_ratings",
    "write_movielens",
]
