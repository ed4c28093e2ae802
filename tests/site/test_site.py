"""The built site, looked at by a real browser and followed link by link.

The site is taken from the folder that STATEFUL_TFF_SITE names, else from _build/html. It is
served on 127.0.0.1; everything else is out of reach, so a page that needs the network fails.
"""

import functools
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parent.parent.parent
SITE = Path(os.environ.get("STATEFUL_TFF_SITE", ROOT / "_build/html"))

if not (SITE / "index.html").is_file():
    pytest.skip(f"no site in {SITE}: run `make book` first", allow_module_level=True)

PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if path.relative_to(SITE).parts[0] not in ("_static", "_sources", "index.html")
)
CHAPTERS = [page for page in PAGES if re.match(r"notebooks/\d\d_", page)]


@functools.cache
def soup(page):
    bs4 = pytest.importorskip("bs4")
    return bs4.BeautifulSoup((SITE / page).read_text(encoding="utf-8"), "html.parser")


def source(page):
    return (ROOT / page).with_suffix(".ipynb").read_text(encoding="utf-8")


def test_every_chapter_is_there():
    sources = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert {Path(page).stem for page in CHAPTERS} >= sources


def test_the_start_page_leads_to_the_introduction():
    text = (SITE / "index.html").read_text(encoding="utf-8")
    assert 'content="0; url=book/intro.html"' in text


@pytest.mark.parametrize("page", PAGES)
def test_page_loads_without_errors_and_without_a_network(look, page):
    assert look(page)["errors"] == []
    assert look(page)["outside"] == set(), "the page asks other servers"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_page_does_not_scroll_sideways(look, page, width):
    seen = look(page, width)
    assert seen["sticks out"] == []
    assert seen["width"] <= width


@pytest.mark.parametrize("page", PAGES)
def test_images_are_there_and_have_alt_text(look, page):
    assert look(page)["bad images"] == []


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_drawn(look, page):
    sources, drawn, wrong = look(page)["formulas"]
    assert wrong == 0
    assert drawn >= sources


@pytest.mark.parametrize("page", PAGES)
def test_no_cell_printed_an_error(page):
    found = soup(page).select(".output.stderr, .output.traceback, .output_error")
    assert [tag.get_text()[:200] for tag in found] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    broken = []
    for link in soup(page).select("a[href]"):
        href = link["href"]
        if urlsplit(href).scheme or href.startswith("//"):
            continue
        target, anchor = urldefrag(urljoin(page, href))
        target = unquote(urlsplit(target).path) or page
        file = SITE / target
        if not file.is_file():
            broken.append(href)
        elif anchor and file.suffix == ".html":
            if not soup(target).find(id=unquote(anchor)):
                broken.append(href)
    assert broken == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_download_button_gives_a_notebook_that_stands_alone(page):
    (link,) = {a["href"] for a in soup(page).select("a[href$='.ipynb']")}
    file = SITE / unquote(urljoin(page, link))
    sources = ["".join(cell["source"]) for cell in json.loads(file.read_text("utf-8"))["cells"]]
    assert sum("BOOK = " in text for text in sources) == 1
    assert not [text for text in sources if "{term}" in text or text.startswith(":::")]


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapter_links_its_terms(page):
    targets = {link["href"] for link in soup(page).select(".bd-article a[href*='#term-']")}
    assert targets, "no word is linked to the glossary"
    assert all("book/glossary.html#term-" in target for target in targets)


@pytest.mark.parametrize("page", [page for page in CHAPTERS if "load_ratings" in source(page)])
def test_chapter_says_which_data_it_ran_on(page):
    outputs = " ".join(tag.get_text() for tag in soup(page).select(".cell_output"))
    assert re.search(r"(?i)(synthetic|ml-1m|ml-latest-small|movielens)[^\n]*\busers\b", outputs)


def test_search_finds_client_state(visit):
    shown = visit("book/intro.html")
    shown.keyboard.press("Control+k")
    shown.locator("input[name=q]:visible").first.fill("client state")
    shown.keyboard.press("Enter")
    shown.wait_for_url("**/search.html?*")
    shown.locator("#search-results li a").first.wait_for()
    shown.wait_for_timeout(500)
    found = shown.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("glossary" in href for href in found)
    assert any("/notebooks/" in href for href in found)


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_text_can_be_read_in_both_color_schemes(visit, colors):
    """The contrast of plain text and of links is at least the 4.5 that WCAG asks for."""
    shown = visit("book/intro.html", colors=colors)
    ratios = shown.evaluate(
        """() => {
          const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
          const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= 0.03928
                ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
              return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const back = light(getComputedStyle(document.body).backgroundColor);
          return ['.bd-article p', '.bd-article a.reference', '.bd-article figcaption']
            .map(s => light(getComputedStyle(document.querySelector(s)).color))
            .map(front => (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05));
        }"""
    )
    assert min(ratios) >= 4.5
