"""Measures what it costs to run a notebook as in Colab, through the bridge.

    python -m experiments.benchmarks.colab_bridge

Writes experiments/results/colab_bridge.jsonl, one object a line, and from it the table of the page
"Using this book". Cells and chapters are timed in turn
in a kernel of the book's environment and through the bridge from Python 3.13 with Colab's
packages, in one run; the difference and the ratio are what counts. The environments are made
afresh, so the first start is a first start; downloads come from uv's cache if it holds them.
"""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from experiments.record import RESULTS, ROOT, Recorder
from tools.play_colab import Repository, Session, colabs_variables, outer_python

PAGE = RESULTS / "start_times.md"
CELLS = 100
CHAPTER = "04"
TURNS = 3


def timed(work, *arguments):
    """Returns the seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def start(python, variables, folder, book):
    """Opens a session and runs the set-up cell; returns the seconds of both, and the session."""
    seconds, session = timed(Session, python, variables, folder)
    more, (reply, outputs) = timed(session.set_up, book)
    assert reply["status"] == "ok", outputs
    return seconds + more, session


def run_chapter(session, cells):
    """Runs the cells of a chapter; returns the seconds of each."""
    times = []
    for cell in cells:
        seconds, (reply, outputs) = timed(session.run, cell, 600)
        assert reply["status"] == "ok", outputs
        times.append(seconds)
    return times


def table(rows):
    """Returns what the page "Using this book" says of these results."""
    by_name = {row["name"]: row for row in rows}
    seconds = {name: f"{row['seconds']:.0f} s" for name, row in by_name.items() if "seconds" in row}
    chapter = by_name[f"chapter {CHAPTER}"]
    return (
        "| | first start | later starts |\n|---|---|---|\n"
        f"| in Colab, as the tests play it | {seconds['colab, first start']} "
        f"| {seconds['colab, later start']} |\n"
        f"| on your own Linux or a server | {seconds['local, environment']} to install, then as "
        f"later | {seconds['local, later start']} |\n\n"
        f"Measured by `experiments/benchmarks/colab_bridge.py` with {chapter['machine']}, on "
        f"{chapter['date']}. In Colab a cell takes {by_name['a cell']['overhead_ms']:.1f} ms "
        f"longer than on your own Linux, and chapter {int(CHAPTER)} as a whole "
        f"{chapter['bridged']:.1f} s in place of {chapter['direct']:.1f} s.\n"
    )


def main():
    """Measures, prints and records."""
    recorder = Recorder("colab_bridge")

    def record(name, **numbers):
        recorder.write(name=name, **numbers)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        book = Repository(folder)
        python, variables = outer_python(folder, "3.13"), colabs_variables(folder)
        seconds, session = start(python, variables, folder / "first", book)
        record("colab, first start", seconds=seconds)
        session.end()
        seconds, bridged = start(python, variables, folder / "later", book)
        record("colab, later start", seconds=seconds)
        inner = Path(bridged.value("__import__('sys').executable"))

        # The same environment without a bridge, with the helper package beside the notebook.
        specification = inner.parents[1] / "kernels" / "python3"
        specification.mkdir(parents=True)
        text = (python.parents[1] / "kernels" / "python3" / "kernel.json").read_text()
        (specification / "kernel.json").write_text(text.replace(str(python), str(inner)))
        notebooks = book.checkout / "notebooks"
        # Colab's configuration is not for this kernel; the bridge sees to that by itself.
        plain = {
            **variables,
            "PYTHONPATH": str(ROOT / "notebooks"),
            "IPYTHONDIR": str(folder / "i"),
        }
        seconds, direct = start(inner, plain, notebooks, book)
        record("local, later start", seconds=seconds)

        times = {bridged: [], direct: []}
        for _ in range(CELLS):
            for session, seconds in times.items():
                seconds.append(timed(session.run, "print(1)")[0])
        there, here = (1000 * statistics.median(seconds) for seconds in times.values())
        record("a cell", bridged_ms=there, direct_ms=here, overhead_ms=there - here)

        cells = [c.source for c in book.notebook(CHAPTER).cells if c.cell_type == "code"]
        totals = {bridged: [], direct: []}
        for _ in range(TURNS):
            for session, turns in totals.items():
                turns.append(run_chapter(session, cells))
        # The fastest turn of each cell, so that what else the machine does hardly counts.
        there, here = (sum(map(min, zip(*turns, strict=True))) for turns in totals.values())
        record(f"chapter {CHAPTER}", bridged=there, direct=here, overhead=there / here - 1)
        bridged.end()
        direct.end()
        book.server.shutdown()

        seconds, done = timed(subprocess.run, [ROOT / "environment.sh", folder / "pip"])
        assert done.returncode == 0
        record("local, environment", seconds=seconds)
    recorder.finish()
    PAGE.write_text(table(recorder.rows))


if __name__ == "__main__":
    os.environ["STATEFUL_TFF_DATA"] = "synthetic"
    main()
