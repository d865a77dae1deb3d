"""The sampler plays an `EpisodeBatch` with a policy and its KV cache.

The batch's own transition decides when an episode ends. The noise of episode `k` is a
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

from text_gym.agents.policies.policy import Policy
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import BoolArray, Episode, FloatArray, IntArray
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.models.cpu.fast_path import fast_draw
from text_gym.models.runtime import limited_threads
from text_gym.rewards.values import Rewards

from .decoder import Decoder, survivors
from .generators import Generator, play_by
from .rollout import Rollout, rewards_per_token

LOWEST_TEMPERATURE = 1e-4  # below, logits overflow when divided by it
_BELOW_ONE = 1 - 2.0**-53  # the largest float64 below 1
BLOCK = 32  # steps recorded at a time
TELL_EVERY = {"cpu": 1, "cuda": 16}  # steps after which the environment is told what was drawn
DRAWN_AT_ONCE = 2**19  # logits, on a CPU; large vocabularies are drawn from a few rows at a time
COMPACT_BELOW = 0.9  # drop finished rows from the batch once no more than this share plays


@dataclass(frozen=True)
class Sampling:
    """Sampling settings; log-probabilities are always those of the distribution drawn from.

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

    def check_whole(self) -> None:
        """Refuse what draws from less than the whole distribution: generators have no part in that.

        Raises:
            ConfigError: Naming the setting.
        """
        for name, is_set in (("greedy", self.greedy), ("top_k", self.top_k > 0), ("top_p", self.top_p < 1)):
            if is_set:
                raise ConfigError(
                    f"a generator draws from the whole distribution, and {name}={getattr(self, name)} "
                    "cuts it; leave one of them out"
                )

    def logits(self, logits: Tensor) -> Tensor:
        """Return the logits of the distribution drawn from, `(B, V)`, -inf for dropped tokens."""
        if self.greedy:
            best = torch.full_like(logits, -torch.inf)
            return best.scatter_(1, logits.argmax(dim=1, keepdim=True), 0.0)
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.softmax(dim=1).sort(dim=1, descending=True)
            dropped = ordered.cumsum(dim=1) - ordered >= self.top_p  # what stands before it suffices
            dropped[:, 0] = False
            logits = logits.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)
        return logits

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities of the distribution drawn from, `(B, V)`, in nats."""
        return torch.log_softmax(self.logits(logits), dim=1)


@torch.no_grad()
def rollout(
    policy: Policy,
    env: TextVectorEnv | EpisodeBatch,
    episode_index: IntArray,
    *,
    seed: int = 0,
    sampling: Sampling | None = None,
    keep_states: bool = False,
    generator: Generator | None = None,
) -> Rollout:
    """Play one episode in each row of the environment and have all of them scored in one batch.

    Under `limit="truncate"` nobody is asked about the episodes that the limit cut; see `Rollout.scored`.

    Args:
        policy: Who plays.
        env: The batch of `B` rows that is played, or an environment around one; what ran there is dropped.
        episode_index: `(B,)` int64, numbers `k` of the episodes of stream `seed`.
        seed: Decides prompts and noise.
        sampling: How tokens are drawn.
        keep_states: Keep the policy's states in the rollout, for a critic that reads them.
        generator: Who writes with the policy's weights, which it is given; None is the policy itself.

    Raises:
        ConfigError: The policy and the environment have different tokenizers, prompts and completions do
            not fit the policy's context, `episode_index` is of another form, or a generator is to play with
            a mask or by top-k, top-p or greedily.
        GeneratorError: The generator has other weights than the policy, or wrote no episodes.
        NonFiniteError: The policy's logits are NaN or infinite.
        RewardError: The reward source failed.
    """
    batch = env.batch if isinstance(env, TextVectorEnv) else env
    _check_fit(policy, batch, episode_index)
    sampling = sampling or Sampling()
    rows = np.arange(batch.num_rows)
    batch.begin(rows, np.full(len(rows), seed, dtype=np.int64), episode_index)
    if generator is not None:
        sampling.check_whole()
        how: dict[str, Any] = {"temperature": sampling.temperature, "keep_states": keep_states}
        columns = play_by(generator, policy, batch, seed=seed, **how)
    else:
        noise = uniform(seed, episode_index, batch.max_tokens)
        with limited_threads(policy):
            columns = _play(policy, batch, torch.from_numpy(noise).to(policy.device), sampling, keep_states)
    episodes, scores = batch.score(rows)
    return _assemble(batch, columns, episodes, scores)


def _play(
    policy: Policy, batch: EpisodeBatch, noise: Tensor, sampling: Sampling, keep_states: bool
) -> dict[str, Tensor]:
    """Generate until every row is done; return the tensors of a `Rollout` that come from the policy, by name.

    The batch's transition is the host's, and copying tokens to the host is what accelerators wait for. So
    there the batch is told some steps later what was drawn, all at once; what was drawn for rows that had
    ended by then is dropped. Not so where it has a mask, which depends on each token.
    """
    device = noise.device
    decoder = Decoder(policy, batch.tokens, batch.lengths, batch.max_tokens)
    record = _Record(policy, batch, keep_states, device)
    rows = np.arange(batch.num_rows)  # rows of the batch that the decoder reads …
    live = np.ones(batch.num_rows, dtype=np.bool_)  # … and which of them still play
    noise = noise.T.contiguous()
    every = 1 if batch.mask is not None else TELL_EVERY["cpu" if device.type == "cpu" else "cuda"]
    pending: list[Tensor] = []
    for t in range(batch.max_tokens):
        logits = decoder.logits(decoder.states)
        allowed = None if batch.mask is None else torch.from_numpy(batch.action_masks()[rows]).to(device)
        chosen_from = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
        tokens, probs = draw(sampling.logits(chosen_from), noise[t])
        record.add(decoder.states, logits, probs, allowed)
        pending.append(tokens)
        last = t == batch.max_tokens - 1  # all rows start together: the limit cuts all that are left at once
        if last or len(pending) == every:
            playing = _advance(batch, rows, live, pending)
            if last or not playing:
                break
            if playing <= COMPACT_BELOW * len(rows):
                keep = survivors(live)
                index = torch.from_numpy(keep).to(device)
                decoder.keep(keep)
                rows, live = rows[keep], live[keep]
                tokens, noise = tokens[index], noise[:, index]
                record.go_on_with(rows)
        decoder.step(tokens)
    return record.finish()


def _advance(batch: EpisodeBatch, rows: IntArray, live: BoolArray, pending: list[Tensor]) -> int:
    """Have the batch append tokens, `(n,)` per step; update `live`, and return the number of live rows."""
    drawn = torch.stack(pending) if len(pending) > 1 else pending[0][None]
    for tokens in drawn.cpu().numpy():
        if not live.any():
            break
        live[live] = ~batch.advance(rows[live], tokens[live])
    pending.clear()
    return int(np.count_nonzero(live))


class _Record:
    """Records log-probabilities and values during play, and writes them out a block of steps at a time."""

    def __init__(self, policy: Policy, batch: EpisodeBatch, keep_states: bool, device: torch.device) -> None:
        size, dtype = (batch.num_rows, batch.max_tokens), policy.dtype
        self._out = {k: torch.zeros(size, dtype=dtype, device=device) for k in ("log_probs", "values")}
        if keep_states:
            head = policy.value_head
            shape = (*size, head.in_features)
            self._out["states"] = torch.zeros(shape, dtype=head.weight.dtype, device=device)
        if batch.mask is not None:
            shape = (*size, batch.tokenizer.vocab_size)
            self._out["action_masks"] = torch.zeros(shape, dtype=torch.bool, device=device)
        self._policy, self._batch, self._device = policy, batch, device
        self._first = 0  # step that the lists begin with
        self._states: list[Tensor] = []
        self._probs: list[Tensor] = []
        self._masks: list[Tensor] = []
        self._sums: list[Tensor] = []  # one a step, never emptied
        self.go_on_with(np.arange(batch.num_rows))

    def add(self, states: Tensor, logits: Tensor, probs: Tensor, allowed: Tensor | None) -> None:
        """Record a step: states `(n, D)`, logits `(n, V)`, token probabilities `(n, 1)`, mask `(n, V)`."""
        self._sums.append(logits.sum())
        self._states.append(states)
        self._probs.append(probs)
        if allowed is not None:
            self._masks.append(allowed)
        if len(self._states) == BLOCK:
            self._put()

    def go_on_with(self, rows: IntArray) -> None:
        """Continue with these rows of the batch."""
        self._put()
        self._rows = torch.from_numpy(rows).to(self._device)

    def finish(self) -> dict[str, Tensor]:
        """Return everything recorded; refuse logits that were not finite."""
        self._put()
        broken = ~torch.isfinite(torch.stack(self._sums))
        if broken.any():
            raise NonFiniteError(
                f"the policy's logits are not finite at token {int(broken.int().argmax())} of a rollout; "
                "nothing was updated"
            )
        # Rows that waited for others went on being drawn for.
        lengths = torch.from_numpy(self._batch.lengths - self._batch.starts)
        over = (torch.arange(self._batch.max_tokens) >= lengths[:, None]).to(self._device)
        for columns in self._out.values():
            columns[over] = 0
        return self._out

    def _put(self) -> None:
        if not self._states:
            return
        steps = slice(self._first, self._first + len(self._states))
        self._out["log_probs"][self._rows, steps] = torch.cat(self._probs, 1).log()
        states = torch.stack(self._states, 1)
        self._out["values"][self._rows, steps] = self._policy.values(states)
        if "states" in self._out:
            self._out["states"][self._rows, steps] = states.to(self._out["states"].dtype)
        if self._masks:
            self._out["action_masks"][self._rows, steps] = torch.stack(self._masks, 1)
        self._first = steps.stop
        for entries in (self._states, self._probs, self._masks):
            entries.clear()


def _assemble(
    batch: EpisodeBatch, columns: dict[str, Tensor], episodes: list[Episode], scores: Rewards
) -> Rollout:
    device = columns["values"].device

    def tensor(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy()).to(device)

    lengths = tensor(batch.lengths - batch.starts)
    longest = int(lengths.max())
    return Rollout(
        tokens=tensor(batch.tokens[:, : int(batch.lengths.max())]),
        starts=tensor(batch.starts),
        lengths=lengths,
        **{name: column[:, :longest] for name, column in columns.items()},
        rewards=rewards_per_token(scores, lengths),
        truncated=tensor(batch.truncated),
        episodes=episodes,
        scores=scores,
    )


def draw(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from softmax(logits) with given noise.

    Args:
        logits: `(B, V)`; -inf is never drawn.
        u: `(B,)` float64 in [0, 1).

    Returns:
        `(B,)` int64 tokens, and their `(B, 1)` probabilities: NaN where a logit is NaN or infinite.
    """
    drawn = fast_draw(logits, u)
    if drawn is not None:
        return drawn
    rows = max(1, DRAWN_AT_ONCE // logits.shape[1])
    if logits.device.type == "cpu" and len(logits) > rows:  # what is made on the way stays in the cache
        parts = [draw(*part) for part in zip(logits.split(rows), u.split(rows), strict=True)]
        tokens, probs = (torch.cat(column) for column in zip(*parts, strict=True))
        return tokens, probs
    probs = torch.softmax(logits, 1)
    tokens = inverse_cdf(probs, u)
    return tokens, probs.gather(1, tokens[:, None])


def inverse_cdf(probs: Tensor, u: Tensor, block: int = 64) -> Tensor:
    """Draw by inverting the cumulative distribution: first the block of ids, then the id within it.

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
    if v % block:
        probs = torch.nn.functional.pad(probs, (0, -v % block))
    probs = probs.view(b, -1, block)
    sums = probs.sum(dim=2).cumsum(dim=1, dtype=torch.float64)
    target = u[:, None] * sums[:, -1:]
    chosen = _locate(sums, target)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(1, chosen)
    inside = probs.gather(1, chosen[:, :, None].expand(b, 1, block))[:, 0].cumsum(dim=1, dtype=torch.float64)
    # Sums and cumulative sums round differently: what is left may lie a little outside the block.
    rest = torch.minimum((target - before).clamp_min_(0.0), inside[:, -1:] * _BELOW_ONE)
    token: Tensor = chosen.mul_(block).add_(_locate(inside, rest))[:, 0]
    return token.clamp_max_(v - 1)  # beyond it only where all is NaN


def _locate(cumulative: Tensor, target: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds its target, `(B, 1)`, below the total."""
    # NaN exceeds nothing.
    return torch.searchsorted(cumulative, target, right=True).clamp_max_(cumulative.shape[1] - 1)


def uniform(seed: int, episode_index: IntArray, tokens: int) -> FloatArray:
    """Return the noise of each episode, `(B, T)` float64 in [0, 1), a function of (seed, k, t) alone.

    Philox (Salmon et al. 2011), one counter-based stream an episode.
    """
    keys = (np.array([seed & (2**64 - 1), k], dtype=np.uint64) for k in episode_index.tolist())
    streams = (np.random.Generator(np.random.Philox(key=key)) for key in keys)
    return np.stack([stream.random(tokens) for stream in streams])


def _check_fit(policy: Policy, batch: EpisodeBatch, episode_index: IntArray) -> None:
    if policy.tokenizer.fingerprint != batch.tokenizer.fingerprint:
        raise ConfigError("the policy and the environment have different tokenizers; give both the same one")
    needed = batch.max_prompt_tokens + batch.max_tokens
    if policy.context is not None and needed > policy.context:
        raise ConfigError(
            f"prompts of up to {batch.max_prompt_tokens} tokens and max_tokens={batch.max_tokens} need a "
            f"context of {needed} tokens, the policy has {policy.context}; lower max_tokens or truncate "
            "the prompts"
        )
    index = np.asarray(episode_index)
    if index.shape != (batch.num_rows,) or index.dtype.kind not in "iu" or index.min() < 0:
        raise ConfigError(
            f"episode_index has dtype {index.dtype} and shape {index.shape}; pass {batch.num_rows} whole "
            "numbers of at least 0, one a row"
        )
