"""The page in a real browser without a screen: it asks its own server, marks the answer, fits, complains of nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.sessions.fake_session import FakeSession
from tests.browser import Scheme, Visit, new_visit
from tests.runtime.serving.running import Running, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDE, NARROW = 1280, 360
# Each of these signs is two in JavaScript's strings.
CONTEXT = "🙂🙂🙂 The bridge was built by Anna Berg.\n\n<b>The mill</b> by nobody."


def ask(seen: Visit, question: str, context: str) -> None:
    seen.page.get_by_label("Text", exact=True).fill(context)
    seen.page.get_by_label("Question").fill(question)
    seen.page.get_by_label("Question").press("Enter")
    seen.page.locator("#found, #error").locator("visible=true").first.wait_for()


@contextmanager
def visit(browser: Browser, server: Running, width: int = WIDE, scheme: Scheme = "light") -> Iterator[Visit]:
    with new_visit(browser, width, scheme) as seen:
        seen.page.goto(f"http://127.0.0.1:{server.port}/", wait_until="networkidle")
        yield seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_an_answer_is_marked_in_its_place(browser: Browser, one_server: Running, width: int, scheme: Scheme) -> None:
    asked = {"question": "Who built it?", "context": CONTEXT, "n_best": 5}
    answers = one_server("POST", "/v1/answer", asked).json["answers"]
    with visit(browser, one_server, width, scheme) as seen:
        ask(seen, "Who built it?", CONTEXT)
        marked, text = seen.page.locator("mark"), seen.page.locator("#text")
        assert marked.inner_text() == answers[0]["answer"] == seen.page.locator("#best").inner_text()
        assert text.text_content() == CONTEXT
        rows = seen.page.get_by_role("list").get_by_role("button")
        assert rows.count() == len(answers) == 5
        rows.nth(3).press("Enter")
        assert marked.text_content() == answers[3]["answer"]
        assert [row.get_attribute("aria-pressed") for row in rows.all()] == ["false"] * 3 + ["true", "false"]
        assert re.search(r"model\s*[\d.]+ ms", seen.page.locator("#timing").inner_text())
        assert "fake" in seen.page.locator("#model").inner_text()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        here = f"http://127.0.0.1:{one_server.port}/"
        assert seen.requests == [here, f"{here}v1/model", f"{here}v1/answer"]
        assert seen.complaints == []


def test_what_cannot_be_answered_is_told_in_its_place(browser: Browser, one_server: Running) -> None:
    with visit(browser, one_server) as seen:
        ask(seen, "?" * 40, CONTEXT)
        assert seen.page.get_by_role("alert").inner_text().startswith("the question has 40 tokens")


def test_light_and_dark_differ(browser: Browser, one_server: Running) -> None:
    looks = []
    schemes: tuple[Scheme, Scheme] = ("light", "dark")
    for scheme in schemes:
        with visit(browser, one_server, scheme=scheme) as seen:
            looks.append(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert looks[0] != looks[1]


def test_a_token_is_asked_for_where_one_is_needed(browser: Browser, windower: Windower, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("s" * 16)
    with (
        running(FakeSession(), windower, bearers=Bearers.read(tmp_path / "tokens")) as secured,
        visit(browser, secured) as seen,
    ):
        assert secured("POST", "/", {}).status == 401
        seen.page.get_by_label("Bearer token").fill("s" * 16)
        ask(seen, "Who built it?", CONTEXT)
        assert seen.page.locator("mark").count() == 1


def test_every_field_has_a_label_and_the_keyboard_reaches_all(browser: Browser, one_server: Running) -> None:
    with visit(browser, one_server) as seen:
        ask(seen, "Who built it?", CONTEXT)
        reached = []
        seen.page.locator("#context").focus()
        for _ in range(5):
            reached.append(seen.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
            seen.page.keyboard.press("Tab")
        assert reached == ["context", "question", "ask", "text", "BUTTON"]
        nameless = """() => [...document.querySelectorAll("input, textarea")].filter(
            (one) => !one.labels.length).map((one) => one.id)"""
        assert seen.page.evaluate(nameless) == []


def test_the_policy_allows_nothing_else(one_server: Running) -> None:
    got = one_server("GET", "/")
    policy = got.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert b"http://" not in got.body.replace(b"http://www.w3.org/2000/svg", b"")
    assert b" style=" not in got.body
    assert b" onclick=" not in got.body
