from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, Prompt, Task, load_task
from text_gym.errors import RewardError
from text_gym.tasks import products_corpus as english
from text_gym.tasks.products import (
    POLICY,
    Mention,
    ProductsReward,
    accuracy,
    clarity,
    corpus,
    make_tokenizer,
    persuasiveness,
    products,
    read,
)

MUG = Prompt(
    "# Lumo Air 3 | mug | steel | green | keeps drinks hot | writers | $24\n",
    dict(
        zip(
            english.SLOTS,
            ("Lumo Air 3", "mug", "steel", "green", "keeps drinks hot", "writers", "$24"),
            strict=True,
        )
    ),
    "Lumo Air 3",
)
# 27 words; 28 tokens once values stand as slots: 9 + 8 + 4 + 7.
IDEAL = (
    "Meet the Lumo Air 3, a green steel mug. It keeps drinks hot, so writers can write more. "
    "Care is easy. Order yours today for just $24."
)
BYTES = ByteTokenizer()


def gold(text: str, **changes: Any) -> dict[str, float]:
    rewards = ProductsReward()([replace(Episode.of(MUG, text, BYTES), **changes)])
    return {"gold": float(rewards.values[0])} | {k: float(v[0]) for k, v in rewards.terms.items()}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("products")


# Reading


def test_reading_finds_the_longest_values_on_word_boundaries() -> None:
    reading = read(
        "It keeps drinks hot. Redder mugs: Lumo Air 3 or Lumo, for $24 or $24.50, to read in peace!"
    )
    assert [(m.slot, m.value, m.sentence) for m in reading.mentions] == [
        ("feature", "keeps drinks hot", 0),
        ("name", "Lumo Air 3", 1),
        ("name", "Lumo", 1),
        ("price", "$24", 1),
        ("price", "$24.50", 1),
        ("benefit", "read in peace", 1),
    ]
    assert " ".join(reading.tokens) == (
        "It {feature} . Redder mugs : {name} or {name} , for {price} or {price} , to {benefit} !"
    )
    assert reading.n_words == 19


def test_braces_in_a_text_are_no_values() -> None:
    assert read("{colour} {name}").tokens == ["{", "colour", "}", "{", "name", "}"]
    assert gold("Meet the {name}, a {colour} {category}.")["accuracy"] == 0.0


@pytest.mark.parametrize("template", english.GRAMMAR)
def test_reading_undoes_the_filling_of_a_template(template: str) -> None:
    values = dict(MUG.columns) | {"benefit": "write in peace"}
    for form in english.expansions(template):
        spaced = form
        for mark in ".,?":
            spaced = spaced.replace(mark, f" {mark} ")
        assert read(form.format_map(values)).tokens == spaced.split()


# Accuracy, F1 = 2c / (m + 7)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), 1.0),
        (("green ", ""), 12 / 13),  # missing: c = m = 6
        (("green", "red"), 12 / 14),  # wrong: c = 6, m = 7
        (("green", "green red"), 14 / 15),  # right and wrong: c = 7, m = 8
        (("green", "green green"), 1.0),  # said twice is said
        (("green", "Green"), 12 / 13),  # another letter case is another word
        (("$24", "$240"), 12 / 14),
        (("$24", "$24.50"), 12 / 14),
        (("$24", "$24,000"), 12 / 14),
        (("$24", "24"), 12 / 13),
        (("Air 3", "Air 4"), 12 / 14),
        (("Air 3", "Air"), 12 / 14),
        (("hot", "cold"), 12 / 14),
        (("keeps drinks hot", "keeps drinks"), 12 / 13),
        (("mug", "mugs"), 12 / 13),
        (("writers", "readers"), 12 / 14),
        ((IDEAL, ""), 0.0),
        ((IDEAL, "A mug."), 2 / 8),
    ],
)
def test_accuracy_by_hand(change: tuple[str, str], expected: float) -> None:
    text = IDEAL.replace(*change)
    assert accuracy(read(text), MUG.columns) == pytest.approx(expected, abs=1e-15)


