"""KV caches keep the keys and values of rows of tokens, so that a new token is read alone.

Every row ends where it ends: prompts are never padded on the left, and a new token is written at its row's
own end. `KeyValues` is the cache of any way of reading (`Reader`); a fast path may bring one of its own.
Nothing here draws tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from text_gym.episode import IntArray

from .runtime import upload
from .sizes import sizes_of

RolloutWeights = Literal["float32", "int8"]  # the numbers of the matrices that tokens are drawn with


class KVCache(Protocol):
    """Reads `B` rows of tokens through a trunk, each token once, without gradients."""

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Read sequences from their beginning.

        Args:
            tokens: `(n, S)` int64, right-padded.
            lengths: `(n,)` int64, tokens of each, at least 1.
            rows: `(n,)` int64, which rows they are; None means all.

        Returns:
            `(n, D)` states of the last tokens.
        """
        ...

    def spread(self, sources: IntArray, width: int) -> None:
        """Let each row `i` begin with what row `sources[i]` has read, which `prefill` has just done.

        Args:
            sources: `(B,)` int64, rows of the last `prefill`, which are their own sources.
            width: Most tokens that these have.
        """
        ...

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Read one more token in each row; whatever stood in its column or after it is void.

        Args:
            tokens: `(B,)` int64.
            at: `(B,)` int64, the column of each row that its token goes to.

        Returns:
            `(B, D)` states of these tokens.
        """
        ...

    def keep(self, rows: IntArray) -> None:
        """Continue with fewer rows: row `i` becomes what row `rows[i]` was; only rows that move cost time."""
        ...

    def renew(self) -> None:
        """Forget everything that was read or derived from the weights, because they have changed."""
        ...


@runtime_checkable
class ExtendingCache(KVCache, Protocol):
    """A cache that reads several more tokens of each row in one call, and of some rows none."""

    def extend(self, tokens: IntArray, rows: IntArray, firsts: IntArray, ends: IntArray) -> Tensor:
        """Read more tokens in some rows; whatever stood in their columns or after them is void.

        Args:
            tokens: `(N, S)` int64, contiguous, where the texts stand …
            rows: … `(B,)` int64, in these rows; what is new of them stands …
            firsts: … `(B,)` int64, from this column on …
            ends: … `(B,)` int64, to before this one.

        Returns:
            `(B, D)` states of the last tokens read; zeros where none was.
        """
        ...


class Reader(Protocol):
    """A way of computing the trunk's states with a `KeyValues` cache."""

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Read tokens, and have the layers' caches write their keys and values.

        Args:
            layers: One a layer of the model.
            tokens: `(n, S)` int64; either whole sequences (prefill) or, `S` being 1, one more token a row
                (a decode step).
            positions: `(n, S)` int64.
            mask: `(n, 1, 1, W)`, 0 where a row may look and -inf elsewhere, for a single token; None for
                everywhere up to the token itself.
            last: `(n,)` int64: where each sequence ends, if `S` is more than 1.

        Returns:
            `(n, D)`, the trunk's last hidden states at the last tokens.
        """
        ...


class KeyValues:
    """The keys and values of `B` rows of tokens in all layers, in memory allocated once; a `KVCache`.

    On accelerators the places of new tokens, and who may look where, are kept on the device and moved on
    there as long as every row grows by one token after the other: then nothing is copied, and nobody waits.

    Args:
        reader: How tokens are read.
        layers: Layers of the model.
        rows: `B`.
        width: `W`, most tokens of a row.
        like: A weight of the model, for its device and dtype.
    """

    def __init__(self, reader: Reader, layers: int, rows: int, width: int, like: Tensor) -> None:
        self._reader, self._device, self._dtype = reader, like.device, like.dtype
        self._place = Place(slice(None))
        if self._device.type != "cpu":
            width = in_buckets(width)
        self._at: IntArray | None = None  # the columns written last, if all rows were, as in `_positions`
        self._positions = self._mask = torch.zeros(0)  # on an accelerator: `(n,)` int64, and `(n, W)`
        self._layers = [LayerCache(rows, width, self._place) for _ in range(layers)]
        self._columns = np.arange(width)

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Implement `KVCache`."""
        self._place.rows = slice(None) if rows is None else upload(rows, self._device)
        self._place.column, self._place.width = None, 0
        positions = torch.arange(tokens.shape[1], device=self._device).expand(tokens.shape)
        last = upload(lengths - 1, self._device)
        self._at = None
        if rows is None and self._device.type != "cpu":
            self._stand_at(lengths - 1, last)
        return self._reader(self._layers, tokens, positions, None, last)

    def spread(self, sources: IntArray, width: int) -> None:
        """Implement `KVCache`."""
        target, source = (upload(x, self._device) for x in moves(sources))
        with torch.inference_mode():
            for layer in self._layers:
                layer.copy(target, source)

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Implement `KVCache`."""
        if self._device.type != "cpu":
            return self._append_on_device(tokens, at)
        positions = torch.from_numpy(at)
        width = int(at.max()) + 1
        column: int | Tensor = width - 1
        mask = None
        if np.count_nonzero(at == column) < len(at):
            column = positions
            beyond = torch.from_numpy(self._columns[:width] > at[:, None])
            mask = torch.zeros(beyond.shape, dtype=self._dtype)
            mask = mask.masked_fill_(beyond, -torch.inf)[:, None, None]
        self._place.rows, self._place.column, self._place.width = slice(None), column, width
        return self._reader(self._layers, tokens[:, None], positions[:, None], mask, None)

    def _append_on_device(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Do what `append` does, in buckets, so that a mask says who looks where."""
        if self._at is not None and np.array_equal(at, self._at + 1):
            self._at = at
            self._positions.add_(1)
            self._mask.scatter_(1, self._positions[:, None], 0.0)
        else:
            self._stand_at(at, upload(at, self._device))
        width = min(in_buckets(int(at.max()) + 1), len(self._columns))
        self._place.rows, self._place.column, self._place.width = slice(None), self._positions, width
        mask = self._mask[:, None, None, :width]
        return self._reader(self._layers, tokens[:, None], self._positions[:, None], mask, None)

    def _stand_at(self, at: IntArray, positions: Tensor) -> None:
        """Note where all rows stand, and that they may look at all columns up to there."""
        self._at, self._positions = at, positions
        beyond = torch.arange(len(self._columns), device=self._device) > positions[:, None]
        zeros = torch.zeros(beyond.shape, dtype=self._dtype, device=self._device)
        self._mask = zeros.masked_fill_(beyond, -torch.inf)

    def keep(self, rows: IntArray) -> None:
        """Implement `KVCache`."""
        target, source = (upload(x, self._device) for x in moves(rows))
        if self._at is not None:
            index = upload(rows, self._device)
            self._at, self._positions, self._mask = self._at[rows], self._positions[index], self._mask[index]
        with torch.inference_mode():  # a reader may have made them in inference mode
            for layer in self._layers:
                layer.keep(len(rows), target, source)

    def renew(self) -> None:
        """Implement `KVCache`: nothing was derived from the weights, and what is void is never looked at."""


