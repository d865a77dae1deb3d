"""A wrapper that shows observations as text; feature observations are in `text_gym.agents`.

Masks and stop strings are no wrappers but arguments of the environment: they change what
an episode is, and must be the same for one episode and for a thousand.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from text_gym.errors import ConfigError

from .single import TextEnv


class AnyText(gym.Space[str]):
    """The space of all strings; `gymnasium.spaces.Text` needs a finite alphabet, but models write anything.

    Args:
        max_length: Longest sample, in characters; longer strings are members too.
        seed: Of `sample`.
    """

    def __init__(self, max_length: int = 32, seed: int | None = None) -> None:
        super().__init__(shape=(), dtype=str, seed=seed)
        self.max_length = max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw random printable ASCII."""
        size = int(self.np_random.integers(self.max_length + 1))
        return bytes(self.np_random.integers(32, 127, size, dtype=np.uint8).tolist()).decode()

    def contains(self, x: Any) -> bool:
        """Return True for any string."""
        return isinstance(x, str)

    @property
    def is_np_flattenable(self) -> bool:
        """Return False, since strings have no fixed size."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText)

    def __hash__(self) -> int:
        return hash(AnyText)


class TextObservation(gym.ObservationWrapper[str, Any, Any], gym.utils.RecordConstructorArgs):
    """Shows the prompt and the completion so far as one string.

    Args:
        env: A `TextEnv`, wrapped or not.

    Raises:
        ConfigError: Another environment.

    >>> import gymnasium as gym
    >>> env = TextObservation(gym.make("text_gym/Copy-v0"))
    >>> prompt, info = env.reset(seed=0)
    >>> prompt == info["prompt"]
    True
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        if not isinstance(env.unwrapped, TextEnv):
            raise ConfigError(f"TextObservation reads text environments, not {type(env.unwrapped).__name__}")
        self._vector = env.unwrapped.vector
        self.observation_space = AnyText()

    def observation(self, observation: Any) -> str:
        """Return prompt and completion without special tokens."""
        (episode,) = self._vector.episodes(np.array([0]))
        return episode.prompt.text + episode.completion
