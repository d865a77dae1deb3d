"""KV caches that are read through a model's own code, whatever its architecture.

`own_code_cache` has keys and values in memory allocated once. `LibraryCache` is the cache that `transformers`
makes, for architectures that keep something else: windows of attention, recurrent states. `NoCache` reads
whole texts again, for the few that keep nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.episode import IntArray
from text_gym.models.graphs import graphed
from text_gym.models.kv_cache import KeyValues, LayerCache
from text_gym.models.runtime import upload


def own_code_cache(policy: Policy, rows: int, width: int) -> KeyValues:
    """Make a KV cache that is read through the model's own code, whatever its architecture.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> cache = own_code_cache(policy, rows=2, width=8)
    >>> with torch.no_grad():
    ...     _ = cache.prefill(torch.tensor([[72, 105], [72, 0]]), np.array([2, 1]))
    ...     states = cache.append(torch.tensor([33, 105]), np.array([2, 1]))
    >>> states.shape
    torch.Size([2, 16])
    """
    layers = policy.model.config.get_text_config().num_hidden_layers
    reader = graphed(AnyReader(policy), policy.device)
    return KeyValues(reader, layers, rows, width, like=next(policy.model.parameters()))


class AnyReader:
    """Reads through the model's own code, as a `Reader`."""

    def __init__(self, policy: Policy) -> None:
        from transformers.cache_utils import DynamicLayer

        class Adapter(DynamicLayer):
            """Presents a `LayerCache` where `transformers` expects one of its own."""

            def __init__(self, layer: LayerCache) -> None:
                super().__init__()  # type: ignore[no-untyped-call]
                self.layer = layer

            def update(
                self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
            ) -> tuple[Tensor, Tensor]:
                return self.layer.update(key_states, value_states)

            def get_seq_length(self, *_: Any) -> int:
                return max(self.layer.place.width - 1, 0)

        self._policy, self._adapter = policy, Adapter

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Implement `Reader`."""
        from transformers.cache_utils import Cache

        if mask is not None:  # some architectures add to it
            mask = mask.clamp_min(torch.finfo(mask.dtype).min)
        states: Tensor = self._policy.hidden(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=Cache(layers=[self._adapter(layer) for layer in layers]),
            use_cache=True,
        ).last_hidden_state
        at = -1 if last is None else last
        return states[torch.arange(len(states), device=states.device), at]


class LibraryCache:
    """The cache of `transformers`, as a `KVCache`; padded on the left, since its rows must end together."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.renew()

    def renew(self) -> None:
        """Implement `KVCache`."""
        from transformers import DynamicCache

        self._cache: Any = DynamicCache(config=self._policy.model.config)

    @property
    def of_library(self) -> bool:
        """Whether no layer has a cache of the model's own.

        DeepSeek V4 and MiniMax M3 keep summaries of every 4 or 128 columns, which padding on the left moves;
        a trial on a few tokens cannot show that.
        """
        return all(type(layer).__module__ == "transformers.cache_utils" for layer in self._cache.layers)

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Implement `KVCache`; if these are not all rows, `spread` must follow."""
        self._read = np.arange(len(tokens)) if rows is None else rows
        shift = tokens.shape[1] - lengths
        self._padded = bool(shift.any())
        columns = upload(np.arange(tokens.shape[1]) - shift[:, None], tokens.device)
        self._attention, positions = (columns >= 0).long(), columns.clamp_min(0)
        return self._forward(tokens.gather(1, positions), positions)

    def spread(self, sources: IntArray, width: int) -> None:
        """Implement `KVCache`."""
        self.keep(np.searchsorted(self._read, sources))

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Implement `KVCache`."""
        if self._padded:
            self._attention = torch.cat([self._attention, self._attention.new_ones(len(tokens), 1)], dim=1)
        return self._forward(tokens[:, None], upload(at, tokens.device)[:, None])

    def keep(self, rows: IntArray) -> None:
        """Implement `KVCache`."""
        index = upload(rows, self._attention.device)
        self._cache.reorder_cache(index)  # of all kinds of layers, recurrent ones included
        self._attention = self._attention[index]

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        states: Tensor = self._policy.hidden(
            tokens,
            attention_mask=self._attention if self._padded else None,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -1]


class NoCache:
    """Reads texts from their beginning for each token, as a `KVCache`: for models without one, like GPT-1.

    Args:
        policy: The policy.
        rows: `B`.
        width: Most tokens of a row.
    """

    def __init__(self, policy: Policy, rows: int, width: int) -> None:
        self._policy = policy
        self._tokens = torch.zeros(rows, width, dtype=torch.int64, device=policy.device)

    def renew(self) -> None:
        """Implement `KVCache`: nothing is kept."""

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Implement `KVCache`."""
        here = slice(None) if rows is None else upload(rows, tokens.device)
        self._tokens[here, : tokens.shape[1]] = tokens
        return self._states(tokens, upload(lengths - 1, tokens.device))

    def spread(self, sources: IntArray, width: int) -> None:
        """Implement `KVCache`."""
        self.keep(sources)

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Implement `KVCache`."""
        last = upload(at, tokens.device)
        self._tokens[torch.arange(len(tokens), device=tokens.device), last] = tokens
        return self._states(self._tokens[:, : int(at.max()) + 1], last)

    def keep(self, rows: IntArray) -> None:
        """Implement `KVCache`."""
        self._tokens = self._tokens[upload(rows, self._tokens.device)]

    def _states(self, tokens: Tensor, last: Tensor) -> Tensor:
        states: Tensor = self._policy.hidden(tokens).last_hidden_state
        return states[torch.arange(len(states), device=states.device), last]
