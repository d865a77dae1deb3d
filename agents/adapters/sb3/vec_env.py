"""A `VecEnv` of text for Stable-Baselines3: `PPO`, `A2C`, `DQN` and sb3-contrib's algorithms run unmodified.

No algorithm is changed or copied here. Language models as policies are in `policy`, training by name in
`training`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import tile_images

from text_gym.agents.adapters.kl_penalty import KL_INFO, KLPenalty
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import IntArray
from text_gym.errors import ConfigError

from .features import Info, Observation, StepReturn
from .kl_penalty import sb3_log_probs

Indices = int | Iterable[int] | None
# What wrappers say of an episode's last step beside its `final_info`: RecordEpisodeStatistics and KLPenalty.
BESIDE = frozenset({"episode", *KL_INFO})

TEXTS = ("prompt", "completion")  # attributes of a single environment, which every row has here


class SB3VecEnv(VecEnv):  # type: ignore[misc, unused-ignore]
    """Presents a `TextVectorEnv` as the `VecEnv` of Stable-Baselines3: one object, no copies.

    An episode's last step has `terminal_observation` and `TimeLimit.truncated` in its info, beside what the
    environment says there (`completion`, `reward_terms`); `reset_infos` has the new episode's. SB3 bootstraps
    where `TimeLimit.truncated` is True: after a cut under `limit="truncate"`, and then with a value that
    nobody trains, since nobody acts there. Attributes and methods are those of the one environment, which
    serves all rows; `get_attr("prompt")` and `get_attr("completion")` are the rows' texts.

    Args:
        env: A `TextVectorEnv` with `autoreset_mode="SameStep"`, or Gymnasium vector wrappers around one.

    Raises:
        ConfigError: It is no vector environment, or resets in another way; SB3 knows only this one.

    >>> from text_gym import TextVectorEnv
    >>> env = SB3VecEnv(TextVectorEnv(task="reverse", num_envs=2, autoreset_mode="SameStep"))
    >>> env.seed(0)
    [0, 1]
    >>> env.reset()["length"].ravel(), env.step(np.array([3, 0]))[2]
    (array([4, 4]), array([ True, False]))
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise ConfigError(
                f"SB3VecEnv takes a vector environment, not {type(env).__name__}; write SB3VecEnv("
                "gymnasium.make_vec(id, num_envs=8, autoreset_mode='SameStep'))"
            )
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                "Stable-Baselines3 needs an environment that restarts in the step in which an episode ends; "
                f"this one has autoreset_mode={mode}, make it with autoreset_mode='SameStep'"
            )
        self.env = env
        self._actions: IntArray = np.zeros(0, dtype=np.int64)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def follow(self, policy: BasePolicy) -> SB3VecEnv:
        """Tell the `KLPenalty` among the wrappers whose KL it penalises, and return this environment.

        Args:
            policy: `model.policy` of PPO, A2C or sb3-contrib's MaskablePPO.

        Raises:
            ConfigError: There is no such wrapper, or the policy has no action distribution to ask (DQN).
        """
        env = self.env
        while not isinstance(env, KLPenalty):
            if not isinstance(env, VectorWrapper):
                raise ConfigError(
                    "there is no KLPenalty here that could follow a policy; write "
                    "SB3VecEnv(KLPenalty(env, reference))"
                )
            env = env.env
        env.follow(sb3_log_probs(policy))
        return self

    def reset(self) -> Observation:
        """Start an episode in every row, with the seeds and options that were set before."""
        seeds: Any = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        text_env = self.env.unwrapped
        if (
            seeds is not None
            and isinstance(text_env, TextVectorEnv)
            and text_env.options.numbering == "global"
        ):
            seeds = seeds[0]  # one stream for all rows
        names = {name for options in self._options for name in options}
        options = {name: np.array([options[name] for options in self._options]) for name in sorted(names)}
        observation: Observation
        observation, info = self.env.reset(seed=seeds, options=options or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        _distribute(info, self.reset_infos)
        return observation

    def step_async(self, actions: IntArray) -> None:
        """Remember the actions `(B,)`; nothing runs in parallel."""
        self._actions = actions

    def step_wait(self) -> StepReturn:
        """Append a token to every row: observation, rewards `(B,)` float32, dones `(B,)` and infos."""
        observation, rewards, terminated, truncated, info = self.env.step(self._actions)
        dones = terminated | truncated
        infos: list[Info] = [{} for _ in range(self.num_envs)]
        newest = list(infos)  # describes the observations returned here
        if dones.any():
            _distribute(info.pop("final_info"), infos)
            for key in BESIDE & info.keys():
                _distribute({key: info.pop(key), f"_{key}": info.pop(f"_{key}")}, infos)
            final = info.pop("final_obs")
            for i in np.flatnonzero(dones).tolist():
                infos[i]["terminal_observation"] = final[i]
                infos[i]["TimeLimit.truncated"] = bool(truncated[i])
                self.reset_infos[i] = newest[i] = {}
        _distribute(info, newest)
        return observation, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def has_attr(self, attr_name: str) -> bool:
        """Return True if the environment has an attribute."""
        return attr_name in TEXTS or hasattr(self._owner(attr_name), attr_name)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return the environment's attribute for each row asked; `prompt` and `completion` are the row's."""
        rows = self._rows(indices)
        text_env = self.env.unwrapped
        if attr_name in TEXTS and isinstance(text_env, TextVectorEnv):
            episodes = text_env.episodes(np.array(rows, dtype=np.int64))
            return [e.prompt.text if attr_name == "prompt" else e.completion for e in episodes]
        return [getattr(self._owner(attr_name), attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set the environment's attribute, for all rows.

        Raises:
            ConfigError: Only some rows were asked for.
        """
        if set(self._rows(indices)) != set(range(self.num_envs)):
            raise ConfigError(
                f"all rows share one environment: {attr_name!r} cannot be set for some of them only"
            )
        setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call the environment's method once and give each row asked for its part of the result.

        A result of `B` entries has one for each row (`action_masks` for MaskablePPO, `render`); any other is
        the same for all.
        """
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        one_each = isinstance(result, (list, tuple, np.ndarray)) and len(result) == self.num_envs
        return [result[i] if one_each else result for i in self._rows(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Return False for every row, since no row is an environment that could be wrapped."""
        return [False] * len(self._rows(indices))

    def get_images(self) -> Sequence[Any]:
        """Return each row's picture, as its environment renders it; none of them without a render mode."""
        return self.env.render() or [None] * self.num_envs

    def render(self, mode: str | None = None) -> Any:
        """Return the texts so far, one per line, or all pictures as one; None without a render mode."""
        frames: Any = self.env.render()
        if frames is None:
            return None
        return "\n".join(frames) if isinstance(frames[0], str) else tile_images(list(frames))

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        """Find the outermost wrapper that has the attribute, or else the environment itself."""
        return self.env if hasattr(self.env, name) else self.env.unwrapped

    def _rows(self, indices: Indices) -> list[int]:
        return list(self._get_indices(indices))


def _distribute(
    info: Mapping[str, Any], rows: MutableMapping[int, Info] | Sequence[Info], mask: Any = None
) -> None:
    """Give each row its part of a vector environment's info, where the mask of a key says it has one."""
    for key, value in info.items():
        there = info.get(f"_{key}", mask)
        if there is None or key.startswith("_"):
            continue
        where = np.flatnonzero(there).tolist()
        if isinstance(value, Mapping):
            parts: dict[int, Info] = {i: {} for i in where}
            _distribute(value, parts, there)
            value = parts
        for i in where:
            rows[i][key] = value[i]
