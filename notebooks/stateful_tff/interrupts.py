"""Ctrl-C waits where something would be left half done.

Knows nothing of stores, engines and TFF: it knows signals only.
"""

import contextlib
import signal
import threading


@contextlib.contextmanager
def interrupts_held_back(*, for_good: bool = False):
    """Holds back Ctrl-C until what is inside is done; a second one gets through at once.

    Args:
        for_good: whether a second one waits as well, for what takes milliseconds.
    """
    handler, held = signal.getsignal(signal.SIGINT), []
    is_held = getattr(handler, "holds_back", False) and not for_good  # by a block around this one
    if (
        threading.current_thread() is not threading.main_thread()
        or not callable(handler)
        or is_held
    ):
        yield
        return

    def hold(*arguments):
        held.append(arguments)
        if len(held) > 1 and not for_good:
            signal.signal(signal.SIGINT, handler)  # first: what it raises may pass by all below
            handler(*arguments)

    hold.holds_back = True
    try:
        signal.signal(signal.SIGINT, hold)
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if len(held) == 1 or (held and for_good):
            handler(*held[0])
