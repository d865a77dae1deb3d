"""A language model as a Stable-Baselines3 policy, and the rollout buffer that goes with it.

Stock `PPO` and `A2C` call a policy with one observation after another and later ask for the same
log-probabilities step by step; here the first is KV-cached and the second one forward pass a sequence.
Discrete token actions only; nothing here draws with top-k or top-p, since SB3 could not learn from it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from text_gym.agents.adapters.causal_actor_critic import CausalActorCritic
from text_gym.agents.adapters.fit import check_fit
from text_gym.agents.policies.policy import Policy
from text_gym.episode import IntArray

from .contrib import pass_for

Observations = Mapping[str, Tensor]
Mask = npt.NDArray[Any] | Tensor


class LanguageModelPolicy(ActorCriticPolicy):
    """A causal language model: its head is the action distribution, its value head the critic.

    The cache of keys and values follows SB3's calls: rows may restart in mid-rollout, SB3's bootstrap
    calls (`predict_values` of single terminal observations) are served from one batched step, weights
    may change in between, and an observation that goes on from nothing known is read from its start.
    Noise comes from PyTorch's global generator, which SB3 seeds (`PPO(..., seed=0)`).

    Args:
        observation_space: A `Dict` with `tokens` and `length`, as `SB3VecEnv` has.
        action_space: `Discrete(V)`.
        lr_schedule: SB3's learning rate schedule.
        language_model: A `Policy`, or the folder or hub name of a causal LM. A copy is trained; what is
            given stays as it is, for instance as the reference of a `KLPenalty`.
        cache: False reads every observation from its beginning.
        exact_entropy: False lets SB3 estimate the entropy from the tokens drawn, which spares a `(N, V)`
            tensor in the update; only sensible with `ent_coef=0`.
        masked: Draw only what the observation's `action_mask` allows, under PPO and A2C too; False takes it
            as advice, as the environment does with `on_masked="allow"`.
        use_sde: Always False: for continuous actions.
        optimizer_class: Of PyTorch.
        optimizer_kwargs: Its arguments, without the learning rate.

    Raises:
        ConfigError: Spaces and language model do not fit together; what and where is told.

    >>> from stable_baselines3 import PPO
    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import SB3VecEnv, SequenceRolloutBuffer
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), len, 4, num_envs=8, autoreset_mode="SameStep")
    >>> lm = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = PPO(
    ...     LanguageModelPolicy, SB3VecEnv(env), n_steps=4, batch_size=16,
    ...     policy_kwargs={"language_model": lm}, rollout_buffer_class=SequenceRolloutBuffer,
    ... ).learn(32)
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        language_model: Policy | str | Path,
        *,
        cache: bool = True,
        exact_entropy: bool = True,
        masked: bool = True,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5, "fused": True} if optimizer_class is torch.optim.Adam else {}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            use_sde=use_sde,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        if isinstance(language_model, Policy):
            self.language_model = copy.deepcopy(language_model)
            self.language_model.requires_grad_(True)
        else:
            self.language_model = Policy.from_pretrained(language_model)
        check_fit(self.language_model, observation_space, action_space)
        self.cache, self.exact_entropy, self.masked = cache, exact_entropy, masked
        self._masks: Mask | None = None
        self._given = (language_model,)  # in a tuple, so that PyTorch does not register it as a submodule
        optimizer_kwargs = {"lr": lr_schedule(1), **optimizer_kwargs}
        self.optimizer = optimizer_class(self.language_model.parameters(), **optimizer_kwargs)
        self._core = CausalActorCritic(self.language_model, cache=cache)

    def _build(self, lr_schedule: Schedule) -> None:
        """Build nothing, since SB3's own networks are not needed."""

    def train(self, mode: bool = True) -> LanguageModelPolicy:
        """Keep dropout off in the update too, so that probability ratios compare like with like."""
        return super().train(False)

    def forward(  # type: ignore[override]
        self, obs: Observations, deterministic: bool = False, action_masks: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw actions `(B,)`; also return values `(B, 1)` and log-probabilities `(B,)` in nats."""
        tokens, lengths = _as_arrays(obs)
        allowed = self._allowed(obs, action_masks)
        actions, log_probs, values = self._core.act(
            tokens, lengths, greedy=deterministic, allowed=None if allowed is None else allowed.cpu().numpy()
        )
        return actions, values[:, None], log_probs

    def predict_values(self, obs: Observations) -> Tensor:  # type: ignore[override]
        """Return values `(n, 1)` of all rows or, for bootstrapping, of a sequence a row has just become."""
        tokens, lengths = _as_arrays(obs)
        cache = self._core.caches.get("play")
        if cache is None or len(tokens) == cache.rows:
            return self.language_model.values(self._core.states(tokens, lengths))[:, None]
        return self._core.terminal_values(tokens, lengths)[:, None]

    def evaluate_actions(  # type: ignore[override]
        self, obs: Observations, actions: Tensor, action_masks: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values `(N, 1)`, log-probabilities `(N,)` and entropies `(N,)` with gradients, uncached.

        Args:
            obs: `S` sequences as `SequenceRolloutBuffer` gives them, or `N` plain observations.
            actions: `(N,)` int64, those of the first sequence, then those of the second, …
            action_masks: `(N, V)`, what was allowed; that of `obs` if None.
        """
        self._core.clear()  # an update has begun, and a fused optimizer's step leaves no trace to see later
        tokens, first = obs["tokens"].long(), obs["length"].long().flatten()
        steps = obs["steps"].flatten() if "steps" in obs else torch.ones_like(first)
        rows = torch.arange(len(steps), device=steps.device).repeat_interleave(steps)
        nth = torch.arange(len(rows), device=steps.device) - (steps.cumsum(0) - steps)[rows]
        at = first[rows] - 1 + nth  # (N,): the last token of the state in which each action was taken
        states = self.language_model.hidden(tokens[:, : int(at.max()) + 1]).last_hidden_state[rows, at]
        logits = self.language_model.logits(states)
        values = self.language_model.values(states)[:, None]
        allowed = self._allowed(obs, action_masks)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        if not self.exact_entropy:
            return values, -torch.nn.functional.cross_entropy(logits, actions, reduction="none"), None
        log_p = torch.log_softmax(logits, dim=1)
        surprise = log_p if allowed is None else log_p.masked_fill(~allowed, 0.0)  # 0 · −∞ is no number
        return values, log_p.gather(1, actions[:, None])[:, 0], -(log_p.exp() * surprise).sum(dim=1)

    @torch.no_grad()
    def get_distribution(  # type: ignore[override]
        self, obs: Observations, action_masks: Mask | None = None
    ) -> CategoricalDistribution:
        """Return the distribution of the next token in SB3's form, without gradients."""
        logits = self.language_model.logits(self._core.states(*_as_arrays(obs)))
        allowed = self._allowed(obs, action_masks)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        return CategoricalDistribution(self.language_model.vocab_size).proba_distribution(logits)

    def log_probs(self, obs: Mapping[str, npt.NDArray[Any]], actions: IntArray) -> Tensor:
        """Return the actions' log-probabilities, `(B,)` nats; those of the last draw are stored."""
        last = self._core.last
        if last is not None and all(
            np.array_equal(old, new)
            for old, new in zip(last[:3], (obs["tokens"], obs["length"][:, 0], actions), strict=True)
        ):
            return last.log_probs
        observations = self.obs_to_tensor(dict(obs))[0]
        return self.get_distribution(observations).log_prob(torch.as_tensor(actions, device=self.device))  # type: ignore[arg-type]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Mask | None = None,
    ) -> tuple[IntArray, Any]:
        """Draw actions for observations in NumPy, as SB3's own `predict`.

        Args:
            observation: One observation, or a batch.
            state: Nothing; handed back.
            episode_start: Not read.
            deterministic: Take the likeliest token.
            action_masks: As MaskablePPO gives them; those of the observation if None.
        """
        self._masks = action_masks
        try:
            return super().predict(observation, state, episode_start, deterministic)
        finally:
            self._masks = None

    def _predict(self, observation: Observations, deterministic: bool = False) -> Tensor:  # type: ignore[override]
        tokens, lengths = _as_arrays(observation)
        found = self._allowed(observation, self._masks)
        allowed = None if found is None else found.cpu().numpy()
        return self._core.act(tokens, lengths, greedy=deterministic, allowed=allowed, caller="predict")[0]

    def _allowed(self, obs: Observations, action_masks: Mask | None) -> Tensor | None:
        """Return the tokens that may come next, `(N, V)` bool; None if nothing restricts them."""
        mask = obs.get("action_mask") if action_masks is None and self.masked else action_masks
        if mask is None:
            return None
        return torch.as_tensor(mask, device=self.device).reshape(-1, self.language_model.vocab_size) != 0

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "language_model": self._given[0],
            "cache": self.cache,
            "exact_entropy": self.exact_entropy,
            "masked": self.masked,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


def _as_arrays(obs: Observations) -> tuple[IntArray, IntArray]:
    """Return tokens `(n, W)` and lengths `(n,)` as NumPy int64 arrays."""
    return obs["tokens"].long().cpu().numpy(), obs["length"].long().cpu().numpy().reshape(-1)


pass_for(LanguageModelPolicy, "policies", "MaskableActorCriticPolicy")
