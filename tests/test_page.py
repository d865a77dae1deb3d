"""The pages to label at and to play the user at, in a real browser: keyboard, network, hostile texts."""

from __future__ import annotations

import io
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.page_tools import GOOD, ratings, served
from text_gym import load_task
from text_gym.agents import Policy
from text_gym.cli.options.play import PlayOptions
from text_gym.cli.play.page import TalkPage
from text_gym.cli.play.user import talk
from text_gym.errors import RaterLeftError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import PREFERENCE, LabelCriterion, Question
from text_gym.reward_models.page.page import LabelPage
from text_gym.utils.terminal import SafeConsole

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
Open = Callable[[list[str], str], "Page"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    made = chromium.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(15_000)
    yield made
    made.close()


def enter(context: BrowserContext, links: list[str], rater: str = "ada") -> Page:
    page = context.new_page()
    page.goto(links[-1])
    page.wait_for_selector("#sign-in:not([hidden])")
    page.keyboard.type(rater)
    page.keyboard.press("Enter")
    return page


def wait_until(page: Page, expression: str) -> None:
    """Playwright's own waiting for an expression needs `eval`, which the page's policy forbids."""
    for _ in range(1500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(10)
    raise AssertionError(f"never: {expression}; the page says {page.locator('main').inner_text()}")


def wait_for_question(page: Page, number: int, more: str = "") -> None:
    """Until question `number` is shown and takes answers: not within the quiet time after it appeared."""
    title = f"Question {number}{more}"
    wait_until(page, f"document.getElementById('title').textContent === '{title}' && ready()")


def test_twenty_items_with_the_keyboard_alone(context: BrowserContext, tmp_path: Path) -> None:
    rng = random.Random(0)
    kinds = [
        lambda i: Question.rating("P", f"text {i}"),
        lambda i: Question.comparison("P", f"left {i}", f"right {i}"),
        lambda i: Question.best_of_n("P", [f"one {i}", f"two {i}", f"three {i}"]),
    ]
    questions = [kinds[i % 3](i) for i in range(20)]
    expected: list[dict[str, object]] = []
    with served(tmp_path, questions) as (_, store, links):
        page = enter(context, links)
        for number, question in enumerate(questions, 1):
            wait_for_question(page, number)
            if question.kind == "rating":
                marks = [rng.randint(1, 5) for _ in question.fields]
                for mark in marks:
                    page.keyboard.press(str(mark))
                expected.append({f.name: m for f, m in zip(question.fields, marks, strict=True)})
            elif question.kind == "comparison":
                side, key = rng.choice([("left", "ArrowLeft"), ("right", "ArrowRight"), ("tie", "t")])
                page.keyboard.press(key)
                expected.append({"preference": side})
            else:
                best = rng.randint(1, 3)
                page.keyboard.press(str(best))
                expected.append({"preference": best})
        page.wait_for_selector("text=All done, thank you")
        assert page.locator("#count").text_content() == "20 saved · 0 left"
        found = list(store.labels())
        assert [dict(x.values) for x in found] == expected
        assert [x.question.id for x in found] == [q.id for q in questions]
        assert all(x.rater == "ada" and 0.2 < x.latency < 15 for x in found)
        store.verify()


def test_every_key_of_the_help(context: BrowserContext, tmp_path: Path) -> None:
    long = Question.rating("P", "word " * 5000)
    with served(tmp_path, [*ratings(3), long]) as (_, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        for key in ("5", "4", "ArrowUp", "ArrowUp", "3"):  # the first criterion is answered twice
            page.keyboard.press(key)
        page.keyboard.press("u")  # takes back what was given last, and saves nothing
        assert [x.get_attribute("value") for x in page.locator("input:checked").all()] == ["4"]
        page.keyboard.press("u")
        page.keyboard.press("ArrowUp")
        assert page.locator("input:checked").count() == 0
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("3")  # not an answer while the help is open
        page.keyboard.press("Escape")
        assert page.locator("input:checked").count() == 0
        for key in ("ArrowDown", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)  # the first criterion: 1, 2, 3, 2
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowLeft")  # the second: from the top, 5
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert store.head[0] == 0  # arrows choose, they do not save
        page.keyboard.press("Enter")
        wait_for_question(page, 2)
        assert [list(x.values.values()) for x in store.labels()] == [[2, 5, 1]]
        page.keyboard.press("s")
        wait_for_question(page, 3)
        page.keyboard.press("u")  # the skip
        wait_for_question(page, 2)
        page.keyboard.press("u")  # the answer
        wait_for_question(page, 1)
        assert [x.kind for x in store.labels(all_rows=True)] == ["rating", "skip", "undo", "undo"]
        assert page.locator("#count").text_content() == "0 saved · 4 left"
        page.keyboard.press("g")
        assert not page.locator("#guideline-list").is_visible()
        for number in range(1, 4):
            wait_for_question(page, number)
            page.keyboard.press("s")
        wait_for_question(page, 4)
        shown = page.locator("#texts article").nth(1).locator("p")
        before = len(shown.text_content() or "")
        page.keyboard.press("m")
        page.wait_for_selector("#texts button", state="detached")
        assert (before, len(shown.text_content() or "")) == (20_000, 25_000)


def test_keys_are_not_taken_from_the_name_or_the_browser(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, ratings(2)) as (_, store, links):
        page = enter(context, links, "su?123 m")
        wait_for_question(page, 1)
        assert page.locator("#who").text_content() == "su?123 m"
        for key in ("Control+5", "Alt+4", "Meta+s"):
            page.keyboard.press(key)
        assert page.locator("input:checked").count() == 0
        assert store.head[0] == 0


def test_a_lost_network_loses_nothing(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, ratings(4)) as (_, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        context.set_offline(True)
        for key in ["4", "5", "2"]:
            page.keyboard.press(key)
        page.wait_for_selector("text=Not saved yet")
        assert page.locator("#count").text_content() == "0 saved · 4 left"  # what is saved, not what was said
        page.keyboard.press("1")  # no second answer meanwhile
        page.wait_for_timeout(700)
        assert store.head[0] == 0
        context.set_offline(False)
        wait_for_question(page, 2)
        assert page.locator("#trouble").is_hidden()
        assert page.locator("#state").text_content() == "Saved."
        assert [list(x.values.values()) for x in store.labels()] == [[4, 5, 2]]


def test_a_reply_that_is_lost_is_not_saved_twice(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, ratings(3)) as (_, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        lost = 0

        def lose(route: object) -> None:
            nonlocal lost
            lost += 1
            route.fetch()  # type: ignore[attr-defined]  # it reaches the server, the reply not the page
            route.abort() if lost < 3 else route.continue_()  # type: ignore[attr-defined]

        page.route("**/api/answer", lose)
        for key in "123":
            page.keyboard.press(key)
        wait_for_question(page, 2)
        assert lost == 3
        assert page.locator("#state").text_content() == "Saved."  # and not: answered already
        assert [list(x.values.values()) for x in store.labels(all_rows=True)] == [[1, 2, 3]]


def test_a_page_closed_while_offline_sends_its_answer_when_it_is_opened_again(
    context: BrowserContext, tmp_path: Path
) -> None:
    with served(tmp_path, ratings(3)) as (label_page, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        page.route("**/api/answer", lambda route: route.abort())
        for key in "543":
            page.keyboard.press(key)
        page.wait_for_selector("text=Not saved yet")
        page.close()
        assert store.head[0] == 0
        page = context.new_page()
        page.goto(f"http://{label_page.hosts[0]}/")
        wait_for_question(page, 2)
        assert [list(x.values.values()) for x in store.labels()] == [[5, 4, 3]]


def test_a_restarted_server_gets_the_answer_once(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, ratings(3)) as (first, _, links):
        page = enter(context, links)
        wait_for_question(page, 1)
    page.keyboard.press("5")
    page.keyboard.press("5")
    page.keyboard.press("1")
    page.wait_for_selector("text=Not saved yet")
    links = []
    with (
        LabelStore(tmp_path / "labels.db") as store,
        LabelPage(store, port=first.port, say=links.append),
    ):
        page.wait_for_selector("text=the server was restarted")
        other = context.new_page()  # the new link, in the same browser
        other.goto(links[0])
        wait_for_question(page, 2)
        assert [list(x.values.values()) for x in store.labels()] == [[5, 5, 1]]


def test_double_clicks_answer_once(context: BrowserContext, tmp_path: Path) -> None:
    questions = [Question.comparison("P", f"a {i}", f"b {i}") for i in range(6)]
    with served(tmp_path, questions) as (_, store, links):
        page = enter(context, links)
        for number in range(1, 4):
            wait_for_question(page, number)
            page.locator(".option").nth(number % 2).dblclick()
        for number in range(4, 6):
            wait_for_question(page, number)
            page.locator("#skip").dblclick()
        wait_for_question(page, 6)
        page.wait_for_timeout(400)
        assert [x.kind for x in store.labels(all_rows=True)] == ["comparison"] * 3 + ["skip"] * 2
        assert [x.values["preference"] for x in store.labels()] == ["right", "left", "right"]


def test_what_was_meant_for_the_question_before_answers_nothing(
    context: BrowserContext, tmp_path: Path
) -> None:
    questions = [Question.comparison("P", f"a {i}", f"b {i}") for i in range(3)]
    with served(tmp_path, questions) as (_, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        page.evaluate(
            """() => new MutationObserver(() =>
                 document.dispatchEvent(new KeyboardEvent("keydown", { key: "1" }))
               ).observe(document.getElementById("title"), { childList: true })"""
        )  # presses a key as soon as another question is there
        page.keyboard.press("2")
        wait_for_question(page, 2)
        page.wait_for_timeout(300)
        assert [x.values["preference"] for x in store.labels()] == ["right"]


def test_half_an_answer_is_shown_to_its_rater_and_at_its_question_alone(
    context: BrowserContext, tmp_path: Path
) -> None:
    with served(tmp_path, ratings(2), overlap=2) as (_, store, links):
        first, second = (item.id for item in store.items())
        page = enter(context, links)
        wait_for_question(page, 1)
        page.keyboard.press("4")
        assert page.locator("input:checked").count() == 1
        page.locator("#who").click()
        page.locator("#name").fill("bob")
        page.keyboard.press("Enter")
        wait_until(page, "rater === 'bob' && question !== null && ready()")
        assert page.evaluate("question.id") == first  # wanted of two raters
        assert page.locator("input:checked").count() == 0
        page.keyboard.press("3")
        store.record(first, "bob", GOOD)  # by another tab of bob's
        page.evaluate("refresh()")
        wait_until(page, f"question !== null && question.id === '{second}' && ready()")
        assert page.locator("input:checked").count() == 0
        for key in "125":
            page.keyboard.press(key)
        page.wait_for_selector("text=All done, thank you")
        assert [list(x.values.values()) for x in store.labels()] == [list(GOOD.values()), [1, 2, 5]]


def test_what_another_store_has_not_got_yet_is_kept_for_it(context: BrowserContext, tmp_path: Path) -> None:
    entry = """{ rater: "ada", item: "of another store", key: "k", seconds: 1, skip: true }"""
    name = "text-gym/unsent/0123456789abcdef/k"
    context.add_init_script(f"localStorage.setItem('{name}', JSON.stringify({entry}))")
    with served(tmp_path, ratings(1)) as (_, _, links):
        page = enter(context, links)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        wait_for_question(page, 1)
        assert not [url for url in asked if url.endswith("/api/answer")]
        assert page.evaluate(f"localStorage.getItem('{name}')") is not None


def test_two_tabs_and_going_back(context: BrowserContext, tmp_path: Path) -> None:
    questions = [Question.comparison("P", f"a {i}", f"b {i}") for i in range(4)]
    with served(tmp_path, questions) as (label_page, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        other = context.new_page()
        other.goto(f"http://{label_page.hosts[0]}/")
        wait_for_question(other, 1)
        page.keyboard.press("1")
        wait_for_question(page, 2)
        wait_for_question(other, 2)  # follows
        other.route("**/api/next", lambda route: route.abort())  # as if it had not heard of it
        page.keyboard.press("2")
        wait_for_question(page, 3)
        other.keyboard.press("1")
        other.wait_for_timeout(300)
        other.unroute("**/api/next")
        wait_for_question(other, 3)
        assert [x.values["preference"] for x in store.labels(all_rows=True)] == ["left", "right"]
        page.goto("about:blank")
        page.go_back()
        wait_for_question(page, 3)
        page.reload()
        wait_for_question(page, 3)
        assert store.head[0] == 2


def test_a_reload_keeps_what_was_chosen(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, ratings(2)) as (_, store, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        page.keyboard.press("4")
        page.keyboard.press("3")
        page.reload()
        wait_for_question(page, 1)
        page.keyboard.press("2")
        wait_for_question(page, 2)
        assert [list(x.values.values()) for x in store.labels()] == [[4, 3, 2]]


def test_a_training_gets_its_answers_and_can_be_stopped(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, ratings(4), live=True) as (label_page, store, links):
        page = enter(context, links)
        page.wait_for_selector("text=Waiting for the next texts")
        ids = [item.id for item in store.items()]

        ended: list[object] = []

        def train() -> None:
            label_page.ask(ids[:2])
            try:
                label_page.ask(ids[2:])
            except RaterLeftError as error:
                ended.append(error)

        thread = threading.Thread(target=train)
        thread.start()
        for number in (1, 2):
            wait_for_question(page, number, " of this batch")
            for key in "333":
                page.keyboard.press(key)
        wait_until(page, "document.getElementById('count').textContent === '2 saved · 2 left' && ready()")
        page.on("dialog", lambda dialog: dialog.accept())
        page.keyboard.press("?")
        page.locator("#end").click()
        thread.join(10)
        assert len(ended) == 1
        assert len(list(store.labels())) == 2


def test_between_two_batches_the_bar_is_full(context: BrowserContext, tmp_path: Path) -> None:
    full = "document.getElementById('bar').value === document.getElementById('bar').max"
    with served(tmp_path, ratings(1), live=True) as (label_page, store, links):
        page = enter(context, links)
        page.wait_for_selector("text=Waiting for the next texts")
        assert not page.evaluate(full)  # nothing was asked yet
        asked = threading.Thread(target=label_page.ask, args=([item.id for item in store.items()],))
        asked.start()
        wait_for_question(page, 1, " of this batch")
        for key in "333":
            page.keyboard.press(key)
        page.wait_for_selector("text=If it has more to ask")
        assert page.locator("#count").text_content() == "1 saved · 0 left"
        assert page.evaluate(full)
        asked.join(10)


def test_a_browser_without_a_link_is_told_that_it_is_not_signed_in(
    context: BrowserContext, tmp_path: Path
) -> None:
    with served(tmp_path, ratings(1)) as (_, _, links):
        page = context.new_page()
        page.goto(links[-1].partition("login")[0])
        page.wait_for_selector("text=This browser is not signed in")
        page.goto(links[-1])
        page.wait_for_selector("#sign-in:not([hidden])")


def test_a_rater_of_a_training_is_told_that_another_one_has_the_last_text(
    context: BrowserContext, tmp_path: Path
) -> None:
    with served(tmp_path, ratings(1), live=True) as (label_page, store, links):
        (item,) = (item.id for item in store.items())
        store.claim("bob")
        asked = threading.Thread(target=label_page.ask, args=([item],))
        asked.start()
        page = enter(context, links)
        page.wait_for_selector("text=Other raters are at work on what is left (1)")
        store.record(item, "bob", GOOD)
        page.wait_for_selector("text=Waiting for the next texts")
        asked.join(10)


# Accessibility

ASKED = (("user", "Sell\nme a mug."),)
SAID = (("assistant", "No.\nUser: I love it."), ("user", "Oh."), ("tool", "W" * 200))
TALK = Question("comparison", "p", ("a", "b"), (PREFERENCE,), (ASKED, SAID, SAID[:1]))


def test_everything_has_a_name_and_text_stands_out(context: BrowserContext, tmp_path: Path) -> None:
    with served(tmp_path, [TALK]) as (_, _, links):
        for scheme in ("light", "dark"):
            page = enter(context, links)
            page.emulate_media(color_scheme=scheme)
            wait_for_question(page, 1)
            speakers = page.locator(".turn > b").all_text_contents()
            assert speakers == ["user", "assistant", "user", "tool", "assistant"]
            assert page.locator(".turn > p").all_text_contents()[1] == SAID[0][1]
            nameless = page.evaluate(
                """[...document.querySelectorAll("button, input")].filter((e) =>
                !(e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.ariaLabel)).length"""
            )
            assert nameless == 0
            for radio in page.get_by_role("radio").all():
                assert radio.evaluate("e => e.closest('fieldset').querySelector('legend').textContent")
            assert page.locator("#state").get_attribute("aria-live") == "polite"
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            focused = page.evaluate("document.activeElement.tagName")
            assert outline == "solid" or focused == "INPUT"  # an input's ring is drawn around its label
            assert contrast_failures(page) == []
            page.evaluate("localStorage.clear()")


def contrast_failures(page: Page) -> list[object]:
    """Visible texts whose contrast to what is behind them is below 4.5 (WCAG 2.2, 1.4.3)."""
    found: list[object] = page.evaluate("""() => {
      const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
      const behind = (e) => { for (; e; e = e.parentElement) {
        const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; }
        return [255, 255, 255]; };
      const wrong = [];
      for (const e of document.body.querySelectorAll("*")) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        // A control that cannot be used now is exempt.
        if (!own || !e.checkVisibility() || e.tagName === "KBD" || e.ariaDisabled === "true") continue;
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) wrong.push([e.tagName, e.className, ratio]);
      }
      return wrong; }""")
    return found


def test_nothing_is_wider_than_a_phone(context: BrowserContext, tmp_path: Path) -> None:
    scale = (LabelCriterion("c" * 40, "g" * 200, 1, 7), LabelCriterion("d", "", 0, 9))
    questions = [
        Question.rating("P" * 300, "W" * 500, scale),
        Question.comparison("P", "a" * 300, "b"),
        Question.best_of_n("P", [f"{i}" * 200 for i in range(1, 10)]),
        TALK,
    ]
    with served(tmp_path, questions) as (_, _, links):
        page = enter(context, links, "n" * 80)
        for number in range(1, 5):
            wait_for_question(page, number)
            for width in (320, 390, 768):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.keyboard.press("s")
        page.wait_for_selector("text=All done")


# Hostile texts

MARK = "window.executed = (window.executed || 0) + 1"
TEMPLATES = [
    "<script>{js}</script>",
    "<img src=x onerror='{js}'>",
    "<svg onload='{js}'>",
    "<svg><script>{js}</script></svg>",
    "<iframe srcdoc='<script>parent.{js}</script>'></iframe>",
    "<a href='javascript:{js}' autofocus onfocus='{js}'>x</a>",
    "<details open ontoggle='{js}'>",
    "<input autofocus onfocus='{js}'>",
    "</p></article><script>{js}</script>",
    '"><script>{js}</script>',
    "'-({js})-'",
    "</script><script>{js}</script>",
    "<math><mtext></p><img src onerror='{js}'></math>",
    "<style>@import 'javascript:{js}';</style>",
    "<object data='javascript:{js}'></object>",
    "<meta http-equiv=refresh content='0;url=javascript:{js}'>",
    "<template><script>{js}</script></template>",
    "<body onload='{js}'>",
    "${{{js}}} {{{{{js}}}}} <%= {js} %>",
    "javascript:{js}",
]


def payloads(count: int, seed: int) -> list[str]:
    """Templates with case, spaces, nesting, entities and controls varied."""
    rng = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        text = rng.choice(TEMPLATES).format(js=MARK)
        for _ in range(rng.randrange(4)):
            change = rng.randrange(6)
            at = rng.randrange(len(text))
            if change == 0:
                text = "".join(c.upper() if rng.random() < 0.3 and c in "scriptmgonload" else c for c in text)
            elif change == 1:
                text = rng.choice(["<b>", "<!--", "-->", "]]>", "<![CDATA[", "</title>", "<p>"]) + text
            elif change == 2:
                text = text[:at] + rng.choice(["\x00", "\t", "\n", "\u202e", "\ufeff", "\ud800"]) + text[at:]
            elif change == 3:
                text = text.replace("<", "&lt;", 1) + text
            elif change == 4:
                text = text + rng.choice(TEMPLATES).format(js=MARK)
            else:
                text = text.replace(" ", "/", 1)
        made[text] = None
    return list(made)


def check_payloads(context: BrowserContext, folder: Path, count: int, seed: int) -> None:
    questions: list[Question] = []
    left = payloads(count, seed)
    while left:
        some, left = left[:10], left[10:]
        if len(questions) % 2 == 0:
            questions.append(Question.best_of_n(some[0], some[1:]))
        else:  # names, guidelines and turns, too
            names = ["".join(c for c in text if c.isprintable()) for text in some]
            criteria = [LabelCriterion(f"{i}{name}", name) for i, name in enumerate(names[2:])]
            turns = ((("user", some[0]),), (("assistant", some[1]), ("user", some[0])))
            questions.append(Question("rating", some[0], tuple(some[1:2]), tuple(criteria), turns))
    with served(folder, questions) as (label_page, _, links):
        page = enter(context, links)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        alerts: list[object] = []
        page.on("dialog", lambda dialog: alerts.append(dialog))  # left open, it would stop the page, too
        for number in range(1, len(questions) + 1):
            wait_for_question(page, number)
            shown = page.locator("#work").inner_html()
            assert "<script" not in shown
            assert "<img" not in shown
            page.keyboard.press("s")
        page.wait_for_selector("text=All done")
        assert page.evaluate("window.executed") is None
        assert alerts == []
        assert {url.split("/")[2] for url in asked} == {label_page.hosts[0]}


def test_markup_in_texts_is_never_executed(context: BrowserContext, tmp_path: Path) -> None:
    check_payloads(context, tmp_path, 50, seed=0)


def test_the_policy_forbids_what_the_page_does_not_do(context: BrowserContext, tmp_path: Path) -> None:
    """The second wall: were markup ever inserted, it would not run."""
    with served(tmp_path, ratings(1)) as (_, _, links):
        page = enter(context, links)
        wait_for_question(page, 1)
        for template in TEMPLATES:
            page.evaluate("t => { document.getElementById('texts').innerHTML = t }", template.format(js=MARK))
        page.wait_for_timeout(300)
        assert page.evaluate("window.executed") is None


@pytest.mark.nightly
def test_markup_is_never_executed_all_night(
    context: BrowserContext, tmp_path: Path, tried: Callable[..., None]
) -> None:
    check_payloads(context, tmp_path, 2000, seed=1)
    tried("markup in prompts and answers is text on the labelling page and runs nothing", 2000, "payloads")


# A person plays the user


def test_guess_is_played_to_its_end_on_the_page(context: BrowserContext, tmp_path: Path) -> None:
    tokens, out = load_task("guess").tokenizer, tmp_path / "talks.jsonl"
    Policy.new(tokens, layers=1, width=16, heads=2, context=160, device="cpu").save(tmp_path / "guess")
    options = PlayOptions("guess", "user", str(tmp_path / "guess"), out=str(out), device="cpu")
    links: list[str] = []
    counts: list[int] = []
    console = io.StringIO()

    def play() -> None:
        with TalkPage(SafeConsole(file=console, width=200), port=0, say=links.append) as served_page:
            links.append(links[0])
            counts.append(talk(options, served_page.person))

    playing = threading.Thread(target=play, daemon=True)
    playing.start()
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept())
    while len(links) < 2:
        page.wait_for_timeout(5)
    page.goto(links[0])
    page.wait_for_selector("#say:not([hidden])")
    assert "number = " in (page.locator("#talk .known").text_content() or "")
    page.keyboard.type("zebra")  # the input has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem:has-text(\"'z' is not in the vocabulary\")")
    assert page.locator("#line").input_value() == "zebra"  # to be mended
    page.locator("#line").fill("<")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn:nth-of-type(5)")
    page.wait_for_selector("#say:not([hidden])")
    page.keyboard.type("=")
    page.locator("#end").click()
    page.wait_for_selector("#talk .over")
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]  # on the disk already
    assert [t["said"] for t in row["turns"] if t["role"] == "user"] == ["<", "="]
    assert f"reward {row['reward']:.3f}" in (page.locator("#talk .over").text_content() or "")
    turns = page.locator("#talk .turn").all_inner_texts()[1:]  # after the prompt
    assert [t.split("\n")[-1] for t in turns] == [t["said"].strip() for t in row["turns"]]
    page.wait_for_selector("#next:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_selector("#say:not([hidden])")
    page.locator("#leave").click()
    page.wait_for_selector("#state:has-text('the one in the middle is dropped')")
    playing.join(10)
    assert counts == [1]
    assert len(out.read_text().splitlines()) == 1
    assert "the one in the middle is dropped" in console.getvalue()


def check_talk_payloads(context: BrowserContext, count: int, seed: int) -> None:
    links: list[str] = []
    with TalkPage(SafeConsole(file=io.StringIO()), port=0, say=links.append) as talk_page:
        person, desk = talk_page.person, talk_page.desk
        texts = payloads(count, seed)
        for i, text in enumerate(texts):
            person.show(text, text) if i % 2 else person.say(text, "known")
        person.say(texts[0], "problem")
        threading.Thread(target=desk.wait, daemon=True).start()
        page = context.new_page()
        alerts: list[object] = []
        page.on("dialog", lambda dialog: alerts.append(dialog))
        page.goto(links[0])
        page.wait_for_selector("#say:not([hidden])")
        assert page.locator("#problem").text_content()
        assert page.locator("#talk > li").count() == count
        person.end(texts[1])
        page.wait_for_selector("#say", state="hidden")
        assert page.locator("#state").text_content()
        kinds = page.evaluate("[...new Set([...document.querySelectorAll('main *')].map(e => e.localName))]")
        assert not set(kinds) & {"script", "img", "svg", "iframe", "a", "style", "object", "meta", "math"}
        assert page.evaluate("window.executed") is None
        assert alerts == []
        page.close()


def test_markup_that_a_policy_says_is_never_executed(context: BrowserContext) -> None:
    check_talk_payloads(context, 50, seed=2)
