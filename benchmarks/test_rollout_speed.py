"""The sampler against `model.generate`: `pytest benchmarks/test_rollout_speed.py -n 0 --benchmark-enable`.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/test_rollout_speed.py [tiny products small gpt2]

prints a table instead, of three repetitions.
Both draw 64 completions (or one) of up to 48 tokens after prompts of 16 tokens, at temperature 1.
A rollout also steps the environment and keeps log-probabilities and values; `generate` returns tokens only.
Contestants take turns within one run and ratios are those of medians: of CPU time on one thread
(`OMP_NUM_THREADS=1`), of wall-clock time on more, for which the machine must be idle.
Lengths are either all 48, or geometric with a mean of 16 tokens cut at 48: there one id in sixteen ends a
text, and models with random weights draw all ids about equally often.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from text_gym import TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import Policy, rollout

ROWS, PROMPT_TOKENS, NEW_TOKENS = 64, 16, 48
SHAPES = {  # GPT-2 shapes, and those of Qwen3: as wide and as deep, two heads to a group of keys and values
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257},
    "qwen3-tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "qwen3-small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
}
FLOORS = {  # model, lengths, rows
    ("tiny", "full", ROWS): 3.0,
    ("tiny", "full", 1): 4.0,
    ("tiny", "geometric", ROWS): 6.0,
    ("small", "full", ROWS): 1.9,
    ("small", "geometric", ROWS): 4.0,
    ("products", "full", ROWS): 3.0,
    ("gpt2", "full", ROWS): 1.35,
    ("qwen3-tiny", "full", ROWS): 3.0,
    ("qwen3-small", "full", ROWS): 2.2,
}
TURNS = {"tiny": 9, "products": 9, "small": 5, "qwen3-tiny": 9, "qwen3-small": 5}
QUICK = [case for case in FLOORS if case[0] in TURNS]

Contestants = tuple[Callable[[], Any], Callable[[], Any]]


def contestants(shape: str, lengths: str, rows: int = ROWS) -> Contestants:
    """`generate` and `rollout`, each a function that plays one batch."""
    if shape == "products":  # the policy that is shipped; random prompts of its ids
        model: Any = Policy.from_pretrained(str(load_task("products").policy), device="cpu").model
        vocabulary = model.config.vocab_size
    else:
        size = dict(SHAPES[shape])
        vocabulary = size.pop("vocabulary")
    words = [f"w{i}" for i in range(vocabulary - 1)]
    tokenizer = WordTokenizer(words, pad=False)
    tokenizer.eos_ids = tuple(range(0, vocabulary, 16)) if lengths == "geometric" else ()
    if shape == "products":
        policy = Policy(model, tokenizer, device="cpu")
    elif shape.startswith("qwen3"):
        policy = Policy(qwen3(vocabulary, **size), tokenizer, device="cpu")
    else:
        policy = Policy.new(tokenizer, context=PROMPT_TOKENS + NEW_TOKENS, device="cpu", **size)
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(words, PROMPT_TOKENS)) for _ in range(256)]
    env = TextVectorEnv(prompts, tokenizer, lambda episodes: [0.0] * len(episodes), NEW_TOKENS, num_envs=rows)
    clock = itertools.count()

    def ours() -> int:
        first = next(clock) * rows
        return rollout(policy, env, np.arange(first, first + rows)).num_tokens

    encoded = torch.tensor([tokenizer.encode(p) for p in prompts[:rows]])
    settings = {
        "attention_mask": torch.ones_like(encoded),
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": NEW_TOKENS,
        "eos_token_id": list(tokenizer.eos_ids) or None,
        "pad_token_id": 0,
    }

    def generate() -> Any:
        return policy.model.generate(encoded, **settings)

    return generate, ours


def qwen3(vocabulary: int, layers: int, width: int, heads: int) -> Any:
    """A Qwen3 with random weights."""
    config = transformers.Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=width // heads,
        max_position_embeddings=PROMPT_TOKENS + NEW_TOKENS,
        tie_word_embeddings=True,
    )
    return transformers.Qwen3ForCausalLM(config)


def in_turns(slow: Callable[[], Any], fast: Callable[[], Any], turns: int) -> tuple[float, float]:
    """Median seconds of both; CPU time, where it can be had, is less disturbed by others on the machine."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: tuple[list[float], list[float]] = ([], [])
    slow()
    fast()
    for _ in range(turns):
        for which, contestant in enumerate((slow, fast, fast)):
            started = now()
            contestant()
            seconds[min(which, 1)].append(now() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


@pytest.mark.parametrize(("shape", "lengths", "rows"), QUICK)
def test_rollout(benchmark: Any, shape: str, lengths: str, rows: int) -> None:
    slow, fast = contestants(shape, lengths, rows)
    seconds = in_turns(slow, fast, TURNS[shape])
    ratio, floor = seconds[0] / seconds[1], FLOORS[shape, lengths, rows]
    benchmark.extra_info |= {"slow_seconds": seconds[0], "fast_seconds": seconds[1], "ratio": ratio}
    benchmark.extra_info["load"] = os.getloadavg()[0]
    print(f"\n{benchmark.name}: {seconds[0]:.4f} s / {seconds[1]:.4f} s = {ratio:.1f} (floor {floor})")
    benchmark.pedantic(fast, rounds=1)
    assert ratio >= floor


def show(shapes: Sequence[str], repetitions: int = 3) -> None:
    """Print the table: medians of the repetitions, and the range of ratios; seconds."""
    print(
        f"{'model':10}{'lengths':11}{'rows':>4}{'generate':>12}{'rollout':>11}{'ratio':>7}  range      floor"
    )
    for (shape, lengths, rows), floor in FLOORS.items():
        if shape not in shapes:
            continue
        slow, fast = contestants(shape, lengths, rows)
        found = [
            in_turns(slow, fast, TURNS.get(shape, 1)) for _ in range(repetitions if shape in TURNS else 1)
        ]
        ratios = sorted(a / b for a, b in found)
        theirs, ours = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"{shape:10}{lengths:11}{rows:4}{theirs:12.4f}{ours:11.4f}{statistics.median(ratios):7.2f}"
            f"  {ratios[0]:.2f}–{ratios[-1]:.2f}  {floor:5.2f}",
            flush=True,
        )


if __name__ == "__main__":
    show(sys.argv[1:] or list(TURNS))
