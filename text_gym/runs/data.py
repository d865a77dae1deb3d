"""Finds what a run learns from: a task by name or the user's own rows, and the reward asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_gym.data import Data, anchored
from text_gym.errors import ConfigError
from text_gym.reward_models.loading import load_reward
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import NoGold, Task, load_task
from text_gym.tokenizer import PretrainedTokenizer

from .saved_policy import is_plain_name, read_origin
from .train import LOG


def load_reward_source(spec: str, prompts: Sequence[Any]) -> RewardSource:
    """Load a reward by name, `module:function`, `file.py:function`, or folder."""
    return load_reward(spec, prompts=prompts)


def resolve_task(
    task: str,
    data: Data,
    reward: str | None,
    policy: str | None,
    max_tokens: int | None,
    needs_reward: bool = True,
) -> tuple[Task, RewardSource]:
    """Return the task, whose own reward is gold, and the reward to optimise, gold if there is no other.

    Raises:
        ConfigError: Data without a reward to go with it.
    """
    if data.data is None:
        found = load_task(task)
        if max_tokens is not None:
            found = dataclasses.replace(found, max_tokens=max_tokens)
        return found, load_reward_source(reward, found.prompts) if reward else found.reward
    assert policy is not None  # as the command line has checked
    data = with_settings(data, read_origin(policy))
    if needs_reward and reward is None and data.gold is None:
        raise ConfigError(
            "--data needs a --reward to optimise, e.g. --reward slots (see `text-gym train --help`), or a "
            "reward of its own: --gold slots"
        )
    found = data_task(data, policy, max_tokens)
    if reward is None or reward == data.gold:
        return found, found.reward
    return found, load_reward_source(reward, [*found.prompts, *found.held_out])


def data_task(data: Data, policy: str, max_tokens: int | None) -> Task:
    """Make a task of a policy's data; its own reward is `data.gold`, or `NoGold`."""
    tokenizer = PretrainedTokenizer.from_pretrained(policy)
    train, held_out = data.load(tokenizer)
    settings = {
        **dataclasses.asdict(data),
        "data": anchored(data.data),
        "gold": anchored(data.gold, reward=True),
        "chat": any(p.messages for p in train),
    }
    return Task(
        name=Path(str(data.data)).stem,
        prompts=train,
        held_out=held_out,
        tokenizer=tokenizer,
        reward=load_reward_source(data.gold, [*train, *held_out]) if data.gold else NoGold(),
        max_tokens=max_tokens or int(read_origin(policy).get("max_tokens", 64)),
        settings=settings,
    )


def with_settings(data: Data, settings: Mapping[str, Any]) -> Data:
    """Fill in what was not given from what the policy's folder knows about its data.

    Gold is taken over only by name: a file or module that a folder names is not run unless you name it.
    """
    known = {f.name: (getattr(data, f.name), f.default) for f in dataclasses.fields(Data)}
    found = {k: settings.get(k, v) if v == default else v for k, (v, default) in known.items()}
    if found["gold"] != data.gold and not is_plain_name(found["gold"]):
        if found["gold"] is not None:
            LOG.warning("the gold reward of this policy's data was %s; pass --gold to use it", found["gold"])
        found["gold"] = data.gold
    return Data(**found)
