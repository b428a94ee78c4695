"""The report in a real browser without a screen: it loads nothing, says nothing on the console, hovers, fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from densepack_export.report.facts import ReportFacts, gather
from densepack_export.report.writing import write_report
from tests.browser import Scheme, Visit, new_visit
from tests.export.report.reports import benchmark, planted, renamed

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDE, NARROW = 1280, 400


@pytest.fixture(scope="module")
def report(default_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles with all that a page can hold, long names among it."""
    [bundle] = gather([default_bundle]).bundles
    second = renamed(bundle, "bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1", 81.0)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(ReportFacts((planted(bundle), second), (benchmark("bundle", second.name),)), path)
    return path


@contextmanager
def visit(browser: Browser, report: Path, width: int, scheme: Scheme = "light") -> Iterator[Visit]:
    with new_visit(browser, width, scheme) as seen:
        seen.page.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
        seen.page.goto(report.as_uri())
        yield seen


def test_a_report_needs_nothing_and_complains_of_nothing(browser: Browser, report: Path) -> None:
    with visit(browser, report, WIDE) as seen:
        seen.page.mouse.wheel(0, 3000)
        seen.page.wait_for_load_state("networkidle")
        assert seen.requests == [report.as_uri()]
        assert seen.complaints == []


def test_pointing_at_a_bar_shows_its_matrix(browser: Browser, report: Path) -> None:
    with visit(browser, report, WIDE) as seen:
        picture = seen.page.locator("svg:has(.matrix-bar)").first
        other = seen.page.locator("svg:has(.matrix-bar)").nth(1)
        shown, hint = picture.locator(".matrix-detail:visible"), picture.locator(".matrix-hint:visible")
        assert (shown.count(), hint.count()) == (0, 1)
        picture.locator('.matrix-bar[data-matrix="1-4"]').hover()
        assert (shown.count(), hint.count()) == (1, 0)
        assert shown.inner_html().count("<path") == 1
        assert (shown.text_content() or "").startswith("layer 1, FFN in: ")
        assert other.locator(".matrix-detail:visible").count() == 0, "the picture of another bundle"
        picture.locator('.matrix-bar[data-matrix="2-0"]').click()
        seen.page.mouse.move(0, 0)
        assert (shown.text_content() or "").startswith("layer 2, query: "), "a click keeps it"
        picture.locator('.matrix-bar[data-matrix="0-5"]').hover()
        assert shown.count() == 1
        assert (shown.text_content() or "").startswith("layer 0, FFN out: ")


def test_light_and_dark_differ(browser: Browser, report: Path) -> None:
    look = """() => ["body", "svg path", "svg text"].map(
        name => { const style = getComputedStyle(document.querySelector(name));
                  return [style.backgroundColor, style.color, style.fill].join(" ") })"""
    schemes: tuple[Scheme, Scheme] = ("light", "dark")
    looks = []
    for scheme in schemes:
        with visit(browser, report, WIDE, scheme) as seen:
            looks.append(seen.page.evaluate(look))
    assert looks[0][0] != looks[1][0], "the page"
    assert looks[0][2] != looks[1][2], "the texts of pictures"


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_page_itself_never_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:
    with visit(browser, report, width) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
