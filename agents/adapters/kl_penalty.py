"""A KL penalty for any library: a wrapper of vector environments that pays reward − β·KL, token by token.

An environment sees actions, never the policy that drew them; so the wrapper keeps the reference and has to be
told where the policy's log-probabilities come from. It knows no library: one line of yours, or of an adapter
(`SB3VecEnv.follow`), makes the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from text_gym.agents.algorithms.estimators import KLController
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.prefix_cache import PrefixCache
from text_gym.envs.infos import Info, put
from text_gym.envs.inputs import token_array
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import BoolArray, FloatArray, IntArray
from text_gym.errors import ConfigError, EpisodeError, NonFiniteError, TokenError

from .fit import check_fit

Observation = Mapping[str, npt.NDArray[Any]]
LogProbs = Callable[[Observation, IntArray], Any]
KL_INFO = ("token_kl", "episode_kl", "kl_coef")  # what the wrapper writes into every info
ROUNDING = 1e-3  # nats above 0 that half precision may give a log-probability


class KLPenalty(VectorWrapper):  # type: ignore[type-arg, unused-ignore]  # generic since Gymnasium 1.4
    """Takes β·(log π(token) − log π_ref(token)) off the reward of every token (Ziegler et al. 2019).

    A library that knows no language model forgets the language it started from. With this it maximises
    E[reward] − β·KL(π ‖ π_ref) and need not know. Over the policy's own tokens the log-ratio is the KL in
    expectation, and the policy gradient of it is exact, because a policy's own log-probability has a mean
    gradient of 0. (That does not hold of Schulman's k2 and k3, which are therefore not offered here.)

    The reference is KV-cached: one step of its trunk a token. Rows may restart at any time, in each of
    Gymnasium's autoreset modes; a step in which a row only restarts costs that row nothing. Where
    observations show an `action_mask`, the reference is restricted to it as the policy is, unless the
    environment takes the mask as advice (`on_masked="allow"`). An episode that begins anew under
    `on_abstain="redraw"` gets back what was taken off for the text that nobody judged.

    The info of every step has three arrays `(B,)` float64: `token_kl`, this token's log-ratio in nats;
    `episode_kl`, their sum over the episode so far, which at its end estimates the episode's KL; and
    `kl_coef`, the β that was applied. They stand beside `final_info`, not in it, and their masks
    (`_token_kl`, …) leave out rows that only restarted. A `RecordEpisodeStatistics` inside this wrapper sees
    the task's own return, one around it the penalised one. (Before 1.4, Gymnasium's miscounts in SameStep
    mode; `episode_statistics.py` has one that does not.)

    Args:
        env: Any Gymnasium vector environment that shows `tokens` and `length`: a `TextVectorEnv`, a
            `SyncVectorEnv` of `TextEnv`s, or wrappers around one.
        reference: The policy to stay close to. If its weights can be trained, a frozen copy of it is kept.
        kl_coef: β, in reward units per nat; where it starts, if it is to be adapted.
        kl_target: KL to hold by adapting β, in nats per episode; None keeps β fixed.
        kl_horizon: Episodes over which a full error moves β by a factor e.
        kl_batch: Episodes whose mean KL makes one step of the controller. Errors are clipped, so that steps
            of single episodes would hold the median and not the mean.
        policy: As for `follow`, which can be called later: an agent is usually made after its environment.

    Raises:
        ConfigError: The reference has another vocabulary than the environment or too short a context; an
            environment of another kind; a coefficient, target, horizon or batch out of range.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> env = KLPenalty(TextVectorEnv(["a"], ByteTokenizer(), len, 3), policy, kl_coef=0.1)
    >>> observation, info = env.follow(policy).reset(seed=0)
    >>> _, reward, _, _, info = env.step(np.array([98]))
    >>> reward, info["token_kl"], info["kl_coef"]
    (array([0.]), array([0.]), array([0.1]))
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        reference: Policy,
        kl_coef: float = 0.05,
        *,
        kl_target: float | None = None,
        kl_horizon: float = 2000.0,
        kl_batch: int = 64,
        policy: Policy | LogProbs | None = None,
    ) -> None:
        if not isinstance(env, VectorEnv):
            raise ConfigError(
                f"KLPenalty wraps Gymnasium's vector environments, not a {type(env).__name__}; a library's "
                "adapter goes around it, as in SB3VecEnv(KLPenalty(env, reference))"
            )
        if not isinstance(reference, Policy):
            raise ConfigError(
                f"the reference is a {type(reference).__name__}; load it with Policy.from_pretrained(...)"
            )
        super().__init__(env)
        self._width = check_fit(reference, env.single_observation_space, env.single_action_space)
        tokenizer = getattr(env.unwrapped, "tokenizer", reference.tokenizer)
        if tokenizer.fingerprint != reference.tokenizer.fingerprint:
            raise ConfigError("the reference of the KL penalty and the environment have different tokenizers")
        if kl_batch < 1:
            raise ConfigError(f"kl_batch is {kl_batch}; it must be at least 1")
        trainable = any(p.requires_grad for p in reference.parameters())
        self.reference = reference.frozen() if trainable else reference
        self.controller = KLController(kl_coef, kl_target, kl_horizon)
        self.kl_batch = kl_batch
        # By this name TorchRL looks for it; Gymnasium's wrappers do not pass it on.
        self.autoreset_mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        shown: Any = env.single_observation_space
        text_env = env.unwrapped
        advice = isinstance(text_env, TextVectorEnv) and text_env.options.on_masked == "allow"
        self._masked = "action_mask" in shown.spaces and not advice
        self._reference_cache, self._reference_log_probs = self._cached(self.reference)
        self._log_probs: LogProbs | None = None
        if policy is not None:
            self.follow(policy)
        self._observation: Observation | None = None
        self._over = np.zeros(env.num_envs, dtype=np.bool_)  # the next step of these rows only restarts them
        self._episode_kl = np.zeros(env.num_envs)  # of the running episode, in nats …
        self._paid = np.zeros(env.num_envs)  # … and what it cost, in reward units
        self._finished: list[float] = []  # KL of episodes that the controller has not heard of

    def follow(self, policy: Policy | LogProbs) -> KLPenalty:
        """Name the policy whose KL is penalised, and return this wrapper.

        Args:
            policy: A function of an observation and actions `(B,)` that returns the log-probabilities `(B,)`
                of these actions, in nats, under the policy that drew them, as a NumPy array or a tensor; it
                is asked once before every step. Or a `Policy`, which is then read with a cache of its own.

        Raises:
            ConfigError: It is neither; a network is asked through a function.
        """
        if isinstance(policy, Policy):
            check_fit(policy, self.env.single_observation_space, self.env.single_action_space)
            self._log_probs = self._cached(policy)[1]
        elif callable(policy) and not isinstance(policy, torch.nn.Module):
            self._log_probs = policy
        else:
            raise ConfigError(
                "follow takes a function of (observation, actions) that returns log-probabilities, not a "
                f"{type(policy).__name__}; with Stable-Baselines3 call follow(model.policy) of the SB3VecEnv"
            )
        return self

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], Info]:
        """Reset the environment: all rows, or those of `options["reset_mask"]`."""
        rows = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        observation, infos = self.env.reset(seed=seed, options=options)
        self._observation = _copied(observation)
        self._over[rows] = False
        self._episode_kl[rows] = self._paid[rows] = 0.0
        none = np.zeros(0, dtype=np.int64)
        return observation, put(infos, self.num_envs, none, {name: np.zeros(0) for name in KL_INFO})

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[dict[str, npt.NDArray[Any]], FloatArray, BoolArray, BoolArray, Info]:
        """Step the environment, and take β times the log-ratio of every token off its reward.

        Raises:
            TokenError: Actions that are no token ids, or that the mask forbids; nothing has changed.
            EpisodeError: Before `reset`.
            ConfigError: No policy was named, or what it says are no log-probabilities of `(B,)` actions.
            NonFiniteError: The policy or the reference gives a token no finite log-probability.
        """
        acting = ~self._over
        log_ratio = self._log_ratio(actions, acting)
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        self._observation = _copied(observation)
        coefficient = self.controller.coefficient
        self._episode_kl += log_ratio
        self._paid += coefficient * log_ratio
        rewards = np.asarray(rewards, dtype=np.float64) - coefficient * log_ratio
        redrawn = np.asarray(infos.get("_redrawn", np.zeros(self.num_envs)), dtype=np.bool_)
        rewards[redrawn] += self._paid[redrawn]
        rows = np.flatnonzero(acting)
        columns = (log_ratio[rows], self._episode_kl[rows], np.full(len(rows), coefficient))
        put(infos, self.num_envs, rows, dict(zip(KL_INFO, columns, strict=True)))
        ended = np.asarray(terminated | truncated, dtype=np.bool_)
        self._steer(self._episode_kl[ended])
        self._episode_kl[ended | redrawn] = self._paid[ended | redrawn] = 0.0
        self._over = ended if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        return observation, rewards, terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """Return what the wrapper remembers of running episodes and of β, as plain JSON data."""
        return {
            "coefficient": self.controller.coefficient,
            "episode_kl": self._episode_kl.tolist(),
            "paid": self._paid.tolist(),
            "over": self._over.tolist(),
            "finished": list(self._finished),
        }

    def load_state_dict(self, state: Mapping[str, Any], observation: Observation) -> None:
        """Put back what `state_dict` returned, and the observation that was shown last."""
        self.controller.coefficient = state["coefficient"]
        self._episode_kl[:], self._paid[:] = state["episode_kl"], state["paid"]
        self._over, self._finished = np.array(state["over"], dtype=np.bool_), list(state["finished"])
        self._observation = _copied(observation)
        self.forget()

    def forget(self) -> None:
        """Have the reference read what comes next from its beginning."""
        self._reference_cache.clear()

    def _log_ratio(self, actions: npt.ArrayLike, acting: BoolArray) -> FloatArray:
        """Return each token's log-ratio of policy to reference, `(B,)` float64 nats; 0 where no row acts."""
        if self._observation is None:
            raise EpisodeError("step was called before reset; call env.reset(seed=...) first")
        if self._log_probs is None:
            raise ConfigError(
                "KLPenalty does not know whose KL to penalise; call env.follow(policy) before the first "
                "step, with Stable-Baselines3 follow(model.policy) of the SB3VecEnv"
            )
        tokens = np.where(acting, token_array(actions, (self.num_envs,)).astype(np.int64), 0)
        size = self.reference.vocab_size
        outside = (tokens < 0) | (tokens >= size)
        if outside.any():
            row = int(outside.argmax())
            raise TokenError(f"token id {tokens[row]} in row {row} is outside [0, {size})")
        if self._masked:
            forbidden = acting & (self._observation["action_mask"][np.arange(self.num_envs), tokens] == 0)
            if forbidden.any():
                row = int(forbidden.argmax())
                raise TokenError(f"token id {tokens[row]} in row {row} is masked; choose one of action_mask")
        own = self._checked(self._log_probs(self._observation, tokens), "the policy", acting)
        other = self._checked(self._reference_log_probs(self._observation, tokens), "the reference", acting)
        return np.where(acting, own - other, 0.0)

    def _checked(self, log_probs: Any, whose: str, acting: BoolArray) -> FloatArray:
        """Log-probabilities `(B,)` as float64, finite and not above 0 wherever a row acts; 0 elsewhere."""
        if isinstance(log_probs, torch.Tensor):
            log_probs = log_probs.detach().double().cpu().numpy()
        values = np.asarray(log_probs, dtype=np.float64)
        if values.shape != (self.num_envs,):
            raise ConfigError(
                f"{whose} gave log-probabilities of shape {values.shape} for {self.num_envs} actions; "
                f"return one for each action, of shape ({self.num_envs},)"
            )
        values = np.where(acting, values, 0.0)
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax())
            raise NonFiniteError(
                f"{whose} gives the token in row {row} the log-probability {values[row]}; a policy that is "
                "penalised must draw from the distribution it reports, with finite logits"
            )
        if (values > ROUNDING).any():
            row = int(values.argmax())
            raise ConfigError(
                f"{whose} gives the token in row {row} the log-probability {values[row]}, which is above 0; "
                "return logarithms of probabilities, in nats"
            )
        return values

    def _steer(self, ended: FloatArray) -> None:
        """Tell the controller of the KL `(n,)` of episodes that ended, once there are enough of them."""
        self._finished += ended.tolist()
        if len(self._finished) >= self.kl_batch:
            self.controller.update(float(np.mean(self._finished)), len(self._finished))
            self._finished = []

    def _cached(self, policy: Policy) -> tuple[PrefixCache, LogProbs]:
        """Return a cache, and a function that reads observations with it and says how likely actions are."""
        cache = PrefixCache(policy, self.num_envs, self._width)

        @torch.no_grad()
        def log_probs(observation: Observation, actions: IntArray) -> torch.Tensor:
            logits = policy.logits(cache.read(observation["tokens"], observation["length"][:, 0]))
            if self._masked:
                allowed = torch.as_tensor(observation["action_mask"] != 0, device=logits.device)
                logits = logits.masked_fill(~allowed, -torch.inf)
            taken = torch.as_tensor(actions, device=logits.device)[:, None]
            return torch.log_softmax(logits, dim=1).gather(1, taken)[:, 0]

        return cache, log_probs


def _copied(observation: Observation) -> dict[str, npt.NDArray[Any]]:
    """A copy: TorchRL turns the arrays into tensors in the dictionary it is given, others write into them."""
    return {key: np.array(value) for key, value in observation.items()}
