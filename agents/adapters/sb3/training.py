"""Trains with an algorithm of Stable-Baselines3 by name, as `text-gym train --algorithm sb3.ppo` does.

Tasks without a policy are learnt from scratch on `TokenFeatures`; with a policy, a language model is
trained and held to it by a KL penalty. Hyperparameters here solve the classic tasks; anything further
is better done in SB3's own words, with `SB3VecEnv` and the algorithm's constructor.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecMonitor

from text_gym.agents.adapters.episode_statistics import EpisodeStatistics
from text_gym.agents.adapters.kl_penalty import KLPenalty
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.evaluation import Measure, Report, evaluate
from text_gym.agents.sampling.sampler import Sampling
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.tasks.task import Task

from .buffer import SequenceRolloutBuffer
from .config import SB3_ALGORITHMS, SB3Config
from .features import TokenFeatures
from .policy import LanguageModelPolicy
from .vec_env import SB3VecEnv

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
    **env_kwargs: Any,
) -> SB3Run:
    """Train on a task's prompts and judge on its held-out prompts.

    The token limit is the end of the problem (`limit="end"`) unless you say otherwise: the value that SB3
    would bootstrap with after a truncation belongs to states it never learns the value of.

    Args:
        algorithm: `ppo`, `a2c`, `dqn`, `maskable_ppo` or `recurrent_ppo`.
        task: The task.
        config: Settings.
        policy: Language model to start from, for `ppo` and `a2c`; from scratch if None.
        callback: Called after every iteration with its metrics; returning False stops learning.
        device: As for `Policy`.
        **env_kwargs: For the environment to learn in, e.g. `reward` or `limit`.

    Raises:
        UnknownNameError: There is no such algorithm.
        ConfigError: A language model for an algorithm that cannot train one, or sb3-contrib is missing.
        RewardError: The reward source failed.

    >>> from text_gym import load_task
    >>> run = train_sb3("ppo", load_task("sort"), SB3Config(iterations=1))
    >>> run.tokens
    2048
    """
    config = config or SB3Config()
    if isinstance(policy, (str, Path)):
        policy = Policy.from_pretrained(policy, device=device)
    model = make_sb3(algorithm, task, config, policy=policy, device=device, **env_kwargs)
    reference = policy.frozen() if policy is not None else None
    before = evaluate_sb3(model, task, seed=config.seed, reference=reference)
    size = config.num_envs * _steps(config, task, policy)
    progress = _Progress(size, callback)
    started = time.perf_counter()
    model.learn(size * config.iterations, callback=progress, log_interval=2**31)
    seconds = time.perf_counter() - started
    return SB3Run(
        model,
        before,
        evaluate_sb3(model, task, seed=config.seed, reference=reference),
        evaluate_sb3(model, task, greedy=True, reference=reference),
        progress.iteration,
        model.num_timesteps,
        seconds,
    )


def make_sb3(
    algorithm: str,
    task: Task,
    config: SB3Config,
    *,
    policy: Policy | None = None,
    device: str = "auto",
    **env_kwargs: Any,
) -> BaseAlgorithm:
    """Make the algorithm with its environment, ready to learn; the arguments are those of `train_sb3`."""
    algorithm_class = _load(algorithm)
    n_steps = _steps(config, task, policy)
    env = TextVectorEnv(
        **task.env_kwargs(**env_kwargs),
        num_envs=config.num_envs,
        autoreset_mode="SameStep",
    )
    rate = config.learning_rate or (1e-3 if policy is None else 3e-4)
    settings: dict[str, Any] = {
        "learning_rate": LinearSchedule(rate, 0.0, 1.0) if config.anneal else rate,
        "gamma": config.gamma,
    }
    on_policy = {"ent_coef": config.ent_coef if policy is None else 0.0, "vf_coef": config.vf_coef}
    if algorithm == "dqn":
        settings |= {
            "buffer_size": 50_000,
            "learning_starts": 2_000,
            "batch_size": config.batch_size,
            "train_freq": 1,
            "gradient_steps": 1,
            "target_update_interval": 2_000,
            "exploration_fraction": 0.3,
        }
    elif algorithm == "a2c":
        settings |= {"n_steps": max(1, n_steps // 8) if policy is None else n_steps, **on_policy}
    else:
        settings |= {
            "n_steps": n_steps,
            "batch_size": config.batch_size,
            "n_epochs": config.n_epochs,
            "gae_lambda": config.gae_lambda,
            **on_policy,
        }
    common: dict[str, Any] = {"seed": config.seed, "device": device, "verbose": 0, **settings}
    if policy is None:
        name = "MultiInputLstmPolicy" if algorithm == "recurrent_ppo" else "MultiInputPolicy"
        networks = {
            "features_extractor_class": TokenFeatures,
            "features_extractor_kwargs": {"encoder": config.encoder, "width": config.width},
            "net_arch": [config.width, config.width],
        }
        vec_env = VecMonitor(SB3VecEnv(env))
        model: BaseAlgorithm = algorithm_class(name, vec_env, policy_kwargs=networks, **common)
    elif algorithm in ("ppo", "a2c"):
        # Statistics inside the penalty: what SB3 logs is the task's own return.
        penalised = SB3VecEnv(KLPenalty(EpisodeStatistics(env), policy, config.kl_coef))
        model = algorithm_class(
            LanguageModelPolicy,
            penalised,
            policy_kwargs={"language_model": policy, "exact_entropy": False},
            rollout_buffer_class=SequenceRolloutBuffer,
            **common,
        )
        penalised.follow(model.policy)
    else:
        raise ConfigError(f"sb3.{algorithm} cannot train a language model; choose sb3.ppo or sb3.a2c")
    return model


def evaluate_sb3(
    model: BaseAlgorithm,
    task: Task,
    prompts: Sequence[Prompt] | None = None,
    *,
    greedy: bool = False,
    seed: int = 0,
    reference: Policy | None = None,
    episodes_per_prompt: int = 1,
) -> Report:
    """Let a trained algorithm complete prompts, and score the texts with the task's reward.

    Args:
        model: Any algorithm of SB3 that plays token observations.
        task: Gives tokenizer, reward and token limit.
        prompts: What to complete; the task's held-out prompts if None.
        greedy: SB3's `deterministic`.
        seed: Decides the noise.
        reference: For KL and perplexity, of language models only.
        episodes_per_prompt: Texts per prompt.

    Returns:
        As of `evaluate`; KL and perplexity are NaN for a policy that is no language model.
    """
    prompts = list(task.held_out if prompts is None else prompts)
    learner = model.policy
    if isinstance(learner, LanguageModelPolicy):
        env = TextVectorEnv(**task.env_kwargs(prompts=prompts))
        return evaluate(
            learner.language_model,
            env,
            reference=reference,
            sampling=Sampling(greedy=greedy),
            seed=seed,
            episodes_per_prompt=episodes_per_prompt,
        )
    todo = [p for p in prompts for _ in range(episodes_per_prompt)]
    episodes: list[Episode] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for first in range(0, len(todo), 128):
            episodes += _play(model, task, todo[first : first + 128], greedy)
    scores = task.reward(episodes)
    rewards = scores.totals_or_nan
    unknown = float("nan")
    return Report(
        reward=Measure.of(rewards),
        terms={name: Measure.of(np.asarray(term, dtype=np.float64)) for name, term in scores.terms.items()},
        kl=Measure(unknown, (unknown, unknown)),
        perplexity=unknown,
        length=float(np.mean([len(e.completion_ids) for e in episodes])),
        terminated=float(np.mean([e.whole for e in episodes])),
        episodes=episodes,
        rewards=rewards,
        episode_kl=np.full(len(episodes), unknown),
    )


def _play(model: BaseAlgorithm, task: Task, prompts: Sequence[Prompt], greedy: bool) -> list[Episode]:
    """Play one episode per prompt, in order."""
    widest = max(len(task.tokenizer.encode(p.text)) or 1 for p in (*task.prompts, *task.held_out))
    env = TextVectorEnv(
        prompts,
        task.tokenizer,
        lambda episodes: [0.0] * len(episodes),
        task.max_tokens,
        num_envs=len(prompts),
        shuffle=False,
        numbering="global",
        max_prompt_tokens=widest,
    )
    observation, _ = env.reset(seed=0)
    state: Any = None
    started = np.ones(len(prompts), dtype=np.bool_)
    finished: dict[int, Episode] = {}
    for _ in range(task.max_tokens):
        actions, state = model.predict(observation, state=state, episode_start=started, deterministic=greedy)
        observation, _, terminated, truncated, _ = env.step(actions)
        started = terminated | truncated
        # Finished rows restart and play on, but only their first episode counts.
        rows = np.array([i for i in np.flatnonzero(started).tolist() if i not in finished], dtype=np.int64)
        finished |= dict(zip(rows.tolist(), env.episodes(rows), strict=True))
        if len(finished) == len(prompts):
            break
    return [finished[i] for i in range(len(prompts))]


class _Progress(BaseCallback):
    """Turns SB3's steps into iterations of equally many tokens, and reports each."""

    def __init__(self, size: int, callback: ProgressCallback | None) -> None:
        super().__init__()
        self.size, self.report = size, callback
        self.iteration = 0
        self.returns: list[
            tuple[float, float, float]
        ] = []  # the task's return, length and KL of finished episodes

    def _on_training_start(self) -> None:
        self.started = self.last = time.perf_counter()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(
                    (info["episode"]["r"], info["episode"]["l"], info.get("episode_kl", float("nan")))
                )
        if self.num_timesteps < (self.iteration + 1) * self.size:
            return True
        self.iteration += 1
        now = time.perf_counter()
        done = np.array(self.returns or [(float("nan"),) * 3])
        metrics: Metrics = {
            "iteration": self.iteration,
            "tokens": self.num_timesteps,
            "episodes": len(self.returns),
            "reward": float(done[:, 0].mean()),
            "length": float(done[:, 1].mean()),
            "kl": float(done[:, 2].mean()),
            "seconds": now - self.last,
            "tokens_per_second": self.size / (now - self.last),
        }
        self.last, self.returns = now, []
        return self.report is None or self.report(metrics) is not False


def _steps(config: SB3Config, task: Task, policy: Policy | None) -> int:
    """Return how many tokens a row plays per iteration."""
    return config.n_steps or (32 if policy is None else task.max_tokens)


def _load(algorithm: str) -> Any:
    if algorithm not in SB3_ALGORITHMS:
        raise UnknownNameError("algorithm", algorithm, SB3_ALGORITHMS)
    module, name = SB3_ALGORITHMS[algorithm].split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"sb3.{algorithm} needs {module}; pip install sb3-contrib") from error
