"""Kernels in C, compiled when first asked for; where there is no compiler, there are none and all goes on.

They save the calls of small operators between the matrix products of a decoding step, on the CPU and in
float32. Nothing here is needed: PyTorch's operators do the same. Setting TEXT_GYM_KERNELS=0 leaves them out.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .key_values import Layer

_SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = (
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
)
_GELU = 2 * math.sqrt(2 / math.pi)
_SECONDS = 60  # for the compiler, which needs about one


class Kernels:
    """The compiled functions, for contiguous float32 tensors; `kernels.c` says what each of them does."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

        def function(name: str, *arguments: Any) -> Callable[..., None]:
            found: Any = getattr(library, name)
            found.argtypes, found.restype = arguments, None
            return found  # type: ignore[no-any-return]

        self._norm = function("add_and_norm", *[pointer] * 5, number, number, real)
        self._gelu = function("add_and_gelu", pointer, pointer, number, number)
        self._attend = function("attend", *[pointer] * 6, *[number] * 4, real)
        self._draw = function("draw", *[pointer] * 6, number, number)

    def norm(self, x: Tensor, bias: Tensor | None, gain: Tensor, offset: Tensor, epsilon: float) -> Tensor:
        """Add the bias to `x` `(n, D)` in place, and return its layer norm."""
        out = torch.empty_like(x)
        added = None if bias is None else bias.data_ptr()
        self._norm(x.data_ptr(), added, gain.data_ptr(), offset.data_ptr(), out.data_ptr(), *x.shape, epsilon)
        return out

    def gelu(self, x: Tensor, bias: Tensor) -> Tensor:
        """GELU (its tanh form) of `x` `(n, D)` plus the bias, in place."""
        self._gelu(x.data_ptr(), bias.data_ptr(), *x.shape)
        return x

    def attend(
        self, qkv: Tensor, layer: Layer, heads: int, at: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """As `Operators.attend`; it looks at no column after `at`, and so needs no mask."""
        keys, values = layer.room()
        rows, _, room, size = keys.shape
        out, weights = qkv.new_empty(rows, heads * size), qkv.new_empty(room)
        pointers = (x.data_ptr() for x in (qkv, keys, values, at, out, weights))
        self._attend(*pointers, rows, heads, size, room, scale)
        return out

    def draw(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from softmax(logits).

        Args:
            logits: `(n, V)`.
            u: `(n,)` float64 in [0, 1).

        Returns:
            `(n,)` int64 tokens, and their `(n, 1)` probabilities.
        """
        rows, width = logits.shape
        tokens, probs = torch.empty(rows, dtype=torch.int64), logits.new_empty(rows, 1)
        weights, sums = logits.new_empty(width), logits.new_empty(-(-width // 64))
        pointers = (x.data_ptr() for x in (logits, u, tokens, probs, weights, sums))
        self._draw(*pointers, rows, width)
        return tokens, probs


class Operators:
    """What GPT-2 does between its matrix products, by PyTorch's operators; `Kernels` do the same."""

    def __init__(self, like: Tensor) -> None:
        self._gelu = torch.full_like(like, _GELU)

    def norm(self, x: Tensor, bias: Tensor | None, gain: Tensor, offset: Tensor, epsilon: float) -> Tensor:
        """Add the bias to `x` `(n, D)` in place, and return its layer norm."""
        if bias is not None:
            x.add_(bias)
        return torch.layer_norm(x, gain.shape, gain, offset, epsilon)

    def gelu(self, x: Tensor, bias: Tensor) -> Tensor:
        """GELU (its tanh form) of `x` `(n, D)` plus the bias, in place."""
        # x · sigmoid(2u) is GELU's 0.5 · x · (1 + tanh u), in half the time of PyTorch's own on CPUs.
        x.add_(bias)
        gate = torch.addcmul(self._gelu, x, x, value=0.044715 * _GELU).mul_(x).sigmoid_()
        return x.mul_(gate)

    def attend(
        self, qkv: Tensor, layer: Layer, heads: int, at: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Write the keys and values of a token a row, and attend from it: `(n, D)`.

        Args:
            qkv: `(n, 3 · D)`.
            layer: Where they go.
            heads: How many.
            at: `(n, 1)` int64, the column of each row's token.
            mask: As in `Reader`.
            scale: Of queries times keys.
        """
        n, width = len(qkv), qkv.shape[1] // 3
        q, k, v = qkv.view(n, 3, heads, -1).unbind(1)
        k, v = layer.append(k, v)
        q = q.reshape(len(k), 1, -1)  # batched products: on CPUs twice as fast as PyTorch's own attention
        weights = torch.baddbmm(self._gelu, q, k, beta=0, alpha=scale)  # (n · heads, 1, W)
        if mask is not None:
            weights.view(n, heads, 1, -1).add_(mask)
        return torch.bmm(torch.softmax(weights, -1), v).view(n, width)


def kernels_for(tensor: Tensor) -> Kernels | None:
    """The kernels, if they can be had and are for tensors like this one; they use one thread only."""
    fits = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and torch.get_num_threads() == 1
    return _compiled() if fits else None


@cache
def _compiled() -> Kernels | None:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or os.environ.get("TEXT_GYM_KERNELS") == "0":
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = str(Path(folder) / "kernels.so")
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", library, "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            return Kernels(ctypes.CDLL(library))
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None
