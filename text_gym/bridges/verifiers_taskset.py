"""A task as a taskset of verifiers (0.4 on): `eval text-gym-verifiers --env.taskset.text-gym guess`.

verifiers finds a taskset by the name of a module at the top, which is `text_gym_verifiers`. Episodes are
those of `TaskSession`, played in the process that evaluates or trains; a message of the model is a turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from text_gym.errors import MissingLibraryError, TokenError
from text_gym.tasks.task import Task, as_task, load_task

from .session import TaskSession

try:
    import httpx
    import verifiers.v1 as vf
except ImportError as error:
    raise MissingLibraryError("a taskset of verifiers", "verifiers", "text-gym[verifiers]") from error

ID = "text-gym-verifiers"


class TextGymData(vf.TaskData):  # type: ignore[misc, unused-ignore]
    """The episode: the first of the stream of a seed."""

    seed: int


class TextGymTask(vf.Task[TextGymData]):  # type: ignore[misc, unused-ignore]
    """An episode of a task; `TextGymEnv` pays for it."""


class TextGymConfig(vf.TasksetConfig):  # type: ignore[misc, unused-ignore]
    """Names a task as `load_task` does."""

    text_gym: str = ""
    """Name of the task."""
    arguments: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it
    """The task's parameters."""
    held_out: bool = False
    """Play the held-out prompts."""


class TextGymTaskset(vf.Taskset[TextGymTask, TextGymConfig]):  # type: ignore[misc, unused-ignore]
    """The episodes of seeds 0, 1, 2, …; there is no end to them."""

    INFINITE = True

    @cached_property
    def played(self) -> Task:
        """The task of text-gym."""
        return load_task(self.config.text_gym, **self.config.arguments)

    def session(self) -> TaskSession:
        """Return a player's episodes."""
        return TaskSession(self.played, self.config.held_out)

    def load(self) -> Iterator[Any]:
        """Yield the episodes with their prompts."""
        session = self.session()
        for seed in itertools.count():
            data = TextGymData(name=f"{self.played.name}#{seed}", prompt=session.reset(seed).text, seed=seed)
            yield TextGymTask(data, self.config.task)


class ChatHarness(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc, unused-ignore]
    """Asks the model for one message, in this process; it has no tools, and installs nothing."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
    ) -> Any:
        """Send the conversation as it stands; verifiers records what comes back."""
        system, prompt = self.resolve_prompt(data)
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or [])
        messages = [m if isinstance(m, dict) else {"role": m.role, "content": m.content} for m in said]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        async with httpx.AsyncClient(timeout=None) as client:
            answer = await client.post(
                f"{endpoint}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": messages},
            )
        return vf.ProgramResult(int(answer.is_error), "", answer.text if answer.is_error else "")


class TextGymEnvConfig(vf.EnvConfig):  # type: ignore[misc, unused-ignore]
    """One seat, whose model plays on this machine."""

    player: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class TextGymEnv(vf.Env[TextGymEnvConfig]):  # type: ignore[misc, unused-ignore]
    """Plays an episode: each message of the model is a turn, each reply the user's next message.

    The reward is what text-gym pays for the episode. In an episode that the model leaves (at verifiers' own
    limits, or with a message that the task's vocabulary cannot write) all further turns are empty.
    """

    async def run(self, task: Any, agents: Any) -> None:
        """Play one episode."""
        session = self.taskset.session()
        session.reset(task.data.seed)
        paid = 0.0
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                try:
                    answer = session.say(_text(segment))
                except TokenError as error:
                    interaction.trace.info["unwritable"] = str(error)
                    interaction.trace.stop("unwritable")
                    break
                paid += answer.reward
                if answer.done:
                    break
                segment = await interaction.turn(answer.text)
        interaction.trace.record_reward(self.taskset.played.name, paid + session.leave())


def _text(segment: Any) -> str:
    """Return a segment's last message as the model wrote it; `last_reply` has lost its blanks."""
    return next((m.content or "" for m in reversed(segment.messages) if m.role == "assistant"), "")


def verifiers_environment(task: Task | str, *, held_out: bool = False, **config: Any) -> Any:
    """Return a task as an environment of verifiers, a `verifiers.v1.Env`, for use in this process.

    Its `taskset` has the episodes, `run_episode` plays one with a model's endpoint. Programs of verifiers and
    prime-rl, which make environments in processes of their own, take the module's name and a task's.

    Args:
        task: Single turn or conversation.
        held_out: Play the held-out prompts.
        **config: Of verifiers' `EnvConfig`, such as `player`.
    """
    task = as_task(task)
    taskset = TextGymConfig(id=ID, text_gym=task.name, held_out=held_out)
    env = TextGymEnv(TextGymEnvConfig(taskset=taskset, **config))
    env.taskset.played = task
    return env
