"""Copies the address of the repository from `_config.yml` to wherever else it stands.

Usage: python tools/repository.py [--set URL | --stamp COMMIT]
`--set` writes the address into `_config.yml`, then into the copies; `make repository URL=…`
also brings the set-up cells of the notebooks to it. `--stamp` lets the set-up cells fetch
exactly one commit, and check its files. Without an option, the copies are brought to what
`_config.yml` says.
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLAB = "https://colab.research.google.com"
# Where the workflow `publish` puts the notebooks, each with the commit it belongs to.
BRANCH = "colab"
BADGES = re.compile(r"(?<=<!-- Colab badges -->\n).*?(?=<!-- end -->)", re.DOTALL)


def address(root: Path = ROOT) -> str:
    """Returns the address of the repository, or "" while there is none."""
    return re.search(r'(?m)^  url: "(.*)"$', (root / "_config.yml").read_text("utf-8"))[1]


def chapters(root: Path) -> list[Path]:
    """Returns the notebooks, in the order of the book."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def title(notebook: Path) -> str:
    """Returns the first heading of a notebook."""
    first = json.loads(notebook.read_text("utf-8"))["cells"][0]["source"]
    return "".join(first).partition("\n")[0].removeprefix("# ")


def badges(root: Path, url: str) -> str:
    """Returns one line per chapter with a badge that opens it in Colab."""
    if not url:
        return "Badges that open the chapters in Colab appear here with `make repository URL=…`.\n"
    place = f"{COLAB}/github/{'/'.join(url.split('/')[-2:])}/blob/{BRANCH}"
    lines = [
        f"- [![Open chapter {int(path.name[:2])} in Colab]({COLAB}/assets/colab-badge.svg)]"
        f"({place}/notebooks/{path.name}) {title(path)}\n"
        for path in chapters(root)
    ]
    return "\n" + "".join(lines) + "\n"


def texts(root: Path, url: str) -> dict[Path, str]:
    """Returns how each file that holds the address should read, the notebooks aside."""
    config, readme, citation = (
        (root / name).read_text("utf-8") for name in ("_config.yml", "README.md", "CITATION.cff")
    )
    config = re.sub(r'(?m)^  url: ".*"$', f'  url: "{url}"', config)
    config = re.sub(r'(?m)^  colab_url: ".*"$', f'  colab_url: "{COLAB if url else ""}"', config)
    config = re.sub(
        r"(?m)^  use_repository_button: \w+$",
        f"  use_repository_button: {str(bool(url)).lower()}",
        config,
    )
    citation = re.sub(r"(?m)^repository-code: .*\n", "", citation)
    if url:
        citation = re.sub(r"(?m)^(?=version: )", f'repository-code: "{url}"\n', citation)
    readme = BADGES.sub(lambda _: badges(root, url), readme)
    return {
        root / "_config.yml": config,
        root / "README.md": readme,
        root / "CITATION.cff": citation,
    }


def put(root: Path, url: str) -> None:
    """Writes the address into every file that holds it, the notebooks aside."""
    for path, text in texts(root, url).items():
        path.write_text(text, "utf-8")


def stale(root: Path = ROOT) -> list[str]:
    """Returns the names of the files that differ from what `_config.yml` says."""
    return [
        path.name
        for path, text in texts(root, address(root)).items()
        if path.read_text("utf-8") != text
    ]


def published(root: Path) -> list[str]:
    """Returns the names of the files that git keeps below a folder."""
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return [name for name in done.stdout.split("\0") if name]


def checksum(root: Path, names: list[str]) -> str:
    """Returns the SHA-256 of files by name, as the set-up cell counts it: without notebooks."""
    digest = hashlib.sha256()
    for name in sorted(name for name in names if not name.endswith(".ipynb")):
        digest.update(name.encode() + (root / name).read_bytes())
    return digest.hexdigest()


def stamp(root: Path, commit: str, digest: str) -> None:
    """Lets the set-up cells fetch one commit in place of the newest, and no other files.

    Args:
        root: the folder of the book.
        commit: its name.
        digest: the `checksum` of its files.
    """
    for path in chapters(root):
        text = path.read_text("utf-8")
        text, count = re.subn(
            r'(REPOSITORY, COMMIT, CHECKSUM = .*?, \\")main(\\", \\")\\"',
            rf'\g<1>{commit}\g<2>{digest}\\"',
            text,
        )
        if count != 1:
            raise ValueError(
                f"{path} has {count} set-up cells to stamp; `make export` puts in one."
            )
        path.write_text(text, "utf-8")


def checked(url: str) -> str:
    """Returns an address in its shortest form; ends with a sentence if it is none."""
    url = url.strip().rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        sys.exit(f"{url!r} is not https://github.com/OWNER/NAME, which is what Colab can open.")
    return url


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--set", url]:
            put(ROOT, checked(url))
        case ["--stamp", commit]:
            stamp(ROOT, commit, checksum(ROOT, published(ROOT)))
        case []:
            put(ROOT, address())
        case _:
            sys.exit(__doc__)
