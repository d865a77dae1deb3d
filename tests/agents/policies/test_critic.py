"""A critic apart, next to one on the policy's trunk: gradients add up, and values are the same at first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import KINDS, parameters_of, small_policy
from text_gym import TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import PPO, LoRAPolicy, Policy, PPOConfig, Rollout, trajectory_log_probs
from text_gym.agents.policies.critic import Critic
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.tasks.enumerable import optimal_policy, trajectories

SEPARATE = PPOConfig(
    critic="separate", iterations=3, learning_rate=1e-2, warmup=0, epochs=1, minibatches=1, value_clip=None
)


def world(num_envs: int = 32, **changes: Any) -> TextVectorEnv:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    prompts = ["a", "bcd", "efghi"]
    return TextVectorEnv(
        prompts, tokenizer, lambda completion: completion.count("a"), 8, num_envs=num_envs, **changes
    )


def gradients(
    policy: Policy, batch: Rollout, config: PPOConfig = SEPARATE, critic: Critic | None = None
) -> tuple[list[Tensor], list[Tensor], PPO]:
    """Of the policy's model and a critic's trunk, in a step not taken, and the agent that got them."""

    class Still(PPO):
        def apply_gradients(self) -> float:
            return 0.0

    agent = Still(
        policy, world(len(batch.tokens)), config, small_policy(seed=9, dtype=torch.float64).frozen()
    )
    if critic is not None:
        agent.critic = critic
    agent.update(batch)
    own = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.model.parameters()]
    apart = [p.grad for p in agent.critic.trunk.parameters()] if isinstance(agent.critic, Critic) else []
    policy.zero_grad()
    return own, [g for g in apart if g is not None], agent


def test_the_gradient_of_a_shared_trunk_is_the_sum_of_those_of_two() -> None:
    policy = small_policy(dtype=torch.float64)
    batch = PPO(policy, world(), SEPARATE).collect()
    shared, none, _ = gradients(policy, batch, replace(SEPARATE, critic="shared"))
    own, apart, agent = gradients(policy, batch)
    assert not none
    assert len(own) == len(apart)  # the output layer is that of the embedding
    assert agent.policy.value_head.weight.grad is None
    for both, first, second in zip(shared, own, apart, strict=True):
        assert float(second.abs().max()) > 1e-6
        assert torch.allclose(both, first + second, rtol=0, atol=1e-12)


def test_the_policys_gradient_has_nothing_of_the_critic() -> None:
    policy = small_policy(dtype=torch.float64)
    batch = PPO(policy, world(), SEPARATE).collect()
    other = Critic(small_policy(seed=5, dtype=torch.float64))
    first, of_copy, _ = gradients(policy, batch)
    second, of_other, _ = gradients(policy, batch, critic=other)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(of_copy[0], of_other[0])


@pytest.mark.parametrize("kind", KINDS)
def test_values_begin_as_those_of_the_policys_own_head(kind: str) -> None:
    policy = small_policy(kind)
    configs = (replace(SEPARATE, critic="shared"), SEPARATE)
    shared, separate = (PPO(policy, world(), config).collect() for config in configs)
    largest = float(shared.values.abs().max())
    assert largest > 0.1
    assert float((shared.values - separate.values).abs().max()) <= 1e-5 * max(1.0, largest)
    assert torch.equal(shared.log_probs, separate.log_probs)


def test_values_are_those_of_the_states_before_tokens() -> None:
    """Against a pass over each text by itself."""
    policy = small_policy(dtype=torch.float64)
    batch = PPO(policy, world(), SEPARATE).collect()
    critic = Critic(small_policy(seed=5, dtype=torch.float64))
    values = critic.score(batch.tokens, batch.starts, batch.lengths, rows=5)
    for i, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
        with torch.no_grad():
            states = critic.trunk(batch.tokens[i : i + 1, : start + length]).last_hidden_state[0]
            expected = critic.value_head(states)[start - 1 : -1, 0]
        assert torch.allclose(values[i, :length], expected, rtol=0, atol=1e-12)
        assert not values[i, length:].any()


def test_in_play_values_are_the_critics_and_not_those_of_the_policys_head() -> None:
    agent = PPO(small_policy(), world(), SEPARATE)
    assert isinstance(agent.critic, Critic)
    with torch.no_grad():
        agent.critic.value_head.bias.add_(1.0)
    batch = agent.collect()
    assert torch.equal(batch.values, agent.critic.score(batch.tokens, batch.starts, batch.lengths))
    own = agent.policy.evaluate(batch.tokens, batch.starts, batch.lengths).values.detach()
    assert torch.allclose((batch.values - own)[batch.mask], torch.ones(batch.num_tokens), atol=1e-4)


def test_each_weight_is_trained_once_and_the_head_at_a_speed_of_its_own() -> None:
    policy = small_policy()
    agent = PPO(policy, world(), replace(SEPARATE, value_lr_factor=5.0, anneal=False))
    before = [p.clone() for network in agent.networks.values() for p in network.parameters()]
    agent.learn(2)
    assert isinstance(agent.critic, Critic)
    trunks, head = agent.optimizer.param_groups
    assert (trunks["lr"], head["lr"]) == pytest.approx((1e-2, 5e-2))
    assert head["params"] == list(agent.critic.value_head.parameters())
    after = [p for network in agent.networks.values() for p in network.parameters()]
    still = [p for p, old in zip(after, before, strict=True) if torch.equal(p, old)]
    assert {id(p) for p in still} == {id(p) for p in policy.value_head.parameters()}  # nobody asks it
    assert len({id(p) for p in [*trunks["params"], *head["params"]]}) == len(after) - 2


def test_large_errors_of_the_critic_do_not_make_the_policys_steps_smaller() -> None:
    """Each network's gradient is cut by itself."""
    steps = []
    for value_coef in (0.0, 1e6):
        policy = small_policy()
        before = parameters_of(policy)
        config = replace(SEPARATE, value_coef=value_coef, max_grad_norm=1e-3)
        PPO(policy, world(), config).learn(1)
        steps.append([p.detach() - old for p, old in zip(policy.parameters(), before, strict=True)])
    assert any(step.abs().max() > 0 for step in steps[0])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.nightly) for s in range(10)])
