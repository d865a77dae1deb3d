"""Moves numbers between host and device: copies there that nobody waits for, and one back for many numbers.

An accelerator works through a queue, and the host may run ahead of it. Whatever the host has to know of a
result makes it wait until the queue is empty, and so does a copy from ordinary memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from text_gym.errors import ConfigError

LOG = logging.getLogger("text_gym")
HOST = torch.device("cpu")
SWITCH = "TEXT_GYM_TF32"  # this environment variable set to 0 leaves products of matrices in true float32


def upload(values: npt.NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Copy an array or tensor of the host to a device, without waiting for it; on the CPU nothing is copied.

    >>> upload(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one shape and dtype on the host; the host waits once for all of them, if at all."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tensors
    return torch.stack(tensors).to(HOST).unbind()


def read_numbers(numbers: Sequence[Tensor]) -> list[float]:
    """Read tensors of one number each; the host waits once for all of them.

    >>> read_numbers([torch.tensor(1.5), torch.tensor(2)])
    [1.5, 2.0]
    """
    return [float(x) for x in torch.stack([x.detach() for x in numbers]).tolist()] if numbers else []


def allow_tf32(device: torch.device) -> None:
    """Let CUDA multiply float32 matrices in TF32, some times as fast, with 10 bits of mantissa; log it once.

    A precision that somebody has lowered already is left alone, and so is all where `TEXT_GYM_TF32` is 0.
    """
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return
    if torch.get_float32_matmul_precision() == "highest":
        torch.set_float32_matmul_precision("high")
        LOG.info("on %s float32 matrices are multiplied in TF32; %s=0 keeps true float32", device, SWITCH)


DTYPES = ("auto", "float32", "bfloat16")


def pick_dtype(dtype: str, device: torch.device) -> str:
    """Return the dtype for a model's matrices on a device: that of this name, or for `"auto"` the usual one.

    `"auto"` is float32 on a CPU and bfloat16 on a GPU that has it.

    Raises:
        ConfigError: The name is another one, or the device has no bfloat16.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; choose {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    able = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    if dtype == "bfloat16" and not able:
        raise ConfigError(f"dtype bfloat16: {device} does not have it; choose float32 or auto")
    if dtype == "auto":
        return "bfloat16" if able and device.type == "cuda" else "float32"
    return dtype
