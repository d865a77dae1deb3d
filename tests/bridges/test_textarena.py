"""The bridge with games of the same interface in place of TextArena's, which `tests.interop` tries."""

from __future__ import annotations

import random
import sys
from types import ModuleType
from typing import Any

import pytest

from text_gym import load_task
from text_gym.bridges.session import TaskSession
from text_gym.errors import ConfigError, RespondentError, UnknownNameError


class Higher:
    """Says nothing but in messages of `(speaker, text, kind)`; repeats what the player says, as games do."""

    def reset(self, num_players: int, seed: int | None) -> None:
        assert num_players == 1
        print("the secret is made")
        self.secret, self.left = random.Random(seed).randrange(9), 3
        self.messages: list[tuple[int, str, str]] = [
            (-1, "Guess.", "prompt"),
            (-1, f"{self.left} left", "game"),
        ]

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        if action == "boom":
            raise KeyError("no such move")
        self.left -= 1
        self.won = action.strip("[]") == str(self.secret)
        self.messages = [(0, action, "player"), (-1, f"{self.left} left", "game")]
        return self.won or not self.left, {}

    def get_observation(self) -> tuple[int, list[tuple[int, str, str]]]:
        return 0, self.messages

    def close(self) -> tuple[dict[int, float], dict[int, dict[str, str]]]:
        return {0: 1.0 if self.won else -1.0}, {0: {"reason": "Found." if self.won else "Lost."}}


class Duel(Higher):
    def reset(self, num_players: int, seed: int | None) -> None:
        raise ValueError("needs 2 players")


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    games = {"Higher-v0": Higher, "Higher-v0-raw": Higher, "Duel-v0": Duel, "Duel-v0-raw": Duel}
    package, registration = ModuleType("textarena"), ModuleType("textarena.envs.registration")
    package.make = lambda name: games[name]()  # type: ignore[attr-defined]
    registration.ENV_REGISTRY = games  # type: ignore[attr-defined]
    for name, module in {
        "textarena": package,
        "textarena.envs": ModuleType("textarena.envs"),
        "textarena.envs.registration": registration,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_what_the_game_says_is_the_reply_and_its_reward_is_paid_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = load_task("textarena:Higher-v0", n_train=4, n_held_out=2)
    assert {p.text for p in task.prompts} == {"Guess.\n3 left\n"}
    session = TaskSession(task)
    paid = set()
    for seed in range(12):
        session.reset(seed)
        secret = random.Random(session.episode.prompt.columns["env_seed"]).randrange(9)
        answers = [
            session.step("[9]\n"),
            session.step("[10]\n"),
            session.step(f"[{secret if seed % 2 else 11}]\n"),
        ]
        assert [(a.text, a.reward) for a in answers[:2]] == [("2 left\n", 0.0), ("1 left\n", 0.0)]
        paid.add((answers[2].text, answers[2].reward, answers[2].done))
    assert paid == {("Found.\n", 1.0, True), ("Lost.\n", -1.0, True)}
    assert capsys.readouterr().out == ""


def test_mistakes_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'Higher-v0'"):
        load_task("textarena:Highr-v0")
    with pytest.raises(ConfigError, match=r"'Duel-v0' of TextArena cannot be played alone.*needs 2 players"):
        load_task("textarena:Duel-v0")
    session = TaskSession(load_task("textarena:Higher-v0", n_train=2, n_held_out=1))
    session.reset(0)
    with pytest.raises(RespondentError, match="no such move"):
        session.step("boom\n")
