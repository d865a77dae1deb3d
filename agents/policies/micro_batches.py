"""Micro-batches: splits the rows of a minibatch into parts that go through the model one at a time.

Rows of similar length go together, so that little of the work is padding. No loss is defined here; how those
of the parts add up to the minibatch's says `text_gym.agents.algorithms.policy_gradient.Part`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from text_gym.episode import IntArray
from text_gym.errors import ConfigError

T = TypeVar("T")
# The cost of one more pass through the model, in tokens.
OVERHEAD = {"cpu": 96, "cuda": 8192}
# The memory a pass may keep for its backward pass; one that needs more is split.
BYTES = {"cpu": 2**28, "cuda": 2**32}


def micro_batches(
    lengths: IntArray, most: int | None = None, *, overhead: int = 0, tokens: int | None = None
) -> list[IntArray]:
    """Split rows into the parts that make the least work.

    A part is as wide as its longest row; its work is rows times width, and `overhead`.

    Args:
        lengths: `(n,)` int64, tokens of each row.
        most: Rows of a part; None means any number.
        overhead: What one more part costs, in tokens.
        tokens: Most of a part, padding included, unless it is of a single row.

    Returns:
        Row indices of each part, shortest rows first.

    >>> [part.tolist() for part in micro_batches(np.array([9, 3, 8, 3]), overhead=4)]
    [[1, 3], [2, 0]]
    """
    order = np.argsort(lengths, kind="stable")
    work, begins = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):  # the best split of the `end` shortest rows
        longest = int(lengths[order[end - 1]])
        rows = min(end, end if most is None else most, end if tokens is None else max(1, tokens // longest))
        first = np.arange(end - rows, end)
        options = work[first] + (end - first) * longest + overhead
        begins[end] = first[options.argmin()]
        work[end] = options.min()
    parts = []
    end = len(order)
    while end:
        parts.append(order[begins[end] : end])
        end = int(begins[end])
    return parts[::-1]


class Splitter:
    """Splits batches for a model, more finely once an accelerator has run out of memory.

    Args:
        device: Where the model is.
        most: Rows at a time; None means as many as are quick and need little memory …
        token_bytes: … each token needing this much.

    Attributes:
        most: It is halved when memory runs out.
    """

    def __init__(self, device: torch.device, most: int | None = None, token_bytes: int = 1) -> None:
        kind = "cpu" if device.type == "cpu" else "cuda"
        self.most = most
        self._device, self._tokens, self._overhead = device, BYTES[kind] // token_bytes, OVERHEAD[kind]

    def run(self, lengths: Tensor, work: Callable[[list[Tensor]], T]) -> T:
        """Do work on the parts of a batch, and again on smaller parts if memory runs out.

        Args:
            lengths: `(b,)` int64, tokens of its rows, prompts included.
            work: Gets the row indices of each part. It is called anew after a failure.

        Raises:
            ConfigError: A single row is too much.
        """
        found = lengths.cpu().numpy()
        while True:
            limit = None if self.most is not None else self._tokens
            parts = micro_batches(found, self.most, overhead=self._overhead, tokens=limit)
            try:
                return work([torch.from_numpy(part).to(self._device) for part in parts])
            except torch.OutOfMemoryError as error:
                self.most = smaller(max(map(len, parts)), int(found.max()), error)
            if self._device.type == "cuda":  # only after the error and everything its frames hold are gone
                torch.cuda.empty_cache()


def smaller(rows: int, tokens: int, error: torch.OutOfMemoryError) -> int:
    """Halve the number of rows after it was too large.

    Raises:
        ConfigError: It was one row.
    """
    if rows > 1:
        return rows // 2
    raise ConfigError(
        f"there is not enough memory for a single text of {tokens} tokens; allow fewer tokens, or take a "
        f"smaller model or gradient checkpointing ({str(error).splitlines()[0]})"
    ) from error
