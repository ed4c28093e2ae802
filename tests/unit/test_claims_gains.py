"""What chapter 10 says of MovieLens-1M is what is recorded: each sentence has its interval."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from experiments.record import ROOT
from stateful_tff.evaluation.paired import SMALLEST_EFFECT
from stateful_tff.recorded import results

CHAPTER = json.loads((ROOT / "notebooks" / "10_who_gains.ipynb").read_text("utf-8"))
TEXT = "\n".join("".join(c["source"]) for c in CHAPTER["cells"] if c["cell_type"] == "markdown")
RESULTS = results("who_gains")
ROWS = RESULTS[RESULTS["data"] == "ml-1m"]
WHY = results("why_forgetting_helps")
# A sentence, the result it speaks of, and where that result's interval has to lie: above zero,
# below it, around it, or within the smallest effect of interest.
CLAIMS = [
    (
        "keeping it is no help: at equal settings the arm that forgets does better",
        {"protocol": "seen", "metric": "rmse difference", "method": "kept", "minus": "forgotten"},
        "up",
    ),
    (
        "a prior made of the kept sides serves a newcomer with ten ratings better than a few steps "
        "from the first state",
        {
            "protocol": "new users",
            "metric": "rmse difference",
            "method": "prior, mean and covariance",
            "minus": "a few passes",
            "ratings": 10,
        },
        "down",
    ),
    (
        "In stars the users who are hardest to predict gain most",
        {
            "protocol": "seen, groups",
            "metric": "stars, last minus first",
            "trait": "tenth by error in training",
            "method": "kept",
            "minus": "biases only",
        },
        "up",
    ),
    (
        "they gain more in percent of their error, too",
        {
            "protocol": "seen, groups",
            "metric": "percent, last minus first",
            "trait": "tenth by error in training",
            "method": "kept",
            "minus": "biases only",
        },
        "up",
    ),
    (
        "Its RMSE is lower",
        {"protocol": "seen", "metric": "rmse difference", "method": "kept", "minus": "biases only"},
        "down",
    ),
    (
        "Serving the kept side as it is makes no difference of .002 stars",
        {
            "protocol": "seen",
            "metric": "rmse difference",
            "method": "kept, as it is",
            "minus": "kept",
        },
        "none",
    ),
    (
        "Shrunk gains of one half foretell the other half better than raw ones",
        {
            "protocol": "seen, noise",
            "metric": "squared error of shrunk minus raw",
            "method": "kept",
            "minus": "biases only",
        },
        "down",
    ),
    (
        "they foretell better than the mean of all users, too, but hardly",
        {
            "protocol": "seen, noise",
            "metric": "squared error of shrunk minus mean",
            "method": "kept",
            "minus": "biases only",
        },
        "down",
    ),
    (
        "under 18 (+3.4)",
        {
            "protocol": "seen, groups",
            "metric": "percent, minus others",
            "trait": "age",
            "method": "kept",
            "minus": "biases only",
            "group": "under 18",
        },
        "up",
    ),
    (
        "50 to 55 (-1.8)",
        {
            "protocol": "seen, groups",
            "metric": "percent, minus others",
            "trait": "age",
            "method": "kept",
            "minus": "biases only",
            "group": "50 to 55",
        },
        "down",
    ),
    (
        "the difference cannot be told from zero",
        {
            "protocol": "seen, groups",
            "metric": "percent, minus others",
            "trait": "gender",
            "method": "kept",
            "minus": "biases only",
            "group": "women",
        },
        "open",
    ),
    (
        "no difference of .002 stars",
        {"protocol": "seen", "metric": "rmse difference", "method": "the rule", "minus": "kept"},
        "none",
    ),
    (
        "neither clearly have gained nor lost",
        {
            "protocol": "seen, rule",
            "metric": "gain of the refused",
            "method": "kept",
            "minus": "biases only",
        },
        "open",
    ),
    (
        "vectors and baseline cannot be told apart",
        {
            "protocol": "new users",
            "metric": "rmse difference",
            "method": "prior, mean and covariance",
            "minus": "biases only",
            "ratings": 0,
        },
        "open",
    ),
    (
        "and not its mean alone",
        {
            "protocol": "new users",
            "metric": "rmse difference",
            "method": "prior, mean and covariance",
            "minus": "prior, mean and one variance",
            "ratings": 10,
        },
        "down",
    ),
]


@pytest.mark.parametrize(("sentence", "fields", "where"), CLAIMS, ids=[c[0] for c in CLAIMS])
def test_the_interval_carries_the_sentence(sentence, fields, where):
    assert sentence in TEXT
    rows = ROWS
    for name, value in fields.items():
        rows = rows[rows[name] == value]
    (row,) = rows.to_dict("records")
    assert row["low"] <= row["value"] <= row["high"]
    within = max(abs(row["low"]), abs(row["high"])) < SMALLEST_EFFECT
    assert {
        "up": row["low"] > 0,
        "down": row["high"] < 0,
        "open": row["low"] <= 0 <= row["high"],
        "none": within,
    }[where]


def test_every_value_with_an_interval_is_a_recorded_one():
    number = r"([+-]?\d+\.\d+)"
    found = re.findall(rf"{number} \({number} to {number}\)", TEXT)
    assert len(found) > 15
    both = pd.concat([ROWS, WHY])[["value", "low", "high"]].dropna().to_numpy(float)
    recorded = np.concatenate([both, -both[:, [0, 2, 1]]])  # a difference the other way
    for triple in found:
        digits = len(triple[0].partition(".")[2])
        apart = abs(recorded - [float(text) for text in triple]).max(axis=1)
        assert apart.min() <= 0.51 * 10**-digits, triple


def test_the_primary_endpoints_are_recorded_for_five_seeds():
    pairs = [("kept", "biases only"), ("kept", "forgotten"), ("the rule", "kept")]
    for method, minus in pairs:
        row = ROWS[
            (ROWS["protocol"] == "seen")
            & (ROWS["method"] == method)
            & (ROWS["minus"] == minus)
            & (ROWS["metric"] == "rmse difference")
        ]
        assert len(row) == 1 and len(row["by_seed"].iloc[0]) == 5


def why(change, part="test"):
    """Kept minus forgotten under a change, on test or training ratings."""
    rows = WHY[(WHY["change"] == change) & (WHY["protocol"] == f"seen, time, {part}")]
    return rows[rows["metric"] == "rmse difference"].iloc[0]


def test_forgetting_helps_as_early_stopping_does():
    base = why("as in chapter 10")
    assert base["low"] > SMALLEST_EFFECT and why("as in chapter 10", "training")["high"] < -0.03
    assert max(abs(why("300 rounds")["low"]), why("300 rounds")["high"]) < SMALLEST_EFFECT
    assert why("penalty .08")["high"] < -SMALLEST_EFFECT
    assert all(len(row) == 2 for row in WHY["by_seed"].dropna())
    for words in ("two seeds", "the kept arm is *ahead*", "the kept arm leads"):
        assert words in TEXT
