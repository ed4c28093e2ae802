"""Who the users of MovieLens-1M are: read from a folder or a zip, every line checked."""

import zipfile

import attrs
import pandas as pd
import pytest

from stateful_tff.data import (
    DataError,
    load_users,
    parse_users,
    read_movielens,
    read_users,
    synthetic_ratings,
    write_movielens,
)

RATINGS = synthetic_ratings(num_users=30, num_items=40)
LINES = [f"{user}::{'MF'[user % 2]}::25::{user % 21}::12345-6789" for user in range(1, 31)]


@pytest.fixture
def folder(tmp_path):
    """A folder with ratings, movies and users, in the layout of ML-1M."""
    folder = write_movielens(RATINGS, tmp_path / "ml-1m")
    (folder / "users.dat").write_text("\n".join(reversed(LINES)) + "\n")
    return folder


def test_users_are_in_the_order_of_the_ratings(folder, tmp_path):
    ratings = read_movielens(folder)
    table = read_users(folder, ratings)
    assert table.index.tolist() == list(range(30))
    assert table["gender"].tolist() == ["women", "men"] * 15
    assert set(table["age"]) == {"25 to 34"}
    assert table["occupation"][:3].tolist() == [
        "academic or educator",
        "artist",
        "clerical or admin",
    ]
    assert list(table["age"].cat.categories)[0] == "under 18" and len(table.columns) == 3
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"ml-1m/{file.name}")
    pd.testing.assert_frame_equal(read_users(tmp_path / "ml-1m.zip", ratings), table)


@pytest.mark.parametrize("place", ["ml-1m", "."])
def test_they_are_loaded_from_where_the_ratings_are(folder, monkeypatch, place):
    monkeypatch.setenv("STATEFUL_TFF_DATA", str(folder.parent / place))
    ratings = attrs.evolve(read_movielens(folder), name="ml-1m")
    assert load_users(ratings)["gender"].value_counts().to_dict() == {"men": 15, "women": 15}


def test_of_other_ratings_nothing_is_known():
    with pytest.raises(
        DataError, match="Nothing says who the users of 'synthetic' are; only ml-1m"
    ):
        load_users(RATINGS)


def test_a_folder_without_the_file_says_so(folder):
    ratings = read_movielens(folder)
    (folder / "users.dat").unlink()
    with pytest.raises(DataError, match="holds no users.dat; of the releases only ml-1m has one"):
        read_users(folder, ratings)


def test_a_user_without_a_line_is_named(folder):
    ratings = read_movielens(folder)
    (folder / "users.dat").write_text("\n".join(LINES[:-1]))
    with pytest.raises(DataError, match="no line for user 30; take it from the same zip"):
        read_users(folder, ratings)


@pytest.mark.parametrize(
    "line, words",
    [
        ("2::M::25::3", "line 2: expected user id, gender, age, occupation and zip code"),
        ("x::M::25::3::1", "line 2: expected user id"),
        ("2::X::25::3::1", "line 2: gender is 'X', which is none of F, M"),
        ("2::M::26::3::1", "line 2: age is '26', which is none of 1, 18, 25"),
        ("2::M::25::21::1", "line 2: occupation is '21'"),
        ("1::M::25::2::1", "line 2: user 1 was there before; keep one"),
    ],
)
def test_a_bad_line_is_named(line, words):
    with pytest.raises(DataError, match=words):
        parse_users(f"1::F::25::3::1\n{line}\n".encode(), "users.dat")


def test_an_empty_file_is_refused():
    with pytest.raises(DataError, match="users.dat is empty"):
        parse_users(b"")
    with pytest.raises(DataError, match="bytes, not str"):
        parse_users("1::F::25::3::1")
