"""Write a phrase from a record whose fields come in any order: the products task at its smallest."""

from __future__ import annotations

import random
from itertools import chain, permutations, product

from text_gym.tokenizer import WordTokenizer

from .classic import check_range, choose_inputs, classic_task
from .task import Task

# In the order in which English puts adjectives before a noun.
FIELDS = (
    ("small", "big", "huge", "tiny"),
    ("new", "old", "ancient", "used"),
    ("round", "square", "flat", "oval"),
    ("red", "blue", "green", "black"),
    ("glass", "steel", "oak", "wool"),
    ("lamp", "box", "clock", "bowl"),
)


def slots(slots: int = 4, values: int = 2, sparse: bool = False, seed: int = 0) -> Task:
    """Write `the`, the prompt's words in the order of an English noun phrase, then EOS.

    `lamp red glass round` asks for `the round red glass lamp`. Slots are the last of size, age, shape,
    colour, material and product; each word belongs to one slot.

    State: the prompt (`slots` words, one a slot, in any order) and the tokens so far. Action: `the`, a
    word or EOS, so that `V` is `slots * values + 2`. Reward: `1 / (slots + 2)` for each word in its place
    and for EOS right after the last; if sparse, 1 for the whole phrase and EOS, otherwise 0. Optimum: 1.
    The random policy gets `(1 - (1 - 1/V)^(slots + 2)) / (slots + 2)`, if sparse `V^-(slots + 2)`.

    All `values^slots * slots!` prompts are inputs if there are at most 4096 (otherwise a seeded sample),
    one in five held out.

    Args:
        slots: Words of the prompt, 1 to 6.
        values: Words that a slot may hold, 1 to 4.
        sparse: Pay for the whole answer only.
        seed: Seed of the sample and of the split.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = slots()
    >>> len(task.prompts), len(task.held_out), round(task.random_return, 4)
    (308, 76, 0.0781)
    >>> slots(slots=2).prompts[1].columns, slots(slots=2).prompts[1].text
    ({'answer': 'the glass lamp'}, 'lamp glass')
    """
    check_range("slots", slots, 1, len(FIELDS))
    check_range("values", values, 1, len(FIELDS[0]))
    fields = [field[:values] for field in FIELDS[-slots:]]
    words = ["the", *chain.from_iterable(fields)]
    every = (" ".join(order) for record in product(*fields) for order in permutations(record))

    def draw(rng: random.Random) -> str:
        return " ".join(rng.sample([rng.choice(field) for field in fields], slots))

    def phrase(text: str) -> str:
        return " ".join(["the", *sorted(text.split(), key=words.index)])

    tokenizer = WordTokenizer(words, pad=False)
    inputs = choose_inputs(every, draw, seed)
    return classic_task("slots", tokenizer, inputs, phrase, sparse=sparse, seed=seed)
