"""Draws the picture of the result, book/figures/result.svg, from the recorded results.

Usage: python tools/draw_result.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from stateful_tff import plots

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "experiments" / "results" / "convergence.jsonl"
PICTURE = ROOT / "book" / "figures" / "result.svg"


def read(path: Path) -> list[dict]:
    """Returns the recorded results of plain weighted averaging, and the baseline, in order."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["method"] in ("all", "biases only")]


def draw(rows: list[dict]) -> plt.Figure:
    """Returns the figure: the way down on validation ratings, and the test of three seeds."""
    plots.use_style()
    fig, (curve, tested) = plt.subplots(1, 2, figsize=(8.0, 3.4), width_ratios=(3, 2), sharey=True)
    way = [row for row in rows if "validation" in row["protocol"]]
    curve.plot([row["rounds"] for row in way], [row["value"] for row in way])
    curve.set(xlabel="rounds of 100 clients", ylabel="RMSE (stars)", title="validation, one run")

    final = [row for row in rows if "90/10" in row["protocol"]]
    for method, label, color, marker in (
        ("biases only", "biases only", plots.GREY, "s"),
        ("all", "clients with state", plots.CLIENT, "o"),
    ):
        values = [row for row in final if row["method"] == method]
        seeds = np.array([row["seed"] for row in values])
        rmse = np.array([row["value"] for row in values])
        bars = None
        if "low" in values[0]:
            bars = np.abs([[row["low"], row["high"]] for row in values] - rmse[:, None]).T
        tested.errorbar(seeds, rmse, yerr=bars, fmt=marker, color=color, capsize=3, label=label)
    tested.set(xlabel="seed", xticks=seeds, xlim=(-0.5, len(seeds) - 0.5), title="test")
    tested.legend(loc="center")
    return fig


if __name__ == "__main__":
    mpl.rcParams["svg.hashsalt"] = "stateful-tff"  # the same picture from the same numbers
    draw(read(RECORDED)).savefig(PICTURE, metadata={"Date": None})
