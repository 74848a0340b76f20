"""The whole site: built strictly, its links, and how its pages look in a browser."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import keras_metaformer as km
from docs.api_pages import public_modules
from docs.notebooks import EXTRAS
from tests.web.browser import APPLICATION, chromium

pytestmark = [pytest.mark.backend_independent, pytest.mark.large]

ROOT = Path(__file__).resolve().parents[2]
AXE = APPLICATION / "node_modules/axe-core/axe.min.js"
#: A page of each kind: prose, pictures, wide tables, code, signatures.
LOOKED_AT = (
    "index",
    "quickstart",
    "performance",
    "reference/blocks",
    "reference/zoo",
    "api/functions",
    "api/layers_mixers",
    "search",
)
#: Bytes of a page with all that it loads.
HEAVIEST = 500_000


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built pages. A warning of Sphinx is an error, with its text."""
    source = tmp_path_factory.mktemp("source")
    # The pages of the API are written beside the others; `include` looks above them.
    ignored = shutil.ignore_patterns("_build", "api", "__pycache__")
    shutil.copytree(ROOT / "docs", source / "docs", ignore=ignored)
    for file in ROOT.glob("*.md"):
        shutil.copy(file, source)
    built = source / "html"
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going"]
    finished = subprocess.run(
        [*command, "--quiet", "--builder", "html", str(source / "docs"), str(built)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return built


class _Links(HTMLParser):
    """What a page links to, what it loads, and the places in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.places.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script") and "src" in found:
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") == "stylesheet":
            self.loaded.append(found["href"])


@functools.cache
def _links(page: Path) -> _Links:
    parser = _Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def _files(page: Path, addresses: list[str]) -> Iterator[tuple[str, Path, str]]:
    for address in addresses:
        parts = urlsplit(address)
        if not parts.scheme and not parts.netloc:
            target = (page.parent / unquote(parts.path)) if parts.path else page
            yield address, target, unquote(parts.fragment)


def test_every_link_leads_somewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    broken = [
        (page.relative_to(site).as_posix(), address)
        for page in pages
        for address, file, place in _files(page, _links(page).links)
        if not file.is_file()
        or (place and file.suffix == ".html" and place not in _links(file).places)
    ]
    assert broken == []


def test_notebooks_are_offered_and_lead_to_pages(site):
    for name in EXTRAS:
        assert f"{name}.ipynb" in _links(site / f"{name}.html").links
        notebook = json.loads((site / f"{name}.ipynb").read_text("utf-8"))
        text = "".join("".join(cell["source"]) for cell in notebook["cells"])
        links = re.findall(r"\]\(([^)#:\s]+)[)#]", text)
        assert [link for link in links if not (site / link).is_file()] == []


def test_no_page_is_heavy_or_loads_from_elsewhere(site):
    """Also the search, with its index, that of all pages."""
    for page in site.rglob("*.html"):
        loaded = _links(page).loaded
        files = {file for _, file, _ in _files(page, loaded)}
        assert len(list(_files(page, loaded))) == len(loaded), page
        weight = sum(file.stat().st_size for file in {page, *files})
        if page.name == "search.html":
            weight += (site / "searchindex.js").stat().st_size
        assert weight < HEAVIEST, page


def test_every_public_name_is_there(site):
    text = "".join(page.read_text("utf-8") for page in (site / "api").glob("*.html"))
    described = set(re.findall(r'id="keras_metaformer\.([\w.]+)"', text))
    functions = [name for name in km.__all__ if callable(getattr(km, name))]
    assert set(functions) - described == set()
    for name, module in public_modules().items():
        for member in module.__all__:
            # One that has another page too is described there.
            is_seen = (
                f"{name}.{member}" in described or f"<code>{member}</code>" in text
            )
            assert is_seen or f'pre">{member}</span></code>: see' in text, member


@pytest.fixture(scope="module")
def browser(site):
    with chromium() as driver:
        yield driver


def _show(driver, address: str, width: int, scheme: str) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    driver.get(address)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_and_axe_finds_nothing(site, browser, width, scheme):
    if not AXE.is_file():
        pytest.skip("needs axe-core: make page")
    faults = {}
    for page in LOOKED_AT:
        _show(browser, (site / f"{page}.html").as_uri(), width, scheme)
        wide = browser.execute_script(
            "return document.documentElement.scrollWidth - window.innerWidth"
        )
        browser.execute_script(AXE.read_text("utf-8"))
        found = browser.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then("
            "  result => done(result.violations.map(violation => [violation.id,"
            "    violation.nodes.slice(0, 5).map(node => node.html)])),"
            "  error => done(String(error)));"
        )
        if found or wide > 0:
            faults[page] = found, wide
    assert faults == {}


def test_the_search_finds_a_name_without_a_server(site, browser):
    _show(browser, (site / "search.html").as_uri() + "?q=km.fold", 1280, "light")
    from selenium.webdriver.support.ui import WebDriverWait

    links = WebDriverWait(browser, 60).until(
        lambda driver: driver.execute_script(
            "return [...document.querySelectorAll('#search-results li a')]"
            ".map(link => link.getAttribute('href'))"
        )
    )
    assert any("api/functions.html" in link for link in links)


def test_the_zoo_is_sorted_by_a_click(site, browser):
    _show(browser, (site / "reference/zoo.html").as_uri(), 1280, "light")
    titles = browser.execute_script(
        "document.querySelectorAll('table.sortable th button')[1].click();"
        "return [...document.querySelectorAll('table.sortable tbody tr')]"
        ".map(row => parseFloat(row.cells[1].textContent))"
    )
    assert len(titles) == len(km.list_models())
    assert titles == sorted(titles)
