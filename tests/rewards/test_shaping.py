from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import Episode, Prompt, Shaped, TextEnv, TextVectorEnv, WordTokenizer
from text_gym.episode import FinishReason

TOKENIZER = WordTokenizer("ab", separator="", pad=False)  # EOS is id 2


def count_a(completion: str) -> float:
    return float(completion.count("a"))


def ends_with_b(completion: str) -> float:
    return float(completion.endswith("b"))


def unfinished(episode: Episode) -> float:
    """A potential that would give away a prefix that is told to have ended."""
    return 10.0 * (episode.finish_reason is not None) + count_a(episode.completion)


Limit = Literal["end", "truncate"]


def stepped(
    make: Any, actions: list[int], source: Shaped, limit: Limit
) -> tuple[list[float], str, bool, bool]:
    """Rewards of the steps of one episode, its text, and how it ended."""
    env = make(["ab"], TOKENIZER, source, len(actions), limit=limit)
    env.reset(seed=0)
    paid, text = [], ""
    for action in actions:
        token = np.int64(action) if make is TextEnv else np.array([action])
        _, reward, terminated, truncated, _ = env.step(token)
        paid.append(float(np.ravel(reward)[0]))
        text += "ab"[action] if action < 2 else ""
        if np.any(terminated) or np.any(truncated):
            break
    return paid, text, bool(np.all(terminated)), bool(np.all(truncated))


@given(
    actions=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    gamma=st.sampled_from([1.0, 0.9]),
    limit=st.sampled_from(["end", "truncate"]),
)
def test_discounted_shaping_telescopes(actions: list[int], gamma: float, limit: Limit) -> None:
    """Σ γ^t (γ Φ(s') − Φ(s)) is γ^T Φ(s_T) − Φ(s_0); Φ(s_0) is 0 here, and Φ(s_T) too after an end.

    After a cut under `limit="truncate"` s_T is the text as it stands, which is not paid besides.
    """
    source = Shaped(ends_with_b, unfinished, gamma)
    paid, text, terminated, truncated = stepped(TextVectorEnv, actions, source, limit)
    assert truncated == (limit == "truncate" and 2 not in actions)
    assert terminated != truncated
    total = sum(gamma**t * reward for t, reward in enumerate(paid))
    if truncated:
        assert total == pytest.approx(gamma ** len(paid) * text.count("a"))
    else:
        assert total == pytest.approx(gamma ** (len(paid) - 1) * text.endswith("b"))
    assert stepped(TextEnv, actions, source, limit)[0] == paid
    # The whole text at once: finished, or (where the limit is no end) as one that goes on
    reason: FinishReason | None = None if truncated else "eos" if 2 in actions else "length"
    ids = np.array(actions[: len(paid)])
    episode = Episode(Prompt("ab"), np.array([0, 1]), ids, TOKENIZER, finish_reason=reason)
    scored = source([episode])
    assert scored.per_token is not None
    assert [*scored.per_token[0][:-1], scored.per_token[0][-1] + scored.values[0]] == pytest.approx(paid)


def test_each_token_is_paid_its_progress() -> None:
    vector = TextVectorEnv(["ab"], TOKENIZER, Shaped(ends_with_b, count_a), 5, autoreset_mode="Disabled")
    vector.reset(seed=0)
    paid = [float(vector.step(np.array([token]))[1][0]) for token in (0, 1, 0, 1, 2)]
    assert paid == [1.0, 0.0, 1.0, 0.0, 1.0 - 2.0]
