"""GRPO (Shao et al. 2024): an episode's advantage is its return among those of the same prompt; no critic.

Its variants are options: Dr. GRPO (Liu et al. 2025) is `length_normalisation="constant"` without
`std_normalisation`; DAPO (Yu et al. 2025) is `"token"` with `clip_higher=0.28` and `kl_coef=0`.

What it converges to depends on where the KL goes. With `kl_in="reward"` all advantages vanish at
π_ref·exp(r/β), in every variant. In the loss, as published, the KL is that of single tokens, with the
states they arise in held fixed, and k3 has the gradient of KL(reference ‖ policy): the fixed point is
another, flatter on likely and heavier on unlikely texts, and the group's mean makes rewards count
(k - 1)/k.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from text_gym.agents.policies.micro_batches import Part
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.vector import TextVectorEnv

from .configs import AgentConfig, GRPOConfig
from .policy_gradient import PolicyGradient, check_groups, grouped_returns


class GRPO(PolicyGradient[GRPOConfig]):
    """Group relative policy optimisation.

    Raises:
        ConfigError: The environment's `num_envs` is not a multiple of `group_size`.

    >>> from text_gym import ByteTokenizer
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = GRPO(policy, env, GRPOConfig(iterations=1, group_size=4)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = GRPOConfig

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        config: GRPOConfig | None = None,
        reference: Policy | None = None,
    ) -> None:
        super().__init__(policy, env, config, reference)
        check_groups(env, self.config.group_size)

    def estimate(self, batch: Rollout, rewards: Tensor) -> tuple[dict[str, Tensor], Metrics]:
        """The same advantage for every token of an episode."""
        returns, present, places = grouped_returns(batch, rewards, self.config.group_size)
        advantages = group_advantages(returns, present, std=self.config.std_normalisation)
        metrics = {"groups_without_preference": float((advantages == 0).all(dim=1).float().mean())}
        return {"advantages": advantages[places][:, None] * batch.mask}, metrics

    def average(self, x: Tensor, part: Part) -> Tensor:
        """One number of the tokens' losses, as `length_normalisation` says."""
        how = self.config.length_normalisation
        if how == "token":
            return part.per_token(x)
        if how == "constant":
            return part.per_episode(x) / self.env.max_tokens
        return part.per_episode(x / part.mask.sum(dim=1, keepdim=True))


def group_advantages(returns: Tensor, present: Tensor, *, std: bool = True) -> Tensor:
    """Returns less the mean of their group and, with `std`, over its standard deviation.

    Args:
        returns: `(G, k)`, of `k` episodes for each of `G` prompts.
        present: `(G, k)` bool; what is not there has advantage 0 and leaves the others alone.
        std: The population's standard deviation (divisor `k`), so that advantages have exactly 1.

    Returns:
        `(G, k)`; a group whose returns are all the same carries no preference and has zeros, not
        amplified rounding noise.

    >>> group_advantages(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.ones(2, 2).bool())
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (returns * present).sum(dim=1, keepdim=True) / count
    centred = (returns - mean) * present
    spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    constant = spread <= 8 * torch.finfo(returns.dtype).eps * (1 + mean.abs())
    return torch.where(constant, 0.0, centred / spread if std else centred)
