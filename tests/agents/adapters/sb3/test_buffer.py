from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from tests.sb3_world import letters_env, make_ppo
from text_gym.agents.adapters.sb3.buffer import SequenceRolloutBuffer


def test_the_buffer_keeps_every_step_once_in_sequences_of_one_episode() -> None:
    model = make_ppo(letters_env(), learning_rate=0.0, n_steps=17)
    seen: list[tuple[int, ...]] = []

    class Collect(BaseCallback):
        def _on_step(self) -> bool:
            obs = self.locals["obs_tensor"]
            for i, action in enumerate(self.locals["actions"]):
                prefix = obs["tokens"][i, : int(obs["length"][i])].tolist()
                seen.append((*prefix, -1, int(action)))
            return True

    model.learn(6 * 17, callback=Collect())
    found: list[tuple[int, ...]] = []
    sizes = []
    for batch in model.rollout_buffer.get(30):
        sizes.append(len(batch.actions))
        at = 0
        obs: Any = batch.observations
        for tokens, first, steps in zip(obs["tokens"], obs["length"][:, 0], obs["steps"][:, 0], strict=True):
            for k in range(int(steps)):
                found.append((*tokens[: int(first) + k].tolist(), -1, int(batch.actions[at])))
                at += 1
    assert sorted(found) == sorted(seen)
    assert len(sizes) == 3
    assert max(sizes) <= 30 + 2 * 5


def test_sequences_end_with_episodes_and_rollouts_even_where_the_tokens_go_on() -> None:
    """The next prompt is the last observation and one token more; and one rollout follows another."""
    space = spaces.Dict(
        {"tokens": spaces.Box(0, 3, (4,), np.int64), "length": spaces.Box(0, 4, (1,), np.int64)}
    )
    buffer = SequenceRolloutBuffer(2, space, spaces.Discrete(4))

    def rollout(texts: list[list[int]], starts: list[int]) -> list[tuple[list[int], int, int]]:
        buffer.reset()
        for text, start in zip(texts, starts, strict=True):
            tokens = np.array([text + [0] * (4 - len(text))])
            obs = {"tokens": tokens, "length": np.array([[len(text)]])}
            one, zero = np.ones(1), torch.zeros(1)
            buffer.add(obs, one, one, np.array([start]), zero, zero)
        buffer.compute_returns_and_advantage(torch.zeros(1), np.array([False]))
        (batch,) = buffer.get()
        columns: Any = batch.observations
        rows = zip(columns["tokens"], columns["length"], columns["steps"], strict=True)
        return sorted((t[: int(n) + int(k) - 1].tolist(), int(n), int(k)) for t, n, k in rows)

    assert rollout([[1], [1, 2]], [1, 0]) == [([1, 2], 1, 2)]
    assert rollout([[1], [1, 2]], [1, 1]) == [([1], 1, 1), ([1, 2], 2, 1)]
    assert rollout([[3], [3, 2]], [0, 0]) == [([3, 2], 1, 2)]
    # No episode has ended, but a wrapper shows another text, by chance a token longer.
    assert rollout([[1], [2, 2]], [0, 0]) == [([1], 1, 1), ([2, 2], 2, 1)]
