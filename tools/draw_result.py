"""Draws pictures of the book's pages from recorded results, into book/figures.

`result.svg` shows training to convergence, `waterfall.svg` the first comparison taken apart.

Usage: python tools/draw_result.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from stateful_tff import plots

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURES = ROOT / "experiments" / "results", ROOT / "book" / "figures"


def read(study: str) -> list[dict]:
    """Returns what a study has recorded, in order."""
    lines = (RESULTS / f"{study}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def draw_result(rows: list[dict]) -> plt.Figure:
    """Returns the figure: the way down on validation ratings, and the test of three seeds."""
    rows = [row for row in rows if row["method"] in ("all", "biases only")]
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


def draw_waterfall(rows: list[dict]) -> plt.Figure:
    """Returns the figure: bars from FedRecon's recipe to the stateful method, a step each."""
    rows = [row for row in rows if row.get("part") == "waterfall"]
    level = {row["method"]: row["value"] for row in rows if row["metric"] == "rmse, mean"}
    names = list(level)
    fig, ax = plt.subplots(figsize=(8.0, 3.4))
    for height, (before, name) in enumerate(zip(names, names[1:], strict=False)):
        change = level[name] - level[before]
        outline = "black" if name == "the state is kept" else "none"
        color = plots.ORANGE if change > 0 else plots.BLUE
        ax.barh(height, change, left=level[before], color=color, edgecolor=outline)
        ax.text(max(level[name], level[before]) + 0.001, height, f"{change:+.4f}", va="center")
    for name in (names[0], names[-1]):
        ax.axvline(level[name], color=plots.GREY, linestyle=":")
        ax.text(level[name], -0.8, f"{level[name]:.4f}", ha="center", va="bottom")
    low, high = min(level.values()), max(level.values())
    ax.set(xlabel="RMSE (stars)", xlim=(low - 0.004, high + 0.012))
    ax.set_yticks(range(len(names) - 1), names[1:])
    ax.invert_yaxis()
    return fig


def main() -> None:
    """Draws all pictures."""
    plots.use_style()
    mpl.rcParams["svg.hashsalt"] = "stateful-tff"  # the same picture from the same numbers
    for picture, study, draw in (
        ("result", "convergence", draw_result),
        ("waterfall", "information_or_cache", draw_waterfall),
    ):
        draw(read(study)).savefig(PICTURES / f"{picture}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
