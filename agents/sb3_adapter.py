"""Stable-Baselines3 on text-gym: a `VecEnv`, a features extractor, and a KL penalty as a wrapper.

`PPO`, `A2C` and `DQN`, and `MaskablePPO` and `RecurrentPPO` of sb3-contrib run unmodified; language
models as policies are in `sb3_policy`, training by name in `sb3_training`. Only these three files
import Stable-Baselines3. No algorithm is changed or copied here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor, nn

from text_gym.errors import ConfigError

from .kl import Estimator, KLController, estimate_kl
from .policy import Policy
from .prefix_cache import PrefixCache
from .sb3_policy import LanguageModelPolicy, check_fit

Observation = dict[str, npt.NDArray[Any]]
Info = dict[str, Any]
Indices = int | Iterable[int] | None
StepReturn = tuple[Observation, npt.NDArray[np.float32], npt.NDArray[np.bool_], list[Info]]


class SB3VecEnv(VecEnv):  # type: ignore[misc, unused-ignore]
    """A `TextVectorEnv` as the `VecEnv` that Stable-Baselines3 asks for: one object, no copies of it.

    An episode's last step has `terminal_observation` and `TimeLimit.truncated` in its info, beside what the
    environment says there (`completion`, `reward_terms`); `reset_infos` has the new episode's. SB3 bootstraps
    where `TimeLimit.truncated` is True: after a cut under `limit="truncate"`, and then with a value that
    nobody trains, since nobody acts there. Attributes and methods are those of the one environment, which
    serves all rows.

    Args:
        env: A `TextVectorEnv` with `autoreset_mode="SameStep"`, or Gymnasium vector wrappers around one.

    Raises:
        ConfigError: The environment resets in another way; SB3 knows only this one.

    >>> from text_gym import TextVectorEnv
    >>> env = SB3VecEnv(TextVectorEnv(task="reverse", num_envs=2, autoreset_mode="SameStep"))
    >>> env.seed(0)
    [0, 1]
    >>> env.reset()["length"].ravel(), env.step(np.array([3, 0]))[2]
    (array([4, 4]), array([ True, False]))
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                "Stable-Baselines3 needs an environment that restarts in the step in which an episode ends; "
                f"this one has autoreset_mode={mode}, make it with autoreset_mode='SameStep'"
            )
        self.env = env
        self._actions: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Observation:
        """Start an episode in every row, with the seeds and options that were set before."""
        seeds: Any = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        if seeds is not None and getattr(self.env.unwrapped, "numbering", "per_env") == "global":
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

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        """Remember the actions `(B,)`; nothing runs in parallel."""
        self._actions = actions

    def step_wait(self) -> StepReturn:
        """Append a token to every row: observation, rewards `(B,)` float32, dones `(B,)` and infos."""
        observation, rewards, terminated, truncated, info = self.env.step(self._actions)
        dones = terminated | truncated
        infos: list[Info] = [{} for _ in range(self.num_envs)]
        newest = list(infos)  # what tells of the observations returned here
        if dones.any():
            _distribute(info.pop("final_info"), infos)
            if "episode" in info:  # RecordEpisodeStatistics puts it beside, not into, the final info
                _distribute({key: info.pop(key) for key in ("episode", "_episode")}, infos)
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
        """Whether the environment has an attribute."""
        return hasattr(self._owner(attr_name), attr_name)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The environment's attribute, once for every row asked for."""
        return [getattr(self._owner(attr_name), attr_name)] * len(self._rows(indices))

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
        """Always False: no row is an environment of its own that could be wrapped."""
        return [False] * len(self._rows(indices))

    def render(self, mode: str | None = None) -> str | None:  # type: ignore[override, unused-ignore]
        """Prompts and completions so far, a line each; None without a render mode."""
        frames = self.env.render()
        return None if frames is None else "\n".join(map(str, frames))

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        """The outermost wrapper that has the attribute, otherwise the environment itself."""
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


