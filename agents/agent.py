"""Agent: what all algorithms share: play, update, report; learn, predict, save, load.

A subclass says how a rollout becomes a better policy (`update`) and nothing else.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from text_gym import Prompt, TextVectorEnv
from text_gym.errors import ConfigError, NonFiniteError

from .kl import Estimator, KLController
from .policy import Policy
from .rollout import Rollout
from .sampler import Sampling, rollout

Metrics = dict[str, float]
Callback = Callable[["Agent[Any]", Metrics], "bool | None"]


@dataclass(frozen=True)
class AgentConfig:
    """Settings that every algorithm has.

    Args:
        iterations: Times to play a batch of episodes and learn from it.
        learning_rate: Step size of AdamW at the start.
        warmup: Iterations over which the learning rate rises to its full size: the critic knows
            nothing yet, and Adam's first steps are as large as any.
        anneal: Let the learning rate fall linearly to 0 over the iterations.
        max_grad_norm: Gradients are scaled down to this norm.
        kl_coef: β, weight of the KL to the reference policy, in reward units per nat.
        kl_target: KL to hold by adapting β, in nats per episode; None keeps β fixed.
        kl_estimator: k1, k2 or k3 (see `text_gym.agents.estimate_kl`).
        temperature: Of the sampling distribution; the policy that learns is the one at this temperature.
        seed: Decides prompts, noise and minibatches.
    """

    iterations: int = 100
    learning_rate: float = 3e-4
    warmup: int = 5
    anneal: bool = True
    max_grad_norm: float = 1.0
    kl_coef: float = 0.03
    kl_target: float | None = None
    kl_estimator: Estimator = "k1"
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "learning_rate", "warmup", "max_grad_norm", "kl_coef"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")


ConfigT = TypeVar("ConfigT", bound=AgentConfig)


class Agent(ABC, Generic[ConfigT]):
    """A policy that learns in an environment.

    Args:
        policy: The policy to train, in place.
        env: The environment; its `num_envs` is the number of episodes `B` of an iteration.
        config: The algorithm's settings.
        reference: The policy to stay close to; a frozen copy of `policy` as it is now if None.

    Raises:
        NonFiniteError: A weight of the reference is NaN or infinite.
    """

    config_class: ClassVar[type[AgentConfig]]

    def __init__(
        self, policy: Policy, env: TextVectorEnv, config: ConfigT, reference: Policy | None = None
    ) -> None:
        self.policy, self.env, self.config = policy, env, config
        self.reference = reference or policy.frozen()
        self.reference.check_finite()
        self.optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.learning_rate,
            eps=1e-5,
            weight_decay=0.0,
        )
        self.kl = KLController(config.kl_coef, config.kl_target)
        self.sampling = Sampling(temperature=config.temperature)
        self.iteration = 0
        self.episodes_played = 0
        self.tokens_played = 0

    @abstractmethod
    def update(self, batch: Rollout) -> Metrics:
        """Learn from one batch of episodes; returns what happened, for the logs."""

    def learn(self, iterations: int | None = None, callback: Callback | None = None) -> Agent[ConfigT]:
        """Play and update until `config.iterations` (or this many more) are done.

        Args:
            iterations: How many; None means what is left of `config.iterations`.
            callback: Called after every iteration with the agent and its metrics; returning False
                stops learning.

        Raises:
            RewardError: The reward source failed; nothing was updated from that batch.
            NonFiniteError: A weight, loss or gradient was NaN or infinite; the weights are those before it.
        """
        last = self.config.iterations if iterations is None else self.iteration + iterations
        while self.iteration < last:
            started = time.perf_counter()
            self.policy.check_finite()
            batch = self.collect()
            played = time.perf_counter()
            self._set_learning_rate()
            metrics = self.update(batch)
            self.iteration += 1
            self.episodes_played += len(batch.episodes)
            self.tokens_played += batch.num_tokens
            metrics |= describe(batch)
            seconds = time.perf_counter() - started
            metrics |= {
                "iteration": self.iteration,
                "episodes": self.episodes_played,
                "tokens": self.tokens_played,
                "seconds": seconds,
                "rollout_seconds": played - started,
                "tokens_per_second": batch.num_tokens / seconds,
            }
            if callback is not None and callback(self, metrics) is False:
                break
        return self

    def collect(self) -> Rollout:
        """Play the next `B` episodes of the stream `config.seed`."""
        index = self.episodes_played + np.arange(self.env.num_envs)
        return rollout(self.policy, self.env, index, seed=self.config.seed, sampling=self.sampling)

    def predict(self, prompts: Sequence[Prompt | str], *, greedy: bool = True, seed: int = 0) -> list[str]:
        """Complete prompts with the policy as it is now."""
        env = TextVectorEnv(
            prompts,
            self.env.tokenizer,
            lambda episodes: [0.0] * len(episodes),
            self.env.max_tokens,
            num_envs=len(prompts),
            shuffle=False,
            numbering="global",
            stop=self.env.stop,
            mask=self.env.mask,
        )
        sampling = Sampling(temperature=self.config.temperature, greedy=greedy)
        batch = rollout(self.policy, env, np.arange(len(prompts)), seed=seed, sampling=sampling)
        return [e.completion for e in batch.episodes]

    def save(self, folder: str | Path) -> None:
        """Write the policy as a Hugging Face folder."""
        self.policy.save(folder)

    @classmethod
    def load(
        cls, folder: str | Path, env: TextVectorEnv, config: Any = None, device: str = "auto"
    ) -> Agent[Any]:
        """An agent that goes on with a saved policy; the reference is that policy."""
        own = (Path(folder) / "tokenizer.json").is_file()  # byte and word tokenizers have no file
        policy = Policy.from_pretrained(folder, None if own else env.tokenizer, device=device)
        return cls(policy, env, config or cls.config_class())  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return {"algorithm": type(self).__name__.lower(), **asdict(self.config)}

    # For subclasses

    def reference_log_probs(self, batch: Rollout) -> Tensor:
        """`(B, T)`, nats: the reference's log-probabilities of the batch's tokens."""
        return self.reference.score(
            batch.tokens,
            batch.starts,
            batch.lengths,
            temperature=self.config.temperature,
            action_masks=batch.action_masks,
        )

    def step(self, loss: Tensor) -> float:
        """One optimizer step; returns the gradient's norm before clipping.

        Raises:
            NonFiniteError: The loss or a gradient is not finite; the weights are untouched.
        """
        where = f"iteration {self.iteration + 1}"
        return optimizer_step(self.policy, self.optimizer, loss, self.config.max_grad_norm, where)

    def _set_learning_rate(self) -> None:
        config = self.config
        share = 1.0 - self.iteration / max(1, config.iterations) if config.anneal else 1.0
        share *= min(1.0, (self.iteration + 1) / max(1, config.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * max(0.0, share)


def optimizer_step(
    policy: Policy, optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float, where: str
) -> float:
    """One step down the gradient of a loss; returns the gradient's norm before it is cut to `max_grad_norm`.

    Args:
        policy: Whose weights.
        optimizer: Has those of them that are trained.
        loss: A number.
        max_grad_norm: Gradients are scaled down to this norm.
        where: For the error, e.g. `"iteration 3"`.

    Raises:
        NonFiniteError: The loss or a gradient is not finite; the weights are untouched.
    """
    if not torch.isfinite(loss):
        raise NonFiniteError(f"the loss is {loss.item()} in {where}; nothing was updated")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    if not torch.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        what = f"the gradient of {bad[0]}" if bad else "the norm of the gradient"
        raise NonFiniteError(f"{what} is not finite in {where}; nothing was updated")
    torch.nn.utils.clip_grads_with_norm_(policy.parameters(), max_grad_norm, norm)
    optimizer.step()
    return float(norm)


def describe(batch: Rollout) -> Metrics:
    """What the logs say of a batch: reward, its terms, lengths, and how episodes ended."""
    scores = batch.scores
    judged = ~scores.abstained
    metrics = {
        "reward": float(scores.totals[judged].mean()) if judged.any() else float("nan"),
        "reward_std": float(scores.totals[judged].std()) if judged.any() else float("nan"),
        "abstained": int(scores.abstained.sum()),
        "length": float(batch.lengths.float().mean()),
        "truncated": sum(e.truncated for e in batch.episodes) / len(batch.episodes),
    }
    return metrics | {f"reward/{name}": _mean_of_numbers(term) for name, term in scores.terms.items()}


def _mean_of_numbers(term: npt.NDArray[np.float64]) -> float:
    """Mean of a reward term; NaN marks episodes for which a part of a composition had no opinion."""
    known = term[~np.isnan(term)]
    return float(known.mean()) if len(known) else float("nan")
