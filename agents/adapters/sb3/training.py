"""Trains with an algorithm of Stable-Baselines3 by name, as `text-gym train --algorithm sb3.ppo` does.

Tasks without a policy are learnt from scratch on `TokenFeatures`; with a policy, a language model is
trained and held to it by a KL penalty. SB3's loop is not changed: a callback counts, saves and stops.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_model
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.evaluation import Report
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import RaterLeftError
from text_gym.tasks.task import Task
from text_gym.utils.sealed import remove_unfinished

from .checkpoint import SB3Checkpoints
from .config import SB3Config
from .evaluation import evaluate_sb3
from .make import make_sb3, rollout_steps
from .policy import LanguageModelPolicy
from .state import Data, Tensors, collect_moment, forget_references

LOG = logging.getLogger("text_gym")
ProgressCallback = Callable[[Metrics], "bool | None"]


@dataclass(frozen=True)
class SB3Run:
    """The result of a training run.

    Args:
        model: The SB3 algorithm; `model.save(file)` and `model.predict(observation)` as ever.
        before: The policy before learning on the task's held-out prompts, sampled.
        after: And after it.
        greedy: After it, taking the likeliest token.
        iterations: How many were played.
        tokens: How many tokens they had.
        seconds: How long that took, without the evaluations.
    """

    model: BaseAlgorithm
    before: Report
    after: Report
    greedy: Report
    iterations: int
    tokens: int
    seconds: float


def train_sb3(
    algorithm: str,
    task: Task,
    config: SB3Config | None = None,
    *,
    policy: Policy | str | Path | None = None,
    callback: ProgressCallback | None = None,
    device: str = "auto",
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 10,
    **env_kwargs: Any,
) -> SB3Run:
    """Train on a task's prompts and judge on its held-out prompts.

    The token limit is the end of the problem (`limit="end"`) unless you say otherwise: the value that SB3
    would bootstrap with after a truncation belongs to states it never learns the value of.
    When raters leave (`RaterLeftError`), learning ends as if `callback` had returned False.

    Args:
        algorithm: `ppo`, `a2c`, `dqn`, `qr_dqn`, `maskable_ppo` or `recurrent_ppo`.
        task: The task.
        config: Settings.
        policy: Language model to start from, for `ppo`, `a2c` and `maskable_ppo`; from scratch if None.
        callback: Called after every iteration with its metrics; returning False stops learning.
        device: As for `Policy`.
        checkpoints: Folder for checkpoints. Called again with the same arguments, learning goes on from the
            last one; on a CPU the result is then that of a run that never stopped, to the bit.
        checkpoint_every: Iterations between two checkpoints; one more is taken whenever learning ends.
        **env_kwargs: For the environment to learn in, e.g. `reward` or `limit`.

    Raises:
        UnknownNameError: There is no such algorithm.
        ConfigError: A language model for an algorithm that cannot train one, or sb3-contrib is missing; or
            the checkpoints are of another run.
        RewardError: The reward source failed; a checkpoint was taken.

    >>> from text_gym import load_task
    >>> run = train_sb3("ppo", load_task("sort"), SB3Config(iterations=1))
    >>> run.tokens
    2048
    """
    config = config or SB3Config()
    if isinstance(policy, (str, Path)):
        policy = Policy.from_pretrained(policy, device=device)
    learner = SB3Learner(algorithm, task, config, policy=policy, device=device, **env_kwargs)
    reference = policy.frozen() if policy is not None else None
    judge = partial(evaluate_sb3, learner.model, task, reference=reference)
    before = judge(seed=config.seed)
    if checkpoints is not None:
        learner.keep_in(checkpoints, checkpoint_every)
    started = time.perf_counter()
    try:
        learner.learn(callback)
    except RaterLeftError as error:
        LOG.info("%s", error)
    seconds = time.perf_counter() - started
    after, greedy = judge(seed=config.seed), judge(greedy=True)
    tokens = learner.model.num_timesteps
    return SB3Run(learner.model, before, after, greedy, learner.iteration, tokens, seconds)


class SB3Learner:
    """An algorithm of Stable-Baselines3 that learns in iterations of equally many tokens.

    It stops between two rollouts, and can then be saved; the arguments are those of `train_sb3`.

    Attributes:
        model: The algorithm.
        iteration: How many iterations are done.
    """

    def __init__(
        self,
        algorithm: str,
        task: Task,
        config: SB3Config,
        *,
        policy: Policy | None = None,
        device: str = "auto",
        **env_kwargs: Any,
    ) -> None:
        self.model = make_sb3(algorithm, task, config, policy=policy, device=device, **env_kwargs)
        # One of SB3's own would make a folder for logs, even for none, among the temporary files.
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.iterations, self.iteration = config.iterations, 0
        self.size = config.num_envs * rollout_steps(config, task, policy)
        # As it is after a way through JSON, in which checkpoints are compared.
        self._settings: Data = json.loads(
            json.dumps(
                {
                    "algorithm": algorithm,
                    "task": task.name,
                    **asdict(config),
                    "reference": None if policy is None else policy.digest(),
                }
            )
        )
        self._checkpoints: SB3Checkpoints | None = None
        self._before_save: Callable[[], None] | None = None
        self._every, self._saved = 0, -1
        self._moment: tuple[Tensors, Data] | None = None  # after the last update: what to go on from
        # Return, length and KL of each episode that ended since the last iteration; None where unknown.
        self.ended: list[tuple[float, float, float | None]] = []

    def keep_in(
        self, folder: str | Path, every: int = 10, *, before_save: Callable[[], None] | None = None
    ) -> int | None:
        """Save checkpoints here, and restore the newest there is; return its iteration, or None.

        Args:
            folder: Where.
            every: Iterations between two checkpoints; one more is taken whenever learning ends.
            before_save: Called before each, to flush what else a resumed run relies on.

        Raises:
            CheckpointError, ConfigError: As `SB3Checkpoints.load`.
        """
        self._checkpoints, self._every, self._before_save = SB3Checkpoints(folder), every, before_save
        found = self._checkpoints.load(self.model, self._settings)
        if found is None:
            return None
        self.iteration, self.ended = found
        self._saved = self.iteration
        LOG.info("resumed after iteration %d", self.iteration)
        return self.iteration

    def learn(self, report: ProgressCallback | None = None) -> None:
        """Learn until the iterations are done, or `report` returns False; then save.

        Raises:
            Exception: What the environment, the reward or the algorithm raised. If weights were not being
                changed at that moment, a checkpoint was taken.
        """
        left = self.size * self.iterations - self.model.num_timesteps
        try:
            self.model.learn(
                left, callback=_Iterations(self, report), log_interval=2**31, reset_num_timesteps=False
            )
        except _StopLearningError:
            pass
        finally:
            self.save()

    def save(self) -> None:
        """Save a checkpoint if there is a folder for it, and a moment that the weights belong to."""
        if self._checkpoints is not None and self._moment is not None and self._saved != self.iteration:
            if self._before_save is not None:
                self._before_save()
            self._checkpoints.save(self.model, self.iteration, self._settings, self._moment)
            self._saved = self.iteration

    def save_policy(self, folder: Path) -> None:
        """Write the policy that was trained: a language model's folder, or SB3's network in safetensors."""
        policy: Any = self.model.policy
        if isinstance(policy, LanguageModelPolicy):
            policy.language_model.save(folder)
        else:  # SB3's own archives are pickles
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder)
            save_model(policy, str(folder / "sb3_policy.safetensors"))

    def between_rollouts(self) -> None:
        """Note the moment that a run would go on from."""
        forget_references(self.model)
        if self._checkpoints is not None:
            tensors, data = collect_moment(self.model)
            self._moment = tensors, {**data, "ended": list(self.ended)}

    def updating(self) -> None:
        """Note that weights change from now on, and do not belong to the last moment any more."""
        self._moment = None


class _StopLearningError(Exception):
    """Leaves SB3's loop between two rollouts; returning False would play one more step and lose an update."""


