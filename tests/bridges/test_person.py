"""A person as respondent: what is asked again, what a reply becomes, and how one leaves."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from tests.rater_terminal import RaterTerminal
from tests.test_chat import tokenizer
from text_gym import Reply, TextVectorEnv, WordTokenizer
from text_gym.bridges.person import PersonRespondent
from text_gym.errors import RaterLeftError, RespondentError
from text_gym.utils.terminal import SafeConsole

WORDS = WordTokenizer(["hi", "yes", "no", "?", "!"])


class Rules:
    """Says yes, pays 2 and ends the episode."""

    def respond(self, episodes: Any, generators: Any) -> list[Reply]:
        return [Reply(" yes ", reward=2.0, ends=True) for _ in episodes]


def sit(
    *typed: str, task: Any = None, envs: int = 1, **options: Any
) -> tuple[Any, PersonRespondent, io.StringIO]:
    """An environment after `hi ?`, with what the person typed; and what the console shows."""
    out = io.StringIO()
    person = PersonRespondent(iter(typed), SafeConsole(file=out, width=100), task)
    settings = {"turn_stop": "?", "max_turns": 3, **options}
    prompts = [{"prompt": "hi", "secret": "\x1b[2J"}]
    env = TextVectorEnv(
        prompts, WORDS, lambda completion: 0.0, 8, num_envs=envs, respondent=person, **settings
    )
    env.reset(seed=0)
    person.room = env.batch.room
    for token in WORDS.encode("hi ?"):
        step = env.step([token] * envs)
    return (env, step), person, out


def completion(env: Any) -> str:
    (episode,) = env.episodes(np.zeros(1, dtype=np.int64))
    return str(episode.completion)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "empty: type one"),
        ("one\n\ttwo", "cannot be written in the policy's tokens"),
        ("  ", "empty: type one"),
        ("zebra", "'zebra' is not in the vocabulary"),
        ("yes\x1b[A", "control characters"),
        ("\ufffd", "control characters"),
        ("yes " * 40, "too long for the context: it has 40 tokens, and 6 are left"),
        (":task", ":task: no such command"),
        (":nonsense", ":nonsense: no such command"),
        (":help", ":end TEXT ends it"),
    ],
)
def test_what_is_no_reply_is_asked_again(typed: str, told: str) -> None:
    (env, _), _, out = sit(typed, "no", max_context=9)
    assert completion(env) == "hi ? no"
    assert told in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "you know: secret = \\x1b[2J" in out.getvalue()


@pytest.mark.parametrize(
    ("typed", "text", "reward", "ends"),
    [
        ("yes", "hi ? yes", 2.0, True),  # just what the task says
        (":task", "hi ? yes", 2.0, True),
        ("no", "hi ? no", 0.0, False),
        (":end no", "hi ? no", 0.0, True),
        (":end yes", "hi ? yes", 0.0, True),
        (":end", "hi ?", 0.0, True),
    ],
)
def test_what_a_reply_becomes(typed: str, text: str, reward: float, ends: bool) -> None:
    (env, (_, rewards, terminated, _, _)), _, out = sit(typed, task=Rules())
    assert completion(env) == text
    assert (rewards[0], terminated[0]) == (reward, ends)
    assert ("user" in out.getvalue()) == (typed == ":task")  # shown if the person did not type it


@pytest.mark.parametrize("typed", [(), (":quit",), ("\x1b",)])
def test_whoever_leaves_ends_the_episode_by_name(typed: tuple[str, ...]) -> None:
    with pytest.raises(RespondentError) as raised:
        sit(*typed, envs=2)
    assert isinstance(raised.value.__cause__, RaterLeftError)


def test_whoever_left_is_not_asked_again() -> None:
    lines = iter([":quit", "yes"])
    person = PersonRespondent(lines, SafeConsole(file=io.StringIO()))
    for _ in range(2):
        with pytest.raises(RaterLeftError):
            person.read()
    assert list(lines) == ["yes"]


def test_ctrl_c_at_the_prompt_is_leaving() -> None:
    def interrupted(_: object) -> str:
        raise KeyboardInterrupt

    person = PersonRespondent(map(interrupted, range(9)), SafeConsole(file=io.StringIO()))
    for _ in range(2):
        with pytest.raises(RaterLeftError):
            person.read()


def test_a_template_that_rewrites_the_conversation_is_not_the_persons_fault() -> None:
    tokens = tokenizer("thinking")
    person = PersonRespondent(iter(["go on"] * 3), SafeConsole(file=io.StringIO()))
    env = TextVectorEnv(
        [{"prompt": [{"role": "user", "content": "Hi"}]}], tokens, lambda completion: 0.0, 40,
        respondent=person, max_turns=2, max_context=400,
    )  # fmt: skip
    env.reset(seed=0)
    for token in tokens.encode("<think>x</think>a"):
        env.step([token])
    assert tokens.chat is not None
    end = tokens.chat.end_of_turn
    assert end is not None
    with pytest.raises(RespondentError, match="not prefix-preserving"):
        env.step([end])


SITTING = """
from text_gym import TextVectorEnv, WordTokenizer
from text_gym.bridges.person import PersonRespondent
from text_gym.errors import RespondentError
from text_gym.utils.terminal import SafeConsole, typed_lines

words = WordTokenizer(["hi", "yes", "?"])
person = PersonRespondent(typed_lines(), SafeConsole())
talk = {"respondent": person, "turn_stop": "?", "max_turns": 9}
env = TextVectorEnv(["hi"], words, lambda completion: 0.0, 18, **talk)
env.reset(seed=0)
try:
    for token in words.encode("hi ?") * 9:
        env.step([token])
except RespondentError as error:
    print(error)
"""


def test_on_a_terminal() -> None:
    with RaterTerminal(program=SITTING) as terminal:
        for typed, told in (
            ("\r", "that reply is empty"),
            ("\x16\x07\r", "control characters"),  # Ctrl-V takes the next key as it is
            (b"\xff\r", "that reply"),
            ("yes\r", "assistant"),
            ("\x1b\r", "the person left in the middle of the conversation"),
        ):
            terminal.wait_for("> ")
            terminal.type(typed)
            terminal.wait_for(told)
        assert terminal.wait() == 0


TALK = """
import os

os.environ["TERM"] = "xterm"
from text_gym.bridges.person import PersonRespondent
from text_gym.utils.terminal import SafeConsole, typed_lines

person = PersonRespondent(typed_lines(), SafeConsole())
for _ in range(3):
    line = person.read()
    print("read", len(line), ascii(line[:20]), flush=True)
"""


def test_a_paste_of_several_lines_is_one_reply_and_long_lines_are_whole() -> None:
    if "GNU" not in (pytest.importorskip("readline").__doc__ or ""):
        pytest.skip("this Python has another editor of lines than GNU Readline")
    with RaterTerminal(program=TALK) as terminal:
        for typed, told in (
            ("\x1b[200~one\r\ttwo\rthree\x1b[201~\r", r"read 14 'one\n\ttwo\nthree'"),
            ("s\x1b[Dye" + "x" * 6_000 + "\r", "read 6003 'yexxx"),
            ("yes\tx\r", r"read 5 'yes\tx'"),
        ):
            terminal.wait_for("> ")
            terminal.type(typed)
            terminal.wait_for(told)
        assert terminal.wait() == 0
