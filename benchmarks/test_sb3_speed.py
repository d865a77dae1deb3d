"""SB3 with and without the adapter: `pytest benchmarks/test_sb3_speed.py -n 0 --benchmark-enable`.

Stock `PPO` everywhere; what differs is the `VecEnv`, or the policy with its rollout buffer. Contestants
take turns within one run and ratios are those of medians. Models have random weights, episodes 16 prompt
and 48 new tokens, and there are 64 of them; run it with `OMP_NUM_THREADS=1` on an idle machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import tyro
from machine import save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn
from torch.distributions import Categorical
from transformers import GPT2LMHeadModel

from text_gym import ByteTokenizer, TextEnv, TextVectorEnv, WordTokenizer
from text_gym.agents import LanguageModelPolicy, Policy, SB3VecEnv, SequenceRolloutBuffer

ROWS, PROMPT_TOKENS, NEW_TOKENS = 64, 16, 48
SHAPES = {  # GPT-2 shapes
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
}


class UncachedPolicy(ActorCriticPolicy):
    """A language model as an SB3 policy in the straightforward way: every observation is read in full."""

    def __init__(self, *args: Any, language_model: Policy, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": []})
        self.model = GPT2LMHeadModel(language_model.model.config)  # as `transformers` has it, nothing fused
        self.model.load_state_dict(language_model.model.state_dict())
        self.model.eval()
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


class Contest(NamedTuple):
    """The straightforward way and ours, ready to run."""

    slow: Callable[[], Any]
    fast: Callable[[], Any]
    turns: int
    fast_per_turn: int

    def seconds(self) -> tuple[float, float]:
        """Medians of both, taken in turns."""
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.turns):
            for which, contestant in enumerate((self.slow, *[self.fast] * self.fast_per_turn)):
                started = time.perf_counter()
                contestant()
                seconds[min(which, 1)].append(time.perf_counter() - started)
        return statistics.median(seconds[0]), statistics.median(seconds[1])


def rollout(shape: str) -> Contest:
    """Collecting a rollout of 64 x 48 tokens, uncached and cached."""
    slow, fast = learner("uncached", shape), learner("cached", shape)
    play(fast)
    return Contest(lambda: play(slow), lambda: play(fast), 3 if shape == "tiny" else 1, 5)


def iteration() -> Contest:
    """A rollout and four epochs of learning from it."""
    slow, fast = learner("uncached", "tiny"), learner("cached", "tiny")
    iterate(fast)
    return Contest(lambda: iterate(slow), lambda: iterate(fast), 1, 5)


def vec_env() -> Contest:
    """100 environment steps, EOS with probability 0.03 a step: `DummyVecEnv` and `SB3VecEnv`."""
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
    return Contest(lambda: run(slow), lambda: run(fast), 5, 3)


CONTESTS: dict[str, tuple[Callable[[], Contest], float]] = {  # and the ratio that is the least we want
    "rollout, tiny": (lambda: rollout("tiny"), 40.0),
    "rollout, small": (lambda: rollout("small"), 30.0),
    "iteration, tiny": (iteration, 50.0),
    "environment steps": (vec_env, 4.0),
}


@pytest.mark.parametrize("name", CONTESTS)
def test_speed(benchmark: Any, name: str) -> None:
    make, floor = CONTESTS[name]
    contest = make()
    slow, fast = contest.seconds()
    benchmark.extra_info |= {"slow_seconds": slow, "fast_seconds": fast, "ratio": slow / fast}
    benchmark.pedantic(contest.fast, rounds=3)
    assert slow / fast >= floor


@dataclass(frozen=True)
class Options:
    """Seconds of both contestants in each contest, as a table.

    Args:
        json: File for the rows.
    """

    json: Path | None = None


def main(options: Options) -> None:
    """The table: `OMP_NUM_THREADS=1 python benchmarks/test_sb3_speed.py`."""
    rows: list[dict[str, Any]] = []
    print("| contest | straightforward, s | ours, s | ratio |\n|---|---|---|---|")
    for name, (make, floor) in CONTESTS.items():
        slow, fast = make().seconds()
        rows.append({"what": name, "slow": slow, "fast": fast, "ratio": slow / fast, "floor": floor})
        print(f"| {name} | {slow:.4f} | {fast:.4f} | {slow / fast:.1f} |", flush=True)
    if options.json is not None:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