# Clarity


def test_one_foreign_word_breaks_two_joints_of_28() -> None:
    assert clarity(read(IDEAL.replace("easy", "nice")), True) == pytest.approx((26 / 28) ** 2)


def test_a_lower_case_start_breaks_two_joints() -> None:
    assert clarity(read(IDEAL.replace("Care", "care")), True) == pytest.approx((26 / 28) ** 2)


def test_a_wrong_value_is_as_clear_as_a_right_one() -> None:
    assert clarity(read(IDEAL.replace("green", "red").replace("$24", "$9")), True) == 1.0


def test_a_repeated_sentence_repeats_three_trigrams_of_30() -> None:
    text = IDEAL.replace("Care is easy.", "Care is easy. Care is easy.")
    assert clarity(read(text), True) == pytest.approx((27 / 30) ** 2)


def test_a_third_mention_of_a_slot_is_a_repetition() -> None:
    reading = read(IDEAL)
    for times, repeats in ((1, 0), (2, 0), (3, 1), (5, 3)):
        mentions = [m for m in reading.mentions if m.slot != "colour"]
        mentions += [Mention("colour", "green", 0)] * times
        found = clarity(reading._replace(mentions=mentions), True)
        assert found == pytest.approx((1 - repeats / (len(reading.tokens) - 2)) ** 2)


@pytest.mark.parametrize(
    ("n_words", "expected"), [(0, 0), (5, 0.25), (20, 1), (40, 1), (50, 0.5), (60, 0), (99, 0)]
)
def test_length_window(n_words: int, expected: float) -> None:
    assert clarity(read(IDEAL)._replace(n_words=n_words), True) == expected


def test_a_missing_end_halves_and_a_cut_halves_again() -> None:
    assert clarity(read(IDEAL), False) == 0.5
    # Without the full stop 27 of 27 joints remain.
    assert clarity(read(IDEAL[:-1]), True) == 0.5
    assert clarity(read(IDEAL[:-1]), False) == 0.25


def test_a_run_on_sentence() -> None:
    # 20 tokens in one sentence: 16 / 20. Audience and benefit stand three times: 2 of 18 trigrams.
    text = (
        "Made for writers who want to write more, so writers can write in peace, "
        "it keeps drinks hot and helps writers write more."
    )
    assert clarity(read(text), True) == pytest.approx(16 / 20 * (16 / 18) ** 2)


# Persuasiveness


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), 1.0),
        (("Meet the Lumo Air 3,", "This is the Lumo Air 3,"), 2 / 3),
        (("so writers can write more", "and is made for writers"), 2 / 3),
        (("write more", "walk further"), 2.5 / 3),  # a benefit, but not the writers'
        (("so writers can", "so people can"), 2.5 / 3),  # the writers' benefit, but nobody is named
        (("writers can", "readers can"), 2.5 / 3),
        (("Order yours today for just", "It costs"), 2 / 3),
        (("Care is easy. Order yours today for just $24.", "Order yours today. Care is easy."), 2.5 / 3),
        (("Care is easy.", "Order it now."), 3 / 4),  # a second call to action
        (("Care is easy.", "Buy buy buy."), 1 / 4),
        (("$24.", "$24!"), 3 / 4),
        (("Care is easy.", "It is the best mug."), 3 / 4),
        (("Care is easy.", "You can see you and you."), 2 / 4),  # with "yours" four, two too many
        (("Care is easy.", "Wow! Amazing! Perfect!"), 0.0),
    ],
)
def test_persuasiveness_by_hand(change: tuple[str, str], expected: float) -> None:
    text = IDEAL.replace(*change)
    assert persuasiveness(read(text), MUG.columns) == pytest.approx(expected, abs=1e-15)


# Gold


def test_an_ideal_text_is_perfect() -> None:
    assert gold(IDEAL) == {
        "gold": 1.0,
        "accuracy": 1.0,
        "clarity": 1.0,
        "persuasiveness": 1.0,
        "perfect": 1.0,
    }


