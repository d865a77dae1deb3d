"""What all cells of a matrix share: the task, the policy they start from, and texts it wrote.

Texts are written once and kept in `sources/`; designs learn from them and are judged on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from text_gym.agents.algorithms.best_of_n import best_of_n
from text_gym.agents.policies.policy import Policy
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, read_transcripts, word_counts, write_transcripts
from text_gym.tasks.task import Task
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import write_sealed

from .settings import Settings, digest, the_task

START_TEXTS = 4  # of each held-out prompt, to judge designs on
_SEED = 1_000_003  # of texts that are the same for all seeds of the matrix


@dataclass(frozen=True)
class SampledTexts:
    """`k` texts of each of `N` prompts by the starting policy.

    Args:
        episodes: `N * k`, a prompt's one after another.
        gold: `(N, k)`; NaN where the task's reward has no opinion.
        terms: The gold reward's terms, `(N, k)` each.
    """

    episodes: list[Episode]
    gold: FloatArray
    terms: dict[str, FloatArray]

    @property
    def words(self) -> FloatArray:
        """`(N, k)` words of each text."""
        return word_counts(self.episodes).reshape(self.gold.shape)

    @property
    def terminated(self) -> FloatArray:
        """`(N, k)` 1 where a text ended by itself, else 0."""
        return np.array([float(e.whole) for e in self.episodes]).reshape(self.gold.shape)


@dataclass(frozen=True)
class SamplingJob:
    """The job of sampling texts from the starting policy.

    Args:
        settings: Of the benchmark.
        use: `start` to judge designs on, `candidates` for best-of-n, `pool` for raters.
        seed: Decides the noise.
    """

    settings: Settings
    use: Literal["start", "candidates", "pool"]
    seed: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"texts · {self.use}" + (f" · seed {self.seed}" if self.use == "candidates" else "")

    @property
    def key(self) -> str:
        """Follows from all that the texts depend on."""
        return digest([self.settings.text_settings(), self.use, *self._shape(), self.seed])

    @property
    def place(self) -> str:
        """Of the folder."""
        return f"sources/{self.key}"

    @property
    def needs(self) -> list[str]:
        """What must be in the folder before: nothing."""
        return []

    @property
    def makes(self) -> list[str]:
        """What is in the folder afterwards."""
        return [self.place]

    def _shape(self) -> tuple[int, int]:
        settings = self.settings
        shapes = {
            "start": (settings.held_out, START_TEXTS),
            "candidates": (settings.prompts, settings.candidates),
            "pool": (settings.pool, 2),
        }
        return shapes[self.use]

    def done(self, folder: Path) -> bool:
        """Whether the texts are there."""
        return (folder / self.place).is_dir()

    def run(self, folder: Path) -> None:
        """Write them; the folder appears as a whole."""
        task, policy = the_task(self.settings.task), starting_policy(self.settings)
        count, each = self._shape()
        prompts = (task.prompts if self.use == "pool" else task.held_out)[:count]
        env = TextVectorEnv(**task.env_kwargs(prompts=prompts), shuffle=False)
        found = best_of_n(policy, env, each, prompts, seed=_SEED + 7 * self.seed + len(self.use))
        gold = task.reward(found.episodes)
        terms = {k: np.asarray(v, dtype=np.float64).tolist() for k, v in gold.terms.items()}
        values = {"gold": np.where(gold.abstained, np.nan, gold.totals).tolist(), "terms": terms}

        def fill(partial: Path) -> None:
            write_transcripts(partial / "texts.jsonl", found.episodes)
            write_json(partial / "gold.json", {**values, "each": each})

        (folder / self.place).parent.mkdir(parents=True, exist_ok=True)
        write_sealed(folder / self.place, fill, {"what": self.name})

    def read(self, folder: Path) -> SampledTexts:
        """The texts that `run` wrote."""
        place = folder / self.place
        values = json.loads((place / "gold.json").read_text(encoding="utf-8"))
        shape = (-1, values["each"])
        episodes = list(read_transcripts(place / "texts.jsonl", the_task(self.settings.task).tokenizer))
        terms = {k: np.array(v, dtype=np.float64).reshape(shape) for k, v in values["terms"].items()}
        return SampledTexts(episodes, np.array(values["gold"], dtype=np.float64).reshape(shape), terms)


class DesignInputs:
    """What a design may be made of: the task, its reward, the starting policy and texts it wrote.

    Args:
        settings: Of the benchmark.
        folder: Where texts are kept; those asked for must be there.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder

    @property
    def task(self) -> Task:
        """The task, its gold reward included."""
        return the_task(self.settings.task)

    @property
    def policy(self) -> Path | None:
        """Folder of the policy that every cell starts from; None where that is a new one."""
        return Path(self.settings.policy) if self.settings.policy else self.task.policy

    @cached_property
    def start(self) -> SampledTexts:
        """Four texts of each held-out prompt."""
        return SamplingJob(self.settings, "start").read(self.folder)

    @cached_property
    def pool(self) -> SampledTexts:
        """Two texts of each of many training prompts."""
        return SamplingJob(self.settings, "pool").read(self.folder)

    def candidates(self, seed: int) -> SampledTexts:
        """Many texts of some held-out prompts."""
        return SamplingJob(self.settings, "candidates", seed).read(self.folder)


def starting_policy(settings: Settings) -> Policy:
    """A fresh copy of the policy that all cells start from."""
    task = the_task(settings.task)
    place = settings.policy or task.policy
    if place is not None:
        tokenizer: Any = None if settings.policy else task.tokenizer
        return Policy.from_pretrained(place, tokenizer, device="cpu")
    context = task.max_tokens + max(
        len(task.tokenizer.encode(p.text)) for p in (*task.prompts, *task.held_out)
    )
    return Policy.new(task.tokenizer, context=context + 1, seed=0, device="cpu")
