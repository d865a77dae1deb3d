"""What agents of several processes do beside learning: begin alike, and score a batch in shares."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from text_gym.agents.policies.policy import Policy
from text_gym.agents.policies.sharded import ShardedWeights
from text_gym.agents.sampling.rollout import Rollout
from text_gym.errors import ConfigError
from text_gym.models.runtime import upload
from text_gym.models.sharding import divided_like, is_sharded
from text_gym.models.world import World

from .tensors import (
    Resumable,
    load_optimizer,
    make_optimizer,
    network_tensors,
    optimizer_tensors,
    trained_parameters,
)


class Divided(Resumable, Protocol):
    """An agent whose weights may be sharded."""

    networks: dict[str, nn.Module]
    shards: ShardedWeights | None


def check_shares(agent: Resumable, world: World) -> None:
    """Refuse an agent whose work cannot be divided.

    Raises:
        ConfigError: There are too few episodes, or a generator writes them, or settings differ.
    """
    if agent.generator is not None:
        raise ConfigError("a generator writes for one process; leave it out, or start one process")
    world.share(agent.env.num_envs, agent.env.batch.group_size)
    world.check_alike("the settings", agent.settings())


@torch.no_grad()
def begin_alike(agent: Resumable, world: World) -> None:
    """Give an agent what the agent of rank 0 has: weights, reference, optimizer, counters and memories.

    Args:
        agent: Made alike on every rank, of the same model and settings.
        world: The processes.
    """
    first = world.rank == 0
    world.broadcast([*network_tensors(agent).values(), *agent.reference.parameters()])
    memory = optimizer_tensors(agent)
    known = [[name, list(t.shape), str(t.dtype), t.device.type] for name, t in memory.items()]
    state = world.gather({"agent": agent.state_dict(), "optimizer": known} if first else None)[0]
    if not first:
        agent.load_state_dict(state["agent"])
        memory = {name: _empty(agent, *form) for name, *form in state["optimizer"]}
    world.broadcast(memory.values())
    if not first and memory:
        load_optimizer(agent, memory)


def shard_agent(
    agent: Resumable, groups: Callable[[], list[dict[str, Any]]]
) -> tuple[ShardedWeights, torch.optim.AdamW]:
    """Divide the weights of an agent's policy and reference among all processes.

    Args:
        agent: All processes have the same.
        groups: Returns the parameter groups of the optimizer, which is made anew.

    Raises:
        ConfigError: It does not learn by policy gradients, or its critic has a trunk.
    """
    if not hasattr(agent, "gradient"):
        raise ConfigError(f"{type(agent).__name__} cannot be sharded; PPO, GRPO, RLOO and REINFORCE can")
    if agent.settings().get("critic") == "separate":
        raise ConfigError("a separate critic cannot be sharded; choose critic='detached' or 'shared'")
    memory = optimizer_tensors(agent)
    shards = ShardedWeights(agent.policy, agent.reference)
    optimizer = make_optimizer(groups(), agent.policy.device, sharded=True)
    parameters = trained_parameters(agent)
    for key, tensor in memory.items():
        what, _, name = key.partition("/")
        weight = parameters[name]
        divided = is_sharded(weight) and tensor.shape == weight.shape  # a count of steps is not
        optimizer.state[weight][what] = divided_like(tensor, weight) if divided else tensor
    return shards, optimizer


def make_whole(agent: Divided) -> None:
    """Give a sharded agent whole copies of its policy and reference in their place; it learns no further."""
    assert agent.shards is not None
    policy, reference = agent.shards.policy(), agent.reference
    for ours, sharded in zip(policy.parameters(), agent.policy.parameters(), strict=True):
        ours.requires_grad_(sharded.requires_grad)
    if reference.model is agent.policy.model:  # the policy without its adapter
        agent.reference = policy.frozen()
    else:
        policy = copy.deepcopy(policy)
        agent.reference = agent.shards.reference()
    agent.policy = agent.networks["policy"] = policy
    agent.shards = None


def share_rows(world: World, policy: Policy, ends: Tensor, lengths: Tensor) -> Tensor:
    """Return which rows this process takes through a policy's model, `(m,)` int64; it may be none.

    They are shared out by multiplications (Kaplan et al. 2020, "Scaling laws", table 1), in units of `D` a
    layer: 12 D for a token, 2 S for its attention, V in the output layer for one of a completion. Attention
    counts three times and the output layer twice, since softmax passes over their numbers, too.

    Args:
        world: The processes.
        policy: Whose model it is.
        ends: `(n,)` int64, the rows' tokens `S`, prompts included; on the host, as the next one.
        lengths: `(n,)` int64, those of the completions.
    """
    config = policy.model.config.get_text_config()
    head = 2 * policy.vocab_size * lengths // config.num_hidden_layers
    return world.balanced(ends * (12 * config.hidden_size + 6 * ends) + head)


def score_in_shares(world: World, batch: Rollout, policy: Policy, score: Callable[..., Tensor]) -> Tensor:
    """Score a batch's tokens, `(B, T)`, each process its share of the rows.

    Args:
        world: The processes.
        batch: `B` episodes.
        policy: Whose model scores them, or one like it.
        score: Like `Policy.score`.
    """
    masks, whole = batch.action_masks, torch.zeros_like(batch.log_probs)
    rows = share_rows(world, policy, batch.host_ends, batch.host_lengths)
    here = upload(rows, whole.device)
    if len(rows):
        given = batch.tokens[here], batch.host_starts[rows], batch.host_lengths[rows]
        found = score(*given, action_masks=None if masks is None else masks[here])
        whole[here, : found.shape[1]] = found
    world.fill([whole], here)
    return whole


def _empty(agent: Resumable, shape: list[int], dtype: str, device: str) -> Tensor:
    """Allocate a tensor of the optimizer's; its counts of steps may be kept on the host."""
    where: Any = torch.device("cpu") if device == "cpu" else agent.policy.device
    return torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device=where)
