"""The KV cache of a policy: keys and values of all layers, and readers that use them.

Every row ends where it ends: prompts are never padded on the left, and a new token is written at its row's
own end. Architectures with a fast path bring a reader; any other goes through its own code, if that agrees
with the model without a cache. Nothing here draws tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.episode import IntArray
from text_gym.models.layer_cache import LayerCache, Reader


class KeyValues:
    """The keys and values of `B` rows of tokens in all layers, in memory allocated once.

    On CUDA nothing here waits for the device: lengths are known on the host.

    Args:
        policy: Who reads.
        rows: `B`.
        width: `W`, most tokens of a row.
        reader: How.

    >>> from text_gym import ByteTokenizer
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> cache = KeyValues(policy, rows=2, width=8, reader=AnyReader(policy))
    >>> with torch.no_grad():
    ...     _ = cache.prefill(torch.tensor([[72, 105], [72, 0]]), np.array([2, 1]))
    ...     states = cache.append(torch.tensor([33, 105]), np.array([2, 1]))
    >>> states.shape
    torch.Size([2, 16])
    """

    def __init__(self, policy: Policy, rows: int, width: int, reader: Reader) -> None:
        config = policy.model.config.get_text_config()
        self.width = width
        self._reader, self._device = reader, policy.device
        self._dtype = next(policy.model.parameters()).dtype
        self._layers = [LayerCache(rows, width) for _ in range(config.num_hidden_layers)]
        self._columns = np.arange(width)
        self._where = torch.arange(rows, device=policy.device)  # rows of the layers, if it reads in place

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Read sequences from their beginning.

        Args:
            tokens: `(n, S)` int64, right-padded.
            lengths: `(n,)` int64, tokens of each, at least 1.
            rows: `(n,)` int64, which rows they are; None means all.

        Returns:
            `(n, D)` states of the last tokens.
        """
        where: slice | Tensor = slice(None) if rows is None else torch.from_numpy(rows).to(self._device)
        for layer in self._layers:
            layer.place(self._where[where] if self._reader.reads_in_place else where)
        positions = torch.arange(tokens.shape[1], device=self._device).expand(tokens.shape)
        last = torch.from_numpy(lengths - 1).to(self._device)
        return self._reader(self._layers, tokens, positions, None, last)

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Read one more token in each row; whatever stood in its column or after it is void.

        Args:
            tokens: `(B,)` int64.
            at: `(B,)` int64, the column of each row that its token goes to.

        Returns:
            `(B, D)` states of these tokens.
        """
        positions = torch.from_numpy(at).to(self._device)
        if self._reader.reads_in_place:
            for layer in self._layers:
                layer.place(self._where, positions)
            return self._reader(self._layers, tokens[:, None], positions[:, None], None, None)
        width = int(at.max()) + 1
        column: int | Tensor = width - 1
        mask = None
        if np.count_nonzero(at == column) < len(at):
            column = positions
            beyond = torch.from_numpy(self._columns[:width] > at[:, None]).to(self._device)
            mask = torch.zeros(beyond.shape, dtype=self._dtype, device=self._device)
            mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]
        for layer in self._layers:
            layer.place(slice(None), column, width)
        return self._reader(self._layers, tokens[:, None], positions[:, None], mask, None)

    def renew(self) -> None:
        """Forget everything that was read, because the weights have changed."""
        self._reader.renew()

    def keep(self, rows: IntArray) -> None:
        """Continue with fewer rows: row `i` becomes what row `rows[i]` was; only rows that move cost time."""
        if self._reader.reads_in_place:
            self._where = self._where[torch.from_numpy(rows).to(self._device)]
            return
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        target, source = (torch.from_numpy(x).to(self._device) for x in (moved, rows[moved]))
        with torch.inference_mode():  # a reader may have made them in inference mode
            for layer in self._layers:
                layer.keep(len(rows), target, source)


class AnyReader:
    """Reads through the model's own code, whatever its architecture."""

    reads_in_place = False

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
                return max(self.layer.width - 1, 0)

        self._policy, self._adapter = policy, Adapter

    def renew(self) -> None:
        """Do nothing, since nothing was derived from the weights."""

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
