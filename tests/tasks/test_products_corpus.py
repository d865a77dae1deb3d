from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode
from text_gym.errors import ConfigError
from text_gym.tasks import products_corpus as english
from text_gym.tasks.products import ProductsReward, corpus

PRODUCTS = english.make_products(4352)


def test_products_share_neither_name_nor_the_other_attributes() -> None:
    rows = [tuple(p.columns[s] for s in english.SLOTS) for p in PRODUCTS]
    assert len(rows) == 4352
    assert len({row[0] for row in rows}) == 4352
    assert len({row[1:] for row in rows}) == 4352
    assert [p.id for p in PRODUCTS] == [row[0] for row in rows]


def test_a_prompt_says_every_attribute_once_and_ends_its_line() -> None:
    for p in PRODUCTS[:200]:
        assert p.text.endswith("\n")
        assert p.text.count("\n") == 1
        assert p.text.removeprefix("# ").strip().split(" | ") == [p.columns[s] for s in english.SLOTS]


def test_attributes_fit_the_category() -> None:
    made = {p.columns["category"]: p.columns for p in PRODUCTS}
    assert set(made) == set(english.CATEGORIES)
    for p in PRODUCTS:
        materials, features, audiences, prices = english.CATEGORIES[p.columns["category"]]
        assert p.columns["material"] in materials
        assert p.columns["feature"] in features
        assert p.columns["audience"] in audiences
        assert p.columns["price"] in prices
        assert p.columns["colour"] in english.COLOURS


def test_products_depend_on_the_seed_alone() -> None:
    assert english.make_products(50, seed=3) == english.make_products(80, seed=3)[:50]
    assert english.make_products(50, seed=3) != english.make_products(50, seed=4)


def test_more_products_than_names_is_refused() -> None:
    assert len(english.BRANDS) * len(english.LINES) * len(english.NUMBERS) == 28 * 24 * 8
    with pytest.raises(ConfigError, match="5376 names"):
        english.make_products(5377)


def test_no_value_belongs_to_two_slots_and_no_grammar_word_is_a_value() -> None:
    values = english.lexicon()
    counts = Counter(v for options in values.values() for v in options)
    assert max(counts.values()) == 1
    names = set(english.BRANDS) | set(english.LINES)
    assert len(names) == len(english.BRANDS) + len(english.LINES)
    free = set(re.findall(r"\w+", re.sub(r"\{\w+\}", " ", " ".join(english.GRAMMAR))))
    assert not free & names
    assert not free & set(counts)
    # Two audiences never want the same, so a benefit tells whose it is.
    benefits = [b for options in english.BENEFITS.values() for b in options]
    assert len(set(benefits)) == len(benefits) == 24
    assert set(english.BENEFITS) == set(values["audience"])


def test_expansions_enumerate_the_brackets() -> None:
    assert set(english.expansions("A[ {colour}][ {material}] b.")) == {
        "A {colour} {material} b.",
        "A {material} b.",
        "A {colour} b.",
        "A b.",
    }


def test_text_k_depends_on_seed_k_and_its_product_alone() -> None:
    few, many = english.write_corpus(PRODUCTS[:8], 8, seed=5), english.write_corpus(PRODUCTS[:8], 24, seed=5)
    assert few == many[:8]
    assert [p for p, _ in many[:8]] == [p for p, _ in many[8:16]]
    assert [d for _, d in many[:8]] != [d for _, d in many[8:16]]
    assert english.write_corpus(PRODUCTS[:8], 8, seed=6) != few


@given(st.integers(0, 4351), st.integers(0, 2**32))
def test_a_careful_writer_is_perfect(which: int, seed: int) -> None:
    product = PRODUCTS[which]
    text = english.describe_product(product, random.Random(seed), careless=0.0)
    rewards = ProductsReward()([Episode.of(product, text, ByteTokenizer())])
    assert rewards.values[0] == 1.0, text
    assert rewards.terms["perfect"][0] == 1.0


def test_the_corpus_leaves_room_to_learn() -> None:
    pairs = corpus(4096)
    assert len(pairs) == 4096
    rewards = ProductsReward()([Episode.of(p, d, ByteTokenizer()) for p, d in pairs])
    assert 0.71 <= rewards.values.mean() <= 0.75
    assert 0.20 <= rewards.terms["perfect"].mean() <= 0.30
    words = [len(d.split()) for _, d in pairs]
    assert 25 <= sum(words) / len(words) <= 31
    assert len({d for _, d in pairs}) == 4096


def test_each_criterion_is_met_and_missed_in_every_combination() -> None:
    """A policy can only be reinforced in what it does at times."""
    pairs = corpus(4096)
    terms = ProductsReward()([Episode.of(p, d, ByteTokenizer()) for p, d in pairs]).terms
    criteria = ("accuracy", "clarity", "persuasiveness")
    assert len({tuple(terms[k][i] == 1.0 for k in criteria) for i in range(4096)}) == 8
    for k in criteria:
        assert 0.2 <= (terms[k] == 1.0).mean() <= 0.8, k
