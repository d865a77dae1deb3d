from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_models import small_policy
from text_gym import Episode, Prompt, Rewards, TextVectorEnv, WordTokenizer
from text_gym.agents import rollout
from text_gym.agents.sampling.rollout import rewards_per_token
from text_gym.rewards.source import RewardSource


def test_the_value_is_paid_on_the_last_token() -> None:
    scores = Rewards(np.array([2.0, -1.0, 0.5]))
    paid = rewards_per_token(scores, torch.tensor([3, 1, 2]))
    assert paid.dtype == torch.float32
    assert paid.tolist() == [[0, 0, 2], [-1, 0, 0], [0, 0.5, 0] if paid.shape[1] == 3 else [0, 0.5]]


def test_rewards_of_tokens_are_paid_where_they_arose_and_add_up() -> None:
    parts = (np.array([1.0, 2.0, 4.0]), np.array([8.0]), np.array([0.0, 16.0]))
    scores = Rewards(np.array([0.5, 0.25, 0.0]), per_token=parts)
    paid = rewards_per_token(scores, torch.tensor([3, 1, 2]))
    assert paid.tolist() == [[1, 2, 4.5], [8.25, 0, 0], [0, 16, 0]]
    assert paid.sum(1).tolist() == scores.totals.tolist()


class EveryB(RewardSource):
    """1 for every token "b"; 10 at the end."""

    causal = True

    def score(self, episodes: object) -> Rewards:
        assert isinstance(episodes, list)
        parts = tuple((e.completion_ids == 1).astype(np.float64) for e in episodes)
        return Rewards(np.full(len(episodes), 10.0), per_token=parts)


@pytest.mark.parametrize("reward", [EveryB(), lambda completion: completion.count("c") - 2])
def test_a_rollout_is_aligned_to_its_episodes(reward: object) -> None:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    prompts = [Prompt("a"), Prompt("bcdef"), Prompt("ghia")]
    env = TextVectorEnv(prompts, tokenizer, reward, 9, num_envs=24)  # type: ignore[arg-type]
    batch = rollout(small_policy(tokenizer=tokenizer), env, np.arange(24), seed=1)
    assert batch.tokens.shape[1] == int((batch.starts + batch.lengths).max())
    assert batch.num_tokens == int(batch.mask.sum()) == sum(len(e.completion_ids) for e in batch.episodes)
    for i, episode in enumerate(batch.episodes):
        p, t = int(batch.starts[i]), int(batch.lengths[i])
        assert (
            batch.tokens[i, :p].tolist()
            == episode.prompt_ids.tolist()
            == tokenizer.encode(episode.prompt.text)
        )
        assert batch.tokens[i, p : p + t].tolist() == episode.completion_ids.tolist()
        assert batch.mask[i].tolist() == [True] * t + [False] * (batch.mask.shape[1] - t)
        ids = episode.completion_ids.tolist()
        if isinstance(reward, EveryB):
            expected = [float(token == 1) for token in ids]
            expected[-1] += 10
        else:
            expected = [0.0] * (t - 1) + [float(episode.completion.count("c") - 2)]
        assert batch.rewards[i, :t].tolist() == expected
        assert not batch.rewards[i, t:].any()
        assert (episode.index, episode.seed) == (i, 1)


def test_every_way_to_end_in_a_world_of_three_ids() -> None:
    """V = 3, T <= 4: EOS at the limit is an end like any other; only a text without it is cut."""
    tokenizer = WordTokenizer("ab", separator="", pad=False)
    policy = small_policy(tokenizer=tokenizer, initializer_range=0.1)
    for limit in (1, 2, 3, 4):
        env = TextVectorEnv(["a"], tokenizer, lambda completion: 1.0, limit, num_envs=2_000)
        batch = rollout(policy, env, np.arange(2_000))
        found = {tuple(e.completion_ids.tolist()): i for i, e in enumerate(batch.episodes)}
        for ids, i in found.items():
            ended = ids[-1] == 2
            assert 2 not in ids[:-1]
            assert ended or len(ids) == limit
            assert batch.episodes[i].finish_reason == ("eos" if ended else "length")
        possible = sum(2**n for n in range(limit)) + 2**limit
        assert len(found) == possible, "2,000 episodes of this policy reach every leaf"


def test_a_rollout_of_the_wrong_shape_cannot_be_made() -> None:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    env = TextVectorEnv(["a"], tokenizer, lambda completion: 0.0, 5, num_envs=4)
    batch = rollout(small_policy(tokenizer=tokenizer), env, np.arange(4))
    with pytest.raises(AssertionError, match="values has shape"):
        replace(batch, values=batch.values[:, 1:])
    assert isinstance(batch.episodes[0], Episode)


@pytest.mark.parametrize("reward", [EveryB(), lambda completion: completion.count("c") - 2])
def test_a_rollout_shows_its_texts_and_what_they_were_paid(reward: object) -> None:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    env = TextVectorEnv(["a", "bcd"], tokenizer, reward, 9, num_envs=24)  # type: ignore[arg-type]
    batch = rollout(small_policy(tokenizer=tokenizer), env, np.arange(24), seed=1)
    mean = batch.scores.totals.mean()
    assert repr(batch) == f"Rollout(24 episodes, {batch.num_tokens} tokens, mean reward {mean:.3g})"
    html = batch._repr_html_()
    assert "… 19 more" in html
    for episode, total in list(zip(batch.episodes, batch.scores.totals, strict=True))[:5]:
        assert f">{total:.3g}</td>".replace("-", "−") in html
        assert f">{episode.prompt.text}</td>" in html
    coloured = html.count('style="background:#')
    paid = sum(int((r != 0).sum()) for r in batch.rewards[:5])
    assert coloured == (paid if isinstance(reward, EveryB) else 0)
