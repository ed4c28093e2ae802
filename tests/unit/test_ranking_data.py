"""Implicit feedback: logs, splits, honest negatives, and the check that finds the others."""

import numpy as np
import pandas as pd
import pytest

from stateful_tff import data
from stateful_tff.data.orders import NEGATIVES
from stateful_tff.evaluation import ranking


@pytest.fixture(scope="module")
def log():
    return data.positives(data.synthetic_ratings(120, 90, 3))


@pytest.fixture(scope="module")
def split(log):
    return data.split_leave_one_out(log)


def pairs(ratings):
    return set(zip(ratings.table["user"], ratings.table["item"], strict=True))


def test_every_choice_is_worth_one(log):
    assert set(log.table["rating"]) == {1.0} and log.scale == (0.0, 1.0)
    liked = data.positives(data.synthetic_ratings(120, 90, 3), least=4)
    assert 0 < len(liked) < len(log)
    with pytest.raises(data.DataError, match="lower limit"):
        data.positives(liked, least=6)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("time", [None, "when"])
def test_a_log_of_clicks_loads(tmp_path, as_file, time):
    table = pd.DataFrame(
        dict(who=["b", "a", "a", "a"], what=[7, 9, 7, 9], when=[5, 30, 20, 10], more=1)
    )
    source = table
    if as_file:
        source = tmp_path / "log.csv"
        table.to_csv(source, index=False)
    log = data.read_log(source, "who", "what", time)
    assert len(log) == 3 and list(log.user_ids) == ["a", "b"]
    assert set(log.table["rating"]) == {1.0}
    if time:  # the first of a's two choices of 9 stays
        assert log.table["timestamp"].tolist() == [10, 20, 5]


def test_a_log_without_the_column_is_refused():
    with pytest.raises(data.DataError, match="no column 'who'"):
        data.read_log(pd.DataFrame(dict(a=[1], b=[2])), "who", "b")


def test_leave_one_out_holds_out_the_newest_two(log, split):
    assert (np.diff(split.test.bounds) == 1).all() and (np.diff(split.validation.bounds) == 1).all()
    assert pairs(split.train) | pairs(split.validation) | pairs(split.test) == pairs(log)
    assert len(split.train) == len(log) - 2 * log.num_users
    newest = split.train.table.groupby("user")["timestamp"].max().to_numpy()
    second, last = (p.table["timestamp"].to_numpy() for p in (split.validation, split.test))
    assert (newest <= second).all() and (second <= last).all()


def test_ties_are_broken_by_the_seed_and_not_by_ids():
    users = np.repeat(np.arange(300), 5)
    table = pd.DataFrame(
        dict(u=users, i=np.tile(np.arange(5), 300), t=np.tile([0, 1, 1, 1, 1], 300))
    )
    log = data.read_log(table, "u", "i", "t")
    tests = [data.split_leave_one_out(log, seed).test.table["item"].to_numpy() for seed in (0, 1)]
    assert (tests[0] != tests[1]).any()
    assert (np.bincount(tests[0], minlength=5)[1:] > 45).all()  # of 75 each, if even


def test_users_of_two_choices_are_refused():
    log = data.read_log(pd.DataFrame(dict(u=[1, 1], i=[1, 2], t=[1, 2])), "u", "i", "t")
    with pytest.raises(data.DataError, match="too few for three parts"):
        data.split_leave_one_out(log)


def test_a_split_in_time_has_two_moments_for_everybody(log):
    split = data.split_at_time(log, 0.7, 0.2)
    times = [part.table["timestamp"] for part in (split.train, split.validation, split.test)]
    assert times[0].max() <= times[1].min() and times[1].max() <= times[2].min()
    assert [len(t) for t in times] == [
        int(0.7 * len(log)),
        int(np.round(0.9 * len(log), 9)) - int(0.7 * len(log)),
        len(log) - int(np.round(0.9 * len(log), 9)),
    ]


def test_a_split_in_time_needs_times():
    log = data.read_log(pd.DataFrame(dict(u=[1, 1, 2], i=[1, 2, 1])), "u", "i")
    with pytest.raises(data.DataError, match="bear one time"):
        data.split_at_time(log, 0.4, 0.3)


def plain_draws(known, client, count, round_num, seed):
    """What the sampler should draw, the slow way."""
    mine = set(known.table["item"][known.table["user"] == client])
    unknown = [item for item in range(known.num_items) if item not in mine]
    rng = np.random.default_rng([seed, client, round_num, NEGATIVES])
    return [unknown[k] for k in rng.integers(0, len(unknown), count)]


