"""Writes editions of the chapters in which every notebook stands alone.

Usage: python tools/editions.py FOLDER [--site URL]
Each notebook carries the helper package, the results that it prints and the list of packages that
it needs; its text is plain Markdown with figures inside. So it runs after an upload to Colab, or
in any Jupyter on Linux, where only a package index can be reached.

FOLDER/colab    solutions folded; this is what the site offers for download
FOLDER/student  without solutions
FOLDER/teacher  solutions as cells that run, after each exercise
FOLDER/notebooks.zip  those of `colab`
"""

import argparse
import base64
import copy
import functools
import json
import lzma
import re
import shutil
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.plain_markdown import PlainText, source

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "notebooks" / "stateful_tff"
CARRIED = '''\
# @title What this notebook carries: the helper package, and the list of packages
BOOK = """
{book}
"""'''
SET_UP = """\
# @title Set-up, the same in every chapter
try:
    from stateful_tff import session
except ModuleNotFoundError:  # unpack what this notebook carries
    import base64
    import hashlib
    import json
    import lzma
    import os
    import sys
    from pathlib import Path

    packed = base64.b64decode(BOOK)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(packed).hexdigest()[:12]
    folder = cache.absolute() / "stateful_tff" / name
    try:
        for path, text in json.loads(lzma.decompress(packed)).items():
            file = folder / path
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        raise RuntimeError(
            f"The book cannot be kept in {folder} ({error.strerror}); set "
            "XDG_CACHE_HOME to a folder of your own and run this cell again."
        ) from None
    sys.path.insert(0, str(folder / "notebooks"))
    from stateful_tff import session

session.notebook()"""
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def results_of(cells: list[dict]) -> tuple[str, ...]:
    """Returns the names of the recorded results that cells read."""
    code = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "code")
    return tuple(sorted(set(re.findall(r'results\("(\w+)"\)', code))))


@functools.cache
def carried(results: tuple[str, ...]) -> str:
    """Returns what a notebook needs beside it, as base64 in lines.

    It is the helper package, the list of packages, and the recorded results of these names.
    """
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts]
    paths += [ROOT / "experiments" / "results" / f"{name}.jsonl" for name in results]
    paths.append(ROOT / "requirements-run.txt")
    files = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}
    packed = lzma.compress(json.dumps(files).encode(), preset=9 | lzma.PRESET_EXTREME)
    text = base64.b64encode(packed).decode()
    return "\n".join(text[at : at + 120] for at in range(0, len(text), 120))


def cell_of(kind: str, text: str, **metadata) -> dict:
    """Returns a cell in the form of a notebook's JSON."""
    cell = dict(cell_type=kind, metadata=metadata, source=text)
    return cell | (dict(execution_count=None, outputs=[]) if kind == "code" else {})


def edition(path: Path, site: str = "", solutions: str = "fold") -> dict:
    """Returns a chapter as a notebook that stands alone, in the form of its JSON.

    Args:
        path: the chapter's notebook.
        site: the address of the site, for links; without one, links become words.
        solutions: "fold", "drop" or "run".

    Raises:
        ValueError: if the chapter has no set-up cell.
    """
    notebook = json.loads(path.read_text("utf-8"))
    plain = PlainText(site, "fold" if solutions == "fold" else "drop")
    cells, check, carries = [], None, False
    for cell in notebook["cells"]:
        text, tags = source(cell), cell["metadata"].get("tags", [])
        if cell["cell_type"] == "markdown":
            if words := plain.markdown(text):
                cells.append(cell_of("markdown", words))
            if solutions == "run" and "{solution}" in text:
                code = FENCE.search(text)[1].strip()
                cells += [
                    cell_of("markdown", "**Solution**"),
                    cell_of("code", code),
                    copy.deepcopy(check),
                ]
            continue
        if text.startswith("#| default_exp"):
            continue
        if text.endswith("\nsession.notebook()"):
            folded = dict(cellView="form", jupyter=dict(source_hidden=True))
            cells.append(
                cell_of(
                    "code", CARRIED.format(book=carried(results_of(notebook["cells"]))), **folded
                )
            )
            cells.append(cell_of("code", SET_UP, **folded))
            carries = True
            continue
        made = cell_of("code", re.sub(r"\A#\| export.*\n", "", text))
        if "hide-input" in tags:
            made["metadata"] = dict(cellView="form", jupyter=dict(source_hidden=True))
        cells.append(made)
        check = made if "check" in tags else check
        if caption := plain.caption(cell):
            cells.append(cell_of("markdown", caption))
    if not carries:
        raise ValueError(f"{path} has no set-up cell; `make export` puts one in.")
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return notebook | dict(cells=[copy.deepcopy(cell) for cell in cells])


def write(folder: Path, site: str = "") -> None:
    """Writes all editions of all chapters to a folder, and prints their sizes."""
    chapters = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for name, solutions in dict(colab="fold", student="drop", teacher="run").items():
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for path in chapters:
            text = json.dumps(edition(path, site, solutions), ensure_ascii=False, indent=1) + "\n"
            (place / path.name).write_text(text, "utf-8")
    with zipfile.ZipFile(folder / "notebooks.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in chapters:
            archive.write(folder / "colab" / path.name, f"stateful_tff/{path.name}")
    sizes = [path.stat().st_size / 1e3 for path in (folder / "colab").glob("*.ipynb")]
    print(f"{len(chapters)} chapters in three editions in {folder}, {min(sizes):.0f} to "
          f"{max(sizes):.0f} kB each.")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--site", default="", help="the site's address, for links")
    options = parser.parse_args()
    write(options.folder.resolve(), options.site)
