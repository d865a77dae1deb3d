from __future__ import annotations

import numpy as np

from text_gym import EpisodeBatch, EpisodeOptions, MinLength, TextVectorEnv, WordTokenizer
from text_gym.envs.observations import TokenObserver, observe


def test_observation_by_hand() -> None:
    env = TextVectorEnv(["a", "bab"], WordTokenizer("ab", separator=""), len, 2, num_envs=2, shuffle=False)
    env.reset(seed=0)
    env.reset(options={"episode_index": np.array([0, 1])})
    observation, *_ = env.step([1, 2])  # a 0, b 1, EOS 2, padding 3
    assert observation["tokens"].tolist() == [[0, 1, 3, 3, 3], [1, 0, 1, 2, 3]]
    assert observation["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert observation["length"].tolist() == [[2], [4]]


def test_observations_are_views_of_the_batch_within_their_space() -> None:
    tokenizer = WordTokenizer("ab", separator="")
    batch = EpisodeBatch(["a", "bab"], tokenizer, len, 3, 2, EpisodeOptions(mask=MinLength(1)))
    space = TokenObserver(batch, copy=False).space
    views = observe(batch)
    rows = np.arange(2)
    batch.begin(rows, seeds=rows, episode_index=rows)
    for actions in ([0, 1], [1, 1], [0, 1]):
        batch.advance(rows, np.array(actions))
        shown = observe(batch)
        assert all(space.contains({k: v[i] for k, v in shown.items()}) for i in rows)
        for key in ("tokens", "attention_mask", "length", "remaining"):
            assert np.shares_memory(shown[key], views[key])
    assert shown["remaining"].tolist() == [[0], [0]]
    assert shown["action_mask"].all()
