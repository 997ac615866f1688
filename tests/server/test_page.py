"""The search page in a real browser against a real service.

Screenshots go to the folder that RETRIEVER_SCREENSHOTS names.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    """One browser for the module; every visit has a context, and with it a storage, of its own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("no Playwright here; install it with: pip install playwright")
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        launched.close()


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
        if route.request.url.endswith("/search"):
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

    @contextmanager
    def answer(self) -> Iterator[Any]:
        """What is done in here asks for a search; afterwards its answer is shown."""
        with self.page.expect_response("**/v1/search") as response:
            yield response
        self.wait()

    def wait(self) -> None:
        """Wait until the answer is shown."""
        self.page.wait_for_selector("body:not(.searching)")

    @property
    def titles(self) -> list[str]:
        self.wait()
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
def visit(browser: Any, service_url: str, tmp_path: Path) -> Iterator[MakeVisit]:
    """Return a function that opens a page; afterwards nothing may have left the host."""
    folder = Path(os.environ.get("RETRIEVER_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    visits: list[Visit] = []
    with ExitStack() as stack:

        def begin(url: str = service_url, **options: Any) -> Visit:
            context = browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light"} | options)
            stack.callback(context.close)
            context.set_default_timeout(30_000)
            visits.append(Visit(context.new_page(), url, folder))
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
    page.page.wait_for_selector(".bar.dense", state="detached")
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
    page.wait()

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
    page.page.wait_for_selector(".card.open")
    page.page.keyboard.press("o")
    page.page.wait_for_selector(".card.open", state="detached")
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


def facet(page: Visit, field: str, value: str) -> Any:
    return page.page.locator(f".facet[aria-label='{field}'] .facet-value", has_text=value)


def test_facets_count_and_narrow(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("parse a message")
    with page.answer():
        page.page.click("#facets-toggle")
    assert page.searches[-1]["facets"] == ["module", "kind"]
    page.page.wait_for_selector(".facet-value")
    counted = int(facet(page, "kind", "class").locator("small").text_content())
    assert counted > 0
    assert re.fullmatch(r"Counted over 3\d\d documents that match\.", page.page.text_content("#facets-note"))
    with page.answer():
        facet(page, "kind", "class").click()
    assert page.searches[-1]["filter"] == {"kind": "class"}
    page.page.wait_for_selector(".facet-value[aria-pressed=true]")
    kinds = [text for text in page.page.locator(".card .tag").all_text_contents() if text.startswith("kind: ")]
    assert len(kinds) == min(10, counted)
    assert set(kinds) == {"kind: class"}
    # A range of numbers; and taking the value away again.
    with page.answer():
        page.page.fill("input[aria-label='lines from']", "20")
        page.page.press("input[aria-label='lines from']", "Tab")
    assert page.searches[-1]["filter"] == {"kind": "class", "lines": {"gte": 20}}
    page.page.wait_for_selector("body:not(.searching)")
    with page.answer():
        facet(page, "kind", "class").click()
    assert page.searches[-1]["filter"] == {"lines": {"gte": 20}}
    lines = [
        text.removeprefix("lines: ")
        for text in page.page.locator(".card .tag").all_text_contents()
        if "lines: " in text
    ]
    assert lines
    page.shot("facets")
    other = visit()
    with other.answer():
        other.page.goto(page.page.url)
    assert other.searches == [page.searches[-1]]
    assert other.page.input_value("input[aria-label='lines from']") == "20"
    with other.answer():
        other.page.click("#filter-clear")
    assert "filter" not in other.searches[-1]


def test_an_explanation_adds_up(visit: MakeVisit) -> None:
    page = visit()
    page.open("#pipeline=hybrid")
    page.search("parse a message")
    cards = page.page.locator(".card")
    position = next(i for i in range(10) if "not seen" not in cards.nth(i).locator(".bars").text_content())
    card = cards.nth(position)
    with page.answer():
        card.locator(".explain-button").click()
    assert page.searches[-1] == {
        "query": "parse a message", "k": 1, "offset": position, "pipeline": "hybrid", "explain": True,
        "include_documents": False,
    }  # fmt: skip
    card.locator(".explanation table").first.wait_for()
    stages, terms = card.locator(".explanation table").all()
    assert stages.locator("tbody th").all_text_contents() == ["BM25", "Dense", "Fusion"]
    assert stages.locator("tbody tr").nth(2).locator("td").first.text_content() == f"#{position + 1}"
    shown = float(stages.locator("tbody tr").first.locator("td").last.text_content())
    added = [float(text) for text in terms.locator("tbody td:last-child").all_text_contents()]
    assert sum(added) == pytest.approx(shown, rel=1e-3)
    assert {"pars", "messag"} >= set(terms.locator("code").all_text_contents())
    assert card.locator(".explain-button").get_attribute("aria-expanded") == "true"
    page.shot("explanation")
    # Closed and opened again it is not asked for again.
    before = len(page.searches)
    card.locator(".explain-button").click()
    assert card.locator(".explanation").is_hidden()
    card.locator(".explain-button").click()
    assert card.locator(".explanation table").first.is_visible()
    assert len(page.searches) == before


def test_two_pipelines_stand_side_by_side(visit: MakeVisit) -> None:
    page = visit()
    page.open("#pipeline=bm25&compare=hybrid&k=5")
    page.search("parse a message")
    page.page.wait_for_selector("#comparison .card")
    asked = sorted(page.searches, key=lambda body: str(body["pipeline"]))
    assert asked == [
        {"query": "parse a message", "k": 5, "pipeline": name, "highlight": True} for name in ("bm25", "hybrid")
    ]
    sides = page.page.locator(".side")
    assert sides.locator("h2").all_text_contents()[0] == "bm25"
    lists = [sides.nth(side).locator(".card h2").all_text_contents() for side in (0, 1)]
    assert [len(titles) for titles in lists] == [5, 5]
    shared = set(lists[0]) & set(lists[1])
    assert 0 < len(shared) < 5
    assert page.page.text_content("#overlap").startswith(f"{len(shared)} of 5 documents stand in both lists")
    assert page.page.locator(".side .card.alone").count() == 10 - 2 * len(shared)
    for side in (0, 1):
        for place, title in enumerate(lists[side]):
            said = sides.nth(side).locator(".card .other").nth(place).text_content()
            other = ("hybrid", "bm25")[side]
            if title not in shared:
                assert said == f"not in the first 5 of {other}"
            elif lists[1 - side].index(title) == place:
                assert said == f"same place in {other}"
            else:
                assert f"#{lists[1 - side].index(title) + 1} in {other}" in said
    page.shot("comparison")
    page.page.locator(".side .explain-button").last.click()
    page.page.wait_for_selector(".side .explanation table")
    assert page.searches[-1]["pipeline"] == "hybrid"
    assert page.searches[-1]["offset"] == 4
    # Keys go down a list and across.
    page.page.keyboard.press("Escape")
    focused = """[...document.querySelectorAll('.side')].findIndex(side => side.contains(document.activeElement))
        + ':' + [...document.activeElement.parentElement.children].indexOf(document.activeElement)"""
    page.page.keyboard.press("j")
    page.page.keyboard.press("j")
    assert page.page.evaluate(focused) == "0:1"
    page.page.keyboard.press("l")
    assert page.page.evaluate(focused) == "1:1"
    page.page.keyboard.press("j")
    page.page.keyboard.press("h")
    assert page.page.evaluate(focused) == "0:2"
    # Back to one list.
    with page.answer():
        page.page.select_option("#compare", "")
    assert len(page.titles) == 5
    assert page.page.is_hidden("#comparison")
    assert page.page.is_visible("#stages")


def test_the_overview_shows_indexes_and_numbers(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("json")
    page.page.click("#to-overview")
    page.page.wait_for_selector(".index-card .pairs")
    assert page.page.get_attribute("#to-overview", "aria-current") == "page"
    assert page.page.evaluate("document.activeElement.id") == "overview-title"
    card = page.page.locator(".index-card")
    assert card.locator("h3").text_content().startswith("index")
    facts = dict(zip(card.locator("dt").all_text_contents(), card.locator("dd").all_text_contents(), strict=True))
    assert facts["Documents"] == "301"
    assert facts["Encoder"] == "all-MiniLM-L6-v2"
    assert facts["Changes"] == "read only"
    tiles = dict(
        zip(
            page.page.locator("#tiles dt").all_text_contents(),
            page.page.locator("#tiles dd").all_text_contents(),
            strict=True,
        )
    )
    assert int(tiles["Queries"].replace(",", "")) > 0
    stages = page.page.locator("#stage-table tbody th").all_text_contents()
    assert {"Total", "BM25", "Dense", "Rerank"} <= set(stages)
    times = page.page.locator("#stage-table tbody td").all_text_contents()
    assert all(re.fullmatch(r"[\d,]+|(> )?[\d.]+ m?s", text) for text in times)
    assert page.page.locator("#model-table tbody th").all_text_contents() == ["all-MiniLM-L6-v2", "tiny-reranker"]
    page.page.wait_for_timeout(300)
    page.page.screenshot(path=page.folder / "overview.png", full_page=True)
    # Later numbers, after an answer in between.
    with page.page.expect_response("**/metrics"):
        page.page.click("#refresh")
    page.page.keyboard.press("v")
    assert page.page.is_visible("#search-view")
    assert len(page.titles) == 10
    page.page.go_back()
    page.page.wait_for_selector("#overview-view:not([hidden])")


def test_numbers_are_read_and_quantiles_lie_in_their_bucket(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    found = page.page.evaluate(
        r"""async () => {
            const { parseMetrics, quantile } = await import("/page/overview.js");
            const samples = parseMetrics('# HELP a b\na{x="1,\\"2\\"}",y=""} 3\nb 1e3\nc{le="+Inf"} +Inf\nnonsense\n');
            const buckets = [[0.1, 0], [0.2, 8], [0.5, 10], [Infinity, 10]];
            return [[...samples.keys()], samples.get("a")[0], samples.get("b")[0].value,
                    quantile({ buckets, count: 10 }, 0.5), quantile({ buckets, count: 10 }, 0.9),
                    quantile({ buckets: [[0.1, 0], [Infinity, 4]], count: 4 }, 0.5)];
        }"""
    )
    assert found[0] == ["a", "b", "c"]
    assert found[1] == {"labels": {"x": '1,"2"}', "y": ""}, "value": 3}
    assert found[2] == 1000
    assert found[3] == {"value": pytest.approx(0.1 + 0.1 * 5 / 8), "beyond": False}
    assert found[4] == {"value": pytest.approx(0.35), "beyond": False}
    assert found[5] == {"value": 0.1, "beyond": True}


def test_help_opens_by_key_and_keeps_other_keys_out(visit: MakeVisit) -> None:
    page = visit()
    page.open()
    page.search("json")
    page.wait()
    page.page.press("#query", "Escape")
    assert page.page.input_value("#query") == "json"
    page.page.keyboard.press("?")
    assert page.page.evaluate("document.getElementById('help').open")
    assert page.page.evaluate("document.activeElement.id") == "help-close"
    page.page.keyboard.press("j")
    assert page.page.evaluate("document.activeElement.id") == "help-close"
    page.shot("help")
    page.page.keyboard.press("Escape")
    assert not page.page.evaluate("document.getElementById('help').open")
    page.page.keyboard.press("j")
    with page.answer():
        page.page.keyboard.press("e")
    page.page.wait_for_selector(".card .explanation table")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(".card.open")
    with page.answer():
        page.page.keyboard.press("f")
    assert page.page.is_visible("#facets-panel")
    page.page.keyboard.press("/")
    page.page.keyboard.type("?")
    assert page.page.input_value("#query") == "?"


def test_everything_that_acts_has_a_name_and_can_be_reached(visit: MakeVisit) -> None:
    page = visit()
    page.open("#facets=1")
    page.search("parse a message")
    page.wait()
    nameless = page.page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea, a, summary')]
            .filter(one => one.checkVisibility())
            .filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))
            .map(one => one.outerHTML)"""
    )
    assert nameless == []
    # By tabulator alone: the first stop is a link past the head, then come the views, help and all controls.
    page.page.focus(".skip")
    reached = []
    for _ in range(14):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id"))
    assert reached[:5] == ["home", "to-search", "to-overview", "help-open", "query"]
    assert {"pipeline", "compare", "k", "facets-toggle", "filter-toggle"} <= set(reached)
    assert page.page.get_attribute("html", "lang") == "en"
    assert page.page.locator("#summary [aria-live=polite] #count").count() == 1


def test_another_index_has_its_own_pipelines_and_fields(visit: MakeVisit, service_url: str) -> None:
    """The service of these tests has one index; a second one is put into its answers."""
    page = visit()

    def add(route: Any) -> None:
        answer = route.fetch().json()
        answer["indexes"].append(dict(answer["indexes"][0], name="other one", is_default=False))
        route.fulfill(json=answer)

    def other(route: Any) -> None:
        answer = page.page.request.get(f"{service_url}/v1/indexes/index").json()
        bm25 = answer["pipelines"]["bm25"]
        fulfilled = answer | {"pipelines": {"bm25": bm25}, "default_pipeline": "bm25", "fields": {}, "encoder": None}
        route.fulfill(json=fulfilled)

    searched: list[str] = []

    def search(route: Any) -> None:
        searched.append(route.request.url)
        route.fulfill(json=page.page.request.post(f"{service_url}/v1/search", data=route.request.post_data_json).json())

    page.page.route("**/v1/indexes", add)
    page.page.route("**/v1/indexes/other%20one", other)
    page.page.route("**/v1/indexes/other%20one/search", search)
    page.open()
    page.search("json")
    assert page.titles
    page.page.select_option("#index", "other one")
    page.page.wait_for_selector(".bar.dense", state="detached")
    page.page.wait_for_selector(".card .bar.bm25")
    assert searched == [f"{service_url}/v1/indexes/other%20one/search"]
    assert page.page.locator("#pipeline option").all_text_contents() == ["bm25"]
    assert page.page.is_hidden("#facets-toggle")
    assert page.page.is_hidden("label.chip.dense")
    assert "index=other+one" in page.page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_console_fits_a_narrow_phone(visit: MakeVisit, scheme: str) -> None:
    page = visit(viewport={"width": 360, "height": 760}, color_scheme=scheme, has_touch=True, device_scale_factor=2)
    page.open("#facets=1&pipeline=hybrid")
    page.search("parse a message")
    page.page.wait_for_selector(".facet-value")
    page.page.locator(".explain-button").first.click()
    page.page.wait_for_selector(".explanation table")
    assert page.overflow() == 0
    page.shot(f"narrow-search-{scheme}")
    with page.answer():
        page.page.select_option("#compare", "bm25")
    page.page.wait_for_selector("#comparison .card")
    assert page.overflow() == 0
    # One list at a time, and a switch.
    assert [page.page.locator(".side").nth(side).is_visible() for side in (0, 1)] == [True, False]
    page.page.click(".switch button[value='1']")
    assert [page.page.locator(".side").nth(side).is_visible() for side in (0, 1)] == [False, True]
    page.page.evaluate("scrollTo(0, 0)")
    page.shot(f"narrow-comparison-{scheme}")
    page.page.click("#to-overview")
    page.page.wait_for_selector(".index-card .pairs")
    assert page.overflow() == 0
    page.shot(f"narrow-overview-{scheme}")
    page.page.click("#help-open")
    assert page.overflow() == 0
    page.page.click("#help-close")
    # What is touched is large enough for a finger.
    small = page.page.evaluate(
        """[...document.querySelectorAll('button, select')].filter(one => one.checkVisibility())
            .filter(one => one.getBoundingClientRect().height < 24).map(one => one.outerHTML)"""
    )
    assert small == []


def test_relevance_is_shown_where_an_answer_has_it(visit: MakeVisit) -> None:
    """The index of these tests has no calibration; a value is put into the answer."""
    page = visit()

    def add(route: Any) -> None:
        answer = route.fetch().json()
        answer["results"][0]["hits"][0]["relevance"] = 0.824
        route.fulfill(json=answer)

    page.open()
    page.page.route("**/v1/search", add)
    page.search("json")
    assert page.titles
    shown = page.page.locator(".card .relevance")
    assert shown.first.text_content() == "82 %"
    assert set(shown.all_text_contents()[1:]) == {""}


def test_relevance_may_be_demanded_where_a_pipeline_is_calibrated(visit: MakeVisit) -> None:
    """The index of these tests has no calibration; one of BM25 is put into the description, and what it asks undone."""
    page = visit()
    page.open()
    assert page.page.is_hidden("#relevance")

    def calibrated(route: Any) -> None:
        answer = route.fetch().json()
        # Names in another order are the same pipeline.
        pipeline = dict(reversed(answer["pipelines"]["bm25"].items()))
        answer["index"]["calibrations"] = [{"pipeline": pipeline}]
        route.fulfill(json=answer)

    asked: list[Any] = []

    def search(route: Any) -> None:
        body = route.request.post_data_json
        asked.append(body.pop("min_relevance", None))
        route.fulfill(response=route.fetch(post_data=json.dumps(body)))

    page.page.route("**/v1/info", calibrated)
    page.page.route("**/v1/search", search)
    page.page.reload()
    page.open("#q=json&relevance=0.5")
    page.wait()
    assert asked.pop() is None
    assert page.page.is_hidden("#relevance")
    with page.answer():
        page.page.select_option("#pipeline", "bm25")
    assert asked.pop() == 0.5
    assert page.page.is_visible("#relevance")
    assert "relevance=0.5" in page.page.url
    with page.answer():
        page.page.fill("#relevance", "0.75")
        page.page.press("#relevance", "Tab")
    assert asked.pop() == 0.75
    page.shot("relevance")
    # Of two pipelines only the calibrated one is asked so.
    with page.answer():
        page.page.select_option("#compare", "dense")
    page.page.wait_for_selector("#comparison .card")
    assert sorted(map(str, asked[-2:])) == ["0.75", "None"]
    with page.answer():
        page.page.select_option("#compare", "")
    page.page.fill("#relevance", "2")
    before = len(asked)
    page.page.press("#relevance", "Enter")
    page.page.wait_for_timeout(300)
    assert len(asked) == before
