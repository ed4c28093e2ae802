"""What every executed chapter has to show. Run by `make test` on the copies it executed."""

import json
import re
from datetime import datetime
from pathlib import Path

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text())
CELL_BUDGET_SECONDS = 60
CHAPTER_BUDGET_SECONDS = 90


def code_cells(chapter):
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def seconds(cell):
    times = cell.metadata.get("execution", {})
    try:
        busy, idle = (
            datetime.fromisoformat(times[f"iopub.status.{s}"].replace("Z", "+00:00"))
            for s in ("busy", "idle")
        )
    except KeyError:
        return 0.0
    return (idle - busy).total_seconds()


def test_chapters_were_executed(request):
    folder = Path(request.config.getoption("--executed"))
    sources = {p.name for p in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")}
    assert sources and sources == {p.name for p in folder.glob("*.ipynb")}


def test_every_cell_ran(chapter):
    not_run = [c.source for c in code_cells(chapter) if c.execution_count is None]
    assert not not_run


def test_nothing_went_to_stderr(chapter):
    noise = [
        (cell.source, output.get("text", output.get("traceback")))
        for cell in code_cells(chapter)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert not noise


def test_every_image_has_alt_text_and_a_caption(chapter):
    for cell in code_cells(chapter):
        if any("image/png" in o.get("data", {}) for o in cell.outputs):
            page = cell.metadata.get("mystnb", {})
            assert page.get("image", {}).get("alt"), f"no alt text: {cell.source}"
            assert page.get("figure", {}).get("caption"), f"no caption: {cell.source}"


def test_stubs_are_not_answers_and_solutions_are(chapter):
    checks = [c for c in code_cells(chapter) if "check" in c.metadata.get("tags", [])]
    solved = [
        c
        for c in code_cells(chapter)
        if "solution" in c.metadata.get("tags", []) and "check(" in c.source
    ]
    assert len(checks) == len(solved) >= 3
    for cell in checks:
        assert not printed(cell).rstrip().endswith("correct."), cell.source
    for cell in solved:
        assert printed(cell).rstrip().endswith("correct."), printed(cell)


def test_results_are_as_expected(chapter):
    """A chapter's key results, as it prints them, lie in the range recorded for them."""
    text = "\n".join(printed(cell) for cell in code_cells(chapter))
    for result in EXPECTED[Path(chapter.metadata.path).stem]:
        found = re.search(result["printed"], text)
        assert found, f"not printed: {result['printed']}"
        value = float(found.group(1).replace(",", ""))
        assert result["low"] <= value <= result["high"], f"{result['printed']}: {value}"


def test_report_of_run_times(chapter, record_property, capsys):
    """Reports cells and chapters over their budget; machines differ, so it does not fail."""
    times = [(seconds(cell), cell.source.splitlines()[0]) for cell in code_cells(chapter)]
    total = sum(t for t, _ in times)
    assert total > 0, "the executed copy holds no times"
    record_property("seconds", total)
    with capsys.disabled():
        name = Path(chapter.metadata.path).stem
        over = " (over its budget)" if total > CHAPTER_BUDGET_SECONDS else ""
        print(f"\n{name}: {total:.0f} s{over}", end="")
        for time, line in times:
            if time > CELL_BUDGET_SECONDS:
                print(f"\n  a cell over its budget, {time:.0f} s: {line}", end="")
