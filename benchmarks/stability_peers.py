"""Peers of `stability.py` in the same task: PPO of Stable-Baselines3, and TRL's in a process of its own."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from text_gym import RewardSource, Task
from text_gym.agents import Policy, SB3Config, make_sb3

Curves = dict[str, list[float]]
HERE = Path(__file__).resolve().parent


class Columns(BaseCallback):
    """Keeps what each rollout of SB3 was like; learning ends after so many episodes.

    Args:
        kl_coef: β.
        max_tokens: The token limit.
        episodes: To play, all in all.
    """

    def __init__(self, kl_coef: float, max_tokens: int, episodes: int) -> None:
        super().__init__()
        self.kl_coef, self.max_tokens, self.episodes = kl_coef, max_tokens, episodes
        self.rows: list[dict[str, float]] = []
        self._infos: list[dict[str, Any]] = []
        self._played = 0

    def _on_rollout_start(self) -> None:
        self._learnt()
        self._started = time.perf_counter()

    def _on_step(self) -> bool:
        self._infos += [info for info in self.locals["infos"] if "episode" in info]
        return self._played < self.episodes

    def _on_rollout_end(self) -> None:
        infos, self._infos = self._infos, []
        rewards = np.array([info["episode"]["r"] for info in infos] or [math.nan])
        kl = np.array([info["kl"] for info in infos] or [math.nan])
        cut = [info["episode"]["l"] >= self.max_tokens for info in infos]
        self._played += len(infos)
        self.rows.append(
            {
                "reward": float(rewards.mean()),
                "kl": float(kl.mean()),
                "objective": float((rewards - self.kl_coef * kl).mean()),
                "truncated": float(np.mean(cut)) if cut else math.nan,
                "episodes": float(self._played),
            }
        )

    def _on_training_end(self) -> None:
        self._learnt()

    def _learnt(self) -> None:
        """After an update: SB3 has said how well its critic did."""
        if self.rows and "seconds" not in self.rows[-1]:
            said = self.model.logger.name_to_value
            self.rows[-1] |= {
                "explained_variance": float(said.get("train/explained_variance", math.nan)),
                "updates": float(said.get("train/n_updates", math.nan)),
                "seconds": time.perf_counter() - self._started,
            }


def run_sb3(task: Task, reward: RewardSource, policy: Policy, config: SB3Config, episodes: int) -> Curves:
    """Train a policy in place with SB3's PPO, for `config.iterations` times so many episodes.

    A rollout is `num_envs` rows of so many tokens as the limit, which is more episodes than one of ours has.
    """
    model = make_sb3("ppo", task, config, policy=policy, device="cpu", reward=reward)
    columns = Columns(config.kl_coef, task.max_tokens, config.iterations * episodes)
    size = config.num_envs * (config.n_steps or task.max_tokens)
    model.learn(size * config.iterations, callback=columns, log_interval=2**31)
    return {name: [row[name] for row in columns.rows] for name in columns.rows[0]}


def run_trl(
    task: Task, reward: RewardSource, policy: Path, config: dict[str, Any], episodes: int, python: str
) -> tuple[Curves, Policy]:
    """Train with TRL's PPO in a process of its own, which asks here what texts are worth.

    Args:
        task: The task.
        reward: What is optimised.
        policy: Folder of the policy to start from.
        config: `iterations`, `seed`, and settings of TRL's `PPOConfig` that are not its defaults.
        episodes: Per iteration.
        python: An interpreter with TRL 1.12.
    """
    raise NotImplementedError
