"""The directive `built-with`: what this copy of the book ran on.

It names the data and the versions, never a path of the machine, and the page that holds it is
read again in every build.
"""

import os
import platform
from importlib import metadata
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

PACKAGES = {
    "TensorFlow Federated": "tensorflow-federated",
    "TensorFlow": "tensorflow",
    "NumPy": "numpy",
}
DATA_SETS = {"ml-1m": "MovieLens-1M", "ml-latest-small": "MovieLens Latest Small"}


def data_source() -> str:
    """Says in words which data `load_ratings("auto")` is told to use."""
    value = os.environ.get("STATEFUL_TFF_DATA", "")
    if not value:
        return "chosen by load_ratings; each chapter prints which set that was"
    if value == "synthetic":
        return "the synthetic set"
    path = Path(value)
    found = [path.name] if path.is_file() else [entry.name for entry in path.glob("*")]
    for stem, name in DATA_SETS.items():
        if any(entry.removesuffix(".zip") == stem for entry in [*found, path.name]):
            return f"{name}, from a local copy"
    return "a local folder"


class BuiltWith(SphinxDirective):
    """A short list: data, Python, packages, processor cores."""

    def run(self) -> list[nodes.Node]:
        """Returns the list and marks the page as one to read again next time."""
        self.env.note_reread()
        facts = {"Data": data_source(), "Python": platform.python_version()}
        for name, package in PACKAGES.items():
            try:
                facts[name] = metadata.version(package)
            except metadata.PackageNotFoundError:
                facts[name] = "not installed"
        facts["Processor cores"] = str(os.cpu_count())
        items = [
            nodes.list_item(
                "", nodes.paragraph("", "", nodes.strong("", name), nodes.Text(f": {fact}"))
            )
            for name, fact in facts.items()
        ]
        return [nodes.bullet_list("", *items)]


def setup(app) -> dict:
    """Registers the directive with Sphinx."""
    app.add_directive("built-with", BuiltWith)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
