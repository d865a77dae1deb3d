"""The page of `text-gym play --as user --web`: the console's conversation in a browser.

It is served as the labelling page is: on this computer, behind one-time links. What a reply may be is the
respondent's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from text_gym.bridges.person import PersonRespondent, Tone
from text_gym.respondents import Respondent
from text_gym.reward_models.page.security import Session
from text_gym.reward_models.page.site import PORT, STATIC, RefusedError, Site
from text_gym.utils.display import harmless

SHOWN = 20_000  # characters of a turn
ROWS = 1_000  # that a page can still get when it is opened anew
AWAY = 3.0  # seconds after which a page that was closed, not loaded anew, counts as left
FAREWELL = 2.0  # seconds that the last line waits for open pages to read it
_TAB = 64  # characters of a tab's name
_HERE = Path(__file__).parent
_FILES = {
    "/": _HERE / "talk.html",
    "/talk.js": _HERE / "talk.js",
    **{f"/{name}": STATIC / name for name in ("base.js", "post.js", "style.css", "icon.svg")},
}
HELP = """\
  any text      your reply
  :end          end the conversation; :end TEXT ends it with a last reply
  :task         reply as the task would, if there is one
  :help         this help
  :quit         leave; so do closing the page, and Ctrl-C in the terminal"""


class Desk:
    """What lies between the thread that plays and those that serve: rows to show, and the line typed.

    Attributes:
        wanted: What is asked for: `"text"`, or `"next"` to go on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rows: list[dict[str, str]] = []
        self._dropped = 0  # rows that are no longer kept
        self._number, self._asking, self._problem, self._ended = 0, "", "", ""
        self._typed: str | None = None
        self._left = False
        self._tabs: set[str] = set()
        self._closed: set[str] = set()
        self._told: set[str] = set()  # tabs that know of the end
        self._away: float | None = None
        self.wanted = "text"
        self.task = False

    # Of the thread that plays

    def add(self, kind: str, text: str, role: str = "") -> None:
        """Show one more row."""
        row = {"kind": kind, "role": harmless(role), "text": harmless(text, newlines=True)}
        with self._changed:
            self._rows.append(row)
            extra = max(0, len(self._rows) - ROWS)
            del self._rows[:extra]
            self._dropped += extra

    def warn(self, problem: str) -> None:
        """Say beside the input why the last line was not taken."""
        with self._changed:
            self._problem = harmless(problem)

    def wait(self) -> str | None:
        """Ask for a line; None if the person left or closed the page."""
        with self._changed:
            self._number += 1
            self._asking, self._typed = self.wanted, None
            while self._typed is None and not self._left:
                self._changed.wait(0.2)
                if self._away is not None and time.monotonic() - self._away > AWAY:
                    self._left = True
            self._asking = ""
            return None if self._left else self._typed

    def finish(self, text: str) -> None:
        """Show the last line; nothing is asked any more."""
        with self._changed:
            self._ended = self._ended or harmless(text.strip(), newlines=True)

    def farewell(self) -> None:
        """Wait until the open pages have read the last line, but not for long."""
        until = time.monotonic() + FAREWELL
        with self._changed:
            while self._ended and self._tabs - self._told and time.monotonic() < until:
                self._changed.wait(0.05)

    # Of the threads that serve

    def state(self, tab: str, since: int) -> dict[str, Any]:
        """Return what a tab shows: the rows from number `since`, and what is asked."""
        with self._changed:
            if tab not in self._closed:
                self._tabs.add(tab)
                self._away = None
            if self._ended:
                self._told.add(tab)
                self._changed.notify_all()
            return {
                "rows": self._rows[max(0, since - self._dropped) :],
                "next": self._dropped + len(self._rows),
                "asking": "" if self._left else self._asking,
                "number": self._number,
                "problem": self._problem,
                "ended": self._ended,
                "task": self.task,
            }

    def send(self, number: int, text: str) -> bool:
        """Take a line for question `number`; False if that one is not, or no longer, asked."""
        with self._changed:
            if not self._asking or number != self._number or self._typed is not None:
                return False
            self._typed, self._problem, self._asking = text, "", ""
            self._changed.notify_all()
            return True

    def leave(self) -> None:
        """End the sitting, at the next question at the latest."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def close_tab(self, tab: str) -> None:
        """Forget a tab that was closed or is loaded anew."""
        with self._changed:
            self._closed.add(tab)
            self._tabs.discard(tab)
            if not self._tabs:
                self._away = time.monotonic()


class PagePerson(PersonRespondent):
    """A person at the page.

    Args:
        desk: Where turns are shown and replies come from.
        console: The terminal, which gets the last line, too.
    """

    help = HELP

    def __init__(self, desk: Desk, console: Console) -> None:
        super().__init__(iter(desk.wait, None), console)
        self.desk = desk

    def begin(self, about: str, task: Respondent | None) -> None:
        """Greet the person; the commands stand on the page."""
        self.task, self.desk.task = task, task is not None
        self.say(about)

    def pause(self) -> None:
        """Wait until the person goes on to the next conversation."""
        self.desk.wanted = "next"
        try:
            self.read()
        finally:
            self.desk.wanted = "text"

    def end(self, text: str) -> None:
        """Show the last line on the page and in the terminal."""
        super().say(text)
        self.desk.finish(text)

    def say(self, text: str, tone: Tone = "") -> None:
        """Show a line of our own; a problem stands beside the input."""
        if tone == "problem":
            self.desk.warn(text)
        else:
            self.desk.add(tone or "note", text.strip("\n"))

    def heard(self, role: str, text: str) -> None:
        """Show what the person said."""
        self.show(role, text)

    def show(self, role: str, text: str) -> None:
        """Show a turn."""
        left = max(0, len(text.strip()) - SHOWN)
        shown = text.strip()[:SHOWN] + (f" … ({left:,} more characters)" if left else "")
        self.desk.add("turn", shown or "(nothing)", role)


class TalkPage(Site):
    """The page of one person's conversations, as a context.

    Args:
        console: The terminal.
        port: 0 takes any that is free.
        say: Gets each new one-time link. `print` if None.

    Attributes:
        person: The respondent.

    Raises:
        ConfigError: See `listen`.
    """

    def __init__(
        self, console: Console, *, port: int = PORT, say: Callable[[str], None] | None = None
    ) -> None:
        self.desk = Desk()
        self.person = PagePerson(self.desk, console)
        super().__init__(_FILES, (self.state, self.send, self.leave, self.away), port=port, say=say)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.desk.finish(f"It stopped: {error}. A conversation that was not called saved is not kept.")
        self.close()

    def close(self) -> None:
        """Stop serving, once the open pages know."""
        self.desk.farewell()
        super().close()

    def state(self, data: dict[str, Any], _: Session) -> dict[str, Any]:
        """Return what is new on the page since row `since`."""
        return self.desk.state(_tab(data), _whole(data, "since"))

    def send(self, data: dict[str, Any], _: Session) -> dict[str, Any]:
        """Take a line as the answer to question `number`."""
        text, number = data.get("text"), _whole(data, "number")
        if not isinstance(text, str):
            raise RefusedError(400, "text: a text")
        if not self.desk.send(number, text.replace("\r\n", "\n")):
            raise RefusedError(409, "that was answered already, perhaps in another tab")
        return {}

    def leave(self, _: dict[str, Any], __: Session) -> dict[str, Any]:
        """End the sitting."""
        self.desk.leave()
        return {}

    def away(self, data: dict[str, Any], _: Session) -> dict[str, Any]:
        """Note that a tab was closed."""
        self.desk.close_tab(_tab(data))
        return {}


def _tab(data: dict[str, Any]) -> str:
    value = data.get("tab")
    if not isinstance(value, str) or not 0 < len(value) <= _TAB:
        raise RefusedError(400, f"tab: a text of 1 to {_TAB} characters")
    return value


def _whole(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    raise RefusedError(400, f"{name}: a whole number from 0")
