"""Matrix products in whole numbers of 8 bits, for rollouts that may be inexact and say so.

The compiled kernels do them (`kernels_int8.h`): weights have one scale an output, inputs one a
group of 64 in a row. Nothing
here is differentiable, and nothing outside rollouts uses it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_INPUTS = 2**16  # sums of 8-bit products have room in 32 bits for so many
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True)
class Int8Panels:
    """A matrix `(inputs, outputs)` in whole numbers, in the order in which `multiply` reads it."""

    memory: Tensor  # uint8: the float32 scales of the outputs, then (panels, inputs / 4, width, 4)
    inputs: int
    outputs: int


class Int8Kernels:
    """The compiled functions for products in whole numbers; `kernels_int8.h` says what each of them does.

    Attributes:
        fast: True if the processor has an instruction for them (VNNI); without one, float32 is faster.
    """

    def __init__(self, library: ctypes.CDLL, threads: Callable[[], int]) -> None:
        def function(name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
            found: Any = getattr(library, name)
            found.argtypes, found.restype = arguments, result
            return found  # type: ignore[no-any-return]

        self._threads = threads
        self._width = int(library.int8_width())
        self.fast = bool(library.fast_int8())
        self._bytes = function("int8_bytes", _NUMBER, _NUMBER, result=_NUMBER)
        self._scratch = function("int8_scratch", _NUMBER, _NUMBER, result=_NUMBER)
        self._pack = function("pack_int8", _POINTER, *[_NUMBER] * 2, *[_POINTER] * 2, *[_NUMBER] * 2)
        self._multiply = function(
            "multiply_int8", _POINTER, _NUMBER, *[_POINTER] * 3, _NUMBER, _POINTER, *[_NUMBER] * 4
        )

    def pack(self, *matrices: Tensor, memory: Tensor | None = None) -> Int8Panels:
        """Round a matrix `(inputs, outputs)` of any strides to whole numbers, and pack it.

        Args:
            matrices: Several that stand side by side are packed as one.
            memory: That of panels of the same shape, which are written over.
        """
        inputs, outputs = len(matrices[0]), sum(matrix.shape[1] for matrix in matrices)
        assert inputs <= MOST_INPUTS
        if any(matrix.shape[1] % self._width for matrix in matrices[:-1]):
            matrices = (torch.cat(matrices, 1),)  # a panel would have columns of two
        if memory is None:
            memory = torch.empty(self._bytes(inputs, outputs), dtype=torch.uint8)
        scales = memory.data_ptr()
        panels = scales + 4 * self._width * -(-outputs // self._width)
        for matrix in matrices:
            assert matrix.dtype == torch.float32
            self._pack(matrix.data_ptr(), *matrix.stride(), scales, panels, inputs, matrix.shape[1])
            scales += 4 * matrix.shape[1]
            panels += self._bytes(inputs, matrix.shape[1]) - 4 * matrix.shape[1]
        return Int8Panels(memory, inputs, outputs)

    def multiply(self, x: Tensor, panels: Int8Panels, bias: Tensor | None = None) -> Tensor:
        """Multiply two matrices after rounding the first to whole numbers of 8 bits.

        Args:
            x: `(n, inputs)` float32.
            panels: `(inputs, outputs)`.
            bias: `(outputs,)` to add.

        Returns:
            `(n, outputs)`; NaN where a row, or the weights of an output, are not finite.
        """
        assert x.shape[1] == panels.inputs
        x = x if x.stride(1) == 1 else x.contiguous()
        out = torch.empty(len(x), panels.outputs)
        size = self._scratch(len(x), panels.inputs)
        scratch = torch.empty(self._threads(), size, dtype=torch.int8)
        start = None if bias is None else bias.data_ptr()
        memory = panels.memory.data_ptr(), out.data_ptr(), start, 0, scratch.data_ptr(), size
        self._multiply(x.data_ptr(), x.stride(0), *memory, len(x), panels.inputs, panels.outputs)
        return out
