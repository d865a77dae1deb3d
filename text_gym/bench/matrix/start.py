"""The start that all cells of a matrix share: the task, the starting policy, and texts it wrote.

Texts are written once and kept in `sources/`; designs learn from them and are judged on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from text_gym.agents.algorithms.best_of_n import best_of_n
from text_gym.agents.policies.policy import Policy
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import Episode, FloatArray, word_counts
from text_gym.errors import ConfigError, TokenError
from text_gym.tasks.task import Task
from text_gym.transcripts import read_transcripts, write_transcripts
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import write_sealed

from .settings import Settings, digest

START_TEXTS = 4  # of each held-out prompt, to judge designs on
_SEED = 1_000_003  # for texts shared by all seeds of the matrix
_ANY_TEXT = "Buy 2, now!"


@dataclass(frozen=True)
class SampledTexts:
    """`k` texts by the starting policy for each of `N` prompts.

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
        """The number of words of each text, `(N, k)`."""
        return word_counts(self.episodes).reshape(self.gold.shape)

    @property
    def terminated(self) -> FloatArray:
        """1 where a text ended by itself, else 0, `(N, k)`."""
        return np.array([float(e.whole) for e in self.episodes]).reshape(self.gold.shape)


@dataclass(frozen=True)
class SamplingJob:
    """The job that samples texts from the starting policy.

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
        """The job's name in messages."""
        return f"texts · {self.use}" + (f" · seed {self.seed}" if self.use == "candidates" else "")

    @property
    def key(self) -> str:
        """A hash of everything the texts depend on."""
        return digest([self.settings.text_settings(), self.use, *self._shape(), self.seed])

    @property
    def place(self) -> str:
        """The path of the texts' folder."""
        return f"sources/{self.key}"

    @property
    def needs(self) -> list[str]:
        """The files that must exist before: none."""
        return []

    @property
    def makes(self) -> list[str]:
        """The files that exist afterwards."""
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
        """True if the texts exist."""
        return (folder / self.place).is_dir()

    def run(self, folder: Path) -> None:
        """Sample the texts and write them; the folder appears complete."""
        task, policy = self.settings.load_task(), starting_policy(self.settings)
        count, each = self._shape()
        prompts = (task.prompts if self.use == "pool" else task.held_out)[:count]
        if self.use == "pool":  # where there are fewer prompts, they come again, with other luck
            prompts = list(islice(cycle(prompts), count))
        env = TextVectorEnv(**task.env_kwargs(prompts=prompts), shuffle=False)
        found = best_of_n(policy, env, each, prompts, seed=_SEED + 7 * self.seed + len(self.use))
        gold = task.reward(found.episodes)
        terms = {k: np.asarray(v, dtype=np.float64).tolist() for k, v in gold.terms.items()}
        values = {"gold": gold.totals_or_nan.tolist(), "terms": terms}

        def fill(partial: Path) -> None:
            write_transcripts(partial / "texts.jsonl", found.episodes)
            write_json(partial / "gold.json", {**values, "each": each})

        (folder / self.place).parent.mkdir(parents=True, exist_ok=True)
        write_sealed(folder / self.place, fill, {"what": self.name})

    def read(self, folder: Path) -> SampledTexts:
        """Read the texts that `run` wrote."""
        place = folder / self.place
        values = json.loads((place / "gold.json").read_text(encoding="utf-8"))
        shape = (-1, values["each"])
        episodes = list(read_transcripts(place / "texts.jsonl", self.settings.load_task().tokenizer))
        terms = {k: np.array(v, dtype=np.float64).reshape(shape) for k, v in values["terms"].items()}
        return SampledTexts(episodes, np.array(values["gold"], dtype=np.float64).reshape(shape), terms)


class DesignInputs:
    """The inputs of a design: the task, its reward, the starting policy and texts it wrote.

    Args:
        settings: Of the benchmark.
        folder: Where texts are kept; those asked for must be there.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder

    @property
    def task(self) -> Task:
        """The task, its gold reward included."""
        return self.settings.load_task()

    @property
    def policy(self) -> Path | None:
        """The folder of the policy every cell starts from; None if it is a new one."""
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


def check_measurable(settings: Settings) -> None:
    """Refuse a task on which no design can be measured, before anything is written.

    Raises:
        ConfigError: It is a conversation, has no policy to start from, or its tokens cannot write every text.
    """
    task = settings.load_task()
    if task.respondent is not None:
        raise ConfigError(
            f"task {task.name!r} is a conversation, and the designs of bench rewards judge single texts; "
            f"`text-gym bench agents --tasks {task.name}` compares algorithms on it"
        )
    try:
        task.tokenizer.encode(_ANY_TEXT)
    except TokenError as error:
        raise ConfigError(
            f"task {task.name!r} has tokens for its own symbols alone, and designs are tried on texts that "
            f"it does not write ({error}); `text-gym bench agents --tasks {task.name}` compares algorithms "
            "on it"
        ) from error
    if settings.policy is None and task.policy is None:
        raise ConfigError(f"task {task.name!r} comes with no policy to start from; pass --policy FOLDER")


def starting_policy(settings: Settings) -> Policy:
    """Load a fresh copy of the policy that all cells start from."""
    task = settings.load_task()
    place = settings.policy or task.policy
    if place is not None:
        tokenizer: Any = None if settings.policy else task.tokenizer
        return Policy.from_pretrained(place, tokenizer, device="cpu")
    context = task.max_tokens + max(len(p.encode(task.tokenizer)) for p in (*task.prompts, *task.held_out))
    return Policy.new(task.tokenizer, context=context + 1, seed=0, device="cpu")
