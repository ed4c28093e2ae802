"""Tries every public function of the package with odd arguments, and prints a table by room.

    python -m experiments.fuzz [room ...] [--seconds 10] [--faults FILE]

Each argument of a call that works is replaced by each of about 70 odd values in turn. *Sentence*:
the package refused it in words of its own. *Works*: it returned, and the value makes sense.
*Raw*: an error of something below came through, for a value, or for an object of another kind
altogether, such as a number for a model. *Taken*: it returned although the value makes no sense.
*Slow*: it was ended by the clock. Each room runs in a process of its own with 8 GB of memory.
"""

import argparse
import collections
import multiprocessing
import sys
import time

from experiments.fuzz import calls, room
from experiments.fuzz.run import OUTCOMES


def main() -> int:
    """Prints the table; returns 1 where a value came through raw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    rooms = list(dict.fromkeys(call.room for call in calls.CALLS))
    parser.add_argument("rooms", nargs="*", metavar="room", help=", ".join(rooms))
    parser.add_argument("--seconds", type=int, default=10, help="that a call may take")
    parser.add_argument("--faults", type=argparse.FileType("w"), default=None)
    options = parser.parse_args()
    total, spawn = collections.Counter(), multiprocessing.get_context("spawn")
    print(f"{'room':14}{'calls':>8}" + "".join(f"{name:>13}" for name in OUTCOMES), flush=True)
    for name in options.rooms or rooms:
        results, start = spawn.Queue(), time.monotonic()
        process = spawn.Process(target=room.try_room, args=(name, options.seconds, results))
        process.start()
        counts = None
        while counts is None:
            try:
                kind, what = results.get(timeout=5)
            except Exception:
                if process.is_alive():
                    continue
                print(f"{name} ended with {process.exitcode}", flush=True)
                break
            if kind == "counts":
                counts = collections.Counter(what)
            elif options.faults:
                print(f"{name}: {what}", file=options.faults, flush=True)
        process.join()
        counts = counts or collections.Counter({"crash": 1})
        total += counts
        _row(name, counts, OUTCOMES, f"{time.monotonic() - start:8.0f} s")
    _row("all", total, OUTCOMES)
    return int(total["raw: value"] + total["slow"] + total["crash"] > 0)


def _row(name: str, counts, outcomes, more: str = "") -> None:
    cells = "".join(f"{counts[outcome]:13,}" for outcome in outcomes)
    print(f"{name:14}{sum(counts.values()):8,}{cells}{more}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
