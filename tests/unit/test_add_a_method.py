"""The page "Add a method": its file is short, and its method runs on every engine of any method."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from stateful_tff.engines.packed import build_packed_process
from stateful_tff.engines.round import types_sent_to_server
from stateful_tff.methods import sgd
from stateful_tff.models import MatrixFactorization

BOOK = Path(__file__).parents[2] / "book"
EXAMPLES = BOOK / "examples"


@pytest.fixture(scope="module")
def everywhere():
    """The second file of the page, which trains when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("fed_per_everywhere")


def test_the_file_is_as_short_as_the_page_says():
    lines = (EXAMPLES / "fed_per.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 80


def test_all_engines_train_the_same_states(everywhere):
    first, *others = everywhere.stores.values()
    assert first.round_num == 20 and len(others) == 2
    for other in others:
        for part, same in zip(
            [*first.local_weights(), *first.server_state.model_weights],
            [*other.local_weights(), *other.server_state.model_weights],
            strict=True,
        ):
            np.testing.assert_allclose(part, same, rtol=1e-4, atol=1e-5)


def test_heads_learn_what_the_body_cannot_hold(everywhere):
    store = everywhere.stores["TFF, one client at a time"]
    loss = store.history["loss"]
    assert loss.iloc[-1] < loss.iloc[0] / 10
    weights, bias = store.local_weights()
    assert len(np.unique(bias.round(3))) == len(weights) == 6


def test_the_head_is_never_sent(everywhere):
    (sent,) = types_sent_to_server(everywhere.per_client.next)
    shapes = [tuple(part.shape) for part in sent.weighted_delta]
    assert shapes == [(3, 8), (8,)]


def test_the_packed_engine_refuses_it_in_the_sentence_of_the_page(everywhere):
    method = everywhere.parts[0]
    with pytest.raises(ValueError) as caught:
        build_packed_process(method, MatrixFactorization(5, 2), sgd(1.0, 0.1, 0.1))
    page = (BOOK / "add_a_method.md").read_text(encoding="utf-8")
    assert f"```text\n{caught.value}\n```" in page


def test_the_page_prints_what_the_file_prints(everywhere):
    page = (BOOK / "add_a_method.md").read_text(encoding="utf-8")
    for name, store in everywhere.stores.items():
        (printed,) = re.findall(rf"{name} +loss ([\d.]+) to ([\d.]+)", page)
        loss = store.history["loss"]
        assert [float(value) for value in printed] == pytest.approx(
            [loss.iloc[0], loss.iloc[-1]], abs=2e-3
        )
