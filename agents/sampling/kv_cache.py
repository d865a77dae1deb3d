"""Keys and values of the tokens that a policy has read, and the ways of reading with them.

Every row ends where it ends: prompts are never padded on the left, and a new token is written at its row's
own end. GPT-2 has a way of its own (`gpt2.py`); any other architecture goes through its own code, if that
agrees with the model without a cache. Nothing here draws tokens.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.episode import IntArray


class Reader(Protocol):
    """A way of computing the trunk's states with a cache."""

    @property
    def reads_in_place(self) -> bool:
        """It reads every row where `LayerCache.rows` says that it lies, and masks for itself."""
        ...

    def renew(self) -> None:
        """The weights have changed."""
        ...

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Read tokens, and write their keys and values where the layers were told to.

        Args:
            layers: One a layer of the model.
            tokens: `(n, S)` int64; either whole sequences or, `S` being 1, one more token a row.
            positions: `(n, S)` int64.
            mask: `(n, 1, 1, W)`, 0 where a row may look and -inf elsewhere, for a single token; None for
                everywhere up to the token itself, or if it masks for itself.
            last: `(n,)` int64: where each sequence ends, if `S` is more than 1.

        Returns:
            `(n, D)`, the trunk's last hidden states at the last tokens.
        """
        ...


class KeyValues:
    """What reading `B` rows of tokens has left behind, in all layers, in memory allocated once.

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
        """Read one more token in each row; what stood in its column or after it is void.

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
        """The weights have changed, and what was read is void."""
        self._reader.renew()

    def keep(self, rows: IntArray) -> None:
        """Go on with fewer rows: row `i` is from now on what row `rows[i]` was. Only those that move cost."""
        if self._reader.reads_in_place:
            self._where = self._where[torch.from_numpy(rows).to(self._device)]
            return
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        target, source = (torch.from_numpy(x).to(self._device) for x in (moved, rows[moved]))
        with torch.inference_mode():  # a reader may have made them in this mode
            for layer in self._layers:
                layer.keep(len(rows), target, source)


class LayerCache:
    """One layer's keys and values, `(B, heads, W, size of a head)` each."""

    def __init__(self, rows: int, width: int) -> None:
        self._size = rows, width
        self._keys = self._values = torch.zeros(0)
        self._flat: tuple[Tensor, Tensor] | None = None
        self.rows: slice | Tensor = slice(None)  # that are written to
        self._column: int | Tensor | None = None
        self._every = torch.zeros(0)
        self._used = 0  # columns that hold anything
        self.width = 0  # columns that the token being read may look at

    def place(self, rows: slice | Tensor, column: int | Tensor | None = None, width: int = 0) -> None:
        """Say where the next `update` writes.

        Args:
            rows: Into these rows (`(n,)` int64), or into all …
            column: … whole sequences from column 0 on (None), or one token: into this column, or into
                column `column[i]` of row `i`, …
            width: … which may look at so many columns.
        """
        self.rows, self._column, self.width = rows, column, width

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(n, heads, S, size)` keys and values, and return those that the new tokens may look at."""
        if not len(self._keys):
            self._make(keys, values, keys.shape[1], keys.shape[3], values.shape[3])
        self._reach(max(self.width, keys.shape[2]))
        if self._column is None:
            self._keys[self.rows, :, : keys.shape[2]] = keys
            self._values[self.rows, :, : keys.shape[2]] = values
            return keys, values
        rows = self.rows if isinstance(self._column, int) else self._every
        self._keys[rows, :, self._column] = keys[:, :, 0]
        self._values[rows, :, self._column] = values[:, :, 0]
        return self._keys[:, :, : self.width], self._values[:, :, : self.width]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `update`, for one token, `(n, heads, size)` each; returns them by head.

        Returns:
            Keys `(n · heads, size, W)` and values `(n · heads, W, size)`.
        """
        if self._flat is None:
            flat_keys, flat_values = self._keys.flatten(0, 1), self._values.flatten(0, 1)
            self._flat = flat_keys.transpose(1, 2), flat_values
        self._reach(self.width)
        if isinstance(self._column, int):
            self._keys.select(2, self._column).copy_(keys)
            self._values.select(2, self._column).copy_(values)
        else:
            self._keys[self._every, :, self._column] = keys
            self._values[self._every, :, self._column] = values
        return self._flat[0][:, :, : self.width], self._flat[1][:, : self.width]

    def room(self, heads: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, `(n, heads, W, size)` each, for a reader that looks only where it wrote."""
        if not len(self._keys):
            self._make(like, like, heads, size, size)
        return self._keys, self._values

    def _make(self, keys: Tensor, values: Tensor, heads: int, *sizes: int) -> None:
        """Memory for keys and values like those given, of `heads` heads of these sizes."""
        rows, width = self._size
        self._keys, self._values = (
            x.new_empty(rows, heads, width, size) for x, size in zip((keys, values), sizes, strict=True)
        )
        self._every = torch.arange(rows, device=keys.device)

    def _reach(self, width: int) -> None:
        """From now on so many columns hold anything: zeros, in rows that do not write there now.

        A masked place has weight 0, but what happens to lie in new memory may be NaN, and so is 0 · NaN.
        """
        if width > self._used:
            if not isinstance(self.rows, slice) or isinstance(self._column, Tensor):
                self._keys[:, :, self._used : width] = 0
                self._values[:, :, self._used : width] = 0
            self._used = width

    def keep(self, size: int, target: Tensor, source: Tensor) -> None:
        """Copy row `source[i]` to row `target[i]`, and drop those from `size` on."""
        if len(target):
            self._keys[target, :, : self._used] = self._keys[source, :, : self._used]
            self._values[target, :, : self._used] = self._values[source, :, : self._used]
        self._keys, self._values = self._keys[:size], self._values[:size]
        self._every = self._every[:size]
        self._flat = None


class AnyReader:
    """Reading through the model's own code, whatever its architecture."""

    reads_in_place = False

    def __init__(self, policy: Policy) -> None:
        from transformers.cache_utils import DynamicLayer

        class Adapter(DynamicLayer):
            """A `LayerCache` where `transformers` expects one of its own."""

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
        """As in `Reader`; nothing was made of the weights."""

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """As in `Reader`."""
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
