from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, Rewards, RewardSource, TextVectorEnv, WordTokenizer
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.shaping import Shaped
from text_gym.rewards.source import Scale, WeightedSum, describe_reward
from text_gym.rewards.transforms import Clip, Gate, LengthControl, Penalty, RunningStandardize, Standardize

TOKENIZER = ByteTokenizer()


class Fixed(RewardSource):
    """Pays what it is told: values in order of the completions' numbers, None abstains."""

    abstains = True

    def __init__(self, values: Sequence[float | None], name: str = "fixed") -> None:
        self.values, self.name = values, name

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        said = [self.values[int(e.completion)] for e in episodes]
        values = np.array([0.0 if v is None else v for v in said])
        return Rewards(values, terms={"twice": 2 * values}, abstained=np.array([v is None for v in said]))


class PerToken(RewardSource):
    """1, 2, 3 … on the tokens and `extra` at the end."""

    name, causal = "steps", True

    def __init__(self, extra: float = 0.0) -> None:
        self.extra = extra

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        tokens = tuple(np.arange(1.0, len(e.completion_ids) + 1) for e in episodes)
        return Rewards(np.full(len(episodes), self.extra), tokens)


def episodes(n: int) -> list[Episode]:
    return [Episode.of("Count:", str(i), TOKENIZER) for i in range(n)]  # two tokens each: a digit and EOS


def per_token(rewards: Rewards) -> list[list[float]]:
    assert rewards.per_token is not None
    return [tokens.tolist() for tokens in rewards.per_token]


def nan_equal(found: Sequence[float], expected: Sequence[float]) -> bool:
    return bool(np.array_equal(found, expected, equal_nan=True))


def test_weighted_sum_by_hand_with_nested_terms() -> None:
    inner = WeightedSum({"accuracy": (Fixed([1, 2]), 2.0), "style": Fixed([10, 20])}, name="quality")
    rewards = WeightedSum({"quality": (inner, 0.5), "cost": (Fixed([3, 4]), -1)})(episodes(2))
    assert rewards.values.tolist() == [3, 8]
    assert {k: v.tolist() for k, v in rewards.terms.items()} == {
        "quality": [12, 24],
        "quality/accuracy": [1, 2],
        "quality/accuracy/twice": [2, 4],
        "quality/style": [10, 20],
        "quality/style/twice": [20, 40],
        "cost": [3, 4],
        "cost/twice": [6, 8],
    }


def test_a_part_that_abstains_adds_nothing() -> None:
    rewards = WeightedSum({"a": (Fixed([None, None, 1]), 2), "b": Fixed([None, 5, 5])})(episodes(3))
    assert rewards.values.tolist() == [0, 5, 7]
    assert rewards.abstained.tolist() == [True, False, False]
    assert nan_equal(rewards.terms["a"].tolist(), [math.nan, math.nan, 1])
    assert nan_equal(rewards.terms["a/twice"].tolist(), [math.nan, math.nan, 2])


def test_per_token_rewards_are_summed_token_by_token() -> None:
    source = WeightedSum({"steps": (PerToken(0.5), 2), "more": PerToken(), "flat": Fixed([7])})
    rewards = source(episodes(1))
    assert per_token(rewards) == [[3, 6]]
    assert rewards.values.tolist() == [8]
    assert rewards.totals.tolist() == [17]
    assert not source.causal  # one part cannot judge prefixes
    assert WeightedSum({"a": PerToken(), "b": PerToken()}).causal


