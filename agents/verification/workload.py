"""A rollout and an update of a policy, timed again and again with other sizes; the policy learns nothing."""

from __future__ import annotations

import time

import torch

from text_gym.agents.algorithms.configs import PPOConfig
from text_gym.agents.algorithms.ppo import PPO
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling import decoder
from text_gym.envs.vector import TextVectorEnv
from text_gym.models.cpu.fast_path import has_kernels
from text_gym.models.runtime import SMALL_WEIGHTS, cores, limited_threads, threads_are_chosen
from text_gym.models.sizes import DEFAULTS, Sizes, kind_of, using
from text_gym.models.tuning import Candidate, Work, candidates


class Workload:
    """What sizes are measured on: one batch of episodes, and one epoch of PPO on it.

    Args:
        policy: Its weights stay as they are, since the learning rate is 0.
        env: The batch that it plays, always the same episodes.
    """

    def __init__(self, policy: Policy, env: TextVectorEnv) -> None:
        config = PPOConfig(iterations=1, epochs=1, learning_rate=0.0, critic_learning_rate=0.0)
        self._agent = PPO(policy, env, config)
        self._batch = self._agent.collect()

    def candidates(self) -> list[Candidate]:
        """Return the sizes that can make a difference for this policy, and values to try."""
        policy = self._agent.policy
        cpu = policy.device.type == "cpu"
        small = sum(p.numel() for p in policy.parameters()) <= SMALL_WEIGHTS
        threads = 1 if threads_are_chosen() or not small else cores()
        usual = DEFAULTS[kind_of(policy.device)]
        return candidates(usual, cpu=cpu, kernels=cpu and has_kernels(), threads=threads)

    def seconds(self, sizes: Sizes, work: Work) -> float:
        """Return the wall seconds that some work takes with these sizes, until the device has done it all."""
        agent, device = self._agent, self._agent.policy.device
        self._forget_failures()
        with using(sizes, device):
            began = _now(device)
            if work != "update":
                self._batch = agent.collect()
            if work != "rollout":
                with limited_threads(*agent.networks.values()):
                    agent.update(self._batch)
            return _now(device) - began

    def _forget_failures(self) -> None:
        """Forget how many rows fitted when memory ran out with other sizes."""
        vars(self._agent).pop("_splitter", None)
        decoder._FITTING.pop(self._agent.policy, None)


def _now(device: torch.device) -> float:
    """Return the time once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
