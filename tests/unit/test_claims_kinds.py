"""What chapter 13 says of kinds of state is what is recorded, and each case was said before."""

import json
import re
from pathlib import Path

import pytest

from stateful_tff.evaluation.clients import SMALLEST_DIFFERENCE
from stateful_tff.recorded import results

ROOT = Path(__file__).parents[2]
CELLS = json.loads((ROOT / "notebooks/13_ways_to_be_personal.ipynb").read_text("utf-8"))["cells"]
TEXT = next("".join(c["source"]) for c in CELLS if c["id"] == "13a00041").partition("##")[0]
ROWS = results("kinds_of_state")
ROWS = ROWS[ROWS["metric"] == "error difference"]
# Kind, change and moment of each case that the text reads out: does it cost, and was that said?
CASES = {
    ("a linear head", "dropped", "after 1 own passes"): (True, True),
    ("a linear head", "dropped", "after 50 own passes"): (False, True),
    ("a body", "dropped", "after 50 own passes"): (False, False),
    ("a body", "dropped", "after 10 rounds"): (True, False),
    ("a whole model", "swapped", "after 10 rounds"): (True, False),
    ("a mixing weight", "swapped", "at once"): (True, True),
    ("the gradient at the end", "swapped", "after 10 rounds"): (False, False),
    ("moments", "swapped", "after 10 rounds"): (False, False),
    ("statistics", "swapped", "at once"): (True, True),
    ("statistics", "aged", "at once"): (True, False),
}


def row(kind, change, moment):
    """The recorded cost of a change."""
    found = ROWS[(ROWS["kind"] == kind) & (ROWS["change"] == change) & (ROWS["moment"] == moment)]
    return found.iloc[0] if len(found) == 1 else pytest.fail(f"{len(found)} rows")


@pytest.mark.parametrize("case", CASES, ids=map(", ".join, CASES))
def test_each_case_costs_what_the_chapter_says(case):
    costs, as_said = CASES[case]
    found = row(*case)
    assert len(found["by_seed"]) == 5
    assert found["low"] > SMALLEST_DIFFERENCE if costs else found["high"] < SMALLEST_DIFFERENCE
    assert (found["expected"] == ("costs" if costs else "costs nothing")) == as_said
    shown = [f"{100 * found[name]:.1f}" for name in ("value", "low", "high")]
    assert re.search(rf"{shown[0]}(?: points)? \({shown[1]} to {shown[2]}\)", TEXT), shown


def test_every_recorded_kind_has_a_case_of_each_sort():
    for kind, rows in ROWS.groupby("kind"):
        assert set(rows["expected"]) >= {"costs", "costs nothing"}, kind


def test_what_steers_costs_nothing_at_once_and_scaffold_is_not_stable_here():
    steers = ROWS[ROWS["kind"].isin(["a control variate", "the gradient at the end", "moments"])]
    assert not steers[steers["moment"] == "at once"][["value", "low", "high"]].any().any()
    assert row("a control variate", "swapped", "at once")["kept"] > 0.35
