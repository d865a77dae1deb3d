"""Kernels in C, compiled when first asked for; where there is no compiler, there are none and all goes on.

They do what small models do between their matrix products, on the CPU and in float32, in place of many small
operators; PyTorch's do the same. Setting TEXT_GYM_KERNELS=0 leaves them out. What a model is, is not known
here: `gpt2.py` is.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
_SECONDS = 60  # for the compiler, which needs about one
MOST_THREADS = 2  # they use one; with more, PyTorch's operators are as fast
_LANES, _QUERIES = 8, 8  # as in kernels.c
_POINTER, _NUMBER, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Layer(ctypes.Structure):
    """`layer` of `kernels.c`; whoever fills it in keeps the tensors."""

    _fields_ = (
        *(
            (name, _POINTER)
            for name in ("gain_1", "offset_1", "qkv", "qkv_bias", "projection", "projection_bias")
        ),
        *((name, _POINTER) for name in ("gain_2", "offset_2", "up", "up_bias", "down", "down_bias")),
        *((name, _POINTER) for name in ("keys", "values")),
        *((name, _REAL) for name in ("scale", "epsilon_1", "epsilon_2")),
    )


class Texts(ctypes.Structure):
    """`texts` of `kernels.c`: which queries of a batch of texts meet which keys.

    Args:
        begins: `(B,)` int64, where the queries of each text begin.
        counts: `(B,)` int64, how many they are.
        firsts: `(B,)` int64, the last key that a text's first query looks at; each further one sees one more.
        tokens: `S`, keys of each text, padding included.
        heads: Of attention.
        size: Of a head.
        scale: Of queries times keys.
    """

    _fields_ = (
        *((name, _POINTER) for name in ("begins", "counts", "firsts")),
        *((name, _NUMBER) for name in ("rows", "tokens", "heads", "size", "of_query", "of_key")),
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
    ) -> None:
        self._kept = begins, counts, firsts
        self.ragged = bool((firsts + counts < tokens).any())
        pointers = (x.data_ptr() for x in self._kept)
        super().__init__(*pointers, len(begins), tokens, heads, size, 0, 0, scale)


class Kernels:
    """The compiled functions, for float32 tensors; `kernels.c` says what each of them does."""

    def __init__(self, library: ctypes.CDLL, product: int) -> None:
        def function(name: str, *arguments: Any) -> Callable[..., None]:
            found: Any = getattr(library, name)
            found.argtypes, found.restype = arguments, None
            return found  # type: ignore[no-any-return]

        self._product = product
        texts = ctypes.POINTER(Texts)
        self._step = function(
            "step",
            *(_POINTER, ctypes.POINTER(Layer), _NUMBER),
            *[_POINTER] * 4,
            _REAL,
            *[_POINTER] * 4,
            *[_NUMBER] * 5,
        )
        self._draw = function("draw", *[_POINTER] * 6, _NUMBER, _NUMBER)
        self._gelu = function("gelu", _POINTER, _POINTER, _NUMBER)
        self._gelu_backward = function("gelu_backward", *[_POINTER] * 3, _NUMBER)
        self._softmax = function("softmax", _POINTER, _POINTER, _NUMBER, _NUMBER)
        self._softmax_again = function("softmax_again", _POINTER, _POINTER, _NUMBER, _NUMBER)
        self._attention = function("attention", texts, *[_POINTER] * 6)
        self._attention_backward = function("attention_backward", texts, *[_POINTER] * 9)

    def step(
        self,
        layers: ctypes.Array[Layer],
        embeddings: tuple[Tensor, Tensor],
        norm: tuple[Tensor, Tensor, float],
        tokens: Tensor,
        at: Tensor,
        *,
        heads: int,
        inner: int,
        room: int,
    ) -> Tensor:
        """Read one token a row through GPT-2's trunk.

        Args:
            layers: With keys and values `(n, heads, room, size)`, which are written to.
            embeddings: `(V, D)` of tokens, and of positions.
            norm: The last one's weight, bias and epsilon.
            tokens: `(n,)` int64.
            at: `(n,)` int64, the column of each row's token.
            heads: Of attention.
            inner: Width of the multilayer perceptron.
            room: Columns of keys and values.

        Returns:
            `(n, D)` states.
        """
        (rows,), width = tokens.shape, embeddings[0].shape[1]
        out = torch.empty(rows, width)
        scratch = torch.empty(rows * (5 * width + inner) + room)
        pointers = (x.data_ptr() for x in (*embeddings, *norm[:2]))
        places = (x.data_ptr() for x in (tokens, at, out, scratch))
        sizes = (rows, heads, width // heads, inner, room)
        self._step(self._product, layers, len(layers), *pointers, norm[2], *places, *sizes)
        return out

    def draw(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from softmax(logits).

        Args:
            logits: `(n, V)`, contiguous.
            u: `(n,)` float64 in [0, 1), contiguous.

        Returns:
            `(n,)` int64 tokens, and their `(n, 1)` probabilities.
        """
        rows, width = logits.shape
        tokens, probs = torch.empty(rows, dtype=torch.int64), logits.new_empty(rows, 1)
        weights, sums = logits.new_empty(width), logits.new_empty(-(-width // 64))
        pointers = (x.data_ptr() for x in (logits, u, tokens, probs, weights, sums))
        self._draw(*pointers, rows, width)
        return tokens, probs

    def gelu(self, x: Tensor) -> Tensor:
        """GELU, in its tanh form, of a contiguous tensor."""
        out = torch.empty_like(x)
        self._gelu(x.data_ptr(), out.data_ptr(), x.numel())
        return out

    def gelu_backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of `x` from that of `gelu(x)`, both contiguous."""
        out = torch.empty_like(x)
        self._gelu_backward(x.data_ptr(), gradient.data_ptr(), out.data_ptr(), x.numel())
        return out

    def softmax(self, x: Tensor) -> Tensor:
        """Overwrite `(n, m)`, contiguous, with its softmax; `(n,)` logarithms of the sums of eˣ."""
        log_sums = x.new_empty(len(x))
        self._softmax(x.data_ptr(), log_sums.data_ptr(), *x.shape)
        return log_sums

    def softmax_again(self, x: Tensor, log_sums: Tensor) -> Tensor:
        """Overwrite `(n, m)`, contiguous, with eˣ over what it sums to, whose logarithms `(n,)` are known."""
        self._softmax_again(x.data_ptr(), log_sums.data_ptr(), *x.shape)
        return x

    def attention(self, texts: Texts, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Causal attention in a batch of texts.

        Args:
            texts: `B` of them.
            q: `(N, D)`, of all queries; the numbers of a token lie side by side.
            k: `(B · S, D)`, likewise.
            v: `(B · S, D)`, as far from token to token as `k`.

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
        """The gradients of queries, keys and values, written where there are any.

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
        tokens, size = (-(-n // _LANES) * _LANES for n in (texts.tokens, texts.size))
        scratch = torch.empty(buffers * tokens * size + _QUERIES * (2 * tokens + 3 * size))
        function(ctypes.byref(texts), *(x.data_ptr() for x in tensors), scratch.data_ptr())


def kernels_for(tensor: Tensor) -> Kernels | None:
    """The kernels, if they can be had and are for tensors like this one."""
    fits = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return _compiled() if fits and torch.get_num_threads() <= MOST_THREADS else None


@cache
def _compiled() -> Kernels | None:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or os.environ.get("TEXT_GYM_KERNELS") == "0" or sys.byteorder != "little":
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = str(Path(folder) / "kernels.so")
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", library, "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            return Kernels(ctypes.CDLL(library), _matrix_product())
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None


def _matrix_product() -> int:
    """Address of the sgemm that PyTorch itself calls, or of that of a library it comes with.

    Raises:
        OSError: PyTorch is in one piece, or elsewhere.
        AttributeError: It has another way of making matrix products.
    """
    suffix = "dylib" if sys.platform == "darwin" else "so"
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
    address = ctypes.cast(library.sgemm_, ctypes.c_void_p).value
    assert address is not None
    return address
