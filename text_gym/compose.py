"""Reward composition: sums, gates, clips and scales of reward sources, which keep every named term.

A composite is a `RewardSource` again, so compositions nest; `print(composite)` shows the tree. An opinion
that was not given is NaN in the terms, never 0; that it pays nothing is seen to in `reward`. Not here:
transforms of one source (`transforms`), and how sources are called (`calls`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from .episode import Episode
from .errors import ConfigError
from .reward import FloatArray, OnBadReward, Rewards, RewardSource, _checked, as_reward_source

Source: TypeAlias = "RewardSource | Callable[..., Any]"


class Composite(RewardSource):
    """A source made of others; subclasses write `evaluate`.

    Attributes:
        parts: The sources inside, by the name their terms are kept under.
    """

    def __init__(self, parts: Mapping[str, Source], name: str) -> None:
        if not parts:
            raise ConfigError(f"{type(self).__name__} needs at least one reward source")
        self.parts = {part: as_reward_source(source) for part, source in parts.items()}
        self.name = name
        self.deterministic = all(p.deterministic for p in self.parts.values())
        self.abstains = any(p.abstains for p in self.parts.values())
        self.causal = all(p.causal for p in self.parts.values())
        self.interactive = any(p.interactive for p in self.parts.values())

    @abstractmethod
    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Rewards of at least one episode; the parts check their own, so `on_bad_reward` goes to them."""

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """`evaluate`, refusing bad rewards."""
        return self.evaluate(episodes, "raise")

    def _judge(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        # With "drop" a bad reward of a part makes that part abstain.
        return _checked(self, episodes, self.evaluate(episodes, on_bad_reward), on_bad_reward)

    @property
    def last_failure(self) -> str | None:
        """Its own last failure, or else that of the first part that has one."""
        failures = (self._last_failure, *(part.last_failure for part in self.parts.values()))
        return next((failure for failure in failures if failure is not None), None)

    def state_dict(self) -> dict[str, Any]:
        """What the parts remember."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        known = {name: state for name, state in states.items() if state}
        return {"parts": known} if known else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; every part gets its own."""
        states = dict(state.get("parts", {}))
        if set(state) - {"parts"} or set(states) - set(self.parts):
            raise ConfigError(f"reward {self.name!r} was given the memory of another source: {sorted(state)}")
        for name, part in self.parts.items():
            part.load_state_dict(states.get(name, {}))

    def label(self) -> str:
        """The composite's own line in the tree."""
        return f"{self.name}: {type(self).__name__}"

    def __str__(self) -> str:
        return describe(self)


class WeightedSum(Composite):
    """`Σ weight · reward`, in `[Σ min, Σ max]` of the weighted parts.

    A part that abstains on an episode adds nothing to it, token by token and at the end; the sum abstains
    where all parts do.
    Terms: each part's unweighted total under its name, its own terms under `name/term`.

    Args:
        parts: Name -> `(source, weight)`, or a source alone for weight 1.
        name: Name of the sum.

    >>> from text_gym import ByteTokenizer, FunctionReward
    >>> words = FunctionReward(lambda completion: len(completion.split()), name="words")
    >>> shouts = FunctionReward(lambda completion: completion.isupper(), name="shouts")
    >>> source = words - 5 * shouts
    >>> print(source)
    sum: WeightedSum
    ├─ 1 × words: FunctionReward
    └─ -5 × shouts: FunctionReward
    >>> source([Episode.of("Say hi:", "HELLO YOU", ByteTokenizer())]).values
    array([-3.])
    """

    def __init__(self, parts: Mapping[str, Source | tuple[Source, float]], name: str = "sum") -> None:
        pairs = {part: p if isinstance(p, tuple) else (p, 1.0) for part, p in parts.items()}
        super().__init__({part: source for part, (source, _) in pairs.items()}, name)
        self.weights = {part: finite("weight", weight) for part, (_, weight) in pairs.items()}

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The sum of the parts' rewards, per-token ones token by token."""
        values = np.zeros(len(episodes))
        abstained = np.ones(len(episodes), dtype=np.bool_)
        per_token: list[FloatArray] | None = None
        terms: dict[str, FloatArray] = {}
        for name, source in self.parts.items():
            rewards, weight = source(episodes, on_bad_reward), self.weights[name]
            values += weight * rewards.values
            abstained &= rewards.abstained
            if rewards.per_token is not None:
                per_token = per_token or [np.zeros(len(e.completion_ids)) for e in episodes]
                per_token = [a + weight * b for a, b in zip(per_token, rewards.per_token, strict=True)]
            terms |= nested(name, rewards)
        return Rewards(values, None if per_token is None else tuple(per_token), terms, abstained)


class Gate(Composite):
    """`source` where `condition >= threshold`, else `floor`: A only if B.

    Where the condition abstains, so does the gate; where the gate is shut, the source's opinion (and its
    abstention) does not matter. Per-token rewards of a shut episode are withheld, so a gate is not causal.
    Terms: both totals and their own terms, as in a sum, and `open` (0 or 1).

    Args:
        source: What is paid.
        condition: What must hold.
        threshold: Least total of the condition that opens the gate.
        floor: Reward of a shut episode.
    """

    def __init__(
        self,
        source: Source,
        condition: Source,
        *,
        threshold: float = 1.0,
        floor: float = 0.0,
        name: str = "gate",
    ) -> None:
        paid, asked = as_reward_source(source), as_reward_source(condition)
        names = unique([paid.name, asked.name])
        super().__init__(dict(zip(names, (paid, asked), strict=True)), name)
        self.causal = False
        self.threshold = finite("threshold", threshold)
        self.floor = finite("floor", floor)

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Both are scored on every episode, so that the terms are complete."""
        (paid_name, paid), (asked_name, asked) = (
            (n, s(episodes, on_bad_reward)) for n, s in self.parts.items()
        )
        is_open = asked.totals >= self.threshold
        values = np.where(is_open, paid.values, self.floor)
        per_token = paid.per_token and tuple(t * o for t, o in zip(paid.per_token, is_open, strict=True))
        abstained = asked.abstained | (is_open & paid.abstained)
        terms = nested(paid_name, paid) | nested(asked_name, asked)
        terms["open"] = np.where(asked.abstained, np.nan, is_open)
        return Rewards(values, per_token, terms, abstained)

    def label(self) -> str:
        """The condition in words."""
        paid, asked = self.parts
        return f"{self.name}: {paid} if {asked} >= {self.threshold:g}, else {self.floor:g}"


class Wrapper(Composite):
    """A composite of one source, whose name and terms it keeps; `raw` is what the innermost one said."""

    def __init__(self, source: Source) -> None:
        source = as_reward_source(source)
        super().__init__({source.name: source}, source.name)
        self.source = source

    def inner(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The source's rewards, with the term `raw` added."""
        rewards = self.source(episodes, on_bad_reward)
        return replace(rewards, terms={"raw": known(rewards, rewards.totals), **rewards.terms})


class Scale(Wrapper):
    """`factor · reward + offset`; per-token rewards are scaled, the offset is paid on the last token."""

    def __init__(self, source: Source, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__(source)
        self.factor, self.offset = finite("factor", factor), finite("offset", offset)

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """An affine map of the rewards."""
        rewards = self.inner(episodes, on_bad_reward)
        per_token = rewards.per_token and tuple(self.factor * t for t in rewards.per_token)
        return replace(rewards, values=self.factor * rewards.values + self.offset, per_token=per_token)

    def label(self) -> str:
        """With factor and offset."""
        return f"{self.name}: {self.factor:g} × reward" + (f" {self.offset:+g}" if self.offset else "")


def describe(source: RewardSource) -> str:
    """The tree of a source and its parts, one line each; weights and limits are shown."""

    def lines(source: RewardSource, prefix: str) -> list[str]:
        if not isinstance(source, Composite):
            return [f"{prefix}{source.name}: {type(source).__name__}"]
        result, parts = [prefix + source.label()], source.parts
        for i, (name, part) in enumerate(parts.items(), 1):
            branch, stem = ("└─ ", "   ") if i == len(parts) else ("├─ ", "│  ")
            weight = f"{source.weights[name]:g} × " if isinstance(source, WeightedSum) else ""
            renamed = f"{name} = " if name != part.name else ""
            below = lines(part, weight + renamed)
            result += [branch + below[0], *(stem + line for line in below[1:])]
        return result

    return "\n".join(lines(source, ""))


def add(left: RewardSource, right: object, sign: float = 1.0) -> RewardSource:
    """`left + sign · right`: sums are flattened, scaled parts become weights, a number is an offset.

    Raises:
        TypeError: `right` is neither a reward source nor a number.
    """
    if isinstance(right, RewardSource):
        addends = [*_addends(left), *((s, sign * w) for s, w in _addends(right))]
        names = unique([source.name for source, _ in addends])
        return WeightedSum(dict(zip(names, addends, strict=True)))
    if isinstance(right, (int, float)):
        return Scale(left, offset=sign * right) if right else left
    raise TypeError(f"cannot add {type(right).__name__} to a reward source")


def _addends(source: RewardSource) -> list[tuple[RewardSource, float]]:
    if type(source) is WeightedSum and source.name == "sum":
        return [(part, source.weights[name]) for name, part in source.parts.items()]
    if type(source) is Scale and source.offset == 0:
        return [(source.source, source.factor)]
    return [(source, 1.0)]


def nested(name: str, rewards: Rewards) -> dict[str, FloatArray]:
    """A part's total and terms, under its name."""
    inner = {f"{name}/{term}": known(rewards, values) for term, values in rewards.terms.items()}
    return {name: known(rewards, rewards.totals), **inner}


def known(rewards: Rewards, values: Any) -> FloatArray:
    """NaN where the source abstained: an opinion that was not given is missing, not 0."""
    return np.where(rewards.abstained, np.nan, np.asarray(values, dtype=np.float64))


def unique(names: Iterable[str]) -> list[str]:
    """The names, with `_2`, `_3` … where one comes again."""
    result: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in result:
            number, candidate = number + 1, f"{name}_{number}"
        result.append(candidate)
    return result


def finite(what: str, value: float) -> float:
    """An option that must be a finite number, or a `ConfigError`."""
    if isinstance(value, (bool, str)) or not np.isfinite(value):
        raise ConfigError(f"{what} must be a finite number, not {value!r}")
    return float(value)
