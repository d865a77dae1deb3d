"""GradientSums: the gradients of all ranks added up, in buckets, while the backward pass goes on.

What the ranks have to tell each other of a step travels in the last bucket, so that a small model takes one
exchange a step. Sharded weights are not here: FSDP adds up theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .sharding import is_sharded
from .world import LETTER, World, write_letter

BUCKET_BYTES = 25 * 2**20  # of gradients that travel together, as in PyTorch's DistributedDataParallel


class GradientSums:
    """Adds up the ranks' gradients of some weights; where one has none, it counts as 0.

    Args:
        world: The ranks.
        parameters: The same in all ranks, in the same order; those that are not trained are left alone.
    """

    def __init__(self, world: World, parameters: Iterable[Tensor]) -> None:
        self._world = world
        self._trained = [p for p in parameters if p.requires_grad and not is_sharded(p)]
        # The same in every step: with three ranks or more the order of additions, thus the last bits, depends
        # on where in its bucket a gradient lies, and a resumed run does not know what steps before it had.
        self._buckets = list(_buckets(self._trained)) or [[]]
        self._expected = {*self._trained}  # those that had a gradient last time
        self._sent: list[Callable[[], Tensor]] = []  # of the first buckets; each waits for its sum

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Within the block, send each bucket but the last as soon as a backward pass has completed it.

        It has to be the last pass before `add`. All ranks send buckets in the same order. Nobody waits for a
        weight that had no gradient last time.
        """
        missing = [len(self._expected.intersection(bucket)) for bucket in self._buckets[:-1]]

        def made(number: int, _: Tensor) -> None:
            missing[number] -= 1
            while len(self._sent) < len(missing) and not missing[len(self._sent)]:
                self._send(self._buckets[len(self._sent)])

        hooks = [
            p.register_post_accumulate_grad_hook(partial(made, number))
            for number, bucket in enumerate(self._buckets[:-1])
            for p in self._expected.intersection(bucket)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, message: Any = None) -> list[Any]:
        """Give every weight the sum of the ranks' gradients; it is a part of its bucket.

        Args:
            message: Plain JSON data for the others, which needs no exchange of its own unless it is long.

        Returns:
            The ranks' messages, in their order.

        Raises:
            PeerError: A rank failed, is gone, or is silent.
        """
        mine = {p: p.grad for p in self._trained}  # what is done while we wait may leave others there
        letter = write_letter(["".join("01"[p.grad is not None] for p in self._trained), message])
        like = self._buckets[-1][0] if self._buckets[-1] else torch.zeros(0)
        letters = torch.zeros(self._world.size, LETTER, dtype=like.dtype, device=like.device)
        letters[self._world.rank, : len(letter)] = torch.tensor(list(letter[:LETTER]), dtype=like.dtype)
        while len(self._sent) < len(self._buckets) - 1:
            self._send(self._buckets[len(self._sent)])
        self._send(self._buckets[-1], letters)
        sums = [wait() for wait in self._sent]
        found = sums[-1][-letters.numel() :].view_as(letters).to(torch.uint8).cpu().numpy()
        said = self._world.read([bytes(row) for row in found], letter)
        have = zip(*(has for has, _ in said), strict=True)  # of each weight, who has a gradient
        known = [p for p, has in zip(self._trained, have, strict=True) if "1" in has]
        # Their buckets may have gone without them.
        late = list(_buckets([p for p in known if p not in self._expected]))
        for bucket in late:
            for p in bucket:
                p.grad = mine[p]
            self._send(bucket)
        sums += [wait() for wait in self._sent[len(sums) :]]
        for bucket, total in zip([*self._buckets, *late], sums, strict=True):
            sizes = [p.numel() for p in bucket]
            for p, gradient in zip(bucket, total[: sum(sizes)].split(sizes), strict=True):
                p.grad = gradient.view_as(p)
        for p in {*self._trained} - {*known}:
            p.grad = None
        self._sent.clear()
        self._expected = {*known}
        return [theirs for _, theirs in said]

    def _send(self, bucket: Sequence[Tensor], *more: Tensor) -> None:
        """Begin to add up a bucket, with more at its end."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([x.reshape(-1) for x in (*gradients, *more)])
        self._sent.append(self._world.begin_sum(flat))


def _buckets(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Divide tensors, in reverse order as the backward pass makes them, into buckets of one dtype."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in reversed(tensors):
        if bucket and (size + tensor.nbytes > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
