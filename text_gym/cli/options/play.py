"""Options of `text-gym play`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from text_gym.errors import ConfigError

from .checks import at_least, check_device, check_file, check_policy
from .parsing import parse


@dataclass(frozen=True)
class PlayOptions:
    """Play one side yourself: the policy, token by token, or the user whom a policy talks to.

    Args:
        task: Gymnasium id, or the name of a task (--env is the same); products if left out. With --as user, a
            task that is a conversation; if left out, you talk to the policy, which must be a chat model.
        player: agent: you are the policy. user: a policy plays the agent, and you answer it.
        policy: Folder or hub model that plays the agent; the task's own if left out (--model is the same).
        system: System prompt of a talk without a task.
        max_tokens: The most tokens that the policy writes in a conversation; the task's own if left out, or
            1024 without one.
        temperature: The policy's logits are divided by it.
        out: JSON-lines file that each finished conversation is added to, e.g. for `text-gym label --data`.
        web: With --as user, answer on a page in the browser, which only this computer can reach.
        port: Port of the page; 0 takes any that is free.
        seed: Of the environment, and of the policy's noise.
        device: auto, cpu, cuda, cuda:1.
    """

    task: str | None = None
    player: Literal["agent", "user"] = "agent"
    policy: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    out: str | None = None
    web: bool = False
    port: int = 8765
    seed: int = 0
    device: str = "auto"

    @property
    def run_by(self) -> str:
        """The function that runs the command: who plays the agent needs no PyTorch."""
        return (
            "text_gym.cli.play.agent:run_play"
            if self.player == "agent"
            else "text_gym.cli.play.user:run_talk"
        )


def read_play(argv: list[str]) -> tuple[PlayOptions]:
    """Options of `text-gym play`."""
    (options,) = parse("play", argv, PlayOptions, flags={"player": "as"})
    if options.player == "agent":
        for name in ("policy", "system", "max_tokens", "out"):
            if getattr(options, name) is not None:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} is of a policy that plays the agent; pass --as user too")
        if options.web:
            raise ConfigError("--web is of a person who plays the user; pass --as user too")
        return (options,)
    if options.task is None and options.policy is None:
        raise ConfigError(
            "whom do you want to talk to? Pass --policy FOLDER of a chat model, or a --task too"
        )
    if options.task is not None and options.system is not None:
        raise ConfigError("a task has prompts of its own; --system is of a talk without a --task")
    at_least(1, max_tokens=options.max_tokens)
    check_policy(options.policy)
    check_device(options.device)
    check_file("out", options.out)
    if not 0 < options.temperature < float("inf"):
        raise ConfigError(f"temperature is {options.temperature}; it must be a positive number")
    return (options,)
