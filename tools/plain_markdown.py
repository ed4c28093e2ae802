"""Turns the text of chapters, which is MyST, into plain Markdown that every notebook shows.

Roles become words or links, boxes become quotations, figures are put in as PNG, solutions are
folded or left out. Figures, boxes and equations are numbered as the site numbers them.
"""

import base64
import functools
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^(:{3,})\{([^}]+)\}(.*)\n((?:.*\n)*?)\1[ ]*$", re.M)
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]+)`")
EQUATION = re.compile(r"^\$\$[ ]*\(([\w-]+)\)[ ]*$", re.M)
TARGET = re.compile(r"^\(([\w-]+)\)=\n", re.M)
BOXES = {"prf:observation": "Observation", "prf:algorithm": "Algorithm", "prf:theorem": "Theorem"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def source(cell: dict) -> str:
    """Returns the text of a cell, whether it is kept whole or in lines."""
    return "".join(cell["source"])


@functools.cache
def bibliography() -> dict[str, tuple[str, str]]:
    """Returns who wrote each entry of the bibliography, in short, and when."""
    text, found = (ROOT / "book" / "references.bib").read_text("utf-8"), {}
    for key, body in re.findall(r"@\w+\{([^,]+),(.*?)\n\}", text, re.DOTALL):
        author = re.search(r"author\s*=\s*\{(.+?)\},?\n", body, re.DOTALL)
        year = re.search(r"year\s*=\s*\{?(\d{4})", body)
        people = re.split(r"\s+and\s+", author[1]) if author else [key]
        names = [re.sub(r"[{}]", "", one).split(",")[0].strip() for one in people]
        who = names[0] if len(names) == 1 else f"{names[0]} et al."
        found[key.strip()] = (
            " and ".join(names) if len(names) == 2 else who,
            year[1] if year else "",
        )
    return found


@functools.cache
def titles() -> dict[str, str]:
    """Returns the heading of every page, by its path without an ending."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        first = source(json.loads(path.read_text("utf-8"))["cells"][0])
        found[f"notebooks/{path.stem}"] = first.partition("\n")[0].removeprefix("# ")
    for path in sorted((ROOT / "book").glob("*.md")):
        first = next(line for line in path.read_text("utf-8").split("\n") if line.startswith("# "))
        found[f"book/{path.stem}"] = first.removeprefix("# ")
    return found


def options_of(body: str) -> tuple[dict, str]:
    """Returns the options in the first lines of a box, and the rest."""
    lines, options = body.split("\n"), {}
    while lines and (option := re.fullmatch(r":([\w-]+):\s*(.*)", lines[0])):
        options[option[1]] = option[2]
        lines.pop(0)
    return options, "\n".join(lines).strip()


@functools.cache
def labels() -> dict[str, tuple[str, str]]:
    """Returns what every label of the book stands for, such as ("Fig.", "4.1")."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        counts = {}
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            figure = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
            named = [("Fig.", figure)] if figure else []
            if cell["cell_type"] == "markdown":
                for match in BLOCK.finditer(source(cell)):
                    options, _ = options_of(match[4])
                    kind = "Fig." if match[2] == "figure" else BOXES.get(match[2])
                    label = options.get("label") or options.get("name")
                    named += [(kind, label)] if kind and label else []
                named += [("Equation", label) for label in EQUATION.findall(source(cell))]
            for kind, label in named:
                counts[kind] = counts.get(kind, 0) + 1
                found[label] = kind, f"{int(path.name[:2])}.{counts[kind]}"
    return found


@functools.cache
def png(svg: Path) -> str:
    """Returns a drawing as a PNG in base64, since Colab shows no SVG in texts."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("Drawings become PNG in Chromium, and there is none; install chromium.")
    box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', svg.read_text("utf-8"))
    width, height = (int(float(size)) for size in box.groups())
    with tempfile.TemporaryDirectory() as folder:
        page, out = Path(folder, "page.html"), Path(folder, "out.png")
        page.write_text(f'<body style="margin:0"><img src="{svg}" width="{width}">', "utf-8")
        flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars".split()
        subprocess.run(
            [browser, *flags, "--force-device-scale-factor=1.5", f"--screenshot={out}"]
            + [f"--window-size={width},{height + 1}", page.as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )
        return base64.b64encode(out.read_bytes()).decode()


class PlainText:
    """Turns texts of chapters into plain Markdown.

    Args:
        site: the address of the site, for links; without one, links become words.
        solutions: "fold" or "drop".
    """

    def __init__(self, site: str = "", solutions: str = "fold"):
        """See the class."""
        self.site, self.solutions = site.rstrip("/"), solutions

    def markdown(self, text: str) -> str:
        """Returns the text of a cell as plain Markdown; "" where nothing is left of it."""
        text = TARGET.sub("", text)
        text = BLOCK.sub(self._block, text)
        text = ROLE.sub(self._role, text)
        text = EQUATION.sub(self._numbered_equation, text)
        return text.strip()

    def caption(self, cell: dict) -> str:
        """Returns the caption of the figure that a code cell draws; "" if it draws none."""
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if not figure:
            return ""
        kind, number = labels()[figure["name"]]
        text = ROLE.sub(self._role, " ".join(figure["caption"].split()))
        return f"*{kind} {number}. {text}*"

    def _numbered_equation(self, match) -> str:
        return f"$$\n\n*Equation {labels()[match[1]][1]}*"

    def _link(self, text: str, page: str, anchor: str = "") -> str:
        return f"[{text}]({self.site}/{page}.html{anchor})" if self.site else text

    def _role(self, match) -> str:
        name, body = match[1], match[2]
        named = re.fullmatch(r"(.*?)\s*<(.+)>", body, re.DOTALL)
        text, target = (named[1], named[2]) if named else (body, body)
        if name == "term":
            return self._link(
                text, "book/glossary", f"#term-{re.sub(r'[^a-zA-Z0-9]+', '-', target)}"
            )
        if name == "doc":
            page = target.lstrip("/") if target.startswith("/") else f"notebooks/{target}"
            return self._link(text if named else titles()[page], page)
        if name in ("numref", "prf:ref", "eq"):
            kind, number = labels()[target]
            if named:
                return text
            return f"({number})" if name == "eq" else f"{kind} {number}"
        if name in ("cite:p", "cite:t"):
            works = [bibliography()[key.strip()] for key in body.split(",")]
            if name == "cite:t":
                return ", ".join(f"{who} ({year})" for who, year in works)
            return f"({'; '.join(f'{who}, {year}' for who, year in works)})"
        if name == "ref":
            return text
        raise ValueError(f"The role {{{name}}} has no plain form; give it one in {__file__}.")

    def _block(self, match) -> str:
        name, title = match[2], match[3].strip()
        options, body = options_of(match[4])
        if name == "exercise":
            number = options.get("label", "").removeprefix("ex-").replace("-", ".")
            return f"### Exercise {number}: {title}\n\n{body}"
        if name == "solution":
            if self.solutions == "drop":
                return ""
            summary = "<summary><b>Solution</b>, folded: try first</summary>"
            return f"<details>\n{summary}\n\n{body}\n\n</details>"
        if name == "figure":
            data = png((ROOT / "notebooks" / title).resolve())
            kind, number = labels()[options["name"]]
            picture = f"![{options.get('alt', '')}](data:image/png;base64,{data})"
            return f"{picture}\n\n*{kind} {number}. {body}*"
        if name in BOXES:
            kind, number = labels().get(options.get("label"), (BOXES[name], ""))
            title = f"{kind} {number} {title}".replace("  ", " ").strip()
        elif name == "note":
            title = title or "Note"
        elif name != "admonition":
            raise ValueError(f"The box {{{name}}} has no plain form; give it one in {__file__}.")
        quoted = "\n".join(f"> {line}".rstrip() for line in body.split("\n"))
        return f"> **{title}**\n>\n{quoted}"
