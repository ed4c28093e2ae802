"""Reads the results that `make results` and `make bench` recorded and the chapters print.

Knows nothing of how a result was measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from .checks import cut_short, shown, text

FOLDER = Path("experiments", "results")
# What is not original in a copy of a data set, by the checksum of its ratings or its log.
_TIMES = "not the official file: 73.7% of its timestamps are true"
COPIES = {"fe49622134ab": _TIMES, "ea265090aa9a": _TIMES}


def folder() -> Path:
    """Returns the folder of recorded results, the first one above the current folder.

    Where there is none, as in a notebook that was opened by itself, it is looked for above the
    folder of this package.

    Raises:
        FileNotFoundError: if neither has one.
    """
    here, package = Path.cwd(), Path(__file__).resolve().parent
    for start in (here, package):
        for above in (start, *start.parents):
            if (above / FOLDER).is_dir():
                return above / FOLDER
    raise FileNotFoundError(
        f"Recorded results are in the book's folder {FOLDER}, and there is none above {here} or "
        f"{package}; work in a copy of the whole book."
    )


def results(name: str) -> pd.DataFrame:
    """Returns recorded results as a table, one row per line of their file.

    Args:
        name: the results' name, such as "convergence" for `experiments/results/convergence.jsonl`.

    Raises:
        TypeError: if the name is no text.
        FileNotFoundError: if they are not there, with the command that records them.
    """
    place, name = folder(), cut_short(text("name", name), 100)
    file = place / f"{name}.jsonl"
    if not file.is_file():
        study = place.parent / "studies" / f"{name}.py"
        maker = "make results" if study.is_file() else "make bench"
        known = ", ".join(sorted(path.stem for path in place.glob("*.jsonl"))) or "nothing yet"
        raise FileNotFoundError(
            f"{file} is missing; `{maker}` records it, or check it out again (recorded: {known})."
        )
    return pd.DataFrame(json.loads(line) for line in file.read_text("utf-8").splitlines())


def origin(table: pd.DataFrame) -> str:
    """Returns in words what results were recorded on, and with which code.

    Args:
        table: what `results` returns, or some of its rows.

    Returns:
        A line for each data set with its name and the checksum of its ratings, one on what is
        not original in it, and one with commits and dates.

    Raises:
        TypeError: if it is no table.
        ValueError: if the table does not say its commits and dates.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"Give a table of results, not {shown(table)}.")
    if not {"commit", "date"} <= set(table):
        raise ValueError("The table has no columns commit and date; give rows of `results`.")
    table, lines = table.reindex(columns=["data", "data_checksum", "commit", "date"]), []
    for name, mark in table[["data", "data_checksum"]].dropna().drop_duplicates().to_numpy():
        lines.append(f"recorded on {name}, checksum {mark}")
        lines += [f"({COPIES[mark]})"] if mark in COPIES else []
    commits, dates = (", ".join(table[name].dropna().unique()) for name in ("commit", "date"))
    return "\n".join([*lines, f"commit {commits}, {dates}"])
