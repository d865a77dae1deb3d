"""The compiled kernels as functions of tensors.

They do on the CPU and in float32 what small models do, in place of many small operators, and matrix products
with weights that stay the same for many tokens. Where there are none (`library`), PyTorch's operators do it.
A row's result does not depend on the other rows, to the last bit, nor on how many threads there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from text_gym.models.runtime import cores

from . import library
from .int8 import Int8Kernels

_STRIP, _LANES, _QUERIES = 16, 16, 8  # as in kernels.c, at most
_POINTER, _NUMBER, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class LayerWeights(ctypes.Structure):
    """`layer` of `kernels.c`; whoever fills it in keeps the tensors."""

    _fields_ = (
        *((name, _POINTER) for name in ("gain_1", "offset_1", "qkv_bias", "of_queries", "of_keys")),
        *((name, _POINTER) for name in ("cosines", "sines", "projection_bias", "gain_2", "offset_2")),
        *((name, _POINTER) for name in ("up_bias", "down_bias", "qkv", "projection", "up", "down")),
        *((name, _POINTER) for name in ("keys", "values")),
        *((name, _REAL) for name in ("scale", "epsilon_1", "epsilon_2")),
    )


class TrunkWeights(ctypes.Structure):
    """`trunk` of `kernels.c`; whoever fills it in keeps the tensors."""

    _fields_ = (
        ("layers", ctypes.POINTER(LayerWeights)),
        *((name, _POINTER) for name in ("embedding", "positions", "gain", "offset")),
        *((name, _NUMBER) for name in ("count", "width", "heads", "groups", "size", "inner")),
        *((name, _NUMBER) for name in ("activation", "room", "vocabulary", "context", "int8")),
        *((name, _REAL) for name in ("epsilon", "embedding_scale")),
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
        *((name, _POINTER) for name in ("begins", "counts", "firsts", "places", "trees")),
        *((name, _NUMBER) for name in ("count", "tokens", "heads", "groups", "size", "of_query", "of_key")),
        ("scale", _REAL),
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


class Kernels:
    """The compiled functions, for float32 tensors; `kernels.c` says what each of them does."""

    def __init__(self, library: ctypes.CDLL) -> None:
        def function(name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
            found: Any = getattr(library, name)
            found.argtypes, found.restype = arguments, result
            return found  # type: ignore[no-any-return]

        self._panel_width = int(library.panel_width())
        self.can_share = bool(library.can_share()) and not _two_runtimes()
        self.share = function("share", _NUMBER, _NUMBER)  # of OpenMP's threads, and how many of them work
        self.threads = function("shared", result=_NUMBER)  # the calling thread's work is divided among
        self.int8 = Int8Kernels(library, self.threads)
        texts, trunk = ctypes.POINTER(Texts), ctypes.POINTER(TrunkWeights)
        self._scratch = function("scratch_size", trunk, *[_POINTER] * 2, _NUMBER, result=_NUMBER)
        self._step = function("step", trunk, *[_POINTER] * 7, *[_NUMBER] * 2, result=ctypes.c_int)
        self._pack = function("pack", _POINTER, _NUMBER, _NUMBER, _POINTER, _NUMBER, _NUMBER)
        self._multiply = function("multiply", _POINTER, _NUMBER, _NUMBER, *[_POINTER] * 3, *[_NUMBER] * 4)
        self._draw = function("draw", *[_POINTER] * 5, _NUMBER, _NUMBER)
        self._softmax = function("softmax", *[_POINTER] * 3, _NUMBER, _NUMBER)
        self._gelu = function("gelu", _POINTER, _POINTER, _NUMBER)
        self._gelu_backward = function("gelu_backward", *[_POINTER] * 3, _NUMBER)
        self._norm_block = int(library.norm_block())
        self._root_norm = function("root_norm", *[_POINTER] * 3, *[_NUMBER] * 2, _REAL)
        self._root_norm_backward = function("root_norm_backward", *[_POINTER] * 5, *[_NUMBER] * 2, _REAL)
        self._gated = function("gated", *[_POINTER] * 3, *[_NUMBER] * 2)
        self._gated_backward = function("gated_backward", *[_POINTER] * 5, *[_NUMBER] * 2)
        self._rope = function("rope", *[_POINTER] * 5, *[_NUMBER] * 3, _REAL)
        self._attention = function("attention", texts, *[_POINTER] * 6, _NUMBER)
        self._attention_backward = function("attention_backward", texts, *[_POINTER] * 9, _NUMBER)

    def pack(self, *matrices: Tensor, memory: Tensor | None = None) -> Panels:
        """Pack a matrix `(inputs, outputs)` of any strides for `multiply` and `step`.

        Args:
            matrices: Several that stand side by side are packed as one.
            memory: That of panels of the same shape, which are written over.
        """
        inputs, outputs = len(matrices[0]), sum(matrix.shape[1] for matrix in matrices)
        if any(matrix.shape[1] % self._panel_width for matrix in matrices[:-1]):
            matrices = (torch.cat(matrices, 1),)  # a panel would have columns of two
        if memory is None:
            panels = -(-outputs // self._panel_width)  # the last one is padded
            memory = torch.empty(panels * self._panel_width * inputs)
        to = memory.data_ptr()
        for matrix in matrices:
            assert matrix.dtype == torch.float32
            self._pack(matrix.data_ptr(), *matrix.stride(), to, inputs, matrix.shape[1])
            to += matrix.shape[1] * inputs * memory.element_size()
        return Panels(memory, inputs, outputs)

    def multiply(
        self,
        x: Tensor,
        panels: Panels,
        bias: Tensor | None = None,
        *,
        out: Tensor | None = None,
        add: bool = False,
    ) -> Tensor:
        """Multiply two matrices.

        Args:
            x: `(n, inputs)`, its elements lying in any way.
            panels: `(inputs, outputs)`.
            bias: `(outputs,)` to add.
            out: `(n, outputs)`, contiguous, for the result.
            add: To what is in `out`; not together with a bias.

        Returns:
            `(n, outputs)`, which is `out` if there is one.
        """
        out = torch.empty(len(x), panels.outputs) if out is None else out
        assert x.shape[1] == panels.inputs
        assert out.is_contiguous()
        outputs = panels.outputs
        start, stride = (None, 0) if bias is None else (bias.data_ptr(), 0)
        if add:
            start, stride = out.data_ptr(), outputs
        memory = panels.memory.data_ptr(), out.data_ptr(), start
        self._multiply(x.data_ptr(), *x.stride(), *memory, stride, len(x), panels.inputs, outputs)
        return out

    def step(
        self,
        trunk: TrunkWeights,
        tokens: Tensor,
        rows: Tensor,
        firsts: Tensor,
        ends: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Read on in texts through a trunk.

        Args:
            trunk: With matrices in `Panels`, and keys and values `(…, groups, room, size)` to write to.
            tokens: int64; of any shape, contiguous.
            rows: `(n,)` int64, where the keys and values of each text go, …
            firsts: … `(n,)` int64, from which column on, …
            ends: … `(n,)` int64, and before which one; each text has one new token, `tokens[i]`, if it is
                left out.
            at: `(n,)` int64, where the new tokens of each text begin in `tokens`, flat; given with `ends`.

        Returns:
            `(n, D)` states of each text's last token, zeros where none is new.

        Raises:
            IndexError: A token or a position is none of those that have an embedding, or a column.
        """
        texts = len(rows)
        out = torch.empty(texts, trunk.width)
        borders = firsts.data_ptr(), None if ends is None else ends.data_ptr()
        size = self._scratch(trunk, *borders, texts)
        scratch = torch.empty(self.threads(), size)
        given = tokens.data_ptr(), None if at is None else at.data_ptr(), rows.data_ptr()
        if self._step(trunk, *given, *borders, out.data_ptr(), scratch.data_ptr(), size, texts):
            limits = trunk.vocabulary, trunk.context
            raise IndexError("a token is not below {}, or its position not below {}".format(*limits))
        return out

    def draw(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from softmax(logits) with given noise.

        Args:
            logits: `(n, V)`, contiguous.
            u: `(n,)` float64 in [0, 1), contiguous.

        Returns:
            `(n,)` int64 tokens, and their `(n, 1)` probabilities.
        """
        rows, width = logits.shape
        tokens, probs = torch.empty(rows, dtype=torch.int64), logits.new_empty(rows, 1)
        scratch = torch.empty(self.threads(), width + width // 64 + 1)
        pointers = (x.data_ptr() for x in (logits, u, tokens, probs, scratch))
        self._draw(*pointers, rows, width)
        return tokens, probs

    def softmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the softmax of rows `(n, V)`, contiguous, and the `(n,)` logarithms of e^logits' sums."""
        out, log_sums = torch.empty_like(logits), logits.new_empty(len(logits))
        self._softmax(logits.data_ptr(), out.data_ptr(), log_sums.data_ptr(), *logits.shape)
        return out, log_sums

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the tanh form of GELU for a contiguous tensor."""
        out = torch.empty_like(x)
        self._gelu(x.data_ptr(), out.data_ptr(), x.numel())
        return out

    def gelu_backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Compute the gradient of `x` from that of `gelu(x)`, both contiguous."""
        out = torch.empty_like(x)
        self._gelu_backward(x.data_ptr(), gradient.data_ptr(), out.data_ptr(), x.numel())
        return out

    def root_norm(self, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        """Divide rows `(n, D)`, contiguous, by the root of their mean square; multiply with a gain `(D,)`."""
        out = torch.empty_like(x)
        self._root_norm(x.data_ptr(), gain.data_ptr(), out.data_ptr(), *x.shape, epsilon)
        return out

    def root_norm_backward(
        self, x: Tensor, gain: Tensor, epsilon: float, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of `x` and of the gain from that of `root_norm`, all contiguous."""
        of_x = torch.empty_like(x)
        of_gain = torch.empty(-(-len(x) // self._norm_block), x.shape[1])
        pointers = (t.data_ptr() for t in (x, gain, gradient, of_x, of_gain))
        self._root_norm_backward(*pointers, *x.shape, epsilon)
        return of_x, of_gain.sum(0)

    def gated(self, gates: Tensor, values: Tensor, activation: int) -> Tensor:
        """Compute f(gates) · values of contiguous tensors, f being an activation of `kernels.c`."""
        out = torch.empty_like(gates)
        pointers = (t.data_ptr() for t in (gates, values, out))
        self._gated(*pointers, gates.numel(), activation)
        return out

    def gated_backward(
        self, gates: Tensor, values: Tensor, activation: int, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of gates and values from that of `gated`, all contiguous."""
        of_gates, of_values = torch.empty_like(gates), torch.empty_like(values)
        pointers = (t.data_ptr() for t in (gates, values, gradient, of_gates, of_values))
        self._gated_backward(*pointers, gates.numel(), activation)
        return of_gates, of_values

    def rope(
        self, x: Tensor, angles: tuple[Tensor, Tensor], positions: Tensor, size: int, direction: float
    ) -> Tensor:
        """Turn the heads of tokens `(n, heads · size)`, contiguous, by the angles of their positions.

        Args:
            x: Queries or keys.
            angles: Cosines and sines, `(context, size / 2)` each.
            positions: `(n,)` int64, contiguous.
            size: Of a head.
            direction: 1; -1 turns back, as the gradient does.
        """
        out = torch.empty_like(x)
        pointers = (t.data_ptr() for t in (x, *angles, positions, out))
        self._rope(*pointers, len(x), x.shape[1] // size, size, direction)
        return out

    def attention(self, texts: Texts, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Compute causal attention in a batch of texts.

        Args:
            texts: `B` of them.
            q: `(N, D)`, of all queries; the numbers of a token lie side by side.
            k: `(B · S, groups · size)`, likewise.
            v: `(B · S, groups · size)`, as far from token to token as `k`.

        Returns:
            `(N, D)`, 0 where no text has a query, and `(N, heads)` for `attention_backward`.
        """
        new = q.new_zeros if texts.ragged else q.new_empty
        out, log_sums = new(q.shape), new(len(q), texts.heads)
        self._call(self._attention, texts, (q, k, v, out, log_sums), buffers=3)
        return out, log_sums

    def attention_backward(
        self,
        texts: Texts,
        qkv: Sequence[Tensor],
        log_sums: Tensor,
        gradient: Tensor,
        of_qkv: Sequence[Tensor],
    ) -> None:
        """Compute the gradients of queries, keys and values, written where they are wanted.

        Args:
            texts: As in `attention`.
            qkv: Likewise.
            log_sums: What it returned.
            gradient: `(N, D)`, contiguous, of its output.
            of_qkv: They are written here; they lie as `qkv` do.
        """
        self._call(self._attention_backward, texts, (*qkv, log_sums, gradient, *of_qkv), buffers=6)

    def _call(
        self, function: Callable[..., None], texts: Texts, tensors: Sequence[Tensor], buffers: int
    ) -> None:
        texts.of_query, texts.of_key = tensors[0].stride(0), tensors[1].stride(0)
        tokens, size = -(-texts.tokens // _STRIP) * _STRIP, -(-texts.size // _LANES) * _LANES  # padded
        floats = buffers * tokens * size + _QUERIES * (2 * tokens + 3 * size)
        scratch = torch.empty(self.threads(), floats)
        function(ctypes.byref(texts), *(x.data_ptr() for x in tensors), scratch.data_ptr(), floats)


def kernels_for(tensor: Tensor) -> Kernels | None:
    """Return the kernels if they exist and fit tensors like this one: on the CPU, in float32."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        return None
    found = _kernels()
    if found is not None:  # they divide the calling thread's work among PyTorch's threads, one a core at most
        team = torch.get_num_threads() if found.can_share else 1
        found.share(team, min(team, cores()))
    return found


def _two_runtimes() -> bool:
    """True if the kernels brought a second OpenMP library, whose threads would fight PyTorch's for cores."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return len({line.split()[-1] for line in mapped if "/libgomp" in line}) > 1


@cache
def _kernels() -> Kernels | None:
    found = library.load()
    return None if found is None else Kernels(found)
