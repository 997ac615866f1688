"""The search page in a real browser against a real service.

Screenshots go to the folder that RETRIEVER_SCREENSHOTS names.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import pytest

from tests.server.conftest import EVIL

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def absent(reason: str) -> NoReturn:
    """Skip: a user's machine need not have a browser. In CI its absence is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def chromium() -> str:
    """Return the browser's path."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    absent("no Chromium here; install it, for instance with: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("no Playwright here; install it with: pip install playwright")
    with sync_playwright() as started:
        yield started.chromium


class Visit:
    """One page in a browser of its own, and everything that it asked for or complained of."""

    def __init__(self, page: Any, url: str, folder: Path) -> None:
        self.page = page
        self.url = url
        self.folder = folder
        self.urls: list[str] = []
        self.searches: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        page.route("**/*", self._record)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._listen)
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _record(self, route: Any) -> None:
        self.urls.append(route.request.url)
        if route.request.url.endswith("/v1/search"):
            self.searches.append(json.loads(route.request.post_data))
        route.continue_()

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, fragment: str = "") -> None:
        self.page.goto(f"{self.url}/{fragment}")
        self.page.wait_for_selector("#pipeline option", state="attached")

    def search(self, query: str) -> None:
        self.page.fill("#query", query)
        with self.answer():
            self.page.press("#query", "Enter")

    def answer(self) -> Any:
        return self.page.expect_response("**/v1/search")

    @property
    def titles(self) -> list[str]:
        self.page.wait_for_selector("body:not(.searching)")
        found: list[str] = self.page.locator(".card h2").all_text_contents()
        return found

    def shot(self, name: str) -> None:
        self.page.wait_for_selector("body:not(.searching)")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=self.folder / f"{name}.png")

    def overflow(self) -> int:
        width: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return width


MakeVisit = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any, chromium: str, service_url: str, tmp_path: Path) -> Iterator[MakeVisit]:
    """Return a function that opens a browser; afterwards nothing may have left the host."""
    folder = Path(os.environ.get("RETRIEVER_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    visits: list[Visit] = []
    with ExitStack() as stack:

        def begin(url: str = service_url, **options: Any) -> Visit:
            profile = tmp_path / f"profile-{len(visits)}"
            context = browser.launch_persistent_context(
                str(profile), executable_path=chromium, args=ARGUMENTS,
                **{"viewport": DESKTOP, "color_scheme": "light"} | options,
            )  # fmt: skip
            stack.callback(context.close)
            context.set_default_timeout(30_000)
            visits.append(Visit(context.pages[0], url, folder))
            return visits[-1]

        yield begin
        host = urlsplit(service_url).netloc
        for made in visits:
            assert made.urls
            assert {urlsplit(url).netloc for url in made.urls} == {host}
            assert [text for text in made.complaints if "status of 4" not in text] == []


def test_a_search_shows_documents_scores_and_timings(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    assert page.page.evaluate("document.activeElement.id") == "query"
    assert "documents" in page.page.text_content("#blank-title")
    page.shot("empty")
    page.search("parse a message")
    assert len(page.titles) == 10
    assert page.searches[-1] == {
        "query": "parse a message", "k": 10, "pipeline": "hybrid+rerank", "highlight": True,
    }  # fmt: skip
    assert page.page.text_content("#badge") == "exact"
    assert re.search(r"10 hits in [\d.]+ m?s · hybrid\+rerank", page.page.text_content("#count"))
    bars = page.page.locator(".card").first.locator(".bar b").all_text_contents()
    assert bars == ["BM25", "Dense", "Fusion", "Rerank"]
    widths = page.page.eval_on_selector_all(".bar i", "bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths
    assert all(8 <= width <= 100 for width in widths)
    marked = {text.lower() for text in page.page.locator("mark").all_text_contents()}
    assert any(word.startswith(("parse", "message")) for word in marked)
    page.page.click("#waterfall summary")
    stages = page.page.locator("#timings b").all_text_contents()
    assert stages == ["encode", "Dense", "BM25", "Fusion", "Rerank", "documents", "highlight"]
    page.shot("desktop")


def test_toggles_change_the_request(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("json")
    for stage, without in (("rerank", ["rerank"]), ("dense", ["dense", "rerank"])):
        with page.answer():
            page.page.click(f"label.chip.{stage}")
        assert page.searches[-1]["without"] == without
    # The answer is there before the page has shown it.
    page.page.wait_for_function("document.querySelectorAll('.bar.dense').length === 0")
    # One first stage must stay: leaving out the last one brings the other back.
    with page.answer():
        page.page.click("label.chip.bm25")
    assert page.searches[-1]["without"] == ["bm25", "rerank"]
    with page.answer():
        page.page.select_option("#pipeline", "bm25")
    assert page.searches[-1]["pipeline"] == "bm25"
    assert page.page.is_disabled("#stages input[value=dense]")
    with page.answer():
        page.page.fill("#k", "3")
        page.page.press("#k", "Tab")
    assert page.searches[-1]["k"] == 3


def test_markup_in_documents_stays_text(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("zanzibar")
    position = page.titles.index(EVIL.title)
    card = page.page.locator(".card").nth(position)
    assert card.locator(".id").text_content() == EVIL.id
    assert card.locator(".text").text_content() == EVIL.text
    # Positions count characters, though this text begins with two that JavaScript counts twice.
    assert card.locator("mark").all_text_contents() == ["zanzibar", "zanzibar"]
    assert f"module: {EVIL.metadata['module']}" in card.locator(".tag").all_text_contents()
    assert page.page.locator("main script, #results img").count() == 0
    assert page.page.title().startswith("zanzibar")
    page.page.goto(f"{page.url}/#q={quote(EVIL.title)}")
    page.page.wait_for_timeout(500)
    assert page.page.locator("#results img").count() == 0
    page.shot("markup")


def test_the_filter_box_checks_json_and_the_service_checks_fields(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.page.click("#filter-toggle")
    page.page.fill("#filter", '{"kind": ')
    assert "Not JSON yet" in page.page.text_content("#filter-problem")
    page.page.fill("#query", "json")
    page.page.press("#query", "Enter")
    page.page.wait_for_timeout(200)
    assert page.searches == []
    page.page.fill("#filter", '["kind"]')
    assert "object" in page.page.text_content("#filter-problem")
    page.page.fill("#filter", '{"kind": "class"}')
    assert page.page.text_content("#filter-problem") == ""
    page.search("json")
    assert page.searches[-1]["filter"] == {"kind": "class"}
    kinds = {text for text in page.page.locator(".tag").all_text_contents() if text.startswith("kind")}
    assert kinds == {"kind: class"} | {"kind: keyword"}
    page.page.fill("#filter", '{"colour": "red"}')
    page.search("json")
    page.page.wait_for_selector("#problem")
    assert "'colour' is not a filterable field" in page.page.text_content("#problem-text")
    assert "422 invalid_input" in page.page.text_content("#problem-detail")
    page.shot("error")
    # A search that works takes the complaint away.
    page.page.fill("#filter", "")
    page.search("json")
    assert page.titles
    assert page.page.is_hidden("#problem")


def test_a_tag_becomes_a_filter(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("parse a message")
    tag = page.page.locator(".card button.tag", has_text="module: ").first
    module = tag.text_content().removeprefix("module: ")
    with page.answer():
        tag.click()
    assert page.searches[-1]["filter"] == {"module": module}
    assert page.titles
    tags = page.page.locator(".card button.tag", has_text="module: ").all_text_contents()
    assert set(tags) == {f"module: {module}"}


def test_the_address_repeats_the_search(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("zip archive")
    with page.answer():
        page.page.click("label.chip.dense")
    address = page.page.url
    titles = page.titles
    other = visit()
    with other.answer():
        other.page.goto(address)
    assert other.titles == titles
    assert other.searches == [page.searches[-1]]
    # And so does going back.
    with page.answer():
        page.page.go_back()
    assert page.page.is_checked("#stages input[value=dense]")
    assert "without" not in page.searches[-1]


def test_keys_move_between_cards(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("parse arguments")
    page.titles  # noqa: B018 - waits for the answer

    def focused() -> int:
        found: int = page.page.evaluate("[...document.querySelectorAll('.card')].indexOf(document.activeElement)")
        return found

    page.page.press("#query", "ArrowDown")
    assert focused() == 0
    page.page.keyboard.press("j")
    page.page.keyboard.press("ArrowDown")
    assert focused() == 2
    page.page.keyboard.press("k")
    assert focused() == 1
    page.page.keyboard.press("o")
    page.page.wait_for_function("document.querySelectorAll('.card.open').length === 1")
    page.page.keyboard.press("o")
    page.page.wait_for_function("document.querySelectorAll('.card.open').length === 0")
    page.page.keyboard.press("/")
    assert page.page.evaluate("document.activeElement.id") == "query"
    # In the box they are letters.
    page.page.keyboard.type("jk/")
    assert page.page.input_value("#query") == "jk/"


def test_what_an_answer_admits_is_shown(visit: MakeVisit) -> None:
    page = visit(color_scheme="dark")
    page.open("#pipeline=bm25")
    page.search("xqzzt")
    page.page.wait_for_selector("#blank")
    assert page.page.text_content("#blank-title") == "Nothing found"
    assert "No word of the query occurs" in page.page.text_content("#notes")
    page.shot("nothing-dark")
    page.page.select_option("#pipeline", "hybrid")
    page.search("json decoder " * 300)
    page.page.wait_for_selector("#badge.truncated")
    assert "longer than what was read" in page.page.text_content("#notes")
    page.search("csv dialect")
    page.shot("dark")


def test_a_stopped_service_is_an_error_state(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.page.route("**/v1/search", lambda route: route.abort())
    page.page.fill("#query", "json")
    page.page.press("#query", "Enter")
    page.page.wait_for_selector("#problem")
    assert "cannot be reached" in page.page.text_content("#problem-title")
    page.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_sideways_scrolling(visit: MakeVisit, scheme: str) -> None:
    page = visit(viewport=PHONE, color_scheme=scheme, has_touch=True, device_scale_factor=2)
    page.open()
    assert page.overflow() == 0
    page.search("zanzibar json " + "unbreakable" * 30)
    assert page.titles
    assert page.overflow() == 0
    page.page.click("#waterfall summary")
    page.page.click("#filter-toggle")
    page.page.locator(".card .text").first.click()
    assert page.overflow() == 0
    page.search("parse a message")
    page.page.click("#filter-toggle")
    page.shot(f"phone-{scheme}")


def test_the_key_is_asked_for_and_kept_for_the_tab(visit: MakeVisit, service_url: str) -> None:
    page = visit()
    keys: list[str | None] = []

    def guard(route: Any) -> None:
        keys.append(route.request.headers.get("authorization"))
        if keys[-1] == "Bearer sesame":
            route.fallback()
        else:
            route.fulfill(
                status=401, content_type="application/json",
                body='{"error": {"message": "the API key is missing or wrong", "code": "unauthorized"}}',
            )  # fmt: skip

    page.page.route("**/v1/**", guard)
    page.page.goto(service_url)
    page.page.wait_for_selector("#key-form")
    page.page.fill("#key", "wrong")
    page.page.press("#key", "Enter")
    page.page.wait_for_selector("#key-form")
    page.page.fill("#key", "sesame")
    page.page.press("#key", "Enter")
    page.page.wait_for_selector("#pipeline option", state="attached")
    page.search("json")
    assert page.titles
    assert keys[0] is None
    assert keys[1] == "Bearer wrong"
    assert set(keys[2:]) == {"Bearer sesame"}
