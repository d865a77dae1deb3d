"""The folder of an `rlhf` run: texts, questions, opinions, reward models and policies, by round.

Files appear as a whole or not at all; what is missing has yet to be made. Nothing is computed here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from text_gym.agents.policies.policy import Policy
from text_gym.episode import Episode
from text_gym.errors import DamagedError, DataError
from text_gym.reward_models.labels.questions import CRITERIA
from text_gym.reward_models.learned.ensembles import Ensemble
from text_gym.reward_models.learned.loading import load_reward_model
from text_gym.reward_models.preferences.files import read_pairs, read_ratings
from text_gym.tasks.task import Task
from text_gym.transcripts import read_transcripts, write_transcripts
from text_gym.utils.sealed import check_sealed, write_atomic

from .config import RLHFConfig

if TYPE_CHECKING:
    from text_gym.reward_models.labels.questions import LabelCriterion
    from text_gym.reward_models.labels.store import LabelStore


TEXTS, EVALUATION = "texts.jsonl", "evaluation.json"  # of a round


class RLHFFolder:
    """The folder of a run.

    Args:
        task: As for `rlhf`.
        config: The settings.
        folder: Where.
        store: The label store.
        criteria: What texts are rated for; accuracy, clarity and persuasiveness if None.
        device: Where models are loaded to.
    """

    def __init__(
        self,
        task: Task,
        config: RLHFConfig,
        folder: Path,
        store: LabelStore,
        criteria: Sequence[LabelCriterion] | None = None,
        device: str = "auto",
    ) -> None:
        self.task, self.config, self.folder, self.store = task, config, folder, store
        self.scales = tuple(CRITERIA if criteria is None else criteria)
        self.device = device

    def numbers(self) -> range:
        """Return the numbers of the rounds."""
        return range(1, self.config.rounds + 1)

    def at(self, number: int) -> Path:
        """Return a round's folder; 0 is the start."""
        return self.folder / (f"round-{number}" if number else "start")

    def evaluation(self, number: int) -> dict[str, Any]:
        """Read a round's `evaluation.json`; 0 is the start."""
        return dict(json.loads((self.at(number) / EVALUATION).read_text(encoding="utf-8")))

    def started_from(self, number: int) -> int:
        """Return the round whose policy this round starts from, the best so far; 0 is the first policy."""
        return int(self.evaluation(number - 1)["starts_from"])

    def policy(self, number: int) -> Policy:
        """Load the policy after a round; 0 is the first one."""
        folder = self.at(number) / "policy"
        tokenizer = None if (folder / "tokenizer.json").is_file() else self.task.tokenizer
        return Policy.from_pretrained(folder, tokenizer, device=self.device)

    def reward(self, number: int) -> Ensemble:
        """Load a round's reward model."""
        folder = self.at(number) / "reward_model"
        found = load_reward_model(folder, device=self.device)
        if not isinstance(found, Ensemble):
            raise DataError(f"{folder} holds a {type(found).__name__}, not the ensemble of a round")
        return found

    def opinions(self, number: int) -> list[Any]:
        """Read what people said in a round."""
        file = self.at(number) / "opinions.jsonl"
        if not file.stat().st_size:  # everything was skipped
            return []
        if self.config.questions == "pairs":
            return read_pairs(file)
        scaled = []
        for rating in read_ratings(file, [c.name for c in self.scales]):
            values = {c.name: c.scaled(rating.values[c.name]) for c in self.scales}
            scaled.append(dataclasses.replace(rating, values=values))
        return scaled

    def asked(self, number: int) -> Iterator[tuple[str, str]]:
        """Return the texts asked about before a round."""
        for n in range(1, number):
            pool = self.texts(self.at(n) / "candidates.jsonl")
            about = json.loads((self.at(n) / "questions.json").read_text(encoding="utf-8"))["about"]
            for i in np.array(about, dtype=np.int64).ravel():
                yield pool[i].prompt.text, pool[i].completion

    def texts(self, file: Path) -> list[Episode]:
        """Read the episodes of a file."""
        return list(read_transcripts(file, self.task.tokenizer))

    def save_texts(
        self, file: Path, episodes: Sequence[Episode], rewards: Sequence[float] | None = None
    ) -> None:
        """Write episodes to a file atomically."""
        partial = file.with_suffix(".partial.jsonl")
        write_transcripts(partial, episodes, rewards)
        write_atomic(file, partial.read_text(encoding="utf-8"))
        partial.unlink()


def is_sealed(folder: Path) -> bool:
    """Return True if a step's folder exists and is complete."""
    if not folder.parent.is_dir():
        return False
    try:
        check_sealed(folder)
    except DamagedError:
        return False
    return True
