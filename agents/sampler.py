"""The sampler: plays a batch of episodes in a `TextVectorEnv` with a policy, KV-cached.

The environment's own transition decides when an episode ends. The noise of episode `k` is a
function of (seed, k) alone, so an episode does not depend on which others share its batch.
Beam search is not here: it is no policy one could take the log-probability of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from text_gym import Rewards, TextVectorEnv
from text_gym.errors import ConfigError, NonFiniteError

from .policy import Policy
from .rollout import Rollout, rewards_per_token

LOWEST_TEMPERATURE = 1e-4  # below, logits overflow when divided by it
COMPACT_BELOW = 0.75  # drop finished rows from the batch once no more than this share plays


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; log-probabilities are always of the distribution drawn from.

    Args:
        temperature: Logits are divided by it; at least 0.0001.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with at least this probability, in (0, 1].
        greedy: Take the likeliest token (log-probabilities are then 0).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not LOWEST_TEMPERATURE <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature is {self.temperature}; it must be finite and at least {LOWEST_TEMPERATURE} "
                "(use greedy=True for the likeliest token)"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be in (0, 1]")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it must be 0 (all) or more")

    def log_probs(self, logits: Tensor) -> Tensor:
        """`(B, V)` log-probabilities, in nats, of the distribution that is drawn from."""
        if self.greedy:
            best = torch.full_like(logits, -torch.inf)
            return best.scatter_(1, logits.argmax(dim=1, keepdim=True), 0.0)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.softmax(dim=1).sort(dim=1, descending=True)
            dropped = ordered.cumsum(dim=1) - ordered >= self.top_p  # what stands before it suffices
            dropped[:, 0] = False
            logits = logits.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)
        return torch.log_softmax(logits, dim=1)


@torch.no_grad()
def rollout(
    policy: Policy,
    env: TextVectorEnv,
    episode_index: npt.NDArray[np.int64],
    *,
    seed: int = 0,
    sampling: Sampling | None = None,
) -> Rollout:
    """Play one episode in each row of the environment and have all of them scored in one batch.

    Args:
        policy: Who plays.
        env: `B` rows; any autoreset mode, it is stepped through its transition.
        episode_index: `(B,)` int64, numbers `k` of the episodes of stream `seed`.
        seed: Decides prompts and noise.
        sampling: How tokens are drawn.

    Raises:
        ConfigError: The policy and the environment have different tokenizers, or prompts and
            completions do not fit the policy's context.
        NonFiniteError: The policy's logits are NaN or infinite.
        RewardError: The reward source failed.
    """
    _check_fit(policy, env)
    sampling = sampling or Sampling()
    env.reset(seed=[seed] * env.num_envs, options={"episode_index": episode_index})
    noise = uniform(seed, episode_index, env.max_tokens)
    columns = _play(policy, env, torch.from_numpy(noise).to(policy.device), sampling)
    episodes = env.episodes(np.arange(env.num_envs))
    scores = env.reward(episodes, env.on_bad_reward)
    return _assemble(policy, env, columns, episodes, scores)


def _play(policy: Policy, env: TextVectorEnv, noise: Tensor, sampling: Sampling) -> dict[str, Tensor]:
    """Generate until every row is done; the tensors of a `Rollout` that the policy knows, by name."""
    size = (env.num_envs, env.max_tokens)
    sizes = {"log_probs": size, "values": size, "last_values": size[:1]}
    out = {k: torch.zeros(s, dtype=policy.dtype, device=policy.device) for k, s in sizes.items()}
    if env.mask is not None:
        shape = (*size, env.tokenizer.vocab_size)
        out["action_masks"] = torch.zeros(shape, dtype=torch.bool, device=policy.device)
    rows = np.arange(env.num_envs)  # the environment's rows in the decoder's batch …
    live = np.ones(env.num_envs, dtype=np.bool_)  # … and which of them still play
    decoder = Decoder(policy, env.tokens, env.lengths)
    logits, values = decoder.logits, decoder.values
    for t in range(env.max_tokens):
        if not torch.isfinite(logits).all():
            raise NonFiniteError(
                f"the policy's logits are not finite at token {t} of a rollout; nothing was updated"
            )
        batch = torch.from_numpy(rows).to(policy.device)
        if env.mask is not None:
            allowed = torch.from_numpy(env.action_masks()[rows]).to(policy.device)
            logits = logits.masked_fill(~allowed, -torch.inf)
            out["action_masks"][batch, t] = allowed
        log_p = sampling.log_probs(logits)
        tokens = inverse_cdf(log_p.exp(), noise[batch, t])
        playing = torch.from_numpy(live).to(policy.device)
        out["log_probs"][batch[playing], t] = log_p.gather(1, tokens[:, None])[playing, 0]
        out["values"][batch[playing], t] = values[playing]
        ended = env.advance(rows[live], tokens.cpu().numpy()[live])
        cut = env.truncated[rows] & live
        if not cut.any():  # all rows start together: the token limit cuts all that are left at once
            live[live] = ~ended
            if not live.any():
                break
            if live.mean() <= COMPACT_BELOW:
                keep = torch.from_numpy(live).to(policy.device)
                decoder.keep(keep.nonzero()[:, 0])
                rows, tokens, live = rows[live], tokens[keep], live[live]
        logits, values = decoder.step(tokens)
        if cut.any():
            at = torch.from_numpy(cut).to(policy.device)
            out["last_values"][torch.from_numpy(rows[cut]).to(policy.device)] = values[at]
            break
    return out


def _assemble(
    policy: Policy, env: TextVectorEnv, columns: dict[str, Tensor], episodes: list[Any], scores: Rewards
) -> Rollout:
    def tensor(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy()).to(policy.device)

    lengths = tensor(env.lengths - env.starts)
    longest = int(lengths.max())
    return Rollout(
        tokens=tensor(env.tokens[:, : int(env.lengths.max())]),
        starts=tensor(env.starts),
        lengths=lengths,
        log_probs=columns["log_probs"][:, :longest],
        values=columns["values"][:, :longest],
        last_values=columns["last_values"],
        rewards=rewards_per_token(scores, lengths),
        episodes=episodes,
        scores=scores,
        action_masks=columns["action_masks"][:, :longest] if "action_masks" in columns else None,
    )


class Decoder:
    """One token at a time through any `transformers` causal LM, with its own key-value cache.

    Prompts are padded on the left here, so that all rows append to the cache at the same place.

    Args:
        policy: The policy.
        tokens: `(B, >= P)` int64, right-padded prompts.
        lengths: `(B,)` int64, their lengths.
    """

    def __init__(self, policy: Policy, tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        from transformers import DynamicCache

        self.policy = policy
        self.cache: Any = DynamicCache(config=policy.model.config)
        width = int(lengths.max())
        shift = width - lengths
        columns = np.arange(width) - shift[:, None]
        left = np.take_along_axis(tokens, np.maximum(columns, 0), axis=1)
        device = policy.device
        self.padded = bool(shift.any())
        self.attention = torch.from_numpy((columns >= 0).astype(np.int64)).to(device)
        self.position = torch.from_numpy(lengths.copy()).to(device)
        positions = torch.from_numpy(np.maximum(columns, 0)).to(device)
        self.logits, self.values = self._forward(torch.from_numpy(left).to(device), positions)

    def _forward(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        states = self.policy.hidden(
            tokens,
            attention_mask=self.attention if self.padded else None,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        return self.policy.logits(states), self.policy.values(states)

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Append `(n,)` tokens; logits `(n, V)` of the next token and values `(n,)` of the new states."""
        if self.padded:
            self.attention = torch.cat([self.attention, self.attention.new_ones(len(tokens), 1)], dim=1)
        result = self._forward(tokens[:, None], self.position[:, None])
        self.position = self.position + 1
        return result

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.attention, self.position = self.attention[rows], self.position[rows]


