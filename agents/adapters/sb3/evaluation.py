"""Judges an algorithm of Stable-Baselines3 on a task's held-out prompts, as `evaluate` judges a `Policy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.evaluation import Measure, Report, evaluate
from text_gym.agents.sampling.sampler import Sampling
from text_gym.envs.conversation import with_turn_rewards
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, Prompt
from text_gym.tasks.task import Task

from .policy import LanguageModelPolicy


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
    scores = with_turn_rewards(episodes, task.reward(episodes))
    rewards = scores.totals_or_nan
    unknown = float("nan")
    return Report(
        reward=Measure.of(rewards),
        terms={name: Measure.of(np.asarray(term, dtype=np.float64)) for name, term in scores.terms.items()},
        kl=Measure(unknown, (unknown, unknown)),
        perplexity=unknown,
        length=float(np.mean([len(e.agent_ids) for e in episodes])),
        terminated=float(np.mean([e.whole for e in episodes])),
        episodes=episodes,
        rewards=rewards,
        episode_kl=np.full(len(episodes), unknown),
    )


def _play(model: BaseAlgorithm, task: Task, prompts: Sequence[Prompt], greedy: bool) -> list[Episode]:
    """Play one episode per prompt, in order."""
    widest = max(len(p.encode(task.tokenizer)) or 1 for p in (*task.prompts, *task.held_out))
    env = TextVectorEnv(
        prompts,
        task.tokenizer,
        lambda episodes: [0.0] * len(episodes),
        task.max_tokens,
        num_envs=len(prompts),
        shuffle=False,
        numbering="global",
        max_prompt_tokens=widest,
        **task.conversation(),
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
