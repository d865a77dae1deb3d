"""The parser of meaning representations and the reward that reads them, on any prompts and texts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import count, effort, tries
from text_gym import ByteTokenizer
from text_gym.episode import Episode
from text_gym.errors import DataError
from text_gym.reward_models.scripted.slot_phrases import PARAPHRASES
from text_gym.reward_models.scripted.slots import SlotCoverage, expand, is_finished, parse_slots

BYTES = ByteTokenizer()
PARTS = [
    "[", "]", ",", ";", ":", "\n", " ", "\t", "name", "area", "familyFriendly", "yes", "no", "riverside",
    "price_range", "£20-25", "a", "not ", "n't", "The Eagle", "é", "İ", "\u2028", "\x1b[31m", "\udcff", "ﬁ",
    ".", "5 out of 5", "|", "(", "~",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join)
NAMES = ["name", "area", "familyFriendly", "eat type", "price_range", "customer rating", "food"]
ASKED = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([v for t in PARAPHRASES.values() for v in t if v]) | st.text("ab £é", max_size=5),
    ),
    min_size=1,
    max_size=5,
).map(lambda pairs: ", ".join(f"{slot}[{value}]" for slot, value in pairs))
MARKS = "[],;:\n"
ALL = SlotCoverage()


def by_hand(text: str) -> list[tuple[str, str]]:
    """The notation, a character at a time: a name, white space, and a value in brackets."""
    found, at = [], 0
    while at < len(text):
        if text[at] in MARKS:
            at += 1
            continue
        name = "".join(itertools.takewhile(lambda c: c not in MARKS, text[at:]))
        at += len(name)
        space = len("".join(itertools.takewhile(str.isspace, text[at:])))
        if text[at + space : at + space + 1] == "[" and "]" in text[at + space :]:
            begin = at + space + 1
            at = text.index("]", begin) + 1
            found.append((name.strip(), text[begin : at - 1].strip()))
    return found


@tries(150, 100_000)
def test_parsing_is_the_notation_by_hand(tries: int, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(st.text("ab[], \n;", max_size=14) | TEXTS)
    def run(text: str) -> None:
        assert parse_slots(text) == by_hand(text)

    tried(
        "slots are read as by hand from any text",
        count(run),
        "texts",
    )


@pytest.mark.parametrize(
    "text",
    ["a" + " " * 30_000, "a " * 15_000, "a[" * 15_000, "[" * 30_000, "a\n" * 15_000, "\n " * 15_000,
     "[]" + "a" * 30_000],
    ids=["spaces", "words", "opened", "brackets", "lines", "white space", "closed"],
)  # fmt: skip
def test_a_long_text_takes_no_longer_than_reading_it(text: str) -> None:
    """Searching anew from each character took minutes: a text of a model's could stop a run."""
    began = time.process_time()
    parse_slots(text)
    ALL.score([Episode.of("area[riverside]", text, BYTES)])
    assert time.process_time() - began < 2


@tries(40, 10_000)
def test_any_text_is_worth_something_from_0_to_1(tries: int, tried: Callable[..., None]) -> None:
    @effort(tries)
    @given(ASKED | TEXTS, TEXTS, TEXTS, st.booleans())
    def run(prompt: str, text: str, other: str, cut: bool) -> None:
        episodes = [Episode.of(prompt, t, BYTES) for t in (text, other)]
        asks = any(value for _, value in by_hand(prompt))
        try:
            source = SlotCoverage.fit([prompt])
        except DataError:
            assert not asks
            with pytest.raises(DataError):
                ALL.score(episodes)
            return
        assert asks
        for reward in (source, ALL):
            paid = reward.score(episodes)
            alone = [reward.score([e]) for e in episodes]
            for name, terms in {"": paid.values, **paid.terms}.items():
                assert np.isfinite(terms).all()
                assert ((terms >= 0) & (terms <= 1)).all()
                assert terms.tolist() == [(a.terms[name] if name else a.values)[0] for a in alone]
            said = reward.explain(prompt, text)
            assert all(value and words for pairs in said.values() for value, words in pairs)
            assert isinstance(is_finished(text), bool)

    tried("any prompt and text is scored from 0 to 1 by slots, or refused", count(run), "prompts with texts")


@tries(30, 10_000)
def test_what_says_every_value_literally_has_full_recall(tries: int) -> None:
    """Values that nobody paraphrases are found word for word, wherever they stand."""

    @effort(tries)
    @given(
        st.dictionaries(
            st.sampled_from(["name", "near", "food", "colour"]),
            st.lists(st.sampled_from(["Zizzi", "Cotto", "Aromi", "Blue Spice"]), min_size=1, max_size=1),
            min_size=1,
        ),
        st.permutations(range(4)),
    )
    def run(asked: dict[str, list[str]], order: list[int]) -> None:
        pairs = list({v: (s, v) for s, (v,) in asked.items()}.values())  # a value of two slots says both
        prompt = ", ".join(f"{s}[{v}]" for s, v in pairs)
        text = " and ".join(pairs[i][1] for i in order if i < len(pairs))
        paid = SlotCoverage.fit([prompt]).score([Episode.of(prompt, f"{text}.", BYTES)])
        assert paid.values.tolist() == [1.0]

    run()


@tries(40, 5_000)
def test_alternatives_are_all_their_readings(tries: int) -> None:
    word = st.text("ab ", max_size=2)

    @effort(tries)
    @given(
        st.lists(st.lists(word, min_size=1, max_size=3), max_size=4), st.lists(word, min_size=5, max_size=5)
    )
    def run(choices: list[list[str]], between: list[str]) -> None:
        phrase = between[0] + "".join(
            f"({'|'.join(c)}){b}" for c, b in zip(choices, between[1:], strict=False)
        )
        wanted = [between[0]]
        for options, after in zip(choices, between[1:], strict=False):
            wanted = [start + option + after for start in wanted for option in options]
        assert sorted(expand(phrase)) == sorted(wanted)

    run()
