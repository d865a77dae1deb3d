"""Add two numbers, writing the most significant digit first, so that a carry must be foreseen."""

from __future__ import annotations

import random

import numpy as np

from text_gym.tokenizer import WordTokenizer

from .classic import check_range, choose_inputs, classic_task
from .task import Task


def add(
    digits: int = 1, base: int = 10, least_first: bool = False, sparse: bool = False, seed: int = 0
) -> Task:
    """Write the sum of the prompt's numbers in `digits + 1` digits, then EOS: `7+5` is `12`, `1+2` is `03`.

    State: the prompt (two numbers of `digits` digits with `+` between them) and the tokens so far.
    Action: a digit, `+` or EOS, so that `V` is `base + 2`. Reward: `1 / (digits + 2)` for each digit in
    its place and for EOS right after the last; if sparse, 1 for the whole answer and EOS, otherwise 0.
    Optimum: 1. The random policy gets `(1 - (1 - 1/V)^(digits + 2)) / (digits + 2)`, if sparse
    `V^-(digits + 2)`.

    All pairs of numbers are inputs if there are at most 4096 (otherwise a seeded sample), one in five
    held out.

    Args:
        digits: Digits of each number, at least 1.
        base: Of the number system, 2 to 10.
        least_first: Write the sum's least significant digit first, which makes the carry a matter of
            the tokens before (easier with many digits).
        sparse: Pay for the whole answer only.
        seed: Seed of the sample and of the split.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = add()
    >>> len(task.prompts), len(task.held_out), round(task.random_return, 4)
    (80, 20, 0.0766)
    >>> [(p.text, p.columns["answer"]) for p in add(base=2).prompts]
    [('0+0', '00'), ('0+1', '01'), ('1+0', '01'), ('1+1', '10')]
    """
    check_range("digits", digits, 1)
    check_range("base", base, 2, 10)

    def written(number: int, width: int) -> str:
        return np.base_repr(number, base).zfill(width)

    def problem(a: int, b: int) -> str:
        return f"{written(a, digits)}+{written(b, digits)}"

    def draw(rng: random.Random) -> str:
        return problem(rng.randrange(base**digits), rng.randrange(base**digits))

    def answer(text: str) -> str:
        total = written(sum(int(number, base) for number in text.split("+")), digits + 1)
        return total[::-1] if least_first else total

    every = (problem(a, b) for a in range(base**digits) for b in range(base**digits))
    tokenizer = WordTokenizer("0123456789"[:base] + "+", separator="", pad=False)
    inputs = choose_inputs(every, draw, seed)
    return classic_task("add", tokenizer, inputs, answer, sparse=sparse, seed=seed)
