"""Forgets stored outputs that no longer match the code, the packages or the data.

jupyter-cache keeps the outputs of a notebook for as long as the code *in the notebook* stays the
same. A chapter's outputs also depend on the helper modules it imports, on the recorded results it
prints, on the lock file and on the data. This script, run before each build, compares a digest of
all that with the one it stored last time. Where the two differ it removes the chapter from the
cache, so that it runs again, and the page that Sphinx has stored, so that it is written again. A
chapter without stored outputs, for instance because a cell failed, is also written again: the
failure shows until it is repaired.

Usage: python tools/refresh_cache.py [FOLDER OF THE BOOK]
"""

import ast
import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

PACKAGE = "stateful_tff"
# Every notebook runs these, directly or through the set-up cell.
ALWAYS = ("__init__", "session", "plots", "exercises")
CACHE = "_build/.jupyter_cache"
DOCTREES = "_build/.doctrees"
RESULTS = "experiments/results"


def file_of(name: str, package: Path) -> Path | None:
    """Returns the file of a module or sub-package, such as `methods.fed_recon`, if there is one."""
    place = package.joinpath(*name.split("."))
    files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def imported_modules(source: str, package: Path, inside: str = "") -> set[str]:
    """Returns the modules of the helper package that some Python code imports.

    Args:
        source: the code of a module, or of a notebook's cells.
        package: the folder of the helper package.
        inside: the sub-package that the code stands in, which its relative imports start from.

    Returns:
        Names with dots, without the package's; of `methods.fed_recon` also `methods`, whose
        `__init__` Python runs first.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = [PACKAGE, *filter(None, inside.split("."))] if node.level else []
            start = start[: len(start) - max(0, node.level - 1)]
            start += node.module.split(".") if node.module else []
            found = [start + alias.name.split(".") for alias in node.names]
        else:
            continue
        for first, *parts in found:
            if first == PACKAGE:
                names |= {".".join(parts[: n + 1]) for n in range(len(parts))}
    return {name for name in names if file_of(name, package)}


def notebook_source(path: Path) -> str:
    """Returns the code of a notebook as plain Python, with magics made into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    python = []
    for cell in code:
        if cell.startswith("%%"):  # `%%time` and the like stand above Python
            cell = cell.partition("\n")[2]
        cell = TransformerManager().transform_cell(cell)
        with contextlib.suppress(SyntaxError):  # such a cell imports nothing
            ast.parse(cell)
            python.append(cell)
    return "\n".join(python)


def helper_files(notebook: Path) -> list[Path]:
    """Returns the helper modules that decide a notebook's outputs, followed through imports."""
    package = notebook.parent / PACKAGE
    found = {file for name in ALWAYS if (file := file_of(name, package))}
    names = imported_modules(notebook_source(notebook), package)
    todo = found | {file_of(name, package) for name in names}
    while todo:
        found |= todo
        names = set()
        for file in todo:
            inside = ".".join(file.parent.relative_to(package).parts)
            names |= imported_modules(file.read_text(encoding="utf-8"), package, inside)
        todo = {file_of(name, package) for name in names} - found
    return sorted(found)


def recorded_files(notebook: Path) -> list[Path]:
    """Returns the files of recorded results that a notebook names and that are there."""
    nodes = ast.walk(ast.parse(notebook_source(notebook)))
    named = {node.value for node in nodes if isinstance(node, ast.Constant)}
    files = sorted((notebook.parent.parent / RESULTS).glob("*.jsonl"))
    return [file for file in files if file.stem in named]


def data_source() -> list:
    """Describes the data that the chapters would run on, in a form that changes when it does."""
    value = os.environ.get("STATEFUL_TFF_DATA", "")
    place = Path(value).expanduser()
    if not value:
        import pooch

        place = Path(pooch.os_cache(PACKAGE))
    files = [place] if place.is_file() else sorted([*place.glob("*.*"), *place.glob("*/*.*")])
    stats = [(file.name, file.stat()) for file in files if file.suffix in (".zip", ".dat", ".csv")]
    return [value, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]


def digest(notebook: Path, root: Path) -> str:
    """Returns one number for everything but the notebook itself that decides its outputs."""
    lock = root / "requirements.txt"
    parts = [repr(data_source()).encode()]
    files = helper_files(notebook) + recorded_files(notebook)
    for file in [*files, *([lock] if lock.is_file() else [])]:
        parts += [str(file.relative_to(root)).encode(), file.read_bytes()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def refresh(root: Path) -> tuple[list[str], list[str]]:
    """Removes what is stale and stores the new digests.

    Args:
        root: the folder of the book, with `_config.yml`, `notebooks` and `_build`.

    Returns:
        The names of the chapters whose outputs were removed, and of those that have none.
    """
    from jupyter_cache import get_cache

    store = root / CACHE / "helper_digests.json"
    before = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    cache = get_cache(str(root / CACHE))
    after, stale, missing = {}, [], []
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        after[notebook.stem] = digest(notebook, root)
        if after[notebook.stem] != before.get(notebook.stem):
            # By name, because the book may have been moved; by content, because it may have
            # been renamed.
            records = cache.list_cache_records()
            keys = {record.pk for record in records if Path(record.uri).name == notebook.name}
            with contextlib.suppress(KeyError):
                keys.add(cache.match_cache_file(str(notebook)).pk)
            for key in keys:
                cache.remove_cache(key)
            stale += [notebook.stem] * bool(keys)
        try:
            cache.match_cache_file(str(notebook))
        except KeyError:
            missing.append(notebook.stem)
            (root / DOCTREES / "notebooks" / f"{notebook.stem}.doctree").unlink(missing_ok=True)
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps(after, indent=1) + "\n", encoding="utf-8")
    return stale, missing


def run_side_by_side(root: Path, chapters: list[str]) -> None:
    """Runs chapters that measure no time, and stores their outputs where the build looks.

    A chapter with a fault is not stored; the build runs it again and shows the fault.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.executors import load_executor

    cache = get_cache(str(root / CACHE))
    files = [root / "notebooks" / f"{name}.ipynb" for name in chapters]
    files = [str(file) for file in files if "perf_counter" not in notebook_source(file)]
    if len(files) < 2:
        return
    for file in reversed(files):  # later chapters take longer
        cache.add_nb_to_project(file)
    load_executor("local-parallel", cache=cache).run_and_cache(filter_uris=files, timeout=600)
    for file in files:
        cache.remove_nb_from_project(file)


def main() -> None:
    """Refreshes the cache of the book, says which chapters run again, and runs some of them."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    stale, missing = refresh(root)
    if stale:
        print(f"Helper code, packages or data have changed for: {', '.join(stale)}.")
    print(f"Chapters to run: {', '.join(missing) or 'none'}.", flush=True)
    run_side_by_side(root, missing)


if __name__ == "__main__":
    main()
