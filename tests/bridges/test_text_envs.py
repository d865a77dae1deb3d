from __future__ import annotations

import pickle
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from text_gym import Task, TextVectorEnv
from text_gym.bridges.text_envs import EnvironmentRespondent, as_outcome, from_text_env, observation_text
from text_gym.errors import ConfigError, MissingLibraryError, RespondentError, UnknownNameError
from text_gym.tasks.task import load_task


class Dice:
    """A game that draws from the global generators, as many do: say the number that was rolled."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.rolls = [random.randrange(1000)]
        return f"rolled {self.rolls[0]}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        right = action == str(self.rolls[-1])
        self.rolls.append(random.randrange(1000) + 1000 * int(np.random.randint(9)))  # noqa: NPY002
        return f"rolled {self.rolls[-1]}", float(right), len(self.rolls) == 4, False, {}


@dataclass
class Seen:
    text: str
    reward: float | None
    done: bool


class Open:
    """An environment with the interface of OpenEnv's."""

    def reset(self, seed: int | None = None, episode_id: str | None = None) -> Seen:
        self.seed = seed
        return Seen(f"seed {seed}", None, False)

    def step(self, action: dict[str, str]) -> Seen:
        return Seen(action["say"].upper(), 0.5, action["say"] == "bye")


def played(task: Task, said: str, seed: int = 0) -> tuple[str, list[float], bool]:
    """The completion of an episode in which the agent writes these bytes, and its rewards."""
    env = TextVectorEnv(**task.env_kwargs(), num_envs=1, autoreset_mode="Disabled")
    env.reset(seed=seed)
    rewards, over = [], False
    for token in said.encode():
        _, reward, terminated, truncated, _ = env.step([token])
        rewards.append(float(reward[0]))
        over = bool(terminated[0])
        assert not truncated[0]
        if over:
            break
    return env.episodes(np.zeros(1, dtype=np.int64))[0].completion, rewards, over


def test_observations_are_replies_and_rewards_are_of_turns() -> None:
    task = from_text_env(Dice, n_train=1, n_held_out=1)
    first = task.prompts[0].text.split()[1]
    completion, rewards, over = played(task, f"{first}\nno\n0\n")
    lines = completion.split("\n")
    assert lines[0] == first
    assert lines[1].startswith("rolled ")
    assert over
    assert rewards[len(first)] == 1.0
    assert sum(rewards) == 1.0


def test_an_episode_is_a_function_of_its_seed_and_turns_whatever_else_is_played() -> None:
    """Between the turns of one episode others are played, and the global generators are drawn from."""
    task = from_text_env(Dice, n_train=3, n_held_out=1)
    alone = [played(task, "a\nb\nc\n", seed)[0] for seed in range(6)]
    state = random.getstate()
    assert random.getstate() == state
    env = TextVectorEnv(**task.env_kwargs(), num_envs=6, autoreset_mode="Disabled")
    env.reset(seed=[0, 1, 2, 3, 4, 5])
    for token in b"a\nb\nc\n":
        random.random()
        np.random.random()  # noqa: NPY002
        env.step([token] * 6)
    assert [e.completion for e in env.episodes(np.arange(6))] == alone
    assert len(set(alone)) == len({e.prompt.id for e in env.episodes(np.arange(6))})


def test_the_environment_at_hand_is_played_on_and_others_are_played_anew() -> None:
    task = from_text_env(Dice, n_train=1, n_held_out=1)
    Dice.made = 0
    played(task, "a\nb\nc\n")
    assert Dice.made == 1
    copy = pickle.loads(pickle.dumps(task.respondent))
    assert isinstance(copy, EnvironmentRespondent)
    assert not copy._alive


def test_environments_of_openenv_have_actions_of_their_own() -> None:
    task = from_text_env(Open, action=lambda text: {"say": text}, n_train=2, n_held_out=1, seed=7)
    assert [p.text for p in task.prompts] == ["seed 7\n", "seed 8\n"]
    completion, rewards, over = played(task, "hello\nbye\n")
    assert completion == "hello\nHELLO\nbye\nBYE\n"
    assert (sum(rewards), over) == (1.0, True)


def test_texts_and_outcomes_of_other_forms() -> None:
    assert observation_text({"prompt": "x"}) == "x"
    result = SimpleNamespace(observation=SimpleNamespace(message="m"), reward=None, done=True)
    assert as_outcome(result)[1:] == (0.0, True)
    assert observation_text(as_outcome(result).observation) == "m"
    with pytest.raises(RespondentError, match="which is no text"):
        observation_text({"board": [1]})
    with pytest.raises(RespondentError, match="expected"):
        as_outcome((1, 2))
    with pytest.raises(RespondentError, match="text= made NoneType 'None'"):
        from_text_env(Dice, text=lambda observation: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="make is str"):
        from_text_env("Dice")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "library"), [("reasoning_gym:gcd", "reasoning_gym"), ("textarena:X", "textarena")]
)
def test_a_missing_library_is_named(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingLibraryError, match=f"needs {library}.*pip install"):
        load_task(name)


def test_an_unknown_library_is_an_unknown_task() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'reasoninggym:gcd'"):
        load_task("reasoninggym:gcd")
