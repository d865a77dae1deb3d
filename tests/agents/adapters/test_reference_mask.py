from __future__ import annotations

import numpy as np
import pytest
import torch

from text_gym import ByteTokenizer, TextVectorEnv, WordTokenizer
from text_gym.agents import Policy, ReferenceMask
from text_gym.errors import ConfigError

TOKENIZER = WordTokenizer("abcdef", separator="", pad=False)


@pytest.fixture(scope="module")
def reference() -> Policy:
    return Policy.new(TOKENIZER, layers=1, width=16, context=16)


def test_only_the_references_top_k_may_be_drawn_at_every_step(reference: Policy) -> None:
    env = TextVectorEnv(
        ["ab", "c", "fed"], TOKENIZER, lambda c: 0.0, 6, num_envs=3, mask=ReferenceMask(reference, top_k=2)
    )
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(25):
        for i in np.flatnonzero(observation["action_mask"].sum(axis=1) < 7):
            length = int(observation["length"][i, 0])
            with torch.no_grad():
                logits = reference.model(torch.from_numpy(observation["tokens"][i, :length])[None]).logits[
                    0, -1
                ]
            wanted = sorted(logits.topk(2).indices.tolist())
            assert np.flatnonzero(observation["action_mask"][i]).tolist() == wanted
        actions = np.array([rng.choice(np.flatnonzero(row)) for row in observation["action_mask"]])
        observation, *_ = env.step(actions)


def test_the_nucleus_holds_at_least_its_probability_and_no_token_too_many(reference: Policy) -> None:
    env = TextVectorEnv(["ab"], TOKENIZER, lambda c: 0.0, 6, mask=ReferenceMask(reference, top_p=0.6))
    observation, _ = env.reset(seed=0)
    with torch.no_grad():
        probs = reference.model(torch.tensor([[0, 1]])).logits[0, -1].softmax(0).numpy()
    kept = probs[observation["action_mask"][0].astype(bool)]
    assert kept.sum() >= 0.6
    assert kept.sum() - kept.min() < 0.6


def test_misuse_is_named(reference: Policy) -> None:
    with pytest.raises(ConfigError, match="allows everything"):
        ReferenceMask(reference)
    with pytest.raises(ConfigError, match="different tokenizers"):
        TextVectorEnv(["a"], ByteTokenizer(), lambda c: 0.0, 6, mask=ReferenceMask(reference, top_k=2))
