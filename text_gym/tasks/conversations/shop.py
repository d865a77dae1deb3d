"""Shop: a customer wants one product of a few; the agent asks what it is like, and recommends one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from text_gym.episode import Prompt
from text_gym.errors import ConfigError
from text_gym.tasks.classic import check_range
from text_gym.tasks.products_corpus import CATEGORIES, COLOURS
from text_gym.tasks.task import Pairs, Task
from text_gym.tokenizer import WordTokenizer

from .rules import RulesRespondent, RulesReward, Verdict

ATTRIBUTES = ("colour", "material", "category")
NUMBERS = "12345678"
RIGHT, WRONG, LEAVES = "thanks", "no", "bye"
MAX_QUESTIONS = 3
# A small policy learns the corpus, then goes on from there; see `benchmarks/conversations.py`.
RECOMMENDED: dict[str, dict[str, Any]] = {
    "sft": {"width": 64, "dropout": 0.0, "epochs": 30},
    "grpo": {
        "episodes": 256,
        "iterations": 160,
        "learning_rate": 2e-3,
        "kl_coef": 0.0,
        "minibatches": 2,
    },
}
_CARELESS = 0.3  # share of the corpus's clerks that recommend any product

Item = tuple[str, ...]  # a product's colour, material and category


def shop(
    products: int = 3, cost: float = 0.1, n_train: int = 1024, n_held_out: int = 64, seed: int = 0
) -> Task:
    """Find out which product the customer wants, with few questions, and recommend it by its number.

    State: the prompt (the products by number, `1 red steel mug 2 …`) and what was said so far. Action: a
    word of the products' colours, materials and categories, a number, an attribute or EOS, `V = 46` with
    three products. The word `colour`, `material` or `category` ends the turn and is a question, answered
    with the word of the product that is wanted; a number ends the turn and is the recommendation, answered
    with `thanks` or `no`, and the end. The fourth question is one too many: the customer says `bye`.

    Reward: `1 - cost · questions` for the right product, otherwise 0. The optimum is exact: the mean over the
    catalogues of what the best plan of questions earns, by enumeration of all plans, when each product is
    wanted equally often. It is below 1, since one has to ask. The random policy's return is exact.

    Every catalogue is in the prompts once for each product of it. The corpus, for `text-gym sft`, is of
    clerks who ask up to two questions, whichever come to mind; some of them do not listen to the answers.

    Args:
        products: Products of a catalogue, 2 to 8.
        cost: What a question costs, 0 to 0.3.
        n_train: Catalogues to learn on.
        n_held_out: Catalogues to judge on; no product is on both sides.
        seed: Another seed gives other catalogues.

    Raises:
        ConfigError: A parameter out of its range.

    >>> task = shop()
    >>> task.prompts[1].text, task.prompts[1].columns["wanted"]
    ('1 pink copper bottle 2 purple plastic bottle 3 yellow canvas tent', 1)
    """
    check_range("products", products, 2, len(NUMBERS))
    check_range("n_train", n_train, 1)
    check_range("n_held_out", n_held_out, 1)
    if not 0 <= cost <= 0.3:
        raise ConfigError(f"cost is {cost!r}; it must be from 0 to 0.3")
    words = [*COLOURS, *sorted({m for c in CATEGORIES.values() for m in c[0]}), *CATEGORIES]
    numbers = NUMBERS[:products]
    tokenizer = WordTokenizer([*words, *ATTRIBUTES, *numbers, RIGHT, WRONG, LEAVES], pad=False)
    max_tokens = 2 * (MAX_QUESTIONS + 1)
    rules = partial(judge_shop, cost=cost)
    halves = [_catalogues(n, products, seed, half) for half, n in enumerate((n_train, n_held_out))]
    train, held_out = map(_prompts, halves)
    return Task(
        name="shop",
        prompts=train,
        held_out=held_out,
        tokenizer=tokenizer,
        reward=RulesReward(rules, "shop", ("items", "wanted")),
        max_tokens=max_tokens,
        corpus=partial(_corpora, train, held_out, seed),
        respondent=RulesRespondent(rules),
        turn_stop=(*ATTRIBUTES, *numbers),
        max_turns=MAX_QUESTIONS + 1,
        max_context=4 * products + max_tokens + MAX_QUESTIONS + 1,
        optimum=float(np.mean([best_plan(items, cost) for items in halves[0]])),
        random_return=_random_return(products, cost, max_tokens, tokenizer.vocab_size),
        recommended=RECOMMENDED,
    )


def judge_shop(columns: Mapping[str, Any], said: Sequence[str], cost: float) -> Verdict:
    """Answer the last question or recommendation.

    Args:
        columns: Has `items`, the products' words, and `wanted`, the index of one.
        said: The agent's turns; the last word of each is a question or a recommendation.
        cost: What a question costs.
    """
    wanted, word = columns["wanted"], said[-1].split()[-1]
    if word in ATTRIBUTES:
        if len(said) > MAX_QUESTIONS:
            return Verdict(LEAVES, ends=True)
        return Verdict(columns["items"][wanted][ATTRIBUTES.index(word)])
    right = NUMBERS.index(word) == wanted
    return Verdict(RIGHT if right else WRONG, ends=True, score=right * (1 - cost * (len(said) - 1)))


def best_plan(items: Sequence[Item], cost: float) -> float:
    """Return what the best plan of questions earns on average, each product being wanted equally often."""

    @cache
    def value(left: frozenset[int], questions: int) -> float:
        """The expected reward, times the number of products left, after so many questions."""
        best = 1 - cost * questions
        if questions == MAX_QUESTIONS or len(left) == 1:
            return best
        for attribute in range(len(ATTRIBUTES)):
            parts: dict[str, set[int]] = {}
            for i in left:
                parts.setdefault(items[i][attribute], set()).add(i)
            if len(parts) > 1:
                best = max(best, sum(value(frozenset(part), questions + 1) for part in parts.values()))
        return best

    return value(frozenset(range(len(items))), 0) / len(items)


def _catalogues(count: int, products: int, seed: int, half: int) -> list[tuple[Item, ...]]:
    """Draw catalogues of distinct products, all of whose products are of one half of those that there are."""
    every = [(c, m, name) for name, (materials, *_) in CATEGORIES.items() for m in materials for c in COLOURS]
    held_out = set(random.Random(f"shop {seed}").sample(every, len(every) // 5))
    own = [item for item in every if (item in held_out) == bool(half)]
    rng = random.Random(f"shop {seed} {half}")
    return [tuple(rng.sample(own, products)) for _ in range(count)]


def _prompts(catalogues: Sequence[tuple[Item, ...]]) -> list[Prompt]:
    """Return a prompt for each product of each catalogue, which is the one that is wanted."""
    prompts = []
    for k, items in enumerate(catalogues):
        text = " ".join(f"{NUMBERS[i]} {' '.join(item)}" for i, item in enumerate(items))
        for i in range(len(items)):
            prompts.append(Prompt(text, {"items": items, "wanted": i}, f"catalogue {k}, product {i + 1}"))
    return prompts


def _corpora(train: Sequence[Prompt], held_out: Sequence[Prompt], seed: int) -> tuple[Pairs, Pairs]:
    """Write a conversation for each prompt, a pair for each turn of the clerk's."""
    halves = []
    for name, prompts in (("train", train), ("held out", held_out)):
        rng = random.Random(f"shop corpus {seed} {name}")
        halves.append([pair for prompt in prompts for pair in _written(prompt, rng)])
    return halves[0], halves[1]


