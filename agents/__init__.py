"""Everything that chooses tokens: policy, sampler, algorithms. Import it as `text_gym.agents`."""

if __name__ == "agents":
    raise ImportError("import text_gym.agents; the folder agents/ is its source, not a package of its own")

from typing import Any

from text_gym.errors import UnknownNameError

from .advantages import gae, masked_mean, whiten
from .agent import Agent, AgentConfig, Callback, Metrics, describe
from .evaluation import Measure, Report, evaluate
from .kl import Estimator, KLController, estimate_kl
from .policy import Evaluation, Policy, pick_device
from .ppo import PPO, PPOConfig
from .rollout import Rollout, rewards_per_token
from .sampler import Decoder, Sampling, inverse_cdf, rollout, uniform
from .sft import SFT, SFTConfig, completion_loss

__all__ = [
    "ALGORITHMS",
    "PPO",
    "SFT",
    "Agent",
    "AgentConfig",
    "Callback",
    "Decoder",
    "Estimator",
    "Evaluation",
    "KLController",
    "Measure",
    "Metrics",
    "PPOConfig",
    "Policy",
    "Report",
    "Rollout",
    "SFTConfig",
    "Sampling",
    "completion_loss",
    "describe",
    "estimate_kl",
    "evaluate",
    "gae",
    "inverse_cdf",
    "load_algorithm",
    "masked_mean",
    "pick_device",
    "rewards_per_token",
    "rollout",
    "uniform",
    "whiten",
]

ALGORITHMS: dict[str, type[Agent[Any]]] = {"ppo": PPO}


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
