"""What a run notes of its sampler: the same in another process, another for other draws."""

import functools
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from store_runs import CLIENTS, PROCESS

from stateful_tff.plans import described, shown_ids
from stateful_tff.stores import MemoryStore, SqlStore
from stateful_tff.training import UniformSampler, rounds, sample_cohort


def from_closure(seed, size=8):
    return lambda round_num: sample_cohort(CLIENTS, size, round_num, seed)


def with_default(seed):
    def draw(round_num, seed=seed):
        return sample_cohort(CLIENTS, 8, round_num, seed)

    return draw


class Plain:
    def __init__(self, seed):
        self.seed = seed

    def __call__(self, round_num):
        return sample_cohort(CLIENTS, 8, round_num, self.seed)

    draw = __call__


@attrs.frozen
class Value:
    seed = attrs.field()
    __call__ = Plain.__call__


WAYS = {
    "uniform": lambda seed: UniformSampler(CLIENTS, 8, seed),
    "ids": lambda seed: UniformSampler(np.arange(10 + seed, 30 + seed), 8),
    "closure": from_closure,
    "default": with_default,
    "partial": lambda seed: functools.partial(sample_cohort, CLIENTS, 8, seed=seed),
    "object": Plain,
    "method": lambda seed: Plain(seed).draw,
    "value": Value,
}


@pytest.mark.parametrize("way", WAYS)
def test_samplers_that_draw_differently_are_described_differently(way):
    made = WAYS[way]
    for kind in (int, np.int64, np.int32):
        assert described(made(kind(3))) == described(made(3))
    assert described(made(3)) != described(made(4))
    assert " at 0x" not in described(made(3))


def test_constants_in_a_function_count_and_its_docstring_does_not():
    one, other = (lambda r: sample_cohort(40, 8, r, 1)), (lambda r: sample_cohort(40, 8, r, 2))
    assert described(one) != described(other)

    def documented(r):
        """Draws."""
        return sample_cohort(40, 8, r, 1)

    assert "Draws" not in described(documented)


@pytest.mark.parametrize("kind", ["memory", "sql"])
@pytest.mark.parametrize("way", WAYS)
def test_no_store_goes_on_with_other_draws(kind, way, tmp_path):
    path = tmp_path / "run.sqlite"
    store = MemoryStore(PROCESS, CLIENTS) if kind == "memory" else SqlStore(path, PROCESS, CLIENTS)
    for seed, until in ((np.int64(1), 1), (1, 2)):
        for done in rounds(PROCESS, store, None, WAYS[way](seed), until):
            store.commit(done)
    with pytest.raises(ValueError, match="This run began with sampler"):
        next(rounds(PROCESS, store, None, WAYS[way](2), 3))
    assert store.round_num == 2


def test_a_description_is_the_same_in_another_process():
    here = Path(__file__).parent
    code = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parents[1])!r}]\n"
        "import test_plans\nprint([test_plans.described(made(3)) for made in "
        "test_plans.WAYS.values()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert eval(done.stdout) == [described(made(3)) for made in WAYS.values()], done.stderr


def test_ids_are_shown_by_number_and_checksum():
    assert shown_ids(40) == "40"
    assert shown_ids([1, 2]) == shown_ids(np.int32([1, 2])) != shown_ids([1, 3])
    assert shown_ids([1, 2]).startswith("2 ids ")


@pytest.mark.parametrize("seed", [None, 1.5, "1", [1], -1, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        sample_cohort(CLIENTS, 8, 0, seed)
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        UniformSampler(CLIENTS, 8, seed)(0)


@pytest.mark.parametrize("size", [None, 40.5, "40", 0])
def test_a_population_is_a_whole_number(size):
    with pytest.raises((TypeError, ValueError), match="clients must be|Client ids are"):
        UniformSampler(size, 8)(0)
