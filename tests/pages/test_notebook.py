"""What notebooks show: short representations, the facts of each thing, and hostile texts that do nothing."""

from __future__ import annotations

import re
import shutil
import string
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from text_gym import ByteTokenizer, Episode, FunctionReward, Prompt, Task, as_reward_source, load_task
from text_gym.pages.notebook import card, episodes_table, table
from text_gym.plot import coloured_text
from text_gym.reward_models import Question
from text_gym.showing import as_html
from text_gym.tasks.task import NoGold

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# Payloads: what runs, what breaks out of where it stands, what hides, and letters of all kinds.
BREAKS = [
    "",
    "</div>",
    "</style>",
    "</pre>",
    "</td></table>",
    '">',
    "'>",
    "-->",
    "]]>",
    "&quot;>",
    "&#34;>",
    "\\",
]
RUNS = [
    "<script>window.hurt=1</script>",
    "<img src=x onerror=window.hurt=1>",
    "<svg onload=window.hurt=1>",
    "<iframe srcdoc='<script>parent.hurt=1</script>'></iframe>",
    "<details open ontoggle=window.hurt=1>",
    "<input autofocus onfocus=window.hurt=1>",
    "<a href='javascript:window.hurt=1'>x</a>",
    "<style>*{display:none}</style>",
    "<math><mtext></p><img src=x onerror=window.hurt=1>",
    '" onmouseover="window.hurt=1" x="',
    "' onmouseover='window.hurt=1' x='",
    "{{ 7 * 7 }}{% raw %}{format}%s{0}",
    "<template><script>window.hurt=1</script></template>",
    "<object data='data:text/html,<script>parent.hurt=1</script>'></object>",
]
HIDES = ["\u202e", "\u2066", "\u200b", "\x1b[31m", "\x00", "\ufeff", "\u2028", "\x07\x08"]
LETTERS = [
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "🧑🏽\u200d🚀",
    "é",
    "e\u0301",
    "漢字",
    "שלום",
    "مرحبا",
    "𝒳",
    "\ud800",
    "z̷̢̛",
]
PAYLOADS = [
    *(a + b for a in BREAKS for b in RUNS),
    *(a + b for a in HIDES for b in RUNS[:3]),
    *(a + "<b>" for a in LETTERS),
]


