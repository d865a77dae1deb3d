"""The compiled kernels as functions of tensors.

They do on the CPU and in float32 what small models do, in place of many small operators, and matrix products
with weights that stay the same for many tokens. Where there are none (`library`), PyTorch's operators do it.
A row's result does not depend on the other rows, to the last bit, nor on how many threads there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from text_gym.models.runtime import cores

from . import library
from .int8 import Int8Kernels
from .kernel_types import NUMBER, POINTER, REAL, Panels, Places, Texts, TrunkWeights, where

_STRIP, _LANES, _QUERIES = 16, 16, 8  # as in kernels.c, at most


class Kernels:
    """The compiled functions, for float32 tensors; `kernels.c` says what each of them does."""

    def __init__(self, library: ctypes.CDLL) -> None:
        def function(name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
            found: Any = getattr(library, name)
            found.argtypes, found.restype = arguments, result
            return found  # type: ignore[no-any-return]

        self._panel_width = int(library.panel_width())
        self.can_share = bool(library.can_share()) and not _two_runtimes()
        self.share = function("share", NUMBER, NUMBER)  # of OpenMP's threads, and how many of them work
        self.threads = function("shared", result=NUMBER)  # the calling thread's work is divided among
        self.int8 = Int8Kernels(library, self.threads)
        texts, trunk = ctypes.POINTER(Texts), ctypes.POINTER(TrunkWeights)
        self._scratch = function("scratch_size", trunk, *[POINTER] * 2, NUMBER, result=NUMBER)
        self._step = function("step", trunk, *[POINTER] * 7, *[NUMBER] * 2, result=ctypes.c_int)
        self._pack = function("pack", POINTER, NUMBER, NUMBER, POINTER, NUMBER, NUMBER)
        self._multiply = function("multiply", POINTER, NUMBER, NUMBER, *[POINTER] * 3, *[NUMBER] * 4)
        self._draw = function("draw", *[POINTER] * 5, NUMBER, NUMBER)
        self._softmax = function("softmax", *[POINTER] * 3, NUMBER, NUMBER)
        self._gelu = function("gelu", POINTER, POINTER, NUMBER)
        self._gelu_backward = function("gelu_backward", *[POINTER] * 3, NUMBER)
        self._norm_block = int(library.norm_block())
        self._root_norm = function("root_norm", *[POINTER] * 3, *[NUMBER] * 2, REAL)
        self._root_norm_backward = function("root_norm_backward", *[POINTER] * 6, *[NUMBER] * 2, REAL)
        self._gated = function("gated", *[POINTER] * 2, *[NUMBER] * 3)
        self._gated_backward = function("gated_backward", *[POINTER] * 3, *[NUMBER] * 3)
        heads = POINTER, NUMBER, *[POINTER] * 5
        self._place = function("place", *heads, *[NUMBER] * 3, REAL)
        self._place_backward = function("place_backward", *heads, POINTER, *[NUMBER] * 3, REAL)
        self._attention = function("attention", texts, *[POINTER] * 6, NUMBER)
        self._attention_backward = function("attention_backward", texts, *[POINTER] * 9, NUMBER)

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
        plus: Tensor | None = None,
        out: Tensor | None = None,
        add: bool = False,
    ) -> Tensor:
        """Multiply two matrices.

        Args:
            x: `(n, inputs)`, its elements lying in any way.
            panels: `(inputs, outputs)`.
            bias: `(outputs,)` to add …
            plus: … or `(n, outputs)`, contiguous; not both.
            out: `(n, outputs)`, contiguous, for the result.
            add: To what is in `out`; not together with the other two.

        Returns:
            `(n, outputs)`, which is `out` if there is one.
        """
        out = torch.empty(len(x), panels.outputs) if out is None else out
        assert x.shape[1] == panels.inputs
        assert out.is_contiguous()
        outputs = panels.outputs
        start, stride = (None, 0) if bias is None else (bias.data_ptr(), 0)
        plus = out if add else plus
        if plus is not None:
            assert bias is None
            assert plus.is_contiguous()
            assert plus.shape == out.shape
            start, stride = plus.data_ptr(), outputs
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
        self, x: Tensor, gain: Tensor, epsilon: float, gradient: Tensor, beside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of `x` and of the gain from that of `root_norm`, all contiguous.

        `beside`, if it is given, is the gradient that `x` has in another way, and is added.
        """
        of_x = torch.empty_like(x)
        of_gain = torch.empty(-(-len(x) // self._norm_block), x.shape[1])
        pointers = (where(t) for t in (x, gain, gradient, beside, of_x, of_gain))
        self._root_norm_backward(*pointers, *x.shape, epsilon)
        return of_x, of_gain.sum(0)

    def gated(self, u: Tensor, activation: int) -> Tensor:
        """Compute f(gates) · values, `(n, inner)`, of both side by side, `(n, 2 · inner)`, contiguous.

        f is an activation of `kernels.c`.
        """
        out = u.new_empty(len(u), u.shape[1] // 2)
        self._gated(u.data_ptr(), out.data_ptr(), *out.shape, activation)
        return out

    def gated_backward(self, u: Tensor, activation: int, gradient: Tensor) -> Tensor:
        """Compute the gradients of gates and values from that of `gated`, all contiguous."""
        of_u = torch.empty_like(u)
        self._gated_backward(*(t.data_ptr() for t in (u, gradient, of_u)), *gradient.shape, activation)
        return of_u

    def place(self, x: Tensor, places: Places, *, keep: bool = False) -> Tensor | None:
        """Give the heads of queries or keys their norms and turn them by their positions' angles, in place.

        Args:
            x: `(n, heads · size)`; the numbers of a token lie side by side.
            places: Norm, angles and positions.
            keep: Copy the heads before, for `place_backward`; without a norm nothing is copied.
        """
        kept = torch.empty(x.shape) if keep and places.gain is not None else None
        self._place(x.data_ptr(), x.stride(0), *places.pointers(), where(kept), *places.shape(x))
        return kept

    def place_backward(self, gradient: Tensor, kept: Tensor | None, places: Places) -> Tensor | None:
        """Turn the gradient of what `place` made into that of its input, in place; return the gain's."""
        of_gain = None
        if places.gain is not None:
            of_gain = torch.empty(-(-len(gradient) // self._norm_block), places.size)
        pointers = gradient.data_ptr(), gradient.stride(0), where(kept), *places.pointers(), where(of_gain)
        self._place_backward(*pointers, *places.shape(gradient))
        return None if of_gain is None else of_gain.sum(0)

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
