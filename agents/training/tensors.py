"""Collects the tensors of an agent by name, as a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from text_gym.agents.policies.policy import FUSED, Policy
from text_gym.agents.sampling.generators import Generator
from text_gym.envs.vector import TextVectorEnv
from text_gym.models.loading import tensors_of
from text_gym.models.runtime import check_finite
from text_gym.models.sharding import is_sharded, whole

from .diagnostics import Objective


class Resumable(Protocol):
    """The parts of an agent that a checkpoint keeps; `Agent` has them all."""

    policy: Policy
    reference: Policy
    env: TextVectorEnv
    objective: Objective
    iteration: int
    between_iterations: bool
    generator: Generator | None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of all networks."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that are trained, by name."""
        ...

    @property
    def where(self) -> str:
        """The iteration, in words for an error."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return its algorithm and configuration as plain JSON data."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return its counters and memories as plain JSON data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


def make_optimizer(
    groups: list[dict[str, Any]], device: torch.device, *, sharded: bool = False
) -> torch.optim.AdamW:
    """Make the optimizer of all algorithms; no fused kernel takes sharded weights beside whole ones."""
    how: dict[str, Any] = {"foreach": False} if sharded else {"fused": device.type in FUSED}
    return torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.0, **how)


def network_tensors(agent: Resumable) -> dict[str, Tensor]:
    """Collect every weight and buffer of the trained networks, as `network/name`."""
    return {
        f"{k}/{name}": t for k, network in agent.networks.items() for name, t in tensors_of(network).items()
    }


def trained_parameters(agent: Resumable) -> dict[str, nn.Parameter]:
    """Collect the trained parameters by name; those of other networks than the policy begin with its name."""
    networks = [("" if kind == "policy" else f"{kind}.", network) for kind, network in agent.networks.items()]
    return {prefix + name: p for prefix, network in networks for name, p in network.named_parameters()}


def optimizer_tensors(agent: Resumable) -> dict[str, Tensor]:
    """Collect the optimizer's state of each parameter as `what/parameter`; AdamW's is all tensors."""
    memory = agent.optimizer.state
    return {
        f"{what}/{name}": tensor
        for name, parameter in trained_parameters(agent).items()
        for what, tensor in memory.get(parameter, {}).items()
    }


def load_optimizer(agent: Resumable, memory: dict[str, Tensor]) -> None:
    """Give an agent's optimizer the state that `optimizer_tensors` collected from another."""
    names = {id(parameter): name for name, parameter in trained_parameters(agent).items()}
    trained = (p for group in agent.optimizer.param_groups for p in group["params"])
    index = {names[id(parameter)]: i for i, parameter in enumerate(trained)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in memory.items():
        what, _, name = key.partition("/")
        # A copy, since loaded tensors may be unaligned in the file: see `Policy.from_pretrained`.
        state.setdefault(index[name], {})[what] = tensor.clone()
    agent.optimizer.load_state_dict({**agent.optimizer.state_dict(), "state": state})


def checked_tensors(agent: Resumable) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a checkpoint by name, whole; those of sharded weights are copies on the host.

    Where weights are sharded, all processes go through all of it together, whoever keeps the tensors.

    Raises:
        NonFiniteError: A weight is NaN or infinite.
    """
    for network in agent.networks.values():
        check_finite(network)
    for name, tensor in (network_tensors(agent) | optimizer_tensors(agent)).items():
        yield name, whole(tensor).cpu() if is_sharded(tensor) else tensor


def shape_and_type(tensor: Tensor | None) -> object:
    """Return what two tensors must have in common for one to be loaded into the other: shape and type."""
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)
