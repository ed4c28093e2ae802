"""Calls with one odd argument each, in a process that may be ended, and what came of them.

Knows nothing of the calls.
"""

import ast
import collections
import functools
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

import stateful_tff
from experiments.fuzz.values import ODD, Kind

PACKAGE = Path(stateful_tff.__file__).parent
OUTCOMES = ("sentence", "works", "raw: value", "raw: object", "taken", "slow")


@attrs.frozen
class Call:
    """A call that works, and what its arguments are meant to be.

    Attributes:
        room: the room of what is called.
        name: how the call is shown.
        make: called with the arguments by name.
        arguments: for each name a function that makes the working value, and its `Kind`.
        covers: the public names of the package that the call tries.
    """

    room: str
    name: str
    make: Callable
    arguments: dict[str, tuple[Callable[[], object], Kind]]
    covers: tuple[str, ...] = ()

    def odd(self) -> Iterator[tuple[str, str]]:
        """Yields each argument's name with each odd value's."""
        for argument in self.arguments:
            for value in ODD:
                yield argument, value

    def run(self, argument: str | None = None, value: object = None):
        """Calls with the working arguments but one."""
        arguments = {name: make() for name, (make, _) in self.arguments.items()}
        if argument is not None:
            arguments[argument] = value
        return self.make(**arguments)


@functools.cache
def _raises(file: str) -> list[tuple[int, int]]:
    """Returns the first and last line of each `raise` in a file."""
    tree = ast.parse(Path(file).read_text("utf-8"))
    return [(n.lineno, n.end_lineno) for n in ast.walk(tree) if isinstance(n, ast.Raise)]


def is_sentence(error: BaseException) -> bool:
    """Tells whether the package raised an error itself, in one sentence."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not Path(frame.filename).is_relative_to(PACKAGE):
        return False
    message = str(error).strip()
    ours = any(first <= frame.lineno <= last for first, last in _raises(frame.filename))
    return ours and message.endswith(".") and len(message) < 600 and "\n" not in message


class TookTooLong(BaseException):
    """A call was ended by the clock."""


def outcome(call: Call, argument: str, value: str, seconds: int) -> tuple[str, str]:
    """Returns what came of a call, one of `OUTCOMES`, and what it said."""

    is_over = False

    def too_long(*_):
        nonlocal is_over
        is_over = True
        raise TookTooLong

    kind = call.arguments[argument][1]
    old = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        call.run(argument, ODD[value]())
    except TookTooLong:
        return "slow", ""
    except Exception as error:
        if is_over:  # what a library has made of the clock's end
            return "slow", ""
        if is_sentence(error):
            return "sentence", str(error)
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{said[:160]} ({Path(frame.filename).name}:{frame.lineno})"
        return ("raw: object" if kind.is_object else "raw: value"), said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    return ("works" if kind.makes_sense(ODD[value]()) else "taken"), ""


def count(calls: list[Call], seconds: int, show: Callable[[str], None]) -> collections.Counter:
    """Makes every odd call, shows the faults, and returns how often each outcome came."""
    found = collections.Counter()
    for call in calls:
        call.run()  # it works
        for argument, value in call.odd():
            result, said = outcome(call, argument, value, seconds)
            found[result] += 1
            is_fault = result == "taken" and not call.arguments[argument][1].is_object
            if is_fault or result in ("raw: value", "slow"):
                show(f"{result}: {call.name}({argument}={value}) {said}")
    return found
