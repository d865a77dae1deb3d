"""The sampler plays an `EpisodeBatch` with a policy and its KV cache.

The batch's own transition decides when an episode ends. The noise of episode `k` is a
function of (seed, k) alone, so an episode does not depend on which others share its batch.
Beam search is not here: it is no policy one could take the log-probability of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import BoolArray, FloatArray, IntArray
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.models.cpu.fast_path import fast_draw
from text_gym.models.kv_cache import RolloutWeights
from text_gym.models.runtime import keep_freed_memory, limited_threads, upload
from text_gym.models.sizes import sizes_of
from text_gym.models.world import World
from text_gym.rewards.values import Rewards

from .decoder import Decoder, in_parts, stored_in_bfloat16, survivors
from .dialogue import play_conversations
from .generators import Generator, check_int8_rollout, play_by, read_again
from .inversion import inverse_cdf
from .overlap import Scoring, scored_meanwhile
from .rollout import Rollout, assemble
from .together import share_scores, share_tokens

LOWEST_TEMPERATURE = 1e-4  # below, logits overflow when divided by it


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

    def check_whole(self, who: str = "a generator") -> None:
        """Refuse what draws from less than the whole distribution: generators have no part in that.

        Args:
            who: Draws, for the error.

        Raises:
            ConfigError: Naming the setting.
        """
        for name, is_set in (("greedy", self.greedy), ("top_k", self.top_k > 0), ("top_p", self.top_p < 1)):
            if is_set:
                raise ConfigError(
                    f"{who} draws from the whole distribution, and {name}={getattr(self, name)} "
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
    weights: RolloutWeights = "float32",
    world: World | None = None,
    overlap_scoring: int = 0,
    meanwhile: Callable[[Rollout], dict[str, Tensor]] | None = None,
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
        weights: "int8" has the policy draw with weights and states rounded to 8 bits, on a CPU; how likely
            the tokens were then is in `generator_log_probs`, and all else is computed anew, unrounded.
        world: The processes that play the batch together, each a share of its rows; all return all of it.
        overlap_scoring: Chunks of finished episodes that the reward source scores at a time, in threads,
            while others are still played; 0 scores all in one batch in the end.
        meanwhile: With `overlap_scoring`, called once all have ended and the last are still being scored; it
            is given the rollout as if all were paid 0, and returns columns `(B, T)` to set in it, by name.

    Raises:
        ConfigError: The policy and the environment have different tokenizers, prompts and completions do
            not fit the policy's context, `episode_index` is of another form, or a generator is to play with
            a mask or by top-k, top-p or greedily, or 8-bit weights are impossible, or the reward source
            cannot be asked about a part of a batch.
        GeneratorError: The generator has other weights than the policy, or wrote no episodes.
        NonFiniteError: The policy's logits are NaN or infinite.
        RewardError: The reward source failed.
    """
    batch, episode_index = env.batch if isinstance(env, TextVectorEnv) else env, np.asarray(episode_index)
    _check_fit(policy, batch, episode_index)
    sampling = sampling or Sampling()
    if batch.conversation is not None and (generator is not None or weights != "float32"):
        raise ConfigError("conversations are played by the policy as it is: no generator, no 8-bit weights")
    if weights == "int8":
        check_int8_rollout(policy, generator)
        sampling.check_whole("a rollout with 8-bit weights")
    every = np.arange(batch.num_rows)
    keep_freed_memory()

    def begin(rows: IntArray) -> None:
        batch.begin(rows, np.full(len(rows), seed, dtype=np.int64), episode_index[rows])

    begin(every)
    mine = every if world is None else world.share(batch.num_rows, batch.group_size)
    with scored_meanwhile(batch, overlap_scoring) if overlap_scoring else nullcontext() as scoring:
        if generator is not None:
            sampling.check_whole()
            how: dict[str, Any] = {"temperature": sampling.temperature, "keep_states": keep_states}
            columns = play_by(generator, policy, batch, seed=seed, **how)
        else:
            noise = upload(uniform(seed, episode_index, batch.max_tokens, mine), policy.device)
            columns = made = _columns(policy, batch, keep_states)

            def play(rows: IntArray) -> None:
                if batch.conversation is None:
                    _play(policy, batch, noise, sampling, made, rows, weights, scoring)
                else:
                    play_conversations(
                        policy, batch, noise, lambda x, u: draw(sampling.logits(x), u), made, rows, scoring
                    )

            def again(rows: IntArray) -> None:
                if scoring is not None:
                    scoring.forget(rows)
                begin(rows)

            with limited_threads(policy), stored_in_bfloat16(policy):
                in_parts(policy, mine, batch.max_prompt_tokens + batch.room, play, again=again)
                if scoring is not None:
                    scoring.hurry(mine)
                if world is not None:
                    share_tokens(world, batch, made, mine)
                if weights == "int8":
                    drawn, masks = made["log_probs"], made.get("action_masks")
                    columns = made | read_again(policy, batch, sampling.temperature, keep_states, masks)
                    columns["generator_log_probs"] = drawn
        if scoring is not None and meanwhile is not None:
            scoring.hurry(mine)
            nothing = Rewards(np.zeros(batch.num_rows))
            columns = columns | meanwhile(assemble(batch, columns, batch.episodes(every), nothing))
        known = None if scoring is None else scoring.finish(mine)
        if world is not None:
            episodes, scores = share_scores(world, batch, mine, known)
        else:
            episodes, scores = batch.score(every) if known is None else (batch.episodes(every), known)
    return assemble(batch, columns, episodes, scores)


