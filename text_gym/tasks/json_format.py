"""Read a product's line and write the attributes asked for as a JSON object.

Right and wrong are exact here: the text is parsed, never searched. Whitespace and the order of keys
are free; there is no schema language, only keys and their values.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, RewardError, UnknownNameError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import PretrainedTokenizer

from .classic import check_range
from .products import N_HELD_OUT, N_TRAIN, POLICY
from .products_corpus import BRANDS, SLOTS, lexicon, make_products
from .task import Pairs, Task

_CARELESS = 0.5  # share of the corpus written by a careless writer


class ProductJSONReward(RewardSource):
    """Pays for a JSON object with exactly the requested keys and the prompt's values.

    The reward is `0.1 · parses + 0.1 · object + 0.8 · right · only`, each in [0, 1] and a term:

    - `parses`: 1 if the completion ended by itself and is one JSON value (RFC 8259: no `NaN`);
    - `object`: 1 if that value is an object;
    - `right`: share of the keys asked for that are there with the right value;
    - `only`: share of the object's members that were asked for; a key that is there twice counts once
      as asked for. 0 if there are no members.

    The term `perfect` is 1 where all are 1, otherwise 0. Prompts need a column `keys` and a column for
    each key. Nothing in a text is run, and no text makes it raise: what is nested too deeply for the
    parser does not parse.

    Args:
        sparse: Pay `perfect` only.

    >>> from text_gym import ByteTokenizer
    >>> text = '{"price": "$24", "colour": "red"}'
    >>> episode = Episode.of("", text, ByteTokenizer(), keys=("price", "colour"), price="$24", colour="blue")
    >>> ProductJSONReward()([episode]).values
    array([0.6])
    """

    name = "product-json"

    def __init__(self, sparse: bool = False) -> None:
        self.sparse = sparse

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its text, its prompt's columns and its finish reason."""
        rows = np.array([self._score_one(e) for e in episodes]).reshape(-1, 4)
        parses, is_object, right, only = rows.T
        perfect = (rows == 1.0).all(axis=1).astype(np.float64)
        dense = 0.1 * parses + 0.1 * is_object + 0.8 * right * only
        terms = {"parses": parses, "object": is_object, "right": right, "only": only, "perfect": perfect}
        return Rewards(perfect if self.sparse else dense, terms=terms)

    def _score_one(self, episode: Episode) -> tuple[float, float, float, float]:
        wanted = self._wanted(episode.prompt)
        if not episode.whole:
            return 0.0, 0.0, 0.0, 0.0
        try:
            # Integers are read as floats because Python is slow to read very long ones, or refuses to.
            value = json.loads(
                episode.completion, object_pairs_hook=_Members, parse_int=float, parse_constant=_refuse
            )
        except (ValueError, RecursionError):
            return 0.0, 0.0, 0.0, 0.0
        if not isinstance(value, _Members):
            return 1.0, 0.0, 0.0, 0.0
        asked_for = {key for key, _ in value} & wanted.keys()
        right = {key for key, its_value in value if key in asked_for and its_value == wanted[key]}
        return 1.0, 1.0, len(right) / len(wanted), len(asked_for) / len(value) if value else 0.0

    def _wanted(self, prompt: Prompt) -> Mapping[str, Any]:
        keys = prompt.columns.get("keys", ())
        missing = [key for key in keys if key not in prompt.columns]
        if missing or not keys:
            raise RewardError(
                f"reward {self.name!r} needs a column 'keys' and a column for each of them; "
                f"prompt {prompt.id!r} lacks {', '.join(missing) or 'keys'}"
            )
        return {key: prompt.columns[key] for key in keys}


