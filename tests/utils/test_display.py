from __future__ import annotations

import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.markup import escape

from text_gym import ByteTokenizer
from text_gym.utils.display import harmless

HOSTILE = st.text(
    st.characters()
    | st.sampled_from("\x1b\x07\r\n\x00\x7f\x9b\u202e\u2066\u200b\u200d\ufeff\u2028[]/")
    | st.characters(categories=["Cc", "Cf", "Co", "Cs", "Zl", "Zp"]),
)


@settings(max_examples=300)
@given(HOSTILE, st.booleans())
def test_nothing_reaches_the_terminal_that_is_not_printable(text: str, newlines: bool) -> None:
    shown = harmless(text, newlines=newlines)
    rest = shown.replace("\n", "") if newlines else shown
    # Printable by Unicode, or one of the spaces that are visible as such.
    assert all(c.isprintable() or c.isspace() for c in rest)
    assert not set(rest) & set("\n\r\t\x0b\x0c\x1b\x07\x85\u2028\u2029\u202e\u2066\u200b\ufeff")
    shown.encode("utf-8")  # no lone surrogates


@pytest.mark.nightly
@settings(max_examples=10_000)
@given(HOSTILE)
def test_ten_thousand_hostile_texts(text: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in harmless(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\tc\n", "a\\rb\\tc\\n"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\U000e0041", "\\U000e0041"),  # a tag character, invisible
        ("\ud800", "\\ud800"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),  # lines end there for some programs
        ("e\u0301 שלום 🙂", "e\u0301 שלום 🙂"),  # combining, right to left, emoji: as they are
    ],
)
def test_by_hand(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_newlines_stay_if_asked() -> None:
    assert harmless("a\nb\r", newlines=True) == "a\nb\\r"


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    assert harmless("x" * 1500, limit=3) == "xxx … (1,497 more characters)"
    assert harmless("xxx", limit=3) == "xxx"


def test_ten_megabytes_are_shown_in_bounded_memory() -> None:
    text = "\x1b" * 10_000_000
    tracemalloc.start()
    assert len(harmless(text, limit=100)) < 500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@settings(max_examples=200)
@given(st.text(st.sampled_from("[]/abold red#1"), max_size=30))
def test_rich_markup_in_model_text_is_literal(text: str) -> None:
    """What the commands print: `escape(harmless(text))`."""
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(escape(harmless(text)), highlight=False, end="")
    assert out.getvalue() == text


def test_any_pair_of_bytes_can_be_shown() -> None:
    tokenizer = ByteTokenizer()
    for a in range(256):
        for b in range(256):
            shown = harmless(tokenizer.decode([a, b]))
            assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
