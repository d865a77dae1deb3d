"""Rewards: one protocol, always batched, over finished episodes.

A `RewardSource` turns episodes into `Rewards`; a plain function becomes one with
`as_reward_source`. Every number is checked once, here, before it can reach an update.
The KL penalty is no reward source: it needs the policy and belongs to the agent.
"""

from __future__ import annotations

import inspect
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .episode import BoolArray, Episode, IntArray, Prompt
from .errors import ConfigError, RewardError, TextGymError, excerpt
from .tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float64]
Scores: TypeAlias = "Rewards | Sequence[float | None] | FloatArray"
OnBadReward = Literal["raise", "drop"]
_LARGEST = float(np.finfo(np.float32).max)  # agents compute in float32: more is infinity there


@dataclass(frozen=True)
class Rewards:
    """Rewards of `n` episodes.

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
        """`(n,)` float64: value and per-token rewards of each episode summed."""
        if self.per_token is None:
            return self.values
        totals: FloatArray = self.values + np.array([float(t.sum()) for t in self.per_token])
        return totals


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


class RewardSource(ABC):
    """Scores episodes in batches. Subclasses write `score`; callers call the source itself.

    Attributes:
        name: Shown in errors, logs and plots.
        deterministic: Equal episodes get equal rewards, alone or in any batch. Only then may
            rewards be cached or stored transcripts be scored again.
        abstains: `None` (or NaN) means "no opinion" and not a mistake.
        causal: Per-token rewards of a prefix are those of the whole episode. Only then can an
            environment pay them token by token; otherwise it pays their sum at the end. Where the source
            abstains in the end, the last step takes back what the earlier ones paid.
        interactive: People are asked, now: training asks for the texts it learns from and for no others.
    """

    name: str = "reward"
    deterministic: bool = True
    abstains: bool = False
    causal: bool = False
    interactive: bool = False
    _last_failure: str | None = None

    @property
    def last_failure(self) -> str | None:
        """Why the source last failed to judge an episode, in words that can be printed; None if it never did.

        It tells the user why a batch has no scores. A source that turns faults into abstentions, as a judge
        behind an endpoint does, sets `_last_failure`; later successes do not clear it.
        """
        return self._last_failure

    @abstractmethod
    def score(self, episodes: Sequence[Episode]) -> Scores:
        """One number an episode (or `Rewards`), in the order given. Called with at least one."""

    def __call__(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward = "raise") -> Rewards:
        """Score a batch of episodes and check the answer.

        Args:
            episodes: `B` finished episodes (prefixes too, if the source is causal).
            on_bad_reward: `"raise"` refuses the whole batch; `"drop"` makes bad ones abstain, and
                `last_failure` says what was bad.

        Raises:
            RewardError: The source raised, returned another number of rewards than episodes, or
                something that is not a finite number. The source, prompt and text are named.
        """
        return self._judge(episodes, on_bad_reward) if episodes else Rewards(np.zeros(0))

    def _judge(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Checked rewards of at least one episode."""
        try:
            scores = self.score(episodes)
        except TextGymError:
            raise
        except Exception as error:
            raise RewardError(
                f"reward {self.name!r} raised {type(error).__name__}: {error} "
                f"(batch of {len(episodes)}, first prompt {excerpt(episodes[0].prompt.id)})"
            ) from error
        return _checked(self, episodes, scores, on_bad_reward)

    def token_rewards(self, batch: TokenBatch) -> FloatArray:
        """`(n,)` float64: what the newest token of each running episode earned; asked of causal sources.

        It is the last of the per-token rewards of the episode so far, and that is how it is found here.
        Override it where the columns are enough: making and scoring `n` episodes a step takes long.
        """
        per_token = self(batch.episodes(), batch.on_bad_reward).per_token
        if per_token is None:
            return np.zeros(len(batch.tokens))
        return np.array([rewards[-1] for rewards in per_token], dtype=np.float64)

    def state_dict(self) -> dict[str, Any]:
        """What the source remembers from call to call and its rewards depend on, as plain JSON data.

        A checkpoint holds it, so that a resumed run is paid as it would have been. Most sources remember
        nothing; one that does overrides this and `load_state_dict`.

        Raises:
            ConfigError: There is such a memory, and it cannot be had.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ConfigError: It is another source's.
        """
        if state:
            raise ConfigError(f"reward {self.name!r} remembers nothing, and was given {sorted(state)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def __add__(self, other: RewardSource | float) -> RewardSource:
        from .compose import add

        return add(self, other)

    def __sub__(self, other: RewardSource | float) -> RewardSource:
        from .compose import add

        return add(self, other, -1.0)

    def __mul__(self, factor: float) -> RewardSource:
        from .compose import Scale

        return Scale(self, factor)

    __radd__ = __add__  # sum([...]) begins with 0
    __rmul__ = __mul__


class FunctionReward(RewardSource):
    """A plain function as a reward source; see `as_reward_source` for the signatures it may have."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        deterministic: bool = True,
        abstains: bool = False,
    ) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.deterministic = deterministic
        self.abstains = abstains
        parameters = _signature(function).parameters.values()
        self._named = [
            p.name
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._required = {p.name for p in parameters if p.default is p.empty and p.name in self._named}
        by_name = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        self._texts = [n for n in self._named if n in self._required - by_name]
        self._plans: dict[tuple[str, ...], tuple[str, list[str]]] = {}

    def score(self, episodes: Sequence[Episode]) -> Scores:
        """Call the function in the way its parameters ask for."""
        names = self._named
        if {"prompts", "completions"} & set(names):
            batch: dict[str, Any] = {
                "prompts": [e.prompt.text for e in episodes],
                "completions": [e.completion for e in episodes],
                "completion_ids": [e.completion_ids.tolist() for e in episodes],
            }
            known = {k for e in episodes for k in e.prompt.columns}
            batch |= {k: [e.prompt.columns.get(k) for e in episodes] for k in sorted(known)}
            return cast("Scores", self.function(**self._select(batch)))
        if names[:1] == ["episodes"]:
            return cast("Scores", self.function(episodes))
        return [self._score_one(e) for e in episodes]

    def _score_one(self, episode: Episode) -> Any:
        columns = episode.prompt.columns
        texts, named = self._plans.get(tuple(columns)) or self._plan(tuple(columns))
        rest = {k: columns[k] for k in named} if named else {}
        if texts == "completion":
            return self.function(episode.completion, **rest)
        if texts == "both":
            return self.function(episode.prompt.text, episode.completion, **rest)
        return self.function(episode, **rest)

    def _plan(self, columns: tuple[str, ...]) -> tuple[str, list[str]]:
        """What goes by position, and which columns by name, for prompts that have these columns."""
        # Texts go by position, whatever the parameters are called.
        positional = [n for n in self._texts if n not in columns][:2]
        texts = "episode" if "episode" in positional[:1] else "both" if len(positional) == 2 else "completion"
        rest = {k: None for k in columns if k not in positional}
        self._plans[columns] = texts, list(self._select(rest, positional))
        return self._plans[columns]

    def _select(self, values: Mapping[str, Any], given: Sequence[str] = ()) -> dict[str, Any]:
        missing = self._required - set(values) - set(given)
        if missing:
            raise RewardError(
                f"reward {self.name!r} asks for {', '.join(sorted(missing))}, but the prompts have only "
                f"the columns {', '.join(sorted(values)) or '(none)'}"
            )
        return {k: v for k, v in values.items() if self._takes_any or k in self._named}


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # some built-in functions do not tell theirs
        return inspect.Signature([inspect.Parameter("completion", inspect.Parameter.POSITIONAL_ONLY)])


def as_reward_source(value: RewardSource | Callable[..., Any]) -> RewardSource:
    """Make a reward source of whatever scores text.

    Accepted functions, told apart by their parameters' names:

    - `(completion)` or `(prompt, completion, **columns) -> float`: one episode at a time;
    - `(prompts, completions, **columns) -> list[float]`: a batch, TRL's contract;
    - `(episode) -> float` and `(episodes) -> list[float]`: with ids and endings.

    >>> source = as_reward_source(lambda completion: len(completion))
    >>> from text_gym import ByteTokenizer
    >>> source([Episode.of("Say hi:", "hi", ByteTokenizer())]).values
    array([2.])
    """
    if isinstance(value, RewardSource):
        return value
    if callable(value):
        return FunctionReward(value)
    raise RewardError(f"{type(value).__name__} is not a reward: pass a RewardSource or a function")


class Scorer(Protocol):
    """The parts of a reward source that the checks of its answers read and write."""

    name: str
    abstains: bool
    _last_failure: str | None


def _checked(
    source: Scorer, episodes: Sequence[Episode], scores: Scores, on_bad_reward: OnBadReward
) -> Rewards:
    """What a source returned, checked, and 0 where it abstained: every source's rewards pass here."""
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
    """Per-token rewards, 0 where the source abstained; dropped episodes are marked as such, in place."""
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


def checked_tokens(source: RewardSource, batch: TokenBatch) -> FloatArray:
    """`source.token_rewards(batch)`, checked; where a bad one is dropped, 0 is paid.

    Raises:
        RewardError: Another number of rewards than tokens, or one that is not finite.
    """
    try:
        rewards = np.asarray(source.token_rewards(batch), dtype=np.float64)
    except TextGymError:
        raise
    except Exception as error:
        raise RewardError(
            f"reward {source.name!r} raised {type(error).__name__}: {error} (token rewards of "
            f"{len(batch.tokens)} running episodes)"
        ) from error
    if rewards.shape != batch.tokens.shape:
        raise RewardError(
            f"reward {source.name!r} returned token rewards of shape {rewards.shape} for "
            f"{len(batch.tokens)} running episodes"
        )
    if not _all_finite(rewards):
        bad = ~(np.abs(rewards) <= _LARGEST)
        if batch.on_bad_reward == "raise":
            i = int(np.flatnonzero(bad)[0])
            raise _bad(source, batch.episodes()[i], i, f"has the token reward {rewards[i]}")
        rewards = np.where(bad, 0.0, rewards)
    return rewards


def _all_finite(x: FloatArray) -> bool:
    """Whether all numbers are finite in float32, too."""
    return not x.size or bool(np.abs(x).max() <= _LARGEST)  # False for NaN


def _plain_numbers(raw: Any) -> FloatArray | None:
    """Rewards as an array of their own where all of them are ordinary finite numbers; the usual case."""
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
    """The value and, if it cannot be a reward, what is wrong with it."""
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
