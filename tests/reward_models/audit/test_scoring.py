from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from text_gym import ByteTokenizer, Episode, Rewards, RewardSource
from text_gym.errors import RewardError
from text_gym.reward_models.audit.scoring import beaten, by_text, chosen, difference, scores_and_terms

TOKENIZER = ByteTokenizer()


def test_texts_of_different_prompts_first_in_an_order_of_the_seed_alone() -> None:
    texts = [Episode.of(f"P{i % 4}", f"text {i}", TOKENIZER) for i in range(12)]
    found = chosen(texts, 8, seed=0)
    assert {e.prompt.text for e in found[:4]} == {"P0", "P1", "P2", "P3"}
    shuffled = random.Random(1).sample(texts, len(texts))
    assert [e.completion for e in chosen(shuffled, 8, 0)] == [e.completion for e in found]
    assert [e.completion for e in chosen(texts, 8, 1)] != [e.completion for e in found]


def test_texts_that_a_source_refuses() -> None:
    class Narrow(RewardSource):
        name = "narrow"

        def score(self, episodes: Sequence[Episode]) -> Rewards:
            if any(len(e.completion) > 3 for e in episodes):
                raise RewardError("too long")
            lengths = np.array([float(len(e.completion)) for e in episodes])
            return Rewards(lengths, terms={"twice": np.full(len(episodes), 2.0)})

    texts = [Episode.of("P", "a" * n, TOKENIZER) for n in (1, 5, 3, 2)]
    expected = [[1, 2], [np.nan, np.nan], [3, 2], [2, 2]]
    np.testing.assert_array_equal(scores_and_terms(Narrow(), texts, ["twice"]), expected)


def test_shares_of_real_texts_that_are_beaten() -> None:
    made, real = np.array([0.0, 2.0, 9.0, np.nan]), np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_array_equal(beaten(made, real), [0, 0.5, 1, np.nan])


def test_means_over_equal_texts() -> None:
    texts = [Episode.of(f"P{i}", text, TOKENIZER) for i, text in enumerate(["a", "b", "a"])]
    assert by_text(texts, np.array([1.0, 5.0, 3.0])).tolist() == [2.0, 5.0]


def test_differences() -> None:
    assert difference("a mug for $9 now", "a mug for $84 now") == "$9 → $84"
    assert difference("same", "same") == " → "
    assert difference("a b d", "a c b d") == " → c"
