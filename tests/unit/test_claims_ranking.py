"""What chapter 14 says of the recorded table of methods: each number, and the sign of each pair."""

import pytest

from stateful_tff.recorded import results

TABLE = results("ranking_methods")
RUNS = TABLE[TABLE["seed"].notna()]
PAIRS = TABLE[TABLE["metric"] == "NDCG@10 of all, difference"].set_index(["method", "minus"])
FCF = "FCF, scaled"


@pytest.mark.parametrize(
    "method, metric, said, places",
    [
        (FCF, "NDCG@10 of all", 0.044, 3),
        ("iALS", "NDCG@10 of all", 0.043, 3),
        (FCF, "HR@10 of all", 0.089, 3),
        ("popularity", "HR@10 of all", 0.046, 3),
        (FCF, "HR@10 of 99", 0.694, 3),
    ],
)
def test_means_that_are_said(method, metric, said, places):
    found = RUNS[(RUNS["method"] == method) & (RUNS["metric"] == metric)]["value"].astype(float)
    assert len(found) >= 3
    assert round(found.mean(), places) == said


def test_federated_als_is_where_als_in_one_place_is():
    pair = PAIRS.loc[(FCF, "iALS")].iloc[0]
    assert (round(pair["low"], 4), round(pair["high"], 4)) == (-0.0003, 0.0011)
    assert pair["verdict"] == "undecided"
    assert PAIRS.loc[(FCF, "popularity")].iloc[0]["low"] > 0
    ease = PAIRS.loc[("EASE", "iALS")].iloc[0]
    assert ease["low"] > 0 and round(ease["value"], 3) == 0.012


def test_a_lost_state_of_federated_als_comes_back_with_one_visit():
    lost = PAIRS.loc[(FCF, "kept")]
    assert sorted(lost["visits"]) == [1, 5, 20]
    assert lost["value"].nunique() == 1 and round(lost["value"].iloc[0], 4) == -0.0002
    assert (lost["low"] < 0).all() and (lost["high"] > 0).all()


def test_what_a_client_of_federated_als_keeps_and_sends():
    runs = RUNS[RUNS["method"] == FCF]
    assert runs["bytes_kept"].max() == 128
    assert round(runs["bytes_sent"].max() / 1000) == 21
