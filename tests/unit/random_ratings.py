"""Random ratings for tests: users with few or no ratings, of movies that may come back."""

import numpy as np
import pandas as pd

from stateful_tff.data import Ratings

NUM_ITEMS, NUM_USERS, NUM_FACTORS = 25, 14, 4


def random_ratings(seed, repeats=False, num_users=NUM_USERS, most=23):
    """Ratings by users with 0 to `most - 1` ratings each; with `repeats`, movies come back."""
    rng = np.random.default_rng(seed)
    parts = []
    for user in range(num_users):
        n = int(rng.integers(0, most))
        items = rng.integers(0, 6, n) if repeats else rng.choice(NUM_ITEMS, n, replace=False)
        parts.append(pd.DataFrame({"user": user, "item": items}))
    table = pd.concat(parts, ignore_index=True).astype(np.int32)
    table["rating"] = rng.integers(1, 6, len(table)).astype(np.float32)
    table["timestamp"] = np.arange(len(table))
    items = pd.DataFrame({"movie_id": range(NUM_ITEMS), "title": "", "genres": ""})
    return Ratings("test", table, np.arange(num_users), items)
