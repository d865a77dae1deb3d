"""What a checkpoint keeps of an agent's networks and optimizer, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.small_models import small_policy
from text_gym import TextVectorEnv, WordTokenizer
from text_gym.agents import PPO, PPOConfig
from text_gym.agents.policies.critic import Critic
from text_gym.agents.training.tensors import (
    load_optimizer,
    network_tensors,
    optimizer_tensors,
    shape_and_type,
    trained_parameters,
)

WEIGHT = "model.transformer.h.0.attn.c_attn.weight"


def learner(iterations: int, **settings: Any) -> PPO:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    env = TextVectorEnv(["a", "bcd"], tokenizer, lambda completion: completion.count("a"), 6, num_envs=8)
    config = PPOConfig(iterations=9, learning_rate=1e-2, warmup=0, **settings)
    return PPO(small_policy(), env, config).learn(iterations)  # type: ignore[return-value]


def test_every_weight_and_buffer_stands_once_under_the_name_of_its_network() -> None:
    agent = learner(0, critic="separate")
    assert isinstance(agent.critic, Critic)
    found = network_tensors(agent)
    assert {name.partition("/")[0] for name in found} == {"policy", "critic"}
    assert found[f"policy/{WEIGHT}"].data_ptr() == agent.policy.get_parameter(WEIGHT).data_ptr()
    assert found["critic/value_head.weight"].data_ptr() == agent.critic.value_head.weight.data_ptr()
    places = [tensor.data_ptr() for tensor in found.values()]
    assert len(set(places)) == len(places)  # the output layer is the embedding
    for network in agent.networks.values():
        assert {p.data_ptr() for p in [*network.parameters(), *network.buffers()]} <= set(places)


@pytest.mark.parametrize("critic", ["detached", "separate", "shared"])
def test_a_fresh_optimizer_takes_up_the_state_of_another(critic: Any) -> None:
    agent, fresh = learner(2, critic=critic), learner(0, critic=critic)
    assert optimizer_tensors(fresh) == {}
    kept = optimizer_tensors(agent)
    assert {f"{what}/{WEIGHT}" for what in ("exp_avg", "exp_avg_sq", "step")} <= kept.keys()
    assert {name.partition("/")[2] for name in kept} <= trained_parameters(agent).keys()
    load_optimizer(fresh, dict(reversed(kept.items())))  # whatever the order
    again = optimizer_tensors(fresh)
    assert again.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(again[name], tensor)
        assert again[name].data_ptr() != tensor.data_ptr()
    assert float(kept[f"step/{WEIGHT}"]) > 0


def test_forms_are_shapes_and_types() -> None:
    x = torch.zeros(2, 3)
    assert shape_and_type(x) == shape_and_type(torch.ones(2, 3))
    assert len({str(shape_and_type(t)) for t in (x, x.T, x.double(), x[:1], None)}) == 5
