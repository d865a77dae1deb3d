"""SB3 with and without the adapter: `pytest benchmarks/test_sb3_speed.py -n 0 --benchmark-enable`.

Stock `PPO` everywhere; what differs is the `VecEnv`, or the policy with its rollout buffer. Contestants
take turns within one run and ratios are those of medians. Models have random weights, episodes 16 prompt
and 48 new tokens, and there are 64 of them; run it with `OMP_NUM_THREADS=1` on an idle machine.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn
from torch.distributions import Categorical

from text_gym import ByteTokenizer, TextEnv, TextVectorEnv, WordTokenizer
from text_gym.agents import LanguageModelPolicy, Policy, SB3VecEnv, SequenceRolloutBuffer

ROWS, PROMPT_TOKENS, NEW_TOKENS = 64, 16, 48
SHAPES = {  # GPT-2 shapes
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
}
FLOORS = {"tiny": 40.0, "small": 30.0}


class UncachedPolicy(ActorCriticPolicy):
    """A language model as an SB3 policy in the straightforward way: every observation is read in full."""

    def __init__(self, *args: Any, language_model: Policy, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": []})
        self.model = copy.deepcopy(language_model.model)
        self.value_head = nn.Linear(self.model.config.n_embd, 1)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-4, eps=1e-5)

    def _build(self, lr_schedule: Any) -> None:
        pass

    def read(self, obs: Any) -> tuple[Categorical, Tensor]:
        rows, last = torch.arange(len(obs["length"])), obs["length"].long().flatten() - 1
        output = self.model(
            input_ids=obs["tokens"].long(),
            attention_mask=obs["attention_mask"].long(),
            output_hidden_states=True,
        )
        return Categorical(logits=output.logits[rows, last]), self.value_head(
            output.hidden_states[-1][rows, last]
        )

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        distribution, values = self.read(obs)
        actions = distribution.sample()
        return actions, values, distribution.log_prob(actions)

    def predict_values(self, obs: Any) -> Tensor:
        return self.read(obs)[1]

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        distribution, values = self.read(obs)
        return values, distribution.log_prob(actions), distribution.entropy()


def learner(name: str, shape: str, epochs: int = 4) -> PPO:
    """PPO with the adapter's policy and buffer (`"cached"`) or with the straightforward ones."""
    size = dict(SHAPES[shape])
    words = [f"w{i}" for i in range(size.pop("vocabulary") - 1)]
    tokenizer = WordTokenizer(words, pad=False)
    tokenizer.eos_ids = ()  # all episodes have the same length
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(words, PROMPT_TOKENS)) for _ in range(256)]
    env = TextVectorEnv(
        prompts,
        tokenizer,
        lambda episodes: [float(e.completion_ids[0] % 2) for e in episodes],
        NEW_TOKENS,
        num_envs=ROWS,
        autoreset_mode="SameStep",
    )
    lm = Policy.new(tokenizer, context=PROMPT_TOKENS + NEW_TOKENS, device="cpu", **size)
    cached = name == "cached"
    model = PPO(
        LanguageModelPolicy if cached else UncachedPolicy,
        SB3VecEnv(env),
        n_steps=NEW_TOKENS,
        batch_size=ROWS * NEW_TOKENS // 4,
        n_epochs=epochs,
        learning_rate=1e-4,
        seed=0,
        device="cpu",
        policy_kwargs={"language_model": lm},
        rollout_buffer_class=SequenceRolloutBuffer if cached else None,
    )
    model.set_logger(configure(None, []))
    model._setup_learn(10**9)
    return model


def play(model: PPO) -> None:
    callback = CallbackList([])
    callback.init_callback(model)
    for cache in getattr(model.policy, "_caches", {}).values():
        cache.clear()  # as an update would
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, NEW_TOKENS)


def iterate(model: PPO) -> None:
    play(model)
    model.train()


def in_turns(
    slow: Callable[[], Any], fast: Callable[[], Any], turns: int, fast_per_turn: int
) -> tuple[float, float]:
    """Median seconds of both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for which, contestant in enumerate((slow, *[fast] * fast_per_turn)):
            started = time.perf_counter()
            contestant()
            seconds[min(which, 1)].append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def record(benchmark: Any, slow: float, fast: float, contestant: Callable[[], Any], floor: float) -> None:
    benchmark.extra_info |= {"slow_seconds": slow, "fast_seconds": fast, "ratio": slow / fast}
    print(f"\n{benchmark.name}: {slow:.4f} s / {fast:.4f} s = {slow / fast:.1f} (floor {floor:.0f})")
    benchmark.pedantic(contestant, rounds=1)
    assert slow / fast >= floor


@pytest.mark.parametrize("shape", SHAPES)
def test_rollout(benchmark: Any, shape: str) -> None:
    slow, fast = learner("uncached", shape), learner("cached", shape)
    play(fast)
    seconds = in_turns(
        lambda: play(slow), lambda: play(fast), turns=3 if shape == "tiny" else 1, fast_per_turn=5
    )
    record(benchmark, *seconds, lambda: play(fast), FLOORS[shape])


def test_iteration(benchmark: Any) -> None:
    slow, fast = learner("uncached", "tiny"), learner("cached", "tiny")
    iterate(fast)
    seconds = in_turns(lambda: iterate(slow), lambda: iterate(fast), turns=1, fast_per_turn=5)
    record(benchmark, *seconds, lambda: iterate(fast), 50.0)


def test_vec_env(benchmark: Any) -> None:
    """Environment steps only, EOS with probability 0.03 a step."""
    settings: dict[str, Any] = {
        "prompts": [f"Describe product {i:03d}:" for i in range(50)],
        "tokenizer": ByteTokenizer(),
        "reward": lambda episodes: [1.0] * len(episodes),
        "max_tokens": NEW_TOKENS,
    }
    slow = DummyVecEnv([lambda: TextEnv(**settings)] * ROWS)
    fast = SB3VecEnv(TextVectorEnv(**settings, num_envs=ROWS, autoreset_mode="SameStep"))
    rng = np.random.default_rng(0)
    actions = np.where(rng.random((100, ROWS)) < 0.03, 256, rng.integers(97, 123, (100, ROWS)))

    def run(env: Any) -> None:
        for drawn in actions:
            env.step(drawn)

    slow.reset()
    fast.reset()
    run(fast)
    seconds = in_turns(lambda: run(slow), lambda: run(fast), turns=5, fast_per_turn=3)
    record(benchmark, *seconds, lambda: run(fast), 4.0)
