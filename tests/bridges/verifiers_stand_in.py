"""As much of `verifiers.v1` as the bridges use, by its documented interface; `tests.interop` has the rest."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PLUGINS: dict[str, tuple[Any, Any]] = {}  # by id, a taskset and an environment


class Record:
    """Fields by keyword, with the class's defaults."""

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            if not any(
                name in vars(kind) or name in vars(kind).get("__annotations__", {})
                for kind in type(self).mro()
            ):
                raise ValueError(f"{name}: extra inputs are not permitted")
            setattr(self, name, value)

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        names = {n: getattr(self, n) for k in type(self).mro() for n in vars(k) if n[0] != "_"}
        return iter({**names, **vars(self)}.items())


class TaskData(Record):
    name = system_prompt = prompt = image = idx = None

    @property
    def prompt_text(self) -> str:
        return self.prompt or ""


class Message(Record):
    role: str
    content: str


class SystemMessage(Message):
    role = "system"


class UserMessage(Message):
    role = "user"


class AssistantMessage(Message):
    role = "assistant"


class MessageNode(Record):
    parent: int | None
    message: Any
    sampled: bool = False


class Trace(Record):
    task: Any
    agent: Any

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.nodes: list[Any] = []
        self.rewards: dict[str, float] = {}
        self.info: dict[str, Any] = {}
        self.stop_condition: str | None = None

    def stop(self, condition: str) -> None:
        self.stop_condition = condition

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = float(value) * weight

    @property
    def reward(self) -> float:
        return sum(self.rewards.values())

    @property
    def last_reply(self) -> str:
        return next((n.message.content.strip() for n in reversed(self.nodes) if n.sampled), "")


class Segment(Record):
    messages: list[Any]
    terminated = False

    @property
    def last_reply(self) -> str:
        return self.messages[-1].content.strip() if self.messages else ""


class Task:
    NEEDS_CONTAINER = tools = False
    key = hash = "1"

    def __init__(self, data: Any, config: Any = None) -> None:
        self.data, self.config = data, config

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    async def setup(self, trace: Any, runtime: Any) -> None: ...

    async def finalize(self, trace: Any, runtime: Any) -> None: ...

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return [config] if cls.tools else []

    def hooks(self, kind: str) -> list[Any]:
        return [getattr(self, n) for n in dir(self) if n.startswith("pay_")]

    async def score(self, trace: Any, runtime: Any = None) -> None:
        for hook in self.hooks("reward"):
            trace.record_reward(hook.__name__, await hook(trace))


class TasksetConfig(Record):
    id = ""
    task = None


class Taskset:
    def __init__(self, config: Any) -> None:
        self.config = config

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(self) -> Iterator[Any]:
        return iter(self.load())

    def take(self, count: int) -> Iterator[Any]:
        return itertools.islice(self, count)

    def load(self) -> Any:
        raise NotImplementedError


class AgentConfig(Record):
    runtime = None


class EnvConfig(Record):
    taskset: Any


class Env:
    def __init__(self, config: Any) -> None:
        self.config = config
        self.taskset = PLUGINS[config.taskset.id][0](config.taskset)

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    async def finalize(self, task: Any, episode: Any) -> None: ...


class SingleAgentEnvConfig(EnvConfig):
    agent = AgentConfig()


class SingleAgentEnv(Env):
    Config = SingleAgentEnvConfig

    async def run(self, task: Any, agents: Any) -> None:
        await agents.agent.run(task)


class Harness:
    def __init__(self, config: Any = None) -> None:
        self.config = config

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def resolve_prompt(self, data: Any) -> tuple[Any, Any]:
        return data.system_prompt, data.prompt


def resolve_env_config(data: dict[str, Any]) -> Any:
    settings = data["taskset"]
    if settings["id"] not in PLUGINS:
        raise ModuleNotFoundError(f"taskset {settings['id']!r} not found")
    taskset, env = PLUGINS[settings["id"]]
    return env.Config(taskset=getattr(taskset, "Config", TasksetConfig)(**settings))


def load_environment(config: Any) -> Any:
    return PLUGINS[config.taskset.id][1](config)


class Script:
    """An agent that says what it was given, one message after the other, and then stops."""

    def __init__(self, said: list[str]) -> None:
        self.said, self.heard = list(said), []  # type: ignore[var-annotated]
        self.trace = Trace(task=None, agent=None)

    def interaction(self, task: Any) -> Script:
        self.task = task
        return self

    async def __aenter__(self) -> Script:
        return self

    async def __aexit__(self, *_: object) -> None:
        if hasattr(self.task, "score"):
            await self.task.score(self.trace)

    async def turn(self, message: str | None = None) -> Segment:
        self.heard.append(self.task.data.prompt if message is None else message)
        if not self.said:
            return Segment(messages=[], terminated=True)
        reply = AssistantMessage(content=self.said.pop(0))
        self.trace.nodes.append(MessageNode(parent=None, message=reply, sampled=True))
        return Segment(messages=[reply])


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of verifiers, for bridges that are imported from now on."""
    this = sys.modules[__name__]
    v1 = ModuleType("verifiers.v1")
    for name in dir(this):
        setattr(v1, name, getattr(this, name))
    for name in ("TraceTask", "AgentInfo", "Episode", "EnvInfo", "SubprocessConfig", "ProgramResult"):
        setattr(v1, name, SimpleNamespace)
    v1.HarnessConfig = Record  # type: ignore[attr-defined]
    v1.ProgramResult = lambda *values: values  # type: ignore[attr-defined]
    package = ModuleType("verifiers")
    package.v1 = v1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verifiers", package)
    monkeypatch.setitem(sys.modules, "verifiers.v1", v1)
    for bridge in ("text_gym.bridges.verifiers", "text_gym.bridges.verifiers_taskset"):
        monkeypatch.delitem(sys.modules, bridge, raising=False)