def test_gold_is_the_mean() -> None:
    scores = gold(IDEAL.replace("green", "red").replace("Order yours today for just", "It costs"))
    # "It costs" shortens the text to 23 words, still long enough.
    assert scores["clarity"] == 1.0
    assert scores["gold"] == pytest.approx((12 / 14 + 1 + 2 / 3) / 3)
    assert scores["perfect"] == 0.0


def test_every_property_pays() -> None:
    """From bad to ideal in small steps: gold rises with each, so there is always something to climb."""
    steps = [
        "The Lumo Air 3 is a mug. It costs $24.",
        "The Lumo Air 3 is a steel mug. It costs $24.",
        "The Lumo Air 3 is a green steel mug. It costs $24.",
        "The Lumo Air 3 is a green steel mug. It keeps drinks hot. It costs $24.",
        "The Lumo Air 3 is a green steel mug. It keeps drinks hot and is made for writers. It costs $24.",
        "The Lumo Air 3 is a green steel mug. It keeps drinks hot, so writers can read longer. It costs $24.",
        "The Lumo Air 3 is a green steel mug. It keeps drinks hot, so writers can write more. It costs $24.",
        IDEAL.replace("Care is easy. Order yours today for just", "It costs"),
        IDEAL,
    ]
    scores = [gold(step)["gold"] for step in steps]
    assert all(b - a > 0.01 for a, b in pairwise(scores)), scores


HACKS = {
    "you": "you " * 60,
    "your": "You and your you and your yours. " * 8,
    "calls to action": "Order yours today. " * 12,
    "calls to action, unseen": "Buy one today and save. " * 10,
    "only a call": "Order yours today.",
    "slots": " ".join(MUG.columns.values()),
    "slots as a sentence": ", ".join(MUG.columns.values()) + ".",
    "the prompt": MUG.text,
    "hype": "Wow, what an incredible deal! You will love it, you really will! It is the best mug ever!",
    "capitals": "MEET THE BEST MUG! ORDER NOW! BUY NOW! GET YOURS NOW!",
    "the whole lexicon": " ".join(v for options in english.lexicon().values() for v in options),
    "length": " ".join(english.RAMBLES * 2),
    "one sentence": "Meet the Lumo Air 3, a green steel mug. " * 5,
    "one feature": "It keeps drinks hot and helps writers write more. " * 7,
    "word salad": "today the so yours for mug a can write more costs it Lumo Air 3 in only made green is $24 "
    "keeps drinks hot writers meet steel",
    "sales talk": "Looking for a mug? Order yours today.",
    "very short": "Lumo Air 3.",
    "empty": "",
    "white space": " \n ",
}


@pytest.mark.parametrize("name", HACKS)
def test_hacked_texts_score_low(name: str) -> None:
    finished = gold(HACKS[name])
    assert finished["gold"] < 0.5, finished
    assert gold(HACKS[name], finish_reason="length")["gold"] <= finished["gold"]
    if name in (
        "you",
        "your",
        "calls to action",
        "calls to action, unseen",
        "length",
        "empty",
        "white space",
    ):
        assert finished["gold"] < 0.02, finished


@pytest.mark.parametrize(
    "more", [" ".join(english.RAMBLES[:2]), " ".join(english.HYPE[:2]), IDEAL, "Order it now."]
)
def test_going_on_after_an_ideal_text_costs(more: str) -> None:
    assert gold(f"{IDEAL} {more}")["gold"] < 0.93
    assert gold(f"{IDEAL} {more}", finish_reason="length")["gold"] < 0.85


WORDS = sorted({w for t in english.GRAMMAR + english.HYPE for w in t.split()} | set(MUG.columns.values()))
TEXTS = st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)


