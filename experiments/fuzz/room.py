"""Tries the calls of one room, in a process of its own and a folder that is removed.

Knows nothing of what the calls are.
"""

import os
import resource
import tempfile
import warnings

from experiments.fuzz import calls, run

MEMORY = 8 * 2**30


def try_room(room: str, seconds: int, results) -> None:
    """Tries the calls of a room; sends each fault, and the counts at the end."""
    os.environ["STATEFUL_TFF_PROGRESS"] = "0"
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        chosen = [call for call in calls.CALLS if call.room == room]
        found = run.count(chosen, seconds, lambda text: results.put(("fault", text)))
        os.chdir("/")
    results.put(("counts", dict(found)))
