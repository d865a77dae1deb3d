"""The notebook's widget: its Python, and its JavaScript clicked and typed at in Chromium."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.page_tools import GOOD, ratings
from text_gym.errors import ConfigError
from text_gym.reward_models import LabelStore, Question, label_widget

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("anywidget", reason="anywidget is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
STATIC = Path(__file__).parents[3] / "reward_models" / "page" / "static"
# What a front end of Jupyter gives a widget: a model with state and messages, and an element.
HARNESS = """<!doctype html><meta charset="utf-8"><style>%s</style><body><input id="cell"><div id="out"></div>
<script type="module">
%s
const listeners = {};
let state = await window.ask(null);
const model = {
  get: (name) => state.state,
  on: (name, f) => { (listeners[name] ||= []).push(f); },
  off: (name, f) => { listeners[name] = (listeners[name] || []).filter((g) => g !== f); },
  send: async (message) => {
    const { replies, ...now } = await window.ask(message);
    for (const reply of replies) for (const f of listeners["msg:custom"] || []) f(reply);
    const changed = JSON.stringify(now) !== JSON.stringify(state);
    state = now;
    if (changed) for (const f of listeners["change:state"] || []) f();
  },
};
window.outside = [];
document.addEventListener("keydown", (event) => window.outside.push(event.key));
render({ model, el: document.getElementById("out") });
window.begun = true;
</script>"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def shown(
    chromium: Browser, folder: Path, questions: list[Question], scheme: Any = "light"
) -> Iterator[tuple[Page, LabelStore]]:
    """The widget of a new store in a page, wired to Python as a kernel would wire it."""
    with LabelStore(folder / "labels.db") as store:
        widget = label_widget(store, "ada", questions)
        replies: list[Any] = []
        widget.send = replies.append

        def ask(message: Any) -> dict[str, Any]:
            replies.clear()
            if message is not None:
                widget._handle_custom_msg(message, [])
            return {"state": widget.state, "replies": list(replies)}

        page = chromium.new_page(viewport={"width": 900, "height": 700}, color_scheme=scheme)
        page.set_default_timeout(15_000)
        page.expose_function("ask", ask)
        script = (STATIC / "widget.js").read_text().replace("export default", "const widget =")
        page.set_content(HARNESS % ((STATIC / "widget.css").read_text(), script))
        page.wait_for_function("window.begun")
        yield page, store
        page.close()


def wait_for(page: Page, count: str) -> None:
    """Until the widget says how many are saved, and takes answers again."""
    page.wait_for_function("c => document.querySelector('.head .soft').textContent === c", arg=count)
    page.wait_for_timeout(300)


def test_twenty_questions_with_the_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    rng = random.Random(0)
    kinds = [
        lambda i: Question.rating("P", f"text {i}"),
        lambda i: Question.comparison("P", f"left {i}", f"right {i}"),
        lambda i: Question.best_of_n("P", [f"one {i}", f"two {i}", f"three {i}"]),
    ]
    questions = [kinds[i % 3](i) for i in range(20)]
    expected: list[dict[str, object]] = []
    with shown(chromium, tmp_path, questions) as (page, store):
        page.locator(".text-gym-label").focus()
        skip = page.get_by_role("button", name="Skip")  # where it can be seen
        for number, question in enumerate(questions):
            wait_for(page, f"{number} saved · {20 - number} left")
            assert skip.count() == 1
            if question.kind == "rating":
                marks = [rng.randint(1, 5) for _ in question.fields]
                for mark in marks:
                    page.keyboard.press(str(mark))
                expected.append({f.name: m for f, m in zip(question.fields, marks, strict=True)})
            elif question.kind == "comparison":
                side, key = rng.choice([("left", "ArrowLeft"), ("right", "r"), ("tie", "0")])
                page.keyboard.press(key)
                expected.append({"preference": side})
            else:
                best = rng.randint(1, 3)
                page.keyboard.press(str(best))
                expected.append({"preference": best})
        wait_for(page, "20 saved · 0 left")
        assert "All done" in page.locator(".texts").inner_text()
        assert skip.count() == 0
        found = list(store.labels())
        assert [dict(x.values) for x in found] == expected
        assert all(x.rater == "ada" and 0.2 < x.latency < 15 for x in found)
        assert page.evaluate("window.outside") == []  # no key reached the notebook
        store.verify()


