"""Products and their descriptions: a closed lexicon, a small grammar, and careful or careless writers.

Everything follows from a seed, product by product and text by text. Because lexicon and grammar are
closed, a text can be judged exactly; how it is judged is not said here but in `products`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TypeVar

from text_gym.episode import Prompt
from text_gym.errors import ConfigError

T = TypeVar("T")

SLOTS = ("name", "category", "material", "colour", "feature", "audience", "price")

# Coined names: a brand, a line and a number, e.g. "Lumo Air 3".
BRANDS = tuple(
    """Bela Dano Fira Gavo Hilo Juno Kito Lumo Mira Nova Pavo Rina Sola Tavo Vela Zeno
    Belo Dara Filo Gara Hela Juva Kira Luna Mino Nela Riva Sano""".split()  # noqa: SIM905
)
LINES = tuple(
    "Ace Air Arc Bay Bee Day Dot Elm Fox Gem Ice Jet Key Max Oak One Pro Ray Sea Sky Sun Top Way Zen".split()  # noqa: SIM905
)
NUMBERS = tuple("23456789")

COLOURS = tuple("black blue brown green grey pink purple red white yellow".split())  # noqa: SIM905

_LOW = ("$9", "$12", "$15", "$18", "$21", "$24")
_MID = ("$29", "$35", "$39", "$42", "$48", "$56")
_HIGH = ("$69", "$75", "$84", "$95", "$110", "$150")

# Category -> what it may be made of, what it may do, whom it may serve, what it may cost.
CATEGORIES: dict[str, tuple[tuple[str, ...], ...]] = {
    category: (tuple(m.split()), tuple(f.split(", ")), tuple(a.split()), prices)
    for category, m, f, a, prices in (
        ("bag", "canvas leather nylon cotton", "holds a laptop, keeps out rain, folds flat",
         "students travellers teachers cyclists", _MID),
        ("blanket", "wool cotton linen", "stays warm, washes well, dries fast",
         "campers readers parents travellers", _MID),
        ("bottle", "steel glass plastic copper", "keeps drinks cold, keeps drinks hot, never leaks",
         "hikers runners cyclists travellers", _LOW),
        ("chair", "pine bamboo steel leather", "rests the back, folds flat, lasts for years",
         "writers gamers readers campers", _HIGH),
        ("desk", "pine bamboo glass steel", "holds a laptop, hides every cable, lasts for years",
         "gamers writers artists teachers", _HIGH),
        ("jacket", "wool leather nylon cotton", "keeps out rain, dries fast, stays warm",
         "hikers runners cyclists travellers", _HIGH),
        ("lamp", "glass copper bamboo steel", "gives soft light, folds flat, lasts for years",
         "readers writers students artists", _MID),
        ("mug", "ceramic glass steel copper", "keeps drinks hot, never leaks, washes well",
         "students writers teachers parents", _LOW),
        ("speaker", "pine bamboo plastic steel", "fills a room, plays all day, fits any pocket",
         "gamers students artists parents", _MID),
        ("tent", "canvas nylon cotton", "keeps out rain, glows at night, folds flat",
         "campers hikers cyclists parents", _HIGH),
        ("wallet", "leather canvas nylon", "fits any pocket, never tears, lasts for years",
         "travellers students parents runners", _LOW),
        ("watch", "steel leather rubber copper", "tracks every step, glows at night, lasts for years",
         "runners hikers cyclists teachers", _HIGH),
    )
}  # fmt: skip

# What an audience gains: "so hikers can walk further".
BENEFITS = {
    "artists": ("create more", "paint in peace"),
    "campers": ("sleep well", "enjoy the wild"),
    "cyclists": ("ride further", "ride in comfort"),
    "gamers": ("play longer", "win more"),
    "hikers": ("walk further", "enjoy every trail"),
    "parents": ("save time", "relax more"),
    "readers": ("read longer", "read in peace"),
    "runners": ("run further", "train harder"),
    "students": ("study longer", "learn more"),
    "teachers": ("teach with ease", "plan ahead"),
    "travellers": ("travel light", "explore more"),
    "writers": ("write more", "write in peace"),
}

# The grammar. A part in brackets is left out with the slot it names; a piece may be several sentences.
HOOKS = (
    "Meet the {name}, a [{colour} ][{material} ]{category}.",
    "Meet the {name}, a [{colour} ]{category}[ made of {material}].",
    "Say hello to the {name}, a [{colour} ][{material} ]{category}.",
    "Discover the {name}, a [{material} ]{category}[ in {colour}].",
    "Looking for a [{colour} ]{category}? Meet the {name}[, made of {material}].",
    "Looking for a [{material} ]{category}? Discover the {name}[ in {colour}].",
)
PLAIN_OPENINGS = (
    "The {name} is a [{colour} ][{material} ]{category}.",
    "The {name} is a [{colour} ]{category}[ made of {material}].",
    "This is the {name}, a [{material} ]{category}[ in {colour}].",
    "This is a {category}.[ It is made of {material}.][ It comes in {colour}.]",
)
BENEFIT_BODIES = (
    "It {feature}, so {audience} can {benefit}.",
    "It {feature} and helps {audience} {benefit}.",
    "Made for {audience} who want to {benefit}, it {feature}.",
    "It {feature} every day. Now {audience} can {benefit}.",
    "With it, {audience} can {benefit}, because it {feature}.",
)
PLAIN_BODIES = (
    "It {feature} and is made for {audience}.",
    "It is made for {audience}.",
    "It {feature}.",
    "It {feature} every day.",
)
CLOSINGS = (
    "Order yours today[ for just {price}].",
    "Get yours now[ for only {price}].",
    "[It costs only {price}. ]Order it now.",
    "[The price is just {price}. ]Get yours today.",
    "[All this for {price}. ]Try it today.",
    "Bring it home today[ for {price}].",
)
PLAIN_CLOSINGS = ("It costs {price}.", "The price is {price}.", "It sells for {price}.")
EXTRAS = ("It is easy to use.", "It looks good anywhere.", "It is built to last.", "Care is easy.")
# What careless writers add; these are no part of the grammar.
HYPE = (
    "It is the best {category} ever!",
    "It is the most amazing {category} of all time!",
    "You will love it, you really will!",
    "Wow, what an incredible deal!",
)
RAMBLES = (
    "It is what it is and that is that.",
    "There is a lot more to say about it and then some more.",
    "As they say, a thing like that is a thing to have.",
    "It is nice and good and nice and also very good.",
)
GRAMMAR = HOOKS + PLAIN_OPENINGS + BENEFIT_BODIES + PLAIN_BODIES + CLOSINGS + PLAIN_CLOSINGS + EXTRAS

_BRACKET = re.compile(r"\[([^]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_CARELESS = 0.75  # share of descriptions written by a careless writer


def lexicon() -> dict[str, tuple[str, ...]]:
    """Return all values of every slot but the name, and of the benefits, each list sorted."""
    values: dict[str, set[str]] = {"category": set(CATEGORIES), "colour": set(COLOURS)}
    for parts in CATEGORIES.values():
        for slot, options in zip(("material", "feature", "audience", "price"), parts, strict=True):
            values.setdefault(slot, set()).update(options)
    values["benefit"] = {phrase for phrases in BENEFITS.values() for phrase in phrases}
    return {slot: tuple(sorted(options)) for slot, options in values.items()}


def expansions(template: str) -> Iterator[str]:
    """Expand a template into its forms, one for every choice of dropped brackets.

    >>> list(expansions("Order yours[ for {price}]."))
    ['Order yours for {price}.', 'Order yours.']
    """
    slots = sorted({slot for part in _BRACKET.findall(template) for slot in _SLOT.findall(part)})
    for size in range(len(slots) + 1):
        for dropped in combinations(slots, size):
            yield _without(template, set(dropped))


def make_products(n: int, seed: int = 0) -> list[Prompt]:
    r"""Make products as prompts; no two share their name, nor all six other attributes.

    Args:
        n: How many; the first `m` of them are the same for every `n >= m`.
        seed: Another seed gives other products.

    Returns:
        Prompts with the attributes (`SLOTS`) as columns and the name as id.

    Raises:
        ConfigError: There are not that many names.

    >>> make_products(1)[0].text
    '# Gavo Dot 2 | jacket | leather | red | stays warm | cyclists | $84\n'
    """
    names = [f"{brand} {line} {number}" for brand in BRANDS for line in LINES for number in NUMBERS]
    if not 0 <= n <= len(names):
        raise ConfigError(f"cannot make {n} products: there are {len(names)} names")
    rng = random.Random(f"products {seed}")
    _shuffle(rng, names)
    categories = tuple(CATEGORIES)
    seen: set[tuple[str, ...]] = set()
    products: list[Prompt] = []
    while len(products) < n:
        category = _pick(rng, categories)
        materials, features, audiences, prices = CATEGORIES[category]
        rest = (category, *(_pick(rng, o) for o in (materials, COLOURS, features, audiences, prices)))
        if rest in seen:
            continue
        seen.add(rest)
        name = names[len(products)]
        values = (name, *rest)
        columns = dict(zip(SLOTS, values, strict=True))
        products.append(Prompt(f"# {' | '.join(values)}\n", columns, name))
    return products


def describe_product(product: Prompt, rng: random.Random, careless: float = _CARELESS) -> str:
    """Describe a product, as a careful writer or (with probability `careless`) a careless one.

    A careful writer's text is perfect. A careless one leaves out or mistakes attributes, forgets the
    hook, the benefit or the call to action, raves, rambles and repeats: each at times, seldom all.
    """
    sloppy = rng.random() < careless

    def slips(probability: float) -> bool:
        return sloppy and rng.random() < probability

    values = dict(product.columns)
    values["benefit"] = _pick(rng, BENEFITS[values["audience"]])
    dropped = {slot for slot in ("material", "colour", "price") if slips(0.35)}
    if slips(0.3):
        slot = _pick(rng, ("material", "colour", "feature", "price", "benefit", "benefit"))
        values[slot] = _pick(rng, [v for v in lexicon()[slot] if v != values[slot]])
    opening = _pick(rng, PLAIN_OPENINGS if slips(0.55) else HOOKS)
    body = _pick(rng, PLAIN_BODIES if slips(0.55) else BENEFIT_BODIES)
    closing = _pick(rng, CLOSINGS)
    if slips(0.45):
        closing = "" if "price" in dropped else _pick(rng, PLAIN_CLOSINGS)
    pieces = [opening, body, closing]
    if rng.random() < 0.3:
        pieces.insert(2, _pick(rng, EXTRAS))
    if slips(0.28):
        pieces.insert(1 + int(rng.random() * len(pieces)), _pick(rng, HYPE))
    room = len(pieces) < 5  # for one more, so that no text reaches the task's 64 tokens
    if slips(0.28) and room:
        pieces.insert(1 + int(rng.random() * len(pieces)), _pick(rng, RAMBLES))
    elif slips(0.1) and room:
        pieces.append(_pick(rng, (body, closing)))
    texts = (_without(piece, dropped).format_map(values) for piece in pieces)
    return " ".join(text for text in texts if text)


def write_corpus(
    products: Sequence[Prompt], n: int, seed: int = 0, careless: float = _CARELESS
) -> list[tuple[Prompt, str]]:
    """Write `n` pairs of product and description, cycling through the products in order.

    Args:
        products: Prompts of `make_products`.
        n: How many pairs.
        seed: Text k depends on (seed, k, its product) alone.
        careless: Share of texts by a careless writer, in [0, 1].
    """
    pairs = ((k, products[k % len(products)]) for k in range(n))
    return [(p, describe_product(p, random.Random(f"description {seed} {k}"), careless)) for k, p in pairs]


def _without(template: str, dropped: set[str]) -> str:
    """Drop the brackets whose slot is left out, and open the others."""
    return _BRACKET.sub(
        lambda found: "" if dropped.intersection(_SLOT.findall(found[1])) else found[1], template
    ).strip()


# Python promises to keep `random()` the same forever, but not `choice` or `shuffle`.
def _pick(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _shuffle(rng: random.Random, items: list[str]) -> None:
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]
