"""RLOO (Ahmadian et al. 2024): REINFORCE with the mean return of a prompt's other episodes as baseline.

A whole completion is one action here: it has one reward, less the KL to the reference, and one
ratio, clipped as a whole. There is no critic and nothing is normalised.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from text_gym.agents.policies.micro_batches import Part
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.vector import TextVectorEnv

from .configs import AgentConfig, RLOOConfig
from .policy_gradient import PolicyGradient, check_groups, grouped_returns


class RLOO(PolicyGradient[RLOOConfig]):
    """REINFORCE leave-one-out.

    Raises:
        ConfigError: The environment's `num_envs` is not a multiple of `group_size`.

    >>> from text_gym import ByteTokenizer
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = RLOO(policy, env, RLOOConfig(iterations=1, group_size=4)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = RLOOConfig

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        config: RLOOConfig | None = None,
        reference: Policy | None = None,
    ) -> None:
        super().__init__(policy, env, config, reference)
        check_groups(env, self.config.group_size)

    def estimate(self, batch: Rollout, rewards: Tensor) -> tuple[dict[str, Tensor], Metrics]:
        """The advantage of the one action, shared out evenly among its tokens."""
        returns, present, places = grouped_returns(batch, rewards, self.config.group_size)
        advantages = leave_one_out(returns, present)[places][:, None] / batch.lengths[:, None]
        return {"advantages": advantages * batch.mask}, {}

    def average(self, x: Tensor, part: Part) -> Tensor:
        """Mean over episodes of the sum over their tokens."""
        return part.per_episode(x)

    def ratio(self, log_ratio: Tensor) -> Tensor:
        """`(b, T)`: the ratio of the whole completion, at each of its tokens."""
        return log_ratio.sum(dim=1, keepdim=True).exp().expand_as(log_ratio)


def leave_one_out(returns: Tensor, present: Tensor) -> Tensor:
    """Each return less the mean of the others in its group (Kool, van Hoof & Welling 2019).

    Args:
        returns: `(G, k)`, of `k` episodes for each of `G` prompts.
        present: `(G, k)` bool; what is not there, or is alone, has advantage 0.

    Returns:
        `(G, k)`; rows sum to 0. Unlike with the mean of all, the gradient has no factor `(k - 1)/k`.

    >>> import torch
    >>> leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3).bool())
    tensor([[-3.0000, -1.5000,  4.5000]])
    """
    count = present.sum(dim=1, keepdim=True)
    mean = (returns * present).sum(dim=1, keepdim=True) / count.clamp(min=1)
    return (returns - mean) * present * count / (count - 1).clamp(min=1)
