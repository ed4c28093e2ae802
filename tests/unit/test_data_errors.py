"""Bad input: each in one sentence that names the place and the fix, with nothing left behind."""

import hashlib
import http.server
import io
import re
import threading
import zipfile

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stateful_tff.data import (
    DataError,
    archives,
    download,
    grouplens,
    load_ratings,
    movielens,
    parse_ratings,
    read_movielens,
    releases,
)

DAT = "7::42::4::978300760\n7::99::3::978300761\n8::42::5::978300999\n"
DAT_MOVIES = "42::Misérables, Les (1995)::Drama\n99::Léon (1994)::Crime|Drama\n"
CSV = "userId,movieId,rating,timestamp\n7,42,4.0,978300760\n7,99,0.5,978300761\n"
CSV_MOVIES = "movieId,title,genres\n42,Amélie (2001),Comedy\n99,Up (2009),Comedy\n"


def write(folder, ratings=DAT, movies=DAT_MOVIES, encoding="ISO-8859-1"):
    """A folder in ML-1M's format; `None` leaves a file out."""
    folder.mkdir(exist_ok=True)
    for name, text in (("ratings.dat", ratings), ("movies.dat", movies)):
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return folder


def zipped(members=None):
    """The bytes of a zip of ML-1M's format."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {
            "ml-1m/ratings.dat": DAT,
            "ml-1m/movies.dat": DAT_MOVIES.encode("ISO-8859-1"),
            **(members or {}),
        }.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def everything_in(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def fails(work, *words):
    """Runs work that must fail in one sentence with these words, and returns the sentence."""
    with pytest.raises(DataError) as error:
        work()
    message = str(error.value)
    for word in words:
        assert word in message
    assert message.endswith(".") and "\n" not in message
    assert not re.search(r"[.] [A-Z]", message), "more than one sentence"
    return message


# --- Lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("::978300999\n", "", ["line 3", "only 3 of 4 fields", "cut off"]),
        ("978300761", "978300761::0", ["line 2", "5 fields instead of 4", "remove"]),
        ("978300761", "978300761::", ["line 2", "5 fields instead of 4", "remove"]),
        ("::", "\t", ["line 1", "there is no '::'"]),
        ("::", ",", ["line 1", "there is no '::'"]),
        ("::", ":", ["line 1", "there is no '::'"]),
        ("7::99", "7:99", ["line 2", "only 3 of 4 fields"]),
        ("7::99", "7:1:99", ["line 2", "only 3 of 4 fields"]),
        ("99", "ninety", ["line 2", "column movie", "'ninety'", "a whole number"]),
        ("99", "99.5", ["line 2", "column movie", "'99.5'", "a whole number"]),
        ("99", "", ["line 2", "column movie", "''", "a whole number"]),
        ("99", " 99", ["line 2", "column movie", "' 99'", "a whole number"]),
        ("99", "1e2", ["line 2", "column movie", "'1e2'", "a whole number"]),
        ("7::99", "0::99", ["line 2", "column user", "from 1"]),
        ("7::99", "-7::99", ["line 2", "column user", "from 1"]),
        ("99", "9" * 30, ["line 2", "column movie"]),
        ("::5::", "::6::", ["line 3", "column rating", "6", "from 0.5 to 5 in steps of 0.5"]),
        ("::5::", "::0::", ["line 3", "column rating", "0", "from 0.5 to 5"]),
        ("::5::", "::4.7::", ["line 3", "column rating", "4.7", "in steps of 0.5"]),
        ("::5::", "::nan::", ["line 3", "column rating", "'nan'", "a number"]),
        ("::5::", "::inf::", ["line 3", "column rating", "'inf'", "a number"]),
        ("99", "42", ["line 2", "user 7 has already rated movie 42 in line 1", "keep one"]),
        ("978300761", "-978300761", ["line 2", "column timestamp", "seconds since 1970"]),
        ("978300761", "0", ["line 2", "column timestamp", "seconds since 1970"]),
        ("978300761", "978300761000", ["line 2", "column timestamp", "seconds since 1970"]),
        ("978300761", "9" * 40, ["line 2", "column timestamp"]),
        ("8::42", "８::42", ["line 3", "not plain ASCII"]),
        ("7::42", "\ufeff7::42", ["line 1", "not plain ASCII"]),
        ("8::42", "8\0::42", ["line 3", "not plain ASCII"]),
    ],
)
def test_a_bad_line_of_ratings_dat(tmp_path, old, new, words):
    write(tmp_path, DAT.replace(old, new).encode())
    fails(lambda: read_movielens(tmp_path), str(tmp_path / "ratings.dat"), *words)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("userId,", "", ["line 1", "not the header", "userId,movieId,rating,timestamp"]),
        ("userId", "\ufeffuserId", ["line 1", "not plain ASCII"]),
        ("7,99", "7;99", ["line 3", "only 3 of 4 fields"]),
        (",", ";", ["line 1", "not the header"]),
        ("0.5", "0.0", ["line 3", "column rating", "from 0.5 to 5 in steps of 0.5"]),
        ("0.5", "5.5", ["line 3", "column rating", "from 0.5 to 5"]),
        ("0.5", "0.7", ["line 3", "column rating", "0.7", "in steps of 0.5"]),
        ("978300761", "978300761,x", ["line 3", "5 fields instead of 4"]),
        ("99", "42", ["line 3", "already rated movie 42 in line 2"]),
        ("7,42,4.0,978300760\n7,99,0.5,978300761\n", "", ["holds no ratings"]),
    ],
)
def test_a_bad_line_of_ratings_csv(tmp_path, old, new, words):
    (tmp_path / "ratings.csv").write_text(CSV.replace(old, new), "UTF-8")
    (tmp_path / "movies.csv").write_text(CSV_MOVIES, "UTF-8")
    fails(lambda: read_movielens(tmp_path), str(tmp_path / "ratings.csv"), *words)


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-8-SIG"])
def test_ratings_in_another_encoding(tmp_path, encoding):
    write(tmp_path, DAT.encode(encoding))
    fails(lambda: read_movielens(tmp_path), "ratings.dat, line 1", "not plain ASCII", "save")


NASTY = st.text("0123456789:,.+-eE\"' \t\r\n\0#xé", max_size=4)


@given(line=st.integers(0, 4), at=st.integers(0, 30), cut=st.integers(0, 4), put=NASTY)
@settings(max_examples=400, deadline=None)
def test_a_spoiled_line_is_named_or_harmless(line, at, cut, put):
    """Cuts and inserts characters somewhere in one line of five."""
    rows = [(u, m, r, 978_300_000 + m) for u, m, r in zip(*[range(1, 6)] * 3, strict=True)]
    lines = ["::".join(map(str, row)) for row in rows]
    lines[line] = lines[line][:at] + put + lines[line][at + cut :]
    content = "\n".join(lines).encode() + b"\n"
    named = range(line + 1, line + 2 + len(re.findall("[\r\n]", put)))
    try:
        table = parse_ratings(content)
    except DataError as error:
        number = int(re.match(r"ratings, line (\d+)", str(error))[1])
        # A line that became a second rating of the same movie is named at the later of the two.
        assert number in named or f"in line {line + 1};" in str(error)
        return
    read = list(table.itertuples(index=False, name=None))
    kept = [row for i, row in enumerate(rows) if i != line]
    assert [row for row in read if row in kept] == kept
    # What was read of the spoiled line is what plain Python reads.
    plain = [re.split("::", text) for text in content.decode().splitlines() if text]
    assert read == [tuple(map(float, fields)) for fields in plain]


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["ratings.dat", "movies.dat"])
def test_a_missing_file(tmp_path, missing):
    write(tmp_path)
    (tmp_path / missing).unlink()
    fails(lambda: read_movielens(tmp_path), f"{tmp_path / missing} is missing", "unpack")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"   \n"])
@pytest.mark.parametrize("file", ["ratings.dat", "movies.dat"])
def test_an_empty_file(tmp_path, file, content):
    (write(tmp_path) / file).write_bytes(content)
    fails(lambda: read_movielens(tmp_path), f"{tmp_path / file} is empty", "download it again")


@pytest.mark.parametrize("path", ["empty", "nowhere"])
def test_a_folder_without_movielens(tmp_path, path):
    (tmp_path / "empty").mkdir()
    fails(lambda: read_movielens(tmp_path / path), str(tmp_path / path), "ratings.dat")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("99::Léon (1994)", "99", ["line 2", "expected movie id, title and genres"]),
        ("99::", "x::", ["line 2", "expected movie id"]),
        ("99::Léon (1994)::Crime|Drama\n", "", ["no line for movie 99", "the same zip"]),
    ],
)
def test_a_bad_movies_file(tmp_path, old, new, words):
    write(tmp_path, movies=DAT_MOVIES.replace(old, new))
    fails(lambda: read_movielens(tmp_path), str(tmp_path / "movies.dat"), *words)


@pytest.mark.parametrize("encoding, line", [("UTF-8-SIG", 1), ("UTF-16", 1)])
def test_movies_dat_in_another_encoding(tmp_path, encoding, line):
    write(tmp_path, movies=DAT_MOVIES.encode(encoding))
    fails(
        lambda: read_movielens(tmp_path),
        f"movies.dat, line {line}",
        "not in ISO-8859-1",
        "convert the file to ISO-8859-1",
    )


def test_movies_csv_in_another_encoding(tmp_path):
    (tmp_path / "ratings.csv").write_text(CSV, "UTF-8")
    (tmp_path / "movies.csv").write_text(CSV_MOVIES, "ISO-8859-1")
    fails(lambda: read_movielens(tmp_path), "movies.csv, line 2", "convert the file to UTF-8")


# --- Zips -------------------------------------------------------------------------------------


def encrypted():
    """A zip whose members are marked as encrypted."""
    content = bytearray(zipped())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 4)
    return bytes(content)


def bomb():
    """A zip that says of a small member that it unpacks to 3 GB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", DAT)
        archive.writestr("ml-1m/movies.dat", DAT_MOVIES)
        archive.infolist()[0].file_size = 3_000_000_000
    return buffer.getvalue()