def _play(
    policy: Policy,
    batch: EpisodeBatch,
    noise: Tensor,
    sampling: Sampling,
    columns: dict[str, Tensor],
    rows: IntArray,
    weights: RolloutWeights,
    scoring: Scoring | None,
) -> None:
    """Generate until these rows are done; fill in what a `Rollout` has of the policy, by name.

    The batch's transition is the host's, and copying tokens to the host is what accelerators wait for. So
    there the batch is told some steps later what was drawn, all at once; what was drawn for rows that had
    ended by then is dropped. Not so where it has a mask, which depends on each token.
    """
    device = noise.device
    whole = len(rows) == batch.num_rows
    decoder = Decoder(policy, batch.tokens[rows], batch.lengths[rows], batch.max_tokens, weights=weights)
    record = _Record(policy, batch, columns, rows)
    live = np.ones(len(rows), dtype=np.bool_)  # which of the decoder's rows, `rows` of the batch, still play
    noise = (noise if whole else noise[upload(rows, device)]).T.contiguous()
    sizes = sizes_of(device)
    every = 1 if batch.mask is not None else sizes.tell_every
    pending: list[Tensor] = []
    for t in range(batch.max_tokens):
        logits = decoder.logits(decoder.states)
        allowed = None if batch.mask is None else upload(batch.action_masks()[rows], device)
        chosen_from = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
        tokens, probs = draw(sampling.logits(chosen_from), noise[t])
        record.add(decoder.states, logits, probs, allowed)
        pending.append(tokens)
        last = t == batch.max_tokens - 1  # all rows start together: the limit cuts all that are left at once
        if last or len(pending) == every:
            playing = _advance(batch, rows, live, pending)
            if scoring is not None:
                scoring.look(rows)
            if last or not playing:
                break
            if playing <= sizes.compact_below * len(rows):
                keep = survivors(live)
                index = upload(keep, device)
                decoder.keep(keep)
                rows, live = rows[keep], live[keep]
                tokens, noise = tokens[index], noise[:, index]
                record.go_on_with(index)
        decoder.step(tokens)
    record.finish()


def _advance(batch: EpisodeBatch, rows: IntArray, live: BoolArray, pending: list[Tensor]) -> int:
    """Have the batch append tokens, `(n,)` per step; update `live`, and return the number of live rows."""
    drawn = torch.stack(pending) if len(pending) > 1 else pending[0][None]
    for tokens in drawn.cpu().numpy():
        if not live.any():
            break
        live[live] = ~batch.advance(rows[live], tokens[live])
    pending.clear()
    return int(np.count_nonzero(live))


def _columns(policy: Policy, batch: EpisodeBatch, keep_states: bool) -> dict[str, Tensor]:
    """Make room for what a `Rollout` has of the policy, zeros `(B, T)` and more, by name."""
    size, device = (batch.num_rows, batch.max_tokens), policy.device
    made = {k: torch.zeros(size, dtype=policy.dtype, device=device) for k in ("log_probs", "values")}
    if keep_states:
        head = policy.value_head
        made["states"] = torch.zeros(*size, head.in_features, dtype=policy.model.dtype, device=device)
    if batch.mask is not None:
        made["action_masks"] = torch.zeros(*size, batch.tokenizer.vocab_size, dtype=torch.bool, device=device)
    return made


