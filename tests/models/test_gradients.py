from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from text_gym.models import gradients
from text_gym.models.gradients import GradientSums, _buckets
from text_gym.models.world import LETTER, World

T = TypeVar("T")


class Exchange:
    """Where ranks meet that are threads: what each has sent, by (number of the exchange, rank)."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier = size, threading.Barrier(size, timeout=5)
        self.sent: dict[tuple[int, int], Any] = {}


class ThreadOf(World):
    """A world whose ranks are threads of this process."""

    weights: list[Tensor]

    def __init__(self, rank: int, place: Exchange) -> None:
        self.rank, self.size, self.place, self.begun = rank, place.size, place, 0

    def send(self, what: Any) -> list[Any]:
        """Return where all ranks' parts of this exchange will be; they are there after `meet`."""
        number, self.begun = self.begun, self.begun + 1
        self.place.sent[number, self.rank] = what
        return [(number, rank) for rank in range(self.size)]

    def meet(self, where: list[Any]) -> list[Any]:
        self.place.barrier.wait()
        return [self.place.sent[key] for key in where]

    def begin_sum(self, tensor: Tensor) -> Callable[[], Tensor]:
        where = self.send(tensor.clone())
        return lambda: tensor.copy_(torch.stack(self.meet(where)).sum(dim=0))

    def _gather_bytes(self, mine: bytes, n: int) -> list[bytes]:
        return [one[:n].ljust(n) for one in self.meet(self.send(mine))]


def by_ranks(
    size: int, work: Callable[[ThreadOf], T], kind: type[ThreadOf] = ThreadOf
) -> tuple[Exchange, list[T]]:
    """Have every rank do the work; return where they met, and what each has returned."""
    place = Exchange(size)
    with ThreadPoolExecutor(size) as pool:
        return place, list(pool.map(lambda rank: work(kind(rank, place)), range(size)))


def weights_of(*numbers: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.full((2,), number, dtype=dtype, requires_grad=True) for number in numbers]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [3, 9000])
def test_gradients_and_messages_are_exchanged_at_once(dtype: torch.dtype, length: int) -> None:
    """Rank 0 has a gradient of the first weight, rank 1 of the second, nobody of the third."""

    def work(world: ThreadOf) -> tuple[list[Any], list[Any]]:
        weights = weights_of(0, 0, 0, dtype=dtype)
        weights[world.rank].grad = torch.tensor([1.0, 5.0], dtype=dtype) * (world.rank + 1)
        said = GradientSums(world, weights).add("é" * length * world.rank)
        return said, [None if w.grad is None else w.grad.tolist() for w in weights]

    place, found = by_ranks(2, work)
    assert found == [(["", "é" * length], [[1, 5], [2, 10], None])] * 2
    assert len(place.sent) == 2 * (1 if length == 3 else 2)  # long messages take another exchange


def test_messages_arrive_where_there_is_no_gradient_to_add() -> None:
    frozen = [torch.zeros(2)]
    _, found = by_ranks(3, lambda world: GradientSums(world, frozen).add(world.rank))
    assert found == [[0, 1, 2]] * 3


def sent_in(world: ThreadOf, passes: int, use: Callable[[list[Tensor], int], Tensor]) -> list[list[int]]:
    """Take so many steps on three weights; return how many buckets were sent before each gradient came."""
    weights, seen = weights_of(1, 2, 3), []
    sums = GradientSums(world, weights)
    for step in range(passes):
        begun: list[int] = []
        hooks = [w.register_hook(lambda _, begun=begun: begun.append(world.begun)) for w in weights]
        first = world.begun
        with sums.overlapped():
            use(weights, step).sum().backward()
        sums.add()
        for hook in hooks:
            hook.remove()
        seen.append([number - first for number in begun])
        alone = torch.autograd.grad(use(weights, step).sum(), weights, allow_unused=True)
        for weight, gradient in zip(weights, alone, strict=True):
            assert (weight.grad is None) == (gradient is None)
            assert weight.grad is None or torch.equal(weight.grad, world.size * gradient)
            weight.grad = None
    return seen


@pytest.fixture
def a_bucket_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 8)


@pytest.mark.usefixtures("a_bucket_for_each")
def test_buckets_are_sent_while_the_backward_pass_goes_on() -> None:
    def use(w: list[Tensor], step: int) -> Tensor:
        return ((w[0].exp() * w[1]).exp() * w[2]).exp()

    _, found = by_ranks(2, lambda world: sent_in(world, 2, use))
    assert (
        found == [[[0, 1, 2], [0, 1, 2]]] * 2
    )  # one when the second gradient comes, two when the third does


@pytest.mark.usefixtures("a_bucket_for_each")
def test_a_weight_without_gradient_delays_the_others_once() -> None:
    def use(w: list[Tensor], step: int) -> Tensor:
        return ((w[0].exp() * w[1]).exp() * (w[2] if step == 2 else 1)).exp()

    _, found = by_ranks(2, lambda world: sent_in(world, 4, use))
    assert found[0] == found[1]
    assert found[0][:2] == [[0, 0], [0, 2]]  # the third weight has none; nobody waits for it then
    assert found[0][2] == [0, 0, 2]  # once it has one, its gradient is added up as well


