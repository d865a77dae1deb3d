"""Best-of-n writes n texts and keeps the one with the largest reward; a policy can learn to write like it.

`best_of_n` chooses at writing time and trains nothing. The agent `BestOfN` fits its policy to the
chosen texts by maximum likelihood. The texts not chosen teach nothing, and there is no KL penalty:
n alone limits how far one round of choosing goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.generators import Generator
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.sampling.sampler import Sampling, rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.models.runtime import read_numbers, upload
from text_gym.rewards.source import RewardSource, as_reward_source

from .agent import Agent
from .configs import AgentConfig, BestOfNConfig
from .estimators import masked_mean
from .groups import grouped_returns
from .policy_gradient import minibatches

ROWS = 128  # episodes played side by side when sampling


class Candidates(NamedTuple):
    """The candidates `best_of_n` wrote for `N` prompts."""

    best: list[Episode]  # N, the chosen ones
    episodes: list[Episode]  # N * n, all of them, a prompt's one after another
    rewards: FloatArray  # (N, n), by the source that chose; NaN where it declined to judge


def best_of_n(
    policy: Policy,
    env: TextVectorEnv,
    n: int,
    prompts: Sequence[Prompt] | None = None,
    *,
    reward: RewardSource | Callable[..., Any] | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    generator: Generator | None = None,
) -> Candidates:
    """Complete every prompt `n` times and choose the completion with the largest reward.

    The policy of which the chosen texts are samples is at most `best_of_n_kl_bound(n)` from the one
    that wrote them.

    Args:
        policy: Who writes.
        env: Gives tokenizer, token limit and stop strings, and prompts and reward if none are given. Texts
            are scored as they stand, cut or not, whatever its `limit`.
        n: Texts per prompt, at least 1.
        prompts: What to complete.
        reward: Who chooses; among equals the first text is taken.
        seed: Decides the noise: candidate `j` of prompt `i` is episode `i * n + j` of this stream.
        sampling: How tokens are drawn; temperature 1 if None.
        generator: Who writes with the policy's weights; None is the policy itself.
    """
    prompts = list(env.prompts if prompts is None else prompts)
    total = len(prompts) * n
    rows = min(total, n * max(1, ROWS // max(1, n)))
    options = env.batch.options.for_measuring(n, policy.context)
    source = env.reward if reward is None else as_reward_source(reward)
    playing = EpisodeBatch(prompts, env.tokenizer, source, env.max_tokens, rows, options)
    episodes: list[Episode] = []
    found: list[FloatArray] = []
    for first in range(0, total, rows):
        index = np.arange(first, first + rows) % total  # the last batch wraps around, and the surplus is cut
        batch = rollout(policy, playing, index, seed=seed, sampling=sampling, generator=generator)
        episodes += batch.episodes
        found.append(batch.scores.totals_or_nan)
    rewards = np.concatenate(found)[:total].reshape(-1, n)
    best = choose_best(torch.from_numpy(rewards), torch.from_numpy(~np.isnan(rewards))).tolist()
    return Candidates([episodes[i * n + j] for i, j in enumerate(best)], episodes[:total], rewards)


def best_of_n_kl_bound(n: int) -> float:
    """Bound the KL that best-of-n can put between policy and choice, in nats per episode.

    log n - (n - 1)/n is the exact KL where the same text never comes twice and no two rewards are equal.
    Of texts some are likely and do come twice, and then it is an upper bound, no estimate (Beirami et
    al. 2024, "Theoretical guarantees on the alignment of best-of-n policy").

    >>> best_of_n_kl_bound(1), round(best_of_n_kl_bound(64), 3)
    (0.0, 3.175)
    """
    return math.log(n) - (n - 1) / n


def choose_best(rewards: Tensor, judged: Tensor) -> Tensor:
    """Return the index of each group's largest reward, `(G,)` int64; the first of equals wins.

    Args:
        rewards: `(G, n)`.
        judged: `(G, n)` bool; episodes that were not judged are chosen only where none was.
    """
    return rewards.masked_fill(~judged, -torch.inf).argmax(dim=1)


def fit_metrics(batch: Rollout, losses: Sequence[Tensor], norms: Sequence[float], kl: float) -> Metrics:
    """Return the metrics of an update without an advantage.

    Args:
        batch: What was played.
        losses: Of each minibatch, scalars; there may be none.
        norms: Of each minibatch's gradient.
        kl: KL(policy ‖ reference) before the update, nats per episode.
    """
    return {
        "loss": float(np.mean(read_numbers(losses))) if losses else float("nan"),
        "entropy": float(masked_mean(-batch.log_probs, batch.mask)),
        "clip_fraction": 0.0,
        "grad_norm": float(np.mean(norms)) if norms else float("nan"),
        "kl": kl,
        "kl_per_token": kl / float(batch.host_lengths.float().mean()),
        "updates": len(losses),
    }


class BestOfN(Agent[BestOfNConfig]):
    """Best-of-n distillation: maximum likelihood on the best of each prompt's texts.

    Raises:
        ConfigError: The environment's `num_envs` is not a multiple of `n`.

    >>> from text_gym import ByteTokenizer
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = BestOfN(policy, env, BestOfNConfig(iterations=1)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = BestOfNConfig

    def collect(self) -> Rollout:
        """Play the next `B` episodes of the stream `config.seed`."""
        if self.config.sample_from == "policy":
            return super().collect()
        index = self.episodes_played + np.arange(self.env.num_envs)
        how: dict[str, Any] = {"seed": self.config.seed, "sampling": self.sampling}
        how |= {"generator": self.generator, "weights": self.config.rollout_weights}
        how |= {"overlap_scoring": self.config.overlap_scoring}
        return rollout(self.reference, self.env, index, **how)

    def update(self, batch: Rollout) -> Metrics:
        """Run several epochs of maximum likelihood on the best of the texts that were paid."""
        if not batch.scored.any():
            return {"kl": float("nan"), "kl_per_token": float("nan"), "updates": 0}
        config, batch = self.config, batch.only(batch.scored)
        returns, present, (group, place) = grouped_returns(batch, batch.rewards, config.n)
        kl, reference = self._kl(batch)
        best = (place == choose_best(returns, present)[group]).nonzero()[:, 0].cpu()
        losses, norms = [], []
        for rows in minibatches(len(best), config.epochs, config.minibatches, (config.seed, self.iteration)):
            loss = self.loss(batch, best[rows])
            norms.append(self.step(loss))
            losses.append(loss)
        return {
            **fit_metrics(batch, losses, norms, kl),
            "reward_best": float(batch.rewards.sum(dim=1)[upload(best, batch.rewards.device)].mean()),
            **({} if reference is None else self.track_objective(batch, reference)),
        }

    def loss(self, batch: Rollout, rows: Tensor) -> Tensor:
        """Compute the negative log-likelihood of these episodes `(b,)` int64, in nats per episode."""
        here = upload(rows, batch.tokens.device)
        said = self.policy.evaluate(
            batch.tokens[here],
            batch.host_starts[rows],
            batch.host_lengths[rows],
            temperature=self.config.temperature,
            action_masks=None if batch.action_masks is None else batch.action_masks[here],
        )
        return -said.log_probs.sum() / len(rows)

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return {**super().settings(), "algorithm": "best_of_n"}

    def _kl(self, batch: Rollout) -> tuple[float, Tensor | None]:
        """Estimate KL(policy ‖ reference) before the update in nats per episode, whoever wrote the texts.

        Where the policy wrote them, also the reference's log-probabilities of their tokens, `(B, T)`.
        """
        if self.config.sample_from == "policy":
            reference = self.reference_log_probs(batch)
            return float((batch.log_probs - reference).sum(dim=1).mean()), reference
        said = self.policy.score(
            batch.tokens,
            batch.host_starts,
            batch.host_lengths,
            temperature=self.config.temperature,
            action_masks=batch.action_masks,
        )
        log_ratio = (said - batch.log_probs).sum(dim=1)  # weighted by the ratio; every summand is ≥ 0
        return float((log_ratio.exp() * log_ratio - torch.expm1(log_ratio)).mean()), None
