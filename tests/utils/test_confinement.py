"""The inside of the sandbox as functions; what it keeps from happening is tried in `test_sandbox`."""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym.utils.confinement import described, receive, send, unavailable

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@given(message=PLAIN, data=st.binary(max_size=200))
def test_messages_arrive_as_they_were(pipe: tuple[int, int], message: Any, data: bytes) -> None:
    reading, writing = pipe
    send(writing, message, data)
    send(writing, "the next one")
    assert receive(reading) == (message, data)
    assert receive(reading) == ("the next one", b"")


def test_messages_that_json_does_not_know_arrive_too(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    send(writing, ["\ud800", math.inf, -math.inf, math.nan, 10**4000])
    (surrogate, high, low, none, large), _ = receive(reading)
    assert (surrogate, high, low, large) == ("\ud800", math.inf, -math.inf, 10**4000)
    assert math.isnan(none)


def test_an_answer_that_is_too_long_is_not_even_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, struct.pack(">II", 2**31, 2**31))  # it only says that it is long
    with pytest.raises(ValueError, match=r"4,294,967,296 bytes; at most 1,000"):
        receive(reading, most=1000)
    os.close(writing)
    with pytest.raises(EOFError):
        receive(reading)
    os.close(reading)


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_error_becomes_plain_data(tmp_path: Path) -> None:
    found = described(raised((tmp_path / "none").read_text))
    assert found["types"] == [
        *("builtins.FileNotFoundError", "builtins.OSError", "builtins.Exception"),
        *("builtins.BaseException", "builtins.object"),
    ]
    assert found["errno"] == 2
    assert str(tmp_path) in found["message"]
    assert Path(found["place"].rpartition(":")[0]) == Path(__file__)


def test_an_error_may_lie_about_itself_but_not_break_out() -> None:
    class LyingError(Exception):
        def __str__(self) -> str:
            raise SystemExit("no")

    class LongError(Exception):
        def __str__(self) -> str:
            return "x" * 10**6

    assert described(LyingError()) == {
        "types": ["builtins.Exception"],
        "message": "(unreadable)",
        "errno": None,
        "place": "",
    }
    assert len(described(LongError())["message"]) == 4000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the full sandbox is Linux's")
@pytest.mark.skipif(bool(unavailable()), reason=f"this machine cannot limit {sorted(unavailable())}")
def test_what_a_platform_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable() == {}
    monkeypatch.setitem(sys.modules, "landlock", None)
    assert set(unavailable()) == {"files"}
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert set(unavailable()) == {"files", "network", "processes", "signals"}
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "this is darwin" in unavailable()["death with the parent"]
    assert set(unavailable()) >= {"memory", "files", "network", "processes", "signals"}
