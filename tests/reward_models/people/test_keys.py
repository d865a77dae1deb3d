from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import text_gym.reward_models.people.keys as keys_module
from text_gym.errors import ConfigError
from text_gym.reward_models.people.keys import PASTE, LineKeys, TerminalKeys, standard_keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, TerminalKeys]]:
    """The end of a person, and the keys that the program reads."""
    person, program = pytest.importorskip("pty").openpty()
    with TerminalKeys(program) as keys:
        yield person, keys
    os.close(person)
    os.close(program)


def read_all(keys: TerminalKeys, count: int) -> list[str]:
    return [key for _ in range(count) for key in keys.read()]


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"5", ["5"]),
        (b"543", ["5", "4", "3"]),
        (b"\x1b[D\x1b[C\x1bOD", ["left", "right", "left"]),
        (b"\x1b[A5", ["5"]),  # an arrow that means nothing here
        (b"\x1b]0;title\x075", ["5"]),
        (b"\x1b5q", ["q"]),  # Alt and a key
        (b"\x03\x04\x1a", ["\x03", "\x04", "\x1a"]),
        (b"\x1b[200~1 2 3\n\x1b[201~4", [PASTE, "4"]),
        (b"\x1b\x1b[200~12\x1b[201~4", [PASTE, "4"]),
        ("é".encode(), ["é"]),
        (b"\xff", ["\ufffd"]),
        (b"5" * 17, [PASTE]),
    ],
)
def test_what_keys_become(terminal: tuple[int, TerminalKeys], typed: bytes, keys: list[str]) -> None:
    person, program = terminal
    os.write(person, typed)
    assert read_all(program, len(keys)) == keys


def test_a_large_paste_is_one_and_answers_nothing(terminal: tuple[int, TerminalKeys]) -> None:
    person, program = terminal
    program.discard()
    os.write(person, b"5" * 3000)
    assert program.read() == [PASTE]
    os.write(person, b"3")
    assert program.read() == ["3"]


def test_a_sequence_that_comes_in_pieces(terminal: tuple[int, TerminalKeys]) -> None:
    person, program = terminal
    os.write(person, b"\x1b[200~12")
    assert not program._split(program._chunk())
    os.write(person, b"34\x1b[2")
    assert not program._split(program._chunk() + "01~")[:-1]
    os.write(person, b"5")
    assert program.read() == ["5"]


def test_ctrl_c_works_in_a_paste_that_never_ends(terminal: tuple[int, TerminalKeys]) -> None:
    person, program = terminal
    program._waiting.extend(program._split("\x1b[200~55"))
    os.write(person, b"\x03")
    assert program.read() == ["\x03"]


def test_type_ahead_is_dropped(terminal: tuple[int, TerminalKeys]) -> None:
    person, program = terminal
    os.write(person, b"12")
    assert program.read() == ["1"]
    os.write(person, b"3")
    program.discard()
    os.write(person, b"4")
    assert program.read() == ["4"]


def test_the_terminal_is_put_back_as_it_was() -> None:
    person, program = pytest.importorskip("pty").openpty()
    termios = pytest.importorskip("termios")
    before = termios.tcgetattr(program)
    keys = TerminalKeys(program, program)

    def fail() -> None:
        with keys:
            assert not termios.tcgetattr(program)[3] & (termios.ICANON | termios.ECHO)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert termios.tcgetattr(program) == before
    shown = b""
    while len(shown) < 16:  # a terminal hands on what was written in as many pieces as it likes
        shown += os.read(person, 100)
    assert shown == b"\x1b[?2004h\x1b[?2004l"


def test_a_closed_terminal_is_the_end() -> None:
    person, program = pytest.importorskip("pty").openpty()
    keys = TerminalKeys(program)
    with keys:
        os.close(person)
        with pytest.raises(EOFError):
            keys.read()


def test_lines() -> None:
    keys = LineKeys(io.BytesIO(b"5 4  3\r\n\nskip\n\xff\nlast"))
    with keys:
        assert [keys.read() for _ in range(5)] == [["5", "4", "3"], [], ["skip"], ["\ufffd"], ["last"]]
        keys.discard()
        with pytest.raises(EOFError):
            keys.read()


@pytest.mark.parametrize("line", [b"5" * 1_000_000, b"5 " * 500_000, b"5 " * 17])
def test_long_lines_are_no_answers(line: bytes) -> None:
    keys = LineKeys(io.BytesIO(line + b"\n4\n"))
    assert keys.read() == [PASTE]
    assert keys.read() == ["4"]


@given(st.binary(max_size=16))
def test_any_bytes_are_read_as_some_keys(content: bytes) -> None:
    keys = TerminalKeys(-1)
    found = keys._split(content.decode("utf-8", "replace").replace("\x1b[200~", ""))
    assert all(k == PASTE or k in ("left", "right") or len(k) == 1 for k in found)
    assert "\x1b" not in found


def test_as_on_windows_a_terminal_gives_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(b"4 5\n"))
    monkeypatch.setattr(terminal, "fileno", lambda: 0, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("os.isatty", lambda descriptor: True)
    monkeypatch.setattr(keys_module, "termios", None)
    with standard_keys() as keys:
        assert isinstance(keys, LineKeys)
        assert keys.read() == ["4", "5"]


def test_input_without_bytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("4\n"))
    with pytest.raises(ConfigError, match=r"which is StringIO here; .* ask on a page \(--web\)"):
        standard_keys()
