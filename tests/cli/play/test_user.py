"""`text-gym play --as user`: conversations with a policy, at a console and on a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.rater_terminal import RaterTerminal, screen
from tests.test_chat import tokenizer
from text_gym import load_task
from text_gym.agents import Policy
from text_gym.bridges.person import PersonRespondent
from text_gym.cli.main import main
from text_gym.cli.options.play import PlayOptions, read_play
from text_gym.cli.play.user import talk
from text_gym.errors import ConfigError
from text_gym.utils.terminal import SafeConsole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny policies with random weights: of the task Guess, chat models, and one without a chat template."""
    folder = tmp_path_factory.mktemp("talk")
    tokenizers: dict[str, Any] = {"guess": load_task("guess").tokenizer}
    tokenizers |= {name: tokenizer(name) for name in ("chatml", "thinking")} | {"plain": tokenizer(None)}
    for name, tokens in tokenizers.items():
        Policy.new(tokens, layers=1, width=16, heads=2, context=160, device="cpu").save(folder / name)
    return folder


def hold(folder: Path, *typed: str, policy: str = "chatml", **options: Any) -> tuple[int, str]:
    """The number of conversations, and what the console showed."""
    out = io.StringIO()
    wanted = PlayOptions(player="user", policy=str(folder / policy), device="cpu", **options)
    return talk(wanted, PersonRespondent(iter(typed), SafeConsole(file=out, width=100))), out.getvalue()


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_customer_of_a_task_is_played_and_what_came_to_its_end_is_kept(
    folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "talks.jsonl"
    count, shown = hold(
        folder, "<", ":end =", ":quit", policy="guess", task="text_gym/Guess-v0", out=str(kept)
    )
    rows = rows_of(kept)
    assert (count, len(rows)) == (1, 1)
    said = [(t["role"], t["said"]) for t in rows[0]["turns"]]
    assert [role for role, _ in said] == ["assistant", "user"] * 2
    assert [text for role, text in said if role == "user"] == ["<", "="]
    assert rows[0]["finish_reason"] == "reply"
    number = str(rows[0]["columns"]["number"])
    assert f"you know: number = {number}" in shown
    assert f"reward {float(number in (said[0][1][-1], said[2][1][-1])):.3f}" in shown
    assert rows[0]["reward"] == float(number in (said[0][1][-1], said[2][1][-1]))
    assert "conversations that came to their end: 1, all of them in" in shown


def test_a_chat_model_is_talked_to(folder: Path, tmp_path: Path) -> None:
    kept, messages = tmp_path / "talks.jsonl", ["", "x" * 400, ":nonsense", "Hi\x07", "Hi\nthere"]
    count, shown = hold(folder, *messages, max_tokens=8, system="Be brief.", out=str(kept))
    (row,) = rows_of(kept)
    assert count == 1
    assert [m["content"] for m in row["messages"][:2]] == ["Be brief.", "Hi\nthere"]
    assert "that message holds control characters" in shown
    assert re.search(r"too long for the context: 4\d\d tokens of 160", shown)
    assert "reward" not in shown  # there is none
    assert not set(shown) & {"\x07", "\x1b"}
    count, _ = hold(folder, "Hi", "a", "b", "c", max_tokens=8, out=str(kept))
    assert len(rows_of(kept)) == 1 + count  # added to what was there


def test_who_cannot_be_talked_to_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no chat model.*Pass --task"):
        hold(folder, "Hi", policy="plain")
    with pytest.raises(ConfigError, match="other tokens than task 'guess'"):
        hold(folder, "Hi", task="guess")
    with pytest.raises(ConfigError, match=r"nobody answers in task 'reverse'.*guess, mastermind"):
        hold(folder, "Hi", task="reverse")
    with pytest.raises(ConfigError, match="task 'guess' ships no policy; pass --policy"):
        talk(PlayOptions(player="user", task="guess"), PersonRespondent(iter(()), SafeConsole()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--as user", "whom do you want to talk to"),
        ("--policy X", "--policy is of a policy that plays the agent; pass --as user too"),
        ("--max-tokens 4", "--max-tokens is of a policy"),
        ("--as user --task guess --system x", "--system is of a talk without a --task"),
        ("--as user --task guess --temperature 0", "temperature is 0"),
        ("--as user --task guess --max-tokens 0", "--max-tokens is 0"),
        ("--as god", "as"),
    ],
)
def test_options_that_make_no_sense(words: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_play(words.split())


@pytest.mark.nightly  # `tests/bridges/test_person.py` has a terminal without PyTorch
def test_on_a_terminal(folder: Path, tmp_path: Path) -> None:
    words = ["play", "--as", "user", "--task", "guess", "--policy", str(folder / "guess"), "--device", "cpu"]
    with RaterTerminal(*words, "--out", "talks.jsonl", cwd=tmp_path) as terminal:
        shown = screen(terminal.wait_for("assistant", 60))
        assert "You are the user" in shown
        assert "you know: number = " in shown
        for typed, told in (
            ("\r", "that reply is empty"),
            ("\x16\x07\r", "control characters"),  # Ctrl-V takes the next key as it is
            (":end =\r", "the conversation is over: the reply ended it"),
        ):
            terminal.wait_for("> ")
            terminal.type(typed)
            terminal.wait_for(told)
        terminal.wait_for("saved in talks.jsonl")
        terminal.wait_for("> ")
        terminal.type("\x04")
        terminal.wait_for("you left; conversations that came to their end: 1")
        assert terminal.wait() == 0
    assert len(rows_of(tmp_path / "talks.jsonl")) == 1


def test_playing_the_agent_needs_no_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(":quit\n"))
    assert main(["play", "--task", "guess"]) == 0
    assert "You are the policy." in capsys.readouterr().out
