"""TextEnv plays one text episode at a time, for `gymnasium.make`.

It is a `TextVectorEnv` of one row with the batch axis taken off; there is no second implementation.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from text_gym.episode import BoolArray, Episode
from text_gym.errors import ConfigError, EpisodeError
from text_gym.tasks.task import ENV_IDS, ONE_HOT_IDS, OPTIMA, env_ids, one_hot_ids

from .infos import Info, infos_of_row
from .inputs import token_array
from .options import check_choice
from .rendering import print_episode
from .vector import TextVectorEnv

SOLVED = 0.95  # of the optimum, which is 1 in every task of this package but those of `OPTIMA`


class TextEnv(gym.Env[Any, np.int64]):
    """A token-level text environment; arguments, observations and info are those of `TextVectorEnv`.

    With `render_mode="human"` the text grows in the terminal as it is written; no display is needed.

    An environment cannot know whether a person or a library reads its infos, and libraries store them in
    arrays. Those of `gymnasium.make(id)` are therefore numbers, the same keys at every reset and step. The
    texts are in `env.unwrapped.prompt` and `env.unwrapped.completion`, and `infos="changing"` puts them, and
    the terms of rewards, into the infos.

    >>> import gymnasium as gym, text_gym
    >>> env = gym.make("text_gym/Reverse-v0")
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(2)
    >>> env.unwrapped.prompt, env.unwrapped.completion
    ('bcba', 'c')

    Raises:
        ConfigError, PromptError: As `TextVectorEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "ansi", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in {"num_envs", "autoreset_mode"} & kwargs.keys():
            raise ConfigError(f"{name} is of vector environments; use TextVectorEnv or gymnasium.make_vec")
        kwargs |= {"num_envs": 1, "autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = kwargs.get("render_mode")
        check_choice("render_mode", self.render_mode, [None, *self.metadata["render_modes"]])
        if self.render_mode == "human":
            kwargs["render_mode"] = "ansi"
        self.vector = TextVectorEnv(*args, **kwargs)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._begun = self._time_limit_told = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Info]:
        """Start the next episode of the stream, or the first of stream `seed`."""
        super().reset(seed=seed)
        self._warn_of_time_limit()
        observation, info = self.vector.reset(seed=seed, options=options)
        self._begun = True
        if self.render_mode == "human":
            self._print(0.0, done=False)
        return self.vector.observer.one(observation, 0), infos_of_row(info, 0)

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, Info]:
        """Append one token.

        Raises:
            TokenError: Not an integer in `[0, V)`.
            EpisodeError: Before `reset` or after the end.
        """
        token = token_array(action, ())
        if self._begun and self.vector.batch.done[0]:
            raise EpisodeError("the episode is over; call env.reset() before the next step")
        observation, reward, terminated, truncated, info = self.vector.step(token[None])
        if self.render_mode == "human":
            self._print(float(reward[0]), done=bool(terminated[0] or truncated[0]))
        return (
            self.vector.observer.one(observation, 0),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            infos_of_row(info, 0),
        )

    def action_masks(self) -> BoolArray:
        """Return which tokens may come next, `(V,)` bool."""
        mask: BoolArray = self.vector.action_masks()[0]
        return mask

    @property
    def prompt(self) -> str:
        """The text that the episode began with.

        Raises:
            EpisodeError: Before `reset`.
        """
        return self._episode().prompt.text

    @property
    def completion(self) -> str:
        """The text written so far, without what ended it.

        Raises:
            EpisodeError: Before `reset`.
        """
        return self._episode().completion

    def render(self) -> Any:
        """Return the prompt and the completion so far, as the render mode says.

        `"ansi"`: a string, safe to print. `"rgb_array"`: a picture, `(320, 640, 3)` uint8. `"human"`: None,
        since every reset and step is shown in the terminal as it happens.
        """
        frames = self.vector.render()
        return None if frames is None or self.render_mode == "human" else frames[0]

    def _warn_of_time_limit(self) -> None:
        """Warn at the first reset if a `TimeLimit` around this environment cuts texts before they are paid.

        The wrapper is found among the callers, since an environment cannot ask what is wrapped around it.
        """
        if self._time_limit_told:
            return
        self._time_limit_told = True
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            caller = frame.f_locals.get("self")
            if isinstance(caller, gym.wrappers.TimeLimit) and caller.unwrapped is self:
                steps, tokens = caller._max_episode_steps, self.vector.max_tokens
                if steps < tokens:
                    warnings.warn(
                        f"TimeLimit cuts episodes after {steps} steps, before the token limit of {tokens}, "
                        "and what it cuts is never paid; leave TimeLimit (max_episode_steps) out and pass "
                        f"max_tokens={steps}",
                        stacklevel=3,
                    )
                return
            frame = frame.f_back

    def _episode(self) -> Episode:
        if not self._begun:
            raise EpisodeError("no episode has begun; call env.reset(seed=...) first")
        (episode,) = self.vector.episodes(np.zeros(1, dtype=np.int64))
        return episode

    def _print(self, reward: float, *, done: bool) -> None:
        (line,) = self.vector.render() or ("",)
        print_episode(line, reward, done)


def register_envs() -> None:
    """Register a Gymnasium id for every task, those of installed packages too; safe to call twice.

    Environments made by id have infos of numbers (`infos="numbers"`), which any library can store. Classic
    tasks and those of installed packages have a second id, such as `text_gym/Reverse-onehot-v0`, with
    `observation="onehot"` and `infos="none"`.
    A task of this package counts as solved at 0.95 of its optimum (`reward_threshold`). No id has
    `max_episode_steps`: the token limit is the task's own.

    The code of an installed package runs when its environment is made.
    """
    own = {**ENV_IDS, **ONE_HOT_IDS}
    for env_id, kwargs in {**env_ids(), **one_hot_ids()}.items():
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="text_gym.envs.single:TextEnv",
                vector_entry_point="text_gym.envs.vector:TextVectorEnv",
                reward_threshold=SOLVED * OPTIMA.get(env_id, 1.0) if env_id in own else None,
                kwargs={"infos": "numbers", **kwargs},
            )
