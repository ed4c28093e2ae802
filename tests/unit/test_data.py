"""The data pipeline of chapter 1: reading, synthetic ratings, splits, client datasets."""

import os
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st

from stateful_tff.data import (
    ClientDatasets,
    DataError,
    ExampleDatasets,
    Ratings,
    load_ratings,
    parse_ratings,
    permutations,
    read_movielens,
    split_at_random,
    split_by_time,
    split_users,
    support_and_query,
    synthetic_ratings,
    write_movielens,
)
from stateful_tff.data.parsing import FIRST_SECOND, LAST_SECOND
from stateful_tff.data.synthetic import _ML1M_HISTOGRAM, _best_rmse


@pytest.fixture(scope="module")
def ratings():
    return synthetic_ratings(num_users=60, num_items=80, seed=1)


@pytest.fixture(scope="module")
def full_size():
    start = time.perf_counter()
    ratings = synthetic_ratings(num_users=6040, num_items=3706)
    return ratings, time.perf_counter() - start


def make_ratings(*counts):
    """Ratings of users with so many ratings each, some of whom may have none."""
    rows = [(u, i, 1 + (u + i) % 5, 10**9 + i) for u, n in enumerate(counts) for i in range(n)]
    table = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"]).astype(
        {"user": "int32", "item": "int32", "rating": "float32", "timestamp": "int64"}
    )
    items = pd.DataFrame(
        {"movie_id": np.arange(max(counts)) * 3 + 5, "title": "A film", "genres": "Drama"}
    )
    return Ratings("made", table, np.arange(len(counts)) * 2 + 10, items)


def keys(ratings):
    return ratings.table["user"].to_numpy(np.int64) * ratings.num_items + ratings.table["item"]


def contents(dataset):
    return [(b["x"].numpy()[:, 0].tolist(), b["y"].numpy()[:, 0].tolist()) for b in dataset]


def movies(dataset):
    return [movie for xs, _ in contents(dataset) for movie in xs]


# --- Ratings and files ------------------------------------------------------------------------


def test_columns_ids_and_order(ratings):
    table = ratings.table
    assert table.dtypes.astype(str).to_dict() == {
        "user": "int32",
        "item": "int32",
        "rating": "float32",
        "timestamp": "int64",
    }
    assert np.array_equal(np.unique(table["user"]), np.arange(ratings.num_users))
    assert np.array_equal(np.unique(table["item"]), np.arange(ratings.num_items))
    assert ratings.user_ids.dtype == np.int64
    assert table.index.equals(pd.RangeIndex(len(table)))
    assert table.equals(table.iloc[ratings.in_time()])
    assert table.equals(table.sort_values(["user", "timestamp"], kind="stable"))
    for u in range(ratings.num_users):
        assert (table["user"][ratings.bounds[u] : ratings.bounds[u + 1]] == u).all()


def test_ratings_print_what_they_are(ratings):
    assert str(ratings).startswith(f"synthetic: {len(ratings):,} ratings of 80 movies by 60 users")
    assert f"{ratings.best_rmse:.3f}" in str(ratings)
    assert "\n" not in repr(ratings)


def test_select_keeps_ids_and_order(ratings):
    some = ratings.select(ratings.table["rating"] == 5)
    assert (some.table["rating"] == 5).all()
    assert some.num_users == ratings.num_users and some.num_items == ratings.num_items
    backwards = ratings.select(np.arange(len(ratings))[::-1])
    assert backwards.table.equals(ratings.table)


def test_ids_are_contiguous_and_lead_back(tmp_path):
    (tmp_path / "ratings.dat").write_text("30::7::4::978300760\n9::55::3::978300761\n")
    (tmp_path / "movies.dat").write_bytes(
        "7::Misérables, Les (1995)::Drama\n8::Unrated (1990)::Comedy\n55::Léon: A::B|C\n".encode(
            "ISO-8859-1"
        )
    )
    ratings = read_movielens(tmp_path)
    assert ratings.name == "movielens" and ratings.scale == (1.0, 5.0)
    assert ratings.user_ids.tolist() == [9, 30]
    assert ratings.table["user"].tolist() == [0, 1]
    assert ratings.table["item"].tolist() == [1, 0]
    assert ratings.items["movie_id"].tolist() == [7, 55]  # nobody rated movie 8
    assert ratings.items["title"].tolist() == ["Misérables, Les (1995)", "Léon: A"]


