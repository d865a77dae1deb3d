"""The algebra of composed rewards: sums distribute, factors scale, abstention pays nothing, tokens add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import count, effort, tries
from tests.reward_tools import of
from text_gym import Episode, Rewards, RewardSource
from text_gym.rewards.shaping import Shaped
from text_gym.rewards.source import Scale, WeightedSum, as_reward_source
from text_gym.rewards.transforms import Clip, Gate, Standardize

TEXTS = st.lists(st.text("abc", max_size=5), min_size=1, max_size=4)
# Multiples of 1/4: sums and products of a few are exact, so that laws hold to the bit.
NUMBERS = st.integers(-8, 8).map(lambda n: n / 4)


class Letters(RewardSource):
    """Pays the letters of a word, each on its token if causal; has no opinion on some lengths."""

    abstains = True

    def __init__(self, a: float, b: float, silent: int, causal: bool) -> None:
        self.a, self.b, self.silent, self.causal = a, b, silent, causal
        self.name = f"letters {a} {b} {silent} {causal}"

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        out = np.array([len(e.completion) == self.silent for e in episodes], dtype=np.bool_)
        per_token = None
        if self.causal:
            tokens = [np.where(e.completion_ids == 97, self.a, 0.0) for e in episodes]
            per_token = tuple(np.where(o, 0.0, t) for o, t in zip(out, tokens, strict=True))
        values = np.array([self.b * e.completion.count("b") + 0.25 for e in episodes])
        return Rewards(np.where(out, 0.0, values), per_token, {}, out)


CONSTANTS = NUMBERS.map(lambda c: as_reward_source(lambda completion: c))
LEAVES = st.builds(Letters, NUMBERS, NUMBERS, st.integers(-1, 6), st.booleans()) | CONSTANTS
DECIDED = st.builds(Letters, NUMBERS, NUMBERS, st.just(-1), st.booleans()) | CONSTANTS


def composed(inner: st.SearchStrategy[RewardSource]) -> st.SearchStrategy[RewardSource]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, NUMBERS).map(lambda p: p[0] * p[1]),
        st.tuples(inner, NUMBERS).map(lambda p: p[0] + p[1]),
        st.tuples(inner, NUMBERS, NUMBERS).map(lambda p: Scale(*p)),
        st.tuples(inner, inner, NUMBERS).map(lambda p: WeightedSum({"x": p[0], "y": (p[1], p[2])})),
        st.tuples(inner, NUMBERS).map(lambda p: Clip(p[0], p[1], p[1] + 2)),
        st.tuples(inner, inner).map(lambda p: Gate(p[0], p[1], threshold=0.5)),
        inner.map(lambda x: Standardize(x, 0.5, 2.0)),
    )


SOURCES: st.SearchStrategy[RewardSource] = st.recursive(LEAVES, composed, max_leaves=5)


def paid(source: RewardSource, texts: Sequence[str]) -> tuple[list[float], list[bool]]:
    found = source(of(*texts))
    assert np.isfinite(found.totals).all()
    assert (found.totals[found.abstained] == 0).all()
    if found.per_token is not None:
        assert [len(t) for t in found.per_token] == [len(e.completion_ids) for e in of(*texts)]
        assert all((t == 0).all() for t, out in zip(found.per_token, found.abstained, strict=True) if out)
    return found.totals.tolist(), found.abstained.tolist()


@tries(60, 20_000)
def test_sums_and_factors_obey_algebra(tries: int, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(SOURCES, SOURCES, SOURCES, NUMBERS, NUMBERS, TEXTS)
    def run(a: RewardSource, b: RewardSource, c: RewardSource, x: float, y: float, texts: list[str]) -> None:
        assert np.allclose(paid(a + b, texts)[0], paid(b + a, texts)[0], rtol=0, atol=1e-9)
        assert np.allclose(paid((a + b) + c, texts)[0], paid(a + (b + c), texts)[0], rtol=0, atol=1e-9)
        assert paid((a + b) + c, texts)[1] == paid(a + (b + c), texts)[1]
        assert np.allclose(paid((a + b) * x, texts)[0], paid(a * x + b * x, texts)[0], rtol=0, atol=1e-9)
        assert np.allclose(paid(a * x * y, texts)[0], paid(a * (x * y), texts)[0], rtol=0, atol=1e-9)
        assert paid(a * 1.0, texts) == paid(a, texts)
        total, out = paid(a, texts)
        assert paid(a * x, texts)[1] == out  # scaling is no opinion
        scaled = [0.0 if o else x * t for t, o in zip(total, out, strict=True)]
        assert np.allclose(paid(a * x, texts)[0], scaled, rtol=0, atol=1e-9)
        assert np.allclose(paid(sum([a, b, c], 0), texts)[0], paid(a + b + c, texts)[0], rtol=0, atol=1e-9)  # type: ignore[arg-type]

    tried(
        "sums and factors of rewards obey algebra, whatever they are composed of", count(run), "compositions"
    )


@tries(60, 20_000)
def test_a_batch_is_its_episodes(tries: int, tried: Callable[..., None]) -> None:
    """What an episode is paid depends on nothing else in its batch, on its order least of all."""

    @effort(tries)
    @given(SOURCES, TEXTS, st.randoms(use_true_random=False))
    def run(source: RewardSource, texts: list[str], rng: object) -> None:
        totals, out = paid(source, texts)
        alone = [paid(source, [text]) for text in texts]
        assert totals == [t[0] for t, _ in alone]
        assert out == [o[0] for _, o in alone]
        back = paid(source, texts[::-1])
        assert (back[0][::-1], back[1][::-1]) == (totals, out)

    tried(
        "what an episode is paid depends on nothing else in its batch",
        count(run),
        "compositions",
    )


@tries(60, 20_000)
def test_causal_sources_pay_a_prefix_what_they_paid_the_text(tries: int, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(
        st.recursive(DECIDED, composed, max_leaves=5).filter(lambda s: s.causal),
        st.text("abc", min_size=1, max_size=6),
    )
    def run(source: RewardSource, text: str) -> None:
        whole = source(of(text))
        for end in range(1, len(text) + 1):
            prefix = source(of(text[:end]))
            assert (prefix.per_token is None) == (whole.per_token is None)
            if prefix.per_token is None or whole.per_token is None:
                continue
            assert np.allclose(prefix.per_token[0][:end], whole.per_token[0][:end], rtol=0, atol=1e-9)

    tried(
        "causal rewards pay a prefix what they pay the whole text",
        count(run),
        "compositions",
    )


@tries(40, 10_000)
def test_potentials_telescope(tries: int, tried: Callable[..., None]) -> None:
    """Shaping with gamma 1 adds the last potential less the first, whatever lies between (Ng et al. 1999)."""

    @effort(tries)
    @given(LEAVES.filter(lambda s: not s.causal), NUMBERS, TEXTS)
    def run(source: RewardSource, x: float, texts: list[str]) -> None:
        potential = as_reward_source(lambda completion: x * completion.count("a"))
        plain, out = paid(source, texts)
        shaped, out_too = paid(Shaped(source, potential), texts)
        assert out == out_too
        assert np.allclose(shaped, plain, rtol=0, atol=1e-9)  # a final state's potential is 0

    tried(
        "shaping by potentials adds the last less the first",
        count(run),
        "compositions",
    )
