"""Ratings of many origins: every release of MovieLens, any other table, ties in time, scales."""

import bz2
import gzip
import lzma
import os
import zipfile

import attrs
import numpy as np
import pandas as pd
import pytest

from stateful_tff.data import (
    ClientDatasets,
    DataError,
    Ratings,
    load_ratings,
    read_movielens,
    read_table,
    split_at_random,
    split_by_time,
    split_users,
    synthetic_ratings,
    write_movielens,
)
from stateful_tff.data.releases import RELEASES, recognize
from stateful_tff.engines.packing import PackedRatings
from stateful_tff.evaluation.ranking import leave_one_out

GENRES = "0|" * 18 + "1"  # of u.item: a Western


def rows_of(num_users, num_ratings, step, rng=None):
    """Made-up ratings by so many users: arrays user, movie, stars and time."""
    rng = rng or np.random.default_rng(0)
    user = np.arange(num_ratings) % num_users + 1
    movie = np.arange(num_ratings) // num_users + 1
    stars = rng.choice(np.arange(step, 5.01, step), num_ratings)
    return user, movie, stars, 900_000_000 + rng.integers(0, 10**6, num_ratings)


def write_release(folder, layout, rows, title="Film é {}"):
    """Writes ratings as the releases of a layout do, in their encoding."""
    folder.mkdir(parents=True, exist_ok=True)
    user, movie, stars, time = rows
    separator = {"u.data": "\t", "ratings.dat": "::", "ratings.csv": ","}[layout]
    stars = [f"{s:.1f}" if layout == "ratings.csv" else f"{s:g}" for s in stars]
    lines = [separator.join(map(str, row)) for row in zip(user, movie, stars, time, strict=True)]
    header = ["userId,movieId,rating,timestamp"] if layout == "ratings.csv" else []
    (folder / layout).write_text("\n".join(header + lines) + "\n")
    films = [(m, title.format(m)) for m in np.unique(movie)]
    if layout == "u.data":
        text = "".join(f"{m}|{t}|01-Jan-1995||http://x/?{m}|{GENRES}\n" for m, t in films)
        (folder / "u.item").write_bytes(text.encode("ISO-8859-1"))
    elif layout == "ratings.dat":
        text = "".join(f"{m}::{t}::Western\n" for m, t in films)
        latin = not any("." in s for s in stars)  # ML-1M, and not ML-10M
        (folder / "movies.dat").write_bytes(text.encode("ISO-8859-1" if latin else "UTF-8"))
    else:
        text = "movieId,title,genres\n" + "".join(f'{m},"{t}",Western\n' for m, t in films)
        (folder / "movies.csv").write_text(text, "UTF-8")
    return folder


# --- Releases of MovieLens --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, layout, folder",
    [
        ("ml-100k", "u.data", "ml-latest-small"),
        ("ml-1m", "ratings.dat", "x"),
        ("ml-10m", "ratings.dat", "ml-1m"),
        ("ml-20m", "ratings.csv", "ml-latest-small"),
        ("ml-25m", "ratings.csv", "ml-32m"),
        ("ml-32m", "ratings.csv", "ml-20m"),
        ("ml-latest", "ratings.csv", "ml-latest-small"),
        ("ml-latest-small", "ratings.csv", "ml-25m"),
    ],
)
def test_a_release_is_told_by_its_counts_and_not_by_its_name(
    tmp_path, monkeypatch, name, layout, folder
):
    release = RELEASES[name]
    small = attrs.evolve(release, counts=frozenset({(60 + len(name), 7)}))
    monkeypatch.setitem(RELEASES, name, small)
    rows = rows_of(7, 60 + len(name), release.step)
    path = write_release(tmp_path / folder, layout, rows)
    for there in (path, path / layout):  # the ratings file itself may be named, too
        ratings = read_movielens(there)
        assert ratings.name == name and ratings.scale == (release.step, 5.0)
    assert sorted(ratings.table["rating"]) == sorted(np.float32(rows[2]))
    assert ratings.items["title"][0] == "Film é 1" and ratings.items["genres"][0] == "Western"
    monkeypatch.setenv("STATEFUL_TFF_DATA", str(tmp_path / folder))
    assert load_ratings(name).table.equals(ratings.table)
    other = "ml-20m" if name != "ml-20m" else "ml-1m"
    with pytest.raises(DataError, match=f"holds no {other} but {name}: "):
        load_ratings(other)
    part = read_movielens(write_release(tmp_path / "part", layout, [c[:30] for c in rows]))
    assert part.name == "movielens"


