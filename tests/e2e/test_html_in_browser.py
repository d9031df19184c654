"""The HTML page in headless Chromium: it sorts, filters, opens tests, is usable by keyboard, and asks for nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_rssguard.model import Outcome
from pytest_rssguard.record import HeapMap, Record
from pytest_rssguard.reporters.html import render_html
from pytest_rssguard.reporters.order import worst_first
from pytest_rssguard.units import format_change, format_size
from tests.builders import KIB, MIB, record
from tests.made_up_run import ENVIRONMENT, made_up_run

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

_FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--window-size=1280,1400",
)  # fmt: skip
HOSTILE: Final = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    pytest.importorskip("selenium", reason="no selenium here (dependency group test)")
    from selenium.webdriver import ChromeOptions  # noqa: PLC0415 - only where there is one
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415
    from selenium.webdriver.chrome.webdriver import WebDriver  # noqa: PLC0415

    options = ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = WebDriver(options=options, service=Service(driver))
    yield browser
    browser.quit()


Show = Callable[..., "Page"]


class Page:
    """One page in the browser, seen as its reader sees it."""

    def __init__(self, browser: WebDriver) -> None:
        self.browser = browser

    def all(self, css: str) -> list[WebElement]:
        return self.browser.find_elements("css selector", css)

    def one(self, css: str) -> WebElement:
        (found,) = self.all(css)
        return found

    def script(self, text: str, *values: object) -> Any:  # noqa: ANN401 - what JavaScript returns
        return self.browser.execute_script(text, *values)

    def names(self) -> list[str]:
        return list(
            self.script("return [...document.querySelectorAll('#tests > tbody .toggle')].map(each => each.textContent)")
        )

    def cells(self, column: str) -> list[str]:
        heads = self.script("return [...document.querySelectorAll('#tests > thead th')].map(each => each.textContent)")
        return list(
            self.script(
                """return [...document.querySelectorAll('#tests > tbody > tr:not(.detail)')]
                     .map(row => row.cells[arguments[0]].textContent)""",
                heads.index(column),
            )
        )

    def sort(self, column: str) -> str:
        head = next(each for each in self.all("#tests > thead th[data-key]") if each.text.startswith(column))
        head.find_element("css selector", "button").click()
        return str(head.get_attribute("aria-sort"))

    def toggle(self, nodeid: str) -> WebElement:
        return next(each for each in self.all("#tests > tbody .toggle") if each.text == nodeid)

    def status(self) -> str:
        return self.one("#status").text

    def background(self, theme: str) -> str:
        self.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        return str(self.script("return getComputedStyle(document.body).backgroundColor"))


@pytest.fixture
def show(browser: WebDriver, tmp_path: Path) -> Iterator[Show]:
    """Show the page of records; afterwards require a silent console and no request but the page itself."""
    path = tmp_path / "report.html"

    def load(records: Sequence[Record], *, fragment: str = "") -> Page:
        path.write_text(render_html(records, ENVIRONMENT), encoding="utf-8")
        browser.get("about:blank")
        browser.get_log("performance")  # type: ignore[no-untyped-call]
        browser.get_log("browser")  # type: ignore[no-untyped-call]
        browser.get(path.as_uri() + fragment)
        return Page(browser)

    yield load
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    messages = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = {each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"}
    assert {url.partition("#")[0] for url in asked} <= {path.as_uri()}


RUN: Final = made_up_run(60, workers=2)


def test_the_worst_come_first_and_columns_sort_both_ways(show: Show) -> None:
    page = show(RUN)
    assert page.names() == [each.nodeid for each in worst_first(RUN)]
    assert page.sort("growth") == "descending"
    growth = {each.nodeid: each.growth for each in RUN}
    assert [growth[name] for name in page.names()] == sorted(growth.values(), reverse=True)
    assert page.sort("growth") == "ascending"
    assert [growth[name] for name in page.names()] == sorted(growth.values())
    assert page.sort("test") == "ascending"
    assert page.names() == sorted(growth)
    assert page.sort("order") == "ascending"
    assert page.names() == [each.nodeid for each in RUN]
    assert [each.get_attribute("aria-sort") for each in page.all("th[data-key]")].count("none") == 8


def test_outcomes_can_be_hidden_and_names_searched(show: Show) -> None:
    page = show(RUN)
    page.one("#outcomes input[value=returned]").click()
    bad = [each for each in RUN if each.outcome is not Outcome.RETURNED]
    assert sorted(page.names()) == sorted(each.nodeid for each in bad)
    assert page.status() == f"{len(bad)} of 60 tests"
    page.one("#query").send_keys("  BEHAVIOUR_5 ")
    assert all("behaviour_5" in name for name in page.names())
    page.one("#query").clear()
    page.one("#query").send_keys("RssLeak")
    assert sorted(page.names()) == sorted(each.nodeid for each in RUN if each.message.startswith("RssLeak"))
    page.one("#query").clear()
    page.one("#query").send_keys("no such test")
    assert page.status() == "0 of 60 tests"


def test_a_failing_test_opens_with_all_that_is_known(show: Show) -> None:
    made = next(each for each in RUN if each.pins and each.heap_map and each.released)
    assert made.released
    page = show(RUN)
    page.toggle(made.nodeid).click()
    detail = page.one("tr.detail").text
    for text in (
        made.message, f"{made.file}:{made.line}", "pinned by", "malloc_trim(0), after the verdict", "[heap]", "15,943",
        f"was predicted to return {format_size(made.released[0])}; it returned {format_size(made.released[1])}",
        format_change(made.rss_after - made.rss_before), "Heap map: main heap", "Heap map: thread arena",
    ):  # fmt: skip
        assert text in detail
    pages = sum(int(count) for state, count in re.findall(r"([LPTA.])(\d+)", made.heap_map[0].cells) if state == "P")
    assert f"pinned: {pages} pages, {format_size(pages * 4096)}" in detail
    assert page.toggle(made.nodeid).get_attribute("aria-expanded") == "true"
    page.toggle(made.nodeid).click()
    assert page.all("tr.detail") == []


def test_the_drawn_cells_of_a_heap_map_are_its_pages(show: Show) -> None:
    made = next(each for each in RUN if each.heap_map)
    page = show([made])
    page.toggle(made.nodeid).click()
    areas = page.script(
        """return Object.fromEntries([...document.querySelector('.heap').querySelectorAll('path')].map(path => [
             path.getAttribute('class'),
             [...path.getAttribute('d').matchAll(/h(\\d+)v1/g)].reduce((sum, each) => sum + Number(each[1]), 0)]))"""
    )
    names = {"L": "malloc_live", "P": "pinned", "T": "trimmable", "A": "arena_top", ".": "absent"}
    expected = dict.fromkeys(names.values(), 0)
    for state, count in re.findall(r"([LPTA.])(\d+)", made.heap_map[0].cells):
        expected[names[state]] += int(count)
    assert areas == {name: count for name, count in expected.items() if count}


def test_a_cell_of_several_pages_gives_no_sizes(show: Show) -> None:
    heap = HeapMap(name="main heap", start=1 << 40, page_size=4096, pages_per_cell=8, cells="L3P5.2")
    page = show([record("a", heap_map=(heap,))])
    page.toggle("a").click()
    section = next(each.text for each in page.all(".panels > section") if each.text.startswith("Heap map: main heap"))
    assert "a cell is 8 pages (32.0 KiB), drawn as what most of them are" in section
    assert "pinned: 5 of 10 cells (" in section


def test_bars_are_as_long_as_their_accounts(show: Show) -> None:
    made = record(
        "a", outcome=Outcome.LEAKED, growth=8 * MIB, held=12 * MIB, rss_settled=108 * MIB, tolerance=3 * MIB,
        accounts={**record().accounts, **dict(zip(record().accounts, (0, 12 * MIB, 0, 0, 0, -4 * MIB), strict=False))},
    )  # fmt: skip
    page = show([made])
    bar = page.script(
        """const bar = document.querySelector('#tests .bar');
           const width = name => Number(bar.querySelector('.' + name).getAttribute('width'));
           const x = name => Number(bar.querySelector('.' + name).getAttribute('x1'));
           return {live: width('malloc_live'), trimmable: width('trimmable'), zero: x('zero'), tick: x('tick')}"""
    )
    assert bar["live"] == pytest.approx(3 * bar["trimmable"])
    assert bar["zero"] == pytest.approx(bar["trimmable"])
    assert bar["tick"] - bar["zero"] == pytest.approx(bar["live"] / 4)


def test_sizes_read_as_everywhere_else(show: Show) -> None:
    sizes = [
        0, 1, -1, 1023, 1024, 1152, 1160, -1160, 10_235, 10_240, 102_348, 999 * KIB, 1_022_976, 1_023_487, 1_023_488, MIB,
        MIB * 9 // 8, MIB * 11 // 8, 80_000_000, MIB * 1000, (1 << 30) * 5 // 8, 1 << 40, (1 << 49) + 12_345, -(1 << 44),
        1_234_567, 12_345_678, 123_456_789, 1_056_964, 10 * KIB + 51, 100 * KIB - 52,
    ]  # fmt: skip
    page = show([record(f"t{at:02}", growth=size) for at, size in enumerate(sizes)])
    page.sort("test")
    assert page.cells("growth") == [format_change(size) for size in sizes]


def test_keys_alone_are_enough(show: Show) -> None:
    page = show(RUN)
    first = page.all("#tests > tbody .toggle")[0]
    first.send_keys("\ue007")  # Enter
    assert first.get_attribute("aria-expanded") == "true"
    page.all("#tests > thead button")[0].send_keys(" ")
    assert page.all("#tests > thead th")[0].get_attribute("aria-sort") == "descending"
    page.one("#outcomes input[value=returned]").send_keys(" ")
    assert page.status().endswith(" of 60 tests")


def test_what_is_drawn_is_also_said(show: Show) -> None:
    page = show(RUN)
    page.one("#open-failing").click()
    unnamed = page.script(
        """return [...document.querySelectorAll('svg')].filter(each =>
             each.getAttribute('aria-hidden') !== 'true' &&
             !(each.getAttribute('role') === 'img' && each.getAttribute('aria-label'))
           ).map(each => each.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    assert page.script("return document.documentElement.lang") == "en"
    assert page.script("return [...document.querySelectorAll('input')].filter(each => !each.labels.length).length") == 0
    controls = "[...document.querySelectorAll('[aria-controls]')].filter(each => each.getAttribute('aria-expanded') === 'true')"
    assert page.script(f"return {controls}.every(each => document.getElementById(each.getAttribute('aria-controls')))")


def test_the_line_has_a_lane_a_worker_and_opens_tests(show: Show) -> None:
    from selenium.webdriver import ActionChains  # noqa: PLC0415 - only where there is one

    page = show(RUN)
    assert [each.text for each in page.all("#lanes h3")] == ["worker gw0", "worker gw1"]
    lane = page.all("#lanes svg")[0]
    ActionChains(page.browser).move_to_element_with_offset(lane, lane.size["width"] // 2 - 10, 0).click().perform()
    last = [each for each in RUN if each.worker == "gw0"][-1]
    assert page.toggle(last.nodeid).get_attribute("aria-expanded") == "true"
    assert page.browser.current_url.endswith(f"#test={page.script('return encodeURIComponent(arguments[0])', last.nodeid)}")


def test_an_address_opens_its_test(show: Show) -> None:
    page = show(RUN, fragment=f"#test={RUN[7].nodeid}")
    assert page.toggle(RUN[7].nodeid).get_attribute("aria-expanded") == "true"


def test_both_themes_are_there(show: Show) -> None:
    page = show(RUN)
    assert page.background("light") == "rgb(255, 255, 255)"
    dark = page.background("dark")
    assert dark == "rgb(13, 17, 23)"
    page.background("light")


def test_it_fits_a_narrow_window(show: Show) -> None:
    page = show(RUN)
    page.browser.set_window_size(500, 900)
    try:
        page.all("#tests > tbody .toggle")[0].click()
        assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.browser.set_window_size(1280, 1400)


def test_hostile_names_are_only_text(show: Show) -> None:
    made = record(HOSTILE, outcome=Outcome.LEAKED, message=HOSTILE, text=f"{HOSTILE}\n{HOSTILE}", reason=HOSTILE,
                  mappings=((HOSTILE, 1, 2),), worker=HOSTILE)  # fmt: skip
    page = show([made])
    page.all("#tests > tbody .toggle")[0].click()
    assert page.names() == [HOSTILE]
    assert page.browser.title == "rssguard: 1 leaked"
    assert page.all("img") == []


def test_five_thousand_tests_are_usable(show: Show) -> None:
    run = made_up_run(5000, failing=120, workers=4)
    page = show(run)
    assert page.status() == "5,000 tests"
    assert len(page.names()) == 200
    page.one("#more").click()
    assert len(page.names()) == 400
    page.one("#query").send_keys("behaviour_4999[")
    assert page.names() == [run[4999].nodeid]
    page.one("#query").clear()
    page.one("#query").send_keys(" ")
    page.sort("growth")
    assert page.names()[0] == max(run, key=lambda each: each.growth).nodeid
    assert len(page.all("#lanes svg")) == 4
