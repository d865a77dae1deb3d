"""Everything that chooses tokens: policy, sampler, algorithms. Import it as `text_gym.agents`."""

if __name__ == "agents":
    raise ImportError("import text_gym.agents; the folder agents/ is its source, not a package of its own")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from text_gym.errors import UnknownNameError

from .advantages import explained_variance, gae, masked_mean, whiten
from .agent import TIMES, Agent, AgentConfig, Callback, Metrics, describe
from .best_of_n import BestOfN, BestOfNConfig, Candidates, best_of_n, best_of_n_kl_bound, choose_best
from .checkpoint import Checkpoints, Choice
from .critic import Critic, StateCritic
from .decoder import Decoder
from .dpo import DPO, DPOConfig, dpo_loss
from .evaluation import Measure, Report, evaluate
from .features import FeatureObservation, VectorFeatures
from .grpo import GRPO, GRPOConfig, group_advantages
from .guards import Advisor, check_dropout_off, unchanged
from .kl import Estimator, KLController, estimate_kl
from .lora import LoRAPolicy
from .loss_head import Head, token_log_probs
from .micro_batches import Part, Splitter, micro_batches
from .objective import Objective
from .policy import Evaluation, Policy
from .policy_gradient import PolicyGradient, PolicyGradientConfig, minibatches
from .ppo import PPO, PPOConfig
from .prefix_cache import PrefixCache
from .reference_mask import ReferenceMask
from .reinforce import REINFORCE, REINFORCEConfig
from .rloo import RLOO, RLOOConfig, leave_one_out
from .rollout import Rollout, rewards_per_token
from .sampler import Sampling, inverse_cdf, rollout, uniform
from .sft import SFT, SFTConfig, completion_loss

if TYPE_CHECKING:
    from .sb3_adapter import KLPenalty, SB3VecEnv, TokenFeatures
    from .sb3_policy import LanguageModelPolicy, SequenceRolloutBuffer
    from .sb3_training import SB3_ALGORITHMS, SB3Config, SB3Run, evaluate_sb3, make_sb3, train_sb3

__all__ = [
    "ALGORITHMS",
    "DPO",
    "GRPO",
    "PPO",
    "REINFORCE",
    "RLOO",
    "SB3_ALGORITHMS",
    "SFT",
    "TIMES",
    "Advisor",
    "Agent",
    "AgentConfig",
    "BestOfN",
    "BestOfNConfig",
    "Callback",
    "Candidates",
    "Checkpoints",
    "Choice",
    "Critic",
    "DPOConfig",
    "Decoder",
    "Estimator",
    "Evaluation",
    "FeatureObservation",
    "GRPOConfig",
    "Head",
    "KLController",
    "KLPenalty",
    "LanguageModelPolicy",
    "LoRAPolicy",
    "Measure",
    "Metrics",
    "Objective",
    "PPOConfig",
    "Part",
    "Policy",
    "PolicyGradient",
    "PolicyGradientConfig",
    "PrefixCache",
    "REINFORCEConfig",
    "RLOOConfig",
    "ReferenceMask",
    "Report",
    "Rollout",
    "SB3Config",
    "SB3Run",
    "SB3VecEnv",
    "SFTConfig",
    "Sampling",
    "SequenceRolloutBuffer",
    "Splitter",
    "StateCritic",
    "TokenFeatures",
    "VectorFeatures",
    "best_of_n",
    "best_of_n_kl_bound",
    "check_dropout_off",
    "choose_best",
    "completion_loss",
    "describe",
    "dpo_loss",
    "estimate_kl",
    "evaluate",
    "evaluate_sb3",
    "explained_variance",
    "gae",
    "group_advantages",
    "inverse_cdf",
    "leave_one_out",
    "load_algorithm",
    "make_sb3",
    "masked_mean",
    "micro_batches",
    "minibatches",
    "rewards_per_token",
    "rollout",
    "token_log_probs",
    "train_sb3",
    "unchanged",
    "uniform",
    "whiten",
]

# Name -> module of what is loaded on first use only, since it imports Stable-Baselines3.
_ON_FIRST_USE = {
    **dict.fromkeys(("KLPenalty", "SB3VecEnv", "TokenFeatures"), "sb3_adapter"),
    **dict.fromkeys(("LanguageModelPolicy", "SequenceRolloutBuffer"), "sb3_policy"),
    **dict.fromkeys(
        ("SB3_ALGORITHMS", "SB3Config", "SB3Run", "evaluate_sb3", "make_sb3", "train_sb3"), "sb3_training"
    ),
}

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


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ON_FIRST_USE[name]}", __name__), name)
