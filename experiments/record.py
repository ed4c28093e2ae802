"""What every experiment shares: a clean start of TFF, and one recorder of results.

Knows nothing of what is measured. Import it before anything of TFF, and run experiments from
the book's top folder: `python -m experiments.studies.convergence`.
"""

import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
sys.path.insert(0, str(ROOT / "notebooks"))

import stateful_tff  # noqa: E402, F401  quiet logs, and no worker left behind

# TFF ends its worker by SIGINT, which a job in the background would ignore and wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def commit() -> str:
    """The commit of the code, with a plus where it has changes; "none" outside a repository."""
    command = "describe --always --abbrev=7 --dirty=+ --exclude=*".split()
    run = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else "none"


# Taken once at the start, before the results that an experiment writes are a change themselves.
COMMIT = commit()
MACHINE = f"{os.cpu_count()} cores, {platform.machine()}"


def data_checksum(ratings) -> str:
    """Returns 12 hex digits that name the very ratings: the SHA-256 of their table's columns.

    Args:
        ratings: a `Ratings`; its users, items, ratings and timestamps count, in the order of
            user, time and item.
    """
    digest = hashlib.sha256()
    order = np.lexsort([ratings.table[name] for name in ("item", "timestamp", "user")])
    for name in ("user", "item", "rating", "timestamp"):
        column = ratings.table[name].to_numpy()[order]
        exact = np.int64 if np.issubdtype(column.dtype, np.integer) else np.float64
        digest.update(column.astype(exact).tobytes())
    return digest.hexdigest()[:12]


def agree(row: dict, recorded: list[dict], tolerance: float = 2e-5) -> bool:
    """Prints a result beside the recorded one, and returns whether they agree to five digits.

    Args:
        row: the result, with `data`, `protocol`, `method`, `seed`, `metric` and `value`.
        recorded: rows as they were recorded.
        tolerance: the largest difference; recorded values are rounded to five places.
    """
    keys = ("data", "protocol", "method", "seed", "metric")
    same = [old for old in recorded if all(old.get(key) == row.get(key) for key in keys)]
    (value,) = {old["value"] for old in same} or {float("nan")}
    agrees = abs(row["value"] - value) <= tolerance
    name = ", ".join(str(row.get(key)) for key in keys)
    print(
        f"{name}: {row['value']:.5f}, recorded {value:.5f}{'' if agrees else ' DIFFERS'}",
        flush=True,
    )
    return agrees


class Recorder:
    """Writes the results of one experiment, one JSON object a line, and prints them.

    It writes to a file beside the recorded one and replaces that at the end, so that an
    experiment that stops half-way leaves the last complete results as they were. Each line ends
    with `data_checksum` where the experiment has ratings, `commit`, `date` and `machine`.

    Args:
        name: the results' name, such as "convergence": they go to `results/convergence.jsonl`.
        ratings: the `Ratings` that everything is measured on, if it is one set; a field
            `data_checksum` given to `write` goes before.
        keep: which of the lines recorded before stay, a function of the line as a dict; none
            by default.
    """

    def __init__(self, name: str, ratings=None, keep: Callable[[dict], bool] | None = None):
        """Starts a file that holds what stays."""
        self.rows = []
        self._final = RESULTS / f"{name}.jsonl"
        self._partial = self._final.with_suffix(".jsonl.partial")
        self._stamp = {} if ratings is None else {"data_checksum": data_checksum(ratings)}
        self._stamp |= dict(commit=COMMIT, date=datetime.date.today().isoformat(), machine=MACHINE)
        before = self._final.read_text("utf-8").splitlines() if self._final.exists() else []
        kept = [line for line in before if keep is not None and keep(json.loads(line))]
        self._partial.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def write(self, **fields) -> None:
        """Appends one result; floats are rounded to five places."""
        fields = {k: round(v, 5) if isinstance(v, float) else v for k, v in fields.items()}
        row = fields | {k: v for k, v in self._stamp.items() if k not in fields}
        self.rows.append(row)
        with self._partial.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(fields, flush=True)

    def finish(self) -> None:
        """Puts the results in the place of the last recorded ones."""
        os.replace(self._partial, self._final)


class Check:
    """Takes results as a `Recorder` does, and compares each with the recorded one.

    Args:
        name: the results' name, such as "convergence".
        tolerance: the largest difference; recorded values are rounded to five places.

    Attributes:
        recorded: the recorded results.
    """

    def __init__(self, name: str, tolerance: float = 2e-5):
        """Reads what is recorded."""
        lines = (RESULTS / f"{name}.jsonl").read_text("utf-8").splitlines()
        self.recorded = [json.loads(line) for line in lines]
        self._by_key = {self._key(row): row for row in self.recorded}
        self._tolerance, self._found = tolerance, []

    @staticmethod
    def _key(row: dict) -> frozenset:
        """Returns what a result was measured on and how, without what came out."""
        out = "value low high seconds data_checksum commit date machine".split()
        same = {key: round(v, 5) if isinstance(v, float) else v for key, v in row.items()}
        return frozenset((key, value) for key, value in same.items() if key not in out)

    def write(self, **fields) -> None:
        """Compares a result: its value and, where it has one, its interval."""
        recorded = self._by_key.get(self._key(fields))
        largest = float("inf")
        if recorded is not None:
            numbers = [name for name in ("value", "low", "high") if name in fields]
            largest = max(abs(fields[name] - recorded[name]) for name in numbers)
        self._found.append(largest)
        if not largest <= self._tolerance:
            print(f"DIFFERS: {fields}, recorded {recorded}", flush=True)

    def finish(self) -> bool:
        """Prints how many results agree, and returns whether all do."""
        agree = sum(difference <= self._tolerance for difference in self._found)
        print(
            f"{agree} of {len(self._found)} results agree with the recorded ones; the largest "
            f"difference is {max(self._found, default=0):.1e}.",
            flush=True,
        )
        return agree == len(self._found)
