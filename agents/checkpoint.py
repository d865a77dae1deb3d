"""Checkpoints: all that an agent needs to go on as if it had never stopped.

They are taken between iterations. A run that ended anywhere else (mid-rollout, mid-epoch, by kill -9 while
saving) goes on from the last one and does over what came after it; on a CPU that gives the same bits, since
prompts, noise and minibatches are functions of the seed and of counters that are saved, and nothing draws
from a global generator. A rollout in flight is therefore not saved, nor is the state of any generator.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from text_gym import RewardSource, Tokenizer
from text_gym.errors import CheckpointError, ConfigError, DamagedError
from text_gym.sealed import check_sealed, read_about, restore_replaced, write_sealed

from .agent import Agent
from .guards import check_finite
from .policy import Policy

LOG = logging.getLogger("text_gym")
REFERENCE, TENSORS = "reference", "agent.safetensors"


class Checkpoints:
    """A folder with the checkpoints of one run.

    In it are the reference policy as a Hugging Face folder, written once, and a folder for each checkpoint,
    named after its iteration: weights and the optimizer's memory in safetensors, and a manifest with the rest
    and the SHA-256 of every file (`text_gym.sealed`). The last `keep` and the one with the best score stay.
    One process at a time may write: `RunFolder` sees to that in a run.
    A run goes on to the same bits on the same computer with as many threads, and with a C compiler or without
    one as before (`kernels`); elsewhere it goes on just as well, to other last digits.

    Args:
        folder: Where; made by the first `save`.
        keep: How many of the latest stay, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ConfigError(f"keep is {keep}; at least 1 checkpoint has to stay")
        self.folder, self.keep = Path(folder), keep
        self._reference: str | None = None  # digest of the reference that stands in the folder

    def save(self, agent: Agent[Any], score: float = math.nan, *, overwrite: bool = False) -> Path:
        """Take a checkpoint of an agent between two iterations; returns its folder.

        Args:
            agent: The agent.
            score: How good it is; the checkpoint with the largest stays. `text-gym train` gives the mean
                reward of the iteration's episodes. NaN is never the best.
            overwrite: Remove checkpoints of later iterations, instead of refusing to save before them.

        Raises:
            CheckpointError: The agent is in the middle of an update; or there are checkpoints of later
                iterations; or the disk is full, read-only or broken. Earlier checkpoints are as they were.
            NonFiniteError: A weight is NaN or infinite; nothing was written.
            ConfigError: The reward source has a memory that cannot be saved.
        """
        if not agent.between_iterations:
            raise CheckpointError(
                f"{agent.where} did not end; its weights are those of no iteration and were not saved"
            )
        later = [folder for folder in self._all() if int(folder.name) > agent.iteration]
        if later and not overwrite:
            raise CheckpointError(
                f"{later[-1]} is later than iteration {agent.iteration}; load it, or choose another folder"
            )
        for network in agent.networks.values():
            check_finite(network)
        state = {
            "algorithm": agent.settings()["algorithm"],
            "settings": {k: v for k, v in agent.settings().items() if k != "algorithm"},
            "dtype": str(agent.policy.value_head.weight.dtype).removeprefix("torch."),
            "score": None if math.isnan(score) else score,
            "reference": self._save_reference(agent),
            "agent": agent.state_dict(),
        }
        try:
            json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"the memory of reward {agent.env.reward.name!r} is not plain JSON data: {error}"
            ) from error

        def fill(folder: Path) -> None:
            tensors = _network_tensors(agent) | _optimizer_tensors(agent)
            save_file({name: t.contiguous() for name, t in tensors.items()}, folder / TENSORS)

        target = self.folder / f"{agent.iteration:08d}"
        write_sealed(target, fill, state)
        for folder in later:
            shutil.rmtree(folder, ignore_errors=True)
        self._prune()
        return target

    def load(self, agent: Agent[Any]) -> int | None:
        """Bring an agent to where the newest intact checkpoint left it.

        Damaged ones are set aside (`00000020.damaged`), and a warning in the log says so.

        Args:
            agent: Made as the one that was saved: same algorithm, model, reference and reward source.

        Returns:
            The iteration; None if there is no checkpoint.

        Raises:
            CheckpointError: There are checkpoints, but none is intact, or a later version wrote them.
            ConfigError: They are those of another algorithm, model, reference policy or reward source.
        """
        folder, state = self._newest(set_aside=True)
        if folder is None:
            return None
        found, own_name = state["algorithm"], agent.settings()["algorithm"]
        if found != own_name:
            raise ConfigError(f"{folder} is of algorithm {found} and cannot be loaded into {own_name}")
        if state["reference"] != digest(agent.reference):
            raise ConfigError(
                f"{folder} was learnt against another reference policy; use that in {self.folder / REFERENCE}"
            )
        saved = load_file(folder / TENSORS)
        own = _network_tensors(agent)
        kinds = tuple(f"{kind}/" for kind in agent.networks)
        weights = {name: saved.pop(name) for name in list(saved) if name.startswith(kinds)}
        wrong = [n for n in weights.keys() | own.keys() if _form(weights.get(n)) != _form(own.get(n))]
        wrong += [n for n in saved if n.partition("/")[2] not in _parameters(agent)]
        if wrong:
            raise ConfigError(f"{folder} is of another model: {min(wrong)} differs in name, shape or type")
        agent.load_state_dict(state["agent"])
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
        _load_optimizer(agent, saved)
        agent.between_iterations = True
        return agent.iteration

    def newest_state(self) -> dict[str, Any] | None:
        """What the newest intact checkpoint holds besides tensors; None if there is no checkpoint.

        Raises:
            CheckpointError: There are checkpoints, but none is intact, or a later version wrote them.
        """
        return self._newest()[1] or None

    def reference(self, tokenizer: Tokenizer, device: str = "auto") -> Policy:
        """The reference policy of the run, which is what it started from unless another one was given.

        Args:
            tokenizer: Of the policy, if it is one that has no file (bytes, words).
            device: Where to.

        Raises:
            DamagedError: Its files are not those that were written.
            CheckpointError: There is none, or a later version wrote it.
        """
        state = self.newest_state()
        if state is None:
            raise CheckpointError(f"there is no checkpoint in {self.folder}")
        folder = self.folder / REFERENCE
        check_sealed(folder)
        own = (folder / "tokenizer.json").is_file()
        return Policy.from_pretrained(folder, None if own else tokenizer, device=device, dtype=state["dtype"])

    def _newest(self, set_aside: bool = False) -> tuple[Path | None, dict[str, Any]]:
        """The newest checkpoint that is intact, and what it holds besides tensors."""
        damaged: dict[Path, str] = {}
        for folder in reversed(self._all()):
            try:
                state = check_sealed(folder)
            except DamagedError as error:
                damaged[folder] = str(error)
                continue
            for bad, what in damaged.items() if set_aside else ():
                LOG.warning("%s; going on from checkpoint %s", what, folder.name)
                aside = bad.with_name(bad.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
            return folder, state
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.folder} is intact: {'; '.join(damaged.values())}")
        return None, {}

    def _all(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        if not self.folder.is_dir():
            return []
        restore_replaced(self.folder)
        return sorted(f for f in self.folder.iterdir() if f.name.isdecimal() and f.is_dir())

    def _save_reference(self, agent: Agent[Any]) -> str:
        """Write the reference policy if it is not there yet; returns its digest."""
        if self._reference is None:
            folder, found = self.folder / REFERENCE, digest(agent.reference)
            try:
                same = check_sealed(folder) == found
            except DamagedError:
                same = False
            if not same:
                write_sealed(folder, agent.reference.save, found)
            self._reference = found
            _warn_of_chance(agent.env.reward)
        return self._reference

    def _prune(self) -> None:
        """Remove all but the latest and the best, of equals the earliest."""
        found = self._all()
        known = {folder: (read_about(folder) or {}).get("score") for folder in found}
        scores = {folder: score for folder, score in known.items() if score is not None}
        best = max(scores, key=lambda folder: scores[folder], default=None)
        for folder in found[: -self.keep]:
            if folder != best:
                shutil.rmtree(folder, ignore_errors=True)


def _warn_of_chance(reward: RewardSource) -> None:
    if not reward.deterministic and not reward.state_dict():
        LOG.warning(
            "reward %r is not deterministic and has no memory that could be saved: a resumed run goes on as "
            "well as it would have, but not in the same way",
            reward.name,
        )


def digest(policy: Policy) -> str:
    """SHA-256 of a policy's weights and buffers, with their names, shapes and types."""
    result = hashlib.sha256()
    for name, tensor in sorted(tensors_of(policy).items()):
        result.update(f"{name} {_form(tensor)}\n".encode())
        result.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Every weight and buffer of a policy or critic by name; tied weights once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


def _network_tensors(agent: Agent[Any]) -> dict[str, Tensor]:
    """Every weight and buffer of what is trained, as `network/name`."""
    return {
        f"{k}/{name}": t for k, network in agent.networks.items() for name, t in tensors_of(network).items()
    }


def _parameters(agent: Agent[Any]) -> dict[str, nn.Parameter]:
    """What is trained by name; names of other networks than the policy begin with theirs."""
    networks = [("" if kind == "policy" else f"{kind}.", network) for kind, network in agent.networks.items()]
    return {prefix + name: p for prefix, network in networks for name, p in network.named_parameters()}


def _optimizer_tensors(agent: Agent[Any]) -> dict[str, Tensor]:
    """The optimizer's memory of each parameter as `what/parameter`; AdamW remembers nothing but tensors."""
    memory = agent.optimizer.state
    return {
        f"{what}/{name}": tensor
        for name, parameter in _parameters(agent).items()
        for what, tensor in memory.get(parameter, {}).items()
    }


def _load_optimizer(agent: Agent[Any], memory: dict[str, Tensor]) -> None:
    names = {id(parameter): name for name, parameter in _parameters(agent).items()}
    trained = (p for group in agent.optimizer.param_groups for p in group["params"])
    index = {names[id(parameter)]: i for i, parameter in enumerate(trained)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in memory.items():
        what, _, name = key.partition("/")
        # A copy, since loaded tensors begin anywhere in the file: see `Policy.from_pretrained`.
        state.setdefault(index[name], {})[what] = tensor.clone()
    agent.optimizer.load_state_dict({**agent.optimizer.state_dict(), "state": state})


def _form(tensor: Tensor | None) -> object:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)
