"""What is validated: a reward on the texts of a task, with all that is known about what it should pay for."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import TextGymError, TokenError
from text_gym.reward_models.audit.scoring import scores
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating
from text_gym.rewards.source import RewardSource, describe_reward
from text_gym.tasks.task import Task

Texts = Sequence[tuple[Prompt, str]]
GOLDEN_COLUMNS = ("answer", "golden", "solution", "reference", "target", "completion")
_LEAST = 1e-9
_ANSWERS = 150  # prompts whose golden texts are listed


@dataclass(frozen=True)
class Subject:
    """A reward, the task whose texts it is tried on, and what is known beside it.

    Args:
        name: What to call it.
        kind: `task` if the reward is the task's own, else `reward`.
        task: Gives prompts, vocabulary and token limit.
        source: The reward.
        golden: Writes a perfect completion; None if nobody knows one.
        honest: Written texts, good and bad ones, of prompts that nothing was fitted to.
        canaries: Texts that are known to be hacks.
        ratings: Texts that people marked.
        pairs: Texts that people compared.
        gold: What the reward should follow, if that is known and is not the reward itself.
        maximum: Largest reward there is, if that is known.
        prompts: How many prompts are looked at.
        seed: Decides which.
    """

    name: str
    kind: str
    task: Task
    source: RewardSource
    golden: Callable[[Prompt], str] | None = None
    honest: Texts = ()
    canaries: Texts = ()
    ratings: Sequence[Rating] = ()
    pairs: Sequence[PreferencePair] = ()
    gold: RewardSource | None = None
    maximum: float | None = None
    prompts: int = 24
    seed: int = 0

    @property
    def digest(self) -> str:
        """A hash of prompts, vocabulary, limit and the reward's description."""
        parts = [
            [p.text for p in (*self.task.prompts, *self.task.held_out)],
            [self.task.tokenizer.fingerprint, self.task.max_tokens, describe_reward(self.source)],
        ]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def write(self, prompt: Prompt, text: str) -> Episode | None:
        """Return the episode in which a policy writes a text, cut at the limit; None if it cannot.

        The text is what the ids decode to, since a policy writes ids: a closed vocabulary may lack spaces.
        """
        tokenizer = self.task.tokenizer
        try:
            ids = prompt.encode_completion(text, tokenizer)
        except TokenError:
            return None
        cut = len(ids) > self.task.max_tokens
        return Episode(
            prompt,
            np.array(prompt.encode(tokenizer), dtype=np.int64),
            np.array(ids[: self.task.max_tokens], dtype=np.int64),
            tokenizer,
            finish_reason="length" if cut else "eos",
        )

    def written(self, texts: Texts) -> list[Episode]:
        """Return the episodes of those texts that the vocabulary can write."""
        made = (self.write(prompt, text) for prompt, text in texts)
        return [episode for episode in made if episode is not None]

    def score(self, episodes: Sequence[Episode]) -> FloatArray:
        """Score texts, `(n,)`, NaN where the reward abstains or refuses."""
        return scores(self.source, list(episodes)) if episodes else np.zeros(0)

    def rng(self, what: str) -> random.Random:
        """Return a generator of its own for a purpose."""
        return random.Random(f"validate {self.seed} {what}")


