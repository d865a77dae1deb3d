"""Against plain forward passes of one text at a time, and differences of the objective along directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import KINDS, plain_forward, small_policy
from text_gym import Episode, Task, load_task
from text_gym.agents import Policy, exact_policy_gradient, trajectory_log_probs
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import expected_group_advantages, trajectories

TASK = load_task("enumerable")
BETA = 0.7


def double(seed: int, kind: str = "gpt2", task: Task = TASK) -> Policy:
    return small_policy(kind, task.tokenizer, seed=seed, dtype=torch.float64, initializer_range=0.2, rows=16)


def one_by_one(policy: Policy, episodes: Sequence[Episode], temperature: float = 1.0) -> Tensor:
    """`(N,)` log-probabilities, each text alone, as `transformers` says them."""
    found = []
    for e in episodes:
        ids, start = [*e.prompt_ids.tolist(), *e.completion_ids.tolist()], len(e.prompt_ids)
        said, _ = plain_forward(policy, ids, start)
        said = torch.log_softmax(said / temperature, dim=-1)
        found.append(sum(said[t, token] for t, token in enumerate(ids[start:])))
    return torch.stack([torch.as_tensor(x) for x in found])


@pytest.mark.parametrize("kind", KINDS)
def test_texts_have_the_probabilities_of_one_text_alone(kind: str) -> None:
    policy, every = double(1, kind), trajectories(TASK)
    with torch.no_grad():
        found = trajectory_log_probs(policy, every)
        assert torch.allclose(found, one_by_one(policy, every), rtol=0, atol=1e-10)
    assert found.dtype == torch.float64
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_prompts_may_have_different_lengths_and_tokens_a_temperature() -> None:
    task = load_task("copy", length=2, symbols="ab")
    policy = double(3, task=task)
    longer = load_task("copy", length=4, symbols="ab")
    episodes = [*trajectories(task, task.prompts[0]), *trajectories(longer, longer.prompts[3])[:5]]
    assert len({len(e.prompt_ids) for e in episodes}) == 2
    with torch.no_grad():
        for temperature in (1.0, 0.6, 2.0):
            found = trajectory_log_probs(policy, episodes, temperature=temperature)
            assert torch.allclose(found, one_by_one(policy, episodes, temperature), rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_the_objective_by_central_differences(temperature: float) -> None:
    policy, reference, every = double(1), double(2), trajectories(TASK)
    rewards = TASK.reward(every).values
    with torch.no_grad():
        q = one_by_one(reference, every, temperature)

    def objective() -> float:
        with torch.no_grad():
            log_p = one_by_one(policy, every, temperature)
        return float((log_p.exp() * (torch.from_numpy(rewards) - BETA * (log_p - q))).sum())

    gradient = exact_policy_gradient(
        policy, every, rewards, reference=reference, beta=BETA, temperature=temperature
    )
    assert set(gradient) == {n for n, _ in policy.named_parameters() if not n.startswith("value_head")}
    parameters = dict(policy.named_parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = {
            n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in parameters.items()
        }
        slope = sum(float((gradient[n] * direction[n]).sum()) for n in gradient)
        step, values = 1e-5, []
        for sign in (1, -2, 1):  # there, to the other side, and back
            with torch.no_grad():
                for n, p in parameters.items():
                    p.add_(direction[n], alpha=sign * step)
            values.append(objective())
        assert abs(slope) > 1e-3
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_with_groups_advantages_it_is_the_mean_over_all_groups() -> None:
    """Of GRPO's gradient, group by group, for all 40² groups of two."""
    policy, every = double(1), trajectories(TASK)
    rewards = TASK.reward(every).values
    log_p = one_by_one(policy, every)
    p = log_p.detach().exp()
    better = torch.from_numpy(np.sign(rewards[:, None] - rewards[None, :]))  # of two: -1, 0 or 1
    mean = (p[:, None] * p[None, :] * better * (log_p[:, None] - log_p[None, :]) / 2).sum()
    names = [n for n, _ in policy.model.named_parameters()]
    expected = torch.autograd.grad(mean, list(policy.model.parameters()))
    found = exact_policy_gradient(policy, every, expected_group_advantages(p.numpy(), rewards, 2))
    for name, gradient in zip(names, expected, strict=True):
        assert torch.allclose(found[f"model.{name}"], gradient, rtol=0, atol=1e-12)


def test_what_is_no_whole_list_of_trajectories_is_refused() -> None:
    policy, every = double(1), trajectories(TASK)
    with pytest.raises(ConfigError, match=r"probability 2\.0000 together"):
        exact_policy_gradient(policy, every * 2, np.zeros(80))
    with pytest.raises(ConfigError, match="pass the reference"):
        exact_policy_gradient(policy, every, np.zeros(40), beta=0.1)
