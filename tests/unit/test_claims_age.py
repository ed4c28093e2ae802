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
    says(f"end {solved['value']:.4f} stars above 1,000 rounds with forgotten ones")


def test_the_kept_state_stands_in_for_local_work_that_nobody_does(kept_minus_forgotten):
    one_pass, no_visit = kept_minus_forgotten(3, 1), kept_minus_forgotten(0, "solved")
    for row in (one_pass, no_visit):
        assert row["high"] < -SMALLEST_EFFECT and row["verdict"] == "better"
    says(f"{-one_pass['value']:.3f} stars where one pass is all a client gets before serving")
    says(f"{-no_visit['value']:.3f} with exact serving where a visit has no passes of its own")


def signed(value):
    """A difference as the chapter prints it, with a minus sign of its own."""
    return f"{value:+.4f}".replace("-", "−")


def with_interval(row):
    return f"{signed(row['value'])} ({signed(row['low'])} to {signed(row['high'])})"


@pytest.fixture(scope="module")
def excess():
    """Returns a function from age and way of serving to what is recorded of kept minus solved."""
    rows = results("age_of_state").query("setting == 'primary' and seeds == 20")
    rows = rows.set_index(["metric", "group", "control", "passes", "age"])

    def row(age, metric="excess", group="away", control="solved", passes=0):
        return rows.loc[(metric, group, control, passes, age)]

    return row


def test_the_primary_endpoint_is_a_fall_in_each_seed_and_under_both_controls(excess):
    growth = excess(500, "growth since age 0")
    best = excess(500, "growth since age 0", control="solved, as served")
    for row in (growth, best):
        assert row["high"] < -SMALLEST_EFFECT and row["verdict"] == "better"
        assert len(row["by_seed"]) == 20 and max(row["by_seed"]) < 0
    says(f"The growth is {with_interval(growth)}, below zero in each seed")
    says(f"the penalties that serve best the growth is {with_interval(best)}")


def test_the_excess_changes_its_sign_since_the_solution_gets_worse_faster(excess):
    start, end = excess(0), excess(500)
    assert start["low"] > 0 and end["high"] < 0
    change = f"{signed(start['value'])} stars at age 0 to {signed(end['value'])} at age 500"
    says(f"Kept minus solved goes from {change}")
    says(f"the excess falls from {change}")
    says(f"lies {signed(start['value'])} stars from the exact solution on the day of its")
    says(f"and {signed(end['value'])} after 500 rounds without its client")
    says(f"of the kept state goes from {start['rmse']:.4f} to {end['rmse']:.4f}")
    solved = "rmse_control"
    says(f"that of the solution from {start[solved]:.4f} to {end[solved]:.4f}")
    assert end[solved] - start[solved] > end["rmse"] - start["rmse"] > 0
    others = dict(group="never away")
    assert excess(500, **others)[solved] > excess(0, **others)[solved]  # worse for them as well


def test_states_that_train_on_fall_less_and_six_passes_make_old_states_worse(excess):
    growth = excess(500, "growth since age 0", group="never away")
    assert growth["high"] < 0
    assert growth["low"] > excess(500, "growth since age 0")["high"]
    says(f"their growth is {with_interval(growth)}")
    passed = excess(500, passes=6)
    assert passed["low"] > excess(500)["high"]
    says(f"at age 500 they leave the away group at {signed(passed['value'])}")


def test_with_frozen_items_nothing_grows_old():
    rows = results("age_of_state").query("setting == 'items frozen' and group == 'away'")
    rows = rows.query("metric == 'growth since age 0' and passes == 0")
    assert len(rows) and not rows[["value", "low", "high"]].any().any()
    says("with frozen items the growth is zero")


AXES = {
    "a tenth of the rate": "A tenth of the rate moves the items less: {}",
    "cohort 300": "Cohorts of 300 make it {}",
    "cohort 30": "of 30 {}",
    "8 factors": "8 factors {}",
    "constant rate": "a constant rate from the start {}",
    "penalty .02": "with a penalty of 0.02 it is {}",
}


@pytest.mark.parametrize("setting", AXES)
def test_each_axis_is_read_out_with_its_interval(setting):
    rows = results("age_of_state").query("setting == @setting and group == 'away' and passes == 0")
    assert (rows["seeds"] == 3).all()
    rows = rows[rows["control"] == "solved"].set_index(["metric", "age"])
    growth = rows.loc[("growth since age 0", 500)]
    says(AXES[setting].format(with_interval(growth)))
    turned = setting == "penalty .02"
    assert growth["low"] > 0 if turned else growth["high"] < 0
    young, old = rows.loc[("excess", 0)], rows.loc[("excess", 500)]
    if turned:
        assert young["high"] < 0 and old["high"] < 0
        says(f"is {-young['value']:.4f} stars *better* than it at age 0")
        says(f"after 500 rounds {-old['value']:.4f} of that is left")
