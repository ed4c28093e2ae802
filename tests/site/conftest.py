"""The built site, served on 127.0.0.1, and a real browser that opens its pages.

The site is taken from the folder that STATEFUL_TFF_SITE names, else from _build/html.
"""

import contextlib
import functools
import http.server
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent.parent
SITE = Path(os.environ.get("STATEFUL_TFF_SITE", ROOT / "_build/html"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"

# Runs in the page: what sticks out to the right and has no box of its own to scroll in.
STICKS_OUT = """() => {
  const scrolls = e => ['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(e).overflowX);
  const inBox = e => { for (e = e.parentElement; e && e.tagName !== 'MAIN'; e = e.parentElement)
                         if (scrolls(e)) return true; return false; };
  return [...document.querySelectorAll('.bd-article *')]
    .filter(e => { const r = e.getBoundingClientRect();
                   return r.width > 1 && r.height > 1 && r.right > innerWidth + 1 && !inBox(e); })
    .map(e => `${e.tagName.toLowerCase()}.${e.className.baseVal ?? e.className}`).slice(0, 5);
}"""
SETTLED = """async () => {
  document.querySelectorAll('img').forEach(i => i.loading = 'eager');
  await Promise.allSettled([...document.images].map(i => i.decode()));
  await window.MathJax?.startup?.promise;
}"""
BAD_IMAGES = """() => [...document.images]
  .filter(i => !i.alt.trim() || (i.complete && i.naturalWidth === 0)).map(i => i.src)"""
FORMULAS = """() => [document.querySelectorAll('span.math, div.math').length,
  document.querySelectorAll('mjx-container').length,
  document.querySelectorAll('mjx-merror, [data-mjx-error]').length]"""


@pytest.fixture(scope="session")
def site():
    """The folder of the built site."""
    return SITE


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address():
    handler = functools.partial(QuietHandler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=FLAGS.split())
        yield browser
        browser.close()


class Visit:
    """One look at one page, with what the browser reported."""

    def __init__(self, browser, address, page, width=1280, colors="light", **options):
        self.errors, self.outside = [], set()
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=colors, **options
        )
        self.context.route("**/*", self._fence)
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        self.page.on("response", self._response)
        self.page.goto(address + page, wait_until="load")
        self.page.evaluate(SETTLED)

    def _fence(self, route):
        url = route.request.url
        if url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.add(urlsplit(url).netloc)
            route.abort()

    def _console(self, message):
        if message.type == "error" and message.location["url"].startswith(self.address):
            self.errors.append(f"console: {message.text}")

    def _response(self, response):
        if response.status >= 400:
            self.errors.append(f"{response.status}: {response.url}")

    def facts(self):
        """What the tests ask of a page."""
        return {
            "errors": self.errors,
            "outside": self.outside,
            "width": self.page.evaluate("() => document.documentElement.scrollWidth"),
            "sticks out": self.page.evaluate(STICKS_OUT),
            "bad images": self.page.evaluate(BAD_IMAGES),
            "formulas": self.page.evaluate(FORMULAS),
        }


@pytest.fixture(scope="session")
def look(browser, address):
    """Looks at a page once per width and remembers what it saw."""

    @functools.cache
    def facts(page, width=1280):
        visit = Visit(browser, address, page, width)
        try:
            return visit.facts()
        finally:
            visit.context.close()

    return facts


@pytest.fixture
def visit(browser, address):
    """Opens a page for a test of its own."""
    with contextlib.ExitStack() as stack:

        def go(page, **options):
            visit = Visit(browser, address, page, **options)
            stack.callback(visit.context.close)
            return visit.page

        yield go
