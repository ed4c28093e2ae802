"""The book on paper: one document with live links, in which nothing is cut off."""

import re

import pytest
from bs4 import BeautifulSoup

from tools import print_book


@pytest.fixture(scope="module")
def book(site):
    return BeautifulSoup(print_book.whole_book(site, solutions=True), "html.parser")


def test_every_link_of_the_book_leads_to_a_place_in_it(book):
    ids = [tag["id"] for tag in book.select("[id]")]
    assert len(ids) == len(set(ids))
    inside = [tag["href"][1:] for tag in book.select("a[href^='#']")]
    assert len(inside) > 500
    assert set(inside) <= set(ids)
    others = [tag["href"] for tag in book.select("a[href]") if not tag["href"].startswith("#")]
    assert all(re.match(r"https?://|mailto:", address) for address in others)


def test_all_pages_are_there_in_the_order_of_the_contents(book):
    sections = [tag["id"] for tag in book.select(".printed-page")]
    assert sections == [print_book.anchor(page) for page in print_book.pages()]


def test_solutions_can_be_left_out(book, site):
    without = BeautifulSoup(print_book.whole_book(site, solutions=False), "html.parser")
    assert len(book.select(".solution")) >= 42
    assert not without.select(".solution")


@pytest.mark.parametrize("page", ["notebooks/04_core_process.html", "book/intro.html"])
def test_nothing_is_cut_off_on_paper(visit, page):
    """At the width of A4 between its margins, no code, table or figure is wider than the page."""
    shown = visit(page, width=650)
    shown.emulate_media(media="print")
    wide = shown.evaluate(
        """() => [...document.querySelectorAll('.bd-article :is(pre, img, svg, table, div)')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1
                     || (e.tagName === 'PRE' && e.scrollWidth > e.clientWidth + 1))
        .map(e => `${e.tagName}.${e.className}`).slice(0, 5)"""
    )
    assert wide == []
    assert shown.locator(".bd-sidebar-primary").is_hidden()


def test_a_page_prints_as_a_pdf_with_its_links(visit):
    data = visit("book/notation.html").pdf(format="A4", tagged=True, outline=True)
    assert data.startswith(b"%PDF") and len(data) > 20_000
