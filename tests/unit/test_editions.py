"""Notebooks that stand alone: plain text, all that they need inside, and a list of packages."""

import base64
import json
import lzma
import re
import sys
from pathlib import Path

import nbformat
import pytest
from packaging.utils import canonicalize_name

from tools import editions, runtime_lock
from tools.plain_markdown import PlainText, bibliography, labels, source

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MYST = re.compile(r"\{[a-z:]+\}`|^:{3}|^`{3}\{|^\([\w-]+\)=|^\$\$ *\(", re.M)


@pytest.fixture(autouse=True)
def without_a_browser(monkeypatch):
    monkeypatch.setattr("tools.plain_markdown.png", lambda svg: "UE5H")


@pytest.fixture(scope="module")
def carried():
    """What is carried along, packed once: it is the same for all that read no results."""
    return editions.carried(())


@pytest.fixture(autouse=True)
def packed_once(monkeypatch, carried):
    monkeypatch.setattr(editions, "carried", lambda results: carried)


def texts(notebook, kind="markdown"):
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("solutions", ["fold", "drop", "run"])
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_nothing_is_left_of_myst_and_every_exercise_stays(path, solutions):
    notebook = editions.edition(path, solutions=solutions)
    nbformat.validate(nbformat.from_dict(notebook))
    words, code = texts(notebook), texts(notebook, "code")
    assert not [found for text in words if (found := MYST.findall(text))]
    assert sum(text.count("### Exercise ") for text in words) == 3
    assert sum(text.count("<details>") for text in words) == (3 if solutions == "fold" else 0)
    assert sum("check(" in text for text in code) >= (6 if solutions == "run" else 3)
    assert not any(line.startswith("#|") for text in code for line in text.split("\n"))


def test_a_student_finds_no_solution_anywhere():
    original = json.loads(CHAPTERS[3].read_text("utf-8"))
    solved = [source(cell) for cell in original["cells"] if "{solution}" in source(cell)]
    answers = [editions.FENCE.search(text)[1].strip() for text in solved]
    assert len(answers) == 3
    student = "\n".join(texts(editions.edition(CHAPTERS[3], solutions="drop")))
    teacher = "\n".join(texts(editions.edition(CHAPTERS[3], solutions="run"), "code"))
    for answer in answers:
        assert answer not in student
        assert answer in teacher


def test_what_is_carried_is_what_is_here(monkeypatch):
    monkeypatch.undo()
    files = json.loads(lzma.decompress(base64.b64decode(editions.carried(("convergence",)))))
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "notebooks/stateful_tff").rglob("*.py")}
    results = "experiments/results/convergence.jsonl"
    assert set(files) == here | {"requirements-run.txt", results}
    assert all(text == (ROOT / path).read_text("utf-8") for path, text in files.items())


def test_the_set_up_cell_unpacks_the_package(carried, tmp_path, monkeypatch):
    """Run up to where TFF would be supplied."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    begin, end = (
        "try:\n    from stateful_tff import session",
        "    from stateful_tff import session\n\n",
    )
    code = editions.SET_UP.replace(begin, "try:\n    raise ModuleNotFoundError").partition(end)[0]
    exec(code, names := {"BOOK": carried})
    folder = names["folder"]
    assert sys.path[0] == str(folder / "notebooks")
    assert (folder / "notebooks/stateful_tff/session.py").read_bytes() == (
        ROOT / "notebooks/stateful_tff/session.py"
    ).read_bytes()
    assert (folder / "requirements-run.txt").is_file()


def test_a_chapter_without_a_set_up_cell_is_refused(tmp_path):
    path = tmp_path / "01_bare.ipynb"
    path.write_text(json.dumps(dict(cells=[], metadata={}, nbformat=4, nbformat_minor=5)))
    with pytest.raises(ValueError, match="has no set-up cell"):
        editions.edition(path)


@pytest.mark.parametrize(
    "text, plain",
    [
        ("a {term}`round` of {term}`rounds <round>`", "a round of rounds"),
        ("{cite:t}`singhal2021fedrecon` say", "Singhal et al. (2021) say"),
        ("so {cite:p}`tff,zhang2023pfedrec`", "so (The TFF Authors, 2024; Zhang et al., 2023)"),
        ("{numref}`fig-phones` and {eq}`eq-l2`", "Fig. 1.1 and (2.2)"),
        ("{prf:ref}`alg-round`", "Algorithm 4.1"),
        ("(open-port)=\nText {ref}`about it <open-port>`", "Text about it"),
        (":::{note}\nOne.\n\nTwo.\n:::", "> **Note**\n>\n> One.\n>\n> Two."),
        ("$$\nx\n$$ (eq-l2)", "$$\nx\n$$\n\n*Equation 2.2*"),
    ],
)
def test_plain_forms(text, plain):
    if "tff," in text:
        (who, year), (other, then) = bibliography()["tff"], bibliography()["zhang2023pfedrec"]
        plain = f"so ({who}, {year}; {other}, {then})"
    assert PlainText().markdown(text) == plain


def test_with_an_address_words_become_links():
    linked = PlainText("https://example.org/book/").markdown("{doc}`the data <01_data_pipeline>`")
    assert linked == "[the data](https://example.org/book/notebooks/01_data_pipeline.html)"


def test_an_unknown_role_is_refused_by_name():
    with pytest.raises(ValueError, match="role {kbd} has no plain form"):
        PlainText().markdown("{kbd}`x`")


def test_every_label_is_known():
    assert labels()["alg-round"] == ("Algorithm", "4.1")
    assert len(labels()) > 40


def test_the_list_for_running_is_part_of_the_lock():
    """The same versions and markers, only hashes of the lock, and all that TFF asks for."""
    lock = runtime_lock.LOCK.read_text("utf-8")
    run = runtime_lock.RUN.read_text("utf-8")
    pins = re.findall(r"(?m)^[\w.-]+==.*?(?= \\$)", run)
    assert set(pins) <= set(re.findall(r"(?m)^[\w.-]+==.*?(?= \\$)", lock))
    assert set(re.findall(r"sha256:\w+", run)) <= set(re.findall(r"sha256:\w+", lock))
    roots = runtime_lock.asked_for((ROOT / "requirements.in").read_text("utf-8"))
    assert {"tensorflow-federated", "ipykernel", "uv"} <= roots
    assert not {"jupyter-book", "pytest"} & roots
    needed = runtime_lock.needed(lock, roots)
    assert needed == pins
    names = {canonicalize_name(pin.partition("==")[0]) for pin in pins}
    assert {"jax", "tensorflow", "dp-accounting"} <= names
    assert not {"sphinx", "pytest", "playwright"} & names


def test_only_files_for_linux_are_listed():
    wheel = "https://x/numpy-1.25.2-cp3{}-cp3{}-{}.whl"
    files = dict(
        wheels=[
            dict(url=wheel.format(minor, minor, system), hashes=dict(sha256=f"{system} {minor}"))
            for minor in (9, 10, 11)
            for system in ("manylinux_2_17_x86_64", "win_amd64", "macosx_11_0_arm64")
        ],
        sdist=dict(url="x", hashes=dict(sha256="source")),
    )
    assert runtime_lock.fitting(files) == ["manylinux_2_17_x86_64 10", "manylinux_2_17_x86_64 11"]
    files["wheels"] = files["wheels"][1:3]
    assert runtime_lock.fitting(files) == ["source"]
