"""A training run as data: the job it is given, and the outcome it leaves; `train` does the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from text_gym.agents.policies.policy import Policy
from text_gym.agents.training.checkpoint import Choice
from text_gym.errors import ConfigError
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task

from .folder import RunFolder, Sample
from .judgement import GoldWatch, Judgement
from .origin import Start, write_origin

CHECKPOINTS = "checkpoints"  # in a run's folder


@dataclass(frozen=True)
class TrainingJob:
    """Everything a run needs in order to learn; the fields are the arguments of `train`.

    `came_from` says which policy `policy` was before anything was learnt.
    """

    algorithm: str
    config: Any
    task: Task
    reward: RewardSource
    policy: Policy | None
    episodes: int
    limit: Literal["end", "truncate"]
    device: str
    checkpoint_every: int
    came_from: Start | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_every < 0:
            raise ConfigError(f"checkpoint_every is {self.checkpoint_every}; it must be 0 (none) or more")

    def settings(self) -> dict[str, Any]:
        """Return the settings for `config.json`."""
        return {
            "task": self.task.name,
            "reward": self.reward.name,
            "algorithm": self.algorithm,
            "episodes": self.episodes,
            "limit": self.limit,
            **dataclasses.asdict(self.config),
        }

    def save_policy(self, run: RunFolder, save: Callable[[Path], None]) -> None:
        """Write the policy of a run, with its origin."""
        folder, start = run.path / "policy", self.came_from
        save(folder)
        if start is not None and self.checkpoint_every and not self.algorithm.startswith("sb3."):
            start = start.also_at(run.path / CHECKPOINTS / "reference")
        write_origin(folder, self.task.settings, self.task.max_tokens, start, self.reward.name)

    def gold_watch(self) -> GoldWatch | None:
        """Make the watch that measures gold during training; None if gold is optimised itself or unknown."""
        gold = self.task.reward
        if self.reward is gold or not self.task.has_gold or gold.interactive or self.policy is None:
            return None
        return GoldWatch(self.task, self.episodes, self.config.iterations, self.policy.context)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of learning: judgements, counts, whose policy was kept, and whether the objective fell.

    `first_look` is that of `GoldWatch` before learning, where there is one.
    """

    before: Judgement
    after: Judgement
    tokens: int
    iterations: int
    choice: Choice
    declined: str | None = None
    first_look: dict[str, float] | None = None

    def summary(self) -> dict[str, Any]:
        """Return the fields of `summary.json` that learning determines."""
        return {
            "before": self.before.summary,
            "after": self.after.summary,
            "kl_nats": self.after.sampled.kl.mean,
            "tokens": self.tokens,
            "iterations": self.iterations,
            "policy_of_iteration": self.choice.iteration,
            "objective": self.choice.objective,
            "declined": self.declined,
        }

    def samples(self, job: TrainingJob) -> list[Sample]:
        """Collect prompt, text and rewards before, and text and rewards after, for every held-out prompt."""

        def side(judgement: Judgement, i: int) -> tuple[str, dict[str, float]]:
            text = judgement.sampled.episodes[i].completion
            return text, judgement.scores(i, job.task, job.reward)

        prompts = [e.prompt.text for e in self.before.sampled.episodes]
        return [(p, *side(self.before, i), *side(self.after, i)) for i, p in enumerate(prompts)]
