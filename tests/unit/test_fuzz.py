"""Odd values in place of arguments: a right result, or one sentence of ours.

The whole of it is `python -m experiments.fuzz`; here hypothesis draws from the same calls.
"""

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stateful_tff
from experiments.fuzz import calls, run
from experiments.fuzz.values import ODD, whole

ROOMS = ("checks", "training", "methods", "evaluation")
TRIED = [
    (call, argument)
    for call in calls.CALLS
    if call.room in ROOMS
    for argument, (_, kind) in call.arguments.items()
    if not kind.is_object
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(TRIED), st.sampled_from(sorted(ODD)))
def test_a_value_ends_in_a_result_or_in_a_sentence(tried, value):
    call, argument = tried
    result, said = run.outcome(call, argument, value, seconds=30)
    assert result in ("sentence", "works"), f"{call.name}({argument}={value}) {result} {said}"


def test_the_outcomes_are_told_apart():
    def odd(value):
        if value == 1:
            stateful_tff.checks.whole_number("value", "x")
        if value == 2:
            return {}["raw"]
        return value

    call = run.Call("here", "odd", odd, {"value": (lambda: 5, whole(5))})
    assert [run.outcome(call, "value", v, 5)[0] for v in ("1", "2", "0", "10**6")] == [
        "sentence", "raw: value", "taken", "works",
    ]  # fmt: skip


# What has no odd values of its own: containers, what runs inside a graph or is made by others,
# and what has tests of its own kind.
EXCUSED = {
    "state": "containers",
    "colab": "tried through its kernels",
    "runtime": "TFF's own objects",
    "session": "has no values but a timeout",
    "plots": "matplotlib's arguments",
}
PARTS_OF_A_ROUND = {
    *("GraphFunction", "number_of_parts", "flatten", "flat_types", "unflatten"),  # of the engines
    *("part_work", "Rows", "item_rows", "user_rows", "separate", "Batches", "batches_of"),
    *("Epoch", "epoch", "Pass", "local_steps", "Shard", "shard_type", "sums_of", "finished"),
    *("RoundFunctions", "visited", "trace_round", "placed", "FederatedProcess", "stacked_type"),
    *("types_sent_to_server", "weighted", "weighted_mean", "first_state_fn", "model_types"),
    *("client_datasets", "Executors", "launch", "Worker", "Workers", "Channel", "Call"),
    *("work_of_a_part", "Method", "UsersAtServer", "difference", "client_update"),
    *("server_update", "keep_local_weights", "keep_optimizer_state", "global_weights", "specs"),
    *("initial_state", "with_own_rates", "plain_rate", "step_in_place", "SomeWeights"),
    *("InPhases", "first_visit", "TouchedRows", "one_table_size", "update_touched_rows"),
    *("Trained", "trained_ones", "VariableTrainer", "PaddedBatches", "FunctionalTrainer"),
    *("DatasetsByClient", "Layout", "RatingsFiles", "Release", "as_path", "download", "find"),
    *("has_fractions", "order_in_time", "parse_movies", "parse_ratings", "read_table"),  # files
    *("generators", "cuts", "split_by_part"),
    *("recognize", "sentences", "sorted_table", "initializer_of", "Weighted", "checked_solve"),
    *(
        "LeaveOneOut",
        "SeenAndUnseen",
        "Factors",
        "Biases",
        "PairedDifference",
        "UserErrors",
        "OverSeeds",
    ),
    *("MatrixFactorizationModel", "VariableFunctionalModel", "build_server_broadcast_message"),
    *("whole_model", "keep_whole_model", "train_whole", "toward", "shared", "equally", "zeros"),
    "checked_strength",
    *(
        "keep_zeros",
        "halves",
        "predicting_weights",
        "Classifier",
        "strength_at",
        "normalization",
        "normalized",
    ),
}


def public_functions():
    for module in pkgutil.walk_packages(stateful_tff.__path__, "stateful_tff."):
        room = module.name.split(".")[1]
        if room in EXCUSED:
            continue
        for name, value in vars(import_module(module.name)).items():
            known = inspect.isfunction(value) or inspect.isclass(value)
            if known and not name.startswith("_") and value.__module__ == module.name:
                if not (inspect.isclass(value) and issubclass(value, Exception)):
                    yield room, name


@pytest.mark.parametrize("room", ["data", "models", "methods", "evaluation", "training"])
def test_every_public_function_is_tried(room):
    text = Path(calls.__file__).read_text("utf-8")
    names = {name for found, name in public_functions() if found == room} - PARTS_OF_A_ROUND
    missing = sorted(name for name in names if name not in text)
    assert missing == []
