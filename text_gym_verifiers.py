"""The taskset of text-gym under a name that verifiers can find; see `text_gym.bridges.verifiers_taskset`."""

from text_gym.bridges.verifiers_taskset import ChatHarness, TextGymEnv, TextGymTaskset

__all__ = ["ChatHarness", "TextGymEnv", "TextGymTaskset"]
