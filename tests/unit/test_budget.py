"""The size of a chapter is what a reader sees of it."""

import nbformat
import pytest

from tools import budget

TEXT = """\
# A title of five words

:::{admonition} The box
:class: tip
Read [the page](https://example.org/a/long/address), then {term}`client state <client state>`.
:::

```python
answer = "not counted, a solution"
```
"""


@pytest.fixture
def chapter(tmp_path):
    """Writes a notebook of code cells, each a source or a source with its tags."""

    def write(*cells):
        made = [
            nbformat.v4.new_markdown_cell(cell[1])
            if cell[0] == "text"
            else nbformat.v4.new_code_cell(cell[0], metadata={"tags": list(cell[1:])})
            for cell in cells
        ]
        path = tmp_path / "01_one.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=made), path)
        return path

    return write


def test_words_are_those_that_are_read():
    assert budget.words("One sentence, isn't it: of 2 lines\nand well-made.") == 9
    assert budget.words(TEXT) == len(
        "A title of five words The box Read the page then client state".split()
    )


@pytest.mark.parametrize("tag", sorted(budget.FOLDED))
def test_folded_cells_do_not_count(chapter, tag):
    path = chapter(("x = 1\ny = 2\n",), ("z = '" + "z" * 99 + "'\n" * 500, tag), ("check",))
    size = budget.size(path)
    assert (size.lines, size.widest) == (3, 5)
    assert size.problems() == []


def test_minutes(chapter):
    size = budget.size(chapter(("text", "word " * 400), ("\n".join(["x = 1"] * 60),)))
    assert (size.words, size.lines, size.minutes) == (400, 60, 5)


def test_the_longest_cell_is_told_without_docstrings(chapter):
    code = 'def f():\n    """One.\n\n    Returns:\n        Two.\n    """\n    return 2\n%time f()'
    assert budget.size(chapter((code,))).longest_cell == 3


def test_cells_without_a_sentence_between_are_counted(chapter):
    folded = ("hidden = 1", "hide-input")
    path = chapter(("a",), ("b",), ("text", "Why."), ("c",), folded, ("d",), ("text", "."), ("e",))
    assert budget.size(path).unexplained == 2


def lines(count, line="x = 1"):
    """Cells of one line after the other, none longer than a cell may be."""
    full, rest = divmod(count, 30)
    return [("\n".join([line] * n),) for n in [30] * full + [rest] * bool(rest)]


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (lines(351), "shows 351 lines of code, 350 are the most"),
        ([("x = '" + "a" * 73 + "'",)], "shows a line of 79 columns, 78 are the most"),
        ([("x = 1\n" * 31,)], "shows a cell of 31 lines, docstrings aside, 30 are the most"),
    ],
    ids=["lines", "columns", "a cell"],
)
def test_a_chapter_that_is_too_large_is_named(chapter, monkeypatch, cells, sentence):
    path = chapter(*cells)
    (problem,) = budget.main([path])
    assert problem.startswith("01_one ") and sentence in problem and problem.endswith(".")
    monkeypatch.setattr(budget, "EXEMPT", {"01_one"})
    assert budget.main([path]) == []


def test_the_largest_chapter_that_may_be(chapter):
    assert budget.main([chapter(*lines(350, "x" * 78))]) == []