def moves(rows: IntArray) -> tuple[IntArray, IntArray]:
    """Return the rows `i` that become something else, where each becomes `rows[i]`, and what they become.

    >>> moves(np.array([0, 3, 2]))
    (array([1]), array([3]))
    """
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    return moved, rows[moved]


def in_buckets(width: int) -> int:
    """Round a width up to whole buckets, those of accelerators.

    >>> in_buckets(1), in_buckets(128), in_buckets(129)
    (128, 128, 256)
    """
    bucket = sizes_of(torch.device("cuda")).width_bucket
    return -(-width // bucket) * bucket


@dataclass
class Place:
    """The place that the layers of a cache write to next, the same in all of them.

    Args:
        rows: These rows (`(n,)` int64), or all …
        column: … whole sequences from column 0 on (None), or one token: into this column, or into column
            `column[i]` of row `i`, …
        width: … which may look at so many columns.
    """

    rows: slice | Tensor
    column: int | Tensor | None = None
    width: int = 0


class LayerCache:
    """One layer's keys and values, `(B, heads, W, size of a head)` each.

    Args:
        rows: `B`.
        width: `W`.
        place: Where the next tokens go.
    """

    def __init__(self, rows: int, width: int, place: Place) -> None:
        self.place = place
        self._size = rows, width
        self._keys = self._values = torch.zeros(0)
        self._flat: tuple[Tensor, Tensor] | None = None
        self._every = torch.zeros(0)
        self._used = 0  # columns in use

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(n, heads, S, size)` keys and values, and return those that the new tokens may look at."""
        place = self.place
        if not len(self._keys):
            rows, width = self._size
            self._keys, self._values = (
                x.new_empty(rows, x.shape[1], width, x.shape[3]) for x in (keys, values)
            )
            self._every = torch.arange(rows, device=keys.device)
        self._reach(max(place.width, keys.shape[2]))
        if place.column is None:
            self._keys[place.rows, :, : keys.shape[2]] = keys
            self._values[place.rows, :, : keys.shape[2]] = values
            return keys, values
        every = place.rows if isinstance(place.column, int) else self._every
        self._keys[every, :, place.column] = keys[:, :, 0]
        self._values[every, :, place.column] = values[:, :, 0]
        return self._keys[:, :, : place.width], self._values[:, :, : place.width]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `update` does for one token, `(n, heads, size)` each, and return keys and values by head.

        Returns:
            Keys `(n · heads, size, W)` and values `(n · heads, W, size)`.
        """
        place = self.place
        if self._flat is None:
            flat_keys, flat_values = self._keys.flatten(0, 1), self._values.flatten(0, 1)
            self._flat = flat_keys.transpose(1, 2), flat_values
        self._reach(place.width)
        if isinstance(place.column, int):
            self._keys.select(2, place.column).copy_(keys)
            self._values.select(2, place.column).copy_(values)
        else:
            self._keys[self._every, :, place.column] = keys
            self._values[self._every, :, place.column] = values
        return self._flat[0][:, :, : place.width], self._flat[1][:, : place.width]

    def _reach(self, width: int) -> None:
        """Extend the columns in use, with zeros in rows that do not write there now.

        A masked place has weight 0, but what happens to lie in new memory may be NaN, and so is 0 · NaN.
        """
        if width > self._used:
            if not isinstance(self.place.rows, slice) or isinstance(self.place.column, Tensor):
                self._keys[:, :, self._used : width] = 0
                self._values[:, :, self._used : width] = 0
            self._used = width

    def keep(self, size: int, target: Tensor, source: Tensor) -> None:
        """Copy row `source[i]` to row `target[i]`, and drop the rows from `size` on."""
        self.copy(target, source)
        self._keys, self._values = self._keys[:size], self._values[:size]
        self._every = self._every[:size]
        self._flat = None

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy row `source[i]` to row `target[i]`."""
        if len(target):
            self._keys[target, :, : self._used] = self._keys[source, :, : self._used]
            self._values[target, :, : self._used] = self._values[source, :, : self._used]
