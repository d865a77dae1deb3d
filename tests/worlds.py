"""Environments to test with: small ones whose every option is in use somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from text_gym import (
    ByteTokenizer,
    Episode,
    EpisodeBatch,
    MinLength,
    Rewards,
    RewardSource,
    Task,
    TextVectorEnv,
    WordTokenizer,
    load_task,
)
from text_gym.envs.options import sort_options
from text_gym.tasks.task import ENV_IDS

Ints = npt.NDArray[np.int64]


class Terms(RewardSource):
    """Two terms, one of them per episode length."""

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        length = np.array([float(len(e.completion_ids)) for e in episodes])
        cut = np.array([float(e.finish_reason == "length") for e in episodes])
        return Rewards(length / 3, terms={"length": length, "cut": cut})


class PerToken(RewardSource):
    """Pays each token its id, and a hundredth of the length at the end."""

    def __init__(self, causal: bool) -> None:
        self.causal = causal

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        per_token = tuple(e.completion_ids.astype(np.float64) for e in episodes)
        return Rewards(np.array([len(t) / 100 for t in per_token]), per_token)


class Abstains(RewardSource):
    """No opinion on texts with an `a`."""

    abstains = True

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [None if "a" in e.completion else 1.0 for e in episodes]


class Moody(PerToken):
    """Pays each token its id, and has no opinion on texts with an `a`, which it sees at the end."""

    abstains = True

    def __init__(self) -> None:
        super().__init__(causal=True)

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        shy = np.array([e.done and "a" in e.completion for e in episodes])
        return replace(super().score(episodes), abstained=shy)


def count_b(completion: str) -> float:
    """Number of `b`s."""
    return float(completion.count("b"))


def make_task(task: Any, **parameters: Any) -> Task:
    """Made once, and not by each environment."""
    return load_task(task, **parameters)


def no_number(completion: str) -> float:
    """NaN, with an `a` in the text."""
    return float("nan") if "a" in completion else 1.0


PROMPTS = ["a", "ba", "abab", "b" * 9, "aab"]
SMALL: dict[str, Any] = {
    "prompts": PROMPTS,
    "tokenizer": WordTokenizer("ab", separator=""),
    "reward": count_b,
    "max_tokens": 5,
}

WORLDS: dict[str, dict[str, Any]] = {
    "plain": SMALL,
    "bytes": {**SMALL, "tokenizer": ByteTokenizer(), "max_tokens": 12},
    "empty prompt": {**SMALL, "prompts": ["", "ab"]},
    "pad is eos": {**SMALL, "tokenizer": WordTokenizer("ab", separator="", pad=False)},
    "one token": {**SMALL, "max_tokens": 1},
    "stop strings": {**SMALL, "stop": ["bb", "aba"], "max_tokens": 8},
    "terms": {**SMALL, "reward": Terms()},
    "per token, causal": {**SMALL, "reward": PerToken(causal=True)},
    "per token, at the end": {**SMALL, "reward": PerToken(causal=False)},
    "abstains": {**SMALL, "reward": Abstains()},
    "redraws": {**SMALL, "reward": Abstains(), "on_abstain": "redraw"},
    "redraws, causal": {**SMALL, "reward": Moody(), "on_abstain": "redraw"},
    "abstains, causal": {**SMALL, "reward": Moody()},
    "drops bad rewards": {**SMALL, "reward": no_number, "on_bad_reward": "drop"},
    "groups in order": {**SMALL, "group_size": 3, "shuffle": False},
    "long prompts": {**SMALL, "max_prompt_tokens": 3, "on_long_prompt": "truncate"},
    "limit truncates": {**SMALL, "reward": Terms(), "limit": "truncate"},
    "limit truncates, per token": {**SMALL, "reward": PerToken(causal=True), "limit": "truncate"},
    "numbers only": {**SMALL, "info_texts": False},
    "rendered": {**SMALL, "render_mode": "ansi"},
    **{name: {"task": make_task(**kwargs)} for name, kwargs in ENV_IDS.items()},
}


# The same episodes shown in other ways: keyword arguments of `observation` and `infos`.
SHOWN: dict[str, dict[str, Any]] = {
    "ids": {**SMALL, "observation": "ids", "stop": ["bb"]},
    "ids, pad is eos": {**WORLDS["pad is eos"], "observation": "ids"},
    "ids, long prompts": {**WORLDS["long prompts"], "observation": "ids"},
    "onehot": {**SMALL, "observation": "onehot", "limit": "truncate"},
    "text": {**SMALL, "observation": "text", "tokenizer": ByteTokenizer()},
    "constant infos": {**WORLDS["long prompts"], "reward": Terms(), "infos": "constant"},
    "constant infos, redraws": {**WORLDS["redraws"], "infos": "constant", "observation": "ids"},
    "constant infos, mask": {**SMALL, "infos": "constant", "mask": MinLength(1), "on_masked": "allow"},
    "constant infos, numbers": {**SMALL, "infos": "constant", "info_texts": False},
    "infos of numbers": {**WORLDS["redraws"], "infos": "numbers"},
    "no infos": {**WORLDS["abstains"], "infos": "none"},
    "no infos, mask": {**SMALL, "infos": "none", "mask": MinLength(1), "on_masked": "allow"},
    "no infos, redraws": {**WORLDS["redraws"], "infos": "none", "observation": "onehot"},
}


TURN_END = 0.3  # how often a random agent ends its turn


def ends_of_turns(env: TextVectorEnv) -> list[int]:
    """Ids of the tokens that hold the end of a string that ends turns; none without a respondent."""
    if env.batch.conversation is None:
        return []
    stops = env.batch.options.turn_stop_strings
    texts = [env.tokenizer.decode([i]) for i in range(env.tokenizer.vocab_size)]
    return [i for i, text in enumerate(texts) if text and any(stop.endswith(text) for stop in stops)]


def random_actions(env: TextVectorEnv, seed: int, eos: float = 0.2) -> Callable[[], Ints]:
    """Draws `(B,)` ids, more EOS and more ends of turns among them than chance would have."""
    rng = np.random.default_rng(seed)
    v, ends = env.tokenizer.vocab_size, env.tokenizer.eos_ids
    turn_ends = ends_of_turns(env)

    def draw() -> Ints:
        actions = rng.integers(v, size=env.num_envs)
        actions[rng.random(env.num_envs) < eos] = ends[0] if ends else 0
        if turn_ends:
            often = rng.random(env.num_envs) < TURN_END
            actions[often] = rng.choice(turn_ends, size=int(often.sum()))
        return actions

    return draw


def as_played(task: Task, episodes: list[Episode]) -> EpisodeBatch:
    """A batch of these episodes as if somebody had just played them; they are done."""
    _, options, _ = sort_options(task, {})
    batch = EpisodeBatch(task.prompts, task.tokenizer, task.reward, task.max_tokens, len(episodes), options)
    rows = np.arange(len(episodes))
    batch.begin(rows, np.zeros_like(rows), rows)
    for step in range(task.max_tokens):
        going = np.array([i for i, e in enumerate(episodes) if step < len(e.agent_ids)])
        batch.advance(going, np.array([episodes[i].agent_ids[step] for i in going]))
    return batch
