"""The decoder reads a batch of prompts and then one token after another, each once.

GPT-2 is read with its own fused arithmetic, other architectures through their own code; both with keys and
values in memory allocated once. Architectures that keep something else (windows of attention, recurrent
states) get the cache that `transformers` makes for them. Drawing tokens is the sampler's business.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from text_gym.agents.policies.policy import Policy
from text_gym.episode import BoolArray, IntArray
from text_gym.models.cpu.fast_path import fast_path
from text_gym.models.layer_cache import Reader

from .kv_cache import AnyReader, KeyValues


class Decoder:
    """Decodes token by token with any `transformers` causal LM; call it without gradients.

    Args:
        policy: The policy.
        tokens: `(B, >= P)` int64, right-padded prompts.
        lengths: `(B,)` int64, their lengths, at least 1.
        room: Most tokens that `step` will be called with, a row.
        fast: False goes through the cache of `transformers`, whatever the architecture.

    Attributes:
        states: `(n, D)`, the trunk's last hidden states at the last tokens read.
        logits: `Policy.logits`, in the fastest way that there is while the weights stay as they are.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> with torch.no_grad():
    ...     decoder = Decoder(policy, np.array([[72, 105], [72, 0]]), np.array([2, 1]), room=6)
    ...     decoder.keep(np.array([1]))
    ...     states = decoder.step(torch.tensor([105]))
    >>> states.shape, policy.logits(states).shape
    (torch.Size([1, 16]), torch.Size([1, 258]))
    """

    def __init__(
        self, policy: Policy, tokens: IntArray, lengths: IntArray, room: int, *, fast: bool = True
    ) -> None:
        longest = int(lengths.max())
        reader = fastest_reader(policy, longest + room) if fast else None
        self._cache: _OwnCache | _LibraryCache = (
            _LibraryCache(policy)
            if reader is None
            else _OwnCache(policy, len(tokens), longest + room, reader)
        )
        self.logits = policy.logits_of_fixed_weights()
        self.states = self._cache.begin(tokens[:, :longest], lengths)

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens `(n,)` int64 and return the states `(n, D)` there."""
        self.states = self._cache.append(tokens)
        return self.states

    def keep(self, rows: IntArray) -> None:
        """Continue with these rows only: row `i` becomes what row `rows[i]` was.

        Args:
            rows: `(m,)` int64, distinct. Rows that keep their place cost nothing, see `survivors`.
        """
        self._cache.keep(rows)
        self.states = self.states[torch.from_numpy(rows).to(self.states.device)]


def survivors(live: BoolArray) -> IntArray:
    """Return the running rows in an order in which most keep their place.

    >>> survivors(np.array([True, False, True, False, False, True]))
    array([0, 5, 2])
    """
    rows = np.arange(np.count_nonzero(live))
    rows[~live[: len(rows)]] = len(rows) + np.flatnonzero(live[len(rows) :])
    return rows


class _OwnCache:
    """A `KeyValues` cache with right-padded prompts."""

    def __init__(self, policy: Policy, rows: int, width: int, reader: Reader) -> None:
        self._cache = KeyValues(policy, rows, width, reader)
        self._device = policy.device

    def begin(self, tokens: IntArray, lengths: IntArray) -> Tensor:
        self._lengths = lengths.copy()
        ids = torch.from_numpy(np.ascontiguousarray(tokens)).to(self._device)
        return self._cache.prefill(ids, lengths)

    def append(self, tokens: Tensor) -> Tensor:
        states = self._cache.append(tokens, self._lengths)
        self._lengths = self._lengths + 1
        return states

    def keep(self, rows: IntArray) -> None:
        self._cache.keep(rows)
        self._lengths = self._lengths[rows]


class _LibraryCache:
    """The cache of `transformers`, padded on the left, since all its rows must end at the same place."""

    def __init__(self, policy: Policy) -> None:
        from transformers import DynamicCache

        self._policy = policy
        self._cache: Any = DynamicCache(config=policy.model.config)

    def begin(self, tokens: IntArray, lengths: IntArray) -> Tensor:
        device = self._policy.device
        shift = tokens.shape[1] - lengths
        columns = np.arange(tokens.shape[1]) - shift[:, None]
        left = np.take_along_axis(tokens, np.maximum(columns, 0), axis=1)
        self._padded = bool(shift.any())
        self._attention = torch.from_numpy((columns >= 0).astype(np.int64)).to(device)
        self._position = torch.from_numpy(lengths.copy()).to(device)
        positions = torch.from_numpy(np.maximum(columns, 0)).to(device)
        return self._forward(torch.from_numpy(left).to(device), positions)

    def append(self, tokens: Tensor) -> Tensor:
        if self._padded:
            self._attention = torch.cat([self._attention, self._attention.new_ones(len(tokens), 1)], dim=1)
        states = self._forward(tokens[:, None], self._position[:, None])
        self._position = self._position + 1
        return states

    def keep(self, rows: IntArray) -> None:
        index = torch.from_numpy(rows).to(self._position.device)
        self._cache.batch_select_indices(index)
        self._attention, self._position = self._attention[index], self._position[index]

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        states: Tensor = self._policy.hidden(
            tokens,
            attention_mask=self._attention if self._padded else None,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -1]


# Models whose reader was found to agree with the uncached model.
_AGREED: WeakKeyDictionary[nn.Module, type[Reader]] = WeakKeyDictionary()


def fastest_reader(policy: Policy, width: int) -> Reader | None:
    """Choose the fastest reader that agrees with the uncached model; None if none does.

    Agreement is tried out once a model, on rows of different lengths. What a trial on a few tokens cannot
    show is asked of the configuration: windows of attention shorter than the rows, modules put in place of
    others.

    Args:
        policy: The policy.
        width: Tokens that a row may have.
    """
    config = policy.model.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    if any(window is not None and window < width for window in windows):
        return None
    path = None if policy.bf16 else fast_path(policy.model.base_model)
    for reader in ([] if path is None else [path.reader()]) + [AnyReader(policy)]:
        if _AGREED.get(policy.model) is type(reader):
            return reader
        if _agrees(policy, reader):
            _AGREED[policy.model] = type(reader)
            return reader
    return None


@torch.no_grad()
def _agrees(policy: Policy, reader: Reader) -> bool:
    lengths = np.array([3, 1, 2])
    tokens = torch.arange(12, device=policy.device).view(3, 4) * 7 % policy.vocab_size
    last = torch.from_numpy(lengths).to(tokens.device)
    rows = torch.arange(3, device=tokens.device)
    wanted = policy.hidden(tokens).last_hidden_state[rows, last]
    cache = KeyValues(policy, rows=3, width=4, reader=reader)
    try:
        cache.prefill(tokens[:, :3], lengths)
        states = cache.append(tokens[rows, last], lengths)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # not a cache of keys and values, or one of another form
    tolerance = 1e-4 if states.dtype == torch.float32 and not policy.bf16 else 0.05
    return torch.allclose(states, wanted, rtol=tolerance, atol=tolerance)
