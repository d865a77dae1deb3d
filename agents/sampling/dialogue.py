"""Plays conversations with a policy and its KV cache: the agent's tokens are drawn, replies are only read.

In every step the agent writes a token in each row, and the cache reads it together with the reply, if there
is one: it grows by whole replies, ragged, and no row waits for another. Caches that read one token a row at a
time have the rows take turns at it, some reading a reply while others write. Single-turn episodes are
`sampler`'s, which need not ask the environment after every token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.episode import IntArray
from text_gym.errors import NonFiniteError
from text_gym.models.runtime import upload
from text_gym.models.sizes import sizes_of

from .decoder import Decoder, survivors
from .overlap import Scoring

Draw: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def play_conversations(
    policy: Policy,
    batch: EpisodeBatch,
    noise: Tensor,
    draw: Draw,
    columns: dict[str, Tensor],
    rows: IntArray,
    scoring: Scoring | None = None,
) -> None:
    """Play until the episodes in these rows are over; fill in what a `Rollout` has of the policy, by name.

    Args:
        policy: Who plays.
        batch: The episodes, which have begun.
        noise: `(B, T)` float64, of each row's tokens; entry `t` is for the agent's own token number `t`.
        draw: Draws tokens `(n,)` from logits `(n, V)` with noise `(n,)`, and says how likely they were.
        columns: `(B, T)` each, aligned to the agent's own tokens.
        rows: `(n,)` int64, the rows of the batch to play.
        scoring: Who scores finished episodes meanwhile, if anybody does.

    Raises:
        NonFiniteError: The policy's logits are NaN or infinite.
        RespondentError, RewardError: As `EpisodeBatch.advance`.
    """
    device, noise = noise.device, noise.flatten()
    decoder = Decoder(policy, batch.tokens[rows], batch.lengths[rows], batch.room)
    record, compact_below = _Record(policy, columns), sizes_of(device).compact_below
    nexts = upload(rows * batch.max_tokens, device)  # places of each row's next token in noise and columns
    live, playing = np.ones(len(rows), dtype=np.bool_), len(rows)
    lengths = read = batch.lengths[rows]  # tokens of each row, and how many of them the decoder has read
    while True:
        # Mostly all rows write, and nothing has to be picked.
        writing = None if playing == len(rows) and read is lengths else live & (read == lengths)
        if writing is None or writing.any():
            states, places, own = decoder.states, nexts, rows
            if writing is not None:
                index = upload(np.flatnonzero(writing), device)
                states, places, own = states[index], places[index], rows[writing]
            logits = decoder.logits(states)
            allowed = None if batch.mask is None else upload(batch.action_masks()[own], device)
            chosen_from = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
            tokens, probs = draw(chosen_from, noise.index_select(0, places))
            record.add(places, states, logits, probs, allowed)
            ended = batch.advance(own, tokens.cpu().numpy())
            nexts = nexts + (1 if writing is None else upload(writing, device))  # the record keeps `places`
            if scoring is not None:
                scoring.look(own)
            over = int(np.count_nonzero(ended))
            if over:
                live[slice(None) if writing is None else writing] = ~ended
                playing -= over
            if not playing:
                break
            if playing <= compact_below * len(rows):
                keep = survivors(live)
                decoder.keep(keep)
                rows, live, read, nexts = rows[keep], live[keep], read[keep], nexts[upload(keep, device)]
        lengths = batch.lengths[rows]
        wanted = lengths if playing == len(rows) else np.where(live, lengths, read)
        read = decoder.extend(batch.tokens, rows, wanted)
    record.finish()


class _Record:
    """Records log-probabilities and values during play, and writes them out a block of steps at a time."""

    def __init__(self, policy: Policy, columns: dict[str, Tensor]) -> None:
        self._policy, self._block = policy, sizes_of(policy.device).recorded_steps
        self._out = {name: column.flatten(0, 1) for name, column in columns.items()}  # views of them
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self._sums: list[Tensor] = []

    def add(
        self,
        places: Tensor,
        states: Tensor,
        logits: Tensor,
        probs: Tensor,
        allowed: Tensor | None,
    ) -> None:
        """Record tokens: row · T + step `(n,)`, states `(n, D)`, logits, probabilities `(n, 1)`, mask."""
        self._sums.append(logits.sum())
        self._steps.append((places, states, probs, allowed))
        if len(self._steps) == self._block:
            self._put()

    def finish(self) -> None:
        """Write out what is left; refuse logits that were not finite."""
        self._put()
        broken = ~torch.isfinite(torch.stack(self._sums))
        if broken.any():
            raise NonFiniteError(
                f"the policy's logits are not finite at step {int(broken.int().argmax())} of a rollout; "
                "nothing was updated"
            )

    def _put(self) -> None:
        if not self._steps:
            return
        every, states, probs, allowed = zip(*self._steps, strict=True)
        places, together = torch.cat(every), torch.cat(states)
        self._out["log_probs"][places] = torch.cat(probs)[:, 0].log()
        self._out["values"][places] = self._policy.values(together)
        if "states" in self._out:
            self._out["states"][places] = together.to(self._out["states"].dtype)
        if "action_masks" in self._out:
            self._out["action_masks"][places] = torch.cat(allowed)
        self._steps.clear()
