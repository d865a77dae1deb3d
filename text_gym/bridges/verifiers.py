"""Tasksets of verifiers (0.4 on) as tasks: `load_task("verifiers:NAME")`, judged by their own code.

An environment of verifiers asks its agent for a message when it pleases. Here it runs in a thread of its own,
and its agent waits for the turn that was written. Nothing is run in a container.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import json
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, MissingLibraryError, RewardError, TextGymError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tasks.classic import check_range
from text_gym.tasks.task import Task
from text_gym.tokenizer import ByteTokenizer, Tokenizer
from text_gym.utils.display import harmless

from .text_envs import from_text_env

try:
    import verifiers.v1 as vf
except ImportError as error:
    raise MissingLibraryError("a task of verifiers", "verifiers", "text-gym[verifiers]") from error

INDEX = "index"  # the column of prompts: which task of the taskset


class VerifiersReward(RewardSource):
    """Scores a text as a taskset scores an agent's only message: the weighted sum of its rewards.

    Args:
        taskset: Its id.
        config: Its settings, as JSON.
    """

    def __init__(self, taskset: str, config: str = "{}") -> None:
        self.taskset, self.config, self.name = taskset, config, f"verifiers:{taskset}"

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its text and the number of its task."""
        tasks = []
        for episode in episodes:
            index = episode.prompt.columns.get(INDEX)
            if isinstance(index, bool) or not isinstance(index, int):
                raise RewardError(
                    f"reward {self.name!r} needs the column {INDEX!r}; prompt {episode.prompt.id!r} lacks it"
                )
            tasks.append(_task(self.taskset, self.config, index))
        try:
            scores = _wait(_scores(tasks, [e.completion for e in episodes]))
        except Exception as error:
            raise RewardError(f"reward {self.name!r} failed: {_said(error)}") from error
        return Rewards(np.asarray(scores, dtype=np.float64))


async def _scores(tasks: Sequence[Any], texts: Sequence[str]) -> list[float]:
    traces = [_trace(task) for task in tasks]
    for task, trace, text in zip(tasks, traces, texts, strict=True):
        _open(task, trace)
        _say(trace, "assistant", text)
    await asyncio.gather(*(task.score(trace) for task, trace in zip(tasks, traces, strict=True)))
    return [float(trace.reward) for trace in traces]


class _Game:
    """An environment of verifiers with the interface of Gymnasium; seed `n` is its n-th task.

    Args:
        taskset: Id of the taskset.
        config: Its settings, as JSON.
    """

    def __init__(self, taskset: str, config: str) -> None:
        self.taskset, self.config = taskset, config

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the task, and return what the agent is told first."""
        self.seat = _Seat()
        self.running = _wait(_begin(self.taskset, self.config, int(seed or 0), self.seat))
        return self._heard()[0], {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer what was asked last."""
        _wait(self.seat.said.put(action))
        text, done = self._heard()
        return text, float(self.seat.trace.reward) if done else 0.0, done, False, {}

    def close(self) -> None:
        """Leave a task that is not over."""
        running: asyncio.Task[None] | None = getattr(self, "running", None)
        if running is not None:
            running.get_loop().call_soon_threadsafe(running.cancel)

    def __del__(self) -> None:
        self.close()

    def _heard(self) -> tuple[str, bool]:
        """Return the next message to the agent, or the end; what the environment raises is raised."""
        heard: tuple[str, bool] = _wait(_first(self.seat.heard, self.running))
        return heard


async def _begin(taskset: str, config: str, index: int, seat: _Seat) -> asyncio.Task[None]:
    return asyncio.ensure_future(_play(taskset, config, index, seat))


async def _play(taskset: str, config: str, index: int, seat: _Seat) -> None:
    """Run an episode as verifiers does, without its servers."""
    env, task = _environment(taskset, config), _task(taskset, config, index)
    await env.run(task, SimpleNamespace(**{_seat_name(env): seat}))
    if seat.trace is None:
        raise RuntimeError("the environment asked its agent for nothing")
    await env.finalize(
        task, vf.Episode(env=vf.EnvInfo(id=taskset), task=seat.trace.task, traces=[seat.trace])
    )


