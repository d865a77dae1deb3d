"""A KV cache that compiled kernels read and write, for every architecture whose parts they know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from text_gym.episode import IntArray
from text_gym.models.kv_cache import RolloutWeights, moves

from .int8 import Int8Panels
from .kernel_types import LayerWeights, Panels, TrunkWeights
from .kernels import Kernels

Norm = tuple[Tensor, Tensor | None, float]  # weight, bias and epsilon; an RMSNorm has no bias
AnyPanels = Panels | Int8Panels
Linear = tuple[Sequence[Tensor], Tensor | None]  # (inputs, outputs) each, side by side, and bias
ACTIVATIONS = "gelu", "gated silu", "gated gelu"  # as in kernels.c


@dataclass(frozen=True)
class LayerParts:
    """One layer in the order in which it computes.

    Args:
        norm_1: Before attention.
        qkv: `(D, (heads + 2 · groups) · size)`, queries before keys before values.
        projection: `(heads · size, D)`.
        norm_2: Before the multilayer perceptron.
        up: `(D, inner)`; with gates `(D, 2 · inner)`, the gates first.
        down: `(inner, D)`.
        scale: Of queries times keys.
        of_queries: `(size,)`, gain of the norm of each query, if there is one.
        of_keys: Likewise.
        angles: RoPE's cosines and sines, `(context, size / 2)` each, if queries and keys are turned.
    """

    norm_1: Norm
    qkv: Linear
    projection: Linear
    norm_2: Norm
    up: Linear
    down: Linear
    scale: float
    of_queries: Tensor | None = None
    of_keys: Tensor | None = None
    angles: tuple[Tensor, Tensor] | None = None

    def pack(
        self, kernels: Kernels, old: Sequence[AnyPanels], weights: RolloutWeights
    ) -> Sequence[AnyPanels]:
        """Pack the matrices, into the memory of their old panels if there are such."""
        linears = self.qkv, self.projection, self.up, self.down
        memory: list[Tensor | None] = [panels.memory for panels in old]
        memory = memory or [None] * len(linears)
        pack: Callable[..., AnyPanels] = kernels.int8.pack if weights == "int8" else kernels.pack
        return [pack(*found, memory=to) for (found, _), to in zip(linears, memory, strict=True)]

    def weights(self, panels: Sequence[AnyPanels], keys: Tensor, values: Tensor) -> LayerWeights:
        """Return the layer in the kernels' form; who calls it keeps this, the panels, keys and values."""
        tensors = [
            *(*self.norm_1[:2], self.qkv[1], self.of_queries, self.of_keys),
            *(*(self.angles or (None, None)), self.projection[1], *self.norm_2[:2]),
            *(self.up[1], self.down[1], *(x.memory for x in panels)),
            *(keys, values),
        ]
        pointers = (None if x is None else x.data_ptr() for x in tensors)
        return LayerWeights(*pointers, self.scale, self.norm_1[2], self.norm_2[2])


@dataclass(frozen=True)
class TrunkParts:
    """A trunk's parts, as the kernels read them.

    Args:
        layers: From the first to the last.
        embedding: `(V, D)`.
        norm: After the last layer.
        heads: Of queries.
        groups: Heads of keys and values, each of which several heads of queries may share.
        size: Of a head.
        inner: Width of the multilayer perceptron.
        activation: Its kind.
        context: Positions there are.
        positions: `(context, D)`, added to the embeddings, if there are such.
        embedding_scale: Embeddings are multiplied by it.
    """

    layers: Sequence[LayerParts]
    embedding: Tensor
    norm: Norm
    heads: int
    groups: int
    size: int
    inner: int
    activation: Literal["gelu", "gated silu", "gated gelu"]
    context: int
    positions: Tensor | None = None
    embedding_scale: float = 1.0


class KernelCache:
    """The keys and values of `B` rows, read in place by the kernels; a `KVCache`.

    Nothing after a token's own column is looked at, so rows need no mask; padding is not read. The weights'
    matrices are copied, until they change (`renew`).

    Args:
        kernels: That read.
        take_apart: Returns the parts of a trunk in float32, on the CPU, with its weights as they are then.
        rows: `B`.
        width: `W`, most tokens of a row.
        weights: In what numbers matrices are multiplied; all else is in float32.
    """

    def __init__(
        self,
        kernels: Kernels,
        take_apart: Callable[[], TrunkParts],
        rows: int,
        width: int,
        weights: RolloutWeights = "float32",
    ) -> None:
        self._kernels, self._take_apart, self._numbers = kernels, take_apart, weights
        parts = take_apart()
        shape = rows, parts.groups, width, parts.size
        self._memory = [(torch.empty(shape), torch.empty(shape)) for _ in parts.layers]  # keys and values
        self._rows = torch.arange(rows)  # where in the memory each row of the batch is
        self._panels: list[Sequence[AnyPanels]] = [[] for _ in parts.layers]
        self._weights: TrunkWeights | None = None
        self._kept: object = None

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Implement `KVCache`."""
        memory = self._rows if rows is None else self._rows[torch.from_numpy(rows)]
        begins = torch.arange(len(tokens)) * tokens.shape[1]
        ends = torch.from_numpy(lengths)
        return self._kernels.step(
            self._packed(), tokens.contiguous(), memory, torch.zeros_like(ends), ends, begins
        )

    def spread(self, sources: IntArray, width: int) -> None:
        """Implement `KVCache`."""
        target, source = (self._rows[torch.from_numpy(x)] for x in moves(sources))
        for memory in (each for pair in self._memory for each in pair):
            memory[target, :, :width] = memory[source, :, :width]

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Implement `KVCache`."""
        return self._kernels.step(self._packed(), tokens.contiguous(), self._rows, torch.from_numpy(at))

    def extend(self, tokens: IntArray, rows: IntArray, firsts: IntArray, ends: IntArray) -> Tensor:
        """Implement `ExtendingCache`."""
        begins = rows * tokens.shape[1] + firsts
        about = (torch.from_numpy(x) for x in (firsts, ends, begins))
        return self._kernels.step(self._packed(), torch.from_numpy(tokens), self._rows, *about)

    def _packed(self) -> TrunkWeights:
        """Return the weights in the kernels' form, made once for many tokens."""
        if self._weights is None:
            self._weights = self._pack()
        return self._weights

    @torch.no_grad()
    def _pack(self) -> TrunkWeights:
        """Take the trunk apart, with its weights as they are now."""
        parts = self._take_apart()
        pairs = zip(parts.layers, self._panels, strict=True)
        self._panels = [layer.pack(self._kernels, old, self._numbers) for layer, old in pairs]
        each = zip(parts.layers, self._panels, self._memory, strict=True)
        found = [layer.weights(panels, *memory) for layer, panels, memory in each]
        layers = (LayerWeights * len(found))(*found)
        outer = [parts.embedding, parts.positions, *parts.norm[:2]]
        self._kept = parts, layers
        return TrunkWeights(
            layers,
            *(None if x is None else x.data_ptr() for x in outer),
            len(layers),
            parts.embedding.shape[1],
            parts.heads,
            parts.groups,
            parts.size,
            parts.inner,
            ACTIVATIONS.index(parts.activation),
            room := self._memory[0][0].shape[2],
            len(parts.embedding),
            min(room, parts.context),
            self._numbers == "int8",
            parts.norm[2],
            parts.embedding_scale,
        )

    def keep(self, rows: IntArray) -> None:
        """Implement `KVCache`."""
        self._rows = self._rows[torch.from_numpy(rows)]

    def renew(self) -> None:
        """Implement `KVCache`."""
        self._weights = None
