"""The values a reward source returns, and the checks that each of them passes once.

`Rewards` are those of a batch of finished episodes. Nothing here knows how they came about: see `source`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from text_gym.episode import BoolArray, Episode, FloatArray, IntArray, Prompt
from text_gym.errors import ConfigError, RewardError, excerpt
from text_gym.tokenizer import Tokenizer

Scores: TypeAlias = "Rewards | Sequence[float | None] | FloatArray"
OnBadReward = Literal["raise", "drop"]
_LARGEST = float(np.finfo(np.float32).max)  # agents compute in float32, where anything larger is infinity


def nested(name: str, rewards: Rewards) -> dict[str, FloatArray]:
    """Return a part's total and terms under its name."""
    inner = {f"{name}/{term}": known(rewards, values) for term, values in rewards.terms.items()}
    return {name: rewards.totals_or_nan, **inner}


def known(rewards: Rewards, values: Any) -> FloatArray:
    """NaN where the source abstained: an opinion that was not given is missing, not 0."""
    return np.where(rewards.abstained, np.nan, np.asarray(values, dtype=np.float64))


def unique(names: Iterable[str]) -> list[str]:
    """Make names unique by appending `_2`, `_3` … to repeated ones."""
    result: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in result:
            number, candidate = number + 1, f"{name}_{number}"
        result.append(candidate)
    return result


def finite(what: str, value: float) -> float:
    """Check that an option is a finite number, or raise `ConfigError`."""
    if isinstance(value, (bool, str)) or not np.isfinite(value):
        raise ConfigError(f"{what} must be a finite number, not {value!r}")
    return float(value)


