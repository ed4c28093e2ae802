"""The look of the book's figures: one size, one colour-blind-safe palette, greyscale-proof.

Knows nothing of what is drawn, nor of any other part of the package.
"""

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler

# Okabe and Ito's palette, ordered so that neighbours also differ in lightness.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
BLACK = "#222222"
GREY = "#8a8a8a"
PALETTE = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]

# Parts of the system have a colour throughout the book.
SERVER, CLIENT = BLUE, ORANGE


def use_style() -> None:
    """Applies the book's style to every figure that follows."""
    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "axes.prop_cycle": cycler(color=PALETTE)
            + cycler(linestyle=["-", "--", "-.", ":", "-", "--", "-."]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "grid.color": "#e6e6e6",
            "image.cmap": "cividis",
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "font.size": 10,
            "figure.constrained_layout.use": True,
        }
    )


def baseline_line(ax: plt.Axes, value: float, label: str, at_left: bool = False) -> None:
    """Draws a reference result as a labelled horizontal line.

    Args:
        ax: the axes to draw on.
        value: the result, in the unit of the vertical axis.
        label: what reached it, printed above the right end of the line.
        at_left: print the label at the left end instead, where a curve ends at the right.
    """
    ax.axhline(value, color=GREY, linestyle=(0, (1, 1)), linewidth=1.2)
    ax.annotate(
        label,
        xy=(0 if at_left else 1, value),
        xycoords=("axes fraction", "data"),
        xytext=(4 if at_left else 0, 2),
        textcoords="offset points",
        ha="left" if at_left else "right",
        va="bottom",
        color=BLACK,
        fontsize=9,
    )
