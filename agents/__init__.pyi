from .adapters.kl_penalty import KLPenalty as KLPenalty
from .adapters.reference_mask import ReferenceMask as ReferenceMask
from .adapters.sb3.buffer import SequenceRolloutBuffer as SequenceRolloutBuffer
from .adapters.sb3.config import SB3Config as SB3Config
from .adapters.sb3.features import TokenFeatures as TokenFeatures
from .adapters.sb3.policy import LanguageModelPolicy as LanguageModelPolicy
from .adapters.sb3.training import train_sb3 as train_sb3
from .adapters.sb3.vec_env import SB3VecEnv as SB3VecEnv
from .algorithms.agent import Agent as Agent
from .algorithms.best_of_n import BestOfN as BestOfN
from .algorithms.configs import AgentConfig as AgentConfig
from .algorithms.configs import BestOfNConfig as BestOfNConfig
from .algorithms.configs import DPOConfig as DPOConfig
from .algorithms.configs import GRPOConfig as GRPOConfig
from .algorithms.configs import PPOConfig as PPOConfig
from .algorithms.configs import REINFORCEConfig as REINFORCEConfig
from .algorithms.configs import RLOOConfig as RLOOConfig
from .algorithms.configs import SFTConfig as SFTConfig
from .algorithms.dpo import DPO as DPO
from .algorithms.grpo import GRPO as GRPO
from .algorithms.ppo import PPO as PPO
from .algorithms.reinforce import REINFORCE as REINFORCE
from .algorithms.rloo import RLOO as RLOO
from .algorithms.sft import SFT as SFT
from .policies.lora import LoRAPolicy as LoRAPolicy
from .policies.policy import Policy as Policy
from .sampling.evaluation import evaluate as evaluate
from .sampling.generators import Completion as Completion
from .sampling.generators import Generator as Generator
from .sampling.rollout import Rollout as Rollout
from .sampling.sampler import Sampling as Sampling
from .sampling.sampler import rollout as rollout
from .sampling.vllm_generator import VLLMGenerator as VLLMGenerator
from .training.checkpoint import Checkpoints as Checkpoints
from .training.hacking import HackingDetector as HackingDetector
from .verification.check_agent import check_agent as check_agent
from .verification.exact import exact_policy_gradient as exact_policy_gradient
from .verification.exact import trajectory_log_probs as trajectory_log_probs

__all__ = [
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
    "Checkpoints",
    "Completion",
    "DPOConfig",
    "GRPOConfig",
    "Generator",
    "HackingDetector",
    "KLPenalty",
    "LanguageModelPolicy",
    "LoRAPolicy",
    "PPOConfig",
    "Policy",
    "REINFORCEConfig",
    "RLOOConfig",
    "ReferenceMask",
    "Rollout",
    "SB3Config",
    "SB3VecEnv",
    "SFTConfig",
    "Sampling",
    "SequenceRolloutBuffer",
    "TokenFeatures",
    "VLLMGenerator",
    "check_agent",
    "evaluate",
    "exact_policy_gradient",
    "rollout",
    "train_sb3",
    "trajectory_log_probs",
]
