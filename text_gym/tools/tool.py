"""A tool as a respondent: it reads the call that a turn ends with, runs it, and replies with the result.

What tools there are is not known here; `expression` has one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import ConfigError, SandboxError, ToolError
from text_gym.respondents import Reply
from text_gym.utils.display import harmless
from text_gym.utils.limits import SandboxLimits
from text_gym.utils.sandbox import Sandbox

_USUAL = SandboxLimits(seconds=5.0, memory=1 << 30, answer=1 << 20)
_LONGEST_ERROR = 300  # characters
_WHO = re.compile(rf"\A\S+ raised (?:{ToolError.__module__}\.ToolError: )?")
_PLACE = re.compile(
    r" \([^()]*:\d+\)"
)  # in a sandbox's errors: where it was raised, which differs by machine


class Tool:
    """A respondent that runs a function on what the agent wrote between `<tag>` and `</tag>`.

    An environment with this respondent ends turns with `tool.turn_stop`, which is `</tag>`. A call that
    fails is answered with an error that the agent can read; it never ends the episode. A chat model that
    ends its turn without a call has given its answer, and the episode ends.

    Args:
        function: Takes a text and returns a text, or something else that is written as `str` writes it. It
            must return the same for the same text. For an error that the agent is to read, it raises
            `ToolError`.
        tag: The name of the call.
        result: The reply, with `{}` where the result stands.
        error: The reply to a call that failed, with `{}` where the message stands.
        sandbox: Run the function in a sandbox, where it has to be at the top of a module or a file, or be
            named as `"file.py:name"` or `"module:name"`. None means that it does so unless the environment
            variable `TEXT_GYM_SANDBOX` is 0.
        limits: Of the sandbox; `seconds` is for each call.
        max_result: Characters of a result; a longer one is an error.

    Raises:
        ConfigError: The tag is no word, `result` has no `{}`, or the function is none, or one that the
            sandbox could not find.

    >>> from text_gym.tools.expression import calculate
    >>> Tool(calculate, "calc", sandbox=False).run("<calc>6 * 7</calc>")
    '<result>42</result>'
    """

    def __init__(
        self,
        function: Callable[[str], Any] | str,
        tag: str = "tool",
        *,
        result: str = "<result>{}</result>",
        error: str = "<error>{}</error>",
        sandbox: bool | None = None,
        limits: SandboxLimits = _USUAL,
        max_result: int = 2000,
    ) -> None:
        if not re.fullmatch(r"\w+", tag):
            raise ConfigError(f"tag is {tag!r}; it must be a word, such as 'calc'")
        if result.count("{}") != 1:
            raise ConfigError(f"result is {result!r}; it must have one {{}}, where the result stands")
        sandbox = os.environ.get("TEXT_GYM_SANDBOX") != "0" if sandbox is None else sandbox
        if isinstance(function, str) and not sandbox:
            raise ConfigError(f"{function!r} is a name; pass the function itself, or leave it in the sandbox")
        if not isinstance(function, str) and not callable(function):
            raise ConfigError(f"function is {function!r}, which cannot be called")
        self.tag, self.result, self.error, self.max_result = tag, result, error, max_result
        self.function, self.limits = function, limits
        self.turn_stop = f"</{tag}>"
        self._sandbox = Sandbox(function, limits) if sandbox else None
        self._call = re.compile(f"<{tag}>((?:(?!<{tag}>).)*)\\Z", re.DOTALL)

    def respond(self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]) -> list[Reply]:
        """Run the call that each episode's last turn ends with."""
        return [self._reply(episode) for episode in episodes]

    def _reply(self, episode: Episode) -> Reply:
        turn, chat = episode.turns[-1], episode.prompt.chat_template(episode.tokenizer)
        closed = chat is not None and turn.ids[-1:].tolist() == [chat.end_of_turn]
        if closed and f"<{self.tag}>" not in turn.text:
            return Reply("", ends=True, role="tool")
        return Reply(self.run(turn.text), role="tool")

    def run(self, turn: str) -> str:
        """Return the reply to a turn; its closing tag may be missing, since it is what ended the turn."""
        call = self._call.search(turn.removesuffix(self.turn_stop))
        if call is None:
            return self._failed(f"there is no <{self.tag}> before {self.turn_stop}")
        if self._sandbox is not None:
            self._sandbox.start()  # a file that cannot be loaded is its owner's mistake and not the agent's
        try:
            result = str(self._function(call[1]))
        except SandboxError as error:
            return self._failed(_PLACE.sub("", _WHO.sub("", str(error))))
        except ToolError as error:
            return self._failed(str(error))
        except (Exception, SystemExit) as error:
            return self._failed(f"{type(error).__name__}: {error}")
        if len(result) > self.max_result:
            return self._failed(f"a result of more than {self.max_result} characters")
        return self.result.replace("{}", result)

    @property
    def _function(self) -> Any:
        return self.function if self._sandbox is None else self._sandbox

    def _failed(self, message: str) -> str:
        return self.error.replace("{}", harmless(message, limit=_LONGEST_ERROR))

    def close(self) -> None:
        """End the sandbox's process, if there is one; the next call starts another."""
        if self._sandbox is not None:
            self._sandbox.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sandbox": self._sandbox is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sandbox = Sandbox(self.function, self.limits) if state["_sandbox"] else None