def damaged():
    """A zip with one byte of a member changed."""
    content = bytearray(zipped())
    content[60] ^= 255
    return bytes(content)


@pytest.mark.parametrize(
    "content, words",
    [
        (zipped()[:-30], ["not a sound zip", "download it again"]),
        (zipped()[:100], ["not a sound zip", "download it again"]),
        (b"<html>Not found</html>", ["not a sound zip", "download it again"]),
        (b"", ["not a sound zip", "download it again"]),
        (damaged(), ["not a sound zip", "download it again"]),
        (encrypted(), ["is encrypted", "unpack it"]),
        (zipped({"../escaped.txt": "x"}), ["'../escaped.txt'", "outside its folder"]),
        (zipped({"ml-1m/../../escaped.txt": "x"}), ["outside its folder"]),
        (zipped({"/tmp/escaped.txt": "x"}), ["'/tmp/escaped.txt'", "outside its folder"]),
        (zipped({"C:\\escaped.txt": "x"}), ["outside its folder"]),
        (zipped({"..\\escaped.txt": "x"}), ["outside its folder"]),
        (bomb(), ["would unpack to 3,000,000,000 bytes", "another zip"]),
        (zipped({"ml-1m/ratings.dat": ""}), ["ratings.dat is empty"]),
        (zipped({"ml-1m/ratings.dat": DAT[:-5]}), ["ratings.dat, line 3", "timestamp"]),
    ],
    ids=lambda part: "zip" if isinstance(part, bytes) else part[0],  # a zip holds the time
)
def test_a_bad_zip(tmp_path, content, words):
    path = tmp_path / "ml-1m.zip"
    path.write_bytes(content)
    before = everything_in(tmp_path)
    fails(lambda: read_movielens(path), str(path), *words)
    assert everything_in(tmp_path) == before


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    fails(lambda: read_movielens(tmp_path / "other.zip"), "holds no MovieLens")


