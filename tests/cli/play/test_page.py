"""The page of `text-gym play --as user --web`, by its requests: what is asked, refused, and when one left."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.page_tools import Browser, exchange, raw, status_of
from tests.test_page import BROWSER, FLAGS
from text_gym import TextVectorEnv, WordTokenizer
from text_gym.cli.options.play import PlayOptions
from text_gym.cli.play import page as page_module
from text_gym.cli.play.page import TalkPage
from text_gym.cli.play.user import make_talk_page
from text_gym.errors import ConfigError, RaterLeftError, RespondentError
from text_gym.utils.terminal import SafeConsole

WORDS = WordTokenizer(["hi", "yes", "no", "?"])


class Sitting:
    """A page whose person answers `hi ?`; the environment plays in a thread."""

    def __init__(self, page: TalkPage, links: list[str]) -> None:
        self.page = page
        talk: dict[str, Any] = {"respondent": page.person, "turn_stop": "?", "max_turns": 2, "max_context": 9}
        self.env = TextVectorEnv(["hi"], WORDS, lambda completion: 0.0, 8, num_envs=1, **talk)
        self.env.reset(seed=0)
        page.person.room = self.env.batch.room
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()
        self.browser = Browser(links[0])

    def _play(self) -> None:
        try:
            for token in WORDS.encode("hi ?"):
                self.env.step([token])
        except RespondentError as error:
            self.error = error.__cause__

    def state(self, since: int = 0, tab: str = "a") -> Any:
        status, data = self.browser.post("state", {"tab": tab, "since": since})
        assert status == 200, data
        return data

    def asked(self, number: int) -> Any:
        """The state once question `number` is asked."""
        for _ in range(1000):
            if (state := self.state())["number"] == number and state["asking"]:
                return state
            time.sleep(0.005)
        raise AssertionError(f"never asked: {state}")

    def send(self, number: int, text: Any) -> int:
        return self.browser.post("send", {"number": number, "text": text})[0]

    def completion(self) -> str:
        self.thread.join(10)
        (episode,) = self.env.episodes(np.zeros(1, dtype=np.int64))
        return str(episode.completion)


@pytest.fixture
def sitting() -> Iterator[Sitting]:
    links: list[str] = []
    with TalkPage(SafeConsole(file=io.StringIO()), port=0, say=links.append) as page:
        yield Sitting(page, links)
        page.desk.leave()


def test_what_is_no_reply_is_told_beside_the_input_and_asked_again(sitting: Sitting) -> None:
    for number, (typed, told) in enumerate(
        [
            ("", "that reply is empty"),
            ("yes\x1b[A", "control characters"),
            ("a\r\nb", "'a\\nb' is not in the vocabulary"),
            ("\ud800", "control characters"),
            ("zebra", "'zebra' is not in the vocabulary"),
            ("yes " * 9, "it has 9 tokens, and 6 are left"),
            (":task", ":task: no such command"),
        ],
        1,
    ):
        assert sitting.asked(number)["problem"] == "" or number > 1
        assert sitting.send(number, typed) == 200
        assert told in sitting.asked(number + 1)["problem"]
    turns = [(r["role"], r["text"]) for r in sitting.state()["rows"] if r["kind"] == "turn"]
    assert turns == [("prompt", "hi"), ("assistant", "hi ?")]
    assert sitting.send(8, "no") == 200
    assert sitting.completion() == "hi ? no"
    state = sitting.state()
    assert (state["rows"][-1]["role"], state["rows"][-1]["text"]) == ("user", "no")
    assert (state["problem"], state["asking"]) == ("", "")
    assert sitting.state(since=state["next"])["rows"] == []


def test_a_line_answers_only_the_question_that_is_asked(sitting: Sitting) -> None:
    sitting.asked(1)
    posts = [({"number": 2, "text": "yes"}, 409), ({"number": 1, "text": 3}, 400), ({"text": "yes"}, 400)]
    assert [sitting.browser.post("send", data)[0] for data, _ in posts] == [status for _, status in posts]
    assert sitting.browser.post("state", {"tab": "", "since": 0})[0] == 400
    assert sitting.browser.post("state", {"tab": "a", "since": -1})[0] == 400
    stranger = [h for h in sitting.browser.headers() if h[0] != "Cookie"]
    body = b'{"number": 1, "text": "yes"}'
    assert status_of(exchange(sitting.page.port, raw("POST", "/api/send", stranger, body))) == 401
    assert sitting.send(1, "no") == 200
    assert sitting.send(1, "yes") == 409  # the same, sent twice
    assert sitting.completion() == "hi ? no"


def test_a_page_that_is_closed_is_left_and_one_loaded_anew_is_not(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "AWAY", 0.3)
    sitting.asked(1)
    sitting.browser.post("away", {"tab": "a"})
    sitting.state(tab="b")  # the page that was loaded anew
    sitting.state(tab="a")  # was on its way when its page was closed
    time.sleep(0.7)
    assert sitting.thread.is_alive()
    sitting.browser.post("away", {"tab": "b"})
    sitting.thread.join(10)
    assert isinstance(sitting.error, RaterLeftError)
    assert sitting.send(1, "yes") == 409


def test_open_pages_hear_the_last_line_before_the_server_stops() -> None:
    links: list[str] = []
    out = io.StringIO()
    heard: list[str] = []
    with TalkPage(SafeConsole(file=out), port=0, say=links.append) as page:
        browser = Browser(links[0])
        browser.post("state", {"tab": "a", "since": 0})

        def look() -> None:
            time.sleep(0.3)  # the page looks from time to time
            heard.append(browser.post("state", {"tab": "a", "since": 0})[1]["ended"])

        looking = threading.Thread(target=look)
        looking.start()
        page.person.end("\nyou left <b>\x1b[2J")
    looking.join()
    assert heard == ["you left <b>\\x1b[2J"]
    assert "you left <b>\\x1b[2J" in out.getvalue()


def test_a_port_in_use_is_named() -> None:
    with (
        make_talk_page(PlayOptions(port=0), say=lambda link: None) as page,
        pytest.raises(ConfigError, match="is in use"),
    ):
        make_talk_page(PlayOptions(port=page.port))


def test_a_reply_of_several_lines_is_typed_sent_by_enter_and_kept_over_loading_the_page_anew() -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium on this computer")
    links: list[str] = []
    with TalkPage(SafeConsole(file=io.StringIO()), port=0, say=links.append) as talk:
        sitting = Sitting(talk, links)
        with api.sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
            page = chromium.new_page()
            page.goto(links[-1])
            page.locator("#line").wait_for()
            page.keyboard.type("yes")
            page.keyboard.press("Shift+Enter")
            page.keyboard.type("no")
            page.reload()
            page.locator("#line").wait_for()
            assert page.input_value("#line") == "yes\nno"
            page.keyboard.press("Enter")
            page.locator("#problem", has_text=r"'yes\nno' is not in the vocabulary").wait_for()
            assert page.input_value("#line") == "yes\nno"
            page.fill("#line", "no")
            page.keyboard.press("Enter")
            assert sitting.completion() == "hi ? no"
            talk.desk.leave()
            chromium.close()