def test_the_counts_are_those_that_grouplens_tells():
    assert recognize("u.data", 100_000, 943, False) == ("ml-100k", (1.0, 5.0))
    assert recognize("ratings.dat", 1_000_209, 6_040, False) == ("ml-1m", (1.0, 5.0))
    assert recognize("ratings.dat", 10_000_054, 69_878, True) == ("ml-10m", (0.5, 5.0))
    assert recognize("ratings.csv", 100_836, 610, True) == ("ml-latest-small", (0.5, 5.0))
    assert recognize("ratings.csv", 33_832_162, 330_975, True) == ("ml-latest", (0.5, 5.0))
    # The layout and the half stars have to fit, too.
    assert recognize("ratings.csv", 1_000_209, 6_040, False) == ("movielens", (0.5, 5.0))
    assert recognize("ratings.dat", 1_000_209, 6_040, True) == ("movielens", (0.5, 5.0))


@pytest.mark.skipif(
    os.environ.get("STATEFUL_TFF_DATA", "synthetic") == "synthetic",
    reason="STATEFUL_TFF_DATA names no folder",
)
def test_real_movielens_latest_small(tmp_path):
    ratings = load_ratings("ml-latest-small")
    assert (len(ratings), ratings.num_users, ratings.num_items) == (100_836, 610, 9_724)
    assert ratings.name == "ml-latest-small" and ratings.scale == (0.5, 5.0)
    with pytest.raises(DataError, match="in steps of 1; write them as 'ml-10m'"):
        write_movielens(ratings, tmp_path)
    back = read_movielens(write_movielens(ratings, tmp_path, "ml-10m"))
    pd.testing.assert_frame_equal(back.table, ratings.table)
    pd.testing.assert_frame_equal(back.items, ratings.items)


# --- Writing ----------------------------------------------------------------------------------


def halves(rating=None, **columns):
    """A few ratings in half stars, with changed values."""
    whole = synthetic_ratings(20, 20, seed=0)
    table = whole.table.assign(rating=whole.table["rating"] - np.float32(0.5), **columns)
    return attrs.evolve(whole, table=table)


def test_half_stars_and_any_title_are_written_and_read_back(tmp_path):
    ratings = halves()
    items = ratings.items.copy()
    items.loc[:2, "title"] = ["Ocean’s Eleven", "Ã© and $\\bogus$", "Léon"]
    ratings = attrs.evolve(ratings, items=items)
    back = read_movielens(write_movielens(ratings, tmp_path, "ml-10m"))
    pd.testing.assert_frame_equal(back.table, ratings.table)
    pd.testing.assert_frame_equal(back.items, items)
    assert back.scale == ratings.scale == (0.5, 5.0)


@pytest.mark.parametrize(
    "release, title, words",
    [
        ("ml-1m", "Ocean’s Eleven", "is not in ISO-8859-1; write them as 'ml-10m'"),
        ("ml-1m", "Ã©", "is not in ISO-8859-1"),  # would be read as é
        ("ml-1m", "a::b", "has '::'"),
        ("ml-10m", "a:", "has '::'"),  # with the separator, the colon would move
        ("ml-10m", "a\nb", "line break"),
    ],
)
def test_a_title_that_cannot_be_written_is_named(tmp_path, release, title, words):
    ratings = synthetic_ratings(20, 20)
    items = ratings.items.copy()
    items.loc[3, "title"] = title
    with pytest.raises(DataError) as error:
        write_movielens(attrs.evolve(ratings, items=items), tmp_path, release)
    assert words in str(error.value) and repr(title) in str(error.value)


