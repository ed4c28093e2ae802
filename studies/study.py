"""What every study shares: a clean start of TFF, and one line of JSON per result.

Import it before anything of TFF.
"""

import datetime
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
sys.path.insert(0, str(ROOT / "notebooks"))

from stateful_tff import setup  # noqa: E402

setup.quiet_imports()
setup.end_workers_with_this_process()
# TFF ends its worker by SIGINT, which a job in the background would ignore and wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def commit() -> str:
    """The commit of the code, with a plus where it has changes; "none" outside a repository."""
    command = "describe --always --abbrev=7 --dirty=+ --exclude=*".split()
    run = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else "none"


# Taken once at the start, before the results that the study writes are a change themselves.
COMMIT = commit()
MACHINE = f"{os.cpu_count()} cores, {platform.machine()}"


class Recorder:
    """Writes the results of one study, one JSON object a line, and prints them.

    A study writes to a file beside the recorded one and replaces it at the end, so that one
    that stops half-way leaves the last complete results as they were.

    Args:
        chapter: the name of the chapter's notebook without its ending.
    """

    def __init__(self, chapter: str):
        """Starts an empty file."""
        self._final = RESULTS / f"{chapter}.jsonl"
        self._partial = self._final.with_suffix(".jsonl.partial")
        self._partial.write_text("")

    def write(self, **fields) -> None:
        """Appends one result; floats are rounded to five places."""
        fields = {k: round(v, 5) if isinstance(v, float) else v for k, v in fields.items()}
        stamp = dict(commit=COMMIT, date=datetime.date.today().isoformat(), machine=MACHINE)
        with self._partial.open("a") as file:
            file.write(json.dumps(fields | stamp) + "\n")
        print(fields, flush=True)

    def finish(self) -> None:
        """Puts the results in the place of the last recorded ones."""
        os.replace(self._partial, self._final)
