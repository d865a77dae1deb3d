from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import Shaped, TextVectorEnv, WordTokenizer

TOKENIZER = WordTokenizer("ab", separator="", pad=False)  # EOS is id 2


def count_a(completion: str) -> float:
    return float(completion.count("a"))


def ends_with_b(completion: str) -> float:
    return float(completion.endswith("b"))


@given(actions=st.lists(st.integers(0, 2), min_size=5, max_size=5), gamma=st.sampled_from([1.0, 0.9]))
def test_discounted_shaping_sums_to_minus_the_prompts_potential(actions: list[int], gamma: float) -> None:
    """Σ γ^t (γ Φ(s') − Φ(s)) telescopes to −Φ(s_0), which is 0 here; what is left is the reward."""
    source = Shaped(ends_with_b, count_a, gamma)
    vector = TextVectorEnv(["ab"], TOKENIZER, source, 5, autoreset_mode="Disabled")
    vector.reset(seed=0)
    total, text, ended = 0.0, "", 0
    for t, action in enumerate(actions):
        _, reward, terminated, truncated, _ = vector.step(np.array([action]))
        total += gamma**t * reward[0]
        text += "ab"[action] if action < 2 else ""
        if terminated[0] or truncated[0]:
            ended = t
            break
    assert total == pytest.approx(gamma**ended * text.endswith("b"))


def test_each_token_is_paid_its_progress() -> None:
    vector = TextVectorEnv(["ab"], TOKENIZER, Shaped(ends_with_b, count_a), 5, autoreset_mode="Disabled")
    vector.reset(seed=0)
    paid = [float(vector.step(np.array([token]))[1][0]) for token in (0, 1, 0, 1, 2)]
    assert paid == [1.0, 0.0, 1.0, 0.0, 1.0 - 2.0]
