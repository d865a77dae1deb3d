"""TextEnv plays one text episode at a time, for `gymnasium.make`.

It is a `TextVectorEnv` of one row with the batch axis taken off; there is no second implementation.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from text_gym.episode import BoolArray
from text_gym.errors import ConfigError
from text_gym.tasks.task import env_ids

from .infos import Info, infos_of_row
from .inputs import token_array
from .observations import Observation
from .vector import TextVectorEnv


class TextEnv(gym.Env[Observation, np.int64]):
    """A token-level text environment; arguments, observations and info are those of `TextVectorEnv`.

    >>> import gymnasium as gym, text_gym
    >>> env = gym.make("text_gym/Products-v0", reward=lambda completion: completion.count("!"))
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())

    Raises:
        ConfigError, PromptError: As `TextVectorEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in {"num_envs", "autoreset_mode"} & kwargs.keys():
            raise ConfigError(f"{name} is of vector environments; use TextVectorEnv or gymnasium.make_vec")
        kwargs |= {"num_envs": 1, "autoreset_mode": AutoresetMode.DISABLED}
        self.vector = TextVectorEnv(*args, **kwargs)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = self.vector.render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start the next episode of the stream, or the first of stream `seed`."""
        super().reset(seed=seed)
        observation, info = self.vector.reset(seed=seed, options=options)
        return {k: v[0] for k, v in observation.items()}, infos_of_row(info, 0)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, Info]:
        """Append one token.

        Raises:
            TokenError: Not an integer in `[0, V)`.
            EpisodeError: Before `reset` or after the end.
        """
        token = token_array(action, ())
        observation, reward, terminated, truncated, info = self.vector.step(token[None])
        return (
            {k: v[0] for k, v in observation.items()},
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            infos_of_row(info, 0),
        )

    def action_masks(self) -> BoolArray:
        """Return which tokens may come next, `(V,)` bool."""
        mask: BoolArray = self.vector.action_masks()[0]
        return mask

    def render(self) -> str | None:
        """Return the prompt and the completion so far, safe to print."""
        frames = self.vector.render()
        return None if frames is None else frames[0]


def register_envs() -> None:
    """Register a Gymnasium id for every task, those of installed packages too; safe to call twice.

    The code of an installed package runs when its environment is made.
    """
    for env_id, kwargs in env_ids().items():
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="text_gym.envs.single:TextEnv",
                vector_entry_point="text_gym.envs.vector:TextVectorEnv",
                kwargs=dict(kwargs),
            )
