"""The bridge with a stand-in for verifiers, which `python -m tests.interop verifiers` tries."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bridges import verifiers_stand_in as vf
from text_gym import Episode, load_task
from text_gym.bridges.session import TaskSession
from text_gym.errors import ConfigError, MissingLibraryError, RespondentError, RewardError


class Sum(vf.Task):
    async def pay_right(self, trace: Any) -> float:
        if trace.last_reply == "boom":
            raise RuntimeError("the judge fell over")
        return 2.0 if trace.last_reply == self.data.answer else 0.0

    async def pay_short(self, trace: Any) -> float:
        return 1 / (1 + len(trace.last_reply))


class SumData(vf.TaskData):
    answer: str


class Sums(vf.Taskset):
    size = 9

    def load(self) -> Iterator[Any]:
        for i in range(self.size):
            yield Sum(SumData(prompt=f"{i} + {i}?", answer=str(2 * i), system_prompt="Add."))


class Searching(Sum):
    tools = True


class Needy(vf.Taskset):
    def load(self) -> Iterator[Any]:
        for i in range(3):
            yield Searching(SumData(prompt="?", answer=str(i)))


class DoublingConfig(vf.EnvConfig):
    player = vf.AgentConfig()


class Doubling(vf.Env):
    """Says every message twice; `bye` is the last, and the whole is worth the letters that were said."""

    Config = DoublingConfig

    async def run(self, task: Any, agents: Any) -> None:
        letters = 0
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                said = segment.last_reply
                if said == "boom":
                    raise RuntimeError("out of order")
                letters += len(said)
                if said == "bye":
                    break
                segment = await interaction.turn(said * 2)
        interaction.trace.record_reward("letters", letters / 10)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    vf.install(monkeypatch)
    plugins = {
        "sums": (Sums, vf.SingleAgentEnv),
        "needy": (Needy, vf.SingleAgentEnv),
        "doubling": (Sums, Doubling),
    }
    monkeypatch.setattr(vf, "PLUGINS", plugins)
    monkeypatch.setattr(sys.modules["verifiers.v1"], "PLUGINS", plugins)


def test_single_turns_are_paid_the_sum_of_the_tasksets_rewards() -> None:
    task = load_task("verifiers:sums", n_train=6, n_held_out=2)
    assert [p.text for p in task.held_out] == ["Add.\n\n6 + 6?\n", "Add.\n\n7 + 7?\n"]
    assert [p.text[6:] for p in task.prompts] == [f"{i} + {i}?\n" for i in range(6)]
    texts = ["0", "2", "4", " 6 "]
    episodes = [Episode.of(p, text, task.tokenizer) for p, text in zip(task.prompts, texts, strict=False)]
    assert task.reward(episodes).totals == pytest.approx([2.5, 2.5, 2.5, 2.5])
    others = [Episode.of(task.prompts[5], text, task.tokenizer) for text in ("10", "44", "")]
    assert task.reward(others).totals == pytest.approx([2 + 1 / 3, 1 / 3, 1])


def test_an_environment_of_verifiers_is_played_as_verifiers_plays_it() -> None:
    task = load_task("verifiers:doubling", n_train=3, n_held_out=1, turns={"max_turns": 5})
    for said in (["bye"], ["ab", "c", "bye"]):
        env, script = Doubling(DoublingConfig(taskset=vf.TasksetConfig(id="doubling"))), vf.Script(said)
        last = list(env.taskset.load())[3]
        asyncio.run(env.run(last, SimpleNamespace(player=script)))
        session = TaskSession(task, held_out=True)
        answers = [session.reset(0), *(session.say(text) for text in said)]
        assert [a.text.strip() for a in answers[1:-1]] == script.heard[1:]
        assert answers[0].text == f"Add.\n\n{script.heard[0]}\n"
        assert answers[-1].done
        assert sum(a.reward for a in answers) == pytest.approx(script.trace.reward)


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="taskset 'nosuch' not found"):
        load_task("verifiers:nosuch")
    with pytest.raises(ConfigError, match="level: extra inputs are not permitted"):
        load_task("verifiers:sums", level=3)
    with pytest.raises(ConfigError, match="needs tools"):
        load_task("verifiers:needy")
    with pytest.raises(ConfigError, match="has 0 tasks from number 9"):
        load_task("verifiers:sums", first=9)
    task = load_task("verifiers:sums", n_train=2, n_held_out=1)
    with pytest.raises(RewardError, match="RuntimeError: the judge fell over"):
        task.reward([Episode.of(task.prompts[0], "boom", task.tokenizer)])
    with pytest.raises(RewardError, match="needs the column 'index'"):
        task.reward([Episode.of("?", "1", task.tokenizer)])
    session = TaskSession(load_task("verifiers:doubling", n_train=2, n_held_out=1))
    session.reset(0)
    with pytest.raises(RespondentError, match="out of order"):
        session.say("boom")
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    monkeypatch.delitem(sys.modules, "text_gym.bridges.verifiers")
    with pytest.raises(MissingLibraryError, match="needs verifiers"):
        load_task("verifiers:sums")
