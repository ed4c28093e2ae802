"""The checks of arguments: what each takes, and the one sentence for what it does not."""

import attrs
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from stateful_tff.checks import (
    array_of,
    arrays,
    called,
    checked_fields,
    client_id,
    client_ids,
    finite_array,
    finite_number,
    left_out_or,
    listed,
    num_passes,
    one_of,
    population,
    positive_number,
    seed_number,
    share,
    shown,
    table_size,
    text,
    valid,
    whole_number,
    yes_or_no,
)

TAKEN = [
    (lambda: whole_number("n", np.uint8(3), 0), 3),
    (lambda: seed_number("seed", np.int64(2**40)), 2**40),
    (lambda: num_passes("epochs", 100_000), 100_000),
    (lambda: finite_number("rate", np.float32(0.5)), 0.5),
    (lambda: finite_number("rate", 2), 2.0),
    (lambda: positive_number("rate", 1e-30), 1e-30),
    (lambda: share("level", 0.95), 0.95),
    (lambda: yes_or_no("flag", np.True_), True),
    (lambda: one_of("word", "a", ("a", "b")), "a"),
    (lambda: text("name", "x"), "x"),
    (lambda: called("f", len), len),
    (lambda: left_out_or(finite_number)("rate", None, 0), None),
    (lambda: listed("numbers", [1, 2], int), (1, 2)),
    (lambda: population("clients", np.int32(5)), 5),
    (lambda: population("clients", pd.Series([4, 2])).tolist(), [4, 2]),
    (lambda: array_of("x", [], whole=True).tolist(), []),
    (lambda: finite_array("x", [[1, 2.5]], 2).tolist(), [[1, 2.5]]),
    (lambda: len(arrays("weights", [tf.TensorSpec([2]), np.zeros(3)])), 2),
    (lambda: client_id(np.int64(3), 5), 3),
    (lambda: client_id(tf.constant(3), 5), 3),
]
IDS = [
    [3, 1],
    (3, 1),
    iter([3, 1]),
    np.array([3, 1], np.uint8),
    pd.Series([3, 1], index=[8, 9]),
    tf.constant([3, 1]),
    [np.int64(3), tf.constant(1)],
]


@pytest.mark.parametrize("number", range(len(TAKEN)))
def test_what_makes_sense_is_taken_as_plain_python(number):
    check, value = TAKEN[number]
    assert check() == value
    assert type(check()) is type(value)


@pytest.mark.parametrize("ids", IDS, ids=[type(ids).__name__ for ids in IDS])
def test_client_ids_come_in_any_list(ids):
    found = client_ids(ids, 4)
    assert found.tolist() == [3, 1] and found.dtype == np.int64


def test_client_ids_may_be_a_set_or_nobody():
    assert sorted(client_ids({0, 2}, 4)) == [0, 2]
    for nobody in ([], (), np.array([]), range(0)):
        assert client_ids(nobody, 4).dtype == np.int64


