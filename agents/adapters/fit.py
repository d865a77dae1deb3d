"""Does a language model fit an environment's spaces? Asked by the adapters, before anything is played."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from text_gym.agents.policies.policy import Policy
from text_gym.errors import ConfigError


def check_fit(policy: Policy, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> int:
    """Return the most tokens that an observation has, or refuse spaces that a language model cannot play in.

    Args:
        policy: The language model.
        observation_space: Of one row: a `Dict` with `tokens` and `length`.
        action_space: Of one row: `Discrete(V)`.

    Raises:
        ConfigError: What does not fit, and what to do.
    """
    places = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {}
    if not {"tokens", "length"} <= set(places):
        raise ConfigError(
            f"a language-model policy reads a Dict with 'tokens' and 'length', not {observation_space}; "
            "wrap a TextVectorEnv, and what changes its observations after that"
        )
    if not isinstance(action_space, spaces.Discrete) or action_space.n != policy.vocab_size:
        raise ConfigError(
            f"the action space is {action_space} and the language model has {policy.vocab_size} tokens; "
            "give the environment the language model's tokenizer"
        )
    width = int(places["tokens"].shape[0])  # type: ignore[index]
    if policy.context is not None and width > policy.context:
        raise ConfigError(
            f"observations have up to {width} tokens, the language model reads {policy.context}; "
            "lower max_tokens or truncate the prompts"
        )
    return width