@pytest.mark.parametrize(
    "work, words",
    [
        (lambda to: write_movielens(halves(), to), "Column rating holds"),
        (lambda to: write_movielens(halves(timestamp=0), to, "ml-10m"), "Column timestamp holds 0"),
        (lambda to: write_movielens(halves(), to, "ml-2m"), "'ml-2m' is no format to write"),
        (lambda to: write_movielens(halves(), to / "file" / "x", "ml-10m"), "cannot be read"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, work, words):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=words) as error:
        work(tmp_path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert len(str(error.value)) < 600


def test_numbers_that_are_kept_as_objects_are_numbers():
    ratings = read_table(TABLE.astype(object), **COLUMNS)
    assert ratings.table.equals(read_table(TABLE, **COLUMNS).table)


# --- Folders and zips -------------------------------------------------------------------------


def pack(path, folders, kind=zipfile.ZIP_DEFLATED):
    """A zip of some folders, each with ratings of one layout."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for folder in folders:
            for file in folder.iterdir():
                archive.write(file, f"{folder.name}/{file.name}")
    return path


def test_a_zip_with_two_data_sets_has_to_be_asked_by_name(tmp_path, monkeypatch):
    small = attrs.evolve(RELEASES["ml-1m"], counts=frozenset({(40, 5)}))
    monkeypatch.setitem(RELEASES, "ml-1m", small)
    one = write_release(tmp_path / "one", "ratings.csv", rows_of(5, 30, 0.5))
    two = write_release(tmp_path / "two", "ratings.dat", rows_of(5, 40, 1.0))
    path = pack(tmp_path / "both.zip", [one, two])
    with pytest.raises(DataError, match="holds 2 data sets, .*one/ratings.csv and .*two/ratings"):
        read_movielens(path)
    monkeypatch.setenv("STATEFUL_TFF_DATA", str(path))
    assert load_ratings("ml-1m").name == "ml-1m"
    copy = pack(tmp_path / "copies.zip", [one, one.rename(tmp_path / "backup")][1:])
    with zipfile.ZipFile(copy, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("backup/ratings.csv", "")
    with pytest.raises(DataError, match="holds 'backup/ratings.csv' twice"):
        read_movielens(copy)


@pytest.mark.parametrize("kind", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_a_damaged_zip_is_read_right_or_refused_in_a_sentence(tmp_path, kind):
    folder = write_release(tmp_path / "ml", "ratings.dat", rows_of(5, 40, 1.0))
    path = pack(tmp_path / "ml.zip", [folder], getattr(zipfile, f"ZIP_{kind}"))
    sound, whole = path.read_bytes(), read_movielens(path)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        spoiled = bytearray(sound)
        at = rng.integers(0, len(sound), rng.integers(1, 4))
        for place in at:
            spoiled[place] = rng.integers(0, 256)
        path.write_bytes(spoiled[: rng.choice([len(sound), len(sound), at[0] + 1])])
        try:
            assert read_movielens(path).table.equals(whole.table)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_a_bomb_is_told_by_what_it_unpacks_to(tmp_path, monkeypatch):
    monkeypatch.setattr("stateful_tff.data.archives._ALWAYS_FINE", 10_000)
    folder = write_release(tmp_path / "ml", "ratings.dat", rows_of(5, 40, 1.0))
    (folder / "ratings.dat").write_bytes(b"0" * 1_000_000)
    (folder / "tags.dat").write_bytes(b"0" * 1_000_000)  # what is not read may be large
    with pytest.raises(DataError, match="would unpack to 1,000,000 bytes, .* which no ratings do"):
        read_movielens(pack(tmp_path / "ml.zip", [folder]))


def test_an_empty_folder_beside_a_good_zip_is_passed_by(tmp_path, monkeypatch):
    folder = write_release(tmp_path / "full", "ratings.dat", rows_of(5, 40, 1.0))
    pack(tmp_path / "ml-1m.zip", [folder])
    (tmp_path / "ml-1m").mkdir()
    monkeypatch.setenv("STATEFUL_TFF_DATA", f"'{tmp_path}'")  # as %env leaves quotes
    assert len(load_ratings()) == 40


@pytest.mark.parametrize(
    "name", ["x" * 300, "a\0b", "", None, 5, b"x", "~no_such_user/x", "/dev/null"]
)
@pytest.mark.parametrize("work", [read_movielens, lambda path: read_table(path, "u", "i", "r")])
def test_a_path_that_cannot_be_is_refused_in_a_sentence(work, name):
    with pytest.raises(DataError) as error:
        work(name)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert len(str(error.value)) < 600


# --- Any other table --------------------------------------------------------------------------

TABLE = pd.DataFrame(
    {
        "who": ["zoe", "ann", "zoe", "007", "ann", "7"],
        "what": [5, 30, 30, 5, 5, 5],
        "points": [10.0, 1.0, 7.5, 3.0, 4.0, 9.0],
        "when": [30, 20, 10, 5, 40, 6],
    }
)
COLUMNS = dict(user="who", item="what", rating="points", time="when")
OPEN = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def check_table(ratings):
    assert list(ratings.user_ids) == ["007", "7", "ann", "zoe"]
    assert ratings.items["movie_id"].tolist() == [5, 30]
    assert ratings.scale == (1.0, 10.0)
    table = ratings.table
    assert table["user"].tolist() == [0, 1, 2, 2, 3, 3]
    assert table["item"].tolist() == [0, 0, 1, 0, 1, 0]
    assert table["rating"].tolist() == [3.0, 9.0, 1.0, 4.0, 7.5, 10.0]
    assert table["timestamp"].tolist() == [5, 6, 20, 40, 10, 30]
    assert table.dtypes.astype(str).tolist() == ["int32", "int32", "float32", "int64"]


def test_a_data_frame_with_ids_of_any_kind():
    check_table(read_table(TABLE, **COLUMNS))
    check_table(read_table(TABLE.assign(who=TABLE["who"].astype("category")), **COLUMNS))
    check_table(read_table(TABLE.assign(what=TABLE["what"].astype("Int64")), **COLUMNS))
    check_table(read_table(TABLE.sample(frac=1, random_state=0), **COLUMNS))
    titles = read_table(TABLE.assign(name=TABLE["what"] * 2), **COLUMNS, title="name").items
    assert titles["title"].tolist() == ["10", "60"]


@pytest.mark.parametrize("ending", OPEN)
@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
def test_a_text_file_is_read_as_its_content_says(tmp_path, separator, ending):
    file = tmp_path / f"ratings.txt{ending}"
    with OPEN[ending](file, "wt", encoding="utf-8-sig") as out:
        out.write(TABLE.to_csv(sep="\x1f", index=False).replace("\x1f", separator))
    check_table(read_table(file, **COLUMNS))
    file.rename(tmp_path / "no ending")  # the first bytes tell how it is packed
    check_table(read_table(tmp_path / "no ending", **COLUMNS))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_file_may_have_a_byte_order_mark(tmp_path, encoding):
    table = TABLE.assign(where="\u0159eka")
    table.to_csv(tmp_path / "ratings.csv", sep="\t", index=False, encoding=encoding)
    ratings = read_table(tmp_path / "ratings.csv", **COLUMNS, title="where")
    check_table(ratings)
    assert set(ratings.items["title"]) == {"\u0159eka"}


def test_what_a_file_has_is_told_where_a_column_is_missing(tmp_path):
    TABLE.to_csv(tmp_path / "ratings.csv", index=False)
    with pytest.raises(DataError, match="no column 'nobody' for user; it has who, what, "):
        read_table(tmp_path / "ratings.csv", **COLUMNS | {"user": "nobody"})


@pytest.mark.parametrize("kind", ["int32", "uint64", "float64", "Int64", "Float64", "object",
                                  "category", "string"])  # fmt: skip
def test_times_of_every_kind_of_column_are_the_same(kind):
    whole = TABLE["when"].astype(np.int64)
    check_table(read_table(TABLE.assign(when=whole.astype(kind)), **COLUMNS))
    assert len(read_table(TABLE.assign(when=whole.astype(str)), **COLUMNS)) == len(TABLE)


@pytest.mark.parametrize("odd", [np.array(1), [1], {}, b"x", object()])
def test_a_time_that_is_a_thing_is_refused(odd):
    when = pd.Series([odd, *TABLE["when"][1:]], dtype=object)
    with pytest.raises(DataError, match="holds what is no time"):
        read_table(TABLE.assign(when=when), **COLUMNS)


def test_a_file_without_header_and_one_of_parquet(tmp_path):
    TABLE.to_csv(tmp_path / "bare.csv", header=False, index=False)
    check_table(read_table(tmp_path / "bare.csv", 0, 1, 2, 3))
    TABLE.to_parquet(tmp_path / "file")
    check_table(read_table(str(tmp_path / "file"), **COLUMNS))


def test_a_missing_parquet_reader_is_named(tmp_path, monkeypatch):
    TABLE.to_parquet(tmp_path / "file")

    def missing(*_, **__):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(DataError, match="install pyarrow"):
        read_table(tmp_path / "file", **COLUMNS)


def test_dates_become_seconds_or_microseconds():
    dates = pd.date_range("2020-01-01", periods=6, freq="h")
    ratings = read_table(TABLE.assign(when=dates), **COLUMNS)
    assert ratings.table["timestamp"].min() == 1_577_836_800
    texts = read_table(TABLE.assign(when=dates.astype(str)), **COLUMNS)
    assert texts.table.equals(ratings.table)
    fine = read_table(TABLE.assign(when=dates + pd.Timedelta("1ms")), **COLUMNS)
    assert fine.table["timestamp"].min() == 1_577_836_800_001_000
    assert fine.table["item"].equals(ratings.table["item"])


def test_a_table_without_times_has_no_split_by_time():
    rows = rows_of(20, 400, 0.5)
    table = pd.DataFrame(dict(zip("uirt", rows, strict=True)))
    ratings = read_table(table, "u", "i", "r")
    with pytest.raises(DataError, match="one and the same time, so none is the newest"):
        split_by_time(ratings)
    assert len(split_at_random(ratings).test) == 40
    assert read_table(table, "u", "i", "r", scale=(0, 10)).scale == (0.0, 10.0)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(user="nobody"), "no column 'nobody' for user; it has who, what, points, when"),
        (dict(table=TABLE.iloc[:0]), "holds no ratings"),
        (dict(table=TABLE.assign(who=[None, *"abcde"])), "row 0 has no id"),
        (dict(table=TABLE.assign(who=[1, *"abcde"])), "mixes ids of several kinds"),
        (dict(table=TABLE.assign(what=TABLE["what"] + 0.5)), "numbers with a fraction"),
        (dict(table=TABLE.assign(points="3,5")), "row 0 has '3,5'; write a finite number"),
        (dict(table=TABLE.assign(points=np.inf)), "row 0 has inf"),
        (dict(table=TABLE.assign(points=[1, 2, np.nan, 4, 5, 6])), "row 2 has nan"),
        (dict(table=TABLE.assign(when=[1, 2, None, 4, 5, 6])), "row 2 has no time"),
        (dict(table=TABLE.assign(when="soon")), "holds what is no time, such as 'soon'"),
        (dict(table=TABLE.assign(when=0.5)), "times that are not whole"),
        (dict(table=pd.concat([TABLE, TABLE])), "user 007 rates item 5 twice"),
        (dict(table=TABLE.set_axis(["who", "what", "points", "who"], axis=1)), "'who' twice"),
        (dict(table=TABLE.assign(who=[[1], *"abcde"])), "holds lists or tables"),
        (dict(user="n" * 9_000), "no column 'nnn"),
        (dict(scale=(5, 1)), "scale is the lowest and the highest rating"),
        (dict(scale=(1, 5, 10)), "scale is the lowest and the highest rating"),
        (dict(scale=(1, 5)), "from 1 to 10, off the scale from 1 to 5"),
        (dict(table="/no/such/file"), "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence(changes, words):
    arguments = COLUMNS | {k: v for k, v in changes.items() if k != "table"}
    with pytest.raises(DataError, match=words) as error:
        read_table(changes.get("table", TABLE), **arguments)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("content", [b"", b"\n", b"\x1f\x8bnot gzip", b"PAR1 nothing", b'"a,b\n'])
def test_a_file_that_is_no_table(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_table(tmp_path / "file", **COLUMNS)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert len(str(error.value)) < 600


# --- Ties in time -----------------------------------------------------------------------------


def in_pages(seed=0, page=10):
    """Ratings that come in pages of one second, in the order of their movies' ids."""
    ratings = synthetic_ratings(200, 300, seed=seed)
    table = ratings.table.copy()
    place = np.arange(len(table)) - ratings.bounds[table["user"]]
    table["timestamp"] = 978_300_000 + 1000 * (place // page)
    order = np.lexsort((table["item"], table["timestamp"], table["user"]))
    return attrs.evolve(ratings, table=table.iloc[order].reset_index(drop=True))


def ranks_in_second(ratings, newest):
    """Where each user's movie stands among those of its second, from 0 for the lowest id to 1."""
    table = ratings.table.set_index(["user", "timestamp"])["item"]
    rank = []
    for user, item, time in newest:
        others = table.loc[(user, time)].drop_duplicates().to_numpy()
        others = others[others != item]
        rank += [np.mean(others < item)] if len(others) else []
    return np.array(rank)


def test_neither_the_movies_id_nor_the_order_of_rows_breaks_a_tie():
    ratings = in_pages()
    split = split_by_time(ratings)
    last = split.test.table.groupby("user").tail(1)
    rank = ranks_in_second(ratings, last[["user", "item", "timestamp"]].to_numpy())
    assert 0.4 < rank.mean() < 0.6 and (rank == 1).mean() < 0.4
    shuffled = ratings.table.sample(frac=1, random_state=0).sort_values(
        ["user", "timestamp"], kind="stable", ignore_index=True
    )
    again = split_by_time(attrs.evolve(ratings, table=shuffled))
    assert again.test.table.equals(split.test.table)
    other = split_by_time(ratings, seed=1)
    assert not other.test.table.equals(split.test.table)
    assert np.array_equal(other.test.bounds, split.test.bounds)
    for part in (split, other):
        newest = part.train.table.groupby("user")["timestamp"].max()
        assert (newest <= part.test.table.groupby("user")["timestamp"].min()).all()
    assert ratings.tied > 0.99


def test_the_movie_left_out_is_any_of_the_last_second():
    ratings = in_pages()
    split = split_by_time(ratings)
    rows = ratings.table
    by_id = attrs.evolve(split.test, table=split.test.table.sort_values(
        ["user", "timestamp", "item"], ignore_index=True))  # fmt: skip
    ranks, targets = [], []
    for seed in range(3):
        task = leave_one_out(ratings, by_id, seed, negatives=20)
        targets.append(task.target)
        assert np.array_equal(leave_one_out(ratings, split.test, seed, 20).target, task.target)
        time = split.test.table.groupby("user")["timestamp"].max()[task.users].to_numpy()
        newest = np.stack([task.users, task.target, time], axis=1)
        ranks.append(ranks_in_second(split.test, newest))
    assert 0.4 < np.concatenate(ranks).mean() < 0.6
    assert (targets[0] != targets[1]).any()
    flat = attrs.evolve(ratings, table=rows.assign(timestamp=0))
    with pytest.raises(DataError, match="one and the same time"):
        leave_one_out(flat, flat, negatives=20)
    with pytest.raises(DataError, match="one and the same time"):
        split_by_time(flat)


def test_the_oldest_that_split_users_keeps_are_not_told_by_ids():
    ratings = in_pages(page=40)
    split = split_users(ratings, max_ratings=20)
    rows = split.train.table[["user", "item", "timestamp"]].to_numpy()
    some = np.random.default_rng(0).choice(rows, 300)
    assert 0.4 < ranks_in_second(ratings, some).mean() < 0.6


def test_the_oldest_that_client_datasets_keep_are_not_told_by_the_order_of_rows():
    ratings = in_pages(page=40)
    order = np.lexsort((np.random.default_rng(1).random(len(ratings)), ratings.table["user"]))
    other = attrs.evolve(ratings, table=ratings.table.iloc[order].reset_index(drop=True))
    kept = [ClientDatasets(one, max_ratings=20) for one in (ratings, other)]
    for user in range(ratings.num_users):
        first, second = (sorted(one.arrays(user)[0]) for one in kept)
        assert first == second
        mine = ratings.table[ratings.table["user"] == user].sort_values("timestamp")
        last = mine["timestamp"].iloc[19]
        assert (mine["timestamp"][mine["item"].isin(first)] <= last).all()


@pytest.mark.parametrize("times", [(0, 2**62), (-(2**62), 2**62), (5, 5)])
def test_times_far_apart_are_sorted_all_the_same(times):
    table = pd.DataFrame(
        {"user": 0, "item": [0, 1, 2, 3], "rating": 1.0, "timestamp": [times[1], *times, times[0]]}
    )
    items = pd.DataFrame({"movie_id": range(4), "title": "", "genres": ""})
    ratings = Ratings("made", table, np.arange(1), items)
    assert (np.diff(table["timestamp"].to_numpy()[ratings.in_time()].astype(float)) >= 0).all()
    assert ratings.tied == 1.0


# --- Ratings by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("rating", [3.0, np.nan], "Row 1 has the rating nan"),
        ("rating", [np.inf, 3.0], "Row 0 has the rating inf"),
        ("rating", ["a", "b"], "Column rating holds object"),
        ("user", [1, 0], "Row 1 is of an earlier user"),
        ("user", [0, 2], "Row 1 has user 2; contiguous ids run from 0 to 1"),
        ("item", [-1, 0], "Row 0 has item -1"),
        ("item", [0.0, 1.0], "Column item holds float64"),
        ("timestamp", [1.5, 2.5], "Column timestamp holds float64"),
        (
            "timestamp",
            np.array([5, 2**63], np.uint64),
            "Row 1 has the timestamp 9223372036854775808",
        ),
        ("timestamp", pd.array([5, None], "Int64"), "Column timestamp holds object"),
        ("timestamp", None, "no column timestamp"),
    ],
)
def test_a_table_by_hand_is_checked(column, value, words):
    table = pd.DataFrame({"user": [0, 1], "item": [0, 1], "rating": [3.0, 4.0], "timestamp": 5})
    table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    items = pd.DataFrame({"movie_id": [1, 2], "title": "", "genres": ""})
    with pytest.raises(DataError, match=words):
        Ratings("made", table, np.arange(2), items)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint16, np.uint32, np.uint64, np.int16])