weights = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(weights, weights), min_size=1, max_size=5), weights, weights, weights)
def test_weighted_sum_is_linear(rows: list[tuple[float, float]], a: float, b: float, c: float) -> None:
    batch = episodes(len(rows))
    first, second = [x for x, _ in rows], [y for _, y in rows]

    def total(x: float, y: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return WeightedSum({"x": (Fixed(first), x), "y": (Fixed(second), y)})(batch).totals

    np.testing.assert_allclose(total(a, b), a * total(1, 0) + b * total(0, 1), atol=1e-6)
    np.testing.assert_allclose(total(c * a, c * b), c * total(a, b), atol=1e-3)


def test_gate_pays_only_if() -> None:
    gate = Gate(Fixed([1, 2, 3], "paid"), Fixed([0.4, 0.5, 0.6], "asked"), threshold=0.5, floor=-1)
    rewards = gate(episodes(3))
    assert rewards.values.tolist() == [-1, 2, 3]
    assert rewards.terms["open"].tolist() == [0, 1, 1]
    assert rewards.terms["paid"].tolist() == [1, 2, 3]
    assert rewards.terms["asked/twice"].tolist() == [0.8, 1, 1.2]


def test_gate_honours_abstentions() -> None:
    # the condition has no opinion; the gate is shut; the paid source has no opinion; both have one
    gate = Gate(Fixed([1, None, None, 4], "paid"), Fixed([None, 0, 1, 1], "asked"))
    rewards = gate(episodes(4))
    assert rewards.abstained.tolist() == [True, False, True, False]
    assert rewards.values.tolist() == [0, 0, 0, 4]
    assert nan_equal(rewards.terms["open"].tolist(), [math.nan, 0, 1, 1])


def test_a_shut_gate_withholds_per_token_rewards() -> None:
    gate = Gate(PerToken(10), Fixed([0, 1]), floor=-2)
    rewards = gate(episodes(2))
    assert per_token(rewards) == [[0, 0], [1, 2]]
    assert rewards.totals.tolist() == [-2, 13]
    assert not gate.causal


def test_gates_of_one_source_keep_both_names() -> None:
    assert list(Gate(Fixed([1]), Fixed([1]))(episodes(1)).terms) == [
        "fixed", "fixed/twice", "fixed_2", "fixed_2/twice", "open",
    ]  # fmt: skip


def test_scale() -> None:
    rewards = Scale(PerToken(1), 2, offset=0.5)(episodes(1))
    assert per_token(rewards) == [[2, 4]]
    assert rewards.values.tolist() == [2.5]
    assert rewards.terms["raw"].tolist() == [4]
    silent = Scale(Fixed([None]), 2, offset=0.5)(episodes(1))
    assert silent.values.tolist() == [0]
    assert silent.abstained.tolist() == [True]


def test_operators() -> None:
    a, b = Fixed([1, 2], "a"), Fixed([10, 20], "b")
    batch = episodes(2)
    assert (a + b)(batch).values.tolist() == [11, 22]
    assert (2 * a - b * 0.5)(batch).values.tolist() == [-3, -6]
    assert (a + 1)(batch).values.tolist() == [2, 3]
    assert (1 + a - 3)(batch).values.tolist() == [-1, 0]
    total: object = sum([a, b, a])
    assert isinstance(total, WeightedSum)
    assert total(batch).values.tolist() == [12, 24]
    assert list(total.parts) == ["a", "b", "a_2"]
    with pytest.raises(TypeError):
        a + "b"  # type: ignore[operator]


def test_sums_by_operator_are_flat_and_named_ones_stay() -> None:
    named = WeightedSum({"a": Fixed([1], "a")}, name="quality")
    tree = describe_reward(2 * named + Fixed([1], "b") + Gate(Fixed([1], "c"), Fixed([1], "d"), floor=-1))
    assert tree.splitlines() == [
        "sum: WeightedSum",
        "├─ 2 × quality: WeightedSum",
        "│  └─ 1 × a: Fixed",
        "├─ 1 × b: Fixed",
        "└─ 1 × gate: c if d >= 1, else -1",
        "   ├─ c: Fixed",
        "   └─ d: Fixed",
    ]


def test_a_bad_part_is_named_and_can_be_dropped() -> None:
    def bad(completion: str) -> float:
        return math.nan if completion == "1" else 1.0

    source = WeightedSum({"bad": bad, "good": Fixed([5, 6])})
    with pytest.raises(RewardError, match="reward 'bad': episode 1 is nan"):
        source(episodes(2))
    rewards = source(episodes(2), on_bad_reward="drop")
    assert rewards.values.tolist() == [6, 6]
    assert nan_equal(rewards.terms["bad"].tolist(), [1, math.nan])


def test_composites_know_what_they_are_made_of() -> None:
    random = Fixed([1])
    random.deterministic = False
    assert not WeightedSum({"a": Fixed([1]), "b": random}).deterministic
    assert not Scale(random).deterministic
    assert WeightedSum({"a": Fixed([1])}).deterministic
    assert len(WeightedSum({"a": Fixed([1])})([])) == 0


def test_bad_options_are_refused() -> None:
    for make in (
        lambda: WeightedSum({}),
        lambda: WeightedSum({"a": (Fixed([1]), math.nan)}),
        lambda: Scale(Fixed([1]), math.inf),
        lambda: Gate(Fixed([1]), Fixed([1]), threshold=math.nan),
    ):
        with pytest.raises(ConfigError):
            make()


# Abstention pays nothing


class Shy(PerToken):
    """Pays as `PerToken`, and has no opinion on finished texts that contain a letter."""

    abstains = True

    def __init__(self, letter: str, extra: float = 0.0) -> None:
        super().__init__(extra)
        self.letter, self.name = letter, f"shy of {letter}"

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        said = super().score(episodes)
        shy = np.array([e.done and self.letter in e.completion for e in episodes])
        return Rewards(said.values, said.per_token, abstained=shy)


TEXTS = [Episode.of("Say:", text, TOKENIZER) for text in ("", "a", "b", "ab", "bba", "xyz", "cab")]
NUMBERS = st.floats(-4, 4)
SOURCES = st.recursive(
    st.builds(Shy, st.sampled_from("abc"), NUMBERS) | st.builds(PerToken, NUMBERS),
    lambda parts: (
        st.builds(lambda a, b, x, y: x * a + y * b, parts, parts, NUMBERS, NUMBERS)
        | st.builds(Scale, parts, NUMBERS, NUMBERS)
        | st.builds(lambda a, b, x, y: Gate(a, b, threshold=x, floor=y), parts, parts, NUMBERS, NUMBERS)
        | st.builds(lambda a, x: Clip(a, x, x + 1), parts, NUMBERS)
        | st.builds(Penalty, parts, NUMBERS, fixed=st.just(2.0))
        | st.builds(lambda a, x: LengthControl(a, low=3.0, slope=abs(x)), parts, NUMBERS)
        | st.builds(Standardize, parts, NUMBERS, st.just(0.5))
        | st.builds(RunningStandardize, parts)
        | st.builds(lambda a: Shaped(a, lambda completion: len(completion)), parts)
    ),
    max_leaves=5,
)


@given(SOURCES)
def test_abstention_pays_nothing_in_any_composition(source: RewardSource) -> None:
    rewards = source(TEXTS)
    mute = rewards.abstained
    assert not rewards.values[mute].any()
    assert not rewards.totals[mute].any()
    for tokens, muted in zip(rewards.per_token or [np.zeros(1)] * len(TEXTS), mute, strict=True):
        assert not (muted and tokens.any())


@given(SOURCES.filter(lambda source: source.deterministic), st.integers(0, 2**16))
def test_steps_pay_what_the_whole_episode_is_worth(source: RewardSource, seed: int) -> None:
    tokenizer = WordTokenizer("abc", separator="", pad=False)
    env = TextVectorEnv(["a", "b"], tokenizer, source, 4, num_envs=6, autoreset_mode="Disabled")
    env.reset(seed=0)
    rng, paid = np.random.default_rng(seed), np.zeros(6)
    for _ in range(8):
        _, reward, terminated, truncated, _ = env.step(rng.integers(0, 4, 6))
        paid += reward
        over = np.flatnonzero(terminated | truncated)
        if len(over):
            whole = source(env.episodes(over))
            assert paid[over] == pytest.approx(whole.totals, abs=1e-9)
            assert not paid[over][whole.abstained].any()
            env.reset(options={"reset_mask": terminated | truncated})
            paid[over] = 0.0


@given(SOURCES.filter(lambda source: source.deterministic), NUMBERS)
def test_a_part_without_an_opinion_changes_no_sum(judged: RewardSource, weight: float) -> None:
    silent = Shy("", extra=3.0)  # every text contains the empty one
    assert silent(TEXTS).abstained.all()
    alone, both = 1.0 * judged, judged + weight * silent
    expected, found = alone(TEXTS), both(TEXTS)
    assert found.values.tolist() == expected.values.tolist()
    assert found.abstained.tolist() == expected.abstained.tolist()
    if expected.per_token is not None:
        assert per_token(found) == per_token(expected)


def test_a_causal_part_that_abstains_in_the_end_is_paid_nothing_by_steps() -> None:
    """`A + B` promises 4 · 1 (B's four tokens); A, which abstains in the end, had been paid 1 + 2 + 3."""

    class Flat(PerToken):
        name = "flat"

        def score(self, episodes: Sequence[Episode]) -> Rewards:
            return Rewards(np.zeros(len(episodes)), tuple(np.ones(len(e.completion_ids)) for e in episodes))

    tokenizer = WordTokenizer("abc", separator="", pad=False)
    source = Shy("a") + Flat()
    env = TextVectorEnv(["a"], tokenizer, source, 8, autoreset_mode="Disabled")
    env.reset(seed=0)
    assert [float(env.step([token])[1][0]) for token in (1, 0, 1, 3)] == [2, 3, 4, 1 - 6]
    assert source(env.episodes(np.array([0]))).totals.tolist() == [4]


def test_a_bad_token_reward_of_an_abstained_episode_does_not_matter() -> None:
    class Odd(RewardSource):
        abstains = True

        def score(self, episodes: Sequence[Episode]) -> Rewards:
            tokens = tuple(np.full(len(e.completion_ids), np.nan) for e in episodes)
            return Rewards(np.full(len(episodes), np.nan), tokens)

    assert per_token(Odd()(episodes(2))) == [[0, 0], [0, 0]]


def test_the_last_failure_is_that_of_the_first_part_that_has_one() -> None:
    well, down, late = Fixed([1], "a"), Fixed([1], "b"), Fixed([1], "c")
    source = Gate(2 * well - Scale(down), Clip(late))
    told = [source.last_failure]
    for part, failure in ((late, "out of budget"), (down, "status 500")):
        part._last_failure = failure
        told.append(source.last_failure)
    assert told == [None, "out of budget", "status 500"]
    assert well.last_failure is None


@given(st.permutations(range(6)))
def test_batch_order_does_not_matter(order: list[int]) -> None:
    values: list[float | None] = [0.1, None, 0.3, -2, 5, None]
    source = Gate(0.3 * Fixed(values, "a") + PerToken(), Fixed([1, 0, None, 1, 1, 1], "b"))
    batch = episodes(6)
    one, two = source(batch), source([batch[i] for i in order])
    assert two.totals.tolist() == one.totals[order].tolist()
    assert two.abstained.tolist() == one.abstained[order].tolist()
    for name, term in one.terms.items():
        assert nan_equal(two.terms[name].tolist(), term[order].tolist())


def test_pickles() -> None:
    source = Gate(2 * Fixed([1, 2], "a") + PerToken(), Fixed([0, 1], "b"))
    copy = pickle.loads(pickle.dumps(source))
    assert copy(episodes(2)).totals.tolist() == source(episodes(2)).totals.tolist()
    assert str(copy) == str(source)
