"""A token environment as it is usually written first: lists of ids, encoded and decoded anew at every step.

The yardstick of `test_env_speed`. It is the design of RL4LMs' `TextGenEnv` at its smallest: a state object
an observation, the whole text rebuilt and tokenized again after each token, Python all the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from text_gym import Tokenizer


@dataclass
class State:
    """What has been read and written so far, as texts, ids and padded arrays."""

    prompt: str
    text: str
    actions: list[int] = field(default_factory=list)
    tokens: Any = None
    mask: Any = None


class ListingEnv(gym.Env[dict[str, Any], np.int64]):
    """Prompts in, tokens out; reward of the text at the end.

    Args:
        prompts: Texts.
        tokenizer: Ids of the action space.
        reward: Function of the completion.
        max_tokens: Token limit.
        width: Length of the observation, in tokens.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        reward: Callable[[str], float],
        max_tokens: int,
        width: int,
    ) -> None:
        self.prompts, self.tokenizer, self.reward = list(prompts), tokenizer, reward
        self.max_tokens, self.width = max_tokens, width
        box = gym.spaces.Box(0, tokenizer.vocab_size - 1, (width,), np.int64)
        self.observation_space = gym.spaces.Dict(
            {"tokens": box, "attention_mask": gym.spaces.Box(0, 1, (width,), np.int8)}
        )
        self.action_space = gym.spaces.Discrete(tokenizer.vocab_size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw a prompt."""
        super().reset(seed=seed, options=options)
        prompt = self.prompts[int(self.np_random.integers(len(self.prompts)))]
        self.state = State(prompt, prompt)
        return self._observe(), {"prompt": prompt}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Append a token, then make text and ids of everything again."""
        self.state = deepcopy(self.state)
        self.state.actions.append(int(action))
        completion = self.tokenizer.decode(self.state.actions)
        self.state.text = self.state.prompt + completion
        terminated = int(action) in self.tokenizer.eos_ids or len(self.state.actions) >= self.max_tokens
        reward = self.reward(completion) if terminated else 0.0
        info = {"prompt": self.state.prompt, "completion": completion}
        return self._observe(), reward, terminated, False, info

    def _observe(self) -> dict[str, Any]:
        ids = self.tokenizer.encode(self.state.text)[-self.width :]
        padding = [self.tokenizer.pad_id] * (self.width - len(ids))
        self.state.tokens = np.array(ids + padding, dtype=np.int64)
        self.state.mask = np.array([1] * len(ids) + [0] * len(padding), dtype=np.int8)
        return {"tokens": self.state.tokens, "attention_mask": self.state.mask}
