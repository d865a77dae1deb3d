"""Preference pairs, ratings, likes and labels of steps, and the conversions between them.

An opinion knows its prompt, its texts, who holds it and how much it counts. Files are read elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from text_gym.chat import Talk
from text_gym.data import split_by_prompt
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, excerpt


@dataclass(frozen=True)
class PreferencePair:
    """Two completions of one prompt, and which one a rater prefers.

    Args:
        prompt: What was to be completed.
        chosen: The better completion.
        rejected: The worse one.
        margin: By how much reward `chosen` should be ahead, at least.
        tie: The rater found both equally good; which one is called chosen means nothing then.
        weight: How much the opinion counts, >= 0; e.g. the rater's reliability.
        rater: Who said it.
        turns: Of a conversation: the turns of the prompt, the chosen and the rejected completion.

    Raises:
        DataError: A margin or weight that is not finite, or negative; a tie with a margin.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    tie: bool = False
    weight: float = 1.0
    rater: str = ""
    turns: tuple[Talk, ...] = ()

    def __post_init__(self) -> None:
        _check_prompt_and_weight(self.weight, self.prompt)
        if not 0 <= self.margin < math.inf:
            raise DataError(
                f"margin {self.margin} of prompt {excerpt(self.prompt.id)} must be a finite number >= 0; "
                "turn the pair round if the other text is better"
            )
        if self.tie and self.margin:
            raise DataError(f"prompt {excerpt(self.prompt.id)}: a tie has no margin")


@dataclass(frozen=True)
class Rating:
    """One completion and the marks it got.

    Args:
        prompt: What was to be completed.
        completion: The completion.
        values: Criterion -> mark, larger is better; criteria that were not judged are left out.
        weight: How much the opinion counts, >= 0.
        rater: Who said it.
        turns: Of a conversation: the turns of the prompt and of the completion.

    Raises:
        DataError: A mark or weight that is not a finite number, or no mark at all.
    """

    prompt: Prompt
    completion: str
    values: Mapping[str, float]
    weight: float = 1.0
    rater: str = ""
    turns: tuple[Talk, ...] = ()

    def __post_init__(self) -> None:
        _check_prompt_and_weight(self.weight, self.prompt)
        if not self.values:
            raise DataError(f"the rating of prompt {excerpt(self.prompt.id)} has no mark")
        for name, value in self.values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise DataError(
                    f"{name} of prompt {excerpt(self.prompt.id)} is {value!r}, not a finite number; "
                    "leave out what was not judged"
                )


@dataclass(frozen=True)
class Like:
    """One completion, liked or not: what KTO (Ethayarajh et al. 2024) learns from.

    Args:
        prompt: What was to be completed.
        completion: The completion.
        label: True if it was liked.
        weight: How much the opinion counts, >= 0.
        rater: Who said it.
        turns: As of a `Rating`.
    """

    prompt: Prompt
    completion: str
    label: bool
    weight: float = 1.0
    rater: str = ""
    turns: tuple[Talk, ...] = ()

    def __post_init__(self) -> None:
        _check_prompt_and_weight(self.weight, self.prompt)


@dataclass(frozen=True)
class StepLabels:
    """A solution in steps and how right each of them is: what a process reward model learns from.

    Args:
        prompt: The problem.
        steps: The steps in order, without the delimiter between them; cut behind the last that was judged.
        labels: One in [0, 1] for each step: 1 is right, 0 is wrong; between them a share, as of rollouts
            that ended well.
        weight: How much the solution counts, >= 0.
        rater: Who said it.

    Raises:
        DataError: Steps and labels differ in number, a step is blank, or a label is not in [0, 1].
    """

    prompt: Prompt
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    weight: float = 1.0
    rater: str = ""

    def __post_init__(self) -> None:
        _check_prompt_and_weight(self.weight, self.prompt)
        about = f"the solution of prompt {excerpt(self.prompt.id)}"
        if len(self.steps) != len(self.labels) or not self.steps:
            raise DataError(
                f"{about} has {len(self.steps)} steps and {len(self.labels)} labels; give one for each step, "
                "and leave out steps that nobody judged"
            )
        for number, (step, label) in enumerate(zip(self.steps, self.labels, strict=True), 1):
            if not step.strip():
                raise DataError(f"step {number} of {about} is blank")
            if not 0 <= label <= 1:
                raise DataError(f"label {number} of {about} is {label}; labels are in [0, 1], and 1 is right")


