"""Reads the results that `make results` and `make bench` recorded and the chapters print."""

import json
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


def results(path: str) -> pd.DataFrame:
    """Returns recorded results as a table, one row per line of the file.

    Args:
        path: the file seen from the book's top folder, such as
            "book/results/06_fast_simulation.jsonl".

    Raises:
        FileNotFoundError: if the file is not there, with the command that makes it.
    """
    file = ROOT / path
    if not file.is_file():
        maker = "make bench" if path.startswith("benchmarks/") else "make results"
        raise FileNotFoundError(f"{file} is missing; `{maker}` writes it, or check it out again.")
    return pd.DataFrame(json.loads(line) for line in file.read_text().splitlines())
