"""Recorded results are read as they were written, and a missing file is told in words."""

import json
import re
import shutil
from pathlib import Path

import pytest

from experiments.record import Recorder, data_checksum
from stateful_tff import recorded
from stateful_tff.data import synthetic_ratings

ROOT = Path(__file__).parents[2]
STUDIES = {path.stem for path in (ROOT / "experiments" / "studies").glob("*.py")}
FILES = sorted((ROOT / recorded.FOLDER).glob("*.jsonl"))
FIELDS = {"data", "protocol", "method", "metric", "value"}
STAMP = {"commit", "date"}


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_recorded_result_says_what_it_is(file):
    table = recorded.results(file.stem)
    needed = sorted(STAMP | FIELDS if file.stem in STUDIES else STAMP)
    assert len(table) == len(file.read_text().splitlines()) > 0
    assert set(table) >= set(needed)
    if "diverged" in table:  # an arm without a value says why
        table = table[~table["diverged"].fillna(False).astype(bool)]
    assert not table[needed].isna().any().any()


def test_what_chapters_print_is_recorded():
    code = "".join(path.read_text("utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))
    printed = {name for name in STUDIES if f'\\"{name}\\"' in code}
    assert printed and printed <= {file.stem for file in FILES}
    assert all(json.loads(line) for line in FILES[0].read_text().splitlines())


def test_results_say_what_they_were_recorded_on():
    text = recorded.origin(recorded.results("who_gains"))
    assert "ml-1m, checksum fe49622134ab\n(not the official file: 73.7% of its time" in text
    assert "synthetic, checksum" in text and text.splitlines()[-1].startswith("commit ")
    with pytest.raises(ValueError, match="no columns commit and date"):
        recorded.origin(recorded.results("who_gains")[["value"]])
    with pytest.raises(TypeError, match="Give a table of results"):
        recorded.origin([1])


CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PAGE = (ROOT / "book" / "execution_status.md").read_text("utf-8")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_a_chapter_that_prints_a_study_says_what_it_was_recorded_on(chapter):
    cells = json.loads(chapter.read_text("utf-8"))["cells"]
    code = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    for name in re.findall(r'results\("(\w+)"\)', code):
        assert f"`{name}`" in PAGE, f"the page on execution does not list {name}"
        if name not in {file.stem for file in FILES}:  # the chapter says how to record it
            continue
        table = recorded.results(name)
        if "data_checksum" in table and table["data_checksum"].isin(recorded.COPIES).any():
            assert "origin(" in code


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book with one study, one recorded result and a folder far below; we are there."""
    (tmp_path / "experiments" / "studies").mkdir(parents=True)
    (tmp_path / "experiments" / "studies" / "missing_study.py").touch()
    (tmp_path / recorded.FOLDER).mkdir()
    (tmp_path / recorded.FOLDER / "there.jsonl").write_text('{"value": 7}\n')
    below = tmp_path / "notebooks" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return tmp_path


def test_results_are_found_above_the_current_folder(book):
    assert recorded.results("there")["value"].tolist() == [7]


def test_results_are_found_above_the_package_where_the_current_folder_has_none(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert recorded.folder() == ROOT / recorded.FOLDER


@pytest.mark.parametrize(
    ("name", "maker"), [("missing_study", "make results"), ("missing", "make bench")]
)
def test_a_missing_file_names_the_command_that_records_it(book, name, maker):
    told = f"{name}.jsonl is missing; `{maker}` records it, .* \\(recorded: there\\)"
    with pytest.raises(FileNotFoundError, match=told):
        recorded.results(name)


def test_outside_of_the_book_one_sentence_says_so(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "stateful_tff"
    package.mkdir(parents=True)
    shutil.copy(recorded.__file__, package)
    monkeypatch.setattr(recorded, "__file__", str(package / "recorded.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="work in a copy of the whole book"):
        recorded.results("convergence")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.record.RESULTS", tmp_path)
    (tmp_path / "one.jsonl").write_text('{"name": "old"}\n{"name": "older"}\n')
    return tmp_path


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_recorder_replaces_the_last_results_at_the_end(results, capsys):
    ratings = synthetic_ratings(num_users=30, num_items=40)
    recorder = Recorder("one", ratings)
    recorder.write(name="new", value=1 / 3)
    assert [row["name"] for row in rows(results / "one.jsonl")] == ["old", "older"]
    recorder.finish()
    (row,) = rows(results / "one.jsonl")
    assert row["value"] == 0.33333 and row["data_checksum"] == data_checksum(ratings)
    assert list(row)[-4:] == ["data_checksum", "commit", "date", "machine"]
    assert recorder.rows == [row]
    assert [path.name for path in results.iterdir()] == ["one.jsonl"]


def test_a_recorder_keeps_the_lines_it_is_told_to_keep(results, capsys):
    recorder = Recorder("one", keep=lambda row: row["name"] == "older")
    recorder.write(name="new")
    recorder.finish()
    assert [row["name"] for row in rows(results / "one.jsonl")] == ["older", "new"]


def test_the_checksum_names_the_very_ratings():
    one, same, other = (synthetic_ratings(num_users=30, num_items=40, seed=s) for s in (0, 0, 1))
    assert data_checksum(one) == data_checksum(same) != data_checksum(other)
    assert len(data_checksum(one)) == 12