Opinion = TypeVar("Opinion", PreferencePair, Rating, Like, StepLabels)


def pairs_from_ratings(
    ratings: Iterable[Rating], criterion: str, *, ties: bool = False
) -> list[PreferencePair]:
    """Pair every two completions that one rater marked for one prompt; the difference in marks is the margin.

    Args:
        ratings: The ratings.
        criterion: What to compare by; ratings without it are left out.
        ties: Keep equal marks as ties.
    """
    pairs = []
    for group in _grouped(r for r in ratings if criterion in r.values):
        for i, a in enumerate(group):
            for b in group[i + 1 :]:
                ahead = a.values[criterion] - b.values[criterion]
                better, worse = (a, b) if ahead >= 0 else (b, a)
                weight = math.sqrt(a.weight * b.weight)
                texts = (a.prompt, better.completion, worse.completion)
                about: dict[str, Any] = {"weight": weight, "rater": a.rater, "turns": _joined(better, worse)}
                if ahead:
                    pairs.append(PreferencePair(*texts, abs(ahead), **about))
                elif ties and a.completion != b.completion:
                    pairs.append(PreferencePair(*texts, tie=True, **about))
    return pairs


def likes_from_pairs(pairs: Iterable[PreferencePair]) -> list[Like]:
    """Turn chosen completions into likes and rejected ones into dislikes; ties are left out."""
    return [
        Like(p.prompt, text, label, p.weight, p.rater, (p.turns[0], p.turns[2 - label]) if p.turns else ())
        for p in pairs
        if not p.tie
        for text, label in ((p.chosen, True), (p.rejected, False))
    ]


def pairs_from_likes(likes: Iterable[Like]) -> list[PreferencePair]:
    """Prefer each liked completion to each disliked one of the same prompt and rater."""
    return [
        PreferencePair(
            *(a.prompt, a.completion, b.completion),
            weight=math.sqrt(a.weight * b.weight),
            rater=a.rater,
            turns=_joined(a, b),
        )
        for group in _grouped(likes)
        for a in group
        if a.label
        for b in group
        if not b.label
    ]


def split_opinions(
    opinions: Sequence[Opinion], held_out: float = 0.2, seed: int = 0
) -> tuple[list[Opinion], list[Opinion]]:
    """Split by prompt (`text_gym.split_by_prompt`): no prompt is on both sides.

    Raises:
        ConfigError: `held_out` is not in (0, 1).
        DataError: There are fewer than two prompts.
    """
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out is {held_out}; it must be between 0 and 1")
    kept, _ = split_by_prompt([o.prompt for o in opinions], held_out, seed)
    ids = {p.id for p in kept}
    train = [o for o in opinions if o.prompt.id in ids]
    if not train or len(train) == len(opinions):
        raise DataError(
            "there are opinions on fewer than two prompts; some are needed to learn, some to judge"
        )
    return train, [o for o in opinions if o.prompt.id not in ids]


def split_within(
    opinions: Sequence[Opinion], held_out: float, seed: int
) -> tuple[list[Opinion], list[Opinion]]:
    """Split as `split_opinions` does but independently, so that its training part can be split again.

    The split of a prompt follows from (seed, prompt), so the same seed would hold nothing out twice.
    """
    return split_opinions(opinions, held_out, -1 - seed)


def _joined(better: Rating | Like, worse: Rating | Like) -> tuple[Talk, ...]:
    """Return the turns of the pair that two opinions make; none if one is about a single text."""
    return (*better.turns, worse.turns[1]) if better.turns and worse.turns else ()


def _grouped(opinions: Iterable[Any]) -> list[list[Any]]:
    groups: dict[tuple[str, str], list[Any]] = {}
    for o in opinions:
        groups.setdefault((o.prompt.id, o.rater), []).append(o)
    return list(groups.values())


def _check_prompt_and_weight(weight: float, prompt: Prompt) -> None:
    if not isinstance(prompt, Prompt):
        raise DataError(f"the prompt is {type(prompt).__name__} {excerpt(str(prompt))}; pass Prompt(text)")
    if not 0 <= weight < math.inf:
        raise DataError(f"weight {weight} of prompt {excerpt(prompt.id)} must be a finite number >= 0")


Opinions = Sequence[PreferencePair] | Sequence[Rating]
