"""The agent under test, made alike any number of times on tasks that can be listed."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.algorithms.configs import AgentConfig
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.envs.checker import _world
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError
from text_gym.models.runtime import fingerprint
from text_gym.rewards.source import RewardSource
from text_gym.tasks.enumerable import enumerable
from text_gym.tasks.task import Task

ROWS = (48, 50, 56, 54, 52, 66)  # episodes of a batch: multiples of most sizes that a group may have
LEARNING_RATE = 2e-3
_NEVER = 1e9  # a norm that no gradient has


class Trial:
    """Makes the agent, each time with the same weights and the same settings.

    Args:
        agent_class: A class derived from `Agent`, made as `agent_class(policy, env, config)`.
        config: Its settings; those of `config_class` as they come if None.
        seed: Of the task, the weights and the settings.

    Attributes:
        task: One prompt, 341 trajectories, a reward for each.
        rows: Episodes of a batch.

    Raises:
        ConfigError: The agent refuses its settings, whatever the number of episodes.
    """

    def __init__(self, agent_class: type[Agent[Any]], config: AgentConfig | None, seed: int) -> None:
        self.agent_class = agent_class
        self.config = agent_class.config_class() if config is None else config
        self.seed = seed
        self.task = enumerable(symbols="abcd", max_tokens=4, seed=seed)
        self.rows = self._rows_of_a_batch()

    def agent(
        self,
        task: Task | None = None,
        *,
        rows: int | None = None,
        limit: Literal["end", "truncate"] = "end",
        reward: RewardSource | None = None,
        **settings: Any,
    ) -> Agent[Any]:
        """A new agent with the settings under test, but for those that are given."""
        task = task or self.task
        policy = Policy.new(
            task.tokenizer, width=32, layers=1, heads=2, context=16, seed=self.seed, device="cpu"
        )
        with torch.no_grad():  # nearly uniform, so that batches have many different texts
            policy.model.get_input_embeddings().weight.mul_(0.3)
        env = self.env(task, rows, limit, reward)
        always: dict[str, Any] = {"warmup": 0, "anneal": False, "seed": self.seed}
        config = replace(self.config, **{**always, "learning_rate": LEARNING_RATE, **settings})
        return self.agent_class(policy, env, config)

    def env(
        self,
        task: Task | None = None,
        rows: int | None = None,
        limit: Literal["end", "truncate"] = "end",
        reward: RewardSource | None = None,
    ) -> TextVectorEnv:
        """The environment that agents learn in."""
        return TextVectorEnv(
            **(task or self.task).env_kwargs(reward=reward),
            num_envs=rows or self.rows,
            numbering="global",
            limit=limit,
        )

    def still(self, **options: Any) -> Agent[Any]:
        """A new agent whose steps move nothing and whose gradients are not scaled: they can be added up."""
        return self.agent(learning_rate=0.0, max_grad_norm=_NEVER, **options)

    def _rows_of_a_batch(self) -> int:
        refused: ConfigError | None = None
        for rows in ROWS:
            try:
                self.agent(rows=rows)
            except ConfigError as error:
                refused = refused or error
            else:
                return rows
        assert refused is not None
        raise refused


def gradient_of_update(agent: Agent[Any], batch: Rollout) -> Tensor:
    """Return where an update pushes the policy: minus the sum of its steps' gradients.

    Args:
        agent: Made by `Trial.still`.
        batch: `B` episodes.

    Returns:
        `(W,)`, all trained weights of the policy in one vector; it stays still.

    Raises:
        ConfigError: No step of a `torch.optim` optimizer on the policy's weights was seen.
    """
    weights = trained(agent.policy)
    total = torch.zeros(sum(w.numel() for w in weights.values()))
    steps = 0

    def before_step(optimizer: Optimizer, *_: Any) -> None:
        nonlocal steps
        own = {id(w) for group in optimizer.param_groups for w in group["params"]}
        gradients = {n: w.grad for n, w in weights.items() if id(w) in own and w.grad is not None}
        if gradients:
            steps += 1
            total.sub_(flat(gradients, weights))

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        agent.update(batch)
    finally:
        handle.remove()
    if not steps:
        raise ConfigError(
            "update took no step of an optimizer on the policy's weights: call self.step(loss) in it"
        )
    return total


def trained(policy: Policy) -> dict[str, Tensor]:
    """The policy's weights that are trained, by name."""
    return {name: w for name, w in policy.named_parameters() if w.requires_grad}


def flat(gradients: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    """Flatten the gradients of all weights into one vector `(W,)`, 0 where a weight has none."""
    parts = [gradients.get(name, torch.zeros_like(w)).detach().flatten() for name, w in weights.items()]
    return torch.cat(parts).float()


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine of the angle between two vectors; 0 where one is 0."""
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms > 0 else 0.0


def relative_change(a: Tensor, b: Tensor) -> float:
    """Return the distance of two vectors in lengths of the first."""
    return float((a - b).norm()) / max(float(a.norm()), 1e-30)


def snapshot(agent: Agent[Any]) -> tuple[list[list[int]], str]:
    """Capture what an agent has learnt and remembers: a number per weight, and its state as JSON."""
    weights = [fingerprint(network) for network in agent.networks.values()]
    return weights, json.dumps(agent.state_dict(), sort_keys=True)


@contextmanager
def global_seed(number: int) -> Iterator[None]:
    """Another state of the global random generators inside; the old one comes back."""
    with _world(number):
        yield


# What outlives an agent


def lasting_state(agent_class: type[Any]) -> dict[str, Any]:
    """Plain data and random generators that a user's class, its bases and their modules keep, by name."""
    found: dict[str, Any] = {}
    for base in agent_class.__mro__:
        home = base.__module__
        if home.partition(".")[0] in ("text_gym", "builtins", "typing", "abc"):
            continue
        module = vars(sys.modules[home]) if home in sys.modules else {}
        places: list[tuple[str, dict[str, Any]]] = [(base.__qualname__, dict(vars(base))), (home, module)]
        for place, values in places:
            for name, value in list(values.items()):
                if name.startswith("__"):
                    continue
                found[f"{place}.{name}"] = _plain(value)
                for i, default in enumerate(getattr(value, "__defaults__", None) or ()):
                    found[f"{place}.{name}, default {i + 1}"] = _plain(default)
    return found


def _plain(value: Any) -> Any:
    """Something that is equal as long as the value is."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    if isinstance(value, (float, np.number)):
        return "NaN" if math.isnan(value) else float(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == "deque":
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return [(str(k), _plain(v)) for k, v in value.items()]
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    return value.getstate() if isinstance(value, random.Random) else type(value).__name__