@given(TEXTS, st.booleans())
def test_criteria_stay_in_the_unit_interval(text: str, whole: bool) -> None:
    scores = gold(text, finish_reason="eos" if whole else "length")
    assert all(0.0 <= score <= 1.0 for score in scores.values())
    parts = [scores[k] for k in ("accuracy", "clarity", "persuasiveness")]
    assert scores["gold"] == pytest.approx(sum(parts) / 3, abs=1e-12)
    assert scores["perfect"] == float(min(parts) == 1.0)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(TEXTS, st.integers(0, 49)), min_size=1, max_size=8), st.randoms(use_true_random=False)
)
def test_a_score_does_not_depend_on_the_batch(rows: list[tuple[str, int]], rng: Any) -> None:
    prompts = english.make_products(50)
    episodes = [Episode.of(prompts[i], text, BYTES) for text, i in rows]
    alone = [float(ProductsReward()([e]).values[0]) for e in episodes]
    order = list(range(len(episodes)))
    rng.shuffle(order)
    together = ProductsReward()([episodes[i] for i in order])
    assert together.values.tolist() == [alone[i] for i in order]
    assert set(together.terms) == {"accuracy", "clarity", "persuasiveness", "perfect"}


def test_a_prompt_without_the_columns_is_refused() -> None:
    with pytest.raises(RewardError, match="lacks name, category"):
        ProductsReward()([Episode.of("Describe a mug", IDEAL, BYTES)])


def test_scoring_many_gives_what_scoring_each_gives(benchmark: Any) -> None:
    episodes = [Episode.of(p, d, BYTES) for p, d in corpus(512)]
    found = benchmark(ProductsReward(), episodes)
    assert found.values.tolist() == [float(ProductsReward()([e]).values[0]) for e in episodes]
    assert len(set(found.values.tolist())) > 50  # descriptions that can be told apart


def test_a_long_text_costs_no_more_a_word_than_a_short_one() -> None:
    began = time.process_time()
    gold(f"{IDEAL} " * 2000)  # it takes a tenth of a second; going over the words for each word, minutes
    assert time.process_time() - began < 3


# Task


def test_splits_share_no_product(task: Task) -> None:
    assert (len(task.prompts), len(task.held_out)) == (4096, 256)
    for key in (lambda p: p.id, lambda p: p.text, lambda p: tuple(p.columns.values())[1:]):
        assert not {key(p) for p in task.prompts} & {key(p) for p in task.held_out}


def test_held_out_products_are_in_no_supervised_pair(task: Task) -> None:
    assert not {p.id for p, _ in corpus(8192)} & {p.id for p in task.held_out}
    assert corpus(3)[0][0] == task.prompts[0]


def test_parameters_of_the_task() -> None:
    small, large = products(n_train=8, n_held_out=4), products(n_train=32, n_held_out=4)
    assert large.held_out == small.held_out
    assert large.prompts[:8] == small.prompts
    assert products(n_train=8, n_held_out=4, seed=1).held_out != small.held_out
    assert small.max_tokens == 64
    assert small.policy == POLICY


def test_loading_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, text_gym; text_gym.load_task('products');"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# The shipped tokenizer


@pytest.mark.nightly
def test_the_shipped_tokenizer_is_the_one_that_its_command_makes(tmp_path: Path) -> None:
    make_tokenizer().save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (POLICY / name).read_bytes(), name


def test_descriptions_are_short_in_tokens(task: Task) -> None:
    pairs = corpus(2048)
    prompts = [len(task.tokenizer.encode(p.text)) for p, _ in pairs]
    texts = [len(task.tokenizer.encode(d)) + 1 for _, d in pairs]  # with EOS
    assert task.tokenizer.vocab_size <= 1024
    assert max(prompts) <= 20
    assert max(texts) <= task.max_tokens
    assert np.mean(texts) <= 40


def test_every_word_of_the_corpus_is_one_token(task: Task) -> None:
    for prompt, text in corpus(256):
        for written in (prompt.text, text):
            pieces = re.findall(r"\w+|[^\w ]", written)
            assert len(task.tokenizer.encode(written)) == len(pieces), written
