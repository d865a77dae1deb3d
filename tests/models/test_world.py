from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.distributed_c10d import ProcessGroupGloo

from tests.ranks.learn import CASES, WRITTEN
from tests.ranks.start import finish, start
from text_gym.errors import ConfigError, PeerError
from text_gym.models.world import World, _is_over, local_device, meeting
from text_gym.utils.display import started_by_torchrun


def world(rank: int, size: int) -> World:
    """A world that nobody has joined, for what needs no communication."""
    made = object.__new__(World)
    made.rank, made.size = rank, size
    return made


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 40))
def test_shares_divide_everything_in_whole_units(size: int, unit: int, units: int) -> None:
    n = units * unit
    parts = [np.arange(n)[world(rank, size).part(n, unit)] for rank in range(size)]
    assert np.concatenate(parts).tolist() == list(range(n))  # in the ranks' order
    assert all(len(part) % unit == 0 for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= unit
    if units >= size:
        assert [world(rank, size).share(n, unit).tolist() for rank in range(size)] == [
            p.tolist() for p in parts
        ]


@given(st.integers(1, 6), st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_balanced_shares_are_of_like_rows_and_differ_by_less_than_the_largest(
    size: int, work: list[int]
) -> None:
    amounts = torch.tensor(work)
    shares = [world(rank, size).balanced(amounts) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(len(work)))
    ordered = amounts[torch.cat(shares)]
    assert torch.equal(ordered, amounts.sort().values)  # each has rows between those of its neighbours
    for share in shares:
        assert abs(int(amounts[share].sum()) - sum(work) / size) <= max(work)


class Arrived:
    """A collective that is over."""

    def wait(self, timeout: object = None) -> None:
        pass

    def is_completed(self) -> bool:
        return True


@pytest.mark.parametrize("lengths", [(3, 5), (3, 9000), (9000, 20_000, 0), (2036 - 2, 2037 - 2)])
def test_all_get_what_each_says_long_or_short(
    lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank is a thread; what they send meets in a list."""
    meeting_place, sent = threading.Barrier(len(lengths), timeout=3), [torch.empty(0)] * len(lengths)
    here = threading.local()
    exchanges = []

    def all_gather(every: list[torch.Tensor], mine: torch.Tensor, async_op: bool) -> Arrived:
        sent[here.rank] = mine
        meeting_place.wait()
        for to, what in zip(every, sent, strict=True):
            to.copy_(what)
        if meeting_place.wait() == 0:
            exchanges.append(len(mine))
        return Arrived()

    def say(rank: int) -> list[str]:
        here.rank = rank
        one = world(rank, len(lengths))
        one._count = 0
        return one.gather(chr(97 + rank) * lengths[rank])

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    with ThreadPoolExecutor(len(lengths)) as pool:
        found = list(pool.map(say, range(len(lengths))))
    assert found == [[chr(97 + rank) * n for rank, n in enumerate(lengths)]] * len(lengths)
    assert len(exchanges) == 1 + (max(lengths) > 2034)  # with two quotation marks, beside 12 digits


def test_a_collective_is_waited_for_until_it_is_over_or_the_time_is() -> None:
    class Slow(Arrived):
        waits = 0

        def wait(self, timeout: object = None) -> None:
            self.waits += 1
            if self.waits < 3:
                raise RuntimeError("Operation timed out!")

        def is_completed(self) -> bool:
            return self.waits >= 3

    work = Slow()
    assert [_is_over(work, torch.zeros(1), 0.2) for _ in range(3)] == [False, False, True]


def test_pieces_of_work_are_done_while_others_are_waited_for() -> None:
    class Late(Arrived):
        def __init__(self, looks: int) -> None:
            self.looks = looks

        def is_completed(self) -> bool:
            self.looks -= 1
            return self.looks < 0

    done: list[int] = []
    one = world(0, 2)
    one._count, one.limit, result = 0, 10.0, torch.zeros(1)
    one.meanwhile = map(done.append, range(5))
    for looks, pieces in ((3, 3), (0, 3), (3, 5)):
        assert one._wait(Late(looks), result) is result
        assert done == list(range(pieces))


@pytest.mark.parametrize("shape", [(), (3,), (4, 2), (0,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.uint8])
@pytest.mark.parametrize("transposed", [False, True])
def test_two_ranks_add_up_by_one_message_each(
    shape: tuple[int, ...], dtype: torch.dtype, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank is a thread, and gloo itself carries what they send."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    here = threading.local()

    def all_to_all_single(*given: object, **how: object) -> object:
        return here.group.alltoall_base(*given)

    def add(rank: int) -> torch.Tensor:
        here.group = ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))
        one = world(rank, 2)
        one._count, one.limit = 0, 10.0
        numbers = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype) + 10 * rank
        mine = numbers.T.contiguous().T if transposed and len(shape) == 2 else numbers
        assert one.begin_sum(mine)() is mine
        return mine

    monkeypatch.setattr(torch.distributed, "all_to_all_single", all_to_all_single)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(add, range(2)))
    expected = 2 * torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype) + 10
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("failed", [None, "rank 1 (host): RewardError: out of order"])
def test_errors_of_other_collectives_name_the_process(
    failed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP waits by itself; what gloo then says is in this error's text, and in no type of its own."""
    told: list[BaseException] = []
    monkeypatch.setattr(World, "failure", lambda _: failed)
    monkeypatch.setattr(World, "fail", lambda _, error: told.append(error))
    gone = RuntimeError(
        "[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"
    )
    for error in (gone, torch.distributed.DistBackendError("NCCL error: remote process exited")):
        named = re.escape(failed or "gone or silent")
        with pytest.raises(PeerError, match=named) as found, world(0, 2).telling():
            raise error
        assert found.value.__cause__ is error
        assert told.pop() is found.value
    for other in (RuntimeError("the shapes do not match"), PeerError("gloo/transport"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as raised, world(0, 2).telling():
            raise other
        assert raised.value is other
        assert told.pop() is other


def test_too_few_episodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 episodes in groups of 4 cannot be divided among 3 processes"):
        world(0, 3).share(8, 4)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with meeting("cpu") as alone:
        assert alone is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device("auto") == "auto"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert started_by_torchrun()
    assert [local_device(name) for name in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
        "cuda:0",
    ]


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT_GYM_WORLD_LIMIT", "soon")
    with pytest.raises(ConfigError, match="TEXT_GYM_WORLD_LIMIT is 'soon'"), meeting("cpu"):
        pass


def test_the_limit_of_the_environment_is_that_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(World, "join", lambda device, limit: limits.append(limit))  # nobody else is there
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for said in ("0.5", ""):
        monkeypatch.setenv("TEXT_GYM_WORLD_LIMIT", said)
        with meeting("cpu"):
            pass
    assert limits == [0.5, 600.0]


def learnt(
    ranks: int,
    iterations: int,
    folder: Path,
    cases: tuple[str, ...],
    dtype: str = "float64",
    near: float = 1e-9,
) -> None:
    """So many processes learn, and rank 0 once more alone; both must have learnt the same."""
    file = folder / "found.json"
    ended = finish(start(ranks, ["-m", "tests.ranks.learn", str(file), str(iterations), dtype, *cases]), 300)
    assert all(status == 0 for status, _ in ended), ended
    found = json.loads(file.read_text(encoding="utf-8"))
    assert set(found) == set(cases)
    for case, row in found.items():
        assert row["moved"] > 1.0001, case  # weights of norms begin at 1
        assert row["weights"] < near, case
        assert row["metrics"] < 1e3 * near, case  # some are float32
        assert row["fields"], case


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Together and alone, in float64: minibatches, truncation, abstention, an early stop and a KL target."""
    learnt(2, 3, tmp_path, ("ppo", "ppo-separate", "grpo", "reinforce", *WRITTEN))


@pytest.mark.nightly
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_learn_what_one_does_by_every_algorithm(ranks: int, tmp_path: Path) -> None:
    learnt(ranks, 20, tmp_path, (*CASES, *WRITTEN))


@pytest.mark.nightly
def test_two_processes_learn_what_one_does_in_float32_but_for_rounding(tmp_path: Path) -> None:
    """A reward model learns at the rate that is its default, 1e-3.

    At ten times that rate one of its 3,952 weights was 5.7e-6 apart after a step. Its gradient, 3e-8, was
    near Adam's ε of 1e-8, where the last digits decide the step; in float32 that weight is 5e-5 from float64.
    """
    learnt(2, 5, tmp_path, (*CASES, *WRITTEN), "float32", 1e-6)