def test_every_key_of_the_help(chromium: Browser, tmp_path: Path) -> None:
    long = Question.rating("P", "word " * 5000)
    with shown(chromium, tmp_path, [*ratings(3), long]) as (page, store):
        page.locator(".text-gym-label").focus()
        wait_for(page, "0 saved · 4 left")
        page.keyboard.press("5")
        page.keyboard.press("u")  # takes the partial answer back, and saves nothing
        assert page.locator("[aria-pressed=true]").count() == 0
        page.keyboard.press("?")
        assert page.locator(".help").is_visible()
        page.keyboard.press("?")
        page.keyboard.press("g")
        assert page.locator(".guidelines").is_visible()
        for key in ("ArrowDown", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)  # the first criterion: 1, 2, 3, 2
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowLeft")  # the second: from the top, 5
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert store.head[0] == 0  # arrows choose, they do not save
        page.keyboard.press("Enter")
        wait_for(page, "1 saved · 3 left")
        assert [list(x.values.values()) for x in store.labels()] == [[2, 5, 1]]
        page.keyboard.press("s")
        wait_for(page, "2 saved · 2 left")
        page.keyboard.press("u")  # the skip
        wait_for(page, "1 saved · 3 left")
        page.keyboard.press("Backspace")  # the answer
        wait_for(page, "0 saved · 4 left")
        assert [x.kind for x in store.labels(all_rows=True)] == ["rating", "skip", "undo", "undo"]
        for number in range(3):
            for _ in range(3):
                page.keyboard.press("3")
            wait_for(page, f"{number + 1} saved · {3 - number} left")
        assert len(page.locator(".text:not(.prompt) p").inner_text()) < 25_000 - 1
        page.keyboard.press("m")
        page.wait_for_function("!document.querySelector('.text button')")
        assert len(page.locator(".text:not(.prompt) p").text_content() or "") == 25_000


def test_with_the_mouse_and_in_a_hurry(chromium: Browser, tmp_path: Path) -> None:
    with shown(chromium, tmp_path, ratings(2)) as (page, store):
        wait_for(page, "0 saved · 2 left")
        rows = page.locator(".field")
        for i in range(2):
            rows.nth(i).get_by_role("button", name="4").click()
        page.get_by_role("button", name="Save").click(force=True)  # one criterion is open: nothing is sent
        assert store.head[0] == 0
        rows.nth(2).get_by_role("button", name="2").dblclick()  # the second click was not for the next one
        wait_for(page, "1 saved · 1 left")
        assert page.locator("[aria-pressed=true]").count() == 0
        assert [list(x.values.values()) for x in store.labels()] == [[4, 4, 2]]
        page.get_by_role("button", name="Skip").click()
        wait_for(page, "2 saved · 0 left")
        page.get_by_role("button", name="Undo").click()
        wait_for(page, "1 saved · 1 left")


def test_keys_outside_the_widget_are_not_its_own(chromium: Browser, tmp_path: Path) -> None:
    with shown(chromium, tmp_path, ratings(1)) as (page, store):
        wait_for(page, "0 saved · 1 left")
        page.locator("#cell").focus()
        page.keyboard.type("3 3 3 s")
        assert page.locator("[aria-pressed=true]").count() == 0
        assert store.head[0] == 0


HOSTILE = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'>",
    "</p><iframe src=javascript:1>",
    "\u202egnp.exe",
    "\x1b[31mred",
    "\U0001f469\u200d\U0001f467 <b>",
    "<style>* { display: none }</style>",
    "{{7*7}}",
    "`${window.hurt = 1}`",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_texts_are_shown_and_do_nothing(chromium: Browser, scheme: str, tmp_path: Path) -> None:
    with shown(chromium, tmp_path, [Question.best_of_n(HOSTILE[0], HOSTILE)], scheme) as (page, _):
        wait_for(page, "0 saved · 1 left")
        assert page.evaluate("window.hurt") is None
        assert page.locator("#out script, #out img, #out iframe, #out style").count() == 0
        said = page.locator(".texts").inner_text()
        assert "<script>window.hurt = 1</script>" in said
        assert "\\u202egnp.exe" in said
        assert "\x1b" not in said


def test_without_a_browser_the_widget_still_keeps_its_answers(tmp_path: Path) -> None:
    widget = label_widget(tmp_path / "labels.db", "ada", ratings(2))
    assert repr(widget) == "LabelWidget(0 answered, 2 left)"
    item = widget.state["question"]["id"]
    widget._handle_custom_msg({"do": "answer", "item": item, "key": "k", "seconds": 1, "values": GOOD}, [])
    assert repr(widget) == "LabelWidget(1 answered, 1 left)"
    with LabelStore(tmp_path / "labels.db") as store:
        assert [x.item for x in store.labels()] == [item]


def test_without_anywidget_the_line_to_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "text_gym.reward_models.page.widget", raising=False)
    with pytest.raises(ConfigError, match="pip install anywidget"):
        label_widget(tmp_path / "labels.db", "ada")