class _Iterations(BaseCallback):
    """Turns SB3's rollouts into iterations, and reports, saves and stops between them."""

    def __init__(self, learner: SB3Learner, report: ProgressCallback | None) -> None:
        super().__init__()
        self.learner, self.report = learner, report
        self.last = time.perf_counter()

    def _on_training_start(self) -> None:
        self.last = time.perf_counter()

    def _on_rollout_start(self) -> None:
        self._between()

    def _on_training_end(self) -> None:
        self._between()

    def _on_rollout_end(self) -> None:
        self.learner.updating()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                kl = info.get("episode_kl")
                episode = float(info["episode"]["r"]), float(info["episode"]["l"])
                self.learner.ended.append((*episode, None if kl is None else float(kl)))
        return True

    def _between(self) -> None:
        learner = self.learner
        if self.num_timesteps < (learner.iteration + 1) * learner.size:
            learner.between_rollouts()
            return
        learner.iteration += 1
        metrics = self._metrics()
        learner.between_rollouts()
        go_on = None if self.report is None else self.report(metrics)
        if learner._every and learner.iteration % learner._every == 0:
            learner.save()
        if go_on is False:
            raise _StopLearningError

    def _metrics(self) -> Metrics:
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        ended, self.learner.ended = self.learner.ended, []
        mean = np.array(ended, dtype=np.float64).mean(axis=0) if ended else np.full(3, np.nan)
        return {
            "iteration": self.learner.iteration,
            "tokens": self.num_timesteps,
            "episodes": len(ended),
            "reward": float(mean[0]),
            "length": float(mean[1]),
            "kl": float(mean[2]),
            "seconds": seconds,
            "tokens_per_second": self.learner.size / seconds,
        }
