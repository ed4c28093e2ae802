"""A progress bar for long loops, left out where nobody watches.

Knows nothing of what the loop does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from .checks import finite_number, left_out_or


def progress(
    iterable: Iterable | None,
    description: str = "",
    total: float | None = None,
    delay: float = 0,
):
    """Wraps a long loop in a progress bar that disappears when the loop ends.

    The bar goes to standard output. It is left out when the environment variable
    `STATEFUL_TFF_PROGRESS` is 0, as in the build of the book and in the tests.

    Args:
        iterable: what to loop over, or `None` for a bar that the caller moves itself.
        description: the text to the left of the bar.
        total: the number of steps, where `iterable` does not know its length.
        delay: how many seconds to wait before the bar appears, so that short loops show none.

    Returns:
        An iterable over the same items: a `tqdm` bar.
    """
    from tqdm import tqdm

    left_out_or(finite_number)("total", total, 0)
    return tqdm(
        iterable,
        desc=description,
        total=total,
        leave=False,
        delay=delay,
        file=sys.stdout,
        disable=os.environ.get("STATEFUL_TFF_PROGRESS") == "0",
    )
