"""The pages around the chapters say what is true: names, terms, references, licences."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "book").glob("*.md"))
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def text_of(path):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


MEMBERS_OF_A_MODEL = {
    "report_local_outputs",
    "federated_output_computation",
    "report_local_unfinalized_metrics",
    "metric_finalizers",
    "reset_metrics",
}


def rows():
    """The rows of the tables in "From 2021 to today": the section's title and three cells."""
    section = ""
    for line in text_of(ROOT / "book/2021_to_today.md").splitlines():
        if line.startswith("## "):
            section = line[3:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "in 2021":
            yield section, *cells


def names(section, cell):
    """The names of TFF in a cell, without the arguments they are called with."""
    if section != "Models and learning":
        return re.findall(r"\btff(?:\.\w+)+", cell)
    found = set(re.findall(r"`([\w.]+)`", cell)) - MEMBERS_OF_A_MODEL
    return [f"tff.learning.{name}" for name in found if not name.startswith("tf.")]


def exists(name):
    import tensorflow_federated as tff

    found = tff
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return found is not None


NAMES_OF_TODAY = sorted(
    {
        name
        for section, old, new, _ in rows()
        for name in names(section, old if new == "same" else new)
    }
)
NAMES_OF_2021 = sorted(
    {name for section, old, _, _ in rows() for name in names(section, old)} - set(NAMES_OF_TODAY)
)


def test_there_are_names_to_check():
    assert len(NAMES_OF_TODAY) > 20
    assert len(NAMES_OF_2021) > 8


@pytest.mark.parametrize("name", NAMES_OF_TODAY)
def test_names_of_today_exist(name):
    assert exists(name)


@pytest.mark.parametrize("name", sorted(set(NAMES_OF_2021) - {"tff.to_type"}))
def test_names_of_2021_are_gone(name):
    assert not exists(name)


def test_to_type_no_longer_reads_tensorflow_specs():
    import tensorflow as tf
    import tensorflow_federated as tff

    with pytest.raises(TypeError, match="Unable to interpret an argument of type"):
        tff.to_type(tf.TensorSpec([3], tf.float32))
    assert str(tff.types.tensorflow_to_type(tf.TensorSpec([3], tf.float32))) == "float32[3]"


def test_tensorflow_dtypes_are_refused_as_the_pages_say():
    import tensorflow as tf
    import tensorflow_federated as tff

    with pytest.raises(NotImplementedError, match="Unexpected `dtype` found: <dtype: 'float32'>"):
        tff.TensorType(tf.float32)
    with pytest.raises(TypeError, match="as a type spec"):
        tff.FederatedType(tf.float32, tff.CLIENTS)


def test_the_execution_context_has_its_new_name():
    native = "tff.backends.native"
    assert exists(f"{native}.set_sync_local_cpp_execution_context")
    assert not exists(f"{native}.set_local_execution_context")


def test_required_members_of_a_model_are_those_of_the_table():
    import tensorflow_federated as tff

    with pytest.raises(TypeError, match="Can't instantiate abstract class") as error:
        type("Model", (tff.learning.models.VariableModel,), {})()
    for member in ("report_local_unfinalized_metrics", "metric_finalizers", "reset_metrics"):
        assert member in str(error.value)


def test_every_reference_is_cited_somewhere():
    keys = re.findall(r"(?m)^@\w+\{([\w-]+),", text_of(ROOT / "book/references.bib"))
    assert len(keys) == len(set(keys))
    cited = set()
    for path in [*PAGES, *CHAPTERS]:
        for group in re.findall(r"\{cite:?\w*\}`([^`]+)`", text_of(path)):
            cited |= {key.strip() for key in group.split(",")}
    assert set(keys) == cited


def test_every_page_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)(?:root|file): (\S+)", toc))
    there = {path.relative_to(ROOT).with_suffix("").as_posix() for path in [*PAGES, *CHAPTERS]}
    assert there <= listed


def test_every_chapter_has_a_card_for_teachers():
    """Each with its parts, and with exercises of its own chapter."""
    page = text_of(ROOT / "book" / "teaching.md")
    cards = dict(re.findall(r"(?ms)^### (\d+) · .*?\n(.*?)(?=^##)", page))
    chapters = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert [int(number) for number in cards] == [int(path.name[:2]) for path in chapters]
    for number, card in cards.items():
        for part in ("Outcomes", "Misconception:", "Live:", "Skip:", "Discuss:"):
            assert f"**{part}" in card, (number, part)
        for exercise in re.findall(r"\b(\d+)\.[123]\b", card):
            assert exercise == number


def test_every_target_of_make_on_the_install_page_exists():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    for path in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        named = set(re.findall(r"`make ([a-z-]+)`", text_of(path)))
        assert named <= targets, path.name


def test_citation_file_is_complete():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == ["Apache-2.0", "CC-BY-4.0"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in pyproject


def test_pages_name_no_machine():
    for path in [*PAGES, *CHAPTERS, ROOT / "_config.yml", ROOT / "CONTRIBUTING.md"]:
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp/w)/", text_of(path)), path.name


def spoken(source):
    """The string constants of some Python code, with a gap for each value put in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                getattr(part, "value", "…") if isinstance(part, ast.Constant) else "…"
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_our_own_messages_are_quoted_as_the_code_says_them():
    """Every quoted message that is ours is pieced together from string constants of the code."""
    code = [
        text
        for path in (ROOT / "notebooks/stateful_tff").rglob("*.py")
        for text in spoken(path.read_text(encoding="utf-8"))
    ]
    ours = (
        "Round … diverged: …. Lower the learning rates.",
        "… must be an optimizer of tff.learning.optimizers, such as build_sgdm(0.1), not ….",
        "The model of model_fn has no …; chapter 3 adds them.",
        "… is both local and global; it must be one of the two.",
        "… is neither local nor global, so nobody would keep it; name each variable of the model "
        "in one of the two groups.",
        "A cohort of … cannot be drawn from … clients; choose a size from 1 to ….",
        "Client … is named twice; name every client once.",
        "… predictions cannot be judged on … ratings.",
        "Client … was asked … times and returned … states; nothing of the round was kept.",
        "Client … is unknown: ids run from 0 to ….",
        "… is not a sound zip (…); download it again.",
        "Notice: this runs on synthetic ratings instead of MovieLens-1M. …",
        "The disk is full: the environment for TFF takes about 3 GB, so free some space and ….",
        "A download failed (…); check the network and …, which keeps what has arrived.",
        "A package that arrived is not, bit for bit, the one the book was tested with (…), so the "
        "download was damaged or changed on its way; …, and if it stays so, use another network "
        "or package index.",
        "TFF needs Python 3.10 or 3.11, and there is none here (…); install one, on Debian or "
        "Ubuntu with `apt install python3.11`, and ….",
        "The Python that ran your cells has ended (…) and its variables are gone; run the set-up "
        "cell and the cells after it again.",
        "This cell did not run to its end (…); run it again.",
        "STATEFUL_TFF_DATA names …, which holds no …; name a folder that holds the zip, or the "
        "word synthetic.",
    )
    page = text_of(ROOT / "book/troubleshooting.md")
    for message in ours:
        assert message in code, message
        pattern = ".*".join(map(re.escape, message.split("…")))
        assert re.search(pattern, page), message
