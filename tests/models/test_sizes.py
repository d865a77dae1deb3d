from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import small_policy
from text_gym import TextVectorEnv
from text_gym.agents import PPO, Policy, PPOConfig
from text_gym.errors import ConfigError
from text_gym.models.sizes import DEFAULTS, Sizes, sizes_of, unlike_defaults, using

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def test_each_kind_of_device_has_its_own() -> None:
    assert sizes_of(CPU) == Sizes()
    assert sizes_of(CUDA) == sizes_of(torch.device("xpu")) == DEFAULTS["cuda"] != Sizes()
    with using(Sizes(tile_ids=7), CUDA):
        assert sizes_of(CPU) == Sizes()
        assert sizes_of(torch.device("cuda")).tile_ids == 7


def test_they_hold_within_the_block_in_every_thread_and_after_an_error_no_longer() -> None:
    def read(_: int) -> int:
        return sizes_of(CPU).tile_rows

    with ThreadPoolExecutor(1) as threads:
        with using(Sizes(tile_rows=3), CPU):
            with using(Sizes(tile_rows=5), CPU):
                assert [*threads.map(read, [0])] == [5]
            assert [*threads.map(read, [0])] == [3]
        with pytest.raises(ZeroDivisionError), using(Sizes(tile_rows=3), CPU):
            raise ZeroDivisionError
        assert [*threads.map(read, [0])] == [1024]


@pytest.mark.parametrize("name", [f.name for f in fields(Sizes)])
def test_what_no_machine_could_use_is_refused_by_name(name: str) -> None:
    found = {f.name: f.metadata["range"] for f in fields(Sizes)}
    least, most = found[name]
    for good in (least, most):
        assert getattr(replace(Sizes(), **{name: good}), name) == good
    bad: tuple[Any, ...] = (least - 1, most + 1, float("nan"), "8", True, None)
    if name not in ("free_share", "compact_below"):
        bad += (float(most),)
    for value in bad:
        with pytest.raises(ConfigError, match=f"the size {name} is "):
            Sizes(**{name: value})


def test_what_differs_from_the_defaults_is_told_with_them() -> None:
    assert unlike_defaults(Sizes(), CPU) == "the defaults"
    assert unlike_defaults(replace(DEFAULTS["cuda"], tell_every=8), CUDA) == "tell_every 8 in place of 16"


def paid_by_length(completion: str) -> float:
    return float(len(completion))


def learnt(policy: Policy) -> list[Tensor]:
    env = TextVectorEnv(["ab", "b"], policy.tokenizer, paid_by_length, 8, num_envs=8)
    PPO(policy, env, PPOConfig(iterations=2, epochs=1, entropy_coef=0.01)).learn()
    return [p.detach() for p in policy.parameters()]


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(pass_overhead=0, pass_bytes=2**16, scored_rows=3, whole_bytes=0, tile_rows=3, tile_ids=5),
        Sizes(min_rows_to_pack=1, whole_bytes=0, recorded_steps=2, tell_every=3, compact_below=0.5),
    ],
)
def test_an_agent_learns_the_same_with_other_sizes_but_for_rounding(sizes: Sizes) -> None:
    expected = learnt(small_policy(dtype=torch.float64))
    with using(sizes, CPU):
        found = learnt(small_policy(dtype=torch.float64))
    assert all(np.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(found, expected, strict=True))
