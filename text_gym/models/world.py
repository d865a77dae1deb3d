"""World: the processes that train one policy together, each on a device of its own.

`torchrun` starts them; each is a rank. A collective is a sum, a maximum or a gathering that every rank takes
part in, and all get the same from it. Whoever fails tells the others (`fail`), and whoever waits for somebody
looks for that: nobody waits for ever, neither for a rank that failed nor for one that is silent. A rank that
hangs cannot look; a thread of its own ends it once somebody has failed.

It is a thin layer over `torch.distributed`: nccl for tensors on GPUs, gloo for those of the host.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from text_gym.episode import IntArray
from text_gym.errors import ConfigError, PeerError
from text_gym.utils.display import harmless, started_by_torchrun

from .loading import pick_device

LIMIT = 600.0  # seconds to wait for the other ranks, one of which may ask a slow reward
LIMIT_VARIABLE = "TEXT_GYM_WORLD_LIMIT"  # an environment variable with another number of seconds
GRACE = 10.0  # seconds in which a process that does not hang sees that another has failed
STAY = 3.0  # seconds that rank 0 waits, once it has failed, for others to read why
LOOK_EVERY = 0.2  # seconds between two looks at whether somebody has failed
LETTER = 2048  # bytes of a message that one exchange sends
_DIGITS = 12  # of the number of bytes, in front of them
_FAILED = "text-gym/failed"
_DONE = object()


class World:
    """The ranks, as one of them sees them; `World.join` makes it.

    Args:
        limit: Seconds to wait for the other ranks in a collective.

    Attributes:
        rank: The number of this process, 0 to `size` − 1; rank 0 alone writes files and prints.
        size: Number of processes.
        meanwhile: Work in small pieces, none of which talks to others; as many as fit are done while this
            process waits for others.
    """

    meanwhile: Iterator[object] = iter(())

    def __init__(self, limit: float = LIMIT) -> None:
        self.rank, self.size, self.limit = dist.get_rank(), dist.get_world_size(), limit
        self._store: Any = dist.distributed_c10d._get_default_store()
        self._count = 0  # collectives so far
        self._knows = threading.Event()  # that it is over
        threading.Thread(target=self._end_if_hanging, daemon=True).start()

    @classmethod
    def join(cls, device: torch.device, limit: float = LIMIT) -> World | None:
        """Meet the other processes that `torchrun` has started; None where this one is alone.

        Args:
            device: Of this process.
            limit: Seconds to wait for others, now and in every collective.

        Raises:
            ConfigError: The environment variables of `torchrun` are incomplete.
            PeerError: The others did not come.
        """
        if not started_by_torchrun():
            return None
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            try:
                dist.init_process_group(backend, timeout=timedelta(seconds=limit + GRACE))
            except (ValueError, KeyError) as error:
                raise ConfigError(f"the environment variables of torchrun are incomplete: {error}") from error
            except (RuntimeError, dist.DistError) as error:
                raise PeerError(f"the other processes did not come within {limit:g} s: {error}") from error
        return cls(limit)

    # Who does what

    def share(self, n: int, unit: int = 1) -> IntArray:
        """Return which of `n` things are this rank's, `(m,)` int64: a run of whole units, about `n / size`.

        Args:
            n: How many there are.
            unit: So many, one after another, stay together, as the episodes of a group.

        Raises:
            ConfigError: There are fewer units than ranks.
        """
        units = -(-n // unit)
        if units < self.size:
            what = "" if unit == 1 else f" in groups of {unit}"
            raise ConfigError(f"{n} episodes{what} cannot be divided among {self.size} processes")
        return np.arange(n)[self.part(n, unit)]

    def part(self, n: int, unit: int = 1) -> slice:
        """Return `share` as a slice, which is empty where there are fewer units than ranks."""
        units = -(-n // unit)
        begin, end = (units * rank // self.size * unit for rank in (self.rank, self.rank + 1))
        return slice(begin, min(end, n))

    def balanced(self, work: Tensor) -> Tensor:
        """Return which rows are this rank's, `(m,)` int64, where some are more work than others.

        The ranks' sums of work are about equal, so that none waits long for another, and the rows of a rank
        are of about equal work, so that little of it is padding. A rank may have none.

        Args:
            work: `(n,)` int64, positive, e.g. the rows' numbers of tokens; alike in all ranks.
        """
        order = work.argsort(stable=True)
        middles = work[order].cumsum(0) - work[order] / 2
        return order[(middles * self.size / work.sum()).long() == self.rank]

    # Collectives

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up the tensors of all ranks, in place; they have one shape and dtype."""
        return self.begin_sum(tensor)()

    def begin_sum(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin to add up the tensors of all ranks, in place; what is returned waits for the sum."""
        if self.size > 2 or tensor.device.type != "cpu":
            return partial(self._wait, dist.all_reduce(tensor, async_op=True), tensor)
        # Two are done after one message each way; gloo's ring takes two, and each is a wait.
        mine = tensor.contiguous().view(-1)
        theirs, sent = torch.empty_like(mine), [mine.numel() * (rank != self.rank) for rank in range(2)]
        work = dist.all_to_all_single(theirs, mine, sent, sent, async_op=True)
        return lambda: tensor.add_(self._wait(work, theirs).view_as(tensor))

    def largest(self, number: float) -> float:
        """Return the largest of the ranks' numbers."""
        found = torch.tensor(number, dtype=torch.float64)
        return float(self._wait(dist.all_reduce(found, dist.ReduceOp.MAX, async_op=True), found))

    def any(self, answer: bool) -> bool:
        """Return True if any rank's answer is."""
        return self.largest(float(answer)) > 0

    def fill(self, wholes: Iterable[Tensor], rows: Tensor) -> None:
        """Complete tensors, in place, by what other ranks have in their rows.

        Args:
            wholes: `(n, …)` each; of our rows they hold what we know, of others nothing yet.
            rows: `(m,)` int64, this rank's.
        """
        begun = []
        for whole in wholes:
            here = rows.to(whole.device)
            kept = whole[here]
            whole.zero_()
            whole[here] = kept
            sent = whole.to(torch.uint8) if whole.dtype == torch.bool else whole
            begun.append((whole, self.begin_sum(sent)))
        for whole, wait in begun:
            if (found := wait()) is not whole:
                whole.copy_(found)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank what rank 0 has in these tensors, in place."""
        for tensor in tensors:
            self._wait(dist.broadcast(tensor, 0, async_op=True), tensor)

    def gather(self, value: Any) -> list[Any]:
        """Return the ranks' values in their order; they are plain JSON data, in which NaN may stand.

        A first exchange tells how long each is; it has room for short ones, which need no second.
        """
        letter = write_letter(value)
        return self.read(self._gather_bytes(letter, LETTER), letter)

    def read(self, letters: Sequence[bytes], mine: bytes) -> list[Any]:
        """Read the first `LETTER` bytes of the ranks' letters; where one is longer, exchange them whole.

        Args:
            letters: In the ranks' order; bytes after their ends do not matter.
            mine: This rank's, from `write_letter`, whole.
        """
        sizes = [_DIGITS + int(letter[:_DIGITS]) for letter in letters]
        if max(sizes) > LETTER:
            letters = self._gather_bytes(mine, max(sizes))
        return [json.loads(one[_DIGITS:n]) for one, n in zip(letters, sizes, strict=True)]

    def _gather_bytes(self, mine: bytes, n: int) -> list[bytes]:
        """Return the first `n` bytes of every rank's, in their order; shorter ones are filled up."""
        sent = torch.frombuffer(bytearray(mine[:n].ljust(n)), dtype=torch.uint8)
        every = [torch.empty_like(sent) for _ in range(self.size)]
        self._wait(dist.all_gather(every, sent, async_op=True), sent)
        return [bytes(found.numpy()) for found in every]

    def check_alike(self, what: str, value: Any) -> None:
        """Refuse processes that were not given the same.

        Args:
            what: It is, for the error.
            value: This rank's; plain JSON data.

        Raises:
            ConfigError: Another rank has another value.
        """
        found = self.gather(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest())
        other = next((rank for rank in range(self.size) if found[rank] != found[0]), None)
        if other is not None:
            raise ConfigError(
                f"{what} of process {other} differ from those of process 0; start all of them with the same "
                "files and options"
            )

    # Failures

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the others of whatever ends the block by an exception.

        Raises:
            PeerError: In place of PyTorch's own error, where it waited for another rank by itself.
        """
        try:
            yield
        except BaseException as error:
            lost = self._lost_peer(error)
            self.fail(lost or error)
            if lost is not None:
                raise lost from error
            raise

    def fail(self, error: BaseException) -> None:
        """Tell the others that this rank goes no further, and why; they name the first that failed."""
        if self._knows.is_set():
            return  # it was told already, by a block inside this one
        self._knows.set()
        with suppress(RuntimeError, dist.DistError):  # nobody may be there to be told
            if not isinstance(error, PeerError) or self.failure() is None:
                what = f"{type(error).__name__}: {harmless(str(error), limit=500)}"
                if self._store.add(f"{_FAILED}/count", 1) == 1:
                    self._store.set(_FAILED, f"rank {self.rank} ({socket.gethostname()}): {what}")
            self._store.set(f"{_FAILED}/known/{self.rank}", "")
            if self.rank == 0:  # without it, others may not be able to read why
                everybody = [f"{_FAILED}/known/{r}" for r in range(self.size)]
                end = time.monotonic() + STAY
                while not self._store.check(everybody) and time.monotonic() < end:
                    time.sleep(0.05)

    def failure(self) -> str | None:
        """Return what another rank said when it failed; None while nobody has."""
        try:
            return self._store.get(_FAILED).decode() if self._store.check([_FAILED]) else None
        except (RuntimeError, dist.DistError) as error:
            return f"rank 0 is gone ({error})"

    def _lost_peer(self, error: BaseException) -> PeerError | None:
        """Return what an error of a collective that is not ours, such as FSDP's, amounts to; or None."""
        said = str(error)
        if not isinstance(error, dist.DistError) and "gloo/transport" not in said:
            return None
        if isinstance(error, PeerError):
            return None
        failed = self.failure()
        if failed is not None:
            return PeerError(f"stopped because another process failed: {failed}")
        return PeerError(f"another process is gone or silent: {harmless(said, limit=200)}")

    def _end_if_hanging(self) -> None:
        """End this process where another has failed and this one does not come to see it."""
        while not self._knows.wait(1.0):
            failed = self.failure()
            if failed is not None and not self._knows.wait(GRACE):
                print(f"rank {self.rank} hangs and is ended; {failed}", file=sys.stderr, flush=True)
                os._exit(1)

    def _wait(self, work: Any, result: Tensor) -> Tensor:
        """Wait for a collective while nobody has failed and the time limit has not passed.

        Raises:
            PeerError: A rank failed, is gone, or is silent.
        """
        self._count += 1
        while not work.is_completed() and next(self.meanwhile, _DONE) is not _DONE:
            pass
        began = time.monotonic()
        while not _is_over(work, result, LOOK_EVERY):
            if (failed := self.failure()) is not None:
                raise PeerError(f"stopped because another process failed: {failed}")
            if time.monotonic() - began > self.limit:
                raise PeerError(
                    f"{self._silent()} did not answer within {self.limit:g} s (collective {self._count})"
                )
        try:
            work.wait()
        except (RuntimeError, dist.DistError) as error:
            said = self.failure() or harmless(str(error), limit=120)
            raise PeerError(f"another process is gone: {said}") from error
        return result

    def _silent(self) -> str:
        """Name the ranks that have not come as far as this one."""
        self._store.set(f"text-gym/at/{self.rank}", str(self._count))
        time.sleep(2 * LOOK_EVERY)
        here = [r for r in range(self.size) if self._store.check([f"text-gym/at/{r}"])]
        missing = [r for r in range(self.size) if r not in here]
        return f"rank {', '.join(map(str, missing))}" if missing else "a rank"


def write_letter(value: Any) -> bytes:
    """Write plain JSON data as text, with its length in front."""
    text = json.dumps(value).encode()
    return f"{len(text):<{_DIGITS}}".encode() + text


@contextmanager
def meeting(device: str) -> Iterator[World | None]:
    """Meet the other processes that `torchrun` has started, within the block; None where there are none.

    An error that leaves the block is told to them. After one the connections stay as they are until the
    process ends: somebody may never answer.

    Args:
        device: Of this process, by name.
    """
    limit = os.environ.get(LIMIT_VARIABLE) or str(LIMIT)
    if not limit.replace(".", "", 1).isdecimal():
        raise ConfigError(f"{LIMIT_VARIABLE} is {limit!r}, not a number of seconds")
    world = World.join(torch.device(pick_device(device)), float(limit)) if started_by_torchrun() else None
    if world is None:
        yield None
        return
    with world.telling():
        yield world
    world._knows.set()
    dist.destroy_process_group()


def local_device(device: str) -> str:
    """Return this process's own GPU for `"auto"` or `"cuda"` under `torchrun`; otherwise what was given."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or not started_by_torchrun() or not torch.cuda.is_available():
        return device
    return f"cuda:{local}" if device in ("auto", "cuda") else device


def _is_over(work: Any, tensor: Tensor, seconds: float) -> bool:
    """Wait for a collective of this tensor for so long; return True once it is over, well or not.

    gloo's threads need the core that polling would keep busy. NCCL is polled, since a wait there may not end
    before the collective does.
    """
    if tensor.device.type == "cpu":
        with suppress(RuntimeError):  # time is up; or the collective failed, as who asks for its result hears
            work.wait(timedelta(seconds=seconds))
        return bool(work.is_completed())
    began = time.monotonic()
    while not work.is_completed() and (waited := time.monotonic() - began) < seconds:
        if waited > 1e-3:
            time.sleep(1e-4 if waited < 0.1 else 5e-3)
    return bool(work.is_completed())
