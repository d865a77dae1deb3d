"""Online DPO (Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback"): DPO on own texts.

Every iteration the policy writes n texts for each prompt; the reward's best and worst of them are a pair:

    m = β [log π(y⁺)/π_ref(y⁺) − log π(y⁻)/π_ref(y⁻)]                        Rafailov et al. 2023, eq. 7
    L = −E [p log σ(m) + (1 − p) log σ(−m)],   p = σ(r⁺ − r⁻), or 1

With labels p = σ(r⁺ − r⁻), those of a Bradley–Terry rater, the loss of every pair is least where
m = r⁺ − r⁻. So whatever pairs come up, the optimum is that of RLHF, π_ref exp(r/β), and β means the same as
elsewhere. With the hard label 1 only the order counts, and margins grow without end. There is no critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError

from .agent import Agent
from .best_of_n import choose_best, fit_metrics
from .configs import AgentConfig
from .dpo import dpo_loss
from .groups import grouped_returns
from .policy_gradient import minibatches


@dataclass(frozen=True)
class OnlineDPOConfig(AgentConfig):
    """Settings of online DPO.

    Args:
        kl_coef: β, above 0; DPO has no optimum without it.
        n: Texts per prompt, of which the best and the worst are a pair; the episodes of an iteration are a
            multiple of it.
        labels: "bradley_terry" prefers the best text with probability σ(r⁺ − r⁻), so that the size of the
            difference counts; "hard" with probability 1.
        epochs: Passes over the pairs of each batch.
        minibatches: Parts they are split into in each epoch.
    """

    kl_coef: float = 0.1
    n: int = 4
    labels: Literal["bradley_terry", "hard"] = "bradley_terry"
    epochs: int = 2
    minibatches: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl_coef > 0:
            raise ConfigError(f"kl_coef is {self.kl_coef}; online DPO needs one above 0")
        if self.kl_target is not None:
            raise ConfigError("online DPO keeps β as it is: leave kl_target at None")
        if self.n < 2:
            raise ConfigError(f"n is {self.n}; a pair needs at least 2 texts to choose from")
        if self.labels not in ("bradley_terry", "hard"):
            raise ConfigError(f"labels is {self.labels!r}; choose bradley_terry or hard")
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def group_size(self) -> int:
        """Episodes that share a prompt: the `n` of which two are a pair."""
        return self.n


class OnlineDPO(Agent[OnlineDPOConfig]):
    """Direct preference optimisation on pairs of the policy's own texts, ranked by the reward.

    Raises:
        ConfigError: The environment's `num_envs` is not a multiple of `n`.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = OnlineDPO(policy, env, OnlineDPOConfig(iterations=1)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = OnlineDPOConfig

    def update(self, batch: Rollout) -> Metrics:
        """Run several epochs of DPO on the best and the worst text of each prompt, among those paid."""
        if not batch.scored.any():
            return {"kl": float("nan"), "kl_per_token": float("nan"), "updates": 0}
        config, batch = self.config, batch.only(batch.scored)
        reference = self.reference_log_probs(batch)  # (B, T), nats
        pairs, gaps = best_and_worst(batch, config.n)  # (P, 2) int64, (P,)
        wrong = torch.sigmoid(-gaps) if config.labels == "bradley_terry" else torch.zeros_like(gaps)
        losses, norms = [], []
        for rows in minibatches(len(pairs), config.epochs, config.minibatches, (config.seed, self.iteration)):
            here = rows.to(gaps.device)
            loss = self.loss(batch, reference, pairs[rows], wrong[here])
            norms.append(self.step(loss))
            losses.append(loss)
        kl = float(((batch.log_probs - reference) * batch.mask).sum(dim=1).mean())
        return {
            **fit_metrics(batch, losses, norms, kl),
            "pairs": len(pairs),
            "reward_gap": float(gaps.mean()) if len(pairs) else 0.0,
            **self.track_objective(batch, reference),
        }

    def read_ahead(self, batch: Rollout) -> dict[str, Tensor]:
        """Have the reference policy read the tokens, `(B, T)`, while the last rewards are awaited."""
        return {"reference_log_probs": self.reference_log_probs(batch)}

    def loss(self, batch: Rollout, reference: Tensor, pairs: Tensor, wrong: Tensor) -> Tensor:
        """Compute the mean loss of some pairs, in nats.

        Args:
            batch: The episodes.
            reference: `(B, T)`, their tokens' log-probabilities under the reference.
            pairs: `(p, 2)` int64 on the host, rows of the batch: the preferred text, and the other.
            wrong: `(p,)`, the probability that the other is preferred.
        """
        rows = pairs.T.reshape(-1)  # all preferred ones, then all others
        here = rows.to(batch.tokens.device)
        said = self.policy.evaluate(
            batch.tokens[here],
            batch.host_starts[rows],
            batch.host_lengths[rows],
            temperature=self.config.temperature,
            action_masks=None if batch.action_masks is None else batch.action_masks[here],
        )
        length = said.log_probs.shape[1]
        told = (reference[here, :length] * batch.mask[here, :length]).sum(dim=1)
        preferred, other = (self.config.kl_coef * (said.log_probs.sum(dim=1) - told)).view(2, -1)
        return dpo_loss(preferred, other, wrong).mean()

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return {**super().settings(), "algorithm": "online_dpo"}


def best_and_worst(batch: Rollout, n: int) -> tuple[Tensor, Tensor]:
    """Find the best and the worst text of each prompt; prompts whose texts were all paid alike have none.

    Args:
        batch: The episodes that were paid, in groups of `n`.
        n: Episodes per prompt.

    Returns:
        pairs: `(P, 2)` int64 on the host, rows of the batch; the first of equals is taken.
        gaps: `(P,)`, by how much the best one's return is larger, above 0.
    """
    returns, present, places = grouped_returns(batch, batch.rewards, n)
    rows = torch.zeros_like(returns, dtype=torch.int64)
    rows[places] = torch.arange(len(batch.rewards), device=returns.device)
    chosen = torch.stack([choose_best(returns, present), choose_best(-returns, present)], dim=1)  # (G, 2)
    ends = returns.gather(1, chosen)
    gaps = ends[:, 0] - ends[:, 1]
    apart = gaps > 0
    return rows.gather(1, chosen)[apart].cpu(), gaps[apart]