@dataclass(frozen=True)
class Materials:
    """The texts that several levels look at, and the scale between the floor and golden texts.

    Args:
        subject: What they are for.
    """

    subject: Subject

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Prompts to look at, held-out ones."""
        own = list(self.subject.task.held_out or self.subject.task.prompts)
        self.subject.rng("prompts").shuffle(own)
        return own[: self.subject.prompts]

    @cached_property
    def golden(self) -> dict[str, str]:
        """Golden texts by the text of their prompt."""
        write = self.subject.golden
        if write is None:
            return {}
        found = {}
        for prompt in self.prompts:
            try:
                found[prompt.text] = str(write(prompt))
            except TextGymError:
                raise
            except Exception as error:
                raise TextGymError(
                    f"the golden text of {prompt.id!r} cannot be written: {error!r}"
                ) from error
        return found

    def is_golden(self, prompt: Prompt, text: str) -> bool:
        """Return True if a text is the prompt's golden one, spaces and letter case aside."""
        return " ".join(self.golden.get(prompt.text, "\0").split()).lower() == " ".join(text.split()).lower()

    @cached_property
    def golden_episodes(self) -> list[Episode]:
        """The golden texts as episodes, of those that can be written."""
        return self.subject.written([(p, self.golden[p.text]) for p in self.prompts if p.text in self.golden])

    @cached_property
    def honest(self) -> list[Episode]:
        """Honest texts, one of each prompt before a second of any; golden ones if there are no others."""
        rounds: dict[str, int] = {}
        ordered = []
        for i, (prompt, text) in enumerate(itertools.islice(self.subject.honest, 2000)):
            rounds[prompt.text] = turn = rounds.get(prompt.text, -1) + 1
            ordered.append((turn, i, prompt, text))
        ordered.sort(key=lambda row: row[:2])
        found = self.subject.written([(prompt, text) for _, _, prompt, text in ordered[:64]])
        return found or self.golden_episodes

    @cached_property
    def nothing(self) -> list[Episode]:
        """Texts that end at once, one a prompt."""
        return self.subject.written([(p, "") for p in self.prompts])

    @cached_property
    def scale(self) -> RewardRange:
        """The range of the reward, measured."""
        score = self.subject.score
        golden, honest, nothing = score(self.golden_episodes), score(self.honest), score(self.nothing)
        known = [x for x in (golden, honest, nothing) if len(x) and not np.isnan(x).all()]
        top = self.subject.maximum
        if top is None:
            top = float(np.nanmax(np.concatenate(known))) if known else np.nan
        reached = float(np.nanmean(golden)) if len(golden) and not np.isnan(golden).all() else top
        # A text that ends at once may be judged, or refused; what is refused earns nothing.
        floor = float(np.nanmean(nothing)) if len(nothing) and not np.isnan(nothing).all() else np.nan
        low = float(np.nanmin(np.concatenate(known))) if known else np.nan
        return RewardRange(low if np.isnan(floor) else floor, reached, top, low, golden, honest)

    @cached_property
    def answers(self) -> list[str]:
        """Golden texts of prompts to learn on, which a policy may list, the most frequent first."""
        write = self.subject.golden
        if write is None:
            return []
        own = list(self.subject.task.prompts)
        self.subject.rng("answers").shuffle(own)
        return [text for text, _ in Counter(str(write(p)) for p in own[:_ANSWERS]).most_common()]

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words of honest and golden texts and of prompts, the most frequent first."""
        counts: dict[str, int] = {}
        texts = [e.completion for e in (*self.honest, *self.golden_episodes)]
        for text in (*texts, *(p.text for p in self.prompts)):
            for word in dict.fromkeys(text.split()):
                counts[word.strip(".,;:!?")] = counts.get(word.strip(".,;:!?"), 0) + 1
        counts.pop("", None)
        return sorted(counts, key=lambda w: (-counts[w], w))

    def other(self, i: int) -> Prompt:
        """Return a prompt whose golden text is another than that of prompt `i`, if there is one."""
        mine = self.golden.get(self.prompts[i].text)
        for k in range(1, len(self.prompts)):
            prompt = self.prompts[(i + k) % len(self.prompts)]
            if self.golden.get(prompt.text, mine) != mine:
                return prompt
        return self.prompts[i]


@dataclass(frozen=True)
class RewardRange:
    """The range of a reward as it was measured, and the rewards it was measured on.

    Args:
        floor: Mean reward of texts that end at once.
        reached: Mean reward of golden texts.
        top: The declared maximum, or the largest reward of any golden, honest or empty text.
        low: The smallest reward of any of them.
        golden: `(n,)` of golden texts.
        honest: `(m,)` of honest texts.
    """

    floor: float
    reached: float
    top: float
    low: float
    golden: FloatArray = dataclasses.field(repr=False)
    honest: FloatArray = dataclasses.field(repr=False)

    @property
    def width(self) -> float:
        """From the floor to golden texts; NaN where there is none."""
        width = self.reached - self.floor
        return width if width > _LEAST else np.nan

    def unit(self, rewards: FloatArray) -> FloatArray:
        """Return rewards with 0 at the floor and 1 at golden texts."""
        return np.asarray((rewards - self.floor) / self.width, dtype=np.float64)