@dataclass(frozen=True)
class Rewards:
    """The rewards of `n` episodes.

    Args:
        values: `(n,)` float64, paid on each episode's last token.
        per_token: `n` arrays `(T_i,)` float64, paid beside `values` on each token, or None.
        terms: Named parts or measurements, each `(n,)` float64; they reach `info` and the logs.
        abstained: `(n,)` bool, True where the source declined to judge. Abstention pays nothing: what a
            source returns when it is called is 0 there, in `values` and in `per_token`.
    """

    values: FloatArray
    per_token: tuple[FloatArray, ...] | None = None
    terms: Mapping[str, FloatArray] = field(default_factory=dict)
    abstained: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def __post_init__(self) -> None:
        if len(self.abstained) != len(self.values):
            object.__setattr__(self, "abstained", np.zeros(len(self.values), dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def totals(self) -> FloatArray:
        """The sum of each episode's value and per-token rewards, `(n,)` float64."""
        if self.per_token is None:
            return self.values
        totals: FloatArray = self.values + np.array([float(t.sum()) for t in self.per_token])
        return totals

    @property
    def totals_or_nan(self) -> FloatArray:
        """The totals, `(n,)` float64, NaN where the source abstained."""
        return known(self, self.totals)

    def among(self, episodes: Sequence[Episode], places: IntArray) -> Rewards:
        """Return the rewards of more episodes, of which these are some: the others get 0, and NaN as terms.

        Args:
            episodes: All `m` of them.
            places: `(n,)` int64, where those stand that these rewards are of.
        """

        def spread(column: Any, filler: float) -> Any:
            every = np.full(len(episodes), filler, dtype=column.dtype)
            every[places] = column
            return every

        per_token = None
        if self.per_token is not None:
            given = dict(zip(places.tolist(), self.per_token, strict=True))
            per_token = tuple(given.get(i, np.zeros(len(e.completion_ids))) for i, e in enumerate(episodes))
        terms = {k: spread(np.asarray(v, dtype=np.float64), np.nan) for k, v in self.terms.items()}
        return Rewards(spread(self.values, 0.0), per_token, terms, spread(self.abstained, False))

    @classmethod
    def from_scores(cls, scores: FloatArray, terms: Mapping[str, FloatArray] | None = None) -> Rewards:
        """Rewards paid at the end, from numbers that are NaN where there is no opinion.

        >>> Rewards.from_scores(np.array([0.5, np.nan])).abstained
        array([False,  True])

        Args:
            scores: `(n,)` float64, reward or NaN.
            terms: As in `Rewards`.
        """
        abstained = np.isnan(scores)
        return cls(np.where(abstained, 0.0, scores), terms=terms or {}, abstained=abstained)


@dataclass(frozen=True)
class TokenBatch:
    """The newest tokens of `n` running episodes, as columns.

    Args:
        prompts: All prompts there are; the same object as long as they stay the same.
        prompt_index: `(n,)` int64, each episode's prompt among them.
        tokens: `(n,)` int64, the newest token; it did not end the text, though under `limit="truncate"` it
            may have been the last one allowed.
        steps: `(n,)` int64, completion tokens so far, the newest included.
        tokenizer: What the ids belong to.
        episodes: Makes the `n` episodes so far, with `finish_reason` None.
        on_bad_reward: As in a call of the source.
    """

    prompts: Sequence[Prompt]
    prompt_index: IntArray
    tokens: IntArray
    steps: IntArray
    tokenizer: Tokenizer
    episodes: Callable[[], list[Episode]]
    on_bad_reward: OnBadReward = "raise"


class Scorer(Protocol):
    """The attributes of a reward source that the checks read and write."""

    name: str
    abstains: bool
    _last_failure: str | None


def _checked(
    source: Scorer, episodes: Sequence[Episode], scores: Scores, on_bad_reward: OnBadReward
) -> Rewards:
    """Check what a source returned, and put 0 where it abstained; every source's rewards pass here."""
    rewards = scores if isinstance(scores, Rewards) else None
    raw: Any = rewards.values if rewards else scores
    try:
        count = -1 if isinstance(raw, (str, bytes, Mapping, Set)) else len(raw)
    except TypeError:
        count = -1
    if count != len(episodes):
        found = f"{count} rewards" if count >= 0 else f"a {type(raw).__name__}"
        raise RewardError(
            f"reward {source.name!r} returned {found} for {len(episodes)} episodes; "
            "return one number an episode, in the order given"
        )
    abstained = rewards.abstained.copy() if rewards else np.zeros(count, dtype=np.bool_)
    values = _plain_numbers(raw)
    if values is None or np.count_nonzero(abstained):
        values = np.zeros(count)
        for i, item in enumerate(raw):
            if abstained[i]:
                continue
            number, problem = _as_number(item)
            if not problem:
                values[i] = number
            elif source.abstains and (item is None or math.isnan(number)):
                abstained[i] = True
            else:
                _refuse_or_drop(source, episodes[i], i, problem, on_bad_reward)
                abstained[i] = True
    if rewards is None:
        return Rewards(values, abstained=abstained)
    for name, term in rewards.terms.items():
        if np.shape(term) != (count,):
            raise RewardError(
                f"reward {source.name!r}: term {name!r} has shape {np.shape(term)}, expected ({count},)"
            )
    per_token = _checked_per_token(source, episodes, rewards, on_bad_reward, abstained)
    values[abstained] = 0.0
    return Rewards(values, per_token, rewards.terms, abstained)


def _checked_per_token(
    source: Scorer,
    episodes: Sequence[Episode],
    rewards: Rewards,
    on_bad_reward: OnBadReward,
    abstained: BoolArray,
) -> tuple[FloatArray, ...] | None:
    """Check per-token rewards, putting 0 where the source abstained; dropped episodes are marked in place."""
    if rewards.per_token is None:
        return None
    if len(rewards.per_token) != len(episodes):
        raise RewardError(
            f"reward {source.name!r} returned per-token rewards for {len(rewards.per_token)} "
            f"of {len(episodes)} episodes"
        )
    arrays = tuple(np.asarray(a, dtype=np.float64) for a in rewards.per_token)
    for i, (array, episode) in enumerate(zip(arrays, episodes, strict=True)):
        if array.shape != episode.completion_ids.shape:
            raise _bad(
                source, episode, i, f"has per-token shape {array.shape}, not {episode.completion_ids.shape}"
            )
    if not _all_finite(np.concatenate(arrays)):
        for i in np.flatnonzero(~abstained).tolist():
            if not _all_finite(arrays[i]):
                problem = "has a per-token reward that is not a finite float32"
                _refuse_or_drop(source, episodes[i], i, problem, on_bad_reward)
                abstained[i] = True
    if not np.count_nonzero(abstained):
        return arrays
    return tuple(np.zeros_like(a) if mute else a for a, mute in zip(arrays, abstained, strict=True))


def _all_finite(x: FloatArray) -> bool:
    """Return True if all numbers are finite, even in float32."""
    return not x.size or bool(np.abs(x).max() <= _LARGEST)  # False for NaN


def _plain_numbers(raw: Any) -> FloatArray | None:
    """Copy the rewards into an array if all are ordinary finite numbers, the usual case."""
    if not isinstance(raw, np.ndarray):
        if not set(map(type, raw)) <= {float, int, bool, np.float64}:
            return None
        try:
            values = np.array(raw, dtype=np.float64)
        except (OverflowError, ValueError):
            return None
    elif raw.ndim == 1 and raw.dtype.kind in "fiub":
        values = raw.astype(np.float64)
    else:
        return None
    return values if _all_finite(values) else None


def _as_number(item: Any) -> tuple[float, str]:
    """Return the value and, if it cannot be a reward, what is wrong with it."""
    if getattr(item, "requires_grad", False):
        return 0.0, "is a tensor with gradient; return tensor.item()"
    if hasattr(item, "item") and getattr(item, "shape", None) == ():
        item = item.item()
    if isinstance(item, (numbers.Real, np.bool_)):
        try:
            number = float(item)
        except (OverflowError, ValueError):
            return math.inf, f"is {item!r}, too large for a float"
        if not math.isfinite(number):
            return number, f"is {number}"
        if abs(number) > _LARGEST:
            return number, f"is {number:g}, beyond float32"
        return number, ""
    if item is None:
        return 0.0, "is None, not a number; without an opinion it is FunctionReward(f, abstains=True)"
    return 0.0, f"is {type(item).__name__} {excerpt(repr(item), 30)}, not a number"


def _refuse_or_drop(
    source: Scorer, episode: Episode, i: int, problem: str, on_bad_reward: OnBadReward
) -> None:
    """Raise for a bad reward, or note it as the source's last failure where bad ones are dropped."""
    error = _bad(source, episode, i, problem)
    if on_bad_reward == "raise":
        raise error
    source._last_failure = str(error)


def _bad(source: Scorer, episode: Episode, i: int, problem: str) -> RewardError:
    return RewardError(
        f"reward {source.name!r}: episode {i} {problem} "
        f"(prompt {excerpt(episode.prompt.id)}, completion {excerpt(episode.completion)})"
    )
