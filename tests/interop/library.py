"""What the job has to know of a library: what to install, and how its trained agents are measured.

The Python itself stands in `docs/your-library.md`, one section a library, and is read from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your-library.md"
CLASSIC = ("text_gym/Reverse-v0", "text_gym/Sort-v0")
BLOCK = re.compile(r'^```py title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)

Names = Mapping[str, Any]  # what a block of the page has defined, by name
Act = Callable[[Any], npt.NDArray[Any]]  # from a batch of observations to actions `(B,)`


@dataclass(frozen=True)
class Recipe:
    """A block of the page that trains an agent, and how to measure the agent.

    A block has the lines `seed = 0` and `steps = …` and names an id of `env_ids`; the job writes other seeds
    and ids in their place. What it defines is given to `measure`.

    Args:
        measure: Called with the block's names and the id trained on; returns the mean return of episodes, or
            a dictionary of `return` and other figures for the row.
        title: The block's title on the page.
        env_ids: What to train on, the first of which is the one that the block names.
    """

    measure: Callable[[Names, str], float | dict[str, Any]]
    title: str = "recipe"
    env_ids: tuple[str, ...] = CLASSIC


@dataclass(frozen=True)
class Library:
    """A library.

    Args:
        title: The heading of its section on the page.
        requirements: What pip installs beside text-gym, pinned.
        recipes: The blocks that train.
        extras: Of text-gym.
        shown: Distributions whose versions the row tells, the library's own first.
        prepare: Called in the environment before each block, for what a user has and the job has not (a
            clone of a repository, say); a folder that outlives the run is given.
    """

    title: str
    requirements: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    shown: tuple[str, ...]
    extras: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None

    def blocks(self) -> dict[str, str]:
        """Return the Python of the library's section by title, in the order of the page."""
        text = PAGE.read_text(encoding="utf-8")
        sections = re.split(r"^## ", text, flags=re.MULTILINE)
        (section,) = (s for s in sections if s.splitlines()[0].strip() == self.title)
        found = BLOCK.findall(section)
        assert len(dict(found)) == len(found), f"two blocks of {self.title} have one title"
        return dict(found)


def drawn(logits: Any) -> npt.NDArray[Any]:
    """Draw a token for each row of a tensor `(B, V)`; returns `(B,)` int64."""
    import torch

    actions: npt.NDArray[Any] = torch.distributions.Categorical(logits=logits).sample().numpy()
    return actions


def tensors(observation: Any) -> dict[str, Any]:
    """Return the arrays of a batch of observations as tensors."""
    import torch

    return {k: torch.as_tensor(v) for k, v in observation.items()}


def held_out_gold(policy: Any, task_name: str) -> dict[str, Any]:
    """Return what a language model's texts for a task's held-out prompts are worth, and their KL.

    Returns:
        `return`, the mean reward, with `gold_ci95`; `kl`, nats a text from the policy that the task ships,
        with `kl_ci95`. `evaluate` measures them and knows nothing of what trained the policy.
    """
    from text_gym import TextVectorEnv, load_task
    from text_gym.agents import Policy, evaluate

    task = load_task(task_name)
    env = TextVectorEnv(**task.env_kwargs(prompts=task.held_out))
    found = evaluate(policy, env, reference=Policy.from_pretrained(str(task.policy)), seed=0)
    gold, kl = found.reward, found.kl
    return {"return": gold.mean, "gold_ci95": list(gold.ci95), "kl": kl.mean, "kl_ci95": list(kl.ci95)}


def mean_return(
    act: Callable[[Any], npt.NDArray[Any]], env_id: str, episodes: int = 1000, **kwargs: Any
) -> float:
    """Play whole episodes with a policy, each row's first ones, and return their mean return.

    Args:
        act: The policy.
        env_id: A registered id.
        episodes: How many, a multiple of 100.
        **kwargs: Of `gymnasium.make_vec`, e.g. `observation="ids"`.
    """
    import gymnasium as gym

    import text_gym  # noqa: F401  # registers the ids

    rows = 100
    envs = gym.make_vec(env_id, num_envs=rows, autoreset_mode="SameStep", **kwargs)
    observation, _ = envs.reset(seed=10_000)
    running, played = np.zeros(rows), [[] for _ in range(rows)]  # type: ignore[var-annotated]
    while min(map(len, played)) < episodes // rows:
        observation, reward, terminated, truncated, _ = envs.step(np.asarray(act(observation)))
        running += reward
        for row in np.flatnonzero(terminated | truncated):
            played[row].append(float(running[row]))
            running[row] = 0.0
    envs.close()
    return float(np.mean([returns[: episodes // rows] for returns in played]))
