from __future__ import annotations

import base64
import html
import io
import json
import random
import sys
import time
import tracemalloc
import unicodedata
import urllib.parse
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from text_gym import ByteTokenizer
from text_gym.utils.display import escaped_output, harmless, json_line, plain_stream, without_secret
from text_gym.utils.terminal import SafeConsole

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


# Secrets

KEY = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40)
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda c: json.dumps(c)[1:-1],
    "JSON, slashes too": lambda c: json.dumps(c)[1:-1].replace("/", "\\/"),
    "JSON, twice": lambda c: json.dumps(json.dumps(c))[3:-3],
    "JSON, by number": lambda c: f"\\u{ord(c):04x}",
    "JSON, by number, capitals": lambda c: f"\\u{ord(c):04X}",
    "Python": lambda c: f"\\x{ord(c):02x}",
    "percent": lambda c: f"%{ord(c):02X}",
    "percent, small": lambda c: f"%{ord(c):02x}",
    "percent, twice": lambda c: f"%25{ord(c):02x}",
    "a URL": lambda c: urllib.parse.quote(c, safe=""),
    "HTML": html.escape,
    "HTML, by number": lambda c: f"&#{ord(c)};",
    "HTML, by hexadecimal number": lambda c: f"&#x{ord(c):02X};",
}


@settings(max_examples=200, deadline=None)
@given(KEY.filter(lambda k: "\\" not in k), st.randoms(use_true_random=False), st.text(max_size=5))
def test_a_secret_is_hidden_in_every_form_mixed_at_will(key: str, rng: random.Random, around: str) -> None:
    names = sorted(FORMS)
    quoted = "".join(FORMS[rng.choice(names)](c) for c in key)
    assert without_secret(f"{around}, {quoted}, {around}", key).count("[key]") >= 1
    assert quoted not in without_secret(f"{around}, {quoted}, {around}", key)


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_in_each_form(form: str) -> None:
    key = "sk-s3/cret+\"key'<&>=="
    assert without_secret("no key " + "".join(map(FORMS[form], key)), key) == "no key [key]"


@settings(max_examples=100, deadline=None)
@given(KEY.filter(lambda k: len(k) >= 12), st.binary(max_size=7), st.binary(max_size=7))
def test_a_secret_is_hidden_in_base64_wherever_it_stands(key: str, before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        coded = encode(before + key.encode() + after).decode()
        shown = without_secret(coded, key)
        assert "[key]" in shown
        # What is left does not give the key away.
        left = max(shown.split("[key]"), key=len).rstrip("=")
        assert len(left) <= 4 * (max(len(before), len(after)) // 3 + 2)
    assert without_secret(key.encode().hex().upper(), key) == "[key]"


def test_a_hostile_answer_does_not_make_hiding_slow() -> None:
    for key, part in product(
        ("s" * 40 + "!", "\\s" * 20 + "!"), ("\\", "%25", "&amp;#", "s", "&#0", "\\u0", "\\\\\\s")
    ):
        start = time.process_time()
        without_secret(part * (40_000 // len(part)), key)
        assert time.process_time() - start < 2, (key, part)


def test_texts_without_the_secret_stay_as_they_are() -> None:
    text = '{"quality": 5, "why": "100% \\\\ &amp; \\u00e9"}'
    assert without_secret(text, "sk-secret") == text == without_secret(text, "")


# What a command prints


def test_output_of_a_command_is_escaped_and_its_own_console_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sys.stdout
    with escaped_output():
        print("\x1b[31mred\r")
        print("\u202e", file=sys.stderr)
        sys.stdout.writelines(["a\x07", "\n"])
        assert plain_stream(sys.stdout) is before
        SafeConsole(force_terminal=True, color_system="standard").print(Text("\x1b[31mx\x9b", style="red"))
    assert sys.stdout is before
    shown = capsys.readouterr()
    assert shown.out == "\\x1b[31mred\\r\na\\x07\n\x1b[31m\\x1b[31mx\\x9b\x1b[0m\n"
    assert shown.err == "\\u202e\n"


def test_the_traceback_of_a_broken_command_is_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    with pytest.raises(RuntimeError) as error, escaped_output():
        raise RuntimeError("\x1b]0;title\x07")
    sys.excepthook(error.type, error.value, error.tb)
    assert capsys.readouterr().err.endswith("RuntimeError: \\x1b]0;title\\x07\n")


@settings(max_examples=100)
@given(HOSTILE)
def test_json_lines_are_safe_to_print_and_mean_the_same(text: str) -> None:
    line = json_line({"text": text, text: [text]})
    assert json.loads(line) == {"text": text, text: [text]}
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in line)


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
