"""What a device finds out from its own ratings: cross-validation and the rule."""

import numpy as np
import pandas as pd
import pytest

from stateful_tff.data import synthetic_ratings
from stateful_tff.evaluation.own_ratings import cross_validated, serves_better

TRAIN = synthetic_ratings(num_users=60, num_items=150, seed=3)
USERS = set(TRAIN.table["user"])


def test_no_rating_is_predicted_by_itself():
    seen = []

    def serve(part, held_out):
        both = pd.concat([part.table, held_out.table])
        assert len(both) == len(TRAIN) and not both.duplicated(["user", "item"]).any()
        seen.append(len(held_out))
        return np.arange(len(held_out))

    predicted = cross_validated(serve, TRAIN, folds=4)
    assert len(seen) == 4 and sum(seen) == len(TRAIN) == len(predicted)
    user = max(USERS)
    own = predicted[TRAIN.table["user"] == user]
    first = own[::4]
    assert (np.diff(first) == 1).all()  # its first fold, in order
    with pytest.raises(ValueError, match="folds must be at least 2"):
        cross_validated(serve, TRAIN, folds=1)


def test_the_rule_takes_the_side_with_the_smaller_error():
    stars = TRAIN.table["rating"].to_numpy(float)
    odd = TRAIN.table["user"].to_numpy() % 2 == 1
    near, far = np.where(stars > 3, stars - 0.1, stars + 0.1), np.full(len(stars), 3.0)
    better = serves_better(np.where(odd, near, far), np.where(odd, far, near), TRAIN)
    assert set(np.flatnonzero(better)) == {u for u in USERS if u % 2}
    assert not serves_better(far, far, TRAIN).any()
