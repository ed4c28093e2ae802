"""What a session repeats leaves nothing behind: no descriptor, no thread, no compiled graph."""

import gc

import pytest

from experiments import growth
from stateful_tff import runtime


@pytest.mark.parametrize(
    "name, repeat, count", [("starts", growth.start_and_end, 6), ("renewals", growth.renew, 5)]
)
def test_starts_of_workers_leave_no_descriptor_and_no_thread(name, repeat, count):
    repeat()
    first, *_, last = growth.measure(name, repeat, count)
    assert last["repetitions"] - first["repetitions"] >= 4
    assert last["descriptors"] <= first["descriptors"]
    assert last["threads"] <= first["threads"]


def test_a_process_that_is_gone_leaves_no_compiled_computation():
    before = runtime.gone()
    for _ in range(2):
        growth.train(growth.per_client(), 1)
    gc.collect()
    assert runtime.gone() - before >= 4  # of each process, its start and its round