def test_small_and_unsigned_numbers_in_a_table_do_not_wrap(kind):
    owner, times = np.array([0, 0, 100], kind), np.array([120, 2, 120], kind)
    table = pd.DataFrame({"user": owner, "item": owner, "rating": 3.0, "timestamp": times})
    items = pd.DataFrame({"movie_id": np.arange(300), "title": "", "genres": ""})
    made = Ratings("made", table, np.arange(300), items)
    assert made.bounds.tolist() == [0] + [2] * 100 + [3] * 200
    assert made.table["timestamp"].diff().tolist()[1:] == [-118, 118]
    assert {made.table[name].dtype for name in ("user", "item", "timestamp")} == {np.dtype(int)}


@pytest.mark.parametrize("rows", [[True], [0.5], [[0]], [-1], [10**6], ["a"], [0, 1, 1, 0]])
def test_rows_that_are_not_there_cannot_be_selected(rows):
    with pytest.raises(DataError) as error:
        synthetic_ratings(20, 20).select(rows)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "splitter, arguments",
    [
        (split_users, dict(max_ratings=0)),
        (split_users, dict(max_ratings=-1)),
        (split_users, dict(max_ratings=np.nan)),
        (split_users, dict(seed=None)),
        (split_at_random, dict(seed=None)),
        (split_at_random, dict(train=np.nan)),
        (split_by_time, dict(train="x")),
        (split_by_time, dict(validation=np.inf)),
        (split_by_time, dict(seed=-1)),
        (lambda _, **given: synthetic_ratings(**given), dict(seed=None)),
        (lambda _, **given: synthetic_ratings(**given), dict(num_users=2.5)),
        (lambda _, **given: synthetic_ratings(**given), dict(num_users=10**7)),
        (lambda _, **given: synthetic_ratings(**given), dict(num_factors=10**6)),
        (lambda _, **given: synthetic_ratings(**given), dict(num_factors=0)),
        (lambda _, **given: synthetic_ratings(**given), dict(median_ratings=0)),
    ],
)
def test_numbers_that_make_no_sense_are_named(splitter, arguments):
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments)).partition("_")[0]):
        splitter(synthetic_ratings(60, 80), **arguments)


def test_a_shard_has_the_orders_of_its_round_beyond_32_bits():
    ratings = halves()
    clients = ClientDatasets(ratings, 4, shuffle_seed=3)
    packed = PackedRatings(clients)
    assert packed.levels.tolist() == np.unique(ratings.table["rating"]).tolist()
    for round_num in (3, 2**32 + 3, 2**40):
        shard = packed.pack(np.array([2]), round_num)
        (dataset,) = clients.for_round([2], round_num)
        steps = int(shard.steps)
        items = [i for s in range(steps) for i in shard.items[0, s, 0, : shard.sizes[s, 0]]]
        stars = [c for s in range(steps) for c in shard.codes[0, s, 0, : shard.sizes[s, 0]]]
        assert items == [int(x) for batch in dataset for x in batch["x"][:, 0]]
        assert packed.levels[stars].tolist() == [y for b in dataset for y in b["y"].numpy()[:, 0]]