def test_half_stars_and_quoted_titles(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\r\n1,31,2.5,1260759144\r\n2,31,0.5,1260759179\r\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\r\n31,"Amélie, or ""Le Fabuleux"" (2001)",Comedy\r\n', "UTF-8"
    )
    ratings = read_movielens(tmp_path)
    assert ratings.name == "movielens" and ratings.scale == (0.5, 5.0)
    assert ratings.table["rating"].tolist() == [2.5, 0.5]
    assert ratings.items["title"].tolist() == ['Amélie, or "Le Fabuleux" (2001)']


@pytest.mark.parametrize("zipped", [False, True])
def test_writing_and_reading_back(ratings, tmp_path, zipped):
    path = write_movielens(ratings, tmp_path / "ml-1m")
    if zipped:
        path = tmp_path / "ml-1m.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in ("ratings.dat", "movies.dat"):
                archive.write(tmp_path / "ml-1m" / file, f"ml-1m/{file}")
    again = read_movielens(path)
    pd.testing.assert_frame_equal(again.table, ratings.table)
    pd.testing.assert_frame_equal(again.items, ratings.items)
    assert np.array_equal(again.user_ids, ratings.user_ids)


LINES = st.lists(
    st.tuples(
        st.integers(1, 99_999),
        st.integers(1, 99_999),
        st.integers(1, 5),
        st.integers(FIRST_SECOND, LAST_SECOND),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda row: row[:2],
)


@given(rows=LINES, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_fast_parser_reads_what_is_written(rows, end, last):
    text = end.join("::".join(map(str, row)) for row in rows) + (end if last else "")
    table = parse_ratings(text.encode())
    assert list(table.itertuples(index=False, name=None)) == rows


@given(rows=LINES, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_order_of_lines_does_not_matter(rows, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    (folder / "movies.dat").write_text("".join(f"{row[1]}::Film::Drama\n" for row in rows))
    tables = []
    for order in (range(len(rows)), np.random.default_rng(seed).permutation(len(rows))):
        lines = ["::".join(map(str, rows[i])) + "\n" for i in order]
        (folder / "ratings.dat").write_text("".join(lines))
        tables.append(read_movielens(folder).table)
    pd.testing.assert_frame_equal(*tables)


def test_parsing_gives_what_the_python_engine_gives(full_size, tmp_path):
    file = write_movielens(full_size[0], tmp_path) / "ratings.dat"
    table = parse_ratings(file.read_bytes())
    slow = pd.read_csv(file, sep="::", engine="python", names=list(table), encoding="ISO-8859-1")
    assert np.array_equal(slow.to_numpy(), table.to_numpy())


# --- Where the data comes from ----------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "ml-1m", "ml-1m.zip", "copy.zip"])
def test_the_folder_you_name_may_be_any_of_these(ratings, tmp_path, monkeypatch, capsys, place):
    write_movielens(ratings, tmp_path / "ml-1m")
    for name in ("ml-1m.zip", "copy.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in ("ratings.dat", "movies.dat"):
                archive.write(tmp_path / "ml-1m" / file, f"ml-1m/{file}")
    monkeypatch.setenv("STATEFUL_TFF_DATA", str(tmp_path / place))
    assert load_ratings("auto").table.equals(ratings.table)
    assert capsys.readouterr().out == ""


def test_synthetic_by_name_and_by_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("STATEFUL_TFF_DATA", "synthetic")
    one = load_ratings("auto")
    monkeypatch.setenv("STATEFUL_TFF_DATA", "/no/such/folder")
    other = load_ratings("synthetic")
    assert one.name == other.name == "synthetic"
    assert one.table.equals(other.table)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(
    os.environ.get("STATEFUL_TFF_DATA", "synthetic") == "synthetic",
    reason="STATEFUL_TFF_DATA names no folder",
)
def test_real_movielens_1m():
    ratings = load_ratings("ml-1m")
    assert (len(ratings), ratings.num_users, ratings.num_items) == (1_000_209, 6040, 3706)
    assert np.array_equal(np.bincount(ratings.table["rating"])[1:], _ML1M_HISTOGRAM)
    assert "Misérables, Les (1995)" in set(ratings.items["title"])


# --- Synthetic ratings ------------------------------------------------------------------------


def test_synthetic_ratings_are_decided_by_their_seed():
    same = [synthetic_ratings(50, 60, seed=3) for _ in range(2)]
    assert same[0].table.equals(same[1].table)
    assert same[0].best_rmse == same[1].best_rmse
    assert not same[0].table.equals(synthetic_ratings(50, 60, seed=4).table)


def test_synthetic_ratings_have_the_shape_of_movielens_1m(full_size):
    ratings, seconds = full_size
    assert seconds < 20
    assert (ratings.num_users, ratings.num_items) == (6040, 3706)
    assert 0.9e6 < len(ratings) < 1.1e6
    shares = np.bincount(ratings.table["rating"])[1:] / len(ratings)
    assert np.abs(shares - _ML1M_HISTOGRAM / _ML1M_HISTOGRAM.sum()).max() < 0.001
    per_user = np.diff(ratings.bounds)
    assert per_user.min() == 20
    assert 80 < np.median(per_user) < 110
    assert 1_500 < per_user.max() < 3_000
    per_movie = np.bincount(ratings.table["item"], minlength=3706)
    assert per_movie.min() >= 1
    assert per_movie.max() > 10 * np.median(per_movie)
    assert not ratings.table.duplicated(["user", "item"]).any()
    assert 0.3 < ratings.table.groupby("user")["rating"].mean().std() < 0.5


def test_synthetic_default_is_small_and_whole():
    ratings = synthetic_ratings()
    assert (ratings.num_users, ratings.num_items) == (600, 400)
    assert np.diff(ratings.bounds).min() == 20
    assert np.bincount(ratings.table["item"], minlength=400).min() >= 1
    assert ratings.items["title"][0] == "Synthetic movie 1"


def test_biases_explain_some_and_taste_explains_more():
    split = split_at_random(synthetic_ratings())
    train, test = split.train.table, split.test.table
    rating, mean = test["rating"].to_numpy(), train["rating"].mean()
    floor = np.sqrt(np.mean((rating - mean) ** 2))
    user_bias, item_bias = np.zeros(600), np.zeros(400)
    for _ in range(5):
        rest = train["rating"] - mean - user_bias[train["user"]]
        item_bias = np.bincount(train["item"], rest, 400) / (5 + np.bincount(train["item"]))
        rest = train["rating"] - mean - item_bias[train["item"]]
        user_bias = np.bincount(train["user"], rest, 600) / (5 + np.bincount(train["user"]))
    predicted = mean + user_bias[test["user"]] + item_bias[test["item"]]
    biases = np.sqrt(np.mean((rating - predicted) ** 2))
    assert biases < floor - 0.1
    assert split.test.best_rmse < biases - 0.2


def test_best_rmse_is_what_the_conditional_mean_reaches():
    rng = np.random.default_rng(0)
    expected, limits, noise = rng.normal(0, 0.8, 2_000), np.array([-1.6, -1.0, -0.2, 0.7]), 0.6
    draws = 1 + np.searchsorted(limits, expected + rng.normal(0, noise, (2_000, 2_000)))
    reached = np.sqrt(np.mean((draws - draws.mean(axis=0)) ** 2))
    assert _best_rmse(expected, limits, noise) == pytest.approx(reached, rel=0.002)


# --- Splits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("splitter", [split_by_time, split_at_random, split_users])
def test_splits_are_disjoint_covering_and_repeatable(ratings, splitter):
    split, again = splitter(ratings), splitter(ratings)
    parts = [split.train, split.validation, split.test]
    together = np.concatenate([keys(part) for part in parts])
    assert len(np.unique(together)) == len(together)
    assert np.array_equal(np.sort(together), np.sort(keys(ratings)))
    for part, same in zip(parts, (again.train, again.validation, again.test), strict=True):
        assert part.table.equals(same.table)
        assert part.num_users == ratings.num_users and part.num_items == ratings.num_items
        assert part.table["user"].is_monotonic_increasing
    shares = [len(part) / len(ratings) for part in parts]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


@pytest.mark.parametrize("splitter", [split_at_random, split_users])
def test_another_seed_gives_another_split(ratings, splitter):
    assert not splitter(ratings, seed=0).test.table.equals(splitter(ratings, seed=1).test.table)


@pytest.mark.parametrize("splitter", [split_by_time, split_at_random, split_users])
def test_train_and_validation_are_all_but_the_test_in_order(ratings, splitter):
    split = splitter(ratings)
    both = split.train_and_validation.table
    assert len(both) == len(split.train) + len(split.validation)
    rows = ratings.table.set_index(["user", "item"]).index
    assert rows.get_indexer(both.set_index(["user", "item"]).index).tolist() == sorted(
        rows.get_indexer(both.set_index(["user", "item"]).index)
    )
    assert not both.merge(split.test.table, on=["user", "item"]).size


def test_split_by_time_tests_on_the_future(ratings):
    split = split_by_time(ratings)
    for earlier, later in [(split.train, split.validation), (split.validation, split.test)]:
        newest = earlier.table.groupby("user")["timestamp"].max()
        assert (newest <= later.table.groupby("user")["timestamp"].min()).all()
        assert len(newest) == ratings.num_users


@given(counts=st.lists(st.one_of(st.just(0), st.integers(10, 200)), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_split_by_time_takes_the_shares_of_each_user(counts):
    if not any(counts):
        return
    split = split_by_time(make_ratings(*counts))
    counts = np.array(counts)
    assert np.array_equal(np.diff(split.train.bounds), 8 * counts // 10)
    assert np.array_equal(np.diff(split.validation.bounds), 9 * counts // 10 - 8 * counts // 10)


def test_split_users_parts_users_and_caps_ratings():
    ratings = make_ratings(*[10, 40] * 10)
    split = split_users(ratings, max_ratings=30)
    users = [set(part.table["user"]) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in users] == [16, 2, 2]
    assert set.union(*users) == set(range(20))
    for part in (split.train, split.validation, split.test):
        assert set(np.diff(part.bounds)) <= {0, 10, 30}
        assert part.table["item"].max() < 30  # the oldest ratings are kept


def test_support_and_query_alternate():
    support, query = support_and_query(make_ratings(5, 0, 2))
    assert support.table["item"].tolist() == [0, 2, 4, 0]
    assert query.table["item"].tolist() == [1, 3, 1]


@pytest.mark.parametrize(
    "work, words",
    [
        (lambda: split_by_time(make_ratings(30, 3)), "user 12 has 3 ratings, too few"),
        (lambda: split_at_random(make_ratings(3)), "3 ratings are too few"),
        (lambda: split_users(make_ratings(30, 30)), "2 users are too few"),
        (lambda: support_and_query(make_ratings(4, 1)), "user 12 has a single rating"),
        (lambda: split_by_time(make_ratings(30), train=0.9, validation=0.1), "train=0.9"),
        (lambda: split_users(make_ratings(30), train=0.0), "train=0.0"),
        (lambda: split_at_random(make_ratings(30), validation=-0.1), "validation=-0.1"),
        (lambda: synthetic_ratings(2, 100), "num_items is 100 for 2 users; give from 20 to 40"),
        (lambda: load_ratings("ml-2m"), "'ml-2m' is no data set"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_sentence(work, words):
    with pytest.raises(DataError, match=words) as error:
        work()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


# --- Client datasets --------------------------------------------------------------------------


def test_a_client_dataset_is_its_rows_in_stored_order(ratings):
    clients = ClientDatasets(ratings, batch_size=7)
    assert len(clients) == len(list(clients)) == ratings.num_users
    for u in (0, 17, ratings.num_users - 1):
        rows = ratings.table[ratings.table["user"] == u]
        items, stars = clients.arrays(u)
        assert items.dtype == np.int64 and stars.dtype == np.float32
        assert np.array_equal(items, rows["item"]) and np.array_equal(stars, rows["rating"])
        assert clients.num_ratings(u) == len(rows)
        for _ in range(2):  # never shuffled
            batches = contents(clients[u])
            assert sum((xs for xs, _ in batches), []) == rows["item"].tolist()
            assert sum((ys for _, ys in batches), []) == rows["rating"].tolist()
        assert [len(xs) for xs, _ in batches[:-1]] == [7] * (len(batches) - 1)
        assert 1 <= len(batches[-1][0]) <= 7


def test_datasets_equal_those_of_plain_tf_data(ratings):
    clients = ClientDatasets(ratings)
    items, stars = clients.arrays(3)
    plain = tf.data.Dataset.from_tensor_slices(
        OrderedDict(x=items[:, None], y=stars[:, None])
    ).batch(5)
    assert contents(clients[3]) == contents(plain)
    assert clients[3].element_spec == plain.element_spec == clients.element_spec


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any),
    batch_size=st.integers(1, 6),
    max_ratings=st.one_of(st.none(), st.integers(1, 14)),
    max_clients=st.one_of(st.none(), st.integers(1, 7)),
)
@settings(max_examples=40, deadline=None)
def test_batch_size_and_caps(counts, batch_size, max_ratings, max_clients):
    clients = ClientDatasets(
        make_ratings(*counts), batch_size, max_ratings=max_ratings, max_clients=max_clients
    )
    assert len(clients) == min(len(counts), max_clients or len(counts))
    for u, dataset in clients.items():
        expected = list(range(min(counts[u], max_ratings or counts[u])))
        assert movies(dataset) == expected
        assert len(contents(dataset)) == -(-len(expected) // batch_size)


def test_a_user_without_ratings_has_an_empty_dataset():
    clients = ClientDatasets(make_ratings(3, 0, 2), shuffle_seed=0)
    assert 1 in clients and clients.num_ratings(1) == 0
    assert contents(clients[1]) == contents(clients.for_round([1], 0)[0]) == []


@pytest.mark.parametrize("client_id", [-1, 3, "0", 1.0, 1.9, True, None, [1]])
def test_unknown_clients_are_named(client_id):
    clients = ClientDatasets(make_ratings(3, 4, 2), shuffle_seed=0)
    assert client_id not in clients
    assert clients.get(client_id, "nobody") == "nobody"
    unknown = type(client_id) is int
    error, words = (ValueError, "ids run from 0 to 2") if unknown else (TypeError, "whole number")
    for work in (
        lambda: clients[client_id],
        lambda: clients.arrays(client_id),
        lambda: clients.num_ratings(client_id),
        lambda: clients.for_round([client_id], 0),
    ):
        with pytest.raises(error, match=words):
            work()


def test_a_round_names_each_client_once():
    clients = ClientDatasets(make_ratings(3, 4, 2), shuffle_seed=0)
    with pytest.raises(ValueError, match="Client 1 is named twice"):
        clients.for_round([1, 2, 1], 0)
    with pytest.raises(TypeError, match="whole number"):
        clients.for_round([0, True], 0)


def test_numpy_ids_work():
    clients = ClientDatasets(make_ratings(3, 4, 2), shuffle_seed=0)
    for client_id in np.arange(3):
        assert movies(clients[client_id]) == movies(clients[int(client_id)])
        for_both = [clients.for_round([i], 4)[0] for i in (client_id, int(client_id))]
        assert movies(for_both[0]) == movies(for_both[1])


@pytest.mark.parametrize(
    "arguments",
    [
        dict(batch_size=0),
        dict(batch_size=2.5),
        dict(batch_size=None),
        dict(batch_size=True),
        dict(max_ratings=0),
        dict(max_clients=-1),
        dict(shuffle_seed=-1),
        dict(shuffle_seed="0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments):
    ((name, value),) = arguments.items()
    error, words = (ValueError, "at least") if type(value) is int else (TypeError, "a whole number")
    with pytest.raises(error, match=f"{name} must be {words}"):
        ClientDatasets(make_ratings(3), **arguments)


def test_training_order_is_new_every_round_and_epoch_and_repeatable(ratings):
    clients = ClientDatasets(ratings, shuffle_seed=5)
    n = clients.num_ratings(4)
    first = movies(clients.for_round([4], 0, epochs=2)[0])
    second = movies(clients.for_round([4], 1, epochs=2)[0])
    orders = [first[:n], first[n:], second[:n], second[n:]]
    assert len({tuple(order) for order in orders}) == 4
    for order in orders:
        assert sorted(order) == sorted(clients.arrays(4)[0])
    # The order does not depend on who else is in the round, or on what was asked before.
    again = ClientDatasets(ratings, shuffle_seed=5).for_round([9, 4, 1], 1, epochs=2)
    assert movies(again[1]) == second
    assert movies(ClientDatasets(ratings, shuffle_seed=6).for_round([4], 1)[0]) != second[:n]
    # Stars stay with their movies.
    stars = dict(zip(*clients.arrays(4), strict=True))
    for xs, ys in contents(clients.for_round([4], 0)[0]):
        assert [stars[x] for x in xs] == ys


def test_clients_of_equal_size_get_different_orders():
    clients = ClientDatasets(make_ratings(50, 50), shuffle_seed=0)
    one, other = clients.for_round([0, 1], 0)
    assert movies(one) != movies(other)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    max_ratings=st.one_of(st.none(), st.integers(1, 30)),
    max_clients=st.one_of(st.none(), st.integers(1, 7)),
)
@settings(max_examples=30, deadline=None)
def test_arrays_of_all_clients_hold_those_of_each(counts, max_ratings, max_clients):
    clients = ClientDatasets(
        make_ratings(*counts), max_ratings=max_ratings, max_clients=max_clients
    )
    assert clients.num_clients == len(clients) == len(clients.counts) == len(clients.starts)
    assert clients.counts.dtype == clients.starts.dtype == clients.x.dtype == np.int64
    assert clients.x.shape == clients.y.shape == (clients.counts.sum(), 1)
    assert clients.y.dtype == np.float32
    for c, (start, count) in enumerate(zip(clients.starts, clients.counts, strict=True)):
        items, stars = clients.arrays(c)
        assert np.array_equal(clients.x[start : start + count, 0], items)
        assert np.array_equal(clients.y[start : start + count, 0], stars)


# --- Parts ------------------------------------------------------------------------------------


def test_parts_hold_the_rows_of_support_and_query(ratings):
    clients = ClientDatasets(ratings, 4, shuffle_seed=3)
    assert clients.part("all") is clients
    for name, rows in zip(("support", "query"), support_and_query(ratings), strict=True):
        part, expected = clients.part(name), ClientDatasets(rows, 4, shuffle_seed=3)
        assert type(part) is ClientDatasets and clients.part(name) is part
        assert (part.batch_size, part.shuffle_seed) == (4, 3)
        assert part.element_spec == clients.element_spec
        assert np.array_equal(part.counts, expected.counts)
        assert np.array_equal(part.x, expected.x) and np.array_equal(part.y, expected.y)
        orders = [c.for_round([5, 2], 1, epochs=2) for c in (part, expected)]
        assert [contents(d) for d in orders[0]] == [contents(d) for d in orders[1]]


def test_parts_of_clients_with_few_ratings_and_of_capped_clients():
    clients = ClientDatasets(make_ratings(1, 0, 5, 2), max_ratings=4, shuffle_seed=0)
    support, query = clients.part("support"), clients.part("query")
    assert support.counts.tolist() == [1, 0, 2, 1] and query.counts.tolist() == [0, 0, 2, 1]
    assert movies(support[2]) == [0, 2] and movies(query[2]) == [1, 3]
    assert contents(query[0]) == contents(query.for_round([0], 0)[0]) == []
    assert clients.counts.tolist() == [1, 0, 4, 2]  # the whole is as before


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="no part 'test'"):
        ClientDatasets(make_ratings(3)).part("test")


# --- Examples of any kind ---------------------------------------------------------------------


def make_examples(*counts, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(n, 3, 2)).astype(np.float32), np.arange(n, dtype=np.int32))
        for n in counts
    ]


def test_examples_of_any_shape_become_datasets():
    examples = make_examples(7, 0, 2)
    clients = ExampleDatasets(examples, 3, shuffle_seed=1)
    assert clients.num_clients == len(clients) == 3
    assert clients.counts.tolist() == [7, 0, 2] and clients.starts.tolist() == [0, 7, 7]
    assert clients.element_spec == OrderedDict(
        x=tf.TensorSpec([None, 3, 2], tf.float32), y=tf.TensorSpec([None], tf.int32)
    )
    for c, (x, y) in enumerate(examples):
        assert clients[c].element_spec == clients.element_spec
        assert all(np.array_equal(*pair) for pair in zip(clients.arrays(c), (x, y), strict=True))
        batches = list(clients[c])
        assert [len(b["y"]) for b in batches] == {7: [3, 3, 1], 0: [], 2: [2]}[len(y)]
        assert np.array_equal(np.concatenate([b["x"] for b in batches] or [x]), x)


def test_examples_are_dealt_like_ratings():
    ratings = ClientDatasets(make_ratings(9, 4, 6), shuffle_seed=2)
    pairs = [tuple(a[:, None] for a in ratings.arrays(c)) for c in ratings]
    clients = ExampleDatasets(pairs, 5, 2)
    for part in ("all", "support", "query"):
        both = [c.part(part).for_round([2, 0], 3, epochs=2) for c in (ratings, clients)]
        assert [contents(d) for d in both[0]] == [contents(d) for d in both[1]]
    assert type(clients.part("query")) is ExampleDatasets
    assert clients.part("support").counts.tolist() == [5, 2, 3]


@pytest.mark.parametrize(
    "examples, words",
    [
        ([], "examples is empty"),
        ([(np.zeros(3), np.zeros(2))], r"Client 0 .* not of equal length"),
        ([(np.zeros(()), np.zeros(()))], r"Client 0 .* not of equal length"),
        (make_examples(2) + [(np.zeros((2, 3, 2)), np.zeros(2))], r"Client 1 .* fit those of"),
        (make_examples(2) + [(np.zeros((2, 4), "f4"), np.zeros(2, "i4"))], r"Client 1 .* fit"),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples, words):
    with pytest.raises(DataError, match=words) as error:
        ExampleDatasets(examples, 5, 0)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


# --- Orders -----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**70),
    cohort=st.lists(st.integers(0, 2**32 - 1), max_size=5),
    round_num=st.integers(0, 2**40),
    epochs=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_orders_are_those_of_numpys_seed_sequence(seed, cohort, round_num, epochs):
    counts = [11 * i for i in range(len(cohort))]
    orders = permutations(seed, cohort, counts, round_num, epochs)
    expected = [
        np.random.default_rng([seed, client, round_num, epoch]).permutation(count)
        for client, count in zip(cohort, counts, strict=True)
        for epoch in range(epochs)
    ]
    assert len(orders) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(orders, expected, strict=True))


def test_rounds_follow_the_orders(ratings):
    clients = ClientDatasets(ratings, shuffle_seed=7)
    datasets = clients.for_round([8, 3], 4, epochs=2)
    orders = iter(permutations(7, [8, 3], clients.counts[[8, 3]], 4, 2))
    for client, dataset in zip([8, 3], datasets, strict=True):
        items = clients.arrays(client)[0]
        assert movies(dataset) == [m for _ in range(2) for m in items[next(orders)]]


# --- Rounds -----------------------------------------------------------------------------------


def test_no_batch_spans_two_epochs():
    dataset = ClientDatasets(make_ratings(7), 5, shuffle_seed=0).for_round([0], 0, epochs=3)[0]
    assert [len(xs) for xs, _ in contents(dataset)] == [5, 2, 5, 2, 5, 2]
    assert dataset.element_spec == ClientDatasets(make_ratings(7)).element_spec


@pytest.mark.parametrize(
    "seed, round_num, epochs, words",
    [
        (None, 0, 1, "give ClientDatasets a shuffle_seed"),
        (0, -1, 1, "round_num must be at least 0"),
        (0, 0, 0, "epochs must be at least 1"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(seed, round_num, epochs, words):
    with pytest.raises(ValueError, match=words):
        ClientDatasets(make_ratings(9), shuffle_seed=seed).for_round([0], round_num, epochs)


def test_tff_reads_the_type_and_shuffles_only_where_we_do(ratings):
    clients = ClientDatasets(ratings, shuffle_seed=0)
    data_type = tff.SequenceType(tff.types.tensorflow_to_type(clients.element_spec))
    assert str(data_type) == "<x=int64[?,1],y=float32[?,1]>*"

    @tff.tensorflow.computation(data_type)
    def order(dataset):
        return dataset.unbatch().batch(10_000).get_single_element()["x"][:, 0]

    items, stars = clients.arrays(2)
    fixed = tf.data.Dataset.from_tensor_slices(OrderedDict(x=items[:, None], y=stars[:, None]))
    fixed = fixed.shuffle(1_000, seed=42).batch(5)
    assert order(fixed).tolist() == order(fixed).tolist()  # the trap
    rounds = [clients.for_round([2], r, epochs=2)[0] for r in range(2)]
    assert order(rounds[0]).tolist() == movies(rounds[0])
    assert order(rounds[0]).tolist() != order(rounds[1]).tolist()
    assert order(clients[2]).tolist() == order(clients[2]).tolist() == items.tolist()
