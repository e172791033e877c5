"""Walk through the built documentation site in a headless Chromium: `make test-browser`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urldefrag

import pytest

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

SITE = Path(__file__).parents[2] / "build" / "site"
PHONE, DESK = 400, 1280
pytestmark = pytest.mark.browser


def missing() -> str:
    """Say why the walk is impossible; empty if it is possible."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return (
            "Chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
        )
    return "" if (SITE / "index.html").exists() else f"{SITE} is not built; run `make site`"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """A browser. Without one, or without the site, tests are skipped; in CI, they fail."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def show(browser: webdriver.Chrome, url: str, *, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(url)


def links(browser: webdriver.Chrome) -> list[str]:
    """The addresses of all links of the page, as the browser resolves them."""
    return browser.execute_script("return [...document.querySelectorAll('a[href]')].map(each => each.href)")


def test_every_page_opens_by_its_links(browser: webdriver.Chrome) -> None:
    """No error in the console, no broken picture, no scrolling sideways, on a desk and on a phone."""
    start = (SITE / "index.html").as_uri()
    waiting, seen, problems = [start], {start}, []
    while waiting:
        url = waiting.pop()
        for width in (DESK, PHONE):
            show(browser, url, width=width)
            wide, window = browser.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            if wide > window:
                problems.append(f"{url}: {wide} pixels wide in a window of {window}")
        broken = browser.execute_script(
            "return [...document.images].filter(each => each.loading !== 'lazy' && !each.naturalWidth)"
            ".map(each => each.src)"
        )
        problems += [f"{url}: broken picture {each}" for each in broken]
        problems += [f"{url}: {each['message']}" for each in browser.get_log("browser")]
        for link in links(browser):
            target = urldefrag(link).url
            if target.startswith(SITE.as_uri()) and target.endswith(".html") and target not in seen:
                seen.add(target)
                waiting.append(target)
    assert problems == []
    made = {"genindex.html", "search.html", "py-modindex.html"}
    pages = {path.as_uri() for path in SITE.rglob("*.html") if path.name not in made}
    assert pages - seen == set()


def test_the_page_is_dark_in_the_dark(browser: webdriver.Chrome) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        show(browser, (SITE / "get-started.html").as_uri(), width=DESK, scheme=scheme)
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        colors[scheme] = int(color.removeprefix("rgb(").partition(",")[0])
    assert colors["dark"] < 60 < 200 < colors["light"]


def test_the_search_finds_a_page(browser: webdriver.Chrome) -> None:
    """The search works from files, without a server."""
    show(browser, (SITE / "search.html").as_uri() + "?q=near-duplicates", width=DESK)
    results = "return [...document.querySelectorAll('#search-results a')].map(each => each.href)"
    WebDriverWait(browser, 30).until(
        lambda _: any("guides/data.html" in link for link in browser.execute_script(results)),
        "the search did not find the guide",
    )
