"""Close the brackets the prompt left open; the answer needs a stack, and its length is not given."""

from __future__ import annotations

import random
from itertools import product

from text_gym.tokenizer import WordTokenizer

from .classic import check_range, choose_inputs, classic_task
from .task import Task

PAIRS = ("()", "[]", "{}", "<>")


def brackets(length: int = 6, kinds: int = 2, sparse: bool = False, seed: int = 0) -> Task:
    """Write the closing brackets that balance the prompt, innermost first, then EOS.

    State: the prompt (`length` brackets, rightly nested, `d >= 1` of them still open) and the tokens so
    far. Action: one of the `2 * kinds` brackets or EOS, so that `V` is `2 * kinds + 1`. Reward:
    `1 / (d + 1)` for each bracket in its place and for EOS right after the last; if sparse, 1 for the
    whole answer and EOS, otherwise 0. Optimum: 1. The random policy gets the mean over prompts of
    `(1 - (1 - 1/V)^(d + 1)) / (d + 1)`, if sparse of `V^-(d + 1)`.

    All such prompts are inputs if there are at most 4096 (otherwise a seeded sample that closes a
    bracket as often as it opens one), one in five held out.

    Args:
        length: Brackets of the prompt, at least 1.
        kinds: 1 to 4 of the pairs `()`, `[]`, `{}`, `<>`; with one kind the task is to count.
        sparse: Pay for the whole answer only.
        seed: Seed of the sample and of the split.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = brackets()
    >>> len(task.prompts), len(task.held_out), round(task.random_return, 4)
    (295, 73, 0.1423)
    >>> [(p.text, p.columns["answer"]) for p in brackets(length=3, kinds=1).prompts]
    [('(((', ')))'), ('(()', ')'), ('()(', ')')]
    """
    check_range("length", length, 1)
    check_range("kinds", kinds, 1, len(PAIRS))
    alphabet = "".join(PAIRS[:kinds])
    every = filter(closers, map("".join, product(alphabet, repeat=length)))
    inputs = choose_inputs(every, lambda rng: _walk(rng, length, kinds), seed)
    tokenizer = WordTokenizer(alphabet, separator="", pad=False)
    return classic_task("brackets", tokenizer, inputs, closers, sparse=sparse, seed=seed)


def closers(text: str) -> str:
    """Return the brackets that close `text`; empty if it is balanced or can never be.

    >>> closers("([]{"), closers("()"), closers("(]")
    ('})', '', '')
    """
    opening = {pair[0]: pair[1] for pair in PAIRS}
    pending = ""
    for bracket in text:
        if bracket in opening:
            pending = opening[bracket] + pending
        elif pending[:1] == bracket:
            pending = pending[1:]
        else:
            return ""
    return pending


def _walk(rng: random.Random, length: int, kinds: int) -> str:
    while True:
        text = pending = ""
        for _ in range(length):
            if pending and rng.random() < 0.5:
                text, pending = text + pending[0], pending[1:]
            else:
                pair = rng.choice(PAIRS[:kinds])
                text, pending = text + pair[0], pair[1] + pending
        if pending:
            return text
