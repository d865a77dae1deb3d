"""The labelling page: the console's questions in a browser, for several raters, alone or as a live reward.

It serves one label store. Which answers fit and what is asked next is the store's business. It keeps no
accounts: a name belongs to the browser that first uses it, until the server ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType
from typing import Any

from text_gym.errors import ConfigError, LabelError, RaterLeftError, excerpt
from text_gym.reward_models.labels.rows import Item
from text_gym.reward_models.labels.store import LabelStore

from .security import Session
from .shown import shown_part, shown_question
from .site import PORT, STATIC, RefusedError, Site

LEASE = 180.0  # seconds; an open page renews its lease, so one that crashed frees its question some day
AWAY = 5.0  # seconds that a question waits for a page that was closed: it may be loaded anew
_OPEN = 75.0  # seconds since a tab was heard of for which it counts as open; hidden ones wait up to 60
FAREWELL = 2.0  # seconds that the end of a training waits for the pages that look for texts to hear of it
_LOOKING = 3.0  # seconds since a tab was heard of for which it looks for texts, which it does every second
_NAME = 80  # characters of a rater's name
_LONG = 1e9  # more seconds than anybody spends on an answer
_KEY = 64  # characters of an answer's key
_FILES = {
    "/": STATIC / "index.html",
    **{f"/{name}": STATIC / name for name in ("base.js", "page.js", "post.js", "style.css", "icon.svg")},
}


class LabelPage(Site):
    """The page of one label store, as a context: it is served, in threads, from entering to leaving.

    Args:
        store: Gives the questions and keeps the answers.
        host: Address to listen at.
        port: 0 takes any that is free.
        names: Further names by which raters reach the page, e.g. over a tunnel.
        expose: Allow a host that other computers can reach.
        live: Ask only what `ask` is given, as the live reward of a training; else all in the store.
        raters: Who may answer; each has links of their own, which come as `"NAME: LINK"`, and nobody else can
            answer. If empty, raters choose their names.
        say: Gets each new one-time link; when one was used, the next comes. The first is the host's: only
            its browser can end a training, unless `raters` are named. `print` if None.

    Raises:
        ConfigError: See `listen`.
    """

    def __init__(
        self,
        store: LabelStore,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        names: Sequence[str] = (),
        expose: bool = False,
        live: bool = False,
        raters: Sequence[str] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.store, self.live, self.raters = store, live, tuple(dict.fromkeys(raters))
        for rater in self.raters:
            if not _is_name(rater, _NAME):
                raise ConfigError(f"rater {excerpt(rater)}: a name has 1 to {_NAME} printable characters")
        calls = (self.hello, self.next, self.answer, self.undo, self.text, self.away, self.end)
        super().__init__(_FILES, calls, host=host, port=port, names=names, expose=expose, say=say)
        self._among: Collection[str] | None = () if live else None
        self._tabs: dict[tuple[str, str], float] = {}  # (rater, tab) -> when it was heard of
        self._over = math.inf  # when the training ended
        self._saved, self._left = threading.Event(), threading.Event()

    def start(self) -> None:
        """Start serving and announce the first link, or one for each rater."""
        self._server.start()
        for rater in self.raters or ("",):
            self._announce(rater, host=not rater)

    def close(self) -> None:
        """Stop serving; acknowledged answers are on the disk, and open pages keep the rest.

        Pages that wait for the next texts of a training are told first that it is over.
        """
        self._left.set()
        if self.live and self._over == math.inf:
            self._over = time.monotonic()
            while time.monotonic() < self._over + FAREWELL and any(
                self._over - _LOOKING < heard < self._over for heard in list(self._tabs.values())
            ):
                time.sleep(0.05)
        self._server.close()

    def ask(self, among: Sequence[str]) -> None:
        """Show questions and wait until each has as many answers or skips as it needs.

        Args:
            among: Ids of questions in the store.

        Raises:
            RaterLeftError: A rater ended the session, Ctrl-C was pressed here, or the page was closed.
        """
        wanted = {i: self.store.item(i).overlap for i in dict.fromkeys(among)}
        self._among = tuple(wanted)
        try:
            with _signals_set(self._left):
                while not self._settled(wanted):
                    if self._left.is_set():
                        raise RaterLeftError("the raters left; what they answered is saved")
                    self._saved.wait(0.5)  # other processes may write to the store, too
                    self._saved.clear()
        finally:
            self._among = ()
            self._left.clear()

    def wait(self) -> None:
        """Serve until Ctrl-C, or until a rater ends the session."""
        with contextlib.suppress(KeyboardInterrupt):
            while not self._left.wait(0.5):
                pass

    def _settled(self, wanted: dict[str, int]) -> bool:
        standing = self.store.standing(wanted)
        return all(len(standing.get(i, ())) >= n for i, n in wanted.items())

    # Requests

    def hello(self, _: dict[str, Any], session: Session) -> dict[str, Any]:
        """Return what a page needs when it opens."""
        # A page keeps unsent answers per store, so that they never reach another store.
        store = hashlib.sha256(str(self.store.path.resolve()).encode()).hexdigest()[:16]
        return {"store": store, "live": self.live, "host": session.host, "rater": session.rater}

    def next(self, data: dict[str, Any], session: Session) -> dict[str, Any]:
        """Return the rater's next question, or the one the page `hold`s if it is still theirs."""
        rater, hold = self._rater(data, session), data.get("hold")
        if "tab" in data:
            self._tabs[rater, _text(data, "tab", _KEY)] = time.monotonic()
        among, item = self._among, None
        if isinstance(hold, str) and (among is None or hold in among):
            item = self.store.claim(rater, [hold], LEASE)
        return self._state(rater, item or self.store.claim(rater, among, LEASE))

    def answer(self, data: dict[str, Any], session: Session) -> dict[str, Any]:
        """Save an answer or a skip, and reply once it is on the disk."""
        rater, name, key = self._rater(data, session), _text(data, "item", 64), _text(data, "key", _KEY)
        seconds, skip, values = _seconds(data), data.get("skip", False), data.get("values")
        if not isinstance(skip, bool):
            raise RefusedError(400, "skip: true or false")
        question = self._item(name).question
        try:
            checked = {} if skip else question.check(values)  # type: ignore[arg-type]
        except LabelError as error:
            raise RefusedError(400, str(error)) from error
        if skip:
            label = self.store.skip(name, rater, latency=seconds, key=key)
        else:
            label = self.store.record(name, rater, checked, latency=seconds, key=key)
        self._saved.set()
        return {"row": label.row}

    def undo(self, data: dict[str, Any], session: Session) -> dict[str, Any]:
        """Undo the rater's latest answer and show its question again."""
        rater = self._rater(data, session)
        label = self.store.undo(rater, self._among, key=_text(data, "key", _KEY))
        if label is None:
            return {"undone": False}
        return {"undone": True, **self._state(rater, self.store.claim(rater, [label.item], LEASE))}

    def text(self, data: dict[str, Any], _: Session) -> dict[str, Any]:
        """Return the next part of a long text; text 0 is the prompt."""
        number, start = _whole(data, "number"), _whole(data, "start")
        question = self._item(_text(data, "item", 64)).question
        if number > len(question.completions):
            raise RefusedError(404, "there is no such text")
        return shown_part(question, number, start)

    def away(self, data: dict[str, Any], session: Session) -> dict[str, Any]:
        """Let others have the question of a tab that was closed, unless its rater has another one open."""
        rater, item = self._rater(data, session), _text(data, "item", 64)
        self._tabs.pop((rater, _text(data, "tab", _KEY)), None)
        since = time.monotonic() - _OPEN
        self._tabs = {tab: heard for tab, heard in list(self._tabs.items()) if heard > since}
        if rater not in {name for name, _ in list(self._tabs)}:
            self.store.claim(rater, [item], AWAY)  # and no longer
        return {}

    def end(self, _: dict[str, Any], session: Session) -> dict[str, Any]:
        """End a training that waits for answers: it saves and stops. Only the host can."""
        if not (self.live and session.host):
            raise RefusedError(403, "only the host can end a training, and only a training can be ended")
        self._left.set()
        self._saved.set()
        return {}

    def _rater(self, data: dict[str, Any], session: Session) -> str:
        """Return the name that a request is made under, if it is the session's to use."""
        name = _text(data, "rater", _NAME)
        why_not = self._access.why_not(session, name)
        if why_not:
            raise RefusedError(403, why_not)
        return name

    def _item(self, name: str) -> Item:
        try:
            return self.store.item(name)
        except LabelError as error:
            raise RefusedError(404, str(error)) from error

    def _state(self, rater: str, item: Item | None) -> dict[str, Any]:
        progress = self.store.progress(rater, self._among)
        counts = {"mine": progress.mine, "left": progress.left, "all": self.store.progress(rater).mine}
        return {
            "question": None if item is None else shown_question(item.question),
            "progress": counts,
            "over": self._over < math.inf,
        }


def _text(data: dict[str, Any], name: str, longest: int) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not _is_name(value, longest):
        raise RefusedError(400, f"{name}: a text of 1 to {longest} printable characters")
    return value


def _is_name(value: str, longest: int) -> bool:
    return 0 < len(value) <= longest and value.isprintable()


def _seconds(data: dict[str, Any]) -> float:
    value = data.get("seconds")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LONG:
        return float(value)
    raise RefusedError(400, "seconds: a number from 0")


def _whole(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    raise RefusedError(400, f"{name}: a whole number from 0")


@contextlib.contextmanager
def _signals_set(left: threading.Event) -> Iterator[None]:
    """In the main thread, let stop signals set `left` at once instead of after the iteration."""
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        left.set()
        if number != signal.SIGINT:
            before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and callable(signal.getsignal(number)):
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