REFUSED = [
    (lambda: whole_number("n", True), TypeError, "n must be a whole number, not True."),
    (lambda: whole_number("n", 3.0), TypeError, "n must be a whole number, not 3.0."),
    (lambda: whole_number("n", "5"), TypeError, "n must be a whole number, not '5'."),
    (lambda: whole_number("n", 10**30, 1, 9), ValueError, "n must be at most 9, not 1"),
    (lambda: seed_number("seed", None), TypeError, "seed must be a whole number, not None."),
    (lambda: seed_number("seed", -1), ValueError, "seed must be at least 0, not -1."),
    (lambda: num_passes("epochs", 10**6), ValueError, "epochs must be at most 100000"),
    (lambda: finite_number("rate", np.nan), ValueError, "rate must be finite, not nan."),
    (lambda: finite_number("rate", 10**400), ValueError, "rate must be finite, not 1000"),
    (lambda: finite_number("rate", 1j), TypeError, "rate must be a number, not 1j."),
    (lambda: positive_number("rate", 0), ValueError, "rate must be above zero, got 0."),
    (lambda: share("level", 1.0), ValueError, "level must be between 0 and 1"),
    (lambda: yes_or_no("flag", 1), TypeError, "flag must be True or False, not 1."),
    (lambda: one_of("word", ["a"], ("a",)), ValueError, "word must be one of 'a', not"),
    (lambda: text("name", ""), TypeError, "name must be a text, not ''."),
    (lambda: called("f", 3), TypeError, "f must be a function, not 3."),
    (lambda: left_out_or(called)("f", 3), TypeError, "f must be a function"),
    (lambda: listed("numbers", [], int), TypeError, "numbers must be a list with a int"),
    (lambda: listed("numbers", [1, "a"], int), TypeError, "and holds 'a'."),
    (lambda: population("clients", 1.9), TypeError, "clients must be a whole number, not 1.9."),
    (lambda: population("clients", [1, 1]), ValueError, "Client 1 is named twice"),
    (lambda: population("clients", []), ValueError, "The length of clients must be at least 1"),
    (lambda: array_of("x", [True]), TypeError, "x must hold numbers, not bool."),
    (lambda: array_of("x", [1.5], whole=True), TypeError, "x must hold whole numbers, not float64"),
    (lambda: array_of("x", [[1], [2, 3]]), ValueError, "in rows of one length"),
    (lambda: array_of("x", [1], ndim=2), ValueError, "x must have 2 axes, and has the shape"),
    (lambda: array_of("x", {1: 2}), TypeError, "x must hold numbers, not"),
    (lambda: finite_array("x", [0, np.inf]), ValueError, r"x must be finite, and holds inf at \[1"),
    (lambda: arrays("weights", np.ones(2)), TypeError, "weights must be a list of arrays"),
    (
        lambda: arrays("weights", [1.5]),
        TypeError,
        "a list of arrays, and holds 1.5",
    ),
    (lambda: table_size("A table", 10**6, 10**6), ValueError, "A table would hold 1000000 by 10"),
    (lambda: client_ids(5, 9), TypeError, "a flat list of whole numbers, not 5."),
    (lambda: client_ids("12", 9), TypeError, "a flat list of whole numbers, not '12'."),
    (lambda: client_ids([[1]], 9), TypeError, "a flat list of whole numbers"),
    (lambda: client_ids(np.ones((1, 1), int), 9), TypeError, "a flat list of whole numbers"),
    (lambda: client_ids([1, True], 9), TypeError, "True and False name nobody"),
    (lambda: client_ids(np.array([True]), 9), TypeError, "True and False name nobody"),
    (lambda: client_ids([3.99], 9), TypeError, "3.99 names nobody"),
    (lambda: client_ids([None], 9), TypeError, "None names nobody"),
    (lambda: client_ids([2**70], 9), ValueError, "Client 11805.* is unknown: ids run from 0 to 8"),
    (lambda: client_ids([-1], 9), ValueError, "Client -1 is unknown"),
    (lambda: client_ids([2, 2], 9), ValueError, "Client 2 is named twice"),
    (lambda: client_id([2], 9), TypeError, "One client's id is one whole number"),
    (lambda: client_id({2}, 9), TypeError, "One client's id is one whole number"),
    (lambda: client_id("5", 9), TypeError, "'5' names nobody"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_makes_no_sense_gets_one_sentence(number):
    check, kind, words = REFUSED[number]
    with pytest.raises(kind, match=words) as caught:
        check()
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 200


def test_a_message_shows_a_value_in_one_short_line():
    values = [np.ones((2, 3)), "x" * 10_000, "a\nb", list(range(1000)), pd.DataFrame({"a": [1, 2]})]
    for value in values:
        assert len(shown(value)) <= 80 and "\n" not in shown(value)
    assert shown(np.ones((2, 3))) == "an array float64[2, 3]"
    assert [shown(v) for v in (1.0, np.float32(0.5), None, "a")] == ["1.0", "0.5", "None", "'a'"]


def test_fields_of_attrs_are_checked_by_the_same_functions():
    @attrs.frozen
    class Given:
        count: int = attrs.field(default=1, validator=valid(whole_number, 1))

    @attrs.frozen(field_transformer=checked_fields(name=valid(text)))
    class Named:
        name: str
        other: object = None

    assert (Given().count, Named("x", 3).other) == (1, 3)
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        Given(0)
    with pytest.raises(TypeError, match="name must be a text, not 3"):
        Named(3)
