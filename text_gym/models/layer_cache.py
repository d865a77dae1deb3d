"""The KV cache of one layer, and the interface of readers, which compute a trunk's states with it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Reader(Protocol):
    """A way of computing the trunk's states with a KV cache."""

    @property
    def reads_in_place(self) -> bool:
        """True if it reads rows in place, by `LayerCache.rows`, and masks for itself."""
        ...

    def renew(self) -> None:
        """Forget everything derived from the weights, because they have changed."""
        ...

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Read tokens, and write their keys and values where `place` said.

        Args:
            layers: One a layer of the model.
            tokens: `(n, S)` int64; either whole sequences (prefill) or, `S` being 1, one more token a row
                (a decode step).
            positions: `(n, S)` int64.
            mask: `(n, 1, 1, W)`, 0 where a row may look and -inf elsewhere, for a single token; None for
                everywhere up to the token itself, or if it masks for itself.
            last: `(n,)` int64: where each sequence ends, if `S` is more than 1.

        Returns:
            `(n, D)`, the trunk's last hidden states at the last tokens.
        """
        ...


class LayerCache:
    """One layer's keys and values, `(B, heads, W, size of a head)` each."""

    def __init__(self, rows: int, width: int) -> None:
        self._size = rows, width
        self._keys = self._values = torch.zeros(0)
        self._flat: tuple[Tensor, Tensor] | None = None
        self.rows: slice | Tensor = slice(None)  # the rows being written
        self._column: int | Tensor | None = None
        self._every = torch.zeros(0)
        self._used = 0  # columns in use
        self.width = 0  # columns the current token may attend to

    def place(self, rows: slice | Tensor, column: int | Tensor | None = None, width: int = 0) -> None:
        """Set where the next `update` writes.

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
        """Do what `update` does for one token, `(n, heads, size)` each, and return keys and values by head.

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
        """Return keys and values `(n, heads, W, size)` for a reader that looks only where it wrote."""
        if not len(self._keys):
            self._make(like, like, heads, size, size)
        return self._keys, self._values

    def _make(self, keys: Tensor, values: Tensor, heads: int, *sizes: int) -> None:
        """Allocate keys and values like those given, with `heads` heads of these sizes."""
        rows, width = self._size
        self._keys, self._values = (
            x.new_empty(rows, heads, width, size) for x, size in zip((keys, values), sizes, strict=True)
        )
        self._every = torch.arange(rows, device=keys.device)

    def _reach(self, width: int) -> None:
        """Extend the columns in use, with zeros in rows that do not write there now.

        A masked place has weight 0, but what happens to lie in new memory may be NaN, and so is 0 · NaN.
        """
        if width > self._used:
            if not isinstance(self.rows, slice) or isinstance(self._column, Tensor):
                self._keys[:, :, self._used : width] = 0
                self._values[:, :, self._used : width] = 0
            self._used = width

    def keep(self, size: int, target: Tensor, source: Tensor) -> None:
        """Copy row `source[i]` to row `target[i]`, and drop the rows from `size` on."""
        if len(target):
            self._keys[target, :, : self._used] = self._keys[source, :, : self._used]
            self._values[target, :, : self._used] = self._values[source, :, : self._used]
        self._keys, self._values = self._keys[:size], self._values[:size]
        self._every = self._every[:size]
        self._flat = None
