"""Everything that chooses tokens: policy, sampler, algorithms. Import it as `text_gym.agents`."""

if __name__ == "agents":
    raise ImportError("import text_gym.agents; the folder agents/ is its source, not a package of its own")

from typing import Any

from text_gym.errors import UnknownNameError

from .advantages import explained_variance, gae, masked_mean, whiten
from .agent import Agent, AgentConfig, Callback, Metrics, describe
from .best_of_n import BestOfN, BestOfNConfig, Candidates, best_of_n, best_of_n_kl_bound
from .dpo import DPO, DPOConfig, dpo_loss
from .evaluation import Measure, Report, evaluate
from .grpo import GRPO, GRPOConfig, group_advantages
from .kl import Estimator, KLController, estimate_kl
from .policy import Evaluation, Policy, pick_device
from .policy_gradient import PolicyGradient, PolicyGradientConfig
from .ppo import PPO, PPOConfig
from .reinforce import REINFORCE, REINFORCEConfig
from .rloo import RLOO, RLOOConfig, leave_one_out
from .rollout import Rollout, rewards_per_token
from .sampler import Decoder, Sampling, inverse_cdf, rollout, uniform
from .sft import SFT, SFTConfig, completion_loss

__all__ = [
    "ALGORITHMS",
    "DPO",
    "GRPO",
    "PPO",
    "REINFORCE",
    "RLOO",
    "SFT",
    "Agent",
    "AgentConfig",
    "BestOfN",
    "BestOfNConfig",
    "Callback",
    "Candidates",
    "DPOConfig",
    "Decoder",
    "Estimator",
    "Evaluation",
    "GRPOConfig",
    "KLController",
    "Measure",
    "Metrics",
    "PPOConfig",
    "Policy",
    "PolicyGradient",
    "PolicyGradientConfig",
    "REINFORCEConfig",
    "RLOOConfig",
    "Report",
    "Rollout",
    "SFTConfig",
    "Sampling",
    "best_of_n",
    "best_of_n_kl_bound",
    "completion_loss",
    "describe",
    "dpo_loss",
    "estimate_kl",
    "evaluate",
    "explained_variance",
    "gae",
    "group_advantages",
    "inverse_cdf",
    "leave_one_out",
    "load_algorithm",
    "masked_mean",
    "pick_device",
    "rewards_per_token",
    "rollout",
    "uniform",
    "whiten",
]

ALGORITHMS: dict[str, type[Agent[Any]]] = {
    "ppo": PPO,
    "grpo": GRPO,
    "rloo": RLOO,
    "reinforce": REINFORCE,
    "best_of_n": BestOfN,
}


def load_algorithm(name: str) -> type[Agent[Any]]:
    """The class of an algorithm by its name in `ALGORITHMS`.

    Raises:
        UnknownNameError: There is no such algorithm; the nearest name is suggested.

    >>> load_algorithm("ppo").__name__
    'PPO'
    """
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
