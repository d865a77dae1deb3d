"""What an update costs beside its matrix products, which no kernel of ours makes faster.

    OMP_NUM_THREADS=1 python benchmarks/matrix_products.py --json FILE

A Qwen3 with random weights computes the log-probabilities of a GRPO minibatch of `compare.py` (16 of 64
episodes of 8 prompts, 16 tokens and 48 new ones) and their gradients. `products` are the same matrix products
alone, by PyTorch, with numbers that lie as there: the least that an update made of them can take. Both take
turns in one process, on one thread; figures are medians and minima of CPU time, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import tyro
from compare import SHAPES
from machine import Row, save
from torch import Tensor
from trainers import GROUP, MINIBATCHES, PROMPT_TOKENS, model

from text_gym import WordTokenizer
from text_gym.agents import Policy
from text_gym.agents.policies import memory
from text_gym.models.cpu import llama_layer
from text_gym.models.cpu.products import matmul
from text_gym.models.runtime import keep_freed_memory

EPISODES, NEW_TOKENS = 64, 48


@dataclass(frozen=True)
class Options:
    """Measure an update and its matrix products.

    Args:
        shapes: Models of `compare.py`.
        rounds: Turns of each.
        json: File for the rows.
    """

    shapes: tuple[str, ...] = ("qwen3-tiny", "qwen3-small")
    rounds: int = 20
    json: Path | None = None


def minibatch(shape: str) -> Callable[[], None]:
    """Make a model and a minibatch; return what computes its gradients."""
    options = argparse.Namespace(**{"family": "gpt2", **SHAPES[shape]}, new_tokens=NEW_TOKENS)
    words = [f"w{i}" for i in range(options.vocabulary - 1)]
    policy = Policy(model(options), WordTokenizer(words, pad=False), device="cpu")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, options.vocabulary - 1, (EPISODES, PROMPT_TOKENS + NEW_TOKENS))
    tokens[:, :PROMPT_TOKENS] = np.repeat(tokens[::GROUP, :PROMPT_TOKENS], GROUP, 0)
    rows = torch.from_numpy(tokens[rng.permutation(EPISODES)[: EPISODES // MINIBATCHES]])
    starts, lengths = (torch.full((len(rows),), n) for n in (PROMPT_TOKENS, NEW_TOKENS))

    def update() -> None:
        policy.zero_grad(set_to_none=True)
        policy.evaluate(rows, starts, lengths).log_probs.sum().backward()

    return update


def products_of(update: Callable[[], None]) -> Callable[[], None]:
    """Return what computes an update's matrix products alone."""
    factors: list[tuple[Tensor, Tensor]] = []

    def noting(a: Tensor, b: Tensor | Sequence[Tensor], *rest: Any, **options: Any) -> Tensor:
        factors.extend((a, each) for each in ([b] if isinstance(b, Tensor) else b))
        return matmul(a, b, *rest, **options)

    with mock.patch.object(memory, "matmul", noting), mock.patch.object(llama_layer, "matmul", noting):
        update()

    def alone() -> None:
        for a, b in factors:
            torch.mm(a, b)

    return torch.no_grad()(alone)


def seconds(work: Callable[[], None]) -> float:
    """CPU time of one turn."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(shape: str, rounds: int) -> Row:
    """Let an update and its products take turns."""
    update = minibatch(shape)
    contestants = {"update": update, "products": products_of(update)}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            spent = 1000 * seconds(work)
            if turn:
                taken[name].append(spent)
    found: Row = {"model": shape}
    for name, times in taken.items():
        found |= {name: statistics.median(times), f"{name}_least": min(times)}
    pairs = [p / u for p, u in zip(taken["products"], taken["update"], strict=True)]
    return {**found, "share": statistics.median(pairs)}


def main(options: Options) -> None:
    """Measure, print and write the rows."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for shape in options.shapes:
        rows.append(measure(shape, options.rounds))
        print(rows[-1], flush=True)
    if options.json is not None:
        save(options.json, rows, load=os.getloadavg()[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