def test_a_real_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST_UNPACKED", 1_000_000)
    (tmp_path / "ml-1m.zip").write_bytes(zipped({"ml-1m/ratings.dat": b"0" * 2_000_000}))
    fails(lambda: read_movielens(tmp_path / "ml-1m.zip"), "would unpack to 2,000,0")


# --- The folder you name ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "ml-1m", "ml-latest-small"])
@pytest.mark.parametrize("place", ["empty", "nowhere"])
def test_a_named_folder_without_data_is_an_error(tmp_path, monkeypatch, capsys, name, place):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("STATEFUL_TFF_DATA", str(tmp_path / place))
    fails(lambda: load_ratings(name), "STATEFUL_TFF_DATA", str(tmp_path / place), "synthetic")
    assert capsys.readouterr().out == ""


def test_a_named_folder_with_another_release(tmp_path, monkeypatch):
    write(tmp_path / "ml-1m")
    for place in (tmp_path, tmp_path / "ml-1m"):
        monkeypatch.setenv("STATEFUL_TFF_DATA", str(place))
        fails(lambda: load_ratings("ml-latest-small"), "holds no ml-latest-small")


def test_bad_data_in_a_named_folder_is_not_replaced_by_synthetic(tmp_path, monkeypatch):
    write(tmp_path / "ml-1m", DAT[:30])
    monkeypatch.setenv("STATEFUL_TFF_DATA", str(tmp_path))
    fails(lambda: load_ratings("auto"), "ratings.dat, line 2")


