"""Ratings and examples: read, drawn, split, and dealt out as one dataset per client.

Knows nothing of models, methods, engines, stores and TFF.
"""

from .clients import ClientDatasets, DatasetsByClient, ExampleDatasets
from .femnist import femnist_clients
from .grouplens import download
from .implicit import (
    ImplicitDatasets,
    positives,
    read_log,
    split_at_time,
    split_leave_one_out,
    synthetic_log,
)
from .movielens import load_ratings, load_users, read_movielens, write_movielens
from .negatives import NegativeSampler, refuse_peeking, times_drawn
from .orders import permutations
from .parsing import parse_movies, parse_ratings
from .people import parse_users, read_users
from .ratings import DataError, Ratings, index_ratings
from .skewed import (
    choice_clients,
    deal_by_label,
    digit_clients,
    rating_clients,
    sequence_clients,
    split_examples,
    synthetic_clients,
)
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
    "ImplicitDatasets",
    "NegativeSampler",
    "Ratings",
    "Split",
    "choice_clients",
    "deal_by_label",
    "digit_clients",
    "download",
    "femnist_clients",
    "index_ratings",
    "load_ratings",
    "load_users",
    "parse_movies",
    "parse_ratings",
    "parse_users",
    "permutations",
    "positives",
    "rating_clients",
    "read_log",
    "read_movielens",
    "read_table",
    "read_users",
    "sequence_clients",
    "refuse_peeking",
    "split_at_random",
    "split_at_time",
    "split_by_time",
    "split_examples",
    "split_leave_one_out",
    "split_users",
    "support_and_query",
    "synthetic_clients",
    "synthetic_log",
    "synthetic_ratings",
    "times_drawn",
    "write_movielens",
]
