"""Prints the built site as one PDF, with bookmarks, live links and page numbers.

Usage: python tools/print_book.py SITE PDF [--without-solutions]
All pages go into one document in the order of the table of contents, and Chromium prints it with
the rules for print in book/_static/book.css, which a reader's own print button uses, too.
"""

import argparse
import functools
import http.server
import re
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BOOK = "print.html"
FOOTER = (
    '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
)
# What belongs to a screen: heading anchors, buttons, players, folded code.
SCREEN_ONLY = ".headerlink, .copybtn, script, details.hide, .round-player, .packing-player, .search"


def pages() -> list[str]:
    """Returns the paths of all pages in the order of the book, such as "book/intro.html"."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [contents["root"]]
    files += [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [f"{file}.html" for file in files]


def anchor(page: str, name: str = "") -> str:
    """Returns the id by which one document knows a place of a page."""
    return re.sub(r"\W", "-", page.removesuffix(".html")) + (f"--{name}" if name else "")


def article(site: Path, page: str, known: set[str], solutions: bool):
    """Returns the text of a page, its ids and links those of one document."""
    found = BeautifulSoup((site / page).read_text("utf-8"), "html.parser")
    text = found.select_one("article.bd-article")
    for tag in text.select(SCREEN_ONLY + ("" if solutions else ", .solution")):
        tag.decompose()
    for tag in text.select("[id]"):
        if tag["id"] in ("exercise-content", "solution-content", "proof-content"):
            del tag["id"]  # the same in every box, and no link leads there
        else:
            tag["id"] = anchor(page, tag["id"])
    for tag in text.select("img[src]"):
        tag["src"] = urljoin(page, tag["src"])
        tag["loading"] = "eager"
    for tag in text.select("a[href]"):
        target, place = urldefrag(urljoin(page, tag["href"]))
        if target in known:
            tag["href"] = "#" + anchor(target, place)
        elif "://" not in target:
            tag.unwrap()  # a file beside the site
    text.name, text["id"], text["class"] = "section", anchor(page), "bd-article printed-page"
    return text


def whole_book(site: Path, solutions: bool) -> str:
    """Returns one document that holds all pages."""
    order = pages()
    book = BeautifulSoup((site / order[0]).read_text("utf-8"), "html.parser")
    for tag in book.select("link[href], script[src]"):
        name = "href" if tag.name == "link" else "src"
        tag[name] = urljoin(order[0], tag[name])
        if tag.name == "script" and "mathjax" not in tag[name]:
            tag.decompose()
    book.html["data-theme"] = "light"
    book.body.clear()
    main = book.new_tag("main", attrs={"class": "bd-main printed-book"})
    book.body.append(main)
    for page in order:
        main.append(article(site, page, set(order), solutions))
    return str(book)


def print_book(site: Path, out: Path, solutions: bool = True) -> None:
    """Writes the PDF.

    Args:
        site: the folder of the built site.
        out: the PDF's path.
        solutions: whether solutions of exercises are printed.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("Chromium prints the book, and there is none; install chromium.")
    if not (site / "index.html").is_file():
        sys.exit(f"There is no site in {site}: run `make book` first.")
    (site / BOOK).write_text(whole_book(site, solutions), "utf-8")
    handler = functools.partial(Quiet, directory=str(site))
    try:
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with sync_playwright() as playwright:
                flags = ["--headless", "--no-sandbox", "--disable-gpu"]
                chromium = playwright.chromium.launch(executable_path=browser, args=flags)
                page = chromium.new_page()
                page.set_default_timeout(300_000)
                page.goto(f"http://127.0.0.1:{server.server_port}/{BOOK}", wait_until="load")
                page.evaluate("async () => { await MathJax.startup.promise; }")
                page.evaluate("() => Promise.allSettled([...document.images].map(i => i.decode()))")
                page.pdf(
                    path=out, format="A4", outline=True, tagged=True, print_background=True,
                    display_header_footer=True, header_template="<span></span>",
                    footer_template=FOOTER,
                    margin=dict(top="18mm", bottom="18mm", left="18mm", right="18mm"),
                )  # fmt: skip
                chromium.close()
            server.shutdown()
    finally:
        (site / BOOK).unlink()
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_):
        """Says nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("pdf", type=Path)
    parser.add_argument("--without-solutions", action="store_true")
    options = parser.parse_args()
    print_book(options.site.resolve(), options.pdf.resolve(), not options.without_solutions)