# --- Downloads --------------------------------------------------------------------------------

OFFICIAL = zipped()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the test says in `server.behaviour`, and counts."""

    def do_GET(self):
        self.server.requests += 1
        behaviour = self.server.behaviour
        if behaviour == "404":
            self.send_error(404)
        elif behaviour == "silent":
            self.server.end.wait(10)
        elif behaviour == "stops":
            self.start(OFFICIAL)
            self.wfile.write(OFFICIAL[: len(OFFICIAL) // 2])
            self.wfile.flush()
            self.server.end.wait(10)
        else:
            content = OFFICIAL + b"x" if behaviour == "altered" else OFFICIAL
            self.start(content)
            self.wfile.write(content[: len(content) // 2] if behaviour == "halfway" else content)

    def start(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine in the place of GroupLens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("STATEFUL_TFF_PROGRESS", "0")
    monkeypatch.delenv("STATEFUL_TFF_DATA", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.behaviour, server.requests, server.end = "whole", 0, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    monkeypatch.setattr(grouplens, "_SERVER", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(grouplens, "_TIMEOUT", (0.5, 0.3))
    monkeypatch.setattr(movielens, "_unreachable", {})
    checksum = "sha256:" + hashlib.sha256(OFFICIAL).hexdigest()
    release = attrs.evolve(releases.RELEASES["ml-1m"], checksum=checksum)
    monkeypatch.setitem(releases.RELEASES, "ml-1m", release)
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_is_kept_and_used_again(server, tmp_path, capfd):
    for _ in range(2):
        ratings = load_ratings("ml-1m", cache_dir=tmp_path)
        assert ratings.name == "movielens" and len(ratings) == 3
    assert server.requests == 1
    assert everything_in(tmp_path) == {tmp_path / "ml-1m.zip": OFFICIAL}
    assert load_ratings("auto", cache_dir=tmp_path).table.equals(ratings.table)
    assert "Notice" not in capfd.readouterr().out


def test_a_spoiled_file_in_the_cache_is_replaced(server, tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(OFFICIAL[:50])
    assert download("ml-1m", tmp_path).read_bytes() == OFFICIAL
    assert list(everything_in(tmp_path)) == [tmp_path / "ml-1m.zip"]


@pytest.mark.parametrize(
    "behaviour, words",
    [
        ("404", ["answer 404"]),
        ("silent", ["no answer in time"]),
        ("stops", ["the connection failed or broke off"]),
        ("halfway", ["the connection failed or broke off"]),
        ("altered", ["not the official file", "checksum"]),
    ],
)
def test_a_failed_download_leaves_nothing(server, tmp_path, behaviour, words):
    server.behaviour = behaviour
    url = f"{grouplens._SERVER}ml-1m.zip"
    fails(lambda: load_ratings("ml-1m", cache_dir=tmp_path), url, "STATEFUL_TFF_DATA", *words)
    assert everything_in(tmp_path) == {}
    server.behaviour = "whole"  # asked for by name, the next try is a real one
    assert len(load_ratings("ml-1m", cache_dir=tmp_path)) == 3


def test_a_server_that_is_not_there(server, tmp_path, monkeypatch):
    monkeypatch.setattr(grouplens, "_SERVER", "http://127.0.0.1:1/")
    fails(lambda: download("ml-1m", tmp_path), "http://127.0.0.1:1/ml-1m.zip", "failed")
    assert everything_in(tmp_path) == {}


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    fails(lambda: download("ml-1m", tmp_path / "file"), str(tmp_path / "file"), "cannot store")


def test_auto_falls_back_once_with_a_notice(server, tmp_path, capfd):
    server.behaviour = "404"
    first, second = (load_ratings("auto", cache_dir=tmp_path) for _ in range(2))
    assert first.name == second.name == "synthetic"
    assert server.requests == 1  # the second call does not wait again
    out, err = capfd.readouterr()
    assert out.count("Notice: ") == 2 and "answer 404" in out
    assert len(out.strip().splitlines()) == 2 and err == ""


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pooch.core.hash_matches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download("ml-1m", tmp_path)
    assert everything_in(tmp_path) == {}
