"""Prints the size of every chapter, and fails for one with too much code or too wide a line.

Usage: python tools/budget.py NOTEBOOK...
Visible is the code of cells that the page neither folds nor leaves out. The columns: words of
text; visible lines of code; the widest of them; the longest visible cell in lines, docstrings
aside; how often two visible cells follow each other without a sentence between; minutes to
read at 200 words and 20 lines a minute.
"""

import ast
import re
import sys
from pathlib import Path

import attrs
import nbformat

MOST_LINES, MOST_COLUMNS, LONGEST_CELL = 350, 78, 30
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 20
FOLDED = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
# Chapters that may be larger for now; the list has to become empty.
EXEMPT = set()


@attrs.frozen
class Size:
    """The size of one chapter."""

    name: str
    words: int
    lines: int
    widest: int
    longest_cell: int
    unexplained: int

    @property
    def minutes(self) -> float:
        """Minutes to read the chapter."""
        return self.words / WORDS_A_MINUTE + self.lines / LINES_A_MINUTE

    def problems(self) -> list[str]:
        """Returns one sentence for each limit that the chapter exceeds."""
        found = []
        if self.lines > MOST_LINES:
            found.append(
                f"{self.name} shows {self.lines} lines of code, {MOST_LINES} are the most; move "
                "what teaches nothing to its module, or fold a cell with the tag hide-input."
            )
        if self.widest > MOST_COLUMNS:
            found.append(
                f"{self.name} shows a line of {self.widest} columns, {MOST_COLUMNS} are the "
                "most; break it."
            )
        if self.longest_cell > LONGEST_CELL:
            found.append(
                f"{self.name} shows a cell of {self.longest_cell} lines, docstrings aside, "
                f"{LONGEST_CELL} are the most; cut it in two."
            )
        return found


def words(text: str) -> int:
    """Returns the number of words in a cell of text, without code, options and addresses."""
    text = re.sub(r"(?ms)^```(?!\{).*?^```$", " ", text)  # a solution, an error message
    text = re.sub(r"(?m)^:[\w-]+:.*$|^[:`]{3,}(\{[\w:-]+\})?|<!--.*?-->", " ", text)
    text = re.sub(r"\]\([^)]*\)|\{[\w:-]+\}(?=`)|<[^<>\n]+>(?=`)", " ", text)
    return len(re.findall(r"\w[\w'’.-]*", text))


def docstring_lines(code: str) -> int:
    """Returns the number of lines that docstrings take in a cell."""
    try:
        tree = ast.parse(re.sub(r"(?m)^(\s*)[%!]", r"\1# ", code))
    except SyntaxError:
        return 0
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    first = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    return sum(node.end_lineno - node.lineno + 1 for node in first)


def size(path: Path) -> Size:
    """Returns the size of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    code, unexplained, after_code = [], 0, False
    for cell in notebook.cells:
        shown = not FOLDED & set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and shown:
            code.append(cell.source.splitlines())
            unexplained += after_code
        after_code = cell.cell_type == "code" and (shown or after_code)
    return Size(
        path.stem,
        sum(map(words, text)),
        sum(map(len, code)),
        max((len(line) for lines in code for line in lines), default=0),
        max((len(lines) - docstring_lines("\n".join(lines)) for lines in code), default=0),
        unexplained,
    )


def main(paths: list[Path]) -> list[str]:
    """Prints the table; returns a sentence for each limit that a chapter exceeds."""
    sizes = [size(path) for path in sorted(paths)]
    print(f"{'chapter':32} words  lines  widest  longest cell  unexplained  minutes")
    for s in sizes:
        print(
            f"{s.name:32}{s.words:6,}{s.lines:7}{s.widest:8}{s.longest_cell:14}"
            f"{s.unexplained:13}{s.minutes:9.0f}"
        )
    return [p for s in sizes if s.name not in EXEMPT for p in s.problems()]


if __name__ == "__main__":
    wrong = main([Path(argument) for argument in sys.argv[1:]])
    print("\n".join(wrong) or "No chapter is too large.")
    sys.exit(bool(wrong))
