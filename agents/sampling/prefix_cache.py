"""A KV cache for rows of tokens that usually, but not always, continue what was last read.

The sampler decodes a batch from start to end; libraries with loops of their own call a policy with one
observation after another, in which rows grow, restart and finish at any time. `PrefixCache` finds out
what of an observation is new and computes only that. It draws no tokens and knows no library.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.episode import BoolArray, IntArray

from .decoder import fastest_cache

MOST_APPENDED = 32  # tokens; longer pieces are read faster together with what stands before them


class PrefixCache:
    """The tokens last read in `B` rows, with the keys and values computed for them.

    A row that equals what was read before costs nothing; one that has some tokens more costs a step for each,
    in a batch with the others; any other is read from its beginning. Changed weights void everything (PyTorch
    counts changes of a parameter, but not those by fused optimizers: after such a step call `clear`).
    Architectures whose cached states differ from the uncached ones are always read from the beginning.

    Args:
        policy: Whose hidden states are wanted.
        rows: `B`.
        width: Most tokens of a row, at most the policy's context.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> cache = PrefixCache(policy, rows=1, width=8)
    >>> _ = cache.read(np.array([[72, 105, 0]]), np.array([2]))
    >>> states = cache.read(np.array([[72, 105, 33]]), np.array([3]))
    >>> states.shape, cache.steps, cache.prefilled
    (torch.Size([1, 16]), 1, 1)
    """

    def __init__(self, policy: Policy, rows: int, width: int) -> None:
        self.policy = policy
        self.rows, self.width = rows, width
        self.steps = 0  # batches of one token a row …
        self.prefilled = 0  # … and rows read from the beginning, so far
        self._tokens = np.zeros((rows, width), dtype=np.int64)
        self._lengths = np.zeros(rows, dtype=np.int64)  # 0: nothing was read
        self._columns = np.arange(width)
        self._states = torch.zeros(0)
        self._parameters = list(policy.model.parameters())
        self._weights: tuple[int, int] | None = None
        self._cache = fastest_cache(policy, rows, width)

    @torch.no_grad()
    def read(self, tokens: IntArray, lengths: IntArray) -> Tensor:
        """Return the hidden states of the last tokens, reading only what is new.

        Args:
            tokens: `(B, S)` int64, right-padded, `S <= width`.
            lengths: `(B,)` int64, tokens of each row, at least 1.

        Returns:
            `(B, D)`, the trunk's last hidden state at position `lengths - 1` of each row.
        """
        self._forget_if_trained()
        width = tokens.shape[1]
        unread = self._columns[:width] >= self._lengths[:, None]
        goes_on = ((tokens == self._tokens[:, :width]) | unread).all(axis=1) & (self._lengths > 0)
        more = lengths - self._lengths
        few = (more >= 1) & (more <= MOST_APPENDED)
        grown = goes_on & few if self._cache else np.zeros(self.rows, dtype=np.bool_)
        fresh = np.flatnonzero(~(grown | (goes_on & (more == 0))))
        for step in range(int(more[grown].max(initial=0))):  # one, but for a reply
            growing = grown & (more > step)
            self._append(tokens[np.arange(self.rows), np.minimum(self._lengths, width - 1)], growing)
            self._lengths += growing
        doublings = np.ceil(np.log2(lengths[fresh]))
        for size in np.unique(doublings):  # a long row must not lengthen all the short ones
            rows = fresh[doublings == size]
            self._prefill(rows, tokens[rows], lengths[rows])
        self._tokens[:, :width] = tokens
        self._lengths[:] = lengths
        return self._states

    def append(self, tokens: IntArray) -> None:
        """Read one more token, `tokens[i]`, in each row; rows without room for it stay as they are."""
        lengths = np.minimum(self._lengths + 1, self.width)
        grown = self._tokens.copy()
        room = np.flatnonzero(self._lengths < self.width)
        grown[room, self._lengths[room]] = tokens[room]
        self.read(grown, lengths)

    def find(self, tokens: IntArray, lengths: IntArray) -> IntArray:
        """Find for each of `n` sequences the row that holds exactly these tokens, or -1: `(n,)` int64.

        Args:
            tokens: `(n, S)` int64, right-padded.
            lengths: `(n,)` int64.
        """
        self._forget_if_trained()
        size = tokens.shape[1]
        found = np.full(len(tokens), -1, dtype=np.int64)
        for i, n in enumerate(lengths.tolist()):
            same = (self._lengths == n) & (self._tokens[:, :size] == tokens[i])[:, :n].all(axis=1)
            if same.any():
                found[i] = int(same.argmax())
        return found

    def states(self, rows: IntArray) -> Tensor:
        """Return the hidden states of the last tokens in these rows, `(n, D)`."""
        return self._states[torch.from_numpy(rows).to(self._states.device)]

    def clear(self) -> None:
        """Forget everything that was read, and everything derived from the weights."""
        self._lengths[:] = 0
        if self._cache is not None:
            self._cache.renew()

    def _forget_if_trained(self) -> None:
        # In-place changes of a parameter (an optimizer's step, load_state_dict) raise its version.
        weights = (sum(p._version for p in self._parameters), self._parameters[0].data_ptr())
        if weights != self._weights:
            self.clear()
            self._weights = weights

    def _append(self, tokens: IntArray, grown: BoolArray) -> None:
        """Decode one step for all rows, keeping only the states of those that grew.

        What the others write stands beyond their end, where nothing looks before it is overwritten.
        """
        assert self._cache is not None
        device = self.policy.device
        at = np.minimum(self._lengths, self.width - 1)
        states = self._cache.append(torch.from_numpy(tokens).to(device), at)
        if grown.all():
            self._states = states
        else:
            self._states = torch.where(torch.from_numpy(grown).to(device)[:, None], states, self._states)
        self.steps += 1

    def _prefill(self, rows: IntArray, tokens: IntArray, lengths: IntArray) -> None:
        """Read rows from the beginning."""
        device = self.policy.device
        width = int(lengths.max())
        ids = torch.from_numpy(np.ascontiguousarray(tokens[:, :width])).to(device)
        where = torch.from_numpy(rows).to(device)
        if self._cache is None:
            last = torch.from_numpy(lengths - 1).to(device)
            states = self.policy.hidden(ids).last_hidden_state[torch.arange(len(rows), device=device), last]
        else:
            states = self._cache.prefill(ids, lengths, rows)
        if not len(self._states):
            self._states = states.new_zeros(self.rows, states.shape[1])
        self._states = self._states.index_copy(0, where, states)
        self.prefilled += len(rows)