def _written(prompt: Prompt, rng: random.Random) -> list[tuple[Prompt, str]]:
    """Write a conversation: questions, and the number of one of the products that fit, or of any."""
    items, wanted = prompt.columns["items"], prompt.columns["wanted"]
    asked = rng.sample(range(len(ATTRIBUTES)), rng.choice((0, 1, 1, 2)))
    text, pairs = prompt.text, []
    for k in asked:
        pairs.append((Prompt(text, prompt.columns, prompt.id), ATTRIBUTES[k]))
        text += f" {ATTRIBUTES[k]} {items[wanted][k]}"
    if rng.random() < _CARELESS:
        asked = []
    fit = [i for i, item in enumerate(items) if all(item[k] == items[wanted][k] for k in asked)]
    return [*pairs, (Prompt(text, prompt.columns, prompt.id), NUMBERS[rng.choice(fit)])]


def _random_return(products: int, cost: float, max_tokens: int, vocab_size: int) -> float:
    """Return the expected reward of tokens drawn uniformly; one recommendation in `products` is right."""
    others = vocab_size - products - len(ATTRIBUTES) - 1

    @cache
    def value(tokens: int, questions: int) -> float:
        if not tokens or questions > MAX_QUESTIONS:
            return 0.0
        recommends = 1 - cost * questions  # by each of `products` numbers, of which one is right
        asks = len(ATTRIBUTES) * value(tokens - 1, questions + 1)
        return (recommends + asks + others * value(tokens - 1, questions)) / vocab_size

    return value(max_tokens, 0)
