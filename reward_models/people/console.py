"""The rater's console: it shows one question after another and saves each answer before the next.

Text of the model is shown with every control character written out. Which question is next is the store's
business; what an answer is worth is not decided here.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from text_gym.chat import Talk
from text_gym.errors import LabelError, NotSavedError, RaterLeftError
from text_gym.reward_models.labels.questions import Field, Question, Value
from text_gym.reward_models.labels.rows import Item
from text_gym.reward_models.labels.store import LabelStore
from text_gym.reward_models.labels.turns import parts_of
from text_gym.utils.display import harmless
from text_gym.utils.terminal import SafeConsole, turns_table

from .keys import PASTE, Keys, standard_keys

SHOWN = 4_000  # characters of a text shown at once; `m` shows more
_COMMANDS = {
    **dict.fromkeys(("u", "undo", "\x7f", "\b"), "undo"),
    **dict.fromkeys(("s", "skip"), "skip"),
    **dict.fromkeys(("m", "more"), "more"),
    **dict.fromkeys(("?", "h", "help"), "help"),
    **dict.fromkeys(("q", "quit", "\x03", "\x04"), "quit"),
}
_NAMES = {PASTE: "a pasted text", " ": "the space bar", "\t": "Tab", "": "nothing"}  # of what cannot be shown
HELP = "u take back   s skip   m more of a long text   ? help   q save and leave"


class _Quit(Exception):  # noqa: N818 - never leaves this file
    pass


@dataclass
class _Sitting:
    """The state of one question while it is being answered."""

    item: Item
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    since: float = field(default_factory=lambda: time.monotonic())
    values: dict[str, Value] = field(default_factory=dict)
    shown: int = SHOWN

    @property
    def open(self) -> Sequence[Field]:
        """Return the number of open questions."""
        return self.item.question.fields[len(self.values) :]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


class RaterConsole:
    """Questions one rater, on a terminal or over a pipe.

    Args:
        store: Gives the questions and keeps the answers.
        rater: Who answers.
        keys: Where answers come from; standard input if None.
        screen: Where questions go; standard output if None.
    """

    def __init__(
        self, store: LabelStore, rater: str, keys: Keys | None = None, screen: Console | None = None
    ) -> None:
        self.store, self.rater = store, rater
        self.keys = standard_keys() if keys is None else keys
        self.screen = SafeConsole() if screen is None else screen
        self.saved = 0
        self._seconds = 0.0
        self._among: Collection[str] | None = None

    def ask(self, among: Collection[str] | None = None) -> None:
        """Ask until nothing is left for this rater.

        Args:
            among: Ids of the questions to ask; None for all in the store.

        Raises:
            RaterLeftError: The rater quit, pressed Ctrl-C, or the input ended. What was acknowledged is
                saved, and the same question comes first next time.
        """
        self._among = among
        try:
            with self.keys:
                item = self.store.claim(self.rater, among)
                if item is not None and not self.saved:
                    self._help(item.question)
                while item is not None:
                    item = self._ask_one(item) or self.store.claim(self.rater, among)
        except (EOFError, KeyboardInterrupt) as error:
            raise self._left() from error
        except _Quit:
            raise self._left() from None

    def _left(self) -> RaterLeftError:
        with contextlib.suppress(NotSavedError):
            self.store.release(self.rater)
        left = self.store.progress(self.rater, self._among).left
        return RaterLeftError(
            f"{harmless(self.rater)} left; answers saved: {self.saved:,}, questions left: {left:,}"
        )

    def _ask_one(self, item: Item) -> Item | None:
        """Ask one question until it is settled; return the next question if that is already decided."""
        self.keys.discard()
        sitting = _Sitting(item)
        self._show(sitting)
        while True:
            self._prompt(sitting)
            words = self.keys.read()
            command = _COMMANDS.get(words[0]) if len(words) == 1 else None
            if command == "quit":
                self._say("")
                raise _Quit
            if command == "help":
                self._help(item.question)
            elif command == "more":
                self._more(sitting)
            elif command == "undo" and sitting.values:
                sitting.values.popitem()
                self._say("taken back")
            elif command == "undo":
                before = self._undo()
                if before is not None:
                    return before
            elif self._take(sitting, words, command == "skip"):
                return None

    def _take(self, sitting: _Sitting, words: Sequence[str], skip: bool) -> bool:
        """Take answers; return True once the question is settled."""
        options = [f.option(w) for f, w in zip(sitting.open, words, strict=False)]
        if not skip and (not words or len(words) > len(sitting.open) or None in options):
            typed = " ".join(words)
            if typed in ("\n", "\r"):  # from a terminal; a line from a pipe has no end here
                self._say("no Enter needed: a key answers at once", style="yellow")
            else:
                what = _NAMES.get(typed) or harmless(typed, limit=20)
                self._say(f"{what} is no answer here; ? shows the keys", style="yellow")
            return False
        for asked, option in zip(sitting.open, [] if skip else options, strict=False):
            assert option is not None
            sitting.values[asked.name] = option.value
            self._say(option.label)
        if sitting.open and not skip:
            return False
        return self._save(sitting, skip)

    def _save(self, sitting: _Sitting, skip: bool) -> bool:
        seconds = sitting.seconds
        try:
            if skip:
                self.store.skip(sitting.item.id, self.rater, latency=seconds, key=sitting.key)
            else:
                self.store.record(
                    sitting.item.id, self.rater, sitting.values, latency=seconds, key=sitting.key
                )
        except NotSavedError as error:
            self._say(f"NOT SAVED. {error}", style="bold red")
            if not skip:
                sitting.values.popitem()
            return False
        except LabelError as error:  # answered elsewhere under the same name meanwhile
            self._say(str(error), style="yellow")
            return True
        self.saved += 1
        self._seconds += seconds
        self._say("skipped, saved" if skip else "saved", style="green")
        return True

    def _undo(self) -> Item | None:
        try:
            label = self.store.undo(self.rater, self._among)
        except NotSavedError as error:
            self._say(f"NOT SAVED. {error}", style="bold red")
            return None
        if label is None:
            self._say("there is nothing to take back", style="yellow")
            return None
        self.saved -= 1
        self._say("taken back; here it is again", style="green")
        return self.store.item(label.item)

    # The screen

    def _show(self, sitting: _Sitting) -> None:
        progress = self.store.progress(self.rater, self._among)
        title = f"question {progress.mine + 1:,} · {progress.left:,} left"
        if self.saved > 0:
            title += f" · {self._seconds / self.saved:.0f} s each"
        self.screen.rule(Text(title))
        question = sitting.item.question
        for number, name in enumerate(("prompt", *_names(question))):
            if question.turns:
                self._talk(name, question.turns[number], dim=not number)
            else:
                self._panel(name, (question.prompt, *question.completions)[number], dim=not number)

    def _panel(self, name: str, text: str, dim: bool = False) -> None:
        # Many prompts end in a line feed, which would show as an empty line.
        shown = harmless(text.removesuffix("\n"), newlines=True, limit=SHOWN)
        style = "dim" if dim or not text.strip() else ""
        self.screen.print(
            Panel(Text(shown if text.strip() else "(nothing)", style), title=Text(name), title_align="left")
        )

    def _talk(self, name: str, talk: Talk, start: int = 0, dim: bool = False) -> None:
        """Show turns beside their speakers; the column of speakers is out of reach of any text."""
        parts, _, left = parts_of(talk, start, SHOWN)
        rows = [("" if part.goes_on else part.role, part.text) for part in parts]
        rows += [("", f"… ({left:,} more characters)")] if left else []
        shown = turns_table(rows, "dim" if dim else "")
        self.screen.print(Panel(shown, title=Text(name), title_align="left"))

    def _more(self, sitting: _Sitting) -> None:
        """Show the next part of every text that was cut."""
        question, start = sitting.item.question, sitting.shown
        texts = (question.prompt, *question.completions)
        sitting.shown += SHOWN
        cut = False
        for number, name in enumerate(("prompt", *_names(question))):
            heading = f"{name}, from character {start + 1:,}"
            if question.turns:
                if parts_of(question.turns[number], start, 1)[1] > start:
                    self._talk(heading, question.turns[number], start)
                    cut = True
            elif len(texts[number]) > start:
                self._panel(heading, texts[number][start : start + SHOWN + 1])
                cut = True
        if not cut:
            self._say("all is shown")

    def _prompt(self, sitting: _Sitting) -> None:
        asked = sitting.open[0]
        keys = "  ".join(
            o.keys[0] if o.label == o.keys[0] else f"{o.keys[0]} {o.label}" for o in asked.options
        )
        self.screen.print(Text(f"{asked.name}  {keys}  > "), end="")
        self.screen.file.flush()

    def _help(self, question: Question) -> None:
        for asked in question.fields:
            keys = ", ".join(dict.fromkeys(key for o in asked.options for key in o.keys))
            self._say(f"{asked.name}: {harmless(asked.guideline)} Keys: {keys}")
        self._say(HELP)

    def _say(self, text: str, style: str = "") -> None:
        self.screen.print(Text(text, style=style))


def _names(question: Question) -> list[str]:
    """Return the names the completions have on the screen."""
    if question.kind == "comparison":
        return ["1 left", "2 right"]
    numbered = [f"text {n}" for n in range(1, len(question.completions) + 1)]
    return ["text"] if question.kind == "rating" else numbered