async def _first(heard: asyncio.Queue[str], running: asyncio.Task[None]) -> tuple[str, bool]:
    asked = asyncio.ensure_future(heard.get())
    await asyncio.wait({asked, running}, return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        return asked.result(), False
    asked.cancel()
    running.result()
    return "", True


class _Seat:
    """An agent of verifiers that hands on what it is told, and waits for what it has to say."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.said: asyncio.Queue[str] = asyncio.Queue()
        self.trace: Any = None

    async def run(self, task: Any) -> Any:
        """Answer the task's prompt."""
        async with self.interaction(task) as interaction:
            await interaction.turn()
        return self.trace

    @asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[_Interaction]:
        """Answer message after message; the task's own rewards are given at the end."""
        if self.trace is not None:
            raise ConfigError("the environment plays its agent twice in an episode; text-gym plays it once")
        _check(task)
        self.trace = _trace(task)
        yield _Interaction(self, task)
        await task.score(self.trace)
        self.trace.ok = True


class _Interaction:
    """The open exchange of a seat."""

    def __init__(self, seat: _Seat, task: Any) -> None:
        self._seat, self._task = seat, task

    @property
    def trace(self) -> Any:
        """The record of the exchange."""
        return self._seat.trace

    async def turn(self, message: Any = None) -> Any:
        """Return what the agent says to a message, or to the task's prompt."""
        told = []
        if not self.trace.nodes:
            _open(self._task, self.trace)
            told.append(_opening(self._task))
        if message is not None:
            told.append(_content(message))
            _say(self.trace, "user", told[-1])
        await self._seat.heard.put("\n\n".join(text for text in told if text))
        reply = (await self._seat.said.get()).removesuffix("\n")
        _say(self.trace, "assistant", reply)
        return vf.Segment(messages=[vf.AssistantMessage(content=reply)])


def _content(message: Any) -> str:
    if isinstance(message, str):
        return message
    contents = [m["content"] if isinstance(m, dict) else m.content for m in message or []]
    if not contents or not all(isinstance(c, str) for c in contents):
        raise ConfigError("the environment's message is no text; text-gym plays texts only")
    return "\n\n".join(contents)


def _opening(task: Any) -> str:
    """Return what a task tells its agent: the system prompt, if there is one, and the prompt."""
    parts = [task.data.system_prompt, task.data.prompt_text]
    return "\n\n".join(part for part in parts if part)


def _trace(task: Any) -> Any:
    record = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    return vf.Trace(task=record, agent=vf.AgentInfo(config=vf.AgentConfig()))


def _open(task: Any, trace: Any) -> None:
    if task.data.system_prompt:
        _say(trace, "system", task.data.system_prompt)
    if task.data.prompt is not None:
        _say(trace, "user", task.data.prompt_text)


def _say(trace: Any, role: str, text: str) -> None:
    kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
    parent = len(trace.nodes) - 1 if trace.nodes else None
    sampled = role == "assistant"
    trace.nodes.append(vf.MessageNode(parent=parent, message=kinds[role](content=text), sampled=sampled))


def _check(task: Any) -> None:
    """Refuse a task that needs more than texts.

    Raises:
        ConfigError: It needs tools, a container or another machine of its own.
    """
    kind = type(task)
    hooks = [inspect.signature(hook).parameters.get("runtime") for hook in task.hooks("reward")]
    needs = {
        "a container": kind.NEEDS_CONTAINER or task.data.image is not None,
        "tools": bool(kind.toolsets(task.config)),
        "a runtime": kind.setup is not vf.Task.setup or kind.finalize is not vf.Task.finalize,
        "a runtime to be judged in": any(p is not None and p.default is p.empty for p in hooks),
    }
    for what, needed in needs.items():
        if needed:
            raise ConfigError(
                f"the task {kind.__name__} of verifiers needs {what}; text-gym plays texts only"
            )


@cache
def _environment(taskset: str, config: str) -> Any:
    return vf.load_environment(vf.resolve_env_config({"taskset": {"id": taskset, **json.loads(config)}}))


def _seat_name(env: Any) -> str:
    names = [name for name, value in env.config if isinstance(value, vf.AgentConfig)]
    if len(names) != 1:
        raise ConfigError(f"the environment has the agents {', '.join(names)}; text-gym plays one")
    return str(names[0])


@cache
def _tasks(taskset: str, config: str, count: int) -> list[Any]:
    return list(islice(_environment(taskset, config).taskset, count))


def _task(taskset: str, config: str, index: int) -> Any:
    count = 64
    while count <= index:
        count *= 2
    return _tasks(taskset, config, count)[index]


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Return the loop of a thread that runs as long as the process; a caller may have a running one."""
    loop = asyncio.new_event_loop()
    atexit.register(lambda: asyncio.run_coroutine_threadsafe(_leave(), loop).result(10))
    threading.Thread(target=loop.run_forever, name="verifiers", daemon=True).start()
    return loop


async def _leave() -> None:
    """Cancel the episodes that nobody will end."""
    for running in asyncio.all_tasks() - {asyncio.current_task()}:
        running.cancel()


def _wait(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, _loop(os.getpid())).result()


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {harmless(str(error), limit=300)}"


def verifiers_task(
    taskset: str,
    *,
    tokenizer: Tokenizer | None = None,
    max_tokens: int = 256,
    n_train: int = 64,
    n_held_out: int = 16,
    first: int = 0,
    turns: Mapping[str, Any] | None = None,
    **config: Any,
) -> Task:
    """Make a task of a taskset of verifiers: single-turn, or a conversation if it brings an environment.

    Where the taskset has an environment of its own with one agent, that environment's messages are the
    replies, and the reward comes at the end.

    Args:
        taskset: Its id, the name of an installed module.
        tokenizer: Bytes if None.
        max_tokens: Of the agent, in an episode.
        n_train: Tasks of the taskset to learn on.
        n_held_out: Tasks to judge on, which come after them.
        first: The first of the taskset's tasks.
        turns: Of a conversation: `turn_stop`, `max_turns`, `max_context` as in `from_text_env`.
        **config: Settings of the taskset, plain data.

    Raises:
        MissingLibraryError: verifiers is not installed.
        ConfigError: There is no such taskset, it refuses its settings, has fewer than two tasks, or needs
            more than texts: tools, a container, several agents.
    """
    for name, number in {"n_train": n_train, "n_held_out": n_held_out, "max_tokens": max_tokens}.items():
        check_range(name, number, 1)
    check_range("first", first, 0)
    try:
        written = json.dumps(config, sort_keys=True)
        env = _environment(taskset, written)
        tasks = _tasks(taskset, written, first + n_train + n_held_out)[first:]
        _seat_name(env)
        for task in tasks:
            _check(task)
        count = min(n_held_out, len(tasks) // 2)
        if not count:
            raise ConfigError(f"the taskset {taskset!r} has {len(tasks)} tasks from number {first} on")
        if type(env) is not vf.SingleAgentEnv:
            return from_text_env(
                partial(_Game, taskset, written),
                name=f"verifiers:{taskset}",
                tokenizer=tokenizer,
                max_tokens=max_tokens,
                n_train=len(tasks) - count,
                n_held_out=count,
                seed=first,
                **(turns or {}),
            )
    except TextGymError:
        raise
    except Exception as error:
        raise ConfigError(f"verifiers:{taskset} cannot be made: {_said(error)}") from error
    prompts = [
        Prompt(f"{_opening(task)}\n", {INDEX: first + i}, task.data.name or f"task {first + i}")
        for i, task in enumerate(tasks)
    ]
    return Task(
        name=f"verifiers:{taskset}",
        prompts=prompts[:-count],
        held_out=prompts[-count:],
        tokenizer=ByteTokenizer() if tokenizer is None else tokenizer,
        reward=VerifiersReward(taskset, written),
        max_tokens=max_tokens,
    )
