"""The default task: describe a product accurately, clearly and persuasively.

Product information comes in, a description of 20 to 40 words goes out. The gold reward is exact
because the task's English is closed (`products_corpus`); it does not judge any other English.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..episode import Episode, Prompt
from ..errors import RewardError
from ..reward import Rewards, RewardSource
from ..task import Task
from ..tokenizer import PretrainedTokenizer
from . import products_corpus as english

POLICY = Path(__file__).parent / "products_policy"
CORPUS_SEED = 0

# A price with all its digits, a word, a number, or one other character.
_TOKEN = re.compile(r"\$\d[\d.,]*\b|[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]|_|\{\w+\}")
_TEMPLATE_TOKEN = re.compile(r"\{\w+\}|[A-Za-z]+|[^\w\s]")
_ENDS = frozenset(".!?")
_START = "^"  # stands before a sentence; a "^" in a text never follows a sentence's end by the grammar
_NAME_PARTS = frozenset(english.BRANDS + english.LINES)
_NUMBERS = frozenset(english.NUMBERS)

_HOOKS = tuple(
    tuple(opening.split()) for opening in ("Meet the {name}", "Say hello to the {name}", "Discover the {name}")
) + (("Looking", "for", "a"),)
_CALLS = frozenset({("Order", "yours"), ("Order", "it"), ("Get", "yours"), ("Try", "it"), ("Bring", "it")})
_CALL_VERBS = frozenset(w for verb in ("Order", "Get", "Buy", "Bring") for w in (verb, verb.lower()))
_HYPE = frozenset(
    "amazing awesome best ever fantastic greatest incredible love most perfect really revolutionary "
    "ultimate unbelievable very wow".split()
)
_YOU = frozenset({"you", "your", "yours", "yourself"})


class Reading(NamedTuple):
    """A text with its slot values found.

    Args:
        tokens: Words and punctuation; a value stands as its slot's name in braces, e.g. `{colour}`.
        mentions: `(slot, value, position in tokens)` of each value, in order, benefits among them.
        words: Number of words, those within values included.
    """

    tokens: list[str]
    mentions: list[tuple[str, str, int]]
    words: int