def test_the_closed_form_is_reached_with_a_critic_apart(seed: int) -> None:
    task = load_task("enumerable", seed=seed)
    policy = Policy.new(task.tokenizer, width=32, layers=1, heads=2, context=8, seed=seed, device="cpu")
    env = TextVectorEnv(task=task, num_envs=128)
    config = replace(
        SEPARATE, iterations=180, learning_rate=5e-3, warmup=20, epochs=4, kl_coef=0.5, seed=seed,
        whiten_advantages=False,
    )  # fmt: skip
    episodes = trajectories(task)
    before = trajectory_log_probs(policy, episodes).detach().double().exp().numpy()
    explained: list[float] = []
    PPO(policy, env, config).learn(callback=lambda _, m: explained.append(m["explained_variance"]))
    after = trajectory_log_probs(policy, episodes).detach().double().exp().numpy()
    best = optimal_policy(before, task.reward(episodes).values, 0.5)
    assert float(np.abs(before - best).sum() / 2) > 0.1
    assert float(np.abs(after - best).sum() / 2) <= 0.01
    assert np.mean(explained[:5]) < np.mean(explained[20:60])


def test_gradient_checkpointing_changes_no_gradient() -> None:
    """The copy keeps the setting, and has dropout off."""
    found = []
    for checkpointing in (False, True):
        policy = small_policy("llama", dtype=torch.float64)
        policy.use_less_memory(gradient_checkpointing=checkpointing)
        found.append(gradients(policy, PPO(policy, world(), SEPARATE).collect())[1])
    for plain, again in zip(*found, strict=True):
        assert torch.allclose(plain, again, rtol=0, atol=1e-12)


def test_with_an_adapter_the_critic_has_one_of_its_own() -> None:
    policy = LoRAPolicy(small_policy(), rank=2)
    agent = PPO(policy, world(), SEPARATE).learn()
    assert isinstance(agent, PPO)
    assert isinstance(agent.critic, Critic)
    for network in agent.networks.values():
        start = {name: p for name, p in network.named_parameters() if ".lora_B" in name}
        assert start
        assert all(p.abs().max() > 0 for p in start.values())


def test_a_broken_critic_stops_the_run() -> None:
    agent = PPO(small_policy(), world(), SEPARATE)
    assert isinstance(agent.critic, Critic)
    with torch.no_grad():
        agent.critic.trunk.wte.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"trunk\.wte\.weight"):
        agent.learn()


def test_there_are_three_kinds() -> None:
    with pytest.raises(ConfigError, match="critic is 'twin'; choose detached, separate or shared"):
        PPOConfig(critic="twin")  # type: ignore[arg-type]
