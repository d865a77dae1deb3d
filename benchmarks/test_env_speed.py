"""Environment steps a second, without a model: `pytest benchmarks/test_env_speed.py -n 0 --benchmark-enable`.

EOS comes with probability 0.03 a step. All contestants get the same actions; ratios come from rounds
taken in turns within one run (`test_ratios`), since two runs on a shared machine cannot be compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import tyro
from gymnasium.vector import SyncVectorEnv
from listing_env import ListingEnv
from machine import save

from text_gym import ByteTokenizer, TextEnv, TextVectorEnv, Tokenizer, load_task

PROMPTS = [f"Describe product {i:03d}:" for i in range(50)]
MAX_TOKENS = 64
TOKENIZERS: dict[str, Tokenizer] = {"bytes": ByteTokenizer(), "BPE": load_task("products").tokenizer}
SIZES = (1, 16, 64, 256, 1024)
FLOORS = {64: 8.0, 256: 25.0, 1024: 80.0}  # times SyncVectorEnv of the single environment


def reward(completion: str) -> float:
    """As cheap as a reward can be: the environment is measured, not the reward."""
    return 1.0 if completion else 0.0


def own(tokenizer: Tokenizer) -> dict[str, Any]:
    return {"prompts": PROMPTS, "tokenizer": tokenizer, "reward": reward, "max_tokens": MAX_TOKENS}


def listing(tokenizer: Tokenizer) -> ListingEnv:
    width = max(len(tokenizer.encode(p)) for p in PROMPTS) + MAX_TOKENS
    return ListingEnv(PROMPTS, tokenizer, reward, MAX_TOKENS, width)


CONTESTANTS: dict[str, Callable[[int, Tokenizer], Any]] = {
    "zero-copy": lambda n, t: TextVectorEnv(**own(t), num_envs=n, copy=False),
    "copy": lambda n, t: TextVectorEnv(**own(t), num_envs=n),
    "sync": lambda n, t: SyncVectorEnv([lambda: TextEnv(**own(t))] * n),
    "lists": lambda n, t: SyncVectorEnv([lambda: listing(t)] * n),
}


def actions(num_envs: int, tokenizer: Tokenizer, steps: int = 64) -> npt.NDArray[np.int64]:
    """`(steps, B)` ids of printable tokens, and 3 % EOS."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(97, 123, size=(steps, num_envs))
    drawn[rng.random(drawn.shape) < 0.03] = tokenizer.eos_ids[0]
    return drawn


def runner(name: str, num_envs: int, steps: int, tokenizer: Tokenizer) -> Callable[[], None]:
    """A function that takes so many steps in an environment that is well under way."""
    env, drawn = CONTESTANTS[name](num_envs, tokenizer), actions(num_envs, tokenizer)
    env.reset(seed=0)
    clock = itertools.count()

    def run() -> None:
        for _ in range(steps):
            env.step(drawn[next(clock) % len(drawn)])

    for _ in range(max(1, 40 // steps)):
        run()
    return run


@pytest.mark.parametrize("num_envs", SIZES)
@pytest.mark.parametrize("name", CONTESTANTS)
def test_steps(benchmark: Any, name: str, num_envs: int) -> None:
    steps = 64 if "copy" in name else max(1, 256 // num_envs)
    benchmark.group = f"B={num_envs}"
    benchmark.extra_info["token_steps_per_round"] = steps * num_envs
    benchmark.pedantic(runner(name, num_envs, steps, TOKENIZERS["bytes"]), rounds=10)


@pytest.mark.parametrize("env_id", ["text_gym/Reverse-v0", "text_gym/Products-v0"])
def test_frames(benchmark: Any, env_id: str) -> None:
    """Steps of one environment, each with a picture: a round is a hundred of them."""
    env: Any = gym.make(env_id, render_mode="rgb_array")
    rng = np.random.default_rng(0)

    def film() -> None:
        over = True
        for _ in range(100):
            if over:
                env.reset(seed=0)
            *_, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
            over = terminated or truncated
            env.render()

    benchmark.extra_info["frames_per_round"] = 100
    benchmark.pedantic(film, rounds=10, warmup_rounds=1)


def measure(num_envs: int, tokenizer: Tokenizer, rounds: int = 7) -> dict[str, float]:
    """Token steps a second of each contestant, CPU time, the best of rounds taken in turns."""
    steps = {
        "zero-copy": 100,
        "copy": 100,
        "sync": max(2, 512 // num_envs),
        "lists": max(2, 512 // num_envs),
    }
    runs = {name: runner(name, num_envs, steps[name], tokenizer) for name in CONTESTANTS}
    best = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = max(best[name], steps[name] * num_envs / (time.process_time() - start))
    return best


@pytest.mark.nightly
@pytest.mark.parametrize("num_envs", SIZES)
def test_ratios(num_envs: int) -> None:
    found = measure(num_envs, TOKENIZERS["bytes"])
    assert found["zero-copy"] >= FLOORS.get(num_envs, 0.0) * found["sync"]
    if num_envs == 1024:
        assert found["zero-copy"] >= 5e6


@dataclass(frozen=True)
class Options:
    """Token steps a second of all contestants, as a table.

    Args:
        json: File for the rows.
    """

    json: Path | None = None


def main(options: Options) -> None:
    """The table: `python benchmarks/test_env_speed.py`."""
    rows: list[dict[str, Any]] = []
    print("| tokenizer | B | zero-copy, token steps/s | copy | SyncVectorEnv | lists | ÷ Sync | ÷ lists |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, tokenizer), num_envs in itertools.product(TOKENIZERS.items(), SIZES):
        found = measure(num_envs, tokenizer)
        ratios = {f"over_{other}": found["zero-copy"] / found[other] for other in ("sync", "lists")}
        rows.append({"tokenizer": name, "num_envs": num_envs, **found, **ratios})
        cells = [name, str(num_envs), *(f"{speed:,.0f}" for speed in found.values())]
        print("| " + " | ".join([*cells, *(f"{ratio:.1f}" for ratio in ratios.values())]) + " |")
    if options.json is not None:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
