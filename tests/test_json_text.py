"""JSON from elsewhere: read as the standard library reads it, or refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym.errors import ConfigError, DataError
from text_gym.json_text import DEEPEST, parse_json, read_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_what_json_can_say_is_read(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only), "here") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "here: not JSON"),
        ("[" * 20_000 + "]" * 20_000, f"here: nested deeper than {DEEPEST} levels"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested deeper"),
        (r'{"a": "\ud800"}', "here: holds the lone surrogate"),
        (r'{"\udfff": 1}', "lone surrogate"),
    ],
)
def test_what_it_cannot_say_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_json(text, "here", ConfigError, "look at it")


def test_a_hundred_levels_and_pairs_of_surrogates_are_fine() -> None:
    assert json.dumps(parse_json("[" * DEEPEST + "]" * DEEPEST, "here")).count("[") == DEEPEST
    assert parse_json(r'"\ud83d\ude00"', "here") == "😀"


@pytest.mark.parametrize(
    ("content", "said"), [(b"[1]", "holds a list"), (b"\xff", "cannot be read"), (None, "cannot be read")]
)
def test_a_file_that_holds_no_object(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=f"file.json.*{said}"):
        read_object(file)
