"""Recorded results are read as they were written, and a missing file is told in words."""

import json

import pytest

from stateful_tff import recorded

FILES = sorted((recorded.ROOT / "book" / "results").glob("*.jsonl"))
FIELDS = {"data", "protocol", "method", "metric", "value", "commit", "date"}


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_recorded_result_says_what_it_is(file):
    table = recorded.results(f"book/results/{file.name}")
    assert len(table) == len(file.read_text().splitlines()) > 0
    assert set(table) >= FIELDS
    assert not table[sorted(FIELDS)].isna().any().any()


def test_there_are_recorded_results():
    assert FILES
    assert all(json.loads(line) for line in FILES[0].read_text().splitlines())


@pytest.mark.parametrize("folder, maker", [("benchmarks", "make bench"), ("book", "make results")])
def test_a_missing_file_names_the_command_that_makes_it(folder, maker):
    with pytest.raises(FileNotFoundError, match=f"nothing.jsonl is missing; `{maker}` writes it"):
        recorded.results(f"{folder}/results/nothing.jsonl")