class _Members(list[tuple[str, Any]]):
    """A JSON object as it was written; a dict would hide duplicate keys."""


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def product_json(
    keys: int | Sequence[str] = 2,
    sparse: bool = False,
    n_train: int = N_TRAIN,
    n_held_out: int = N_HELD_OUT,
    seed: int = 0,
) -> Task:
    r"""Write the attributes asked for as a JSON object: `# json: price\n` asks for `{"price": "$24"}`.

    State: the prompt (a product's line and a line of keys) and the tokens so far. Action: a token of the
    tokenizer of `products`, `V = 876`. Reward: see `ProductJSONReward`. Optimum: 1. The token limit,
    `8 + 16 · keys`, has room for every right answer with single spaces. Prompt and answer fit in the 128
    tokens that the shipped policy can read if there are at most four keys.

    `Task.policy` is the policy of `products`: it can read these prompts but has never seen JSON, so that
    it earns nothing to learn from. Make one that has with `text-gym sft --task product-json`; half of the
    corpus is by a careless writer, so that there is something left to gain.

    Args:
        keys: The curriculum: so many attributes, drawn anew for each prompt, or the names of those that
            every prompt asks for. 1 to 7 of `SLOTS`.
        sparse: Pay for perfect answers only.
        n_train: Prompts to learn on.
        n_held_out: Prompts to judge on; products are on one side only, as in `products`.
        seed: Another seed gives other products and keys.

    Raises:
        ConfigError: Not 1 to 7 keys, or one of them twice.
        UnknownNameError: A key that no product has.

    >>> task = product_json(keys=("name", "price"))
    >>> task.prompts[0].text
    '# Vela Zen 5 | watch | steel | green | tracks every step | cyclists | $150\n# json: name, price\n'
    >>> answer(task.prompts[0])
    '{"name": "Vela Zen 5", "price": "$150"}'
    """
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        check_range("keys", keys, 1, len(SLOTS))  # type: ignore[arg-type]  # whatever it is
    elif not 1 <= len(set(keys)) == len(keys):
        raise ConfigError(f"keys is {keys!r}; it must name 1 to {len(SLOTS)} attributes, each once")
    else:
        for key in keys:
            if key not in SLOTS:
                raise UnknownNameError("key", key, SLOTS)
    products = make_products(n_held_out + n_train, seed)
    held_out, train = products[:n_held_out], products[n_held_out:]
    return Task(
        name="product-json",
        prompts=_ask(train, n_train, keys, seed),
        held_out=_ask(held_out, n_held_out, keys, seed),
        tokenizer=PretrainedTokenizer.from_pretrained(POLICY),
        reward=ProductJSONReward(sparse),
        max_tokens=8 + 16 * (keys if isinstance(keys, int) else len(keys)),
        policy=POLICY,
        corpus=partial(_corpora, train, held_out, keys, seed),
        optimum=1.0,
        golden=answer,
    )


def answer(prompt: Prompt) -> str:
    """Return the perfect completion, as `json.dumps` writes it.

    >>> answer(Prompt("", {"keys": ("price",), "price": "$24"}))
    '{"price": "$24"}'
    """
    return json.dumps({key: prompt.columns[key] for key in prompt.columns["keys"]})


def _ask(products: Sequence[Prompt], n: int, keys: int | Sequence[str], seed: int) -> list[Prompt]:
    """Make `n` prompts, cycling through the products; prompt k depends on (seed, k, its product) alone."""
    prompts = []
    for k in range(n):
        product = products[k % len(products)]
        chosen = tuple(keys) if not isinstance(keys, int) else ()
        if isinstance(keys, int):
            rng = random.Random(f"keys {seed} {k}")
            chosen = tuple(sorted(SLOTS, key=lambda _: rng.random())[:keys])
        text = f"{product.text}# json: {', '.join(chosen)}\n"
        prompts.append(Prompt(text, {**product.columns, "keys": chosen}, product.id))
    return prompts


def _write(prompt: Prompt, rng: random.Random) -> str:
    """Write an answer as a careful or, half of the time, a careless writer would.

    A careless one leaves out a key, adds one, mistakes a value, or forgets to close the object: each at
    times, so that there is something left to learn from reward.
    """
    sloppy = rng.random() < _CARELESS

    def slips(probability: float) -> bool:
        return sloppy and rng.random() < probability

    members = {key: prompt.columns[key] for key in prompt.columns["keys"]}
    others = [key for key in SLOTS if key not in members]
    if slips(0.35):
        members.pop(_pick(rng, list(members)))
    if slips(0.35) and others:
        key = _pick(rng, others)
        members[key] = prompt.columns[key]
    if slips(0.35) and members:
        key = _pick(rng, list(members))
        members[key] = _pick(rng, lexicon().get(key, BRANDS))
    return json.dumps(members)[: -1 if slips(0.15) else None]


def _pick(rng: random.Random, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _corpora(
    train: Sequence[Prompt], held_out: Sequence[Prompt], keys: int | Sequence[str], seed: int
) -> tuple[Pairs, Pairs]:
    """Write four texts per training product, each with keys of its own if drawn, and one per held-out one."""
    prompts = _ask(train, 4 * len(train), keys, seed), _ask(held_out, len(held_out), keys, seed)
    learn, judge = (
        [(p, _write(p, random.Random(f"json {seed} {k}"))) for k, p in enumerate(half)] for half in prompts
    )
    return learn, judge
