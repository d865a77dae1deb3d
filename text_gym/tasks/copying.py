"""Copy the prompt, the easiest use of memory, since each token stands in the prompt."""

from __future__ import annotations

from text_gym.tokenizer import WordTokenizer

from .classic import choose_strings, classic_task
from .task import Task


def copy(length: int = 4, symbols: str = "abc", sparse: bool = False, seed: int = 0) -> Task:
    """Copy the prompt's string, then write EOS.

    State: the prompt (`length` symbols) and the tokens so far. Action: a symbol or EOS, so that `V` is
    `len(symbols) + 1`. Reward: `1 / (length + 1)` for each symbol in its place and for EOS right after
    the last; if sparse, 1 for the whole string and EOS, otherwise 0. Optimum: 1. The random policy gets
    `(1 - (1 - 1/V)^(length + 1)) / (length + 1)`, if sparse `V^-(length + 1)`.

    All strings are inputs if there are at most 4096 (otherwise a seeded sample), one in five held out.

    Args:
        length: Symbols of the prompt, at least 1.
        symbols: Characters the strings are made of, distinct.
        sparse: Pay for the whole answer only.
        seed: Seed of the sample and of the split.

    Raises:
        ConfigError: A parameter out of its range, or symbols that are not distinct.

    >>> task = copy()
    >>> len(task.prompts), len(task.held_out), round(task.random_return, 4)
    (65, 16, 0.1525)
    >>> copy(symbols="ab", length=3).prompts[0].columns
    {'answer': 'aaa'}
    """
    tokenizer = WordTokenizer(symbols, separator="", pad=False)
    strings = choose_strings(symbols, length, seed)
    return classic_task("copy", tokenizer, strings, str, sparse=sparse, seed=seed)
