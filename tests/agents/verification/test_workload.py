from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.models.test_cuda import make_env, make_policy
from tests.simulated_cuda import SimulatedCUDA
from tests.small_models import small_policy
from text_gym import TextVectorEnv
from text_gym.agents import Policy
from text_gym.agents.sampling import decoder
from text_gym.agents.verification.workload import Workload
from text_gym.models import runtime
from text_gym.models.sizes import Sizes, sizes_of
from text_gym.models.tuning import Work


def paid_by_length(completion: str) -> float:
    return float(len(completion))


def make_workload(policy: Policy) -> Workload:
    return Workload(policy, TextVectorEnv(["ab", "b"], policy.tokenizer, paid_by_length, 6, num_envs=8))


def test_a_rollout_and_an_update_are_timed_and_nothing_is_learnt() -> None:
    policy = small_policy()
    before, workload = policy.digest(), make_workload(policy)
    works: tuple[Work, ...] = ("rollout", "update", "iteration")
    assert all(workload.seconds(Sizes(), work) > 0 for work in works)
    assert policy.digest() == before


@pytest.mark.parametrize("work", ["rollout", "update"])
def test_the_sizes_are_in_use_while_it_works_and_afterwards_no_longer(
    work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, used = small_policy(), set()
    workload = make_workload(policy)
    logits_of, evaluate = policy.logits_of_fixed_weights, policy.evaluate

    def note(call: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            used.add((call.__name__, sizes_of(policy.device).tile_rows))
            return call(*args, **kwargs)

        return noted

    monkeypatch.setattr(policy, "logits_of_fixed_weights", note(logits_of))
    monkeypatch.setattr(policy, "evaluate", note(evaluate))
    workload.seconds(Sizes(tile_rows=7), work)
    assert used == {("logits_of_fixed_weights" if work == "rollout" else "evaluate", 7)}
    assert sizes_of(policy.device) == Sizes()


def test_sizes_that_run_out_of_memory_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are halved as in a run, but those that are measured next begin with all rows again."""
    policy, rows, fits = small_policy(), list[int](), 1
    workload, evaluate = make_workload(policy), policy.evaluate

    def narrow(tokens: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            rows.append(len(tokens))
            if len(tokens) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(tokens, *args, **kwargs)

    monkeypatch.setattr(policy, "evaluate", narrow)
    decoder._FITTING[policy] = 2
    workload.seconds(Sizes(), "update")
    assert rows[0] > fits
    assert rows[-2:] == [1, 1]
    assert policy not in decoder._FITTING
    fits = 99
    rows.clear()
    workload.seconds(Sizes(), "update")
    assert set(rows) == {2}


def test_threads_are_tried_where_their_number_is_ours_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = make_workload(small_policy())
    monkeypatch.setattr("text_gym.agents.verification.workload.cores", lambda: 8)
    for name in runtime.CHOICES:
        monkeypatch.delenv(name, raising=False)
    assert "small_threads" in {c.name for c in workload.candidates()}
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert "small_threads" not in {c.name for c in workload.candidates()}


def test_an_accelerator_is_waited_for_before_the_clock_is_read() -> None:
    waited: list[torch.device] = []
    with SimulatedCUDA(), patch.object(torch.cuda, "synchronize", waited.append):
        workload = Workload(policy := make_policy("gpt2"), make_env(6))
        names = {c.name for c in workload.candidates()}
        workload.seconds(sizes_of(policy.device), "rollout")
    assert len(waited) == 2
    assert {"free_share", "width_bucket"} <= names
    assert "pass_bytes" not in names
