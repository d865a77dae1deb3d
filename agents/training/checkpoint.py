"""Checkpoints hold everything an agent needs to go on as if it had never stopped.

They are taken between iterations. A run that ended anywhere else (mid-rollout, mid-epoch, by kill -9 while
saving) goes on from the last one and does over what came after it; on a CPU that gives the same bits, since
prompts, noise and minibatches are functions of the seed and of counters that are saved, and nothing draws
from a global generator. A rollout in flight is therefore not saved, nor is the state of any generator.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from text_gym.agents.policies.policy import Policy
from text_gym.errors import CheckpointError, ConfigError, DamagedError
from text_gym.models.loading import tensors_of
from text_gym.rewards.source import RewardSource
from text_gym.tokenizer import Tokenizer
from text_gym.utils.sealed import check_sealed, read_about, write_sealed

from .checkpoint_folder import CheckpointFolder
from .diagnostics import Objective, ObjectiveEstimate
from .tensors import (
    Resumable,
    checked_tensors,
    load_optimizer,
    network_tensors,
    shape_and_type,
    trained_parameters,
)

LOG = logging.getLogger("text_gym")
REFERENCE, TENSORS = "reference", "agent.safetensors"


@dataclass(frozen=True)
class Choice:
    """The policy a run ends with.

    Args:
        iteration: The one after which the policy stood like that.
        objective: `start`, `best` and `last`: the mean of reward − β·KL and its standard error (`se`), of the
            latter two also the `iteration`; None where the algorithm does not know its KL.
        reason: A sentence, where it is not the last.
    """

    iteration: int
    objective: dict[str, Any] | None
    reason: str | None = None


class Checkpoints(CheckpointFolder):
    """The folder with the checkpoints of one run.

    In it are the reference policy as a Hugging Face folder, written once, and a folder for each checkpoint,
    named after its iteration: weights and the optimizer's memory in safetensors, and a manifest with the rest
    and the SHA-256 of every file (`text_gym.utils.sealed`). The last `keep` and the best stay.
    One process at a time may write: `RunFolder` sees to that in a run.
    A run goes on to the same bits on the same computer with as many threads, and with a C compiler or without
    one as before (`kernels`); elsewhere it goes on just as well, to other last digits.

    Args:
        folder: Where; made by the first `save`.
        keep: How many of the latest stay, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        super().__init__(folder, keep)
        self._reference: str | None = None  # digest of the reference that stands in the folder

    def save(
        self,
        agent: Resumable,
        score: float = math.nan,
        standard_error: float = math.nan,
        *,
        overwrite: bool = False,
    ) -> Path:
        """Save a checkpoint of an agent between two iterations, and return its folder.

        Args:
            agent: The agent.
            score: How good it is; the checkpoint with the largest stays. `text-gym train` gives the mean of
                reward − β·KL over the last 5 batches (`Objective.average`). NaN is never the best.
            standard_error: Of the score where that is `Objective.average`; NaN for scores of another kind.
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
        tensors = dict(checked_tensors(agent))
        state = {
            "algorithm": agent.settings()["algorithm"],
            "settings": {k: v for k, v in agent.settings().items() if k != "algorithm"},
            "dtype": agent.policy.weights_dtype,
            "score": None if math.isnan(score) else score,
            "score_se": None if math.isnan(standard_error) else standard_error,
            "reference": self.save_reference(agent),
            "agent": agent.state_dict(),
        }
        try:
            json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"the memory of reward {agent.env.reward.name!r} is not plain JSON data: {error}"
            ) from error

        def fill(folder: Path) -> None:
            save_file({name: t.contiguous() for name, t in tensors.items()}, folder / TENSORS)

        target = self.folder / f"{agent.iteration:08d}"
        write_sealed(target, fill, state)
        for folder in later:
            shutil.rmtree(folder, ignore_errors=True)
        self._prune()
        return target

    def load(self, agent: Resumable) -> int | None:
        """Restore an agent from the newest intact checkpoint.

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
        if state["reference"] != agent.reference.digest():
            raise ConfigError(
                f"{folder} was learnt against another reference policy; use that in {self.folder / REFERENCE}"
            )
        saved = load_file(folder / TENSORS)
        own = network_tensors(agent)
        kinds = tuple(f"{kind}/" for kind in agent.networks)
        weights = {name: saved.pop(name) for name in list(saved) if name.startswith(kinds)}
        wrong = [
            n
            for n in weights.keys() | own.keys()
            if shape_and_type(weights.get(n)) != shape_and_type(own.get(n))
        ]
        wrong += [n for n in saved if n.partition("/")[2] not in trained_parameters(agent)]
        if wrong:
            raise ConfigError(f"{folder} is of another model: {min(wrong)} differs in name, shape or type")
        agent.load_state_dict(state["agent"])
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
        load_optimizer(agent, saved)
        agent.between_iterations = True
        return agent.iteration

    def best(self, latest: Objective | None = None) -> Path | None:
        """Find the intact checkpoint with the largest score, the earliest of equals, or None.

        The policy that a run starts from has a score once its first batch has been played; what was saved
        later knows it. Damaged ones are passed over, and a warning in the log says so.

        Args:
            latest: The objective of the run by now; that of the newest checkpoint if None.
        """
        scores = self._scores(self._all(), latest)
        while scores:
            best = max(scores, key=lambda folder: scores[folder])
            try:
                check_sealed(best)
            except DamagedError as error:
                LOG.warning("%s; it cannot be the best", error)
                del scores[best]
                continue
            return best
        return None

    def take_best(self, agent: Resumable) -> Choice:
        """Give an agent the policy of the best checkpoint if that is better by more than noise.

        That is, by more than 2 standard errors of the difference between the objectives, reward − β·KL, each
        the mean of the 5 batches up to there and under the β now in force. Only the policy's weights are
        taken (those of a shared value head among them): optimizer and counters stay those of the last
        iteration, so this ends a run. Of runs that stay as good as they began one in fifteen (40 iterations,
        five checkpoints) ends with an earlier policy by chance, which is as good.

        Args:
            agent: At the end of its learning.

        Returns:
            Whose policy it has now.
        """
        beta = agent.objective.coefficient
        start, last = agent.objective.start(), agent.objective.average()
        folder = self.best(agent.objective)
        if start is None or last is None:
            return Choice(agent.iteration, None)
        figures: dict[str, Any] = {"start": start._asdict()}
        chosen = {"iteration": agent.iteration, **last._asdict()}
        ending = {"last": chosen}
        found = None if folder is None else self._objective(folder, agent.objective, beta)
        if folder is None or found is None or not found.mean > last.mean:
            return Choice(agent.iteration, {**figures, "best": chosen, **ending})
        figures |= {"best": {"iteration": int(folder.name), **found._asdict()}, **ending}
        if not found.exceeds(last, errors=2.0):
            return Choice(agent.iteration, figures)
        weights = load_file(folder / TENSORS)
        with torch.no_grad():
            for name, tensor in tensors_of(agent.policy).items():
                tensor.copy_(weights[f"policy/{name}"])
        reason = (
            f"kept the policy of iteration {int(folder.name)}, not that of the last, {agent.iteration}: "
            f"its objective (reward − β·KL) was {found}, that of the last {last}"
        )
        return Choice(int(folder.name), figures, reason)

    def newest_state(self) -> dict[str, Any] | None:
        """Read what the newest intact checkpoint holds besides tensors; None if there is no checkpoint.

        Raises:
            CheckpointError: There are checkpoints, but none is intact, or a later version wrote them.
        """
        return self._newest()[1] or None

    def reference(self, tokenizer: Tokenizer, device: str = "auto") -> Policy:
        """Load the run's reference policy, which is its starting policy unless another one was given.

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

    def save_reference(self, agent: Resumable) -> str:
        """Write the reference policy if it is not there yet, and return its digest.

        `save` does it; where weights are to be sharded, do it before that.
        """
        if self._reference is None:
            folder, found = self.folder / REFERENCE, agent.reference.digest()
            try:
                same = check_sealed(folder) == found
            except DamagedError:
                same = False
            if not same:
                write_sealed(folder, agent.reference.save, found)
            self._reference = found
            _warn_of_chance(agent.env.reward)
        return self._reference

    def _scores(self, found: list[Path], latest: Objective | None = None) -> dict[Path, float]:
        """Return the scores of checkpoints, oldest first; the start's comes from the latest objective."""
        known = {folder: read_about(folder) or {} for folder in found}
        scores = {folder: state.get("score") for folder, state in known.items()}
        own = any(scores[folder] is not None and known[folder].get("score_se") is None for folder in found)
        if found and not own:  # otherwise scores and objectives are not comparable
            latest = latest or Objective.of(known[found[-1]].get("agent", {}).get("objective"))
            first, start = self.folder / f"{latest.began:08d}", latest.start()
            if start is not None and scores.get(first, 0.0) is None:
                scores[first] = start.mean
        return {folder: score for folder, score in scores.items() if score is not None}

    def _objective(self, folder: Path, latest: Objective, coefficient: float) -> ObjectiveEstimate | None:
        """Return the objective of a checkpoint's policy under a β; None if it was saved without one."""
        if int(folder.name) == latest.began:
            return latest.start(coefficient)
        state = read_about(folder) or {}
        return Objective.of(state.get("agent", {}).get("objective")).average(coefficient)

    def _best(self, found: list[Path]) -> Path | None:
        """Return the checkpoint with the largest score, the earliest of equals; it is not removed."""
        scores = self._scores(found)
        return max(scores, key=lambda folder: scores[folder], default=None)


def _warn_of_chance(reward: RewardSource) -> None:
    if not reward.deterministic and not reward.state_dict():
        LOG.warning(
            "reward %r is not deterministic and has no memory that could be saved: a resumed run goes on as "
            "well as it would have, but not in the same way",
            reward.name,
        )