class _Record:
    """Records log-probabilities and values during play, and writes them out a block of steps at a time."""

    def __init__(
        self, policy: Policy, batch: EpisodeBatch, columns: dict[str, Tensor], rows: IntArray
    ) -> None:
        self._policy, self._batch, self._out = policy, batch, columns
        self._device, self._block = policy.device, sizes_of(policy.device).recorded_steps
        self._first = 0  # step that the lists begin with
        self._states: list[Tensor] = []
        self._probs: list[Tensor] = []
        self._masks: list[Tensor] = []
        self._sums: list[Tensor] = []  # one a step, never emptied
        self._rows = upload(rows, self._device)

    def add(self, states: Tensor, logits: Tensor, probs: Tensor, allowed: Tensor | None) -> None:
        """Record a step: states `(n, D)`, logits `(n, V)`, token probabilities `(n, 1)`, mask `(n, V)`."""
        self._sums.append(logits.sum())
        self._states.append(states)
        self._probs.append(probs)
        if allowed is not None:
            self._masks.append(allowed)
        if len(self._states) == self._block:
            self._put()

    def go_on_with(self, index: Tensor) -> None:
        """Continue with some of the rows only: row `i` becomes what row `index[i]` was."""
        self._put()
        self._rows = self._rows[index]

    def finish(self) -> None:
        """Write out what is left; refuse logits that were not finite."""
        self._put()
        broken = ~torch.isfinite(torch.stack(self._sums))
        if broken.any():
            raise NonFiniteError(
                f"the policy's logits are not finite at token {int(broken.int().argmax())} of a rollout; "
                "nothing was updated"
            )
        # Rows that waited for others went on being drawn for.
        lengths = torch.from_numpy(self._batch.lengths - self._batch.starts)
        over = upload(torch.arange(self._batch.max_tokens) >= lengths[:, None], self._device)
        for columns in self._out.values():
            columns[over] = 0

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
    rows = max(1, sizes_of(logits.device).drawn_at_once // logits.shape[1])
    if logits.device.type == "cpu" and len(logits) > rows:  # what is made on the way stays in the cache
        parts = [draw(*part) for part in zip(logits.split(rows), u.split(rows), strict=True)]
        tokens, probs = (torch.cat(column) for column in zip(*parts, strict=True))
        return tokens, probs
    probs = torch.softmax(logits, 1)
    tokens = inverse_cdf(probs, u)
    return tokens, probs.gather(1, tokens[:, None])


def uniform(
    seed: int, episode_index: IntArray, tokens: int, rows: IntArray | slice = slice(None)
) -> FloatArray:
    """Return the noise of each episode, `(B, T)` float64 in [0, 1), a function of (seed, k, t) alone.

    Philox (Salmon et al. 2011), one counter-based stream an episode. Rows that are not asked for are 0.
    """
    noise = np.zeros((len(episode_index), tokens))
    for row in np.arange(len(noise))[rows].tolist():
        k = episode_index.item(row)
        key = np.array([seed & (2**64 - 1), k], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).random(out=noise[row])
    return noise


def _check_fit(policy: Policy, batch: EpisodeBatch, episode_index: IntArray) -> None:
    if not isinstance(batch, EpisodeBatch):
        raise ConfigError(f"rollout takes a policy, then a TextVectorEnv, not {type(batch).__name__}")
    if policy.tokenizer.fingerprint != batch.tokenizer.fingerprint:
        raise ConfigError("the policy and the environment have different tokenizers; give both the same one")
    needed = batch.max_prompt_tokens + batch.room
    if policy.context is not None and needed > policy.context:
        room = f"max_tokens={batch.max_tokens}" if batch.conversation is None else "a conversation"
        raise ConfigError(
            f"prompts of up to {batch.max_prompt_tokens} tokens and {room} need a context of {needed} "
            f"tokens, the policy has {policy.context}; lower max_tokens (or max_context) or cut the prompts"
        )
    shape, dtype = episode_index.shape, episode_index.dtype
    if shape != (batch.num_rows,) or dtype.kind not in "iu" or episode_index.min() < 0:
        raise ConfigError(
            f"episode_index has dtype {dtype}, shape {shape}; pass {batch.num_rows} numbers of at least 0"
        )