def test_a_client_draws_with_its_own_generator(split):
    sampler = data.NegativeSampler(split.train, 5)
    clients, counts = np.array([7, 0, 119, 3]), np.array([40, 0, 11, 3])
    drawn = sampler(clients, counts, 2)
    plain = [plain_draws(split.train, *one, 2, 5) for one in zip(clients, counts, strict=True)]
    assert drawn.tolist() == sum(plain, [])
    assert sampler(clients[2:3], counts[2:3], 2).tolist() == plain[2]  # alone, too


def test_who_knows_everything_has_nothing_to_draw():
    log = data.read_log(pd.DataFrame(dict(u=[1, 1, 2], i=[1, 2, 1])), "u", "i")
    with pytest.raises(data.DataError, match="user 1 knows all 2 items"):
        data.NegativeSampler(log)


def test_draws_are_counted(split):
    sampler, clients = data.NegativeSampler(split.train), np.array([4, 9])
    total = data.times_drawn(sampler, clients, [30, 50], range(3), split.train.num_items)
    assert total.shape == (2, 90) and total.sum(axis=1).tolist() == [90, 150]
    again = sum(np.bincount(sampler([9], [50], r), minlength=90) for r in range(3))
    assert (total[1] == again).all()


def test_a_sampler_that_knows_what_is_held_out_is_refused(log, split):
    honest, peeking = data.NegativeSampler(split.train), data.NegativeSampler(log)
    assert 0.6 < data.refuse_peeking(honest, split.train, split.test) < 1.5
    with pytest.raises(data.DataError, match="drew held-out items 0 times"):
        data.refuse_peeking(peeking, split.train, split.test)
    lazy = data.NegativeSampler(split.train_and_validation)
    with pytest.raises(data.DataError, match="must not know"):
        data.refuse_peeking(lazy, split.train, split.validation)
    assert data.refuse_peeking(lazy, split.train, split.test) > 0.6


def test_too_few_draws_decide_nothing(log, split):
    nobody = split.test.select(split.test.table["user"].to_numpy() == 3)
    with pytest.raises(ValueError, match="too few to tell"):
        data.refuse_peeking(data.NegativeSampler(log), split.train, nobody, rounds=1)


def test_a_counter_that_learns_nothing_finds_the_movie_that_is_never_drawn(log, split):
    task = ranking.leave_one_out(log, split.test, negatives=25)
    users, found = np.arange(log.num_users), {}
    for name, known in dict(honest=split.train, peeking=log).items():
        drawn = data.times_drawn(
            data.NegativeSampler(known), users, 4 * np.diff(split.train.bounds), range(30), 90
        )
        counts = ranking.target_ranks(-np.float32(drawn), task.target, task.sampled)
        found[name] = ranking.hit_rate_and_ndcg(*counts, cutoff=3)[0].mean()
    assert found["peeking"] > 0.95 and found["honest"] < 0.35  # by chance: 3 of 26


@pytest.mark.parametrize("as_pairs", [False, True])
def test_examples_of_a_round_are_positives_and_what_was_drawn(split, as_pairs):
    sampler = data.NegativeSampler(split.train, 1)
    clients = data.ImplicitDatasets(split.train, 16, negatives=3, sampler=sampler, pairs=as_pairs)
    ids = np.array([5, 2])
    x, y, counts = clients.in_round(ids, 4)
    assert len(x) == len(y) == counts.sum() == clients.round_counts[ids].sum()
    own = {user: clients.x[clients.starts[user] :][: clients.counts[user], 0] for user in ids}
    for user, part in zip(ids, np.split(x, [counts[0]]), strict=True):
        drawn = sampler([user], [3 * len(own[user])], 4)
        if as_pairs:
            assert (part == np.stack([np.repeat(own[user], 3), drawn], axis=1)).all()
        else:
            assert (part[:, 0] == [*own[user], *drawn]).all()
    (batches, _) = clients.for_round(ids, 4)
    dealt = np.concatenate([np.column_stack([b["x"], b["y"]]) for b in batches])
    stored = np.column_stack([x, y])[: counts[0]]
    assert sorted(map(tuple, dealt)) == sorted(map(tuple, stored)) and (dealt != stored).any()


def test_positives_alone_need_no_sampler(split):
    clients = data.ImplicitDatasets(split.train, negatives=0)
    assert (clients.in_round(np.array([1]), 0)[1] == 1).all()
    with pytest.raises(ValueError, match="need a sampler"):
        data.ImplicitDatasets(split.train)
    with pytest.raises(ValueError, match="no halves"):
        clients.part("query")
