"""Generators write the completions of a rollout in place of the policy, as an inference engine does.

An engine is believed nothing but its tokens: they are replayed through the environment's own transition,
which decides when an episode ends, and the policy itself says how likely they are. Whether the engine had
the policy's weights shows in how far its own log-probabilities are from those. No reward is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.memory import Splitter
from text_gym.agents.policies.policy import Policy
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.episode import IntArray
from text_gym.errors import ConfigError, GeneratorError, NonFiniteError
from text_gym.models.runtime import limited_threads
from text_gym.models.sizes import sizes_of

from .decoder import check_int8

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # nats a token, by the type that products are made in
NARROW_TOLERANCE = 0.1  # of bfloat16 and float16


@dataclass(frozen=True)
class Completion:
    """The tokens that a generator wrote for one prompt.

    Args:
        tokens: Ids, EOS included where it came; the environment drops what follows the episode's end.
        log_probs: Of these tokens, in nats, as the generator drew them.
    """

    tokens: Sequence[int]
    log_probs: Sequence[float]


class Generator(Protocol):
    """Anything that writes texts with a policy's weights: `generator=` of `rollout` and of every agent.

    Attributes:
        tolerance: The largest mean difference between its log-probabilities and the policy's, in nats a
            token, that rounding explains: 1e-3 where it computes in float32, 0.1 in bfloat16.
    """

    tolerance: float

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a policy's weights, by the names that Hugging Face gives them, tied ones twice."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        max_tokens: int,
        eos_ids: Sequence[int],
        temperature: float,
        vocab_size: int,
    ) -> Sequence[Completion]:
        """Complete prompts, each until an EOS id or the limit, by draws from the whole distribution.

        Args:
            prompts: The ids of each.
            seeds: A number in [0, 2**63) for each, which decides its noise.
            max_tokens: The limit, EOS included.
            eos_ids: Ids that end a text.
            temperature: Logits are divided by it.
            vocab_size: Ids from here on are not drawn, though the model may have rows for them.

        Returns:
            A completion for each prompt, in their order.
        """
        ...


def check_int8_rollout(policy: Policy, generator: Generator | None) -> None:
    """Refuse rollouts with 8-bit weights where they are impossible.

    Raises:
        ConfigError: Naming the reason.
    """
    if generator is not None:
        raise ConfigError("a generator has weights of its own: leave out either it or 8-bit weights")
    check_int8(policy)


@torch.no_grad()
def play_by(
    generator: Generator,
    policy: Policy,
    batch: EpisodeBatch,
    *,
    seed: int,
    temperature: float,
    keep_states: bool = False,
) -> dict[str, Tensor]:
    """Play the episodes that have begun in every row of a batch, by a generator that is given the weights.

    Args:
        generator: Who writes.
        policy: Whose weights it gets, and who says how likely the tokens are.
        batch: `B` rows, all at the beginning of an episode; they are done afterwards.
        seed: Of the stream; the noise of episode `k` is a function of (seed, k).
        temperature: Of the distribution.
        keep_states: Keep the policy's states.

    Returns:
        The tensors of a `Rollout` that come from the policy and the generator, `(B, T)`, by name.

    Raises:
        ConfigError: The environment has a mask.
        GeneratorError: The log-probabilities of the generator and the policy are farther apart than rounding
            explains, or it wrote something other than episodes.
        NonFiniteError: The policy's log-probabilities are NaN or infinite.
    """
    if batch.mask is not None:
        raise ConfigError("a generator knows no action masks; take the mask or the generator away")
    generator.load(policy.weights())
    prompts = [row[:start].tolist() for row, start in zip(batch.tokens, batch.starts, strict=True)]
    vocab = policy.vocab_size
    found = generator.generate(
        prompts,
        seeds_of(seed, batch.episode_index),
        max_tokens=batch.max_tokens,
        eos_ids=list(batch.tokenizer.eos_ids),
        temperature=temperature,
        vocab_size=vocab,
    )
    said = replay(batch, found)
    with limited_threads(policy):
        columns = read_again(policy, batch, temperature, keep_states)
    ours = columns["log_probs"]
    columns["generator_log_probs"] = said.to(ours)
    check_gap(columns["generator_log_probs"], ours, batch, max(generator.tolerance, tolerance_of(policy)))
    return columns


def seeds_of(seed: int, episode_index: IntArray) -> list[int]:
    """Return a number in [0, 2**63) for each episode, a function of (seed, k) alone.

    >>> seeds_of(0, np.array([7, 8])) == [*seeds_of(0, np.array([7])), *seeds_of(0, np.array([8]))]
    True
    """
    keys = (np.array([seed & (2**64 - 1), k], dtype=np.uint64) for k in episode_index.tolist())
    return [int(np.random.Philox(key=key).random_raw()) >> 1 for key in keys]


def replay(batch: EpisodeBatch, completions: Sequence[Completion]) -> Tensor:
    """Have the batch append the tokens of each completion until the episode ends; what follows is dropped.

    Returns:
        `(B, T)` float64, the log-probabilities that came with the tokens, 0 past the end.

    Raises:
        GeneratorError: A completion holds no such tokens, or stops before its episode ends.
    """
    if len(completions) != batch.num_rows:
        raise GeneratorError(f"the generator returned {len(completions)} texts for {batch.num_rows} prompts")
    tokens = np.full((batch.num_rows, batch.max_tokens), -1, dtype=np.int64)
    said = torch.zeros(batch.num_rows, batch.max_tokens, dtype=torch.float64)
    for row, completion in enumerate(completions):
        ids, log_probs = list(completion.tokens)[: batch.max_tokens], completion.log_probs
        if len(completion.log_probs) != len(completion.tokens):
            raise GeneratorError(
                f"the generator returned {len(completion.tokens)} tokens and {len(log_probs)} "
                f"log-probabilities in row {row}; a rollout needs one of each token, to see whose "
                "weights drew them"
            )
        tokens[row, : len(ids)] = ids
        said[row, : len(ids)] = torch.tensor(log_probs[: len(ids)], dtype=torch.float64)
    rows = np.arange(batch.num_rows)
    for step in range(batch.max_tokens):
        drawn = tokens[rows, step]
        outside = (drawn < 0) | (drawn >= batch.tokenizer.vocab_size)
        if outside.any():
            row, token = int(rows[outside.argmax()]), int(drawn[outside.argmax()])
            written = len(completions[row].tokens)
            what = (
                f"ended after {written} tokens with neither an EOS id nor the limit of {batch.max_tokens}"
                if written <= step
                else f"has the id {token}, and the tokenizer has ids below {batch.tokenizer.vocab_size}"
            )
            raise GeneratorError(f"the generator's text in row {row} {what}")
        rows = rows[~batch.advance(rows, drawn)]
        if not len(rows):
            break
    past = torch.arange(batch.max_tokens) >= torch.from_numpy(batch.lengths - batch.starts)[:, None]
    return said.masked_fill_(past, 0.0)


def read_again(
    policy: Policy,
    batch: EpisodeBatch,
    temperature: float,
    keep_states: bool,
    action_masks: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute log-probabilities, values and, if asked, states of finished episodes in one pass.

    Args:
        policy: Who says how likely the tokens are.
        batch: `B` rows, all done.
        temperature: Of the distribution.
        keep_states: Return states.
        action_masks: `(B, T, V)` bool, tokens that could be drawn; None means all.

    Returns:
        `log_probs` and `values` `(B, T)`, and `states` `(B, T, D)`, by name, 0 past the ends.

    Raises:
        NonFiniteError: The policy's log-probabilities are NaN or infinite.
    """
    device, head = policy.device, policy.value_head
    tokens, starts, ends = (
        torch.from_numpy(x.copy()).to(device) for x in (batch.tokens, batch.starts, batch.lengths)
    )
    lengths, size = ends - starts, (batch.num_rows, batch.max_tokens)
    columns = {name: torch.zeros(size, dtype=policy.dtype, device=device) for name in ("log_probs", "values")}
    if keep_states:
        shape = (*size, head.in_features)
        columns["states"] = torch.zeros(shape, dtype=policy.model.dtype, device=device)
    read: list[Tensor] = []  # the states that the value head was shown, `(N, D)`

    def fill(parts: list[Tensor]) -> None:
        for part in parts:
            read.clear()
            allowed = None if action_masks is None else action_masks[part]
            given = tokens[part], starts[part], lengths[part]
            seen = policy.evaluate(*given, temperature=temperature, action_masks=allowed)
            width = seen.log_probs.shape[1]
            columns["log_probs"][part, :width], columns["values"][part, :width] = seen.log_probs, seen.values
            if keep_states:
                mask = torch.arange(width, device=device) < lengths[part, None]
                states = columns["states"].new_zeros(*mask.shape, head.in_features)
                states[mask] = read[0]
                columns["states"][part, :width] = states

    hook = head.register_forward_pre_hook(lambda _, given: read.append(given[0])) if keep_states else None
    try:
        Splitter(device, sizes_of(device).scored_rows).run(ends, fill)
    finally:
        if hook is not None:
            hook.remove()
    if not columns["log_probs"].isfinite().all():
        raise NonFiniteError(
            "the policy's log-probabilities are not finite in a rollout; nothing was updated"
        )
    return columns


def tolerance_of(policy: Policy) -> float:
    """Return how far rounding takes the log-probabilities of this policy, in nats a token."""
    dtype = torch.bfloat16 if policy.bf16 else getattr(torch, policy.weights_dtype)
    return TOLERANCE.get(dtype, NARROW_TOLERANCE)


def check_gap(theirs: Tensor, ours: Tensor, batch: EpisodeBatch, tolerance: float) -> None:
    """Refuse a generator whose log-probabilities `(B, T)` are farther from the policy's than rounding takes.

    Raises:
        GeneratorError: Their mean difference is above the tolerance, or NaN.
    """
    gap = float((theirs - ours).abs().sum() / int((batch.lengths - batch.starts).sum()))
    if not gap <= tolerance:
        raise GeneratorError(
            f"the generator's log-probabilities are {gap:.3g} nats a token from the policy's, and rounding "
            f"explains {tolerance:g}: it has other weights (lost, or not taken over), keeps states computed "
            "with earlier ones, or draws from another distribution; nothing was updated"
        )
