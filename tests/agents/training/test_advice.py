"""Signs of trouble, planted one at a time: each is explained once, and nothing else is said."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import torch

from tests.small_models import small_policy
from text_gym import ByteTokenizer, Episode, Prompt, Rewards, TextVectorEnv, WordTokenizer
from text_gym.agents import PPO, PPOConfig, Rollout
from text_gym.agents.training.advice import Advisor


def batch(texts: list[str], rewards: list[float], *, cut: bool = False, prompts: int = 2) -> Rollout:
    tokenizer = ByteTokenizer()
    episodes = []
    for i, text in enumerate(texts):
        prompt = Prompt(f"prompt {i % prompts}")
        if cut:
            ids = np.array(tokenizer.encode(text), np.int64)
            episodes.append(Episode(prompt, np.zeros(1, np.int64), ids, tokenizer, finish_reason="length"))
        else:
            episodes.append(Episode.of(prompt, text, tokenizer))
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])
    zeros = torch.zeros(len(texts), int(lengths.max()))
    scores = Rewards(np.array(rewards))
    none = torch.zeros(len(texts), dtype=torch.bool)
    return Rollout(zeros.long(), none.long() + 1, lengths, zeros, zeros, zeros, none, episodes, scores)


GOOD = batch([f"text {i}" for i in range(10)], [float(i) for i in range(10)])
CALM = {"kl": 2.0, "kl_per_token": 0.2}


@pytest.mark.parametrize(
    ("trouble", "metrics", "says"),
    [
        (GOOD, {"kl": 60.0, "kl_per_token": 1.5}, "KL blow-up: each token is 1.5 nats .* raise kl_coef"),
        (batch(["same"] * 9 + ["b"], list(range(10))), CALM, "Collapse: 9 of 10 episodes.*'same'"),
        (
            batch([f"{i}" for i in range(10)], [0.5] * 10),
            CALM,
            "All rewards are equal: .*10 episodes got 0.5",
        ),
        (
            batch([f"{i}" for i in range(10)], list(range(10)), cut=True),
            CALM,
            "No episode ends: all 10 .*EOS",
        ),
    ],
    ids=["kl", "collapse", "rewards", "eos"],
)
def test_each_sign_is_explained_once_after_three_iterations(
    trouble: Rollout, metrics: dict[str, float], says: str
) -> None:
    advisor = Advisor()
    for _ in range(4):  # not in a row: nothing to say
        assert advisor.look(trouble, metrics, 0.1) == []
        assert advisor.look(GOOD, CALM, 0.1) == []
    said = [advisor.look(trouble, metrics, 0.1) for _ in range(8)]
    assert [len(s) for s in said] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert re.search(says, said[2][0])


def test_what_is_no_sign_of_trouble() -> None:
    quiet = [
        (batch(["same"] * 10, list(range(10)), prompts=1), CALM, 0.1),  # one prompt may have one answer
        (GOOD, {"kl": 60.0, "kl_per_token": 1.5}, 0.0),  # who pays no KL has chosen to move
        (batch(["same"] * 8 + ["b", "c"], list(range(10))), CALM, 0.1),
        (GOOD, {}, 0.1),
    ]
    for one, metrics, kl_coef in quiet:
        advisor = Advisor()
        assert [advisor.look(one, metrics, kl_coef) for _ in range(5)] == [[]] * 5


def test_an_agent_logs_what_its_advisor_says(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    env = TextVectorEnv(["a", "bcd"], tokenizer, lambda completion: 1.0, 6, num_envs=16)
    ppo = PPO(small_policy(), env, PPOConfig(iterations=6, learning_rate=1e-2, warmup=0))
    with caplog.at_level(logging.WARNING, "text_gym"):
        ppo.learn()
    found = [r.getMessage() for r in caplog.records if "All rewards are equal" in r.getMessage()]
    assert len(found) == 1
    assert found[0].startswith("iteration 3: ")