@pytest.mark.usefixtures("a_bucket_for_each")
def test_a_gradient_that_comes_after_its_bucket_has_gone_is_added_up() -> None:
    def use(w: list[Tensor], step: int) -> Tensor:
        first = w[2].exp() * w[1] if step == 1 else w[1]
        return (first.exp() * w[0]).exp()

    _, found = by_ranks(2, lambda world: sent_in(world, 2, use))
    assert found == [[[0, 0], [0, 0, 2]]] * 2


@pytest.mark.usefixtures("a_bucket_for_each")
def test_ranks_send_buckets_in_one_order_whatever_their_backward_passes_do() -> None:
    def work(world: ThreadOf) -> list[Any]:
        weights = weights_of(1, 2, 3)
        sums = GradientSums(world, weights)
        with sums.overlapped():
            if world.rank == 0:
                ((weights[2].exp() * weights[1]).exp() * weights[0]).sum().backward()  # the first comes first
            elif world.rank == 1:
                (weights[0] * weights[1]).sum().backward()  # and rank 2 has no rows at all
        sums.add()
        return [w.grad for w in weights]

    place, found = by_ranks(3, work)
    for rank in range(3):
        assert [len(place.sent[number, rank]) for number in range(3)] == [2, 2, 2 + 3 * LETTER]
    w = weights_of(1, 2, 3)
    (((w[2].exp() * w[1]).exp() * w[0]).sum() + (w[0] * w[1]).sum()).backward()
    for rank in range(3):
        for mine, one in zip(found[rank], w, strict=True):
            torch.testing.assert_close(mine, one.grad)


@pytest.mark.usefixtures("a_bucket_for_each")
def test_gradients_of_other_work_done_while_waiting_are_not_taken_for_these() -> None:
    """In the second pass the third weight's gradient comes after its bucket has gone."""

    class Busy(ThreadOf):
        def meet(self, where: list[Any]) -> list[Any]:
            for weight in self.weights:
                weight.grad = None
            return super().meet(where)

    def work(world: ThreadOf) -> list[list[Any]]:
        weights, seen = weights_of(1, 2, 3), []
        world.weights = weights
        sums = GradientSums(world, weights)
        for step in range(2):
            with sums.overlapped():
                first = weights[2].exp() * weights[1] if step == 1 else weights[1]
                ((first.exp() * weights[0]).exp().sum() * (world.rank + 1)).backward()
            sums.add()
            seen.append([None if w.grad is None else w.grad.tolist() for w in weights])
            for weight in weights:
                weight.grad = None
        return seen

    busy, idle = (by_ranks(2, work, kind)[1] for kind in (Busy, ThreadOf))
    assert busy == idle
    assert None not in idle[0][1]


def test_a_bucket_waits_for_all_of_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 16)  # the third weight and the second, then the first

    def use(w: list[Tensor], step: int) -> Tensor:
        return ((w[0].exp() * w[1]).exp() * w[2]).exp()

    assert by_ranks(2, lambda world: sent_in(world, 2, use))[1] == [[[0, 0, 1], [0, 0, 1]]] * 2


@pytest.mark.usefixtures("a_bucket_for_each")
def test_passes_outside_the_block_send_nothing() -> None:
    def work(world: ThreadOf) -> tuple[int, list[Any]]:
        weights = weights_of(1, 2, 3)
        sums = GradientSums(world, weights)
        sum(weights[1:], weights[0]).sum().backward()  # the first micro-batch of two
        with sums.overlapped():
            sum(weights[1:], weights[0]).sum().backward()
        assert not any(w._post_accumulate_grad_hooks for w in weights)
        sent = world.begun
        sums.add()
        for weight in weights:
            weight.grad = torch.zeros(2)
        sum(weights[1:], weights[0]).sum().backward()
        return world.begun - sent, [w.grad.tolist() for w in weights if w.grad is not None]

    _, found = by_ranks(2, work)
    assert found == [(1, [[1, 1]] * 3)] * 2  # `add` has sent the last bucket, the later pass none


def test_sums_are_of_all_passes() -> None:
    def work(world: ThreadOf) -> list[Any]:
        weights = weights_of(1, 2)
        sums = GradientSums(world, weights)
        (weights[0] * weights[1]).sum().backward()
        with sums.overlapped():
            (weights[0] * weights[1]).sum().backward()
        sums.add()
        return [w.grad.tolist() for w in weights if w.grad is not None]

    assert by_ranks(2, work)[1] == [[[8, 8], [4, 4]]] * 2


@pytest.mark.usefixtures("a_bucket_for_each")
def test_a_gradient_is_sent_at_the_same_place_in_every_step() -> None:
    """With three ranks the last bits of its sum depend on the place, and a resumed run begins anew."""

    def work(world: ThreadOf) -> int:
        weights = weights_of(1, 2, 3)
        sums = GradientSums(world, weights)
        for _ in range(2):
            (weights[0] * weights[1]).sum().backward()
            sums.add()
        return world.begun // 2

    place, (count, _) = by_ranks(2, work)
    first, second = ([place.sent[step * count + i, 0].shape for i in range(count)] for step in (0, 1))
    assert first == second


@settings(deadline=None)
@given(st.lists(st.integers(0, 9_000_000), max_size=6))
def test_buckets_hold_every_gradient_once(sizes: list[int]) -> None:
    tensors = [torch.empty(n, device="meta") for n in sizes]
    buckets = list(_buckets(tensors))
    assert [id(t) for bucket in buckets for t in bucket] == [id(t) for t in reversed(tensors)]
    assert all(len(bucket) == 1 or sum(t.nbytes for t in bucket) <= 25 * 2**20 for bucket in buckets)
