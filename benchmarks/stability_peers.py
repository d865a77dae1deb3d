"""Peers of `stability.py` in the same task: PPO of Stable-Baselines3, and TRL's in a process of its own."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from text_gym import Episode, Prompt, RewardSource, Task
from text_gym.agents import LanguageModelPolicy, Policy, SB3Config
from text_gym.agents.adapters.sb3.make import make_sb3
from text_gym.errors import TextGymError
from text_gym.utils.display import harmless
from text_gym.utils.json_files import write_json

Curves = dict[str, list[float]]
HERE = Path(__file__).resolve().parent
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}


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
        kl = np.array([info["episode_kl"] for info in infos] or [math.nan])
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


def run_sb3(
    task: Task, reward: RewardSource, policy: Policy, config: SB3Config, episodes: int
) -> tuple[Curves, Policy]:
    """Train a copy of a policy with SB3's PPO, for `config.iterations` times so many episodes.

    A rollout is `num_envs` rows of as many tokens as the limit, which is more episodes than one of ours has.
    """
    model = make_sb3("ppo", task, config, policy=policy, device="cpu", reward=reward)
    columns = Columns(config.kl_coef, task.max_tokens, config.iterations * episodes)
    size = config.num_envs * (config.n_steps or task.max_tokens)
    model.learn(size * config.iterations, callback=columns, log_interval=2**31)
    learner = model.policy
    assert isinstance(learner, LanguageModelPolicy)
    return {name: [row[name] for row in columns.rows] for name in columns.rows[0]}, learner.language_model


def run_trl(
    task: Task, reward: RewardSource, policy: Path, config: dict[str, Any], episodes: int, python: str
) -> tuple[Curves, Policy]:
    """Train a policy with TRL's PPO in a process of its own, which asks here what texts are worth.

    Args:
        task: The task.
        reward: What is optimised.
        policy: Folder of the policy to start from; it stays as it is.
        config: `iterations`, `seed`, `kl_coef`, and settings of TRL's `PPOConfig` that are not its defaults.
        episodes: Per iteration.
        python: An interpreter with TRL 1.12.

    Returns:
        The columns (TRL says nothing of its explained variance: NaN), and the policy.

    Raises:
        TextGymError: The process failed; the end of what it said is told.
    """
    prompts = {tuple(task.tokenizer.encode(prompt.text)): prompt for prompt in task.prompts}
    own = ("iterations", "seed", "kl_coef")
    job = {name: config[name] for name in own} | {"episodes": episodes, "max_tokens": task.max_tokens}
    job |= {"prompts": list(prompts), "changes": {k: v for k, v in config.items() if k not in own}}
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log.txt").open("w+", encoding="utf-8") as log:
        folder = Path(name)
        shutil.copytree(policy, folder / "policy")
        write_json(folder / "job.json", job)
        process = subprocess.Popen(
            [python, str(HERE / "stability_trl.py"), str(folder)],
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **QUIET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                if "row" in said:
                    rows.append(said["row"])
                    continue
                pairs = zip(said["prompts"], said["completions"], strict=True)
                scores = reward([_episode(task, prompts[tuple(ids)], text) for ids, text in pairs])
                process.stdin.write(json.dumps({"rewards": scores.totals.tolist()}) + "\n")
                process.stdin.flush()
            if process.wait():
                log.seek(0)
                raise TextGymError(f"TRL failed: {harmless(log.read()[-1000:])}")
            trained = Policy.from_pretrained(folder / "policy", device="cpu")
        finally:
            process.kill()
            process.wait()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return columns | {"explained_variance": [math.nan] * len(rows)}, trained


def _episode(task: Task, prompt: Prompt, ids: list[int]) -> Episode:
    return Episode(
        prompt=prompt,
        prompt_ids=np.array(task.tokenizer.encode(prompt.text), dtype=np.int64),
        completion_ids=np.array(ids, dtype=np.int64),
        tokenizer=task.tokenizer,
        finish_reason="eos" if ids and ids[-1] in task.tokenizer.eos_ids else "length",
    )
