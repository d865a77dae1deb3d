"""Moves numbers between host and device: copies there that nobody waits for, and one back for many numbers.

An accelerator works through a queue, and the host may run ahead of it. Whatever the host has to know of a
result makes it wait until the queue is empty, and so does a copy from ordinary memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

HOST = torch.device("cpu")


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