class Tags(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def hostile(text: str) -> list[str]:
    """Everything that notebooks show, with a text wherever somebody's text may stand."""
    tokenizer = ByteTokenizer()
    reward = FunctionReward(lambda completion: 1.0, name=text)
    clean = "".join(c for c in text if not "\ud800" <= c <= "\udfff")
    episode = Episode.of(Prompt(clean, id=clean or "p"), clean, tokenizer)
    shown: list[Any] = [
        episode,
        Task(text, [Prompt(text)], [Prompt("b")], tokenizer, reward, 8),
        reward + 2 * reward,
        Question.best_of_n(text, [text, text]),
        coloured_text([text, text], {text: [1.0, -1.0]}, title=text),
    ]
    rewards = episodes_table([episode], {text: [0.5]}, [np.ones(len(episode.completion_ids))])
    return [
        *(value._repr_html_() for value in shown),
        card(text, {text: text}, rewards, table([text], [[text]])),
    ]


def test_there_are_two_hundred_payloads() -> None:
    assert len(set(PAYLOADS)) >= 200


def test_hostile_texts_are_never_markup() -> None:
    clean = [Tags(html) for html in hostile("a text")]
    for payload in PAYLOADS:
        for html, own in zip(hostile(payload), clean, strict=True):
            found = Tags(html)
            assert found.names == own.names, payload
            assert found.attributes == own.attributes, payload
            assert "".join(html.split()).isprintable(), payload


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


def test_hostile_texts_do_nothing_in_a_browser(chromium: Browser) -> None:
    page = chromium.new_page()
    said: list[str] = []
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.on("request", lambda request: said.append(request.url))
    for first in range(0, len(PAYLOADS), 20):
        some = PAYLOADS[first : first + 20]
        body = "".join(html for payload in some for html in hostile(payload))
        page.set_content(f'<meta charset="utf-8"><body>{body}<p id="end">end</p>')
        for element in page.locator("[title]").all()[:20]:
            element.dispatch_event("mouseover")
        assert page.evaluate("window.hurt") is None, some
        assert page.locator("script, img, iframe, object, input, a, svg, details, template").count() == 0
        assert page.locator("#end").is_visible()
        assert page.locator(".text-gym").count() == 6 * len(some)
    assert [url for url in said if not url.startswith("about:")] == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_are_legible_on_every_colour(chromium: Browser, scheme: Any) -> None:
    """A contrast of 4.5 or more, on the papers of Jupyter and VS Code."""
    paper, ink = {"light": ("#ffffff", "#000000d9"), "dark": ("#111111", "#ffffffdd")}[scheme]
    html = coloured_text(["up", "down", "none"], {"reward": [1, -1, 0]})._repr_html_()
    page = chromium.new_page(color_scheme=scheme)
    page.set_content(f'<body style="background:{paper};color:{ink}">{html}')

    def mixed(under: tuple[float, ...], over: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(u + (o - u) * over[3] for u, o in zip(under, over, strict=False))

    def rgba(colour: str) -> tuple[float, ...]:
        found = [float(x) for x in re.findall(r"[\d.]+", colour)]
        return (*(x / 255 for x in found[:3]), found[3] if len(found) > 3 else 1.0)

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground = rgba(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for token in page.locator(".tokens span").all():
        style = token.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]")
        back = mixed(ground, rgba(style[0]))
        letters = mixed(back, rgba(style[1]))
        bright, dark = sorted([luminance(back), luminance(letters)], reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5
    page.close()


def test_representations_are_short() -> None:
    task = load_task("products")
    assert repr(task) == "Task('products': 4,096 prompts and 256 held out, gold 'products', max_tokens=64)"
    episode = Episode.of("Sell a mug.\n" * 99, "A mug! " * 99, ByteTokenizer())
    assert len(repr(episode)) < 200
    assert repr(Episode.of("P", "ab", ByteTokenizer())) == "Episode('P' -> 'ab', 3 tokens, eos)"
    question = Question.comparison("P" * 999, "left" * 999, "right" * 999)
    assert repr(question).startswith("Question(comparison of 2 texts, prompt 'PPP")
    assert len(repr(question)) < 200


def test_a_task_shows_its_facts() -> None:
    html = load_task("reverse", length=3)._repr_html_()
    for fact in ("Task reverse", ">prompts</span>22<", ">token limit</span>4<", "answer"):
        assert fact in html
    bare = Task("mine", [Prompt("a")], [Prompt("b")], ByteTokenizer(), NoGold(), 8)
    assert ">gold</span>unknown<" in bare._repr_html_()
    assert "no gold" in repr(bare)


def test_a_composition_shows_its_tree() -> None:
    source = as_reward_source(lambda completion: 1.0) * 2 - 3 * FunctionReward(len, name="letters")
    html = source._repr_html_()
    assert "└─ -3 × letters: FunctionReward" in html
    assert str(source) in unescape(html)


def test_an_episode_shows_prompt_and_tokens() -> None:
    episode = Episode.of("Sell <mug>", "ab", ByteTokenizer())
    html = as_html(episode)
    assert "Sell &lt;mug&gt;" in html
    ids = [ord("a"), ord("b"), ByteTokenizer().eos_ids[0]]
    assert re.findall(r'title="token (\d): id (\d+)"', html) == [
        (str(i), str(n)) for i, n in enumerate(ids, 1)
    ]


def test_a_table_of_episodes_says_how_many_there_are() -> None:
    episodes = [Episode.of("P", letter, ByteTokenizer()) for letter in string.ascii_lowercase]
    html = episodes_table(episodes, {"reward": [1.5, *[float("nan")] * 25]})
    assert "… 21 more" in html
    assert ">1.5</td>" in html
    assert html.count("<tr>") == 6
    assert 'class="scale"' not in html  # no rewards of single tokens, no colours


def test_tokens_of_a_table_share_one_scale() -> None:
    episodes = [Episode.of("P", "a", ByteTokenizer()), Episode.of("P", "b", ByteTokenizer())]
    html = episodes_table(episodes, {}, [[1.0, 0.0], [0.5, 0.0]])
    depths = [int(x, 16) for x in re.findall(r'style="background:#[0-9a-f]{6}([0-9a-f]{2})">[ab]<', html)]
    assert depths[0] == pytest.approx(2 * depths[1], abs=1)