class TokenFeatures(BaseFeaturesExtractor):  # type: ignore[misc, unused-ignore]
    """Features of a token observation, for `policy_kwargs` of any SB3 algorithm.

    - `"positions"`: an embedding for each token at each place, summed; followed by SB3's own layers this is
      an MLP on one-hot inputs. The best choice for the classic tasks: few tokens, all at fixed places.
    - `"gru"`: embeddings through a GRU, its state after the last token.
    - `"transformer"`: embeddings and positions through a transformer encoder, its output at the last token.

    Args:
        observation_space: A `Dict` with `tokens`, `attention_mask` and `length`; with `remaining`, the
            features know the clock too, without which values cannot be right where prompts differ in length.
        encoder: Which of the three.
        width: Number of features, a multiple of 4 for the transformer.
        layers: Of the GRU or transformer.

    >>> from stable_baselines3 import PPO
    >>> from text_gym import TextVectorEnv
    >>> env = SB3VecEnv(TextVectorEnv(task="copy", num_envs=8, autoreset_mode="SameStep"))
    >>> policy_kwargs = {"features_extractor_class": TokenFeatures}
    >>> agent = PPO("MultiInputPolicy", env, n_steps=8, policy_kwargs=policy_kwargs)
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        encoder: Literal["positions", "gru", "transformer"] = "positions",
        width: int = 128,
        layers: int = 1,
    ) -> None:
        super().__init__(observation_space, features_dim=width)
        if encoder not in ("positions", "gru", "transformer"):
            raise ConfigError(f"encoder is {encoder!r}; choose positions, gru or transformer")
        if encoder == "transformer" and width % 4:
            raise ConfigError(f"width is {width}; a transformer of 4 heads needs a multiple of 4")
        if not isinstance(observation_space, spaces.Dict):
            raise ConfigError(f"TokenFeatures reads a Dict with 'tokens', not {observation_space}")
        tokens = observation_space["tokens"]
        assert isinstance(tokens, spaces.Box)
        self.encoder = encoder
        clock = observation_space.spaces.get("remaining")
        self.limit = float(clock.high.max()) if isinstance(clock, spaces.Box) else 1.0
        self.clock = None if clock is None else nn.Parameter(torch.zeros(width))
        self.padding = int(tokens.high.max()) + 1  # an id of its own: padding may share its id with EOS
        size = tokens.shape[0]
        count = (self.padding + 1) * (size if encoder == "positions" else 1)
        self.embedding = nn.Embedding(count, width)
        if encoder == "positions":
            self.register_buffer("offsets", torch.arange(size) * (self.padding + 1))
            nn.init.normal_(self.embedding.weight, std=size**-0.5)
        elif encoder == "gru":
            self.gru = nn.GRU(width, width, layers, batch_first=True)
        else:
            self.positions = nn.Parameter(torch.randn(size, width))
            block = nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(
                block, layers, nn.LayerNorm(width), enable_nested_tensor=False
            )

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """`(B, width)` float32 features of observations, however SB3 has cast them."""
        there = observations["attention_mask"] > 0  # (B, S)
        tokens = torch.where(there, observations["tokens"].long(), self.padding)
        if self.encoder == "positions":
            x = self.embedding(tokens + self.get_buffer("offsets")).sum(dim=1)
            return torch.tanh(self._with_clock(x, observations))
        x = self.embedding(tokens)  # (B, S, width)
        if self.encoder == "gru":
            x, _ = self.gru(x)
        else:
            x = self.blocks(x + self.positions, src_key_padding_mask=~there)
        last = observations["length"].long().flatten() - 1
        return self._with_clock(x[torch.arange(len(x), device=x.device), last], observations)

    def _with_clock(self, x: Tensor, observations: Mapping[str, Tensor]) -> Tensor:
        """Features `(B, width)` and what share of the tokens is left."""
        if self.clock is None:
            return x
        return x + self.clock * (observations["remaining"].reshape(-1, 1) / self.limit)


class KLPenalty(VecEnvWrapper):  # type: ignore[misc, unused-ignore]
    """Subtracts β times the KL to a frozen reference from every token's reward (Ziegler et al. 2019).

    An RL library that knows no language model forgets the language it started from; with this it need
    not know. The reference is KV-cached. An episode's last info has its sum of log-ratios as `kl` (nats).
    Call `follow(model.policy)` before learning, since the penalty needs the policy's log-probabilities. A
    `VecMonitor` inside this wrapper sees the task's own return, one around it the penalised one.

    Args:
        venv: What to wrap, an `SB3VecEnv` or wrappers around one.
        reference: The policy to stay close to; it is not changed.
        coefficient: β in reward units per nat, or a `KLController`, which adapts it as episodes end.
        estimator: k1, k2 or k3, see `estimate_kl`.

    Raises:
        ConfigError: The reference has another vocabulary than the environment or too short a context.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> env = SB3VecEnv(TextVectorEnv(["a"], ByteTokenizer(), len, 3, autoreset_mode="SameStep"))
    >>> env = KLPenalty(env, Policy.new(ByteTokenizer(), width=16, layers=1, context=8), coefficient=0.05)
    """

    def __init__(
        self,
        venv: VecEnv,
        reference: Policy,
        coefficient: float | KLController = 0.05,
        estimator: Estimator = "k1",
    ) -> None:
        super().__init__(venv)
        width = check_fit(reference, venv.observation_space, venv.action_space)
        self.controller = coefficient if isinstance(coefficient, KLController) else KLController(coefficient)
        self.reference, self.estimator = reference, estimator
        self._cache = PrefixCache(reference, venv.num_envs, width)
        self._policy: BasePolicy | None = None
        self._observation: Any = {}
        self._log_ratio = torch.zeros(venv.num_envs)
        self._penalty = torch.zeros(venv.num_envs)
        self._episode_kl = np.zeros(venv.num_envs)

    def follow(self, policy: BasePolicy) -> KLPenalty:
        """Name the policy that acts here: any of SB3's with an action distribution."""
        self._policy = policy
        return self

    def reset(self) -> Observation:
        """As the wrapped environment."""
        self._observation = self.venv.reset()
        self._episode_kl[:] = 0.0
        observation: Observation = self._observation
        return observation

    @torch.no_grad()
    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        """Compare both policies' log-probabilities of the actions `(B,)`, then pass them on."""
        own = self._own_log_probs(actions)
        states = self._cache.read(self._observation["tokens"], self._observation["length"][:, 0])
        log_p = torch.log_softmax(self.reference.logits(states), dim=1)
        other = log_p.gather(1, torch.as_tensor(actions, device=log_p.device)[:, None])[:, 0]
        self._log_ratio = own.to(other.device) - other
        self._penalty = estimate_kl(own.to(other.device), other, self.estimator)
        self.venv.step_async(actions)

    def step_wait(self) -> StepReturn:
        """As the wrapped environment, with β·KL taken off the rewards."""
        self._observation, rewards, dones, infos = self.venv.step_wait()
        rewards = rewards - np.float32(self.controller.coefficient) * self._penalty.cpu().numpy()
        self._episode_kl += self._log_ratio.cpu().numpy()
        ended = np.flatnonzero(dones)
        for i in ended.tolist():
            infos[i]["kl"] = float(self._episode_kl[i])
        if len(ended):
            self.controller.update(float(self._episode_kl[ended].mean()), len(ended))
            self._episode_kl[ended] = 0.0
        return self._observation, rewards, dones, infos

    def _own_log_probs(self, actions: npt.NDArray[np.int64]) -> Tensor:
        """`(B,)`, nats: of the actions under the policy that is followed."""
        policy = self._policy
        if policy is None:
            raise ConfigError(
                "KLPenalty does not know whose KL to penalise; call env.follow(model.policy) first"
            )
        if isinstance(policy, LanguageModelPolicy):
            return policy.log_probs(self._observation, actions)
        if not isinstance(policy, ActorCriticPolicy):
            raise ConfigError(
                f"{type(policy).__name__} has no log-probabilities; KLPenalty is for PPO and A2C"
            )
        distribution = policy.get_distribution(policy.obs_to_tensor(self._observation)[0])
        return distribution.log_prob(torch.as_tensor(actions, device=policy.device))
