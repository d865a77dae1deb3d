"""Write the prompt backwards; each token's source moves towards the start as the answer grows."""

from __future__ import annotations

from text_gym.tokenizer import WordTokenizer

from .classic import choose_strings, classic_task
from .task import Task


def reverse(length: int = 4, symbols: str = "abc", sparse: bool = False, seed: int = 0) -> Task:
    """Write the prompt's string from its last symbol to its first, then EOS.

    State: the prompt (`length` symbols) and the tokens so far. Action: a symbol or EOS, so that `V` is
    `len(symbols) + 1`. Reward: `1 / (length + 1)` for each symbol in its place and for EOS right after
    the last; if sparse (`text_gym/SparseReverse-v0`), 1 for the whole string and EOS, otherwise 0: with
    the default sizes the random policy sees it once in 1024 episodes, and then does not know which
    of its tokens earned it. Optimum: 1. The random policy gets
    `(1 - (1 - 1/V)^(length + 1)) / (length + 1)`, if sparse `V^-(length + 1)`.

    All strings are inputs if there are at most 4096 (otherwise a seeded sample), one in five held out.

    Args:
        length: Symbols of the prompt, at least 1.
        symbols: Characters the strings are made of, distinct.
        sparse: Pay for the whole answer only.
        seed: Seed of the sample and of the split.

    Raises:
        ConfigError: A parameter out of its range, or symbols that are not distinct.

    >>> round(reverse().random_return, 4), round(reverse(sparse=True).random_return, 6)
    (0.1525, 0.000977)
    >>> reverse(length=2, symbols="ab").prompts[1].columns
    {'answer': 'ba'}
    """
    tokenizer = WordTokenizer(symbols, separator="", pad=False)
    strings = choose_strings(symbols, length, seed)
    return classic_task("reverse", tokenizer, strings, lambda text: text[::-1], sparse=sparse, seed=seed)
