"""Files that are nearly right: good content with a few values or bytes of it changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from text_gym.errors import TextGymError

# Text that has a UTF-8, with what ends lines in some places and not in others.
TEXTS = st.lists(
    st.sampled_from(
        ["\u2028", "\u2029", "\x85", "\r", "\n", "\0", "\ufeff", "\x1b[31m", '"', "\\", ",", "\t"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=5,
).map("".join)
NUMBERS = (
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, 5e-324]) | st.integers()
)
ATOMS = (
    st.none() | st.booleans() | NUMBERS | st.floats() | st.sampled_from(["", "1", "\ud800", "nan"]) | TEXTS
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
SPLICES = [
    b"\xff", b"\xc3", b"\0", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xed\xa0\x80", b'"', b"\\", b"\\ud800",
    b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"null", b"NaN", b"-Infinity", b"1e999",
    b"-", b"9" * 5000, b"[" * 3000, b'{"a":' * 150, b"//", b"'", b"\t", b" ",
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, ...]]:
    """All places inside a JSON value: the keys and indices that lead to them."""
    if not isinstance(value, (dict, list)):
        return []
    steps = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [place for s in steps for place in [(s,), *((s, *rest) for rest in places(value[s]))]]


@st.composite
def damaged(draw: st.DrawFn, good: Any) -> Any:
    """A JSON value like a good one in which up to three things are changed, missing, renamed or moved."""
    value = deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        known = places(value)
        if not known:
            break
        *way, last = draw(st.sampled_from(known))
        inside = value
        for step in way:
            inside = inside[step]
        change = draw(
            st.sampled_from(["another value", "another value", "gone", "renamed", "from elsewhere"])
        )
        if change == "another value":
            inside[last] = draw(VALUES)
        elif change == "gone":
            del inside[last]
        elif change == "from elsewhere":
            found = value
            for step in draw(st.sampled_from(known)):
                found = found[step]
            inside[last] = deepcopy(found)
        elif isinstance(inside, dict):
            inside[draw(TEXTS)] = inside.pop(last)
        else:
            inside.insert(last, draw(VALUES))
    return value


@st.composite
def damaged_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes like good ones, a few of them cut, flipped, doubled or replaced."""
    content = good
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        kind = draw(st.sampled_from(["cut", "flip", "splice", "drop", "double"]))
        if kind == "cut":
            content = content[:end]
        elif kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
        elif kind == "splice":
            content = content[:at] + draw(st.sampled_from(SPLICES)) + content[at:]
        elif kind == "drop":
            content = content[:at] + content[min(end, at + 20) :]
        elif kind == "double":
            content = content[:end] + content[at:end][:200] + content[end:]
    return content


def lines_of(rows: list[Any]) -> bytes:
    """JSON lines, as any program might write them: NaN and lone surrogates are written out."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_or_refused(read: Callable[[Path], Any], file: Path) -> bool:
    """Read a file; return False if it was refused, which only our own errors may do, and with a word."""
    try:
        read(file)
    except TextGymError as error:
        said = str(error)
    else:
        return True
    assert said.strip()
    return False