def inverse_cdf(probs: Tensor, u: Tensor, block: int = 128) -> Tensor:
    """Draw by inverting the cumulative distribution: first the block of ids, then the id in it.

    Reproducible from the uniforms alone, and far cheaper than `torch.multinomial`, which draws one
    exponential per vocabulary entry. An id of probability 0 is never drawn.

    Args:
        probs: `(B, V)` float32 or float64; rows need not sum to 1 exactly.
        u: `(B,)` float64 in [0, 1).
        block: Ids per block.

    Returns:
        `(B,)` int64.

    >>> inverse_cdf(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([0.5], dtype=torch.float64))
    tensor([2])
    """
    b, v = probs.shape
    blocks = -(-v // block)
    if v < blocks * block:
        probs = torch.nn.functional.pad(probs, (0, blocks * block - v))
    probs = probs.view(b, blocks, block)
    sums = probs.sum(dim=2, dtype=torch.float64)
    target = u * sums.sum(dim=1)
    chosen, rest = _locate(sums, target)
    inside = probs[torch.arange(b, device=probs.device), chosen].double()
    token, _ = _locate(inside, rest)
    return chosen * block + token


def _locate(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """First index whose cumulative weight exceeds the target, and what of the target is left there."""
    cumulative = weights.cumsum(dim=1)
    index = torch.searchsorted(cumulative, target[:, None], right=True)
    # Rounding may push the target past the end: fall back to the last entry that has any weight.
    last = (weights > 0).int().cumsum(dim=1).argmax(dim=1, keepdim=True)
    index = torch.minimum(index, last)
    before = (cumulative - weights).gather(1, index)
    return index[:, 0], (target[:, None] - before).clamp_min(0.0)[:, 0]


def uniform(seed: int, episode_index: npt.NDArray[np.int64], tokens: int) -> npt.NDArray[np.float64]:
    """`(B, T)` float64 in [0, 1): the noise of each episode, a function of (seed, k, t) alone.

    Philox (Salmon et al. 2011), one counter-based stream an episode.
    """
    keys = (np.array([seed & (2**64 - 1), k], dtype=np.uint64) for k in episode_index.tolist())
    streams = (np.random.Generator(np.random.Philox(key=key)) for key in keys)
    return np.stack([stream.random(tokens) for stream in streams])


def _check_fit(policy: Policy, env: TextVectorEnv) -> None:
    if policy.tokenizer.fingerprint != env.tokenizer.fingerprint:
        raise ConfigError("the policy and the environment have different tokenizers; give both the same one")
    if env.fixed_horizon:
        raise ConfigError("fixed_horizon is for agents that call env.step; rollouts end at EOS anyway")
    needed = env.max_prompt_tokens + env.max_tokens
    if policy.context is not None and needed > policy.context:
        raise ConfigError(
            f"prompts of up to {env.max_prompt_tokens} tokens and max_tokens={env.max_tokens} need a "
            f"context of {needed} tokens, the policy has {policy.context}; lower max_tokens or truncate "
            "the prompts"
        )
