"""The taskset with a stand-in for verifiers, which `python -m tests.interop verifiers` tries."""

from __future__ import annotations

import asyncio
import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.bridges import verifiers_stand_in as vf
from text_gym import Task, TextVectorEnv, load_task
from text_gym.bridges.text_envs import from_text_env


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Any:
    vf.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "httpx", ModuleType("httpx"))
    found = importlib.import_module("text_gym.bridges.verifiers_taskset")
    monkeypatch.setitem(vf.PLUGINS, found.ID, (found.TextGymTaskset, found.TextGymEnv))
    return found


def natively(task: Task, seed: int, said: list[str]) -> tuple[str, float]:
    """The conversation and what it is paid, played token by token in the native environment."""
    env = TextVectorEnv(**task.env_kwargs(), num_envs=1, autoreset_mode="Disabled")
    env.reset(seed=seed)
    paid, eos = 0.0, list(task.tokenizer.eos_ids[:1])
    for token in [t for text in said for t in task.tokenizer.encode(text)] + eos:
        _, reward, terminated, _, _ = env.step([int(token)])
        paid += float(reward[0])
        if terminated[0]:
            break
    (episode,) = env.episodes(np.zeros(1, dtype=np.int64))
    return episode.completion, paid


@pytest.mark.parametrize("said", [["4"], ["4", "2", "1"], ["7", "6", "5"], ["4", "6"]])
def test_an_episode_is_paid_what_the_native_environment_pays(bridge: Any, said: list[str]) -> None:
    task = load_task("guess")
    env = bridge.verifiers_environment(task)
    for row in env.taskset.take(5):
        script = vf.Script(said)
        asyncio.run(env.run(row, SimpleNamespace(player=script)))
        completion, paid = natively(task, row.data.seed, said)
        assert script.trace.rewards == {"guess": paid}
        told = "".join(a + b for a, b in zip(said, [*script.heard[1:], ""], strict=False))
        assert completion.startswith(told[: 2 * len(script.heard) - 1])


class Echo:
    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        return "Hello.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"{action}!", 0.25, action == "bye", False, {}


def test_messages_are_whole_turns_and_what_cannot_be_written_ends_the_exchange(bridge: Any) -> None:
    env = bridge.verifiers_environment(from_text_env(Echo, n_train=2, n_held_out=1))
    (row,) = env.taskset.take(1)
    script = vf.Script(["one ", "two\n", "bye", "never"])
    asyncio.run(env.run(row, SimpleNamespace(player=script)))
    assert script.heard == ["Hello.\n", "one !\n", "two!\n"]
    assert script.trace.reward == 0.75
    env = bridge.verifiers_environment(load_task("guess"))
    (row,) = env.taskset.take(1)
    script = vf.Script(["I think it is 4"])
    asyncio.run(env.run(row, SimpleNamespace(player=script)))
    assert script.trace.stop_condition == "unwritable"
    assert "not in the vocabulary" in script.trace.info["unwritable"]
    assert script.trace.reward == 0.0


def test_the_harness_sends_the_conversation_and_names_a_refusal(bridge: Any) -> None:
    sent: dict[str, Any] = {}

    class Client:
        def __init__(self, **_: Any) -> None: ...

        async def __aenter__(self) -> Client:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def post(self, url: str, headers: dict[str, str], json: Any) -> Any:
            sent.update(url=url, headers=headers, json=json)
            return SimpleNamespace(is_error=True, text="no such model")

    bridge.httpx.AsyncClient = Client
    data = vf.TaskData(system_prompt="Be brief.", prompt=[vf.UserMessage(content="?")])
    ran = bridge.ChatHarness().launch(SimpleNamespace(model="m"), None, None, "http://x/v1", "s", {}, data)
    assert asyncio.run(ran) == (1, "", "no such model")
    assert sent["url"] == "http://x/v1/chat/completions"
    assert sent["headers"] == {"Authorization": "Bearer s"}
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]
    assert sent["json"] == {"model": "m", "messages": said}
