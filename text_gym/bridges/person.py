"""A person as respondent: reads what the agent said on a console, and types the reply.

Another place to sit at is a subclass that reads and shows elsewhere. Who the agent is, and what becomes of a
finished conversation, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from rich.console import Console
from rich.text import Text

from text_gym.episode import Episode
from text_gym.errors import PromptError, RaterLeftError, TokenError
from text_gym.respondents import Reply, Respondent, reply_ids
from text_gym.utils.display import harmless
from text_gym.utils.terminal import turns_table

LEAVE = (":quit", "\x1b")  # the second is the Escape key, and Enter
HELP = """\
  any text      your reply
  :end          end the conversation; :end TEXT ends it with a last reply
  :task         reply as the task would, if there is one
  :help         this help
  :quit         leave; so do Escape and Enter, Ctrl-D and Ctrl-C"""
_SHOWN = 4_000  # characters of a turn
Tone: TypeAlias = Literal["", "known", "problem", "over", "saved"]
_STYLES: dict[Tone, str] = {"": "", "known": "dim", "problem": "yellow", "over": "bold", "saved": "green"}


class PersonRespondent:
    """A person at a console who answers the agent's turns, one conversation after the other.

    A reply that is just what the task's own respondent would say pays and ends as that would. A reply that
    cannot be written in the policy's tokens, or has no room left, is asked for again.

    Args:
        lines: What the person types, without line ends; its end is that the person left.
        console: Where turns are shown.
        task: The respondent in whose place the person sits, if there is one.

    Attributes:
        room: The most tokens that agent and person write in a conversation together; the environment's
            `batch.room`. None leaves the limit to the environment, which leaves out what does not fit.
        show_prompt: Begin by showing the prompt, and its columns, which the agent does not see.

    >>> import io
    >>> from text_gym import TextVectorEnv, WordTokenizer
    >>> person = PersonRespondent(iter(["yes"]), Console(file=io.StringIO()))
    >>> words = WordTokenizer(["well", "?", "yes"])
    >>> talk = {"respondent": person, "turn_stop": "?", "max_turns": 2}
    >>> env = TextVectorEnv(["?"], words, lambda completion: 0.0, 4, **talk)
    >>> _ = env.reset(seed=0)
    >>> for token in words.encode("well ?"):
    ...     _ = env.step([token])
    >>> env.episodes(np.zeros(1, dtype=np.int64))[0].completion
    'well ? yes'
    """

    help = HELP

    def __init__(self, lines: Iterator[str], console: Console, task: Respondent | None = None) -> None:
        self.lines, self.console, self.task = lines, console, task
        self.room: int | None = None
        self.show_prompt = True
        self.left = False

    def respond(self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]) -> list[Reply]:
        """Implement `Respondent`.

        Raises:
            RaterLeftError: The person left, now or before.
            PromptError: The chat template refuses every reply.
        """
        return [self._reply(*about) for about in zip(episodes, generators, strict=True)]

    def read(self) -> str:
        """Return the next line that the person types.

        Raises:
            RaterLeftError: There is none, or it says to leave.
        """
        try:
            line = None if self.left else next(self.lines, None)
        except KeyboardInterrupt:
            line = None
        if line is None or line.strip(" ") in LEAVE:
            self.left = True
            raise RaterLeftError("the person left in the middle of the conversation")
        return line

    def begin(self, about: str, task: Respondent | None) -> None:
        """Greet the person, who from now on sits in the place of this respondent."""
        self.task = task
        self.say(f"{about}\n{self.help}")

    def pause(self) -> None:
        """Let the person read how a conversation ended; a console goes on at once.

        Raises:
            RaterLeftError: The person left.
        """

    def end(self, text: str) -> None:
        """Show the last line of the sitting."""
        self.say(text)

    def say(self, text: str, tone: Tone = "") -> None:
        """Show a line of our own."""
        self.console.print(Text(harmless(text, newlines=True), style=_STYLES[tone]))

    def heard(self, role: str, text: str) -> None:
        """Show what the person said, once it is taken; on a console it stands there already."""

    def show(self, role: str, text: str) -> None:
        """Show a turn."""
        left = max(0, len(text.strip()) - _SHOWN)
        shown = text.strip()[:_SHOWN] + (f" … ({left:,} more characters)" if left else "")
        self.console.print(turns_table([(role, shown or "(nothing)")]))

    def _reply(self, episode: Episode, generator: np.random.Generator) -> Reply:
        if not self.left:
            self._show_turn(episode)
        own = None
        while True:
            line = self.read()
            command, _, rest = line.strip().partition(" ")
            ends = command == ":end"
            text = rest.strip() if ends else line.strip()
            if command == ":help":
                self.say(self.help)
                continue
            if own is None and self.task is not None:
                (own,) = self.task.respond([episode], [generator])
            if command == ":task" and own is not None:
                self.show(own.role, _text_of(own, episode))  # nobody typed it
                return own
            if command == ":task" or (command.startswith(":") and not ends):
                self.say(f"{command}: no such command here; :help shows them", "problem")
                continue
            reply = _placed(text, own, ends, episode)
            problem = self._problem(text, reply, episode)
            if problem is None:
                self.heard(reply.role, text)
                return reply
            self.say(problem, "problem")

    def _show_turn(self, episode: Episode) -> None:
        """Show the agent's turn, and before its first one what the conversation is about."""
        if episode.agent_turns == 1 and self.show_prompt:
            for role, text in episode.prompt.talk:
                self.show("prompt" if not episode.prompt.messages else role, text)
            for name, value in episode.prompt.columns.items():
                self.say(f"you know: {harmless(str(name))} = {harmless(str(value), limit=200)}", "known")
        self.show(*episode.talk[-1])

    def _problem(self, text: str, reply: Reply, episode: Episode) -> str | None:
        """Say why a reply cannot be used; None if it can."""
        if not text and not reply.ends:
            return "that reply is empty: type one, or :end to end the conversation"
        if holds_controls(text):
            return "that reply holds control characters (an arrow key?): type it again"
        try:
            ids = reply_ids(episode, reply)
        except TokenError as error:
            return f"that reply cannot be written in the policy's tokens: {error}"
        except PromptError as error:
            reply_ids(episode, replace(reply, text="Yes."))  # raises if it is not the reply's own fault
            return f"that reply cannot be used: {error}"
        left = len(ids) if self.room is None else self.room - len(episode.completion_ids)
        if len(ids) > left:
            return (
                f"that reply is too long for the context: it has {len(ids)} tokens, and {left} are left; "
                "type a shorter one, or :end to end the conversation"
            )
        return None


def holds_controls(text: str) -> bool:
    """Return True if a text holds what nobody types on purpose; line feeds and tabs are in many a paste."""
    return not text.replace("\n", "").replace("\t", "").isprintable() or "\ufffd" in text


def _placed(text: str, own: Reply | None, ends: bool, episode: Episode) -> Reply:
    """Make a reply of what was typed, with the white space around it that the task's own replies have."""
    if own is None:
        return Reply(text, ends=ends)
    model = _text_of(own, episode)
    words = model.strip()
    if text == words and not ends:
        return own
    before, _, after = model.partition(words) if words else ("", "", "")
    return Reply(f"{before}{text}{after}" if text else "", ends=ends, role=own.role)


def _text_of(reply: Reply, episode: Episode) -> str:
    return reply.text if isinstance(reply.text, str) else episode.tokenizer.decode(list(reply.text))
