"""Decode steps as CUDA graphs: a step is recorded once a shape, and launched as one from then on.

Off unless the environment variable `TEXT_GYM_CUDA_GRAPHS` is 1: it has been tried on a simulated device only,
and never on a card. `python benchmarks/device.py --only graphs` tries it there, and measures its worth.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from .kv_cache import LayerCache, Reader

SWITCH = "TEXT_GYM_CUDA_GRAPHS"


def graphed(reader: Reader, device: torch.device) -> Reader:
    """Return a reader whose decode steps are replayed, if it reads on CUDA and the user asked for it."""
    wanted = device.type == "cuda" and os.environ.get(SWITCH) == "1"
    return GraphedReader(reader) if wanted else reader


class GraphedReader:
    """Reads whole sequences as another `Reader` does, and single tokens by replaying what that one did.

    It belongs to one cache, whose memory its graphs write to. A step's shape is the number of its rows and
    the width they look at; both stay the same for many steps.

    Args:
        reader: Must do the same work for the same shapes, whatever the numbers are, and never ask the device.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._steps: dict[tuple[int, int], _Step] = {}

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Implement `Reader`."""
        if mask is None or last is not None:
            return self._reader(layers, tokens, positions, mask, last)
        shape = len(tokens), mask.shape[-1]
        step = self._steps.get(shape)
        if step is None:
            # Memory is reached for, and everything lazy happens, before anything is recorded.
            states = self._reader(layers, tokens, positions, mask, None)
            self._steps[shape] = _Step(self._reader, layers, tokens, positions, mask)
            return states
        return step(tokens, positions, mask)


class _Step:
    """One recorded step; its arguments are copied to where the graph reads them."""

    def __init__(
        self, reader: Reader, layers: list[LayerCache], tokens: Tensor, positions: Tensor, mask: Tensor
    ) -> None:
        self._given = tokens.clone(), positions.clone(), mask.clone()
        place, column = layers[0].place, self._given[1][:, 0]

        def work() -> Tensor:
            before, place.column = place.column, column
            try:
                return reader(layers, *self._given, None)
            finally:
                place.column = before

        self._replay, self._states = capture(work)

    def __call__(self, *given: Tensor) -> Tensor:
        for here, new in zip(self._given, given, strict=True):
            here.copy_(new)
        self._replay()
        return self._states.clone()  # the next replay overwrites it


def capture(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record work on the current CUDA device.

    Returns:
        A function that does it again with what is then in its inputs' memory, and the tensor it writes to.
    """
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        work()  # once on a stream of its own, as PyTorch asks for
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        states = work()
    return graph.replay, states
