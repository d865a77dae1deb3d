"""Count from one number to another; the next token follows from the last, the end from the prompt."""

from __future__ import annotations

import random

from text_gym.tokenizer import WordTokenizer

from .classic import check_range, choose_inputs, classic_task
from .task import Task


def count(largest: int = 9, sparse: bool = False, seed: int = 0) -> Task:
    """Write the numbers from the prompt's first to its second, both included, then EOS.

    State: the prompt (two numbers, `0 <= first <= second <= largest`, a token each) and the tokens so
    far. Action: one of the numbers or EOS, so that `V` is `largest + 2`. Reward: with
    `n = second - first + 1`, `1 / (n + 1)` for each number in its place and for EOS right after the last;
    if sparse, 1 for the whole answer and EOS, otherwise 0. Optimum: 1. The random policy gets the mean
    over prompts of `(1 - (1 - 1/V)^(n + 1)) / (n + 1)`, if sparse of `V^-(n + 1)`.

    All pairs are inputs if there are at most 4096 (`largest <= 89`; otherwise a seeded sample), one in
    five held out.

    Args:
        largest: Largest number, at least 1.
        sparse: Pay for the whole answer only.
        seed: Seed of the sample and of the split.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = count()
    >>> len(task.prompts), len(task.held_out), task.tokenizer.vocab_size
    (44, 11, 11)
    >>> [(p.text, p.columns["answer"]) for p in count(largest=1).prompts]
    [('0 0', '0'), ('0 1', '0 1'), ('1 1', '1')]
    """
    check_range("largest", largest, 1)
    numbers = [str(i) for i in range(largest + 1)]
    every = (f"{a} {b}" for a in range(largest + 1) for b in range(a, largest + 1))

    def draw(rng: random.Random) -> str:
        a, b = sorted(rng.choices(range(largest + 1), k=2))
        return f"{a} {b}"

    tokenizer = WordTokenizer(numbers, pad=False)
    inputs = choose_inputs(every, draw, seed)
    return classic_task("count", tokenizer, inputs, _answer, sparse=sparse, seed=seed)


def _answer(text: str) -> str:
    first, second = map(int, text.split())
    return " ".join(str(i) for i in range(first, second + 1))
