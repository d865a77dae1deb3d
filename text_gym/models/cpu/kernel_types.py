"""What the compiled kernels are told of a model and of texts: structures of `kernels.c`, packed matrices."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

POINTER, NUMBER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class LayerWeights(ctypes.Structure):
    """`layer` of `kernels.c`; whoever fills it in keeps the tensors."""

    _fields_ = (
        *((name, POINTER) for name in ("gain_1", "offset_1", "qkv_bias", "of_queries", "of_keys")),
        *((name, POINTER) for name in ("cosines", "sines", "projection_bias", "gain_2", "offset_2")),
        *((name, POINTER) for name in ("up_bias", "down_bias", "qkv", "projection", "up", "down")),
        *((name, POINTER) for name in ("keys", "values")),
        *((name, REAL) for name in ("scale", "epsilon_1", "epsilon_2")),
    )


class TrunkWeights(ctypes.Structure):
    """`trunk` of `kernels.c`; whoever fills it in keeps the tensors."""

    _fields_ = (
        ("layers", ctypes.POINTER(LayerWeights)),
        *((name, POINTER) for name in ("embedding", "positions", "gain", "offset")),
        *((name, NUMBER) for name in ("count", "width", "heads", "groups", "size", "inner")),
        *((name, NUMBER) for name in ("activation", "room", "vocabulary", "context", "int8")),
        *((name, REAL) for name in ("epsilon", "embedding_scale")),
    )


@dataclass(frozen=True)
class Panels:
    """A matrix `(inputs, outputs)` copied into the order in which `Kernels.multiply` reads it."""

    memory: Tensor  # (panels, inputs, width), flat
    inputs: int
    outputs: int


class Trees(NamedTuple):
    """Texts that begin alike, in segments: first what they share, then what each of them goes on with.

    Args:
        places: `(s,)` int64, the first of each segment's own tokens among all keys.
        borders: `(m + 1,)` int64, the first segment of each tree, and the end of the last one.
    """

    places: Tensor
    borders: Tensor


class Texts(ctypes.Structure):
    """`texts` of `kernels.c`: which queries of a batch of texts meet which keys.

    Args:
        begins: `(B,)` int64, where the queries of each text begin.
        counts: `(B,)` int64, how many they are.
        firsts: `(B,)` int64, the last key that a text's first query looks at; each further one sees one more.
        tokens: `S`, most keys of a text.
        heads: Of attention.
        size: Of a head.
        scale: Of queries times keys.
        groups: Heads of keys and values, each of which equally many heads of queries share.
        trees: The trees of texts that share their beginnings; left out, each text is one of its own, whose
            keys begin at its row of `(B, S)`.
    """

    _fields_ = (
        *((name, POINTER) for name in ("begins", "counts", "firsts", "places", "trees")),
        *((name, NUMBER) for name in ("count", "tokens", "heads", "groups", "size", "of_query", "of_key")),
        ("scale", REAL),
    )

    def __init__(
        self,
        begins: Tensor,
        counts: Tensor,
        firsts: Tensor,
        *,
        tokens: int,
        heads: int,
        size: int,
        scale: float,
        groups: int | None = None,
        trees: Trees | None = None,
    ) -> None:
        self.ragged = trees is None and bool((firsts + counts < tokens).any())
        if trees is None:
            count = len(begins)
            trees = Trees(torch.arange(0, count * tokens, tokens), torch.arange(count + 1))
        self._kept = begins, counts, firsts, *trees
        pointers = (x.data_ptr() for x in self._kept)
        super().__init__(*pointers, len(trees.borders) - 1, tokens, heads, groups or heads, size, 0, 0, scale)


@dataclass(frozen=True)
class Places:
    """What becomes of queries or keys before they meet.

    Args:
        positions: `(n,)` int64, contiguous, of their tokens.
        size: Of a head.
        gain: `(size,)`, of the norm of each head, if there is one.
        epsilon: The norm's.
        angles: RoPE's cosines and sines, `(context, size / 2)` each, if heads are turned.
    """

    positions: Tensor
    size: int
    gain: Tensor | None = None
    epsilon: float = 0.0
    angles: tuple[Tensor, Tensor] | None = None

    def pointers(self) -> tuple[int | None, ...]:
        """Return what the kernels get: gain, cosines, sines, positions."""
        return tuple(where(x) for x in (self.gain, *(self.angles or (None, None)), self.positions))

    def shape(self, x: Tensor) -> tuple[int, int, int, float]:
        """Return tokens, heads, size and epsilon."""
        return len(x), x.shape[1] // self.size, self.size, self.epsilon


def where(x: Tensor | None) -> int | None:
    """Return the address of a tensor's numbers; None if there is no tensor."""
    return None if x is None else x.data_ptr()
