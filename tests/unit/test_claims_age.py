"""What chapter 9 says of recorded results holds in them: every number, sign and interval."""

import json
from pathlib import Path

import pytest

from stateful_tff.evaluation.paired import SMALLEST_EFFECT
from stateful_tff.recorded import results

ROOT = Path(__file__).parents[2]
CHAPTER = json.loads((ROOT / "notebooks/09_participation_and_staleness.ipynb").read_text("utf-8"))
TEXT = " ".join(
    " ".join("".join(cell["source"]).split())
    for cell in CHAPTER["cells"]
    if cell["cell_type"] == "markdown"
)


def says(words):
    """Fails if the chapter's text does not hold these words."""
    assert words in TEXT, f"chapter 9 does not say: {words}"


@pytest.fixture(scope="module")
def kept_minus_forgotten():
    """Returns a function from passes in a visit and before serving to the recorded difference."""
    rows = results("information_or_cache").query("metric == 'rmse difference' and part == 'passes'")
    rows = rows.set_index("method")

    def row(visit, serving):
        name = f"{visit} passes in a visit, {serving} before serving"
        assert rows.loc[f"kept, {name}", "minus"] == f"forgotten, {name}"
        return rows.loc[f"kept, {name}"]

    return row


def test_with_local_work_the_kept_state_is_worse_by_less_than_the_smallest_effect(
    kept_minus_forgotten,
):
    six, solved = kept_minus_forgotten(3, 6), kept_minus_forgotten(3, "solved")
    for row in (six, solved):
        assert 0 < row["low"] and row["high"] < SMALLEST_EFFECT
        assert row["verdict"] == "no difference" and len(row["by_seed"]) == 5
    says(f"is *worse* than the forgotten one by {six['value']:.4f} stars")
    says(f"and with the exact solution by {solved['value']:.4f}.")
    says(f"both lie below {SMALLEST_EFFECT} stars")
    says(f"differ by less than {SMALLEST_EFFECT} stars")
    says(f"end {solved['value']:.4f} stars above 1,000 rounds with forgotten ones")


def test_the_kept_state_stands_in_for_local_work_that_nobody_does(kept_minus_forgotten):
    one_pass, no_visit = kept_minus_forgotten(3, 1), kept_minus_forgotten(0, "solved")
    for row in (one_pass, no_visit):
        assert row["high"] < -SMALLEST_EFFECT and row["verdict"] == "better"
    says(f"{-one_pass['value']:.3f} stars where one pass is all a client gets before serving")
    says(f"{-no_visit['value']:.3f} with exact serving where a visit has no passes of its own")
