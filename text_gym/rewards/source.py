"""Reward sources: one protocol, always batched, over finished episodes; functions and sums as sources.

Sums, scales and other composites are sources again, so they nest; `print(composite)` shows the tree. The KL
penalty is no reward source: it needs the policy and belongs to the agent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, RewardError, TextGymError, excerpt
from text_gym.showing import as_html
from text_gym.utils.user_code import where_raised

from .arguments import JUST_THE_COMPLETION, Arguments
from .values import OnBadReward, Rewards, Scores, TokenBatch, _checked, finite, known, nested, unique

Source: TypeAlias = "RewardSource | Callable[..., Any]"


class RewardSource(ABC):
    """Scores episodes in batches; subclasses write `score`, and callers call the source itself.

    Attributes:
        name: Shown in errors, logs and plots.
        deterministic: Equal episodes get equal rewards, alone or in any batch; only then may they be cached.
        abstains: `None` (or NaN) means "no opinion" and not a mistake.
        causal: Per-token rewards of a prefix are those of the whole episode, so that they can be paid token
            by token. Where the source abstains in the end, the last step takes back what was paid.
        interactive: People are asked, now: training asks for the texts it learns from and for no others.
        costly: Each text costs, as a judge's does: golden ones are not asked about to watch a run.
        batch_invariant: An episode's reward depends on no other of its batch; None is as `deterministic` is.
    """

    name: str = "reward"
    deterministic: bool = True
    abstains: bool = False
    causal: bool = False
    interactive: bool = False
    costly: bool = False
    batch_invariant: bool | None = None
    _last_failure: str | None = None

    @property
    def last_failure(self) -> str | None:
        """The reason the source last failed to judge an episode, safe to print; None if it never did.

        A source that turns faults into abstentions sets `_last_failure`; later successes do not clear it.
        """
        return self._last_failure

    @abstractmethod
    def score(self, episodes: Sequence[Episode]) -> Scores:
        """Return one number per episode (or `Rewards`), in order; there is always at least one episode."""

    def __call__(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward = "raise") -> Rewards:
        """Score a batch of episodes and check the answer.

        Args:
            episodes: `B` finished episodes (prefixes too, if the source is causal).
            on_bad_reward: `"raise"` refuses the whole batch; `"drop"` makes bad ones abstain, and
                `last_failure` says what was bad.

        Raises:
            RewardError: The source raised, or did not return one finite number per episode; it is named.
        """
        return self._judge(episodes, on_bad_reward) if episodes else Rewards(np.zeros(0))

    def _judge(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Score at least one episode and check the rewards."""
        try:
            scores = self.score(episodes)
        except TextGymError:
            raise
        except (Exception, SystemExit) as error:  # a reward may not end the program, with status 0 at that
            raise RewardError(
                f"reward {self.name!r} raised {type(error).__name__}: {error}{where_raised(error)} "
                f"(batch of {len(episodes)}, first prompt {excerpt(episodes[0].prompt.id)})"
            ) from error
        return _checked(self, episodes, scores, on_bad_reward)

    def token_rewards(self, batch: TokenBatch) -> FloatArray:
        """Return what each running episode's newest token earned, `(n,)` float64; only for causal sources.

        Found here as the last of the per-token rewards; override it where the columns are enough.
        """
        per_token = self(batch.episodes(), batch.on_bad_reward).per_token
        if per_token is None:
            return np.zeros(len(batch.tokens))
        return np.array([rewards[-1] for rewards in per_token], dtype=np.float64)

    def state_dict(self) -> dict[str, Any]:
        """Return the source's memory as plain JSON data, so that a resumed run is paid as it would have been.

        Most sources remember nothing; one that does overrides this and `load_state_dict`.

        Raises:
            ConfigError: There is a memory, and it cannot be had.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory that `state_dict` returned.

        Raises:
            ConfigError: It is another source's.
        """
        if state:
            raise ConfigError(f"reward {self.name!r} has no memory to restore, but was given {sorted(state)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def _repr_html_(self) -> str:
        return as_html(self)

    def __add__(self, other: RewardSource | float) -> RewardSource:
        return _add(self, other)

    def __sub__(self, other: RewardSource | float) -> RewardSource:
        return _add(self, other, -1.0)

    def __mul__(self, factor: float) -> RewardSource:
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
        self.deterministic, self.abstains = deterministic, abstains
        self._arguments = Arguments(function, self.name)

    def score(self, episodes: Sequence[Episode]) -> Scores:
        """Call the function with the arguments its parameters ask for."""
        asks = self._arguments
        if asks.batched:
            return cast("Scores", self.function(**asks.of_batch(episodes)))
        if asks.whole:
            return cast("Scores", self.function(episodes))
        if not any(e.prompt.columns for e in episodes) and asks.plan(()) == JUST_THE_COMPLETION:
            return [self.function(e.completion) for e in episodes]  # no plan for each: it takes longer
        return [asks.plan(tuple(e.prompt.columns)).call(self.function, e) for e in episodes]


def as_reward_source(value: RewardSource | Callable[..., Any]) -> RewardSource:
    """Turn anything that scores text into a reward source.

    Accepted functions, told apart by their parameters' names:

    - `(completion)` or `(prompt, completion, **columns) -> float`: one episode at a time, in any order; texts
      may have other names in this one;
    - `(prompts, completions, **columns) -> list[float]`: a batch, TRL's contract;
    - `(episode) -> float` and `(episodes) -> list[float]`: with ids and endings.

    >>> source = as_reward_source(lambda completion: len(completion))
    >>> from text_gym import ByteTokenizer
    >>> source([Episode.of("Say hi:", "hi", ByteTokenizer())]).values
    array([2.])
    """
    if isinstance(value, RewardSource):
        return value
    if isinstance(value, type) and any("__call__" in vars(kind) for kind in value.__mro__):
        raise RewardError(f"the reward is the class {value.__name__}; make one: {value.__name__}(...)")
    if callable(value):
        return FunctionReward(value)
    raise RewardError(
        f"the reward {excerpt(value)} is a name; write `from text_gym.reward_models import load_reward` and "
        f"reward=load_reward({excerpt(value)})"
        if isinstance(value, str)
        else f"{type(value).__name__} is not a reward: pass a RewardSource or a function"
    )


class Composite(RewardSource):
    """A source made of other sources; subclasses write `evaluate`.

    Attributes:
        parts: The sources inside, by the name their terms are kept under.
    """

    def __init__(self, parts: Mapping[str, Source], name: str) -> None:
        if not parts:
            raise ConfigError(f"{type(self).__name__} needs at least one reward source")
        self.parts = {part: as_reward_source(source) for part, source in parts.items()}
        self.name = name
        for flags, of in ((("deterministic", "causal"), all), (("abstains", "interactive", "costly"), any)):
            for flag in flags:
                setattr(self, flag, of(getattr(part, flag) for part in self.parts.values()))

    @abstractmethod
    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Score at least one episode; the parts check their own rewards, so `on_bad_reward` is passed on."""

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Call `evaluate`, refusing bad rewards."""
        return self.evaluate(episodes, "raise")

    def _judge(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        return _checked(self, episodes, self.evaluate(episodes, on_bad_reward), on_bad_reward)

    @property
    def last_failure(self) -> str | None:
        """The composite's own last failure, or else that of the first part that has one."""
        failures = (self._last_failure, *(part.last_failure for part in self.parts.values()))
        return next((failure for failure in failures if failure is not None), None)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory of all parts."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        known = {name: state for name, state in states.items() if state}
        return {"parts": known} if known else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory of every part."""
        states = dict(state.get("parts", {}))
        if set(state) - {"parts"} or set(states) - set(self.parts):
            raise ConfigError(f"reward {self.name!r} was given the memory of another source: {sorted(state)}")
        for name, part in self.parts.items():
            part.load_state_dict(states.get(name, {}))

    def label(self) -> str:
        """The line that describes the composite in the tree."""
        return f"{self.name}: {type(self).__name__}"

    def __str__(self) -> str:
        return describe_reward(self)


class WeightedSum(Composite):
    """Pays `Σ weight · reward`, in `[Σ min, Σ max]` of the weighted parts.

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
        """Sum the parts' rewards, per-token ones token by token."""
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


class Wrapper(Composite):
    """A composite of one source that keeps its name and terms; the term `raw` is the innermost reward."""

    def __init__(self, source: Source) -> None:
        source = as_reward_source(source)
        super().__init__({source.name: source}, source.name)
        self.source = source

    def inner(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Score with the inner source and add the term `raw`."""
        rewards = self.source(episodes, on_bad_reward)
        return replace(rewards, terms={"raw": known(rewards, rewards.totals), **rewards.terms})


class Scale(Wrapper):
    """Pays `factor · reward + offset`; per-token rewards are scaled, the offset goes to the last token."""

    def __init__(self, source: Source, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__(source)
        self.factor, self.offset = finite("factor", factor), finite("offset", offset)

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Apply the affine map to the rewards."""
        rewards = self.inner(episodes, on_bad_reward)
        per_token = rewards.per_token and tuple(self.factor * t for t in rewards.per_token)
        return replace(rewards, values=self.factor * rewards.values + self.offset, per_token=per_token)

    def label(self) -> str:
        """The scale with its factor and offset."""
        return f"{self.name}: {self.factor:g} × reward" + (f" {self.offset:+g}" if self.offset else "")


def describe_reward(source: RewardSource) -> str:
    """Describe the tree of a source and its parts, one line each, with weights and limits."""

    def lines(source: RewardSource, prefix: str) -> list[str]:
        if not isinstance(source, Composite):
            return [f"{prefix}{source.name}: {type(source).__name__}"]
        result = [prefix + source.label()]
        for i, (name, part) in enumerate(source.parts.items(), 1):
            branch, stem = ("└─ ", "   ") if i == len(source.parts) else ("├─ ", "│  ")
            weight = f"{source.weights[name]:g} × " if isinstance(source, WeightedSum) else ""
            renamed = f"{name} = " if name != part.name else ""
            below = lines(part, weight + renamed)
            result += [branch + below[0], *(stem + line for line in below[1:])]
        return result

    return "\n".join(lines(source, ""))


def _add(left: RewardSource, right: object, sign: float = 1.0) -> RewardSource:
    """Form `left + sign · right`: sums are flattened, factors become weights, a number becomes an offset.

    Raises:
        TypeError: `right` is neither a reward source nor a number.
    """
    if isinstance(right, RewardSource):
        addends = [*_addends(left), *((s, sign * w) for s, w in _addends(right))]
        names = unique([source.name for source, _ in addends])
        return WeightedSum(dict(zip(names, addends, strict=True)))
    if not isinstance(right, (int, float)):
        raise TypeError(f"cannot add {type(right).__name__} to a reward source")
    return Scale(left, offset=sign * right) if right else left


def _addends(source: RewardSource) -> list[tuple[RewardSource, float]]:
    if type(source) is WeightedSum and source.name == "sum":
        return [(part, source.weights[name]) for name, part in source.parts.items()]
    if type(source) is Scale and source.offset == 0:
        return [(source.source, source.factor)]
    return [(source, 1.0)]
