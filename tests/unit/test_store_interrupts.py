"""Stop is pressed at each moment of opening and closing a store, which can be opened again."""

import os
import signal
import sys

import pytest
from store_runs import open_store, train

import stateful_tff.stores

OURS = os.path.dirname(os.path.dirname(stateful_tff.stores.__file__))
FILES = (os.path.join(OURS, "stores"), os.path.join(OURS, "interrupts.py"))
FUNCTIONS = {  # what opens, closes, locks and holds back; no line of it is repeated often
    *("__init__", "_begin", "_connect", "_lock_file", "_take", "outside", "transaction", "close"),
    *("release", "_lose", "_give_up", "interrupts_held_back", "hold", "begin", "end", "__exit__"),
}


def interrupt_at(moment, presses, work):
    """Does something, and presses stop as it comes to its n-th line; returns the error, if any."""
    lines, is_pressed = 0, False

    def trace(frame, event, _):
        nonlocal lines, is_pressed
        code = frame.f_code
        if not code.co_filename.startswith(FILES) or code.co_name not in FUNCTIONS:
            return None
        lines += event == "line"
        if event == "line" and lines == moment:
            is_pressed = True
            sys.settrace(None)
            while frame:
                frame.f_trace, frame = None, frame.f_back
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        work()
        return is_pressed, None
    except KeyboardInterrupt as error:
        return is_pressed, error  # with its traceback, as IPython keeps it
    finally:
        sys.settrace(None)


def moments(presses, step, work):
    """Yields what came of pressing stop at every few lines, until the work is done before."""
    moment, is_pressed = 1 + step // presses, True
    while is_pressed:
        is_pressed, error = interrupt_at(moment, presses, work)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert (error is not None) == is_pressed
        yield error
        moment += step
    assert moment > 50


@pytest.fixture
def path(tmp_path):
    train(tmp_path / "run.sqlite", 1)
    return tmp_path / "run.sqlite"


@pytest.mark.parametrize("presses", [1, 2])
def test_a_store_whose_opening_was_stopped_opens_again(path, presses):
    opened = []

    def work():
        opened.append(open_store(path))

    for _error in moments(presses, 5, work):
        for store in opened:
            store.close()
        with open_store(path) as store:
            assert store.round_num == 1
        opened.clear()


@pytest.mark.parametrize("presses", [1, 2])
def test_a_new_store_whose_opening_was_stopped_is_begun(tmp_path, presses):
    paths, opened = [], []

    def work():
        paths.append(tmp_path / f"{len(paths)}.sqlite")
        opened.append(open_store(paths[-1]))

    for _error in moments(presses, 13, work):
        for store in opened:
            store.close()
        with open_store(paths[-1]) as store:
            assert store.round_num == 0
        opened.clear()


@pytest.mark.parametrize("presses", [1, 2])
def test_a_store_whose_closing_was_stopped_can_be_closed_again(path, presses):
    opened = [open_store(path)]
    for _error in moments(presses, 3, lambda: opened[0].close()):
        opened[0].close()
        opened[0] = open_store(path)
    opened[0].close()


def test_a_with_block_closes_its_store_also_where_closing_is_stopped(path):
    def work():
        with opened[0]:
            pass

    opened = [open_store(path)]
    for error in moments(2, 3, work):
        if error is not None and error.__traceback__.tb_next is None:
            opened[0].close()  # the stop came before the first line of the end
        opened[0] = open_store(path)
    opened[0].close()
